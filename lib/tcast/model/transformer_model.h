#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/config/arguments.h"
#include "tcast/config/hf_config.h"
#include "tcast/config/model_profile.h"
#include "tcast/config/options.h"
#include "tcast/graph/graph.h"
#include "tcast/model/decoder_spec.h"
#include "tcast/model/layout.h"
#include "tcast/model/module.h"

namespace tcast {

class TransformerModel;

/// Builds the tree that HuggingFace's class would build from a config.
using ArchitectureFunction = std::function<std::unique_ptr<Module>(const ArchitectureContext&)>;

/// The registered model type that a config's tree is built as, found once (resolve_architecture()):
/// what built a model builds it again with other options.
struct ResolvedArchitecture {
  const RegistryEntry<ArchitectureFunction>* entry = nullptr;  ///< null: nobody knows the type
  std::string built_as{};    ///< the entry's type, where that is another than the config's
  std::string because{};     ///< why it is another one: "--assume-base"
  std::string assumption{};  ///< what to say about it; empty: nothing
};

/// What a step did to a model.
struct StepReport {
  struct Change {
    std::string path;  ///< "model.layers.[3-60].mlp"
    std::string from;  ///< class before
    std::string to;    ///< class, or what became of it
  };
  struct Skip {
    std::string path;
    std::string reason;   ///< never empty
    bool missed = false;  ///< something that was asked for, or expected, is not done because of it
  };
  std::string step;
  std::vector<Change> changed;
  std::vector<Skip> skipped;
  /// Modules that the step is about and that are not yet as it makes them, counting every list
  /// entry; fewer changed ones are a warning.
  std::optional<std::int64_t> expected;
  std::int64_t changed_modules = 0;  ///< modules that the step changed, counted likewise
  std::vector<std::string> warnings;
  bool disabled = false;  ///< by --skip-step
  double milliseconds = 0;
};

/// Is called around every step: simulate prices, verify executes, a debugger dumps.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void before_step(const TransformerModel& model, std::string_view step) = 0;
  virtual void after_step(const TransformerModel& model, const StepReport& report) = 0;
};

/// One parameter of the whole model, on the way through its list entries.
struct NamedParameter {
  std::string name;  ///< "model.layers.3.mlp.experts.17.gate_proj.weight"
  const Parameter* parameter = nullptr;
};

/// Numbers of parameters: whole model, no quantization scales, tied ones once.
struct ParameterCounts {
  std::int64_t total = 0;
  std::int64_t active = 0;  ///< total minus the routed experts that a token does not select
};

/// The names that somebody gives to what has HuggingFace's names in the tree.
class TCAST_API ModelNames {
 public:
  ModelNames() = default;
  ModelNames(const ModelNames&) = delete;
  ModelNames& operator=(const ModelNames&) = delete;
  virtual ~ModelNames() = default;

  /// The name under which users know the parameter or module at `path`
  /// ("model.layers.3.mlp.gate_proj.weight"): what --quantize-ignore may name as well.
  virtual std::string parameter_name(const std::string& path) const { return path; }

  /// The name that the parameter at `path` has in the checkpoint: what its generated values depend
  /// on.
  virtual std::string checkpoint_name(const std::string& path) const { return path; }
};

/// A model on its way from published to deployed form: config, profile, options, the tree, and what
/// the steps so far reported. What a step or a custom hook receives.
class TCAST_API TransformerModel {
 public:
  TransformerModel(HfConfig config, ModelProfile profile, ModelOptions options,
                   std::unique_ptr<Module> root, std::vector<std::string> assumptions);
  TransformerModel(TransformerModel&&) noexcept = default;
  TransformerModel& operator=(TransformerModel&&) noexcept = default;

  /// The model as it stands once more, without its observer, to be spread over other devices.
  /// Throws Error for what is no layout.
  TransformerModel copy_for(const ParallelOptions& parallel) const;

  const HfConfig& config() const { return config_; }
  const ModelProfile& profile() const { return profile_; }
  const ModelOptions& options() const { return options_; }
  /// How the devices of the options are grouped.
  const Layout& layout() const { return layout_; }
  Module& root() { return *root_; }
  const Module& root() const { return *root_; }
  /// Puts another module at the top, which is handed the old one.
  void wrap_root(const std::function<std::unique_ptr<Module>(std::unique_ptr<Module>)>& wrap);

