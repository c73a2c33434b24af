// Phi-3 and Phi-4: Llama with one projection for q, k and v and one for gate and up. Long contexts
// come by longrope, a list of factors for the frequencies up to the length trained for and one
// beyond; Phi-4-mini rotates three quarters of each head.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::HarmlessKey phi3_harmless[] = {
    {"attention_bias", "false", "transformers reads no such key; the layers have no bias"},
    {"mlp_bias", "false", "transformers reads no such key; the layers have no bias"},
    {"lm_head_bias", "false", "the head has no bias"},
    {"full_attn_mod", "1", "every layer has full attention"},
    {"interpolate_factor", "1", "positions are not interpolated"},
};
constexpr tcast::ConfigClass phi3_class{
    .name = "Phi3Config",
    .defaults = R"({
    "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": null, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    "partial_rotary_factor": 1, "original_max_position_embeddings": 4096, "sliding_window": null,
    "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .harmless = phi3_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(phi3_class, "phi3");

TCAST_REGISTER_ARCHITECTURE("phi3")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Phi3");
  if (spec.rope.type != "default" && spec.rope.type != "longrope") {
    config.fail("rope_scaling", "this model type has longrope or nothing, not '" +
                                    tcast::printable(spec.rope.type) + "'");
  }
  spec.rotary_fraction = tcast::read_rotary_fraction(config);
  spec.sliding_window = config.get_size_or("sliding_window", 0);
  spec.attention_names.qkv = "qkv_proj";
  spec.mlp_names.gate_up = "gate_up_proj";
  return tcast::build_decoder(std::move(spec), context);
}
