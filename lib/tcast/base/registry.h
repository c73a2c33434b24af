#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/export.h"
#include "tcast/base/text.h"

// Self-registration in two halves.
//
// First half, before main: a translation unit that registers something owns a static
// RegistrationNode whose constructor links itself into one list and does nothing else, so there is
// no order to depend on and nothing that could throw. Second half, in main: Registry<T>::linked()
// walks that list, sorts it by precedence and complains, with both places, about what is wrong.
// Precedence: custom before builtin, exact name before pattern, more literal letters before fewer;
// the order of linking never shows.

namespace tcast {

/// Which folder a registration comes from; custom wins over builtin.
enum class Origin : unsigned char { custom, builtin };

/// "custom" or "builtin".
TCAST_API std::string_view name_of(Origin origin);

/// One registration as the linker leaves it: pointers to literals and to a value of static
/// lifetime. `group` names the kind of thing ("custom_model", "architecture", "operator", ...).
struct TCAST_API RegistrationNode {
  RegistrationNode(const char* group_name, const char* const* pattern_list, int pattern_total,
                   const void* registered, Origin where_from, const char* file_name,
                   int line_number) noexcept;

  const char* group;
  const char* const* patterns;
  int pattern_count;
  const void* value;
  Origin origin;
  const char* file;
  int line;
  const RegistrationNode* next;
};

/// Head of the one list of everything that registered itself.
TCAST_API const RegistrationNode* first_registration() noexcept;

/// One name or pattern of a registry, with the place that registered it.
template <class T>
struct RegistryEntry {
  std::string pattern;
  T value{};
  Origin origin = Origin::builtin;
  std::string file;
  int line = 0;

  std::string place() const { return fmt::format("{}:{}", file, line); }
};

/// Names and patterns of one group, in order of precedence. A plain value: main builds one from
/// what was linked in, tests build their own by hand.
template <class T>
class Registry {
 public:
  using Entry = RegistryEntry<T>;

  /// `group` and `noun` ("custom model", "architecture") appear in messages.
  explicit Registry(std::string noun) : noun_(std::move(noun)) {}

  /// Everything of `group` that was linked in. Throws Error for duplicates and empty patterns.
  static Registry linked(std::string_view group, std::string noun) {
    Registry registry(std::move(noun));
    for (const RegistrationNode* node = first_registration(); node != nullptr; node = node->next) {
      if (group != node->group) continue;
      if (node->pattern_count == 0) {
        throw Error(fmt::format("{}:{}: {} registered without a name", node->file, node->line,
                                registry.noun_),
                    "give the registration at least one name or pattern");
      }
      for (int i = 0; i < node->pattern_count; ++i) {
        registry.insert(Entry{node->patterns[i], *static_cast<const T*>(node->value), node->origin,
                              node->file, node->line});
      }
    }
    registry.sort();
    registry.reject_duplicates();
    return registry;
  }

  /// Adds one entry. Throws Error when the same pattern of the same origin is there already.
  void add(Entry entry) {
    insert(std::move(entry));
    sort();
    reject_duplicates();
  }

  /// All entries, best first; for equal patterns custom stands before builtin.
  const std::vector<Entry>& entries() const { return entries_; }

  /// Entries that match `name`, in order of precedence: the first one wins.
  std::vector<const Entry*> candidates(std::string_view name) const {
    std::vector<const Entry*> found;
    for (const Entry& entry : entries_) {
      if (matches_pattern(name, entry.pattern)) found.push_back(&entry);
    }
    return found;
  }

  /// The winner for `name`, or null. Throws Error naming both places when two patterns match
  /// equally well.
  const Entry* find(std::string_view name) const {
    const std::vector<const Entry*> found = candidates(name);
    if (found.empty()) return nullptr;
    if (found.size() > 1 && rank(*found[0]) == rank(*found[1])) {
      throw Error(
          fmt::format("{} '{}' is matched equally well by '{}' ({}) and '{}' ({})", noun_, name,
                      found[0]->pattern, found[0]->place(), found[1]->pattern, found[1]->place()),
          fmt::format("register the exact name '{}' in one of them", name));
    }
    return found[0];
  }

  /// Names without wildcards, sorted: what a misspelt name is compared with.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const Entry& entry : entries_) {
      if (is_literal_pattern(entry.pattern)) result.push_back(entry.pattern);
    }
    std::sort(result.begin(), result.end());
    result.erase(std::unique(result.begin(), result.end()), result.end());
    return result;
  }

  /// Why `winner` comes before `other`, as a clause: "custom comes before builtin".
  static std::string reason(const Entry& winner, const Entry& other) {
    if (winner.origin != other.origin) return "custom comes before builtin";
    if (is_literal_pattern(winner.pattern) != is_literal_pattern(other.pattern)) {
      return "an exact name comes before a pattern";
    }
    return fmt::format("{} literal letters come before {}", literal_length(winner.pattern),
                       literal_length(other.pattern));
  }

 private:
  struct Rank {
    int origin;
    int wildcard;
    int negative_length;
    auto operator<=>(const Rank&) const = default;
  };

  static Rank rank(const Entry& entry) {
    return {static_cast<int>(entry.origin), is_literal_pattern(entry.pattern) ? 0 : 1,
            -literal_length(entry.pattern)};
  }

  void insert(Entry entry) {
    if (entry.pattern.empty()) {
      throw Error(fmt::format("{}: {} registered under an empty name", entry.place(), noun_),
                  "give the registration a name or a pattern");
    }
    entries_.push_back(std::move(entry));
  }

  void sort() {
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      const Rank rank_a = rank(a);
      const Rank rank_b = rank(b);
      if (rank_a != rank_b) return rank_a < rank_b;
      if (a.pattern != b.pattern) return a.pattern < b.pattern;
      if (a.file != b.file) return a.file < b.file;
      return a.line < b.line;
    });
  }

  void reject_duplicates() const {
    for (std::size_t i = 1; i < entries_.size(); ++i) {
      const Entry& a = entries_[i - 1];
      const Entry& b = entries_[i];
      if (a.pattern == b.pattern && a.origin == b.origin) {
        throw Error(fmt::format("{} '{}' is registered twice: {} and {}", noun_, a.pattern,
                                a.place(), b.place()),
                    "remove one of the two registrations or rename it");
      }
    }
  }

  std::string noun_;
  std::vector<Entry> entries_;
};

}  // namespace tcast

/// Folder that the including target registers for; set per CMake target, custom by default.
#ifndef TCAST_MODEL_ORIGIN
#define TCAST_MODEL_ORIGIN ::tcast::Origin::custom
#endif

#define TCAST_CONCAT_INNER(a, b) a##b
#define TCAST_CONCAT(a, b) TCAST_CONCAT_INNER(a, b)

/// Links `value` (an lvalue of static lifetime) into `group` under the given names and patterns.
/// Used by the macros of each group; not by models directly.
#define TCAST_REGISTER_VALUE(group, value, ...)                                                \
  static constexpr const char* TCAST_CONCAT(tcast_patterns_, __LINE__)[] = {__VA_ARGS__};      \
  static const ::tcast::RegistrationNode TCAST_CONCAT(tcast_node_, __LINE__)(                  \
      group, TCAST_CONCAT(tcast_patterns_, __LINE__),                                          \
      static_cast<int>(sizeof(TCAST_CONCAT(tcast_patterns_, __LINE__)) / sizeof(const char*)), \
      &(value), TCAST_MODEL_ORIGIN, __FILE__, __LINE__)