  /// The module at a dotted path ("model.layers.3.mlp": the node that stands for entry 3), or null.
  Module* find(std::string_view path);

  const std::vector<StepReport>& reports() const { return reports_; }
  std::vector<StepReport>& reports() { return reports_; }
  /// What had to be assumed; the config class's values for absent keys are among them.
  std::vector<std::string> assumptions() const;
  void add_assumption(std::string text) { assumptions_.push_back(std::move(text)); }
  /// What the user should know although work goes on: of the architecture, of config keys that
  /// nothing read, of the steps so far.
  std::vector<std::string> warnings() const;
  void add_warning(std::string text) { warnings_.push_back(std::move(text)); }
  /// What the profile's custom_model_config and --custom-model-config say, the latter over the
  /// former.
  const Arguments& custom_model_config() const { return custom_model_config_; }
  /// The registered model type that the tree was built as, where that is another than the config's
  /// (recognised, --assume-base, the profile's base); else empty.
  const std::string& built_as() const { return architecture_.built_as; }
  /// Who built the untransformed tree: "the architecture 'llama' (builtin_model/llama.cpp:6)".
  std::string built_by() const;
  /// What built it.
  const ResolvedArchitecture& architecture() const { return architecture_; }
  void set_architecture(ResolvedArchitecture architecture);
  /// The registered hook that transforms the model, once it has been looked for (by
  /// bind_custom_model()); null: there is none. Nothing: nobody has looked yet.
  const std::optional<const Registered*>& hook() const { return hook_; }
  void set_hook(const Registered* hook) { hook_ = hook; }
  /// Names that the model's hook gives; null before bind_custom_model() and where there is no hook.
  const std::shared_ptr<ModelNames>& names() const { return names_; }
  /// Names that a plugin's code gives are asked for guarded.
  void set_names(std::shared_ptr<ModelNames> names);

  /// Who is told before and after every step; null: nobody.
  void set_observer(StepObserver* observer) {
    observer_ = observer;
    observer_maker_ = called_plugin();
  }
  StepObserver* observer() const { return observer_; }
  /// Tell the observer, if there is one. What goes wrong there is an Error of the plugin that set
  /// it, and of no plugin when the program did.
  void before_step(std::string_view step);
  void after_step(const StepReport& report);

  /// Notes that something of a registry takes part in building or transforming the model: its
  /// provenance ends in the report, and what goes wrong in the model may be its fault.
  template <class T>
  void note_contributor(const Registry<T>& registry, const RegistryEntry<T>& entry) {
    note_contributor(entry, registry.provenance(entry));
  }
  /// Who took part so far, each once.
  const std::vector<Provenance>& contributors() const { return contributors_; }

  /// Calls something that works on the modules. What it throws that is no Error comes out as one
  /// that names the plugin which made a module or changed the model; where no plugin did, it passes
  /// unchanged. `what` begins the message: "step 'shard_model'".
  template <class Call>
  decltype(auto) guard_modules(std::string_view what, Call&& call) const {
    try {
      return std::forward<Call>(call)();
    } catch (const Error&) {
      throw;
    } catch (...) {
      blame_plugins(what);
    }
  }

  /// Data-parallel replicas that share the requests: 1 until somebody lays the model out.
  std::int64_t replicas() const { return replicas_; }
  void set_replicas(std::int64_t replicas) { replicas_ = replicas; }
  /// True when somebody has spread it over the devices of its options: there are replicas, or a
  /// parameter or a list of which a rank holds a part. It executes on all of them.
  bool is_sharded() const;

  /// Every parameter, buffer and scale in the order of the tree, list entries written out.
  std::vector<NamedParameter> parameters() const;
  ParameterCounts count_parameters() const;
  /// Bytes of weights and buffers that one rank holds (the busiest), scales included, tied ones
  /// once.
  std::int64_t weight_bytes() const;
  /// Whether it predicts tokens: false for embeddings, classifiers and reward models, which do not
  /// decode.
  bool generates() const;
  /// Tokens of context that it is made for; 0: the config does not say.
  std::int64_t context_limit() const;
  /// Tokens of the longest sequence that it takes: as many as it has learned positions, else any.
  std::int64_t longest_sequence() const;

