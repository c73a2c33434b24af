#include "tcast/transform/pipeline.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/decoder.h"
#include "tcast/model/tree_check.h"
#include "tcast/transform/coverage.h"
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

const RegistryEntry<StepFunction>& find_step(const std::string& name, const std::string& where) {
  if (const auto* const entry = registered_steps().find(name)) return *entry;
  const std::vector<std::string> known = registered_steps().names();
  const std::string plugin = missing_plugin_hint("step", name);
  throw Error(fmt::format("{}: unknown step '{}'", where, printable(name)),
              plugin.empty()
                  ? did_you_mean(name, known, fmt::format("known are {}", join(known, ", ")))
                  : plugin);
}

/// A step that changed fewer modules than it is about says so, with the first reason for one of
/// them.
void note_shortfall(StepReport& report) {
  if (!report.expected || report.changed_modules >= *report.expected) return;
  std::string text =
      fmt::format("expected {}, changed {}", *report.expected, report.changed_modules);
  const auto first = std::find_if(report.skipped.begin(), report.skipped.end(),
                                  [](const StepReport::Skip& skip) { return skip.missed; });
  if (first != report.skipped.end()) {
    text += fmt::format(": {}{}{}", first->path, first->path.empty() ? "" : ": ", first->reason);
  }
  report.warnings.push_back(std::move(text));
}

/// A hook that was registered as a function.
class FunctionModel final : public CustomModel {
 public:
  explicit FunctionModel(std::function<void(TransformerModel&)> function)
      : function_(std::move(function)) {}
  TransformerModel& transform(TransformerModel& model) override {
    function_(model);
    return model;
  }

 private:
  std::function<void(TransformerModel&)> function_;
};

/// A hook of a plugin.
class GuardedModel final : public CustomModel {
 public:
  GuardedModel(const Registered& hook, std::unique_ptr<CustomModel> model)
      : hook_(hook), model_(std::move(model)) {}

  void validate(const TransformerModel& model) const override {
    guarded(hook_, "validate", [&] { model_->validate(model); });
  }
  TransformerModel& transform(TransformerModel& model) override {
    guarded(hook_, "", [&] { model_->transform(model); });
    return model;
  }
  std::string parameter_name(const std::string& path) const override {
    return guarded(hook_, "parameter_name",
                   [&] { return required(model_->parameter_name(path), path); });
  }
  std::string checkpoint_name(const std::string& path) const override {
    return guarded(hook_, "checkpoint_name",
                   [&] { return required(model_->checkpoint_name(path), path); });
  }

 private:
  static std::string required(std::string name, const std::string& path) {
    if (name.empty()) throw Error(fmt::format("it returned no name for '{}'", path));
    return name;
  }

  Registered hook_;
  std::unique_ptr<CustomModel> model_;
};

/// "type=reference" of --custom-model.
std::pair<std::string, std::string> split_mapping(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    throw Error(fmt::format("--custom-model: expected TYPE=HOOK, got '{}'", printable(text)),
                "as in llama=bailing_moe; HOOK is a registered name, plugin:name or plugin.name");
  }
  return {text.substr(0, equals), text.substr(equals + 1)};
}

const RegistryEntry<CustomModelHook>& resolve_hook(const std::string& reference,
                                                   const std::string& where) {
  try {
    return custom_models().resolve(reference);
  } catch (const Error& error) {
    const std::string plugin = missing_plugin_hint("custom_model", reference);
    throw Error(fmt::format("{}: {}", where, error.what()), plugin.empty() ? error.hint() : plugin);
  }
}

// --- what must hold after any step, whoever wrote it ---------------------------------------------

/// What the message says of hooks and steps is said once, whoever called the check.
[[noreturn]] void fail_check(const std::string& who, const TreeFault& fault) {
  const std::string where = fault.path.empty() ? "the model" : printable(fault.path);
  const std::string text = printable(fault.text, 1000);
  outside_of_plugins([&] {
    throw Error(fault.names_plugin ? fmt::format("{} (as {} left it)", text, who)
                                   : fmt::format("{} left {} broken: {}", who, where, text),
                fault.hint.empty() ? "this is a mistake in the step or in the hook that ran it"
                                   : fault.hint);
  });
  throw InternalError("a check that failed did not throw");
}

