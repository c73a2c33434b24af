// gpt-oss: attention sinks (one more score per head, which only takes part in the softmax), a
// window in every other layer, YaRN by default; experts in every layer, stored together with a bias
// each, gate and up outputs taking turns, clamped SwiGLU; the router has a bias and its softmax
// runs over the chosen experts, which is the same as normalizing their shares.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("gpt_oss")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  constexpr double activation_limit = 7;
  for (const auto& [key, value] : {std::pair{"swiglu_alpha", tcast::clamped_swiglu_alpha},
                                   std::pair{"swiglu_limit", activation_limit}}) {
    if (config.get_or<double>(key, value) != value) {
      config.fail(key, "this model type's activation has other constants");
    }
  }
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 8;
  defaults.head_dim = 64;
  defaults.norm_epsilon = 1e-5;
  defaults.rope_theta = 150000;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "GptOss", defaults);
  if (!config.has("rope_scaling") && !config.has("rope_parameters")) {
    spec.rope.type = "yarn";
    spec.rope.factor = 32;
    spec.rope.truncate = false;
    spec.rope.original_max_position_embeddings = 4096;
  }
  spec.qkv_bias = config.get_or<bool>("attention_bias", true);
  spec.output_bias = spec.qkv_bias;
  spec.sinks = true;
  tcast::read_alternating_windows(context, spec, 128, 2);

  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "num_local_experts", 4, 128);
  moe.block_class = "GptOssMLP";
  moe.router_class = "GptOssTopKRouter";
  moe.expert_class = "GptOssExperts";
  moe.fused = true;
  moe.activation_limit = activation_limit;
  moe.router_bias = true;
  moe.intermediate_size = spec.intermediate_size;
  moe.routing.normalize = true;
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
