// Qwen2 and Qwen2.5: Llama with a bias on q, k and v, always, and none on the output projection.
// With use_sliding_window, layers from max_window_layers on have a window (or those that
// layer_types says).
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
