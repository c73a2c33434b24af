#include "tcast/transform/named_class.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {

void replace_named_class(
    TransformerModel& model, StepReport& report, const std::string& class_name, const char* field,
    const std::function<Replacement(Module& module, const std::string& path)>& make) {
  std::set<std::string> classes;
  std::int64_t matched = 0;
  std::int64_t already = 0;
  rewrite(model.root(), [&](Module& module, const ModulePath& path) -> std::unique_ptr<Module> {
    classes.insert(module.hf_class_name());
    if (module.hf_class_name() != class_name) return nullptr;
    const std::int64_t count = path.count();
    matched += count;
    const std::string where = path.text();
    const std::string from = module.class_name();
    Replacement replacement = make(module, where);
    if (replacement.module == nullptr) {
      if (replacement.already) already += count;
      report.skipped.push_back({where, std::move(replacement.reason), !replacement.already});
      return nullptr;
    }
    report.changed.push_back({where, from, replacement.module->class_name()});
    report.changed_modules += count;
    return std::move(replacement.module);
  });
  report.expected = matched - already;
  if (matched > 0) return;
  if (model.options().num_hidden_layers) {
    report.skipped.push_back(
        {"", fmt::format("no '{}' among the layers kept by --num-hidden-layers", class_name)});
    return;
  }
  const std::vector<std::string> present(classes.begin(), classes.end());
  const std::string source =
      model.profile().sources.empty() ? "profile" : model.profile().sources.back();
  throw Error(fmt::format("{}: {}: no module of the model has the class '{}'", source, field,
                          printable(class_name)),
              did_you_mean(class_name, present, "'tcast inspect' shows the classes"));
}

void expect_also(TransformerModel& model, StepReport& report, const std::string& reason,
                 const std::function<bool(const Module& module)>& is_left) {
  std::int64_t left = 0;
  walk(model.root(), [&](const Module& module, const ModulePath& path) {
    if (!is_left(module)) return;
    const std::string where = path.text();
    const bool told =
        std::any_of(report.skipped.begin(), report.skipped.end(),
                    [&where](const StepReport::Skip& skip) { return skip.path == where; });
    if (told) return;  // it is among the expected ones
    left += path.count();
    report.skipped.push_back({where, reason, true});
  });
  report.expected = report.expected.value_or(0) + left;
}

ModuleClassFunction find_module_class(const std::string& name, const char* field) {
  const auto* entry = module_classes().find(name);
  if (entry == nullptr) {
    const std::vector<std::string> known = module_classes().names();
    const std::string plugin = missing_plugin_hint("module_class", name);
    throw Error(
        fmt::format("profile: {}: no module class '{}' is registered", field, printable(name)),
        plugin.empty() ? did_you_mean(name, known, fmt::format("known are {}", join(known, ", ")))
                       : plugin);
  }
  return entry->value;
}

}  // namespace tcast