  /// Traces one forward pass on one rank.
  void trace(const Workload& workload, Graph& graph) const;
  /// The same into a trace of the caller's own, and finishes it.
  void trace(Trace& trace) const;

 private:
  void note_contributor(const Registered& by, Provenance provenance);
  template <class Tell>
  void tell_observer(const Tell& tell);
  [[noreturn]] void blame_plugins(std::string_view what) const;

  HfConfig config_;
  ModelProfile profile_;
  ModelOptions options_;
  Layout layout_;
  std::unique_ptr<Module> root_;
  std::vector<std::string> assumptions_;
  std::vector<std::string> warnings_;
  std::vector<StepReport> reports_;
  Arguments custom_model_config_;
  ResolvedArchitecture architecture_;
  std::optional<const Registered*> hook_;
  std::shared_ptr<ModelNames> names_;
  StepObserver* observer_ = nullptr;
  std::int64_t replicas_ = 1;
  const Registered* observer_maker_ = nullptr;
  std::vector<Provenance> contributors_;
  std::vector<Registered> plugins_;  ///< of the contributors, those that are plugins'
};

/// Whether a config describes models of the registered type that the predicate is registered under,
/// although its model_type is another one.
using ArchitecturePredicate = std::function<bool(const HfConfig& config)>;

/// A model profile as YAML text with its place.
struct ProfileText {
  std::string text;
  std::string file;
};
using ProfileFunction = std::function<ProfileText()>;

/// A module class that profiles may name: makes the module that takes `original`'s place and
/// content.
using ModuleClassFunction = std::function<std::unique_ptr<Module>(
    Module& original, const ModelProfile& profile, const ModelOptions& options)>;

/// What is registered under these groups; see registry_of().
TCAST_API const Registry<ArchitectureFunction>& architectures();
TCAST_API const Registry<ModuleClassFunction>& module_classes();
TCAST_API const Registry<OperatorFunction>& operators();
TCAST_API const Registry<ArchitecturePredicate>& architecture_predicates();
TCAST_API const Registry<ProfileFunction>& profiles();
/// What tcast itself has there.
TCAST_API std::vector<RegistryEntry<ProfileFunction>> core_profiles();

/// The registered model type whose predicate recognises a config, or "". Throws Error when two of
/// one origin do.
TCAST_API std::string recognise(const HfConfig& config);

/// The registered operator of that name, to put into a CustomOp. Throws Error with the closest
/// name.
TCAST_API const OperatorDefinition& find_operator(const std::string& name);

/// Merges the builtin profile of `model_type` (exact, else the most specific wildcard), the one
/// that a plugin registered, and the given files, later ones over earlier ones; below them the
/// profile of the type that the model is built as, where one of them names a `base` (or, where none
/// does, that of `built_as`). Instead of a file, "scope::name" is a registered profile. Throws
/// Error.
TCAST_API ModelProfile load_profile(const std::string& model_type,
                                    const std::vector<std::string>& files,
                                    const std::string& built_as = {});

/// Builds the untransformed model (decision D1). `assume_base`: the architecture to use for a model
/// type that nobody registered. Throws Error: unknown model types with what to do next; vision
/// towers and diffusion models by name, unless a plugin has an architecture for them; and, for a
/// model that is built as another type, keys that mean a part which that type has not.
TCAST_API TransformerModel build_model(HfConfig config, ModelProfile profile, ModelOptions options,
                                       const std::string& assume_base = {});
/// The same of an architecture that is known; the profile's base comes before it.
TCAST_API TransformerModel build_model(HfConfig config, ModelProfile profile, ModelOptions options,
                                       ResolvedArchitecture architecture);

/// Finds what builds a config: what is registered for its type, else the type of `assume_base`,
/// else the one that recognises it, whose predicates are asked once. A type that nobody registered
/// has no entry, and is an error of build_model() unless the profile names a base.
TCAST_API ResolvedArchitecture resolve_architecture(const HfConfig& config,
                                                    const std::string& assume_base);

/// Builds the untransformed model again with other options: the same config and profile by the same
/// architecture. What transforms it runs again, a hook included.
TCAST_API TransformerModel rebuild(const TransformerModel& model, ModelOptions options);

}  // namespace tcast
