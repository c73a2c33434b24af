#include "tcast/transform/named_class.h"

#include <set>
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
      report.skipped.push_back({where, why.reason});
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
  const std::vector<std::string> present(classes.begin(), classes.end());
  const std::string source =
      model.profile().sources.empty() ? "profile" : model.profile().sources.back();
  throw Error(fmt::format("{}: {}: no module of the model has the class '{}'", source, field,
                          printable(class_name)),
              did_you_mean(class_name, present, "'tcast inspect' shows the classes"));
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
