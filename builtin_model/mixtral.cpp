// Mixtral: Mistral with eight experts in every layer. intermediate_size is the width of one expert;
// the block is called block_sparse_moe and its experts' projections w1 (gate), w3 (up), w2 (down).
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigKeyName mixtral_names[] = {
    {"num_experts", "num_local_experts"},
};
constexpr tcast::HarmlessKey mixtral_harmless[] = {
    {"attention_bias", "false", "transformers reads no such key; the layers have no bias"},
    {"mlp_bias", "false", "transformers reads no such key; the layers have no bias"},
};
constexpr tcast::ConfigClass mixtral_class{
    .name = "MixtralConfig",
    .defaults = R"({
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    "sliding_window": null, "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1e6,
    "rope_scaling": null, "rope_parameters": null})",
    .attribute_map = mixtral_names,
    .harmless = mixtral_harmless,
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(mixtral_class, "mixtral");

TCAST_REGISTER_ARCHITECTURE("mixtral")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Mixtral");
  spec.sliding_window = context.config.get_size_or("sliding_window", 0);
  spec.layer_names.mlp = "block_sparse_moe";
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec);
  moe.block_class = "MixtralSparseMoeBlock";
  moe.expert_class = "MixtralBlockSparseTop2MLP";
  moe.expert_names = {"w1", "w3", "w2"};
  moe.intermediate_size = spec.intermediate_size;
  moe.routing.normalize = true;
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
