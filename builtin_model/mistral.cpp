// Mistral: Llama without any bias and, if sliding_window is a number, with a window in every layer.
// A config that leaves the key out means 4096; null means full attention.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("mistral")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 8;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Mistral", defaults);
  const bool absent =
      !context.config.has("sliding_window") && !context.config.is_null("sliding_window");
  spec.sliding_window = context.config.get_size_or("sliding_window", absent ? 4096 : 0);
  if (absent)
    context.assumptions.emplace_back("sliding_window is absent: 4096, as in MistralConfig");
  return tcast::build_decoder(std::move(spec), context);
}
