// SmolLM3: Llama whose every fourth layer has no rotary embedding (no_rope_layers holds a 0 for it,
// or no_rope_layer_interval says how far apart such layers are). With use_sliding_window, these are
// the layers that have a window.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("smollm3")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 4;
  defaults.rope_theta = 2e6;
  defaults.tie_word_embeddings = true;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "SmolLM3", defaults);
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  spec.mlp_bias = config.get_or<bool>("mlp_bias", false);

  const auto layers = static_cast<std::size_t>(spec.num_hidden_layers);
  const auto rotate = config.find<std::vector<std::int64_t>>("no_rope_layers");
  const std::int64_t interval = config.get_size_or("no_rope_layer_interval", 4);
  if (rotate && rotate->size() < layers) {
    config.fail("no_rope_layers", std::to_string(rotate->size()) + " entries for " +
                                      std::to_string(layers) + " layers");
  }
  for (std::size_t i = 0; i < layers; ++i) {
    spec.rotary_layers.push_back(rotate ? (*rotate)[i] != 0
                                        : (static_cast<std::int64_t>(i) + 1) % interval != 0);
  }
  if (config.get_or<bool>("use_sliding_window", false)) {
    spec.sliding_window = config.get_size_or("sliding_window", 0);
    spec.window_layers = spec.rotary_layers;
    spec.window_layers.flip();
    if (auto sliding = tcast::sliding_layers(context, spec)) spec.window_layers = *sliding;
  }
  return tcast::build_decoder(std::move(spec), context);
}
