// Qwen2, Qwen2.5 and Qwen1.5-MoE / Qwen2-MoE: Llama with a bias on q, k and v and none on the
// output projection. With use_sliding_window, layers from max_window_layers on have a window (or
// those that layer_types says). qwen2_moe puts experts beside one shared expert, whose result a
// sigmoid gate weights; its windows are those of every other layer before max_window_layers.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("qwen2")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 32;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Qwen2", defaults);
  spec.qkv_bias = true;
  tcast::read_layer_windows(context, spec);
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("qwen2_moe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 16;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Qwen2Moe", defaults);
  spec.qkv_bias = config.get_or<bool>("qkv_bias", true);
  if (config.get_or<bool>("use_sliding_window", false)) {
    tcast::read_alternating_windows(context, spec, 4096, 2);
    const auto end = config.get_or<std::int64_t>("max_window_layers", 28);
    if (!config.has("layer_types")) {
      for (std::size_t i = 0; i < spec.window_layers.size(); ++i) {
        if (static_cast<std::int64_t>(i) >= end) spec.window_layers[i] = false;
      }
    }
  }
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "num_experts", 4, 60);
  moe.block_class = "Qwen2MoeSparseMoeBlock";
  moe.intermediate_size = config.get_size_or("moe_intermediate_size", 1408);
  moe.shared_intermediate_size = config.get_size_or("shared_expert_intermediate_size", 5632);
  moe.shared_gate = true;
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  tcast::read_sparse_layers(context, moe);
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
