#include <set>
#include <string>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/attention.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/moe.h"
#include "tcast/transform/module_filter.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/quantization_scheme.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

/// Routers choose experts by small differences: they stay in the checkpoint's dtype.
std::set<const Module*> routers(Module& root, const MoeFieldNames& names) {
  std::set<const Module*> gates;
  walk(root, [&](const Module& module, const ModulePath&) {
    if (!module.int_attribute(names.top_k) || module.find_child(names.experts) == nullptr) return;
    for (const std::string& name : {names.gate, names.shared_experts_gate}) {
      if (const Module* gate = module.find_child(name)) gates.insert(gate);
    }
  });
  return gates;
}

std::string first_member(const ModulePath& path) {
  std::vector<std::int64_t> indices;
  for (const Module* module : path.chain()) {
    if (module->members().in_list()) indices.push_back(module->members().first);
  }
  return path.member(indices);
}

/// Experts that are stored together are no linears. Returns whether the module is such.
bool quantize_fused_experts(Module& module, const ModulePath& path,
                            const LinearQuantization& quantization, const ModuleFilter& ignore,
                            StepReport& report) {
  if (dynamic_cast<FusedExperts*>(&module) != nullptr) {
    report.skipped.push_back(
        {path.text(), "its experts are computed one by one (step patch_moe comes first)"});
    return true;
  }
  auto* experts = dynamic_cast<GroupedFusedExperts*>(&module);
  if (experts == nullptr) return false;
  const std::string from = module.class_name();
  if (experts->quantization()) {
    report.skipped.push_back({path.text(), "it is quantized already"});
  } else if (const std::string_view pattern = ignore.match(first_member(path)); !pattern.empty()) {
    report.skipped.push_back({path.text(), fmt::format("excluded by '{}'", pattern)});
  } else if (!experts->quantize(quantization)) {
    report.skipped.push_back(
        {path.text(), "experts stored together have one scale per output only"});
  } else {
    report.changed.push_back(
        {path.text(), from,
         fmt::format("{} ({})", module.class_name(), experts->quantization()->describe())});
    report.changed_modules += path.count();
  }
  return true;
}

void quantize_linears(TransformerModel& m, StepReport& report) {
  const QuantizationPlan plan = plan_quantization(m.config(), m.options());
  if (!plan.linear) {
    report.skipped.push_back({"", plan.source.empty()
                                      ? "the checkpoint is not quantized and nothing was asked for"
                                      : "linears stay as they are (" + plan.source + ")"});
    return;
  }
  // The user's own ones first, so that a mistake in them is reported as theirs.
  const ModuleFilter own(m.options().quantize_ignore, "--quantize-ignore");
  ModuleFilter::KnownAs known_as;
  if (m.names() != nullptr) {
    known_as = [&m](const std::string& path) { return m.names()->parameter_name(path); };
  }
  const ModuleFilter ignore(plan.ignore, plan.source, known_as);
  ignore.split_lists(m.root());
  const std::set<const Module*> gates = routers(m.root(), m.profile().moe_field_names);
  walk(m.root(), [&](Module& module, const ModulePath& path) {
    if (quantize_fused_experts(module, path, *plan.linear, ignore, report)) return;
    auto* linear = dynamic_cast<Linear*>(&module);
    if (linear == nullptr) return;
    if (gates.count(linear) > 0) {
      report.skipped.push_back({path.text(), "a router stays in high precision"});
      return;
    }
    if (linear->quantization()) {
      report.skipped.push_back({path.text(), "it is quantized already"});
      return;
    }
    if (const std::string_view pattern = ignore.match(first_member(path)); !pattern.empty()) {
      report.skipped.push_back({path.text(), fmt::format("excluded by '{}'", pattern)});
      return;
    }
    const std::string from = linear->class_name();
    linear->quantize(*plan.linear);
    report.changed.push_back(
        {path.text(), from,
         fmt::format("{} ({})", linear->class_name(), linear->quantization()->describe())});
    report.changed_modules += path.count();
  });
  if (report.changed_modules > 0) m.fulfil(Request::quantize_linear);
  for (const std::string& pattern : m.options().quantize_ignore) {
    const ModuleFilter one({pattern}, "--quantize-ignore", known_as);
    bool matched = false;
    walk(m.root(), [&](const Module& module, const ModulePath& path) {
      if (matched || !holds_products(module)) return;
      matched = !one.match(first_member(path)).empty();
    });
    if (!matched) {
      throw Error(
          fmt::format("--quantize-ignore '{}' matches no linear of the model", printable(pattern)),
          "'tcast inspect' shows the names of the modules");
    }
  }
  m.fulfil(Request::quantize_ignore);
}

void quantize_cache(TransformerModel& m, StepReport& report) {
  const KvScheme scheme = m.options().quantize_kv_cache;
  if (scheme == KvScheme::none) {
    report.skipped.push_back({"", "the KV cache stays as it is (--quantize-kv-cache none)"});
    return;
  }
  const DType dtype = scheme == KvScheme::int8 ? DType::i8 : DType::f8_e4m3;
  bool any = false;
  walk(m.root(), [&](Module& module, const ModulePath& path) {
    auto* attention = dynamic_cast<AttentionModule*>(&module);
    if (attention == nullptr) return;
    if (attention->quantized_cache() == dtype) {
      report.skipped.push_back({path.text(), "its KV cache is quantized already"});
      any = true;
      return;
    }
    if (!attention->set_cache_dtype(dtype)) {
      report.skipped.push_back(
          {path.text(), fmt::format("'{}' has no paged cache (step patch_attention comes first)",
                                    module.class_name())});
      return;
    }
    report.changed.push_back(
        {path.text(), module.class_name(), fmt::format("KV cache in {}", short_name_of(dtype))});
    report.changed_modules += path.count();
    any = true;
  });
  if (any) {
    m.fulfil(Request::quantize_kv_cache);
  } else {
    report.skipped.insert(report.skipped.begin(), {"", "no attention keeps a paged cache"});
  }
}

}  // namespace

TransformerModel& quantize_linear(TransformerModel& model) {
  return run_step(model, "quantize_linear", quantize_linears);
}

TransformerModel& quantize_model(TransformerModel& model) {
  return run_step(model, "quantize_model", [](TransformerModel& m, StepReport& report) {
    quantize_linears(m, report);
    quantize_cache(m, report);
  });
}

}  // namespace tcast
