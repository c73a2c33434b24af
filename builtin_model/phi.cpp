// Phi (Phi-1, 1.5, 2): attention and a plain feed-forward block (fc1, GELU, fc2) side by side, both
// reading the one LayerNorm of their layer; part of each head is rotated; a bias everywhere, on the
// head too. qk_layernorm puts a LayerNorm on each head of q and k.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("phi")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderDefaults defaults;
  defaults.norm_epsilon = 1e-5;
  defaults.activation = "gelu_new";
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Phi", defaults);
  spec.norm = tcast::NormKind::layer;
  spec.parallel_blocks = true;
  spec.qkv_bias = true;
  spec.output_bias = true;
  spec.mlp_bias = true;
  spec.head_bias = true;
  spec.rotary_fraction = tcast::read_rotary_fraction(context.config, 0.5);
  spec.qk_norm = context.config.get_or<bool>("qk_layernorm", false);
  spec.names.norm = "final_layernorm";
  spec.layer_names.mlp_norm = "";
  spec.attention_names.o_proj = "dense";
  spec.attention_names.q_norm = "q_layernorm";
  spec.attention_names.k_norm = "k_layernorm";
  spec.mlp_names = {"", "fc1", "fc2", ""};
  return tcast::build_decoder(std::move(spec), context);
}
