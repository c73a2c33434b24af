// GLM-4 (0414) and GLM-4.5 (glm4_moe): half of each head is rotated. glm4 has a norm before and
// after each block, turns neighbouring elements, and has one projection for gate and up. glm4_moe
// turns halves, has first_k_dense_replace dense layers, then experts with shared ones beside them,
// routed as in DeepSeek-V3: sigmoid scores, a correction bias, groups. attention_bias is on q, k
// and v alone.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("glm4")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 2;
  defaults.head_dim = 128;
  defaults.norm_epsilon = 1.5625e-7;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Glm4", defaults);
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", true);
  spec.rotary_fraction = tcast::read_rotary_fraction(context.config, 0.5);
  spec.rotary_interleaved = true;
  spec.layer_names.attention_out_norm = "post_self_attn_layernorm";
  spec.layer_names.mlp_out_norm = "post_mlp_layernorm";
  spec.mlp_names.gate_up = "gate_up_proj";
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("glm4_moe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 8;
  defaults.norm_epsilon = 1e-5;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Glm4Moe", defaults);
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.qk_norm = config.get_or<bool>("use_qk_norm", false);
  spec.rotary_fraction = tcast::read_rotary_fraction(config, 0.5);

  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "n_routed_experts", 8, 128);
  moe.block_class = "Glm4MoeMoE";
  moe.router_class = "Glm4MoeTopkRouter";
  moe.intermediate_size = config.get_size_or("moe_intermediate_size", 1408);
  moe.shared_intermediate_size =
      tcast::checked_mul(moe.intermediate_size, config.get_or<std::int64_t>("n_shared_experts", 1),
                         "n_shared_experts");
  moe.routing.score = tcast::RouterScore::sigmoid;
  moe.routing.correction_bias = true;
  moe.routing.groups = config.get_size_or("n_group", 1);
  moe.routing.topk_groups = config.get_size_or("topk_group", 1);
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", true);
  moe.routing.scale = config.get_or<double>("routed_scaling_factor", 1);
  tcast::set_dense_layers(moe, config.get_or<std::int64_t>("first_k_dense_replace", 1));
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
