// DeepSeek-V3 (also R1) and Kimi-K2, which is the same with other numbers: multi-head latent
// attention with or without a compressed query; first_k_dense_replace dense layers, then experts
// with shared ones beside them; a sigmoid router with a correction bias, limited to the best
// groups. attention_bias puts a bias on the two compressing projections and the output.
// num_nextn_predict_layers MTP layers lie beyond the last layer of the checkpoint and are added by
// maybe_enable_mtp.
#include <cmath>

#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("deepseek_v3", "kimi_k2")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  // What the published models say of themselves; another answer would be another model.
  if (config.get_or<std::string>("scoring_func", "sigmoid") != "sigmoid") {
    config.fail("scoring_func", "this model type scores experts with a sigmoid");
  }
  if (config.get_or<std::string>("topk_method", "noaux_tc") != "noaux_tc") {
    config.fail("topk_method", "this model type selects experts by noaux_tc");
  }
  if (config.get_or<std::int64_t>("moe_layer_freq", 1) != 1) {
    config.fail("moe_layer_freq",
                "this model type has experts in every layer after the dense ones");
  }
  tcast::DecoderDefaults defaults;
  defaults.head_dim = 64;  // of the rotary part; latent attention has sizes of its own
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "DeepseekV3", defaults);
  spec.qkv_bias = config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  // Every head has its own keys and values here, whatever num_key_value_heads says.
  spec.num_key_value_heads = spec.num_attention_heads;

  tcast::LatentAttentionConfig latent;
  latent.num_heads = spec.num_attention_heads;
  // Null means a query that is not compressed; absent means the published size.
  latent.q_lora_rank = config.get_size_or("q_lora_rank", config.is_null("q_lora_rank") ? 0 : 1536);
  latent.kv_lora_rank = config.get_size_or("kv_lora_rank", 512);
  latent.qk_nope_head_dim = config.get_size_or("qk_nope_head_dim", 128);
  latent.qk_rope_head_dim = config.get_size_or("qk_rope_head_dim", 64);
  latent.v_head_dim = config.get_size_or("v_head_dim", 128);
  latent.rotary_interleaved = config.get_or<bool>("rope_interleave", true);
  latent.scale = 1 / std::sqrt(static_cast<double>(latent.qk_head_dim()));
  if (spec.rope.type == "yarn" && spec.rope.mscale_all_dim != 0) {
    const double mscale = tcast::yarn_mscale(spec.rope.factor, spec.rope.mscale_all_dim);
    latent.scale *= mscale * mscale;
  }
  spec.latent = latent;

  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "n_routed_experts", 8);
  moe.block_class = "DeepseekV3MoE";
  moe.router_class = "DeepseekV3TopkRouter";
  moe.intermediate_size = config.get_size_or("moe_intermediate_size", 2048);
  moe.shared_intermediate_size =
      tcast::checked_mul(moe.intermediate_size, config.get_or<std::int64_t>("n_shared_experts", 1),
                         "n_shared_experts");
  moe.routing.score = tcast::RouterScore::sigmoid;
  moe.routing.correction_bias = true;
  moe.routing.groups = config.get_size_or("n_group", 8);
  moe.routing.topk_groups = config.get_size_or("topk_group", 4);
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", true);
  moe.routing.scale = config.get_or<double>("routed_scaling_factor", 2.5);
  const auto dense = config.get_or<std::int64_t>("first_k_dense_replace", 3);
  for (std::size_t i = 0; i < moe.layers.size(); ++i) {
    moe.layers[i] = static_cast<std::int64_t>(i) >= dense;
  }
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
