#pragma once

#include <span>
#include <string_view>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"

// What is known of the keys of a config.json: by the config class of its model type, and for all
// types alike. A key that nothing here knows and nobody reads is a warning (decision D14).

namespace tcast {

/// Two names of one setting.
struct ConfigKeyName {
  std::string_view name;
  std::string_view own;  ///< the key of the class
};

/// A key that changes neither structure, memory nor speed, at any value or at one.
struct HarmlessKey {
  std::string_view pattern;  ///< as in matches_pattern()
  std::string_view value;    ///< as JSON; empty: whatever it is
  std::string_view reason;
};

/// A HuggingFace config class as data, which refers to static memory.
struct ConfigClass {
  std::string_view name;  ///< "Qwen3Config"
  /// All that the family's code may read, in any branch, with what it has for an absent key, as a
  /// JSON map; null: nothing.
  std::string_view defaults;
  /// transformers' attribute_map of the class: a config.json may use either name.
  std::span<const ConfigKeyName> attribute_map{};
  /// Names by which shared code asks for what has another name in this class ("rms_norm_eps" for
  /// "norm_epsilon"). A config.json may not use them.
  std::span<const ConfigKeyName> asked_as{};
  std::span<const HarmlessKey> harmless{};
};

/// Config classes by model type.
TCAST_API const Registry<ConfigClass>& config_classes();

/// Keys without influence on structure, memory or speed in any class: labels, token ids, training,
/// generation, and what the Python side needs to find its classes.
TCAST_API std::span<const HarmlessKey> harmless_everywhere();

/// A key that may be read whatever the class is.
struct CommonKey {
  std::string_view key;
  /// It counts only when something asks for it (quantization_config: the step quantize_model);
  /// unread, it is not missed.
  bool on_demand = true;
};
TCAST_API std::span<const CommonKey> keys_of_every_class();

/// Keys of the config of a whole model that are about parts beside its text model, which
/// --text-only leaves out.
TCAST_API std::span<const HarmlessKey> keys_of_other_towers();

/// The part of a model that a key means, as far as its name tells ("experts" for "num_experts");
/// empty: none.
TCAST_API std::string_view part_of_model(std::string_view key);

/// The entry of a list that has a key at a value (as JSON), or null.
TCAST_API const HarmlessKey* find_harmless(std::span<const HarmlessKey> list, std::string_view key,
                                           std::string_view value);

}  // namespace tcast
