// Phi-3 and Phi-4: Llama with one projection for q, k and v and one for gate and up. Long contexts
// come by longrope, a list of factors for the frequencies up to the length trained for and one
// beyond; Phi-4-mini rotates three quarters of each head.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("phi3")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderDefaults defaults;
  defaults.norm_epsilon = 1e-5;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Phi3", defaults);
  if (spec.rope.type != "default" && spec.rope.type != "longrope") {
    config.fail("rope_scaling", "this model type has longrope or nothing, not '" +
                                    tcast::printable(spec.rope.type) + "'");
  }
  spec.rotary_fraction = tcast::read_rotary_fraction(config, 1);
  spec.sliding_window = config.get_size_or("sliding_window", 0);
  spec.attention_names.qkv = "qkv_proj";
  spec.mlp_names.gate_up = "gate_up_proj";
  return tcast::build_decoder(std::move(spec), context);
}
