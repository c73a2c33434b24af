// GPT-2: learned position embeddings are added to those of the tokens, nothing is rotated;
// LayerNorm with a bias, one projection for q, k and v, a plain feed-forward block of 4 x
// hidden_size unless n_inner says otherwise; weights stored as [in, out] (Conv1D), a tied head.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigKeyName gpt2_names[] = {
    {"hidden_size", "n_embd"},
    {"max_position_embeddings", "n_positions"},
    {"num_attention_heads", "n_head"},
    {"num_hidden_layers", "n_layer"},
};
constexpr tcast::ConfigKeyName gpt2_asked[] = {
    {"hidden_act", "activation_function"},
    {"intermediate_size", "n_inner"},
    {"rms_norm_eps", "layer_norm_epsilon"},
};
constexpr tcast::HarmlessKey gpt2_harmless[] = {
    {"n_ctx", "", "transformers reads n_positions"},
    {"reorder_and_upcast_attn", "", "the precision of scores in training"},
    {"summary_*", "", "about a head for multiple choice"},
};
constexpr tcast::ConfigClass gpt2_class{
    .name = "GPT2Config",
    .defaults = R"({
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_inner": null, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": true, "scale_attn_weights": true,
    "scale_attn_by_inverse_layer_idx": false, "add_cross_attention": false})",
    .attribute_map = gpt2_names,
    .asked_as = gpt2_asked,
    .harmless = gpt2_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(gpt2_class, "gpt2");

TCAST_REGISTER_ARCHITECTURE("gpt2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  if (config.get_or<bool>("add_cross_attention", false)) {
    config.fail("add_cross_attention", "attention to an encoder is not supported");
  }
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "GPT2", /*intermediate_ratio=*/4);
  spec.norm = tcast::NormKind::layer;
  spec.position_embeddings = config.get_size("n_positions");
  spec.rotary_fraction = 0;
  if (!config.get_or<bool>("scale_attn_weights", true)) spec.attention_scale = 1;
  spec.scale_by_layer = config.get_or<bool>("scale_attn_by_inverse_layer_idx", false);
  spec.transposed_linears = true;
  spec.qkv_bias = true;
  spec.output_bias = true;
  spec.mlp_bias = true;
  spec.classes.language_model = "LMHeadModel";
  spec.classes.layer = "Block";
  spec.token_head = "classifier";
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
