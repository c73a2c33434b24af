// GPT-2: learned position embeddings are added to those of the tokens, nothing is rotated;
// LayerNorm with a bias, one projection for q, k and v, a plain feed-forward block of 4 x
// hidden_size unless n_inner says otherwise; weights stored as [in, out] (Conv1D), a tied head.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("gpt2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  if (config.get_or<bool>("add_cross_attention", false)) {
    config.fail("add_cross_attention", "attention to an encoder is not supported");
  }
  tcast::DecoderDefaults defaults;
  defaults.norm_epsilon = 1e-5;
  defaults.activation = "gelu_new";
  defaults.activation_key = "activation_function";
  defaults.tie_word_embeddings = true;
  defaults.intermediate_ratio = 4;
  defaults.grouped_heads = false;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "GPT2", defaults);
  spec.norm = tcast::NormKind::layer;
  spec.position_embeddings = config.get_size_or("n_positions", 1024);
  spec.rotary_fraction = 0;
  if (!config.get_or<bool>("scale_attn_weights", true)) spec.attention_scale = 1;
  spec.scale_by_layer = config.get_or<bool>("scale_attn_by_inverse_layer_idx", false);
  spec.transposed_linears = true;
  spec.qkv_bias = true;
  spec.output_bias = true;
  spec.mlp_bias = true;
  spec.classes = {"LMHeadModel", "Model", "Block", ""};
  spec.names.model = "transformer";
  spec.names.embeddings = "wte";
  spec.names.positions = "wpe";
  spec.names.layers = "h";
  spec.names.norm = "ln_f";
  spec.layer_names.attention = "attn";
  spec.layer_names.attention_norm = "ln_1";
  spec.layer_names.mlp_norm = "ln_2";
  spec.attention_names.qkv = "c_attn";
  spec.attention_names.o_proj = "c_proj";
  spec.mlp_names = {"", "c_fc", "c_proj", ""};
  return tcast::build_decoder(std::move(spec), context);
}