/// Checks the tree, and compares layers again. `who` names, as text, what was done to it; it is
/// called when something is wrong only.
template <class Who>
void check_tree(TransformerModel& model, Who who) {
  if (const std::optional<TreeFault> fault = find_fault(model.root())) fail_check(who(), *fault);
  model.guard_modules("comparing layers", [&model] {
    walk(model.root(), [](Module& module, const ModulePath&) {
      auto* const layers = dynamic_cast<LayerList*>(&module);
      if (layers != nullptr && layers->reuse()) layers->compare_layers();
    });
  });
}

/// Traces the model as well, before anybody prices or executes it.
template <class Who>
void check_model(TransformerModel& model, Who who) {
  check_tree(model, who);
  if (const std::optional<TreeFault> fault = find_traced_fault(model)) fail_check(who(), *fault);
}

/// "step 'merge_mlp' of the hook 'example_decoder' of plugin 'example' (custom_model/...cpp:71)",
/// "the step 'x' of plugin 'mine' (custom_model/x.cpp:3)".
std::string step_text(const TransformerModel& model, std::string_view name) {
  const std::string text = fmt::format("step '{}'", printable(name));
  if (const auto* const hook = custom_model_of(model)) return text + " of the " + hook->text();
  const auto* const step = registered_steps().find(name);
  if (step != nullptr) return step->origin == Origin::custom ? "the " + step->text() : text;
  const auto* const patch = patches().find(name);
  return patch == nullptr ? text : "the " + patch->text();
}

}  // namespace

void require_before(const TransformerModel& model, std::string_view step, std::string_view later,
                    const std::string& consequence) {
  for (const StepReport& report : model.reports()) {
    if (report.step != later || report.changed_modules == 0) continue;
    throw Error(fmt::format("step '{}' comes after step '{}': {}", step, later, consequence),
                fmt::format("call {} before {}", step, later));
  }
}

void CustomModel::validate(const TransformerModel&) const {}

TransformerModel& CustomModel::transform(TransformerModel& model) {
  return run_profile_steps(model);
}

std::unique_ptr<CustomModel> CustomModelHook::operator()() const {
  if (make != nullptr) return make();
  return std::make_unique<FunctionModel>(function);
}

std::unique_ptr<CustomModel> Checked<std::unique_ptr<CustomModel>>::of(
    const Registered& by, std::unique_ptr<CustomModel> model) {
  if (model == nullptr) by.refuse("it made no object", "return a CustomModel");
  return std::make_unique<GuardedModel>(by, std::move(model));
}

const Registry<CustomModelHook>& custom_models() {
  return registry_of<CustomModelHook>("custom_model");
}

const Registry<PatchFunction>& patches() { return registry_of<PatchFunction>("patch"); }

/// The standard steps as a pipeline calls them, those with arguments by their other form.
std::vector<RegistryEntry<StepFunction>> core_steps() {
  using Form = TransformerModel& (*)(TransformerModel&, const std::string&);
  static constexpr std::pair<std::string_view, std::pair<const char*, Form>> with_argument[] = {
      {"patch_attention", {"implementation", patch_attention}},
      {"patch_mla", {"implementation", patch_mla}},
      {"patch_moe", {"experts", patch_moe}}};
  std::vector<RegistryEntry<StepFunction>> entries;
  const auto add = [&](std::string_view name, StepFunction function) {
    entries.push_back({{name, Origin::builtin, false, 0, "lib/tcast/transform/pipeline.cpp"},
                       std::move(function)});
  };
  for (const StepInfo& step : steps) {
    add(step.name,
        [&step](TransformerModel& model, const Arguments& arguments) -> TransformerModel& {
          for (const auto& [name, form] : with_argument) {
            if (name != step.name) continue;
            const auto value = arguments.find<std::string>(form.first);
            if (value) return form.second(model, *value);
          }
          return step.function(model);
        });
  }
  add("quantize_linear", [](TransformerModel& model, const Arguments&) -> TransformerModel& {
    return quantize_linear(model);
  });
  return entries;
}

