// gpt-oss: attention sinks (one more score per head, which only takes part in the softmax), a
// window in every other layer, YaRN by default; experts in every layer, stored together with a bias
// each, gate and up outputs taking turns, clamped SwiGLU; the router has a bias and its softmax
// runs over the chosen experts, which is the same as normalizing their shares.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigKeyName gpt_oss_names[] = {
    {"num_experts", "num_local_experts"},
};
constexpr tcast::HarmlessKey gpt_oss_harmless[] = {
    {"experts_per_token", "", "transformers reads num_experts_per_tok"},
    {"initial_context_length", "",
     "transformers reads original_max_position_embeddings of the rope parameters"},
};
constexpr tcast::ConfigClass gpt_oss_class{
    .name = "GptOssConfig",
    .defaults = R"({
    "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
    "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    "attention_bias": true, "sliding_window": 128, "layer_types": null, "num_local_experts": 128,
    "num_experts_per_tok": 4, "swiglu_alpha": 1.702, "swiglu_limit": 7, "rope_theta": 150000,
    "rope_scaling": null, "rope_parameters": null})",
    .attribute_map = gpt_oss_names,
    .harmless = gpt_oss_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(gpt_oss_class, "gpt_oss");

TCAST_REGISTER_ARCHITECTURE("gpt_oss")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  if (config.get<double>("swiglu_alpha") != tcast::clamped_swiglu_alpha) {
    config.fail("swiglu_alpha", "another factor than 1.702 is not supported yet");
  }
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "GptOss");
  if (!config.has("rope_scaling") && !config.has("rope_parameters")) {
    spec.rope.type = "yarn";
    spec.rope.factor = 32;
    spec.rope.truncate = false;
    spec.rope.original_max_position_embeddings = 4096;
    spec.rope.context_limit = std::max(spec.rope.context_limit, 32 * 4096.0);
  }
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  spec.sinks = true;
  tcast::read_alternating_windows(context, spec, 2);

  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.block_class = "GptOssMLP";
  moe.router_class = "GptOssTopKRouter";
  moe.expert_class = "GptOssExperts";
  moe.fused = true;
  moe.activation_limit = tcast::read_positive(config, "swiglu_limit");
  moe.router_bias = true;
  moe.names.gate = "router";
  moe.intermediate_size = spec.intermediate_size;
  moe.routing.normalize = true;
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
