#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tcast/model/transformer_model.h"

namespace tcast {

/// What shall take the place of a module.
struct Replacement {
  std::unique_ptr<Module> module{};  ///< null: the module stays
  std::string reason{};              ///< why it stays
  bool already = false;              ///< it has the wanted form: nothing is missing
};

/// Replaces every module whose HuggingFace class is `class_name`, which the profile's `field`
/// gives, by what `make` returns. The report gets changes, skips and the number of modules that
/// were not yet in the wanted form. Throws Error with the closest class when the tree has none of
/// it (unless layers were cut off by --num-hidden-layers).
void replace_named_class(
    TransformerModel& model, StepReport& report, const std::string& class_name, const char* field,
    const std::function<Replacement(Module& module, const std::string& path)>& make);

/// Modules of a C++ class that `is_left` finds and a step did not replace are expected changes,
/// too: a skip with `reason` for each.
void expect_also(TransformerModel& model, StepReport& report, const std::string& reason,
                 const std::function<bool(const Module& module)>& is_left);

/// The registered module class that a profile's `field` names. Throws Error with the closest one.
ModuleClassFunction find_module_class(const std::string& name, const char* field);

}  // namespace tcast
