#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "tcast/base/export.h"
#include "tcast/base/registry.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// Transforms a model in place of the nine steps; may call any of them.
using CustomModelHook = void (*)(TransformerModel& model);

/// Every registered hook. Throws Error when registrations contradict each other.
TCAST_API const Registry<CustomModelHook>& custom_models();

/// One of the nine standard steps.
struct StepInfo {
  std::string_view name;
  std::string_view description;
  TransformerModel& (*function)(TransformerModel& model);
};

/// The nine steps in their order: the one table behind the pipeline, `tcast steps` and --skip-step.
TCAST_API std::span<const StepInfo> standard_steps();

/// Runs the standard steps one after the other.
TCAST_API TransformerModel& run_standard_steps(TransformerModel& model);

/// What every step does around its body: skips it if disabled, times it, runs it, records the
/// report, validates the tree, tells the observer. A custom hook's own steps may use it too.
TCAST_API TransformerModel& run_step(
    TransformerModel& model, std::string_view name,
    const std::function<void(TransformerModel& model, StepReport& report)>& body);

/// How a model is going to be transformed, in words: "the nine standard steps", "the hook
/// 'bailing_moe' (builtin_model/bailing_moe.cpp:40)", "the pipeline of <profile>".
TCAST_API std::string describe_pipeline(const TransformerModel& model);

/// Transforms a model: by the hook that is registered for its type, else by its profile's pipeline,
/// else by the nine steps. Throws Error when a requested transformation was left undone (decision
/// D8) and for unknown step names.
TCAST_API void transform(TransformerModel& model);

}  // namespace tcast
