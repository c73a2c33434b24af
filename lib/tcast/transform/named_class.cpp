#include "tcast/transform/named_class.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {

void replace_named_class(TransformerModel& model, StepReport& report, const std::string& class_name,
                         const char* field,
                         const std::function<std::unique_ptr<Module>(
                             Module& module, const std::string& path, NotReplaced& why)>& make) {
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
    NotReplaced why;
    std::unique_ptr<Module> replacement = make(module, where, why);
    if (replacement == nullptr) {
      if (why.already) already += count;
      report.skipped.push_back({where, std::move(why.reason), !why.already});
      return nullptr;
    }
    report.changed.push_back({where, from, replacement->class_name()});
    report.changed_modules += count;
    return replacement;
  });
  report.expected = matched - already;
  if (matched > 0) return;
  if (model.options().num_hidden_layers) {
    report.skipped.push_back(
        {"", fmt::format("no '{}' among the layers kept by --num-hidden-layers", class_name)});
    return;
  }
  if (!model.profile().is_users(field)) {
    report.skipped.push_back({"", fmt::format("no layer of this model has a '{}'", class_name)});
    return;
  }
  const std::vector<std::string> present(classes.begin(), classes.end());
  throw Error(fmt::format("{}: {}: no module of the model has the class '{}'",
                          model.profile().source_of(field), field, printable(class_name)),
              did_you_mean(class_name, present, "'tcast inspect' shows the classes"));
}

std::vector<std::string> idle_names(const TransformerModel& model, const std::string& class_name,
                                    const std::string& field,
                                    std::initializer_list<FieldName> names) {
  std::vector<std::string> idle;
  for (const FieldName& field_name : names) {
    const std::string key = fmt::format("{}.{}", field, field_name.key);
    if (!model.profile().is_users(key)) continue;
    std::int64_t modules = 0;
    bool found = false;
    walk(model.root(), [&](const Module& module, const ModulePath& path) {
      if (module.hf_class_name() != class_name) return;
      modules += path.count();
      found = found || module.find_child(field_name.name) != nullptr ||
              module.find_attribute(field_name.name).has_value();
    });
    if (modules == 0 || found) continue;
    idle.push_back(fmt::format("{}: {}: none of {} '{}' has a child or attribute '{}'",
                               model.profile().source_of(key), key, modules, printable(class_name),
                               printable(field_name.name)));
  }
  return idle;
}

void warn_of_idle_names(StepReport& report, std::vector<std::string> idle) {
  const bool all = report.changed_modules == report.expected.value_or(0);
  if (report.changed_modules == 0 || !all) return;
  std::move(idle.begin(), idle.end(), std::back_inserter(report.warnings));
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

void keep_quantized_cache(const AttentionModule& original, AttentionModule& replacement,
                          const char* step, const std::string& path) {
  const std::optional<DType> dtype = original.quantized_cache();
  if (!dtype || replacement.set_cache_dtype(*dtype)) return;
  throw Error(fmt::format("step '{}' comes after step 'quantize_model': the KV cache of {} is in "
                          "{}, and '{}' has none to store so",
                          step, path, short_name_of(*dtype), replacement.class_name()),
              fmt::format("call {} before quantize_model, and set_cache() in the class", step));
}

const RegistryEntry<ModuleClassFunction>& find_module_class(TransformerModel& model,
                                                            const std::string& name,
                                                            const char* field) {
  const auto* entry = module_classes().find(name);
  if (entry == nullptr) {
    const std::vector<std::string> known = module_classes().names();
    const std::string plugin = missing_plugin_hint("module_class", name);
    throw Error(
        fmt::format("profile: {}: no module class '{}' is registered", field, printable(name)),
        plugin.empty() ? did_you_mean(name, known, fmt::format("known are {}", join(known, ", ")))
                       : plugin);
  }
  model.note_contributor(module_classes(), *entry);
  return *entry;
}

}  // namespace tcast
