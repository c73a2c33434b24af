#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/transformer_model.h"
#include "tcast/model/tree_check.h"

namespace tcast {

// --- profiles ------------------------------------------------------------------------------------

namespace {

/// A YAML map of profile fields, what the profile's sources call it, and where it comes from.
struct ProfileLayer {
  Node yaml;
  std::string source;
  Provenance provenance;
};

ProfileLayer registered_layer(const RegistryEntry<ProfileFunction>& entry) {
  const ProfileText text = entry.call();
  const std::string origin =
      entry.origin == Origin::builtin ? "builtin" : fmt::format("plugin {}", entry.plugin);
  return {guarded(entry, "", [&] { return Node::parse_yaml(text.text, text.file); }),
          fmt::format("{} ({})", text.file, origin), profiles().provenance(entry)};
}

/// What tcast and plugins have for exactly this type, without what it is based on.
std::vector<ProfileLayer> own_layers(const std::string& model_type) {
  std::vector<ProfileLayer> layers;
  for (const Origin origin : {Origin::builtin, Origin::custom}) {
    const auto* const entry = profiles().find(fmt::format("{}::{}", name_of(origin), model_type));
    if (entry != nullptr) layers.push_back(registered_layer(*entry));
  }
  return layers;
}

ProfileLayer layer_of_file(const std::string& model_type, const std::string& file) {
  std::error_code failure;
  if (!split_scope(file).first.empty() && !std::filesystem::exists(file, failure)) {
    return registered_layer(profiles().resolve(file));
  }
  const Node yaml = Node::load_yaml(file);
  const std::optional<Node> pattern = yaml.find("model_type");
  if (pattern && !matches_pattern(model_type, pattern->as_string())) {
    pattern->fail(fmt::format("this profile is for '{}', the config's model_type is '{}'",
                              printable(pattern->as_string()), printable(model_type)),
                  "pass a profile for this model type, or widen its model_type pattern");
  }
  return {yaml, yaml.file(), {"profile", file, Provenance::From::file, {}, file}};
}

/// The base that the last of some layers names; nothing when none does.
std::optional<Node> base_of(const std::vector<ProfileLayer>& layers) {
  std::optional<Node> base;
  for (const ProfileLayer& layer : layers) {
    if (!layer.yaml.is_map()) continue;
    if (std::optional<Node> named = layer.yaml.find("base")) base = std::move(named);
  }
  if (base && base->is_null()) base.reset();
  return base;
}

}  // namespace

ModelProfile load_profile(const std::string& model_type, const std::vector<std::string>& files,
                          const std::string& built_as) {
  std::vector<ProfileLayer> layers = own_layers(model_type);
  for (const std::string& file : files) layers.push_back(layer_of_file(model_type, file));
  // What a base says is below what is said of the type itself; a base may have one of its own,
  // until one has a tree.
  std::optional<Node> named = base_of(layers);
  std::string base = named ? named->as_string() : built_as;
  std::set<std::string> seen = {model_type};
  while (!base.empty()) {
    if (!seen.insert(base).second) {
      TCAST_CHECK(named, "only profiles name a base twice");
      named->fail(fmt::format("'{}' is based on itself", printable(base)));
    }
    std::vector<ProfileLayer> below = own_layers(base);
    const bool has_tree = architectures().find(base) != nullptr;
    std::optional<Node> next = has_tree ? std::nullopt : base_of(below);
    layers.insert(layers.begin(), below.begin(), below.end());
    if (!next) break;
    named = std::move(next);
    base = named->as_string();
  }
  ModelProfile profile;
  profile.model_type = model_type;
  for (const ProfileLayer& layer : layers) {
    profile.merge(layer.yaml);
    profile.sources.back() = layer.source;
    profile.provenance.push_back(layer.provenance);
  }
  if (named) profile.base = base;
  profile.model_type = model_type;
  return profile;
}

// --- building ------------------------------------------------------------------------------------

namespace {

bool is_off(const Node& value) {
  const std::string text = value.json_text();
  return value.is_null() || text == "false" || text == "0" || text == "\"\"";
}

/// What a key means by its name, by the names inside of its map ({"moe_num_experts": 16}), or by
/// the words of its list (["linear_attention", ...]); empty: no part of a model.
std::string_view part_meant_by(std::string_view key, const Node& value) {
  if (is_off(value)) return {};
  if (const std::string_view part = part_of_model(key); !part.empty()) return part;
  if (value.is_map()) {
    for (const auto& [name, inner] : value.members()) {
      if (const std::string_view part = part_meant_by(name, inner); !part.empty()) return part;
    }
  } else if (value.is_list()) {
    for (const Node& item : value.items()) {
      const bool text = item.is_scalar() && item.json_text().front() == '"';
      if (!text) continue;
      if (const std::string_view part = part_of_model(item.as_string()); !part.empty()) return part;
    }
  }
  return {};
}

/// A model that is built as another type would lack the parts that the type has not.
void refuse_left_out_parts(const HfConfig& config, const std::string& built_as,
                           const std::string& because) {
  std::set<std::string> unread;
  for (const UnreadKey& key : config.unread()) {
    if (key.of_model) unread.insert(key.path);
  }
  for (const auto& [key, value] : config.members()) {
    if (unread.count(value.path()) == 0) continue;
    const std::string_view part = part_meant_by(key, value);
    if (part.empty()) continue;
    config.as_written().fail(
        key, fmt::format("it means {}, which '{}' does not read ({})", part, built_as, because),
        "choose a type that has such a part, describe it in a profile with 'base:' and "
        "'architecture:', or register the type in custom_model/");
  }
}

/// Other towers than the language model mean that a text-only tree would be a wrong answer.
void refuse_other_towers(const HfConfig& config, const std::string& model_type) {
  for (const char* key : {"vision_config", "visual", "audio_config", "vision_tower"}) {
    if (!config.has(key)) continue;
    config.fail(key,
                fmt::format("'{}' has a part that is not a language model; such models are not "
                            "supported yet",
                            printable(model_type)),
                "--text-only simulates its text model alone");
  }
}

/// The known type that a config looks like: by the class that it names, else by its keys, all of
/// which that type's class knows; with the reason. Empty: none.
std::pair<std::string, std::string> similar_type(const HfConfig& config) {
  const auto classes = config.get_or<std::vector<std::string>>("architectures", {});
  std::pair<std::string, std::string> by_class;
  std::pair<std::string, std::string> by_keys;
  std::size_t longest_name = 0;
  std::size_t fewest_absent = std::numeric_limits<std::size_t>::max();
  for (const auto* const entry : config_classes().entries()) {
    const HfConfig view = config.as_class(entry->data());
    const std::vector<UnreadKey> unread = view.unread();
    const bool lacks_part = std::any_of(unread.begin(), unread.end(), [](const UnreadKey& key) {
      return key.of_model && !part_of_model(key.key).empty();
    });
    if (lacks_part || !view.has("hidden_size") || !view.has("num_hidden_layers")) continue;
    const std::string_view name = entry->data().name;
    const std::string_view prefix = name.substr(0, name.rfind("Config"));
    for (const std::string& one : classes) {
      if (one.substr(0, prefix.size()) != prefix || prefix.size() <= longest_name) continue;
      longest_name = prefix.size();
      by_class = {std::string(entry->pattern),
                  fmt::format("it names the class {}", printable(one))};
    }
    if (!unread.empty()) continue;
    std::size_t absent = 0;
    for (const auto& [key, value] :
         Node::parse_json(entry->data().defaults, std::string(name)).members()) {
      absent += value.is_null() || config.as_written().has(key) ? 0 : 1;
    }
    if (absent >= fewest_absent) continue;
    fewest_absent = absent;
    by_keys = {std::string(entry->pattern), fmt::format("its keys are those of {}", name)};
  }
  return by_class.first.empty() ? by_keys : by_class;
}

[[noreturn]] void fail_unknown(const HfConfig& config, const std::string& model_type) {
  const std::string plugin = missing_plugin_hint("architecture", model_type);
  const std::string message = fmt::format("unknown model type '{}'", printable(model_type));
  if (!plugin.empty()) config.fail("model_type", message, plugin);
  if (!config.is_part()) refuse_other_towers(config, model_type);
  if (!config.has("model_type") && config.has("_class_name")) {
    config.fail(
        "_class_name",
        fmt::format("'{}' is a diffusers class, which is not supported yet", printable(model_type)),
        fmt::format("a plugin builds it with TCAST_REGISTER_ARCHITECTURE(\"{}\")",
                    printable(model_type)));
  }
  const std::string near = closest(model_type, architectures().names());
  std::string hint = near.empty() ? "" : fmt::format("did you mean '{}'? ", near);
  const auto [similar, reason] = similar_type(config);
  hint +=
      "see 'tcast models' for what is known; describe the type in a profile with 'base:' "
      "(--profile FILE), register it in custom_model/, or, if it is built like a known type, "
      "say so with --assume-base ";
  hint += similar.empty() ? "TYPE" : fmt::format("{} ({})", similar, reason);
  config.fail("model_type", message, hint);
}

/// What plugins have to say of single keys.
void validate_types(const HfConfig& config) {
  const auto& validators = type_validators();
  if (validators.empty()) return;
  for (const auto& [key, value] : config.members()) {
    if (const auto* const entry = validators.find(key)) entry->call(value);
  }
}

}  // namespace

ResolvedArchitecture resolve_architecture(const HfConfig& config, const std::string& assume_base) {
  const std::string model_type = config.model_type();
  ResolvedArchitecture found;
  found.entry = architectures().find(model_type);
  if (found.entry != nullptr) return found;
  found.built_as = assume_base.empty() ? recognise(config) : assume_base;
  if (found.built_as.empty()) return found;
  found.entry = architectures().find(found.built_as);
  if (!assume_base.empty()) {
    found.because = "--assume-base";
    found.assumption = fmt::format("model type '{}' is built as '{}' (--assume-base)",
                                   printable(model_type), found.built_as);
  } else {
    found.because = "recognised by what its config has";
    found.assumption = fmt::format("model type '{}' is recognised as '{}' by what its config has",
                                   printable(model_type), found.built_as);
  }
  return found;
}

namespace {

/// The architecture that a profile's base names.
ResolvedArchitecture architecture_of_base(const ModelProfile& profile) {
  ResolvedArchitecture found;
  found.built_as = *profile.base;
  found.because = "the profile's base";
  found.entry = architectures().find(found.built_as);
  if (found.entry != nullptr) return found;
  throw Error(fmt::format("{}: base: '{}' is not a known architecture",
                          profile.sources.empty() ? "profile" : profile.sources.back(),
                          printable(found.built_as)),
              did_you_mean(found.built_as, architectures().names(),
                           "see 'tcast models' for the known ones"));
}

/// A type that the user or a predicate named, and that nobody registered.
[[noreturn]] void fail_not_registered(const HfConfig& config, const ResolvedArchitecture& named) {
  if (named.because == "--assume-base") {
    throw Error(
        fmt::format("--assume-base '{}' is not a known architecture", printable(named.built_as)),
        did_you_mean(named.built_as, architectures().names(),
                     "see 'tcast models' for the known ones"));
  }
  throw Error(fmt::format("{}: the config is recognised as '{}', which is not a known architecture",
                          config.file(), printable(named.built_as)),
              did_you_mean(named.built_as, architectures().names()));
}

}  // namespace

TransformerModel build_model(HfConfig config, ModelProfile profile, ModelOptions options,
                             const std::string& assume_base) {
  ResolvedArchitecture architecture;
  if (!profile.base) architecture = resolve_architecture(config, assume_base);
  return build_model(std::move(config), std::move(profile), std::move(options),
                     std::move(architecture));
}

TransformerModel build_model(HfConfig config, ModelProfile profile, ModelOptions options,
                             ResolvedArchitecture architecture) {
  const std::string model_type = config.model_type();
  validate_types(config);
  if (profile.base) architecture = architecture_of_base(profile);
  if (architecture.entry == nullptr) {
    if (architecture.built_as.empty()) fail_unknown(config, model_type);
    fail_not_registered(config, architecture);
  }
  const bool as_itself = architecture.built_as.empty();
  const std::string build_as = as_itself ? model_type : architecture.built_as;
  std::vector<std::string> assumptions;
  if (!architecture.assumption.empty()) assumptions.push_back(architecture.assumption);
  if (const auto* const known = config_classes().find(build_as)) {
    config = config.as_class(known->data(), as_itself);
  }
  const RegistryEntry<ArchitectureFunction>& builder = *architecture.entry;
  // Those of tcast build language models only; what a plugin's builds is its own business.
  if (builder.origin == Origin::builtin && !config.is_part()) {
    refuse_other_towers(config.as_written(), model_type);
  }
  std::vector<std::string> warnings;
  std::unique_ptr<Module> root =
      builder.call(ArchitectureContext{config, profile, options, assumptions, warnings});
  if (root == nullptr) builder.refuse("it returned no tree", "return the root module");
  if (!as_itself) refuse_left_out_parts(config, build_as, architecture.because);
  TransformerModel model(std::move(config), std::move(profile), std::move(options), std::move(root),
                         std::move(assumptions));
  for (std::string& warning : warnings) model.add_warning(std::move(warning));
  model.set_architecture(std::move(architecture));
  if (const std::optional<TreeFault> fault = find_fault(model.root())) fail_as_built(model, *fault);
  return model;
}

TransformerModel rebuild(const TransformerModel& model, ModelOptions options) {
  TransformerModel again =
      build_model(model.config(), model.profile(), std::move(options), model.architecture());
  if (model.hook()) again.set_hook(*model.hook());
  return again;
}

}  // namespace tcast
