// OLMo 2 and OLMoE: an RMSNorm over the whole width of q and of k, all heads together, before they
// are split. OLMo 2 has no norm before its blocks, only one on each block's result. OLMoE has them
// before, experts of intermediate_size in every layer, and clip_qkv as a limit on q, k and v.
#include "tcast/custom_model.h"

namespace {

tcast::DecoderSpec read_olmo(const tcast::ArchitectureContext& context, const char* prefix) {
  tcast::DecoderDefaults defaults;
  defaults.norm_epsilon = 1e-5;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix, defaults);
  spec.qk_norm = true;
  spec.qk_norm_whole = true;
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  return spec;
}

}  // namespace

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
  spec.clip_qkv = tcast::read_limit(config, "clip_qkv", 0);
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "num_experts", 8, 64);
  moe.block_class = "OlmoeSparseMoeBlock";
  moe.intermediate_size = spec.intermediate_size;
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
