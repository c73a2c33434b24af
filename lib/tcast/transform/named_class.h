#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

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
/// number of modules matched that were not replaced before. Where the tree has none of the class,
/// the step is skipped with the reason; a class that a user named (in a profile of their own) must
/// be there, else Error with the closest one (unless layers were cut off by --num-hidden-layers).
void replace_named_class(TransformerModel& model, StepReport& report, const std::string& class_name,
                         const char* field,
                         const std::function<std::unique_ptr<Module>(
                             Module& module, const std::string& path, NotReplaced& why)>& make);

/// A name by which a profile's `field` lets users call a child or an attribute of a module.
struct FieldName {
  const char* key;
  const std::string& name;
};

/// What to say of names that a user gave under `field` and that no module of the class `class_name`
/// has.
std::vector<std::string> idle_names(const TransformerModel& model, const std::string& class_name,
                                    const std::string& field,
                                    std::initializer_list<FieldName> names);

/// Warns of idle names where the step changed all that it is about: where it did not, the reason
/// names the one that is missing.
void warn_of_idle_names(StepReport& report, std::vector<std::string> idle);

/// Modules of a C++ class that `is_left` finds and a step did not replace are expected changes,
/// too: a skip with `reason` for each.
void expect_also(TransformerModel& model, StepReport& report, const std::string& reason,
                 const std::function<bool(const Module& module)>& is_left);

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