const Registry<StepFunction>& registered_steps() {
  return registry_of<StepFunction>("step", core_steps);
}

namespace {

const RegistryEntry<CustomModelHook>* find_custom_model(const TransformerModel& model) {
  const std::string model_type = model.config().model_type();
  std::string reference;
  // The last one that matches counts, so that a type can be taken out of a pattern.
  std::map<std::string, std::string> given;
  for (const std::string& text : model.options().custom_models) {
    const auto [pattern, hook] = split_mapping(text);
    const auto [before, is_new] = given.emplace(pattern, hook);
    if (!is_new && before->second != hook) {
      throw Error(fmt::format("--custom-model: '{}' is mapped to '{}' and to '{}'",
                              printable(pattern), printable(before->second), printable(hook)),
                  "keep one of the two");
    }
    if (matches_pattern(model_type, pattern)) reference = hook;
  }
  if (!reference.empty()) return &resolve_hook(reference, "--custom-model");
  if (model.profile().custom_model) {
    return &resolve_hook(*model.profile().custom_model,
                         model.profile().sources.back() + ": custom_model");
  }
  if (const auto* const hook = custom_models().find(model_type)) return hook;
  // Steps of the type's own profile come before the hook of the type that it is built as.
  if (model.built_as().empty() || !model.profile().pipeline.empty()) return nullptr;
  return custom_models().find(model.built_as());
}

}  // namespace

const RegistryEntry<CustomModelHook>* custom_model_of(const TransformerModel& model) {
  if (!model.hook()) return find_custom_model(model);
  return static_cast<const RegistryEntry<CustomModelHook>*>(*model.hook());
}

void bind_custom_model(TransformerModel& model) {
  const auto* const hook = custom_model_of(model);
  model.set_hook(hook);
  if (hook == nullptr) return;
  model.note_contributor(custom_models(), *hook);
  model.set_names(hook->call());
}

std::span<const StepInfo> standard_steps() { return steps; }

TransformerModel& run_standard_steps(TransformerModel& model) {
  for (const StepInfo& step : steps) {
    if (step.name == "patch_rotary_emb") apply_vl_patch(model);
    step.function(model);
  }
  return model;
}

TransformerModel& run_profile_steps(TransformerModel& model) {
  if (model.profile().pipeline.empty()) return run_standard_steps(model);
  for (const PipelineStep& step : model.profile().pipeline) {
    const auto& entry = find_step(step.name, step.place);
    const Arguments arguments =
        step.arguments ? Arguments(*step.arguments) : Arguments(step.place + ": ");
    if (entry.origin == Origin::custom) model.note_contributor(registered_steps(), entry);
    entry.call(model, arguments);
    // A step of somebody's own may do without run_step().
    if (entry.origin == Origin::custom) {
      check_tree(model, [&] { return step_text(model, step.name); });
    }
    arguments.reject_unread(fmt::format("the step '{}'", step.name));
  }
  return model;
}

TransformerModel& apply_vl_patch(TransformerModel& model) {
  if (!model.profile().vl_patch_method) return model;
  const std::string& name = *model.profile().vl_patch_method;
  const auto* const patch = patches().find(name);
  if (patch == nullptr) {
    const std::string plugin = missing_plugin_hint("patch", name);
    throw Error(
        fmt::format("{}: vl_patch_method: no patch '{}' is registered",
                    model.profile().sources.empty() ? "profile" : model.profile().sources.back(),
                    printable(name)),
        plugin.empty() ? did_you_mean(name, patches().names()) : plugin);
  }
  model.note_contributor(patches(), *patch);
  return run_step(model, name, [&](TransformerModel& m, StepReport& report) {
    patch->call(m);
    report.changed.push_back({"", "", fmt::format("patched by '{}' ({})", name, patch->place())});
  });
}

