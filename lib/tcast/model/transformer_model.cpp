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

namespace tcast {

TransformerModel::TransformerModel(HfConfig config, ModelProfile profile, ModelOptions options,
                                   std::unique_ptr<Module> root,
                                   std::vector<std::string> assumptions)
    : config_(std::move(config)),
      profile_(std::move(profile)),
      options_(std::move(options)),
      root_(std::move(root)),
      assumptions_(std::move(assumptions)),
      custom_model_config_("custom_model_config: ") {
  if (profile_.custom_model_config) custom_model_config_ = Arguments(*profile_.custom_model_config);
  for (const std::string& text : options_.custom_model_config) {
    custom_model_config_.merge_text(text, "--custom-model-config");
  }
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
          self(self, *child, prefix.empty() ? piece : prefix + "." + piece);
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
        if (parameter.buffer || parameter.scale || !parameter.tied_to.empty()) continue;
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
  Trace tracer(graph, workload);
  const Value result = (*root_)(tracer, tracer.input("token ids", {workload.tokens()}, DType::i64));
  if (!tracer.has_outputs()) tracer.output("logits", result);
  tracer.finish();
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

const Registry<ProfileFunction>& profiles() { return registry_of<ProfileFunction>("profile"); }

std::string recognise(const HfConfig& config) {
  const auto* const entry = architecture_predicates().match(
      [&](const ArchitecturePredicate& recognises) { return recognises(config); },
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
    if (known.name == name && known.definition.work == entry->value) return known.definition;
  }
  Known& fresh = definitions.emplace_back(Known{name, {nullptr, entry->value}});
  fresh.definition.name = fresh.name.c_str();
  return fresh.definition;
}

// --- profiles ------------------------------------------------------------------------------------

ModelProfile load_profile(const std::string& model_type, const std::vector<std::string>& files,
                          const std::string& builtin_type) {
  const std::string& builtin = builtin_type.empty() ? model_type : builtin_type;
  ModelProfile profile;
  profile.model_type = model_type;
  // Exact, else the most literal letters; the builtin index is by key, nothing is parsed in vain.
  const EmbeddedFile* best = nullptr;
  for (const EmbeddedFile& file : embedded_profiles()) {
    if (!matches_pattern(builtin, file.key)) continue;
    const bool better = best == nullptr ||
                        (is_literal_pattern(file.key) && !is_literal_pattern(best->key)) ||
                        (is_literal_pattern(file.key) == is_literal_pattern(best->key) &&
                         literal_length(file.key) > literal_length(best->key));
    if (better) best = &file;
  }
  if (best != nullptr) {
    profile.merge(Node::parse_yaml(std::string_view(best->text, best->size), best->name));
    profile.sources.back() += " (builtin)";
  }
  if (const auto* const entry = tcast::profiles().find(builtin)) {
    const ProfileText text = entry->value();
    profile.merge(Node::parse_yaml(text.text, text.file));
    profile.sources.back() += fmt::format(" (plugin {})", entry->plugin);
  }
  for (const std::string& file : files) {
    const Node yaml = Node::load_yaml(file);
    const std::optional<Node> pattern = yaml.find("model_type");
    if (pattern && !matches_pattern(model_type, pattern->as_string())) {
      pattern->fail(fmt::format("this profile is for '{}', the config's model_type is '{}'",
                                printable(pattern->as_string()), printable(model_type)),
                    "pass a profile for this model type, or widen its model_type pattern");
    }
    profile.merge(yaml);
  }
  profile.model_type = model_type;
  return profile;
}

// --- building ------------------------------------------------------------------------------------

namespace {

[[noreturn]] void fail_unknown(const HfConfig& config, const std::string& model_type) {
  const std::vector<std::string> known = architectures().names();
  const std::string near = closest(model_type, known);
  const std::string plugin = missing_plugin_hint("architecture", model_type);
  if (!plugin.empty()) {
    config.fail("model_type", fmt::format("unknown model type '{}'", printable(model_type)),
                plugin);
  }
  std::string hint = near.empty() ? "" : fmt::format("did you mean '{}'? ", near);
  hint +=
      "see 'tcast models' for what is known; describe the type in a profile with 'base:' "
      "(--profile FILE), register it in custom_model/, or, if it is built like a known type, say "
      "so "
      "with --assume-base TYPE";
  config.fail("model_type", fmt::format("unknown model type '{}'", printable(model_type)), hint);
}

/// What plugins have to say of single keys.
void validate_types(const HfConfig& config) {
  const auto& validators = type_validators();
  if (validators.empty()) return;
  for (const auto& [key, value] : config.members()) {
    if (const auto* const entry = validators.find(key)) entry->value(value);
  }
}

/// Other towers than the language model mean that a text-only tree would be a wrong answer.
void refuse_other_towers(const HfConfig& config, const std::string& model_type) {
  for (const char* key : {"vision_config", "visual", "audio_config", "vision_tower"}) {
    if (!config.has(key)) continue;
    const bool text = config.has("text_config") || config.has("llm_config");
    config.fail(key,
                fmt::format("'{}' has a part that is not a language model; such models are not "
                            "supported yet",
                            printable(model_type)),
                text ? "--text-only simulates its text_config alone" : "");
  }
}

}  // namespace

TransformerModel build_model(HfConfig config, ModelProfile profile, ModelOptions options,
                             const std::string& assume_base) {
  const std::string model_type = config.model_type();
  validate_types(config);
  refuse_other_towers(config, model_type);
  std::string build_as = model_type;
  std::vector<std::string> assumptions;
  const bool registered = architectures().find(model_type) != nullptr;
  const std::string recognised =
      registered || profile.base || !assume_base.empty() ? "" : recognise(config);
  if (!recognised.empty()) {
    if (architectures().find(recognised) == nullptr) {
      throw Error(fmt::format("{}: the config is recognised as '{}', which is not a known "
                              "architecture",
                              config.file(), printable(recognised)),
                  did_you_mean(recognised, architectures().names()));
    }
    build_as = recognised;
    assumptions.push_back(
        fmt::format("model type '{}' is recognised as '{}' by what its config has",
                    printable(model_type), recognised));
  } else if (profile.base) {
    build_as = *profile.base;
    if (architectures().find(build_as) == nullptr) {
      throw Error(
          fmt::format("{}: base: '{}' is not a known architecture",
                      profile.sources.empty() ? "profile" : profile.sources.back(),
                      printable(build_as)),
          did_you_mean(build_as, architectures().names(), "see 'tcast models' for the known ones"));
    }
  } else if (!registered && !assume_base.empty()) {
    build_as = assume_base;
    if (architectures().find(build_as) == nullptr) {
      throw Error(
          fmt::format("--assume-base '{}' is not a known architecture", printable(build_as)),
          did_you_mean(build_as, architectures().names(), "see 'tcast models' for the known ones"));
    }
    assumptions.push_back(
        fmt::format("model type '{}' is built as '{}' (--assume-base)", model_type, build_as));
  } else if (!registered) {
    fail_unknown(config, model_type);
  }
  std::unique_ptr<Module> root =
      architectures().find(build_as)->value({config, profile, options, assumptions});
  if (root == nullptr) {
    throw Error(fmt::format("the architecture '{}' ({}) returned no tree",
                            architectures().find(build_as)->pattern,
                            architectures().find(build_as)->place()));
  }
  TransformerModel model(std::move(config), std::move(profile), std::move(options), std::move(root),
                         std::move(assumptions));
  model.set_recognised_as(recognised);
  return model;
}

}  // namespace tcast
