// OLMo 2 and OLMoE: an RMSNorm over the whole width of q and of k, all heads together, before they
// are split. OLMo 2 has no norm before its blocks, only one on each block's result. OLMoE has them
// before, experts of intermediate_size in every layer, and clip_qkv as a limit on q, k and v.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigClass olmo2_class{
    .name = "Olmo2Config",
    .defaults = R"({
    "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": null, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    "attention_bias": false, "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
};

constexpr tcast::ConfigKeyName olmoe_names[] = {
    {"num_local_experts", "num_experts"},
};
constexpr tcast::ConfigClass olmoe_class{
    .name = "OlmoeConfig",
    .defaults = R"({
    "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": null, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    "attention_bias": false, "clip_qkv": null, "num_experts": 64, "num_experts_per_tok": 8,
    "norm_topk_prob": false, "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .attribute_map = olmoe_names,
};

tcast::DecoderSpec read_olmo(const tcast::ArchitectureContext& context, const char* prefix) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix);
  spec.qk_norm = true;
  spec.qk_norm_whole = true;
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  return spec;
}

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(olmo2_class, "olmo2");
TCAST_REGISTER_CONFIG_CLASS(olmoe_class, "olmoe");

TCAST_REGISTER_ARCHITECTURE("olmo2")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = read_olmo(context, "Olmo2");
  spec.layer_names.attention_norm = "";
  spec.layer_names.attention_out_norm = "post_attention_layernorm";
  spec.layer_names.mlp_norm = "";
  spec.layer_names.mlp_out_norm = "post_feedforward_layernorm";
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("olmoe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = read_olmo(context, "Olmoe");
  spec.clip_qkv = tcast::read_positive(config, "clip_qkv");
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.block_class = "OlmoeSparseMoeBlock";
  moe.intermediate_size = spec.intermediate_size;
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
