#pragma once

#include <optional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/model/module.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// A place of a tree at which it cannot be what somebody wanted.
struct TreeFault {
  std::string path;    ///< "model.layers.[3-60].mlp.up_proj"; empty: the model itself
  std::string text;    ///< "its weight is [64], expected [128, 64]"
  std::string hint{};  ///< of an Error that a forward threw; empty: none
  /// The text names the plugin whose forward it was; somebody else may have changed what it needs.
  bool names_plugin = false;
};

/// The first module that is not what its class needs: Module::fault(), missing children and gaps in
/// lists, two children of one name, empty parameters, shards of dimensions that do not exist, ties
/// of different shapes, trees deeper than any model. Nothing when all is well.
TCAST_API std::optional<TreeFault> find_fault(const Module& root);

/// Traces a small prompt and a decode step, and finds what cannot be traced or has operands of
/// other sizes than its operators say. The tree must be free of faults in itself.
TCAST_API std::optional<TreeFault> find_traced_fault(const TransformerModel& model);

/// Throws Error: the model was built wrongly, by whom, where and how.
[[noreturn]] TCAST_API void fail_as_built(const TransformerModel& model, const TreeFault& fault);

/// For who prices or executes a model before it is transformed: throws that Error when the model
/// cannot be traced as it was built. (A hook may make something of what cannot.)
TCAST_API void require_traceable_as_built(const TransformerModel& model);

}  // namespace tcast
