#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/registration.h"
#include "tcast/base/registry.h"

// Every translation unit that registers something is a plugin. Which of them take part is decided
// once per command (select_plugins); what they registered is read through registry_of<T>(group),
// which first runs the set-up functions that were announced for that group.

namespace tcast {

enum class PluginState : std::uint8_t { loaded, disabled, failed };
/// "loaded", "disabled", "failed".
TCAST_API std::string_view name_of(PluginState state);

/// Something that a plugin registered, statically or in its set-up function.
struct PluginItem {
  std::string group;
  std::vector<std::string> names;
  std::string file;
  int line = 0;
};

/// A plugin as `tcast plugins` shows it.
struct Plugin {
  std::string name;
  Origin origin = Origin::custom;
  std::string file;
  int line = 0;
  int interface_version = plugin_interface;  ///< that it states to be written for
  PluginState state = PluginState::loaded;
  std::string reason{};              ///< why it is not loaded; empty: it is
  std::vector<std::string> trace{};  ///< of a failure: what, where, nested causes
  std::vector<PluginItem> items{};   ///< by group, then by place

  std::string place() const { return fmt::format("{}:{}", file, line); }
};

/// Something about plugins that the user should know although work goes on.
struct PluginProblem {
  std::string message;             ///< "plugin 'x' (file:line) failed: why"
  std::vector<std::string> trace;  ///< what, where, nested causes
};

/// Which plugins take part, and how failures are taken.
struct PluginSelection {
  /// "name1,name2" loads only those, "-name" leaves one out, "custom" and "builtin" stand for all
  /// of that origin, "builtin::name" for the one there, "" for none; nothing: all.
  std::optional<std::string> names{};
  std::string source{};  ///< for messages: "--plugins"
  bool strict = false;   ///< failures are errors, not problems

  bool operator==(const PluginSelection&) const = default;
};

/// Decides which plugins take part from now on. The same selection as before changes nothing.
/// Throws Error for unknown names, and for failures when strict.
TCAST_API void select_plugins(const PluginSelection& selection);

/// All plugins, sorted by name, with what they registered so far.
TCAST_API std::vector<Plugin> plugins();

/// Runs the set-up functions announced for `group` ("": all) that did not run yet, in the order of
/// plugins' names and places. One that throws fails its plugin: that is a problem, or, when strict,
/// an Error. A set-up function that asks for a group that it is announced for is an Error.
TCAST_API void run_setups(std::string_view group);

/// Problems so far, in the order of plugins' names.
TCAST_API std::vector<PluginProblem> plugin_problems();

/// What to tell somebody who misses `name` in `group`: a disabled plugin registers it, or one that
/// failed might have. Empty when plugins have nothing to do with it.
TCAST_API std::string missing_plugin_hint(std::string_view group, std::string_view name);

namespace internal {

/// A registration made by a set-up function.
struct SetupRegistration {
  std::size_t plugin = 0;
  std::string group;
  std::vector<std::string> names;
  bool overrides = false;
  std::shared_ptr<const void> value;
  const std::type_info* type = nullptr;
  std::string file;
  int line = 0;
  std::vector<RegisteredName> registered{};  ///< the names, once they stay where they are
};

/// A live registration of a group, whoever made it.
struct LiveRegistration {
  const void* value = nullptr;
  Origin origin = Origin::custom;
  const RegisteredName* names = nullptr;
  int name_count = 0;
  const char* file = nullptr;
  int line = 0;
  std::string_view plugin;
  std::string_view failure;
};

/// Changes whenever a registry made before may be out of date.
TCAST_API std::uint64_t registrations_version();
/// What takes part in a group; registrations of another type than T are failures.
TCAST_API std::vector<LiveRegistration> live_registrations(std::string_view group,
                                                           const std::type_info& type);
/// Whether something can be registered under a name from that folder; null cannot.
TCAST_API bool is_valid_name(const char* name, Origin origin);
/// "custom model" for "custom_model".
TCAST_API std::string noun_of(std::string_view group);
/// The same for the rest of the program.
TCAST_API LastingText lasting_noun_of(std::string_view group);
TCAST_API void add_setup_registration(SetupRegistration registration);
/// Remembers that a group holds names that are registered twice.
TCAST_API void note_duplicates(const std::vector<std::string>& messages);

}  // namespace internal

/// What a set-up function registers into. Typed functions for the groups of tcast are in
/// PluginContext (plugin_context.h).
class TCAST_API SetupContext {
 public:
  SetupContext(std::size_t plugin, std::string name, const RegistrationNode& announced)
      : plugin_(plugin), name_(std::move(name)), announced_(announced) {}
  SetupContext(const SetupContext&) = delete;
  SetupContext& operator=(const SetupContext&) = delete;

