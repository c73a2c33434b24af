// Mixtral: Mistral with eight experts in every layer. intermediate_size is the width of one expert;
// the block is called block_sparse_moe and its experts' projections w1 (gate), w3 (up), w2 (down).
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("mixtral")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderDefaults defaults;
  defaults.num_key_value_heads = 8;
  defaults.norm_epsilon = 1e-5;
  defaults.rope_theta = 1e6;
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Mixtral", defaults);
  spec.sliding_window = context.config.get_size_or("sliding_window", 0);
  spec.layer_names.mlp = "block_sparse_moe";
  tcast::MoeSpec moe = tcast::read_moe_spec(context, spec, "num_local_experts", 2, 8);
  moe.block_class = "MixtralSparseMoeBlock";
  moe.expert_class = "MixtralBlockSparseTop2MLP";
  moe.expert_names = {"w1", "w3", "w2"};
  moe.intermediate_size = spec.intermediate_size;
  moe.routing.normalize = true;
  spec.moe = std::move(moe);
  return tcast::build_decoder(std::move(spec), context);
}
