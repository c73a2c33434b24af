#pragma once

#include <type_traits>
#include <typeinfo>

#include "tcast/base/export.h"

// First half of self-registration, before main: a translation unit that registers something owns
// static RegistrationNodes whose constructors link themselves into one list and do nothing else, so
// that there is no order to depend on and nothing that could throw. Second half, in main:
// base/plugin.h tells which translation unit is which plugin, base/registry.h sorts what a group
// holds by precedence and complains, with both places, about what is wrong.

namespace tcast {

/// What a plugin is written against: raised when a registered function, a hook object or the set-up
/// context changes so that old sources would mean something else.
inline constexpr int plugin_interface = 1;

/// Which folder a registration comes from; custom wins over builtin.
enum class Origin : unsigned char { custom, builtin };

/// A name or pattern under which something is registered. "scope::name" puts it into a scope of its
/// own, where only "scope::name" finds it.
struct RegisteredName {
  // Implicit, so that a plain literal is a name.
  constexpr RegisteredName(const char* literal) : text(literal) {}  // NOLINT
  constexpr RegisteredName(const char* literal, bool replaces)
      : text(literal), overrides(replaces) {}

  const char* text;
  bool overrides = false;
};

/// A name that takes the place of another registration of the same name in the same scope, which
/// would be a duplicate otherwise.
constexpr RegisteredName overriding(const char* name) { return {name, true}; }

/// False for a null pointer, an empty std::function and the like.
template <class T>
bool is_usable_value(const void* value) {
  if constexpr (requires(const T& one) { one == nullptr; }) {
    return !(*static_cast<const T*>(value) == nullptr);
  }
  return true;
}

/// One registration as the linker leaves it: pointers to literals and to a value of static
/// lifetime. `group` names the kind of thing ("custom_model", "architecture", "operator", ...).
struct TCAST_API RegistrationNode {
  RegistrationNode(const char* group_name, const RegisteredName* name_list, int name_total,
                   const void* registered, const std::type_info* value_type,
                   bool (*usable_value)(const void*), Origin where_from, const char* file_name,
                   int line_number) noexcept;

  const char* group;
  const RegisteredName* names;
  int name_count;
  const void* value;
  const std::type_info* type;
  bool (*is_usable)(const void* value);
  Origin origin;
  const char* file;
  int line;
  const RegistrationNode* next;
};

/// Head of the one list of everything that registered itself.
TCAST_API const RegistrationNode* first_registration() noexcept;

/// Puts another list in its place and returns the old head: for tests, which register what no
/// program should hold. What was known of plugins is forgotten.
TCAST_API const RegistrationNode* replace_registrations(const RegistrationNode* first) noexcept;

/// Grows with every replace_registrations().
TCAST_API unsigned registration_lists() noexcept;

/// What TCAST_PLUGIN says of its translation unit.
struct PluginDeclaration {
  int interface_version;
};

}  // namespace tcast

/// Folder that the including target registers for; set per CMake target, custom by default.
#ifndef TCAST_MODEL_ORIGIN
#define TCAST_MODEL_ORIGIN ::tcast::Origin::custom
#endif

#define TCAST_CONCAT_INNER(a, b) a##b
#define TCAST_CONCAT(a, b) TCAST_CONCAT_INNER(a, b)

/// Links `stored` (an lvalue of static lifetime) into `group_name` under the given names and
/// patterns. For a group of one's own, which `tcast::registry_of<T>("group")` reads; the groups of
/// tcast have macros with types.
#define TCAST_REGISTER_VALUE(group_name, stored, ...)                                              \
  static constexpr ::tcast::RegisteredName TCAST_CONCAT(tcast_names_, __LINE__)[] = {__VA_ARGS__}; \
  static const ::tcast::RegistrationNode TCAST_CONCAT(tcast_node_, __LINE__)(                      \
      group_name, TCAST_CONCAT(tcast_names_, __LINE__),                                            \
      static_cast<int>(sizeof(TCAST_CONCAT(tcast_names_, __LINE__)) /                              \
                       sizeof(::tcast::RegisteredName)),                                           \
      &(stored), &typeid(stored),                                                                  \
      &::tcast::is_usable_value<std::remove_cvref_t<decltype(stored)>>, TCAST_MODEL_ORIGIN,        \
      __FILE__, __LINE__)

/// Names the plugin that this translation unit is, which is its file's stem otherwise, and the
/// interface that it was written for:
///
///     TCAST_PLUGIN("my_plugin", 1);
#define TCAST_PLUGIN(name, ...)                                   \
  namespace {                                                     \
  constexpr ::tcast::PluginDeclaration tcast_plugin_declaration{  \
      ::tcast::stated_interface(__VA_ARGS__)};                    \
  TCAST_REGISTER_VALUE("plugin", tcast_plugin_declaration, name); \
  }                                                               \
  static_assert(true)

namespace tcast {

/// The interface that a plugin states; the present one when it states none.
constexpr int stated_interface(int version = plugin_interface) { return version; }

}  // namespace tcast
