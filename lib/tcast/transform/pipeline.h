#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/config/arguments.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// A hook as an object: derive from it, override the stages that differ and inherit the rest. One
/// object is made for each model; its stages are called in the order in which they stand here.
class TCAST_API CustomModel : public ModelNames {
 public:
  /// Complains (throws Error) about a model that the hook is not made for, before it is changed.
  virtual void validate(const TransformerModel& model) const;

  /// Transforms the model in place of the nine steps; may call any of them. What it does unless
  /// overridden: the profile's pipeline, else the nine steps.
  virtual TransformerModel& transform(TransformerModel& model);
};

/// What is registered for model types: a function that transforms the model, or how to make a hook
/// object.
struct TCAST_API CustomModelHook {
  std::function<void(TransformerModel& model)> function{};
  std::function<std::unique_ptr<CustomModel>()> make{};

  /// The hook's object for one model; null when it made none.
  std::unique_ptr<CustomModel> operator()() const;

  friend bool operator==(const CustomModelHook& hook, std::nullptr_t) {
    return hook.function == nullptr && hook.make == nullptr;
  }
};

/// A hook whose stages are called guarded. Throws Error for none.
template <>
struct TCAST_API Checked<std::unique_ptr<CustomModel>> {
  static std::unique_ptr<CustomModel> of(const Registered& by, std::unique_ptr<CustomModel> model);
};

/// Every registered hook, patch (vl_patch_method) and step; the nine standard steps are among the
/// latter.
TCAST_API const Registry<CustomModelHook>& custom_models();
using PatchFunction = std::function<void(TransformerModel& model)>;
TCAST_API const Registry<PatchFunction>& patches();
using StepFunction =
    std::function<TransformerModel&(TransformerModel& model, const Arguments& arguments)>;
TCAST_API const Registry<StepFunction>& registered_steps();
/// What tcast itself has there.
TCAST_API std::vector<RegistryEntry<StepFunction>> core_steps();

/// The hook that transforms a model: the one that --custom-model names for its type, else the
/// profile's custom_model, else the one registered for its type, else for the type that its config
/// was recognised as; null when there is none. A model that is bound to it knows it. Throws Error
/// for references to nothing.
TCAST_API const RegistryEntry<CustomModelHook>* custom_model_of(const TransformerModel& model);

/// Finds the hook, makes its object, which knows names, and gives both to the model: once for each
/// model, when it is built; transform() does it otherwise.
TCAST_API void bind_custom_model(TransformerModel& model);

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
/// report, checks the tree (find_fault()), compares layers again, tells the observer; with an
/// observer, and at the end of a hook or pipeline, small traces are checked too. A custom hook's
/// own steps may use it too. Throws Error naming hook or step, place, module and what is wrong with
/// it.
TCAST_API TransformerModel& run_step(
    TransformerModel& model, std::string_view name,
    const std::function<void(TransformerModel& model, StepReport& report)>& body);

/// Refuses an order of steps: throws Error that names both when `later` ran already and changed
/// something. `consequence` is what would be wrong, such as "its experts would stay whole".
TCAST_API void require_before(const TransformerModel& model, std::string_view step,
                              std::string_view later, const std::string& consequence);

/// How a model is going to be transformed, in words: "the nine standard steps", "the hook 'mine' of
/// plugin 'mine' (custom_model/mine.cpp:40)", "the pipeline of <profile>".
TCAST_API std::string describe_pipeline(const TransformerModel& model);

/// Runs the steps of the profile's pipeline, or the nine steps when it has none.
TCAST_API TransformerModel& run_profile_steps(TransformerModel& model);

/// Transforms a model: by the hook that is registered for its type, else by its profile's pipeline,
/// else by the nine steps. Throws Error when something that an option asks for was left undone
/// (decision D13: check_coverage()) and for unknown step names; what is left undone of the
/// checkpoint's own scheme is among the model's warnings.
TCAST_API void transform(TransformerModel& model);

}  // namespace tcast
