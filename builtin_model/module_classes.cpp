// The module classes that profiles name by default.
#include "tcast/custom_model.h"

TCAST_REGISTER_MODULE_CLASS("MultiheadLatentAttention")
(tcast::Module& original, const tcast::ModelProfile&, const tcast::ModelOptions& options) {
  auto& attention = dynamic_cast<tcast::LatentAttention&>(original);
  tcast::CacheOptions cache;
  cache.dtype = attention.child(attention.names().kv_b_proj).parameters().at(0).dtype;
  cache.block_size = options.kv_block_size;
  return std::make_unique<tcast::MultiheadLatentAttention>(attention, cache);
}

TCAST_REGISTER_MODULE_CLASS("GroupedExperts")
(tcast::Module& original, const tcast::ModelProfile&, const tcast::ModelOptions&) {
  return std::make_unique<tcast::GroupedExperts>(original);
}
