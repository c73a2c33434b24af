// DeepSeek-V2 (and Lite), DeepSeek-V3 (also R1), and Kimi-K2, which is V3 with other numbers:
// multi-head latent attention with or without a compressed query; first_k_dense_replace dense
// layers, then experts with shared ones beside them. attention_bias puts a bias on the two
// compressing projections and the output. V2 routes by softmax, plainly (greedy) or limited to the
// groups whose best expert scores highest, and never normalizes. V3 routes by sigmoid with a
// correction bias, limited to the groups whose two best experts score highest.
// num_nextn_predict_layers MTP layers lie beyond the last layer of a V3 checkpoint and are added by
// maybe_enable_mtp.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigKeyName deepseek_v2_names[] = {
    {"num_experts", "n_routed_experts"},
};
constexpr tcast::HarmlessKey deepseek_v2_harmless[] = {
    {"head_dim", "", "latent attention has sizes of its own"},
    {"num_key_value_heads", "", "every head has its own keys and values"},
    {"qk_head_dim", "", "the sum of two other sizes"},
};
constexpr tcast::ConfigClass deepseek_v2_class{
    .name = "DeepseekV2Config",
    .defaults = R"({
    "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "attention_bias": false,
    "moe_layer_freq": 1, "first_k_dense_replace": 0, "n_routed_experts": 64, "n_shared_experts": 2,
    "num_experts_per_tok": null, "moe_intermediate_size": 1407, "n_group": null,
    "topk_group": null, "routed_scaling_factor": 1, "norm_topk_prob": false,
    "scoring_func": "softmax", "topk_method": "greedy", "mlp_bias": false, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .attribute_map = deepseek_v2_names,
    .harmless = deepseek_v2_harmless,
};

constexpr tcast::ConfigKeyName deepseek_v3_names[] = {
    {"num_local_experts", "n_routed_experts"},
    {"num_mtp_layers", "num_nextn_predict_layers"},
};
constexpr tcast::HarmlessKey deepseek_v3_harmless[] = {
    {"head_dim", "", "latent attention has sizes of its own"},
    {"num_key_value_heads", "", "every head has its own keys and values"},
    {"qk_head_dim", "", "the sum of two other sizes"},
};
constexpr tcast::ConfigClass deepseek_v3_class{
    .name = "DeepseekV3Config",
    .defaults = R"({
    "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "hidden_act": "silu", "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "attention_bias": false,
    "moe_layer_freq": 1, "first_k_dense_replace": 3, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "n_group": 8,
    "topk_group": 4, "routed_scaling_factor": 2.5, "norm_topk_prob": true,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_interleave": true,
    "num_nextn_predict_layers": null, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "rope_theta": 10000,
    "rope_scaling": null, "rope_parameters": null})",
    .attribute_map = deepseek_v3_names,
    .harmless = deepseek_v3_harmless,
};

/// A key that describes all published models of a type alike; another value would be another model.
template <class T>
void require(const tcast::HfConfig& config, const char* key, const T& value, const char* message) {
  if (config.get_or<T>(key, value) != value) config.fail(key, message);
}

tcast::DecoderSpec read_deepseek(const tcast::ArchitectureContext& context, const char* prefix) {
  const tcast::HfConfig& config = context.config;
  require<std::int64_t>(config, "moe_layer_freq", 1,
                        "this model type has experts in every layer after the dense ones");
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix);
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  spec.latent = tcast::read_latent_attention(context, spec);
  return spec;
}

tcast::MoeSpec read_experts(const tcast::ArchitectureContext& context,
                            const tcast::DecoderSpec& spec) {
  const tcast::HfConfig& config = context.config;
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.intermediate_size = config.get_size("moe_intermediate_size");
  moe.shared_intermediate_size =
      tcast::checked_mul(moe.intermediate_size, config.get_or<std::int64_t>("n_shared_experts", 0),
                         "n_shared_experts");
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false);
  moe.routing.scale = config.get_or<double>("routed_scaling_factor", 1);
  tcast::set_dense_layers(moe, config.get_or<std::int64_t>("first_k_dense_replace", 0));
  return moe;
}

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(deepseek_v2_class, "deepseek_v2");
TCAST_REGISTER_CONFIG_CLASS(deepseek_v3_class, "deepseek_v3", "kimi_k2");

TCAST_REGISTER_ARCHITECTURE("deepseek_v2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  require<std::string>(config, "scoring_func", "softmax",
                       "this model type scores experts with a softmax");
  require(config, "norm_topk_prob", false, "this model type does not normalize expert weights");
  require(config, "mlp_bias", false, "this model type has no bias on its feed-forward blocks");
  tcast::DecoderSpec spec = read_deepseek(context, "DeepseekV2");
  tcast::MoeSpec moe = read_experts(context, spec);
  moe.block_class = "DeepseekV2MoE";
  moe.router_class = "DeepseekV2MoEGate";
  const auto method = config.get_or<std::string>("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    moe.routing.groups = config.get_size("n_group");
    moe.routing.topk_groups = config.get_size("topk_group");
    moe.routing.group_best = 1;
  } else if (method == "greedy") {
    config.know({"n_group", "topk_group"});
  } else {
    config.fail("topk_method", "this model type selects experts by greedy or group_limited_greedy");
  }
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}

TCAST_REGISTER_ARCHITECTURE("deepseek_v3", "kimi_k2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  require<std::string>(config, "scoring_func", "sigmoid",
                       "this model type scores experts with a sigmoid");
  require<std::string>(config, "topk_method", "noaux_tc",
                       "this model type selects experts by noaux_tc");
  tcast::DecoderSpec spec = read_deepseek(context, "DeepseekV3");
  spec.latent->rotary_interleaved = config.get_or<bool>("rope_interleave", true);
  tcast::MoeSpec moe = read_experts(context, spec);
  moe.block_class = "DeepseekV3MoE";
  moe.router_class = "DeepseekV3TopkRouter";
  moe.routing.score = tcast::RouterScore::sigmoid;
  moe.routing.correction_bias = true;
  moe.routing.groups = config.get_size("n_group");
  moe.routing.topk_groups = config.get_size("topk_group");
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
