// BailingMoE, first generation (Ling-lite, Ling-plus), as its published modelling code lays it out:
// one fused query_key_value projection, a rotary module in every layer, experts with shared ones
// beside them after first_k_dense_replace dense layers, softmax routing.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::HarmlessKey bailing_moe_harmless[] = {
    {"norm_head", "", "the weight of the head is normalized once, when it is loaded"},
    {"norm_softmax", "false", "the softmax is the usual one"},
    {"multi_gate", "false", "one router for all tokens"},
};
constexpr tcast::ConfigClass bailing_moe_class{
    .name = "BailingMoeConfig",
    .defaults = R"({
    "vocab_size": null, "hidden_size": null, "intermediate_size": null, "num_hidden_layers": null,
    "num_attention_heads": null, "num_key_value_heads": null, "head_dim": null,
    "hidden_act": "silu", "max_position_embeddings": null, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": false, "use_qkv_bias": false, "use_bias": false, "use_qk_norm": false,
    "moe_intermediate_size": null, "num_experts": null, "num_experts_per_tok": null,
    "num_shared_experts": 0, "norm_topk_prob": false, "first_k_dense_replace": 0,
    "rope_theta": 10000, "rope_scaling": null, "rope_parameters": null})",
    .harmless = bailing_moe_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(bailing_moe_class, "bailing_moe");

TCAST_REGISTER_ARCHITECTURE("bailing_moe")
(const tcast::ArchitectureContext& context) {
  const tcast::HfConfig& config = context.config;
  const auto classes = config.get_or<std::vector<std::string>>("architectures", {});
  for (const std::string& name : classes) {
    // The second generation carries the same model type with norms and a router of its own.
    if (name.rfind("BailingMoeV2", 0) == 0) {
      config.fail("architectures", "'" + tcast::printable(name) + "' is not supported yet",
                  "BailingMoeForCausalLM is");
    }
  }
  if (config.get_or<bool>("use_qk_norm", false)) {
    config.fail("use_qk_norm", "the second generation of BailingMoE is not supported yet");
  }
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "BailingMoe");
  spec.qkv_bias = config.get_or<bool>("use_qkv_bias", false);
  spec.output_bias = config.get_or<bool>("use_bias", false);
  spec.rotary_per_layer = true;
  spec.names.embeddings = "word_embeddings";
  spec.layer_names.attention = "attention";
  spec.attention_names.qkv = "query_key_value";
  spec.attention_names.o_proj = "dense";

  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.block_class = "BailingMoeSparseMoeBlock";
  moe.router_class = "BailingMoeGate";
  moe.intermediate_size = config.get_size("moe_intermediate_size");
  moe.shared_intermediate_size = tcast::checked_mul(
      moe.intermediate_size, config.get_or<std::int64_t>("num_shared_experts", 0),
      "num_shared_experts");
  // One chosen expert has weight p, not 1: there is nothing to normalize among.
  moe.routing.normalize = config.get_or<bool>("norm_topk_prob", false) && moe.routing.top_k > 1;
  tcast::set_dense_layers(moe, config.get_or<std::int64_t>("first_k_dense_replace", 0));
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}

// No MTP layers were published for this type, and its attention is not latent: the hook says so by
// leaving these two steps out, and an option that asks for them is refused.
TCAST_REGISTER_CUSTOM_MODEL("bailing_moe")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::maybe_reuse_layers(model);
  tcast::patch_rotary_emb(model);
  tcast::patch_attention(model);
  tcast::patch_moe(model);
  tcast::quantize_model(model);
  tcast::shard_model(model);
}
