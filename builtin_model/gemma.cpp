// Gemma, Gemma 2 and Gemma 3 (text): norms multiply by 1 + weight, rows of the embedding by
// sqrt(hidden_size) rounded to the model's dtype; the head is tied, GELU in its tanh form gates.
// Gemma 2 adds a norm on the result of each block, windows in every other layer, a scale of the
// scores that is a key of its own, and caps on scores and logits. Gemma 3 drops the cap on the
// scores for norms on the heads of q and k; five of six layers have a window, and those rotate
// with a base of their own and without scaling.
#include <cmath>

#include "tcast/custom_model.h"

namespace {

tcast::DecoderSpec read_gemma(const tcast::ArchitectureContext& context, const char* prefix,
                              tcast::DecoderDefaults defaults) {
  if (context.config.get_or<bool>("use_bidirectional_attention", false)) {
    context.config.fail("use_bidirectional_attention", "an encoder's attention is not supported");
  }
  defaults.head_dim = 256;
  defaults.tie_word_embeddings = true;
  defaults.activation = "gelu_pytorch_tanh";
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix, defaults);
  spec.norm_weight_offset = 1;
  spec.embedding_multiplier =
      tcast::rounded_to(spec.dtype, std::sqrt(static_cast<double>(spec.hidden_size)));
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  return spec;
}

/// What Gemma 2 and 3 share.
tcast::DecoderSpec read_gemma_2(const tcast::ArchitectureContext& context, const char* prefix,
                                tcast::DecoderDefaults defaults, double logits_cap) {
  const tcast::HfConfig& config = context.config;
  defaults.num_key_value_heads = 4;
  defaults.activation_key = "hidden_activation";
  tcast::DecoderSpec spec = read_gemma(context, prefix, defaults);
  spec.attention_scale = 1 / std::sqrt(tcast::read_positive(config, "query_pre_attn_scalar", 256));
  spec.logits_softcap = tcast::read_limit(config, "final_logit_softcapping", logits_cap);
  spec.layer_names.attention_out_norm = "post_attention_layernorm";
  spec.layer_names.mlp_norm = "pre_feedforward_layernorm";
  spec.layer_names.mlp_out_norm = "post_feedforward_layernorm";
  return spec;
}

}  // namespace

TCAST_REGISTER_ARCHITECTURE("gemma")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 16;
  return tcast::build_decoder(read_gemma(context, "Gemma", defaults), context);
}

TCAST_REGISTER_ARCHITECTURE("gemma2")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = read_gemma_2(context, "Gemma2", {}, 30);
  spec.attention_softcap = tcast::read_limit(context.config, "attn_logit_softcapping", 50);
  tcast::read_alternating_windows(context, spec, 4096, 2);
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("gemma3_text")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderDefaults defaults;
  defaults.rope_theta = 1e6;
  tcast::DecoderSpec spec = read_gemma_2(context, "Gemma3", defaults, 0);
  spec.classes.model = "TextModel";
  spec.classes.embedding = "TextScaledWordEmbedding";
  spec.qk_norm = true;
  spec.rope = tcast::read_rope(config, defaults.rope_theta, "full_attention");
  // rope_scaling is the full layers' alone, in whichever form the config has it.
  tcast::RopeParameters window_rope;
  const auto per_type = config.nested("rope_parameters");
  if (per_type && per_type->has("sliding_attention")) {
    window_rope = tcast::read_rope(config, 10000, "sliding_attention");
  } else {
    window_rope.theta = tcast::read_positive(config, "rope_local_base_freq", 10000);
  }
  spec.window_rope = std::move(window_rope);
  tcast::read_alternating_windows(context, spec, 4096,
                                  config.get_size_or("sliding_window_pattern", 6));
  return tcast::build_decoder(std::move(spec), context);
}
