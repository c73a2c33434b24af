// SmolLM3: Llama whose every fourth layer has no rotary embedding (no_rope_layers holds a 0 for it,
// or no_rope_layer_interval says how far apart such layers are). Layers that layer_types calls
// sliding_attention have a window; without layer_types, with use_sliding_window, those that rotate
// nothing.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::HarmlessKey smollm3_harmless[] = {
    {"max_window_layers", "", "transformers reads no_rope_layers and layer_types"},
};
constexpr tcast::ConfigClass smollm3_class{
    .name = "SmolLM3Config",
    .defaults = R"({
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
    "attention_bias": false, "mlp_bias": false, "no_rope_layers": null,
    "no_rope_layer_interval": 4, "use_sliding_window": false, "sliding_window": null,
    "layer_types": null, "rope_theta": 2e6, "rope_scaling": null, "rope_parameters": null})",
    .harmless = smollm3_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(smollm3_class, "smollm3");

TCAST_REGISTER_ARCHITECTURE("smollm3")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "SmolLM3");
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  spec.mlp_bias = config.get_or<bool>("mlp_bias", false);

  const auto layers = static_cast<std::size_t>(spec.num_hidden_layers);
  const auto rotate = config.find<std::vector<std::int64_t>>("no_rope_layers");
  const std::int64_t interval = config.get_size("no_rope_layer_interval");
  if (rotate && rotate->size() < layers) {
    config.fail("no_rope_layers", std::to_string(rotate->size()) + " entries for " +
                                      std::to_string(layers) + " layers");
  }
  for (std::size_t i = 0; i < layers; ++i) {
    spec.rotary_layers.push_back(rotate ? (*rotate)[i] != 0
                                        : (static_cast<std::int64_t>(i) + 1) % interval != 0);
  }
  const auto sliding = tcast::sliding_layers(context, spec);
  spec.sliding_window = config.get_size_or("sliding_window", 0);
  spec.window_layers = spec.rotary_layers;
  spec.window_layers.flip();
  if (sliding) {
    spec.window_layers = *sliding;
  } else if (!config.get_or<bool>("use_sliding_window", false)) {
    spec.sliding_window = 0;
  }
  config.know({"use_sliding_window"});
  const bool any = sliding && std::find(sliding->begin(), sliding->end(), true) != sliding->end();
  if (any && spec.sliding_window == 0) {
    config.fail("sliding_window",
                "layer_types has layers with a window, of which nothing says "
                "how wide it is");
  }
  return tcast::build_decoder(std::move(spec), context);
}
