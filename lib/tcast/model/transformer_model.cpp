#include "tcast/model/transformer_model.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/embedded.h"
#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/tree_check.h"

namespace tcast {

TransformerModel::TransformerModel(HfConfig config, ModelProfile profile, ModelOptions options,
                                   std::unique_ptr<Module> root,
                                   std::vector<std::string> assumptions)
    : config_(std::move(config)),
      profile_(std::move(profile)),
      options_(std::move(options)),
      layout_(options_.parallel),
      root_(std::move(root)),
      assumptions_(std::move(assumptions)),
      custom_model_config_("custom_model_config: ") {
  if (profile_.custom_model_config) custom_model_config_ = Arguments(*profile_.custom_model_config);
  for (const std::string& text : options_.custom_model_config) {
    custom_model_config_.merge_text(text, "--custom-model-config");
  }
}

TransformerModel TransformerModel::copy_for(const ParallelOptions& parallel) const {
  ModelOptions options = options_;
  options.parallel = parallel;
  TransformerModel copy(config_, profile_, std::move(options),
                        guard_modules("copying the model", [this] { return root_->clone(); }),
                        assumptions_);
  copy.warnings_ = warnings_;
  copy.reports_ = reports_;
  copy.custom_model_config_ = custom_model_config_;
  copy.architecture_ = architecture_;
  copy.hook_ = hook_;
  copy.names_ = names_;
  copy.replicas_ = replicas_;
  copy.contributors_ = contributors_;
  copy.plugins_ = plugins_;
  return copy;
}

std::string TransformerModel::built_by() const {
  return architecture_.entry == nullptr ? "the architecture" : "the " + architecture_.entry->text();
}

void TransformerModel::set_architecture(ResolvedArchitecture architecture) {
  TCAST_CHECK(architecture.entry != nullptr, "an architecture that built a tree");
  note_contributor(architectures(), *architecture.entry);
  architecture_ = std::move(architecture);
}

void TransformerModel::wrap_root(
    const std::function<std::unique_ptr<Module>(std::unique_ptr<Module>)>& wrap) {
  std::unique_ptr<Module> wrapped = wrap(std::move(root_));
  if (wrapped == nullptr) {
    // The old one is gone, too: what follows finds an empty tree, not a null pointer.
    root_ = std::make_unique<ModuleList>();
    throw Error(
        "wrap_root was given a function that returns no module: the model has lost its root",
        "return the wrapper, or the module that the function was given");
  }
  root_ = std::move(wrapped);
}

// --- plugins -------------------------------------------------------------------------------------

namespace {

/// Names that a plugin's code gave to the model.
class GuardedNames final : public ModelNames {
 public:
  GuardedNames(const Registered& by, std::shared_ptr<ModelNames> names)
      : by_(by), names_(std::move(names)) {}

  std::string parameter_name(const std::string& path) const override {
    return guarded(by_, "parameter_name", [&] { return names_->parameter_name(path); });
  }
  std::string checkpoint_name(const std::string& path) const override {
    return guarded(by_, "checkpoint_name", [&] { return names_->checkpoint_name(path); });
  }

