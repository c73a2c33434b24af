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

/// A key that describes all published models of a type alike; another value would be another model.
template <class T>
void require(const tcast::HfConfig& config, const char* key, const T& value, const char* message) {
  if (config.get_or<T>(key, value) != value) config.fail(key, message);
}

tcast::DecoderSpec read_deepseek(const tcast::ArchitectureContext& context, const char* prefix) {
  const tcast::HfConfig& config = context.config;
  require<std::int64_t>(config, "moe_layer_freq", 1,
                        "this model type has experts in every layer after the dense ones");
  tcast::DecoderDefaults defaults;
  defaults.head_dim = 64;  // of the rotary part; latent attention has sizes of its own
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, prefix, defaults);
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  // Every head has its own keys and values here, whatever num_key_value_heads says.
  spec.num_key_value_heads = spec.num_attention_heads;
  spec.latent = tcast::read_latent_attention(context, spec);
  return spec;
}

tcast::MoeSpec read_experts(const tcast::ArchitectureContext& context,
                            const tcast::DecoderSpec& spec, std::int64_t default_size,
                            std::int64_t default_shared) {
  const tcast::HfConfig& config = context.config;
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "n_routed_experts", 8);
  moe.intermediate_size = config.get_size_or("moe_intermediate_size", default_size);
  moe.shared_intermediate_size = tcast::checked_mul(
      moe.intermediate_size, config.get_or<std::int64_t>("n_shared_experts", default_shared),
      "n_shared_experts");
  return moe;
}

}  // namespace

TCAST_REGISTER_ARCHITECTURE("deepseek_v2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  require<std::string>(config, "scoring_func", "softmax",
                       "this model type scores experts with a softmax");
  require(config, "norm_topk_prob", false, "this model type does not normalize expert weights");
  require(config, "mlp_bias", false, "this model type has no bias on its feed-forward blocks");
  tcast::DecoderSpec spec = read_deepseek(context, "DeepseekV2");
  tcast::MoeSpec moe = read_experts(context, spec, 1407, 2);
  moe.block_class = "DeepseekV2MoE";
  moe.router_class = "DeepseekV2MoEGate";
  const auto method = config.get_or<std::string>("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    moe.routing.groups = config.get_size("n_group");
    moe.routing.topk_groups = config.get_size("topk_group");
    moe.routing.group_best = 1;
  } else if (method != "greedy") {
    config.fail("topk_method", "this model type selects experts by greedy or group_limited_greedy");
  }
  moe.routing.scale = config.get_or<double>("routed_scaling_factor", 1);
  tcast::set_dense_layers(moe, config.get_or<std::int64_t>("first_k_dense_replace", 0));
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
  tcast::MoeSpec moe = read_experts(context, spec, 2048, 1);
  moe.block_class = "DeepseekV3MoE";
  moe.router_class = "DeepseekV3TopkRouter";
  moe.routing.score = tcast::RouterScore::sigmoid;
  moe.routing.correction_bias = true;
  moe.routing.groups = config.get_size_or("n_group", 8);
  moe.routing.topk_groups = config.get_size_or("topk_group", 4);
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", true);
  moe.routing.scale = config.get_or<double>("routed_scaling_factor", 2.5);
  tcast::set_dense_layers(moe, config.get_or<std::int64_t>("first_k_dense_replace", 3));
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
