// GLM-4 (0414) and GLM-4.5 (glm4_moe): half of each head is rotated. glm4 has a norm before and
// after each block, turns neighbouring elements, and has one projection for gate and up. glm4_moe
// turns halves, has first_k_dense_replace dense layers, then experts with shared ones beside them,
// routed as in DeepSeek-V3: sigmoid scores, a correction bias, groups. attention_bias is on q, k
// and v alone.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigClass glm4_class{
    .name = "Glm4Config",
    .defaults = R"({
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "tie_word_embeddings": false,
    "attention_bias": true, "partial_rotary_factor": 0.5, "rope_theta": 10000,
    "rope_scaling": null, "rope_parameters": null})",
};

constexpr tcast::ConfigKeyName glm4_moe_names[] = {
    {"num_local_experts", "n_routed_experts"},
    {"num_mtp_layers", "num_nextn_predict_layers"},
};
constexpr tcast::ConfigClass glm4_moe_class{
    .name = "Glm4MoeConfig",
    .defaults = R"({
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
    "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    "attention_bias": false, "partial_rotary_factor": 0.5, "use_qk_norm": false,
    "moe_intermediate_size": 1408, "num_experts_per_tok": 8, "n_routed_experts": 128,
    "n_shared_experts": 1, "routed_scaling_factor": 1, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "norm_topk_prob": true, "num_nextn_predict_layers": null,
    "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .attribute_map = glm4_moe_names,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(glm4_class, "glm4");
TCAST_REGISTER_CONFIG_CLASS(glm4_moe_class, "glm4_moe");

TCAST_REGISTER_ARCHITECTURE("glm4")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Glm4");
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.rotary_fraction = tcast::read_rotary_fraction(context.config);
  spec.rotary_interleaved = true;
  spec.layer_names.attention_out_norm = "post_self_attn_layernorm";
  spec.layer_names.mlp_out_norm = "post_mlp_layernorm";
  spec.mlp_names.gate_up = "gate_up_proj";
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("glm4_moe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Glm4Moe");
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.qk_norm = config.get_or<bool>("use_qk_norm", false);
  spec.rotary_fraction = tcast::read_rotary_fraction(config);

  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.block_class = "Glm4MoeMoE";
  moe.router_class = "Glm4MoeTopkRouter";
  moe.intermediate_size = config.get_size("moe_intermediate_size");
  moe.shared_intermediate_size =
      tcast::checked_mul(moe.intermediate_size, config.get_or<std::int64_t>("n_shared_experts", 0),
                         "n_shared_experts");
  moe.routing.score = tcast::RouterScore::sigmoid;
  moe.routing.correction_bias = true;
  moe.routing.groups = config.get_size("n_group");
  moe.routing.topk_groups = config.get_size("topk_group");
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  moe.routing.scale = config.get_or<double>("routed_scaling_factor", 1);
  tcast::set_dense_layers(moe, config.get_or<std::int64_t>("first_k_dense_replace", 0));
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