TransformerModel& run_step(
    TransformerModel& model, std::string_view name,
    const std::function<void(TransformerModel& model, StepReport& report)>& body) {
  StepReport report;
  report.step = name;
  const std::vector<std::string>& skipped = model.options().skip_steps;
  // Whoever prices or executes the model gets one that can be.
  const auto check = [&model](auto who) {
    model.observer() == nullptr ? check_tree(model, who) : check_model(model, who);
  };
  // A hook may have changed the tree since the last step, where nobody looked.
  if (model.names() != nullptr) {
    check([&] {
      const auto* const hook = custom_model_of(model);
      return fmt::format("{}, before step '{}',",
                         hook != nullptr ? "the " + hook->text() : "a hook", printable(name));
    });
  }
  model.before_step(name);
  if (std::find(skipped.begin(), skipped.end(), name) != skipped.end()) {
    report.disabled = true;
    report.skipped.push_back({"", "disabled by --skip-step", true});
  } else {
    const auto start = std::chrono::steady_clock::now();
    model.guard_modules(fmt::format("step '{}'", name), [&] { body(model, report); });
    note_shortfall(report);
    check([&] { return step_text(model, name); });
    const std::chrono::duration<double, std::milli> taken =
        std::chrono::steady_clock::now() - start;
    report.milliseconds = taken.count();
  }
  model.reports().push_back(report);
  model.after_step(model.reports().back());
  return model;
}

std::string describe_pipeline(const TransformerModel& model) {
  if (const auto* hook = custom_model_of(model)) {
    const bool replaces = custom_models().provenance(*hook).replaces_builtin;
    return fmt::format("the {}{}", hook->text(), replaces ? ", in place of the builtin one" : "");
  }
  if (!model.profile().pipeline.empty()) {
    return fmt::format("the pipeline of {}", model.profile().sources.back());
  }
  return "the nine standard steps";
}

namespace {

/// What was said to a hook or a step, and nobody listened to.
void note_unused(TransformerModel& model, bool has_hook) {
  const std::vector<std::string> unread = model.custom_model_config().unread();
  if (!unread.empty() && !has_hook && !model.options().custom_model_config.empty()) {
    throw Error(fmt::format("--custom-model-config is for a hook, but {} has none",
                            printable(model.config().model_type())),
                "leave it out, or choose a hook with --custom-model TYPE=HOOK");
  }
  if (!unread.empty()) {
    model.add_warning(fmt::format("keys of custom_model_config that the hook did not read: {}",
                                  printable(join(unread, ", "), 2000)));
  }
  for (const std::string& text : model.options().custom_models) {
    const auto [pattern, hook] = split_mapping(text);
    resolve_hook(hook, "--custom-model");
    if (matches_pattern(model.config().model_type(), pattern)) continue;
    model.add_assumption(fmt::format("--custom-model {} is not used: the model type is '{}'",
                                     printable(text), printable(model.config().model_type())));
  }
}

}  // namespace

void transform(TransformerModel& model) {
  for (const std::string& name : model.options().skip_steps) find_step(name, "--skip-step");
  auto object = std::dynamic_pointer_cast<CustomModel>(model.names());
  if (object == nullptr) {
    bind_custom_model(model);
    object = std::dynamic_pointer_cast<CustomModel>(model.names());
  }
  const auto* const hook = custom_model_of(model);
  if (hook != nullptr) {
    TCAST_CHECK(object != nullptr, "a hook is an object");
    object->validate(model);
    object->transform(model);
    if (model.root().children().empty() && model.root().parameters().empty()) {
      hook->refuse("it left the model without a root");
    }
    check_model(model, [&] { return "the " + hook->text(); });
  } else {
    run_profile_steps(model);
    if (const std::optional<TreeFault> fault = find_traced_fault(model)) {
      fail_check(fmt::format("{}, on what {} built,", describe_pipeline(model), model.built_by()),
                 *fault);
    }
  }
  note_unused(model, hook != nullptr);
  check_coverage(model, describe_pipeline(model));
}

}  // namespace tcast
