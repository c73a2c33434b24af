// StarCoder2: LayerNorm, a plain feed-forward block (c_fc, GELU, c_proj), few key-value heads;
// use_bias puts a bias on every projection but the head, which is tied; one window for all layers.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("starcoder2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 2;
  defaults.norm_epsilon = 1e-5;
  defaults.activation = "gelu_pytorch_tanh";
  defaults.tie_word_embeddings = true;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Starcoder2", defaults);
  spec.norm = tcast::NormKind::layer;
  spec.qkv_bias = config.get_or<bool>("use_bias", true);
  spec.output_bias = spec.qkv_bias;
  spec.mlp_bias = spec.qkv_bias;
  spec.sliding_window = config.get_size_or("sliding_window", 0);
  spec.mlp_names = {"", "c_fc", "c_proj", ""};
  return tcast::build_decoder(std::move(spec), context);
}
