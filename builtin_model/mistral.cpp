// Mistral: Llama without any bias and, if sliding_window is a number, with a window in every layer.
// A config that leaves the key out means 4096; null means full attention.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::HarmlessKey mistral_harmless[] = {
    {"attention_bias", "false", "transformers reads no such key; the layers have no bias"},
    {"mlp_bias", "false", "transformers reads no such key; the layers have no bias"},
};
constexpr tcast::ConfigClass mistral_class{
    .name = "MistralConfig",
    .defaults = R"({
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    "sliding_window": 4096, "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .harmless = mistral_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(mistral_class, "mistral");

TCAST_REGISTER_ARCHITECTURE("mistral")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Mistral");
  spec.sliding_window = context.config.get_size_or("sliding_window", 0);
  return tcast::build_decoder(std::move(spec), context);
}
