// Qwen2, Qwen2.5 and Qwen1.5-MoE / Qwen2-MoE: Llama with a bias on q, k and v and none on the
// output projection. With use_sliding_window, layers from max_window_layers on have a window (or
// those that layer_types says). qwen2_moe puts experts beside one shared expert, whose result a
// sigmoid gate weights; its windows are those of every other layer before max_window_layers.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::HarmlessKey qwen2_harmless[] = {
    {"use_mrope", "false", "positions have one axis"},
    {"qkv_bias", "true", "q, k and v have a bias in every model of the type"},
    {"mask_value", "", "for training on padded batches"},
};
constexpr tcast::ConfigClass qwen2_class{
    .name = "Qwen2Config",
    .defaults = R"({
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": null, "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .harmless = qwen2_harmless,
};

constexpr tcast::ConfigClass qwen2_moe_class{
    .name = "Qwen2MoeConfig",
    .defaults = R"({
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": null, "qkv_bias": true, "decoder_sparse_step": 1, "mlp_only_layers": null,
    "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_experts": 60,
    "num_experts_per_tok": 4, "norm_topk_prob": false, "rope_theta": 10000, "rope_scaling": null,
    "rope_parameters": null})",
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(qwen2_class, "qwen2");
TCAST_REGISTER_CONFIG_CLASS(qwen2_moe_class, "qwen2_moe");

TCAST_REGISTER_ARCHITECTURE("qwen2")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Qwen2");
  spec.classes.reward_model = "ForRewardModel";
  spec.qkv_bias = true;
  tcast::read_layer_windows(context, spec);
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("qwen2_moe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Qwen2Moe");
  spec.qkv_bias = config.get_or<bool>("qkv_bias", true);
  if (config.get_or<bool>("use_sliding_window", false)) {
    tcast::read_alternating_windows(context, spec, 2);
    const auto end = config.get<std::int64_t>("max_window_layers");
    if (!config.has("layer_types")) {
      for (std::size_t i = 0; i < spec.window_layers.size(); ++i) {
        if (static_cast<std::int64_t>(i) >= end) spec.window_layers[i] = false;
      }
    }
  }
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.block_class = "Qwen2MoeSparseMoeBlock";
  moe.intermediate_size = config.get_size("moe_intermediate_size");
  moe.shared_intermediate_size = config.get_size("shared_expert_intermediate_size");
  moe.shared_gate = true;
  moe.names.shared_experts = "shared_expert";
  moe.names.shared_experts_gate = "shared_expert_gate";
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  tcast::read_sparse_layers(context, moe);
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
