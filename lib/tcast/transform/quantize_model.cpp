#include <string>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/attention.h"
#include "tcast/model/fused_experts.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/quantization_rules.h"
#include "tcast/transform/steps.h"
#include "tcast/transform/tree_facts.h"

namespace tcast {
namespace {

/// Stores the weights of a module otherwise. Returns why it cannot; empty: it is done.
std::string quantize(Module& module, const LinearQuantization& quantization) {
  for (const Parameter& parameter : module.parameters()) {
    if (!is_weight_matrix(parameter)) continue;
    std::string obstacle = quantization.obstacle(parameter);
    if (!obstacle.empty()) return obstacle;
  }
  if (auto* linear = dynamic_cast<Linear*>(&module)) {
    linear->quantize(quantization);
    return "";
  }
  if (auto* experts = dynamic_cast<GroupedFusedExperts*>(&module)) {
    experts->quantize(quantization);
    return "";
  }
  return "its experts are computed one by one (step patch_moe comes first)";
}

void quantize_module(Module& module, const ModulePath& path, const QuantizationRules& rules,
                     StepReport& report) {
  if (!holds_products(module)) return;
  const QuantizationRules::Verdict verdict =
      rules.decide(module, path, module.parameters().front());
  if (verdict.linear == nullptr) {
    report.skipped.push_back({path.text(), verdict.reason});
    return;
  }
  if (quantization_of(module) != nullptr) {
    report.skipped.push_back({path.text(), "it is quantized already"});
    return;
  }
  *report.expected += path.count();
  const std::string from = module.class_name();
  const std::string obstacle = quantize(module, *verdict.linear);
  if (!obstacle.empty()) {
    report.skipped.push_back({path.text(), obstacle, true});
    return;
  }
  report.changed.push_back(
      {path.text(), from, fmt::format("{} ({})", module.class_name(), verdict.linear->describe())});
  report.changed_modules += path.count();
}

void quantize_linears(TransformerModel& m, const QuantizationPlan& plan, StepReport& report) {
  if (!plan.quantizes_linears()) {
    report.skipped.push_back({"",
                              plan.linear_source.empty()
                                  ? "the checkpoint is not quantized and nothing was asked for"
                                  : "linears stay as they are (" + plan.linear_source + ")",
                              !m.options().quantize_ignore.empty()});
    return;
  }
  const QuantizationRules rules(m, m.root(), plan);
  walk(m.root(), [&](Module& module, const ModulePath& path) {
    quantize_module(module, path, rules, report);
  });
}

void quantize_cache(TransformerModel& m, const QuantizationPlan& plan, StepReport& report) {
  if (!plan.kv_cache) {
    report.skipped.push_back(
        {"", plan.kv_source.empty() || !plan.kv_by_option
                 ? "the KV cache stays in the dtype of the activations"
                 : fmt::format("the KV cache stays as it is ({})", plan.kv_source)});
    return;
  }
  std::int64_t paged = 0;
  walk(m.root(), [&](Module& module, const ModulePath& path) {
    auto* attention = dynamic_cast<AttentionModule*>(&module);
    if (attention == nullptr) return;
    if (attention->quantized_cache() == plan.kv_cache) {
      report.skipped.push_back({path.text(), "its KV cache is quantized already"});
      ++paged;
      return;
    }
    *report.expected += path.count();
    if (!attention->set_cache_dtype(*plan.kv_cache)) {
      report.skipped.push_back(
          {path.text(),
           fmt::format("'{}' has no paged cache (step patch_attention comes first)",
                       module.class_name()),
           true});
      return;
    }
    report.changed.push_back({path.text(), module.class_name(),
                              fmt::format("KV cache in {}", short_name_of(*plan.kv_cache))});
    report.changed_modules += path.count();
    ++paged;
  });
  if (paged == 0) {
    report.skipped.insert(report.skipped.begin(), {"", "no attention keeps a paged cache", true});
  }
}

}  // namespace

TransformerModel& quantize_linear(TransformerModel& model) {
  return run_step(model, "quantize_linear", [](TransformerModel& m, StepReport& report) {
    report.expected = 0;
    quantize_linears(m, plan_quantization(m.config(), m.options()), report);
  });
}

TransformerModel& quantize_model(TransformerModel& model) {
  return run_step(model, "quantize_model", [](TransformerModel& m, StepReport& report) {
    const QuantizationPlan plan = plan_quantization(m.config(), m.options());
    report.expected = 0;
    quantize_linears(m, plan, report);
    quantize_cache(m, plan, report);
  });
}

}  // namespace tcast
