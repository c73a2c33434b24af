// StarCoder2: LayerNorm, a plain feed-forward block (c_fc, GELU, c_proj), few key-value heads;
// use_bias puts a bias on every projection but the head, which is tied; one window for all layers.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigKeyName starcoder2_asked[] = {
    {"rms_norm_eps", "norm_epsilon"},
};
constexpr tcast::HarmlessKey starcoder2_harmless[] = {
    {"mlp_type", "\"default\"", "a plain feed-forward block"},
    {"norm_type", "\"layer_norm\"", "the norms are LayerNorms"},
};
constexpr tcast::ConfigClass starcoder2_class{
    .name = "Starcoder2Config",
    .defaults = R"({
    "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
    "num_attention_heads": 24, "num_key_value_heads": 2, "head_dim": null,
    "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 4096, "norm_epsilon": 1e-5,
    "tie_word_embeddings": true, "use_bias": true, "sliding_window": null, "rope_theta": 10000,
    "rope_scaling": null, "rope_parameters": null})",
    .asked_as = starcoder2_asked,
    .harmless = starcoder2_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(starcoder2_class, "starcoder2");

TCAST_REGISTER_ARCHITECTURE("starcoder2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Starcoder2");
  spec.norm = tcast::NormKind::layer;
  spec.qkv_bias = config.get_or<bool>("use_bias", false);
  spec.output_bias = spec.qkv_bias;
  spec.mlp_bias = spec.qkv_bias;
  spec.sliding_window = config.get_size_or("sliding_window", 0);
  spec.mlp_names = {"", "c_fc", "c_proj", ""};
  return tcast::build_decoder(std::move(spec), context);
}
