// Qwen3, dense and mixture of experts: an RMSNorm on each head of q and k before the rotary
// embedding, no bias unless attention_bias asks for it on all four projections. head_dim is a size
// of its own.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigClass qwen3_class{
    .name = "Qwen3Config",
    .defaults = R"({
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    "attention_bias": false, "use_sliding_window": false, "sliding_window": 4096,
    "max_window_layers": 28, "layer_types": null, "rope_theta": 10000, "rope_scaling": null,
    "rope_parameters": null})",
};

constexpr tcast::ConfigKeyName qwen3_moe_names[] = {
    {"num_local_experts", "num_experts"},
};
constexpr tcast::HarmlessKey qwen3_moe_harmless[] = {
    {"max_window_layers", "", "the class has windows in all layers or in none"},
    {"qkv_bias", "false", "transformers reads no such key; the layers have no bias"},
    {"shared_expert_intermediate_size", "0", "there is no shared expert"},
    {"use_qk_norm", "true", "every model of the type has these norms"},
};
constexpr tcast::ConfigClass qwen3_moe_class{
    .name = "Qwen3MoeConfig",
    .defaults = R"({
    "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    "attention_bias": false, "use_sliding_window": false, "sliding_window": 4096,
    "decoder_sparse_step": 1, "mlp_only_layers": null, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": false, "rope_theta": 10000,
    "rope_scaling": null, "rope_parameters": null})",
    .attribute_map = qwen3_moe_names,
    .harmless = qwen3_moe_harmless,
};

tcast::DecoderSpec read_qwen3(const tcast::ArchitectureContext& context, const char* prefix) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix);
  spec.qk_norm = true;
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  return spec;
}

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(qwen3_class, "qwen3");
TCAST_REGISTER_CONFIG_CLASS(qwen3_moe_class, "qwen3_moe");

TCAST_REGISTER_ARCHITECTURE("qwen3")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = read_qwen3(context, "Qwen3");
  tcast::read_layer_windows(context, spec);
  return tcast::build_decoder(std::move(spec), context);
}

// A layer has experts when its 1-based index is a multiple of decoder_sparse_step and it is not
// named in mlp_only_layers; softmax over all experts, weights renormalized if norm_topk_prob.
TCAST_REGISTER_ARCHITECTURE("qwen3_moe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  tcast::DecoderSpec spec = read_qwen3(context, "Qwen3Moe");
  if (config.get_or<bool>("use_sliding_window", false)) {
    spec.sliding_window = config.get_size_or("sliding_window", 0);
  }
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.block_class = "Qwen3MoeSparseMoeBlock";
  moe.intermediate_size = config.get_size("moe_intermediate_size");
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  tcast::read_sparse_layers(context, moe);
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
