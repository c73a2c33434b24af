// Phi (Phi-1, 1.5, 2): attention and a plain feed-forward block (fc1, GELU, fc2) side by side, both
// reading the one LayerNorm of their layer; part of each head is rotated; a bias everywhere, on the
// head too. qk_layernorm puts a LayerNorm on each head of q and k.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigKeyName phi_asked[] = {
    {"rms_norm_eps", "layer_norm_eps"},
};
constexpr tcast::HarmlessKey phi_harmless[] = {
    {"attention_bias", "", "transformers reads no such key; every projection has a bias"},
    {"rotary_dim", "", "transformers reads partial_rotary_factor"},
};
constexpr tcast::ConfigClass phi_class{
    .name = "PhiConfig",
    .defaults = R"({
    "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": null, "head_dim": null,
    "hidden_act": "gelu_new", "max_position_embeddings": 2048, "layer_norm_eps": 1e-5,
    "tie_word_embeddings": false, "partial_rotary_factor": 0.5, "qk_layernorm": false,
    "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .asked_as = phi_asked,
    .harmless = phi_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(phi_class, "phi");

TCAST_REGISTER_ARCHITECTURE("phi")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Phi");
  spec.norm = tcast::NormKind::layer;
  spec.parallel_blocks = true;
  spec.qkv_bias = true;
  spec.output_bias = true;
  spec.mlp_bias = true;
  spec.head_bias = true;
  spec.rotary_fraction = tcast::read_rotary_fraction(context.config);
  spec.qk_norm = context.config.get_or<bool>("qk_layernorm", false);
  spec.names.norm = "final_layernorm";
  spec.layer_names.mlp_norm = "";
  spec.attention_names.o_proj = "dense";
  spec.attention_names.q_norm = "q_layernorm";
  spec.attention_names.k_norm = "k_layernorm";
  spec.mlp_names = {"", "fc1", "fc2", ""};
  return tcast::build_decoder(std::move(spec), context);
}
