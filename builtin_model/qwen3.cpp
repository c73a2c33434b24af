// Qwen3, dense and mixture of experts: an RMSNorm on each head of q and k before the rotary
// embedding, no bias unless attention_bias asks for it on all four projections. head_dim is a size
// of its own.
#include "tcast/custom_model.h"

namespace {

tcast::DecoderSpec read_qwen3(const tcast::ArchitectureContext& context, const char* prefix,
                              const tcast::DecoderDefaults& defaults) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix, defaults);
  spec.qk_norm = true;
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  return spec;
}

}  // namespace

TCAST_REGISTER_ARCHITECTURE("qwen3")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 32;
  defaults.head_dim = 128;
  tcast::DecoderSpec spec = read_qwen3(context, "Qwen3", defaults);
  tcast::read_layer_windows(context, spec);
  return tcast::build_decoder(std::move(spec), context);
}

// A layer has experts when its 1-based index is a multiple of decoder_sparse_step and it is not
// named in mlp_only_layers; softmax over all experts, weights renormalized if norm_topk_prob.
TCAST_REGISTER_ARCHITECTURE("qwen3_moe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 4;
  tcast::DecoderSpec spec = read_qwen3(context, "Qwen3Moe", defaults);
  if (config.get_or<bool>("use_sliding_window", false)) {
    spec.sliding_window =
        config.get_size_or("sliding_window", config.is_null("sliding_window") ? 0 : 4096);
  }
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "num_experts", 8);
  moe.block_class = "Qwen3MoeSparseMoeBlock";
  moe.intermediate_size = config.get_size_or("moe_intermediate_size", 768);
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  tcast::read_sparse_layers(context, moe);
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
