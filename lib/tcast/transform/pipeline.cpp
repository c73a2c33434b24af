#include "tcast/transform/pipeline.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <map>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/decoder.h"
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

/// The standard steps as a pipeline calls them, those with arguments by their other form.
std::vector<RegistryEntry<StepFunction>> core_steps() {
  using Form = TransformerModel& (*)(TransformerModel&, const std::string&);
  static constexpr std::pair<std::string_view, std::pair<const char*, Form>> with_argument[] = {
      {"patch_attention", {"implementation", patch_attention}},
      {"patch_mla", {"implementation", patch_mla}},
      {"patch_moe", {"experts", patch_moe}}};
  std::vector<RegistryEntry<StepFunction>> entries;
  const auto add = [&](std::string_view name, StepFunction function) {
    entries.push_back(
        {name, std::move(function), Origin::builtin, false, 0, "lib/tcast/transform/pipeline.cpp"});
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

const RegistryEntry<StepFunction>& find_step(const std::string& name, const std::string& where) {
  if (const auto* const entry = registered_steps().find(name)) return *entry;
  const std::vector<std::string> known = registered_steps().names();
  const std::string plugin = missing_plugin_hint("step", name);
  throw Error(fmt::format("{}: unknown step '{}'", where, printable(name)),
              plugin.empty()
                  ? did_you_mean(name, known, fmt::format("known are {}", join(known, ", ")))
                  : plugin);
}

/// What must hold after any step, whoever wrote it.
void validate(TransformerModel& model, std::string_view step) {
  auto fail = [&](const ModulePath& path, const std::string& what) {
    throw Error(fmt::format("{} left {} {}", step, path.text(), what),
                "this is a mistake in the step or in the hook that ran it");
  };
  walk(model.root(), [&](Module& module, const ModulePath& path) {
    for (const auto& child : module.children()) {
      if (child == nullptr) fail(path, "with a missing child");
    }
    const bool is_list = !module.children().empty() && module.children()[0]->members().in_list();
    std::int64_t next = 0;
    for (const auto& child : module.children()) {
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

/// Calls something of a plugin's; what it throws that is no Error becomes one that names it.
template <class Call>
void call_plugin(const std::string& what, Call call) {
  try {
    call();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(fmt::format("{} failed: {}", what, error.what()),
                "this is a mistake in the plugin, not in the model");
  } catch (...) {
    throw Error(fmt::format("{} failed: it threw something that is no std::exception", what),
                "throw tcast::Error(message, hint)");
  }
}

std::string hook_text(const RegistryEntry<CustomModelHook>& hook) {
  return fmt::format("the hook '{}' ({})", hook.pattern, hook.place());
}

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

}  // namespace

void CustomModel::validate(const TransformerModel&) const {}

TransformerModel& CustomModel::transform(TransformerModel& model) {
  return run_profile_steps(model);
}

const Registry<CustomModelHook>& custom_models() {
  return registry_of<CustomModelHook>("custom_model");
}

const Registry<PatchFunction>& patches() { return registry_of<PatchFunction>("patch"); }

const Registry<StepFunction>& registered_steps() {
  return registry_of<StepFunction>("step", core_steps);
}

const RegistryEntry<CustomModelHook>* custom_model_of(const TransformerModel& model) {
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
  if (model.recognised_as().empty()) return nullptr;
  return custom_models().find(model.recognised_as());
}

void bind_custom_model(TransformerModel& model) {
  const auto* const hook = custom_model_of(model);
  if (hook == nullptr) return;
  std::shared_ptr<CustomModel> object;
  if (hook->value.make != nullptr) {
    call_plugin(hook_text(*hook), [&] { object = hook->value.make(); });
    if (object == nullptr) throw Error(fmt::format("{} made no object", hook_text(*hook)));
  } else {
    object = std::make_shared<FunctionModel>(hook->value.function);
  }
  model.set_names(std::move(object));
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
    call_plugin(fmt::format("the step '{}' ({})", entry.pattern, entry.place()),
                [&] { entry.value(model, arguments); });
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
  return run_step(model, name, [&](TransformerModel& m, StepReport& report) {
    call_plugin(fmt::format("the patch '{}' ({})", patch->pattern, patch->place()),
                [&] { patch->value(m); });
    report.changed.push_back({"", "", fmt::format("patched by '{}' ({})", name, patch->place())});
  });
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
    report.skipped.push_back({"", "disabled by --skip-step", true});
  } else {
    const auto start = std::chrono::steady_clock::now();
    body(model, report);
    note_shortfall(report);
    validate(model, fmt::format("step '{}'", name));
    const std::chrono::duration<double, std::milli> taken =
        std::chrono::steady_clock::now() - start;
    report.milliseconds = taken.count();
  }
  model.reports().push_back(report);
  if (model.observer() != nullptr) model.observer()->after_step(model, model.reports().back());
  return model;
}

std::string describe_pipeline(const TransformerModel& model) {
  if (const auto* hook = custom_model_of(model)) return hook_text(*hook);
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
    model.assumptions().push_back(
        fmt::format("keys of custom_model_config that the hook did not read: {}",
                    printable(join(unread, ", "), 2000)));
  }
  for (const std::string& text : model.options().custom_models) {
    const auto [pattern, hook] = split_mapping(text);
    resolve_hook(hook, "--custom-model");
    if (matches_pattern(model.config().model_type(), pattern)) continue;
    model.assumptions().push_back(
        fmt::format("--custom-model {} is not used: the model type is '{}'", printable(text),
                    printable(model.config().model_type())));
  }
}

}  // namespace

void transform(TransformerModel& model) {
  for (const std::string& name : model.options().skip_steps) find_step(name, "--skip-step");
  const auto* const hook = custom_model_of(model);
  if (hook != nullptr) {
    if (model.names() == nullptr) bind_custom_model(model);
    const auto object = std::dynamic_pointer_cast<CustomModel>(model.names());
    TCAST_CHECK(object != nullptr, "a hook is an object");
    call_plugin(hook_text(*hook), [&] {
      object->validate(model);
      object->transform(model);
    });
    if (model.root().children().empty() && model.root().parameters().empty()) {
      throw Error(fmt::format("{} left the model without a root", hook_text(*hook)));
    }
    validate(model, fmt::format("hook '{}'", hook->pattern));
  } else {
    run_profile_steps(model);
  }
  note_unused(model, hook != nullptr);
  check_coverage(model, describe_pipeline(model));
}

}  // namespace tcast
