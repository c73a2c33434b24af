// The module classes that profiles name by default.
#include "tcast/custom_model.h"

TCAST_REGISTER_MODULE_CLASS("MultiheadLatentAttention")
(tcast::Module& original, const tcast::ModelProfile&, const tcast::ModelOptions& options) {
  auto* attention = dynamic_cast<tcast::LatentAttention*>(&original);
  if (attention == nullptr) {
    throw tcast::Error(
        "MultiheadLatentAttention cannot take the place of a " + original.class_name(),
        "name it in mla_module_class_type only");
  }
  tcast::CacheOptions cache;
  // Norms stay in the dtype of the activations, whatever was quantized before.
  cache.dtype = attention->child(attention->names().kv_a_layernorm).parameters().at(0).dtype;
  cache.block_size = options.kv_block_size;
  return std::make_unique<tcast::MultiheadLatentAttention>(*attention, cache);
}

TCAST_REGISTER_MODULE_CLASS("GroupedExperts")
(tcast::Module& original, const tcast::ModelProfile&, const tcast::ModelOptions&) {
  return std::make_unique<tcast::GroupedExperts>(original);
}

TCAST_REGISTER_MODULE_CLASS("GroupedFusedExperts")
(tcast::Module& original, const tcast::ModelProfile&, const tcast::ModelOptions&) {
  auto* experts = dynamic_cast<tcast::FusedExperts*>(&original);
  if (experts == nullptr) {
    throw tcast::Error("GroupedFusedExperts cannot take the place of a " + original.class_name(),
                       "name it in custom_expert_module_type of a model with fused experts only");
  }
  return std::make_unique<tcast::GroupedFusedExperts>(*experts);
}