 private:
  const Registered& by_;
  std::shared_ptr<ModelNames> names_;
};

/// The maker of the first module that a plugin made, or null. The tree may be broken.
const Registered* maker_in(const Module& module) {
  if (module.maker() != nullptr) return module.maker();
  for (const auto& child : module.children()) {
    if (child == nullptr) continue;
    if (const Registered* maker = maker_in(*child)) return maker;
  }
  return nullptr;
}

}  // namespace

void TransformerModel::set_names(std::shared_ptr<ModelNames> names) {
  const Registered* const by = called_plugin();
  if (by != nullptr && names != nullptr) {
    names = std::make_shared<GuardedNames>(*by, std::move(names));
  }
  names_ = std::move(names);
}

template <class Tell>
void TransformerModel::tell_observer(const Tell& tell) {
  if (observer_ == nullptr) return;
  if (observer_maker_ == nullptr) return outside_of_plugins(tell);
  guarded(*observer_maker_, "a step observer", tell);
}

void TransformerModel::before_step(std::string_view step) {
  tell_observer([&] { observer_->before_step(*this, step); });
}

void TransformerModel::after_step(const StepReport& report) {
  tell_observer([&] { observer_->after_step(*this, report); });
}

void TransformerModel::note_contributor(const Registered& by, Provenance provenance) {
  if (std::find(contributors_.begin(), contributors_.end(), provenance) != contributors_.end()) {
    return;
  }
  contributors_.push_back(std::move(provenance));
  if (by.origin == Origin::custom) plugins_.push_back(by);
}

void TransformerModel::blame_plugins(std::string_view what) const {
  if (internal::is_settled()) throw;
  const Registered* by = root_ == nullptr ? nullptr : maker_in(*root_);
  // Whoever changed the model last is the likeliest.
  if (by == nullptr && !plugins_.empty()) by = &plugins_.back();
  if (by == nullptr) throw;
  try {
    throw;
  } catch (const Interruption&) {
    throw;
  } catch (...) {
    by->refuse(fmt::format("{} failed on what it made of the model: {}", what,
                           internal::current_exception_text()),
               "this is most likely a mistake in the plugin");
  }
}

Module* TransformerModel::find(std::string_view path) {
  Module* at = root_.get();
  for (const std::string& piece : split(path, '.')) {
    at = at->find_entry(piece);
    if (at == nullptr) return nullptr;
  }
  return at;
}

bool TransformerModel::is_sharded() const {
  bool sharded = replicas_ > 1;
  walk(*root_, [&sharded](const Module& module, const ModulePath& path) {
    sharded = sharded || path.local_count() < path.count();
    for (const Parameter& parameter : module.parameters()) {
      sharded = sharded || parameter.shard.ranks > 1 || parameter.stack.ranks > 1;
    }
  });
  return sharded;
}

// --- parameters ----------------------------------------------------------------------------------

std::vector<NamedParameter> TransformerModel::parameters() const {
  std::vector<NamedParameter> list;
  // HuggingFace writes a list entry's parameters together, so ranges are unrolled on the way down.
  auto visit = [&](auto&& self, const Module& module, const std::string& prefix) -> void {
    for (const Parameter& parameter : module.parameters()) {
      std::string name = prefix.empty() ? std::string() : prefix + ".";
      list.push_back({name.append(parameter.name), &parameter});
    }
    for (const auto& child : module.children()) {
      const ListMembers& members = child->members();
      for (std::int64_t i = 0; i < members.count; ++i) {
        const std::string piece =
            members.in_list() ? std::to_string(members.first + i) : child->name();
        if (piece.empty()) {
          self(self, *child, prefix);
        } else {
          self(self, *child, prefix.empty() ? piece : fmt::format("{}.{}", prefix, piece));
        }
      }
    }
  };
  visit(visit, *root_, "");
  return list;
}

ParameterCounts TransformerModel::count_parameters() const {
  ParameterCounts counts;
  std::int64_t idle = 0;
  auto count_below = [](const Module& module) {
    std::int64_t total = 0;
    walk(module, [&total](const Module& below, const ModulePath& path) {
      for (const Parameter& parameter : below.parameters()) {
        if (parameter.buffer || parameter.is_quantization_part() || !parameter.tied_to.empty())
          continue;
        total = checked_add(total, checked_mul(parameter.shape.elements(), path.count()),
                            "number of parameters");
      }
    });
    return total;
  };
  counts.total = count_below(*root_);
  walk(*root_, [&](const Module& module, const ModulePath& path) {
    // A mixture of experts is whatever has a number of chosen ones and a list of experts.
    const auto top_k = module.int_attribute(profile_.moe_field_names.top_k);
    const Module* experts = module.find_child(profile_.moe_field_names.experts);
    if (!top_k || experts == nullptr) return;
    const bool list = experts->list_size() > 0;
    const std::int64_t size =
        list ? experts->list_size() : module.int_attribute("num_experts").value_or(0);
    if (size == 0) return;
    const std::int64_t per_expert = count_below(*experts) / size;
    idle += checked_mul((size - *top_k) * per_expert, path.count());
  });
  counts.active = counts.total - idle;
  return counts;
}

std::vector<std::string> TransformerModel::assumptions() const {
  std::vector<std::string> all = assumptions_;
  const std::vector<std::string> defaults = config_.defaults_read();
  if (!defaults.empty()) {
    all.push_back(fmt::format("absent, as in {}: {}", config_.class_name(), join(defaults, ", ")));
  }
  return all;
}

std::vector<std::string> TransformerModel::warnings() const {
  std::vector<std::string> all = warnings_;
  const std::vector<UnreadKey> unread = config_.unread();
  constexpr std::size_t most_keys = 12;
  for (std::size_t i = 0; i < std::min(unread.size(), most_keys); ++i) {
    const UnreadKey& key = unread[i];
    const std::string meant = config_.closest_unset(key);
    all.push_back(fmt::format("config key {}{} is not read{}{}", key.path,
                              key.value.empty() ? "" : fmt::format(" ({})", key.value),
                              ": what it says may be missing from the numbers",
                              meant.empty() ? "" : fmt::format("; did you mean {}?", meant)));
  }
  if (unread.size() > most_keys) {
    all.push_back(fmt::format("{} further config keys are not read", unread.size() - most_keys));
  }
  for (const StepReport& step : reports_) {
    for (const std::string& warning : step.warnings) all.push_back(step.step + ": " + warning);
  }
  return all;
}

bool TransformerModel::generates() const {
  bool generates = true;
  walk(*root_, [&generates](const Module& module, const ModulePath&) {
    const auto* lm = dynamic_cast<const CausalLm*>(&module);
    if (lm != nullptr && lm->head_kind() != HeadKind::causal) generates = false;
  });
  return generates;
}

std::int64_t TransformerModel::context_limit() const {
  double limit = 0;
  walk(*root_, [&limit](const Module& module, const ModulePath&) {
    const auto* rotary = dynamic_cast<const RotaryEmbedding*>(&module);
    if (rotary != nullptr) limit = std::max(limit, rotary->rope().context_limit);
  });
  if (limit == 0) limit = config_.find<double>("max_position_embeddings").value_or(0);
  return static_cast<std::int64_t>(std::min(limit, 1e15));
}

std::int64_t TransformerModel::longest_sequence() const {
  std::int64_t longest = std::numeric_limits<std::int64_t>::max();
  walk(*root_, [&longest](const Module& module, const ModulePath&) {
    const auto* table = dynamic_cast<const PositionEmbedding*>(&module);
    if (table != nullptr) longest = std::min(longest, table->positions());
  });
  return longest;
}

std::int64_t TransformerModel::weight_bytes() const {
  std::int64_t bytes = 0;
  walk(*root_, [&bytes](const Module& module, const ModulePath& path) {
    for (const Parameter& parameter : module.parameters()) {
      bytes = checked_add(bytes, checked_mul(parameter.local_bytes(), path.local_count()),
                          "bytes of weights");
    }
  });
  return bytes;
}

void TransformerModel::trace(const Workload& workload, Graph& graph) const {
  guard_modules("tracing", [&] {
    Trace tracer(graph, workload);
    this->trace(tracer);
  });
}

void TransformerModel::trace(Trace& trace) const {
  const std::int64_t tokens = trace.workload().tokens();
  const Value result = (*root_)(trace, trace.input("token ids", {tokens}, DType::i64));
  if (!trace.has_output("logits")) trace.output("logits", result);
  trace.finish();
}

// --- registries ----------------------------------------------------------------------------------

const Registry<ArchitectureFunction>& architectures() {
  return registry_of<ArchitectureFunction>("architecture");
}

const Registry<ModuleClassFunction>& module_classes() {
  return registry_of<ModuleClassFunction>("module_class");
}

const Registry<OperatorFunction>& operators() { return registry_of<OperatorFunction>("operator"); }

const Registry<ArchitecturePredicate>& architecture_predicates() {
  return registry_of<ArchitecturePredicate>("architecture_predicate");
}

std::vector<RegistryEntry<ProfileFunction>> core_profiles() {
  std::vector<RegistryEntry<ProfileFunction>> entries;
  for (const EmbeddedFile& file : embedded_profiles()) {
    const auto text = [&file] { return ProfileText{{file.text, file.size}, file.name}; };
    entries.push_back(
        {{std::string_view(file.key), Origin::builtin, false, 0, std::string_view(file.name)},
         ProfileFunction(text)});
  }
  return entries;
}

const Registry<ProfileFunction>& profiles() {
  return registry_of<ProfileFunction>("profile", core_profiles);
}

std::string recognise(const HfConfig& config) {
  const auto* const entry =
      architecture_predicates().match([&](const auto& predicate) { return predicate.call(config); },
                                      fmt::format("the config {}", config.file()));
  return entry == nullptr ? "" : std::string(entry->pattern);
}

const OperatorDefinition& find_operator(const std::string& name) {
  // Ops point at their definition, so definitions live as long as the program.
  struct Known {
    std::string name;
    OperatorDefinition definition;
  };
  static std::mutex mutex;
  static std::deque<Known> definitions;
  const auto* const entry = operators().find(name);
  if (entry == nullptr) {
    const std::string hint = missing_plugin_hint("operator", name);
    throw Error(fmt::format("no operator '{}' is registered", printable(name)),
                hint.empty() ? did_you_mean(name, operators().names()) : hint);
  }
  const std::lock_guard lock(mutex);
  for (const Known& known : definitions) {
    const RegistryEntry<OperatorFunction>& work = known.definition.work;
    const bool same = work.value == entry->value && work.file == entry->file &&
                      work.line == entry->line && work.plugin == entry->plugin;
    if (known.name == name && same) return known.definition;
  }
  Known& fresh = definitions.emplace_back(Known{name, {"", *entry}});
  fresh.definition.name = fresh.name.c_str();
  return fresh.definition;
}

}  // namespace tcast