  /// Name of the plugin that is being set up.
  const std::string& plugin() const { return name_; }

  /// Whether somebody registered this name, or this pattern as such, in a group.
  bool is_taken(std::string_view group, std::string_view name) const;

  /// Registers a value under names and patterns in a group of tcast's or of one's own. Throws Error
  /// naming the place for a missing or empty name, a null value, a group that the set-up function
  /// is not announced for (what is there would depend on which command runs), and after the set-up
  /// function returned.
  template <class T>
  void add(const std::string& group, std::vector<std::string> names, T value, bool overrides,
           const char* file, int line) {
    auto stored = std::make_shared<const T>(std::move(value));
    check(group, names, is_usable_value<T>(stored.get()), file, line);
    internal::add_setup_registration(
        {plugin_, group, std::move(names), overrides, std::move(stored), &typeid(T), file, line});
  }

  /// From now on add() is an Error: the set-up function returned.
  void close() { open_ = false; }

 private:
  void check(const std::string& group, const std::vector<std::string>& names, bool usable,
             const char* file, int line) const;

  std::size_t plugin_;
  std::string name_;
  const RegistrationNode& announced_;
  bool open_ = true;
};

/// A set-up function, registered in the group "setup" under the groups that it registers into.
using SetupFunction = void (*)(SetupContext& context);

/// Everything of a group that takes part, as far as known: runs the set-up functions announced for
/// it first. `core` gives what tcast itself has there. A registry that was handed out stays as it
/// is; ask again to see what was registered meanwhile. Throws Error for a value that cannot be
/// copied.
template <class T>
const Registry<T>& registry_of(const char* group,
                               std::vector<RegistryEntry<T>> (*core)() = nullptr) {
  struct Made {
    std::uint64_t version = 0;
    std::vector<std::unique_ptr<const Registry<T>>> registries;  // the last one is valid
  };
  thread_local std::map<std::string, Made, std::less<>> groups;
  run_setups(group);
  const std::uint64_t version = internal::registrations_version();
  const auto at = groups.find(std::string_view(group));
  if (at != groups.end() && at->second.version == version) return *at->second.registries.back();

  const LastingText noun = internal::lasting_noun_of(group);
  std::vector<RegistryEntry<T>> entries;
  if (core != nullptr) entries = core();
  const std::vector<internal::LiveRegistration> live =
      internal::live_registrations(group, typeid(T));
  entries.reserve(entries.size() + 2 * live.size());
  for (const internal::LiveRegistration& one : live) {
    for (int i = 0; i < one.name_count; ++i) {
      // What is wrong with a name was noted when the plugins were found.
      if (!internal::is_valid_name(one.names[i].text, one.origin)) continue;
      RegistryEntry<T>& entry = entries.emplace_back();
      entry.pattern = one.names[i].text;
      entry.noun = noun;
      entry.origin = one.origin;
      entry.file = one.file;
      entry.line = one.line;
      entry.plugin = one.plugin;
      entry.overrides = one.names[i].overrides;
      entry.failure = one.failure;
      const auto copy = [&one] { return *static_cast<const T*>(one.value); };
      entry.value = guarded(entry, "copying the value", copy);
    }
  }
  Made& made = groups[group];
  made.registries.push_back(std::make_unique<const Registry<T>>(noun, std::move(entries)));
  made.version = version;
  internal::note_duplicates(made.registries.back()->duplicates());
  return *made.registries.back();
}

}  // namespace tcast
