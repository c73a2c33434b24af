#pragma once

#include <set>
#include <string>

#include "tcast/config/model_profile.h"
#include "tcast/model/layers.h"
#include "tcast/model/module.h"

// What several transformations have to know of a tree, whatever classes its modules have.

namespace tcast {

/// The weight of a product: a matrix, or a stack of them, that quantization or tensor parallelism
/// is about; not embeddings, norms, biases, scales, buffers, nor what shares another's storage.
bool is_weight_matrix(const Parameter& parameter);

/// How a module with products stores its weights; null: as the checkpoint's dtype has them.
const LinearQuantization* quantization_of(const Module& module);

/// Path of the first entry of every list on the way.
std::string first_member(const ModulePath& path);

/// Whether a block chooses among experts.
bool chooses_experts(const Module& module, const MoeFieldNames& names);

/// Whether a module is, or belongs to, the experts that a block chooses among.
bool is_routed_expert(const ModulePath& path, const MoeFieldNames& names);

/// The modules that choose experts: a block's gate and that of its shared experts.
std::set<const Module*> routers_of(const Module& root, const MoeFieldNames& names);

}  // namespace tcast
