// Gemma, Gemma 2 and Gemma 3 (text): norms multiply by 1 + weight, rows of the embedding by
// sqrt(hidden_size) rounded to the model's dtype; the head is tied, GELU in its tanh form gates.
// Gemma 2 adds a norm on the result of each block, windows in every other layer, a scale of the
// scores that is a key of its own, and caps on scores and logits. Gemma 3 drops the cap on the
// scores for norms on the heads of q and k; five of six layers have a window, and those rotate
// with a base of their own and without scaling.
#include <cmath>

#include "tcast/custom_model.h"

namespace {

constexpr tcast::HarmlessKey gemma_harmless[] = {
    {"hidden_activation", "", "transformers reads hidden_act"},
};
constexpr tcast::ConfigClass gemma_class{
    .name = "GemmaConfig",
    .defaults = R"({
    "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": true, "attention_bias": false, "use_bidirectional_attention": null,
    "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .harmless = gemma_harmless,
};

constexpr tcast::ConfigKeyName gemma2_asked[] = {
    {"hidden_act", "hidden_activation"},
};
constexpr tcast::HarmlessKey gemma2_harmless[] = {
    {"hidden_act", "\"gelu_pytorch_tanh\"",
     "transformers reads hidden_activation, which is the same"},
    {"sliding_window_size", "4096", "another name of sliding_window in the first files"},
};
constexpr tcast::ConfigClass gemma2_class{
    .name = "Gemma2Config",
    .defaults = R"({
    "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "attention_bias": false,
    "use_bidirectional_attention": null, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "layer_types": null, "final_logit_softcapping": 30, "attn_logit_softcapping": 50,
    "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .asked_as = gemma2_asked,
    .harmless = gemma2_harmless,
};

constexpr tcast::ConfigKeyName gemma3_asked[] = {
    {"hidden_act", "hidden_activation"},
};
constexpr tcast::HarmlessKey gemma3_harmless[] = {
    {"attn_logit_softcapping", "", "transformers does nothing with it: scores have no cap"},
};
constexpr tcast::ConfigClass gemma3_class{
    .name = "Gemma3TextConfig",
    .defaults = R"({
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "attention_bias": false,
    "use_bidirectional_attention": false, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "sliding_window_pattern": 6, "layer_types": null, "final_logit_softcapping": null,
    "rope_local_base_freq": 10000, "rope_theta": 1e6,
    "rope_scaling": null, "rope_parameters": null})",
    .asked_as = gemma3_asked,
    .harmless = gemma3_harmless,
};

tcast::DecoderSpec read_gemma(const tcast::ArchitectureContext& context, const char* prefix) {
  if (context.config.get_or<bool>("use_bidirectional_attention", false)) {
    context.config.fail("use_bidirectional_attention", "an encoder's attention is not supported");
  }
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix);
  spec.norm_weight_offset = 1;
  spec.embedding_multiplier =
      tcast::rounded_to(spec.dtype, std::sqrt(static_cast<double>(spec.hidden_size)));
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  return spec;
}

/// What Gemma 2 and 3 share.
tcast::DecoderSpec read_gemma_2(const tcast::ArchitectureContext& context, const char* prefix) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = read_gemma(context, prefix);
  spec.attention_scale = 1 / std::sqrt(tcast::read_positive(config, "query_pre_attn_scalar", 1));
  spec.logits_softcap = tcast::read_positive(config, "final_logit_softcapping");
  spec.layer_names.attention_out_norm = "post_attention_layernorm";
  spec.layer_names.mlp_norm = "pre_feedforward_layernorm";
  spec.layer_names.mlp_out_norm = "post_feedforward_layernorm";
  return spec;
}

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(gemma_class, "gemma");
TCAST_REGISTER_CONFIG_CLASS(gemma2_class, "gemma2");
TCAST_REGISTER_CONFIG_CLASS(gemma3_class, "gemma3_text");

// The first files say gelu and mean its tanh form, as transformers 5 takes them.
TCAST_REGISTER_ARCHITECTURE("gemma")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = read_gemma(context, "Gemma");
  if (spec.activation == tcast::ElementwiseKind::gelu) {
    spec.activation = tcast::ElementwiseKind::gelu_tanh;
  }
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("gemma2")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = read_gemma_2(context, "Gemma2");
  spec.attention_softcap = tcast::read_positive(context.config, "attn_logit_softcapping");
  tcast::read_alternating_windows(context, spec, 2);
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("gemma3_text")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = read_gemma_2(context, "Gemma3");
  spec.classes.model = "TextModel";
  spec.classes.embedding = "TextScaledWordEmbedding";
  spec.qk_norm = true;
  spec.rope = tcast::read_rope(config, "full_attention");
  // Published files have the length that the scaling made.
  spec.rope.context_limit = config.get<double>("max_position_embeddings");
  spec.window_rope = tcast::read_rope(config, "sliding_attention", "rope_local_base_freq");
  tcast::read_alternating_windows(context, spec, config.get_size("sliding_window_pattern"));
  return tcast::build_decoder(std::move(spec), context);
}
