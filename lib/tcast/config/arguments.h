#pragma once

#include <any>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/config/node.h"

namespace tcast {

/// Turns a value of a YAML or JSON file into a T, inside std::any. Throws Error located at the node
/// (`node.fail(...)`) for what it does not take.
using ValueConverter = std::function<std::any(const Node& node)>;

/// Checks the value of a config.json's key; throws Error located at the node for a bad one.
using TypeValidator = std::function<void(const Node& value)>;

/// Converters by name of the type that they make, validators by name or pattern of the key that
/// they check.
TCAST_API const Registry<ValueConverter>& value_converters();
TCAST_API const Registry<TypeValidator>& type_validators();

/// A type's name as C++ spells it: what its converter is registered under.
TCAST_API std::string type_name(const std::type_info& type);

/// Named values for whoever is built or called with them: typed, located reads that are remembered,
/// so that what nobody read can be reported. Copies share that memory.
class TCAST_API Arguments {
 public:
  /// None at all; `place` is put in front of complaints about missing ones.
  explicit Arguments(std::string place = {});

  /// The members of a map; `type`, which says what to build, is none of them.
  explicit Arguments(const Node& map);

  /// Adds the members of a map; a key that was there already gets the new value.
  void merge(const Node& map);
  /// Adds "key=value", the value as YAML writes it. `option` ("--custom-model-config") is for
  /// messages. Throws Error when it is none.
  void merge_text(const std::string& text, const std::string& option);

  bool empty() const { return values_.empty(); }
  std::vector<std::string> keys() const;
  const std::string& place() const { return place_; }

  /// The raw value of a key, marked as read.
  std::optional<Node> node(std::string_view key) const;

  /// Value of a key; nothing when it is absent or null. T is bool, std::int64_t, double,
  /// std::string, a std::vector of these, Node, or a type that a plugin registered a value
  /// converter for. Throws Error when the value has another type.
  template <class T>
  std::optional<T> find(std::string_view key) const {
    const std::optional<Node> found = node(key);
    if (!found || found->is_null()) return std::nullopt;
    return read(*found, static_cast<T*>(nullptr));
  }

  /// Like find(), but absent is an Error naming the key and the closest one there.
  template <class T>
  T get(std::string_view key) const {
    std::optional<T> found = find<T>(key);
    if (!found) fail_missing(key);
    return *std::move(found);
  }

  template <class T>
  T get_or(std::string_view key, T otherwise) const {
    std::optional<T> found = find<T>(key);
    return found ? *std::move(found) : std::move(otherwise);
  }

  /// Keys that nobody read so far with their places: "profile.yaml:4:3: custom_model_config.depth".
  std::vector<std::string> unread() const;

  /// Throws Error located at the first key that nobody read: "<place>: <what> takes no argument
  /// 'depth'".
  void reject_unread(std::string_view what) const;

 private:
  struct Value {
    std::string key;
    Node node;
    mutable bool read = false;
  };

  static bool read(const Node& node, bool*) { return node.as_bool(); }
  static std::int64_t read(const Node& node, std::int64_t*) { return node.as_int(); }
  static double read(const Node& node, double*) { return node.as_number(); }
  static std::string read(const Node& node, std::string*) { return node.as_string(); }
  static Node read(const Node& node, Node*) { return node; }
  template <class T>
  static std::vector<T> read(const Node& node, std::vector<T>*) {
    std::vector<T> list;
    for (const Node& item : node.items()) list.push_back(read(item, static_cast<T*>(nullptr)));
    return list;
  }
  template <class T>
  static T read(const Node& node, T*) {
    std::any value = convert(node, typeid(T));
    if (T* made = std::any_cast<T>(&value)) return std::move(*made);
    fail_conversion(node, typeid(T));
  }

  static std::any convert(const Node& node, const std::type_info& type);
  [[noreturn]] static void fail_conversion(const Node& node, const std::type_info& type);
  [[noreturn]] void fail_missing(std::string_view key) const;

  std::string place_;
  std::vector<std::shared_ptr<Value>> values_;
  std::shared_ptr<std::vector<std::string>> asked_ = std::make_shared<std::vector<std::string>>();
};

/// The entry that a YAML value names, a plain name or a map with `type`, and the arguments beside
/// it. Throws Error located at the name, with the closest known.
template <class T>
std::pair<const RegistryEntry<T>*, Arguments> find_to_build(const Registry<T>& registry,
                                                            const Node& node) {
  if (!node.is_map() && !node.is_string()) {
    node.fail_expected(
        fmt::format("the name of a {}, or a map with its name as 'type'", registry.noun()));
  }
  const Node name = node.is_map() ? node.at("type") : node;
  const RegistryEntry<T>* const entry = registry.find(name.as_string());
  if (entry == nullptr) {
    const std::vector<std::string> known = registry.names();
    name.fail(fmt::format("unknown {} '{}'", registry.noun(), printable(name.as_string())),
              did_you_mean(name.as_string(), known, "known are " + join(known, ", ")));
  }
  return {entry, node.is_map() ? Arguments(node) : Arguments(node.place())};
}

/// Builds what a YAML value names with a function of the caller's, `make(entry, arguments)`: the
/// registry's own way of building. Throws Error for arguments that it left unread.
template <class T, class Make>
auto build_with(const Registry<T>& registry, const Node& node, Make make)
    -> std::invoke_result_t<Make&, const RegistryEntry<T>&, const Arguments&> {
  const auto [entry, arguments] = find_to_build(registry, node);
  const std::string what = fmt::format("{} '{}'", registry.noun(), entry->pattern);
  using Made = std::invoke_result_t<Make&, const RegistryEntry<T>&, const Arguments&>;
  if constexpr (std::is_void_v<Made>) {
    make(*entry, arguments);
    arguments.reject_unread(what);
  } else {
    Made made = make(*entry, arguments);
    arguments.reject_unread(what);
    return made;
  }
}

/// Builds what a YAML value names by calling the registered function with `context` and the
/// arguments.
template <class T, class... Context>
decltype(auto) build(const Registry<T>& registry, const Node& node, Context&&... context) {
  return build_with(
      registry, node,
      [&](const RegistryEntry<T>& entry, const Arguments& arguments) -> decltype(auto) {
        return entry.call(std::forward<Context>(context)..., arguments);
      });
}

}  // namespace tcast
