#include "tcast/transform/pipeline.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/decoder.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

constexpr std::array<StepInfo, 9> steps = {{
    {"wrap_model", "one forward interface: token ids in, logits of the rows that need them out",
     wrap_model},
    {"maybe_enable_mtp", "multi-token-prediction layers, when asked for (--num-mtp-tokens)",
     maybe_enable_mtp},
    {"maybe_reuse_layers", "equal layers are traced once and called n times", maybe_reuse_layers},
    {"patch_rotary_emb", "rotary tables are cached up to the needed position", patch_rotary_emb},
    {"patch_attention", "attention is one fused operator over a paged KV cache", patch_attention},
    {"patch_mla", "latent attention: latent cache, absorbed in decode, expanded in prefill",
     patch_mla},
    {"patch_moe", "experts: routing, permutation, grouped matmul, combine", patch_moe},
    {"quantize_model", "linears and KV cache to the requested or the checkpoint's own scheme",
     quantize_model},
    {"shard_model", "tensor, expert, data and vocabulary parallelism with its collectives",
     shard_model},
}};

const StepInfo& find_step(const std::string& name, const std::string& where) {
  std::vector<std::string> known;
  for (const StepInfo& step : steps) {
    if (step.name == name) return step;
    known.emplace_back(step.name);
  }
  throw Error(fmt::format("{}: unknown step '{}'", where, printable(name)),
              did_you_mean(name, known, fmt::format("known are {}", join(known, ", "))));
}

/// What must hold after any step, whoever wrote it.
void validate(TransformerModel& model, std::string_view step) {
  auto fail = [&](const ModulePath& path, const std::string& what) {
    throw Error(fmt::format("step '{}' left {} {}", step, path.text(), what),
                "this is a mistake in the step or in the hook that ran it");
  };
  walk(model.root(), [&](Module& module, const ModulePath& path) {
    const bool is_list = !module.children().empty() && module.children()[0]->members().in_list();
    std::int64_t next = 0;
    for (const auto& child : module.children()) {
      if (child == nullptr) fail(path, "with a missing child");
      if (!is_list) continue;
      if (child->members().first != next) {
        fail(path, fmt::format("with a gap before entry {}", child->members().first));
      }
      next += child->members().count;
    }
    for (const Parameter& parameter : module.parameters()) {
      if (parameter.shape.elements() <= 0) {
        fail(path, fmt::format("with an empty parameter '{}'", parameter.name));
      }
    }
    if (auto* layers = dynamic_cast<LayerList*>(&module)) {
      if (layers->reuse()) layers->compare_layers();
    }
  });
}

void run_pipeline(TransformerModel& model) {
  for (const PipelineStep& step : model.profile().pipeline) {
    if (step.arguments) {
      for (const std::string& key : step.arguments->keys()) {
        if (key == "type") continue;
        step.arguments->at(key).fail(fmt::format("the step '{}' takes no arguments", step.name));
      }
    }
    find_step(step.name, "profile, pipeline").function(model);
  }
}

}  // namespace

const Registry<CustomModelHook>& custom_models() {
  static const auto registry = Registry<CustomModelHook>::linked("custom_model", "custom model");
  return registry;
}

std::span<const StepInfo> standard_steps() { return steps; }

TransformerModel& run_standard_steps(TransformerModel& model) {
  for (const StepInfo& step : steps) step.function(model);
  return model;
}

TransformerModel& run_step(
    TransformerModel& model, std::string_view name,
    const std::function<void(TransformerModel& model, StepReport& report)>& body) {
  StepReport report;
  report.step = name;
  const std::vector<std::string>& skipped = model.options().skip_steps;
  if (model.observer() != nullptr) model.observer()->before_step(model, name);
  if (std::find(skipped.begin(), skipped.end(), name) != skipped.end()) {
    report.disabled = true;
    report.skipped.push_back({"", "disabled by --skip-step"});
  } else {
    const auto start = std::chrono::steady_clock::now();
    body(model, report);
    validate(model, name);
    const std::chrono::duration<double, std::milli> taken =
        std::chrono::steady_clock::now() - start;
    report.milliseconds = taken.count();
  }
  model.reports().push_back(report);
  if (model.observer() != nullptr) model.observer()->after_step(model, model.reports().back());
  return model;
}

std::string describe_pipeline(const TransformerModel& model) {
  if (const auto* hook = custom_models().find(model.config().model_type())) {
    return fmt::format("the hook '{}' ({})", hook->pattern, hook->place());
  }
  if (!model.profile().pipeline.empty()) {
    return fmt::format("the pipeline of {}", model.profile().sources.back());
  }
  return "the nine standard steps";
}

void transform(TransformerModel& model) {
  for (const std::string& name : model.options().skip_steps) find_step(name, "--skip-step");
  if (const auto* hook = custom_models().find(model.config().model_type())) {
    hook->value(model);
  } else if (!model.profile().pipeline.empty()) {
    run_pipeline(model);
  } else {
    run_standard_steps(model);
  }
  const std::vector<UnfulfilledRequest> left = model.unfulfilled();
  if (left.empty()) return;
  std::vector<std::string> options;
  std::string hint;
  for (const UnfulfilledRequest& one : left) {
    options.push_back(one.option);
    for (const StepReport& report : model.reports()) {
      if (report.step != one.step) continue;
      // What is said of no module in particular is said of the whole step.
      const auto reason = std::find_if(report.skipped.begin(), report.skipped.end(),
                                       [](const auto& skip) { return skip.path.empty(); });
      if (!hint.empty() || reason == report.skipped.end()) continue;
      hint = fmt::format("step '{}': {}", report.step, reason->reason);
    }
  }
  if (hint.empty()) hint = "leave the option out";
  throw Error(fmt::format("{} was asked for, but {} did not carry it out", join(options, " and "),
                          describe_pipeline(model)),
              hint);
}

}  // namespace tcast
