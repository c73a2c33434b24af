#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tcast/model/transformer_model.h"

namespace tcast {

/// Replaces every module whose HuggingFace class is `class_name`, which the profile's `field`
/// gives; `make` returns the replacement, or null and a reason. The report gets changes, skips and
/// the number of modules matched. Throws Error with the closest class when the tree has none of it
/// (unless layers were cut off by --num-hidden-layers).
void replace_named_class(TransformerModel& model, StepReport& report, const std::string& class_name,
                         const char* field,
                         const std::function<std::unique_ptr<Module>(
                             Module& module, const std::string& path, std::string& reason)>& make);

/// The registered module class that a profile's `field` names, which is noted as a contributor of
/// the model. Throws Error with the closest one.
const RegistryEntry<ModuleClassFunction>& find_module_class(TransformerModel& model,
                                                            const std::string& name,
                                                            const char* field);

}  // namespace tcast
