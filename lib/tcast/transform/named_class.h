#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tcast/model/attention.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// Why a module is left as it is.
struct NotReplaced {
  std::string reason;
  bool already = false;  ///< it is what it should become
};

/// Replaces every module whose HuggingFace class is `class_name`, which the profile's `field`
/// gives; `make` returns the replacement, or null and why. The report gets changes, skips and the
/// number of modules matched that were not replaced before. Throws Error with the closest class
/// when the tree has none of it (unless layers were cut off by --num-hidden-layers).
void replace_named_class(TransformerModel& model, StepReport& report, const std::string& class_name,
                         const char* field,
                         const std::function<std::unique_ptr<Module>(
                             Module& module, const std::string& path, NotReplaced& why)>& make);

/// A cache that quantize_model stores in a narrow dtype stays so in the attention that takes the
/// place of `original`. Throws Error naming `step` and quantize_model when that one has none.
void keep_quantized_cache(const AttentionModule& original, AttentionModule& replacement,
                          const char* step, const std::string& path);

/// The registered module class that a profile's `field` names, which is noted as a contributor of
/// the model. Throws Error with the closest one.
const RegistryEntry<ModuleClassFunction>& find_module_class(TransformerModel& model,
                                                            const std::string& name,
                                                            const char* field);

}  // namespace tcast
