#pragma once

#include <algorithm>
#include <compare>
#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/guard.h"
#include "tcast/base/provenance.h"
#include "tcast/base/text.h"

namespace tcast {

/// Whether values of a type are called: functions, std::function and classes with one operator().
template <class T>
inline constexpr bool is_callback = requires {
  &T::operator();
};
template <class Result, class... Arguments>
inline constexpr bool is_callback<Result (*)(Arguments...)> = true;
template <class Result, class... Arguments>
inline constexpr bool is_callback<Result (*)(Arguments...) noexcept> = true;

/// A registered value. Nothing but its entry reaches it, so that no caller can forget the guard.
template <class T>
class Sealed {
 public:
  Sealed() : value_() {}
  Sealed(T value) : value_(std::move(value)) {}  // NOLINT: implicit, as in a list of entries

  friend bool operator==(const Sealed& a, const Sealed& b) requires std::equality_comparable<T> {
    return a.value_ == b.value_;
  }

 private:
  template <class>
  friend struct RegistryEntry;
  T value_{};
};

/// One name or pattern of a registry with what is registered under it: call() a callback, read the
/// data() of anything else.
template <class T>
struct RegistryEntry : Registered {
  Sealed<T> value{};

  /// Calls it through guarded(), and Checked for what it returns. Throws Error that names the
  /// plugin for whatever a plugin throws, and for a result that cannot be used.
  template <class... Arguments>
  decltype(auto) call(Arguments&&... arguments) const requires(is_callback<T>) {
    using Result = std::invoke_result_t<const T&, Arguments...>;
    return guarded(*this, "", [&]() -> Result {
      if constexpr (std::is_void_v<Result> || std::is_reference_v<Result>) {
        return value.value_(std::forward<Arguments>(arguments)...);
      } else {
        return Checked<Result>::of(*this, value.value_(std::forward<Arguments>(arguments)...));
      }
    });
  }

  const T& data() const requires(!is_callback<T>) { return value.value_; }
};

/// "scope::name" in its two parts; the first is empty for a plain name.
constexpr std::pair<std::string_view, std::string_view> split_scope(std::string_view name) {
  const std::size_t at = name.find("::");
  if (at == std::string_view::npos || at == 0) return {{}, name};
  return {name.substr(0, at), name.substr(at + 2)};
}

/// Names and patterns of one group with what they stand for. A plain value: registry_of() makes one
/// from what was linked in, tests make their own by hand.
///
/// Precedence: custom before builtin, exact name before pattern, more literal letters before fewer;
/// the order of linking never shows. Scopes: "builtin::name" looks into that scope alone, a plain
/// name into custom and then into its parent, builtin; what is in a scope of its own is found as
/// "scope::name" only.
template <class T>
class Registry {
 public:
  using Entry = RegistryEntry<T>;

  /// `noun` ("custom model", "architecture") appears in messages.
  explicit Registry(LastingText noun) : noun_(noun) {}

  /// Of entries whose duplicates and ties are reported when somebody asks for their names: one bad
  /// pair leaves the rest working.
  Registry(LastingText noun, std::vector<Entry> entries)
      : noun_(noun), entries_(std::move(entries)) {
    for (Entry& entry : entries_) check(entry);
    compare_names();
  }

  /// Adds one entry. Throws Error when the same pattern of the same scope is there already and
  /// neither of them is an override.
  void add(Entry entry) {
    check(entry);
    entries_.push_back(std::move(entry));
    compare_names();
    if (!duplicates_.empty()) throw Error(duplicates_.front(), duplicate_hint);
  }

  std::string_view noun() const { return noun_; }

  bool empty() const { return entries_.empty(); }

  /// All entries in order of precedence.
  std::vector<const Entry*> entries() const {
    std::vector<const Entry*> all;
    all.reserve(entries_.size());
    for (const Entry& entry : entries_) all.push_back(&entry);
    arrange(all);
    return all;
  }

  /// Entries that an override of the same name took the place of.
  const std::vector<Entry>& overridden() const { return overridden_; }

  /// Entries that match `name`, in order of precedence: the first one wins.
  std::vector<const Entry*> candidates(std::string_view name) const {
    const auto [scope, rest] = split_scope(name);
    std::vector<const Entry*> found;
    for (const Entry& entry : entries_) {
      // There may be thousands: most differ in their first letter.
      const char first = entry.pattern.front();
      const bool wildcard = first == '*' || first == '?' || first == '[';
      if (!wildcard && (rest.empty() || rest.front() != first)) continue;
      if (!matches_pattern(rest, entry.pattern)) continue;
      if (scope.empty() ? entry.scope.empty() : entry.scope_name() == scope) {
        found.push_back(&entry);
      }
    }
    arrange(found);
    return found;
  }

  /// The winner for `name`, or null. Throws Error naming both places when two match equally well,
  /// and saying so when the winner's plugin failed.
  const Entry* find(std::string_view name) const { return best(candidates(name), name); }

  /// The entry that a reference means: a registered name or pattern in any case of letters,
  /// "plugin:name" or "plugin.name", else what find() finds. Throws Error naming the closest when
  /// there is none.
  const Entry& resolve(std::string_view reference) const {
    // A name before another one that differs in case, and both before what a pattern happens to
    // match.
    std::vector<const Entry*> named = same_name({}, reference);
    std::stable_partition(named.begin(), named.end(), [&](const Entry* entry) {
      return entry->pattern == split_scope(reference).second;
    });
    if (!named.empty() && named[0]->pattern == split_scope(reference).second) {
      std::erase_if(named, [&](const Entry* entry) { return entry->pattern != named[0]->pattern; });
    }
    if (const Entry* found = best(named, reference)) return *found;
    if (const Entry* found = find_of_plugin(reference)) return *found;
    if (const Entry* found = find(reference)) return *found;
    throw Error(fmt::format("no {} '{}' is registered", noun_, printable(reference)),
                did_you_mean(reference, references(), known_text()));
  }

  /// The entry that "plugin:name" or "plugin.name" means in any case of letters, or null.
  const Entry* find_of_plugin(std::string_view reference) const {
    for (std::size_t i = 0; i < reference.size(); ++i) {
      if (reference[i] != ':' && reference[i] != '.') continue;
      const std::string_view plugin = reference.substr(0, i);
      const std::string_view name = reference.substr(i + 1);
      if (plugin.empty() || name.empty()) continue;
      if (const Entry* found = best(same_name(plugin, name), reference)) return found;
    }
    return nullptr;
  }

  /// Whether a name is registered literally, or a pattern as such, in the scope that it names
  /// ("scope::name") or in any that a plain name reaches.
  bool is_taken(std::string_view name) const {
    const auto [scope, rest] = split_scope(name);
    for (const Entry& entry : entries_) {
      if (scope.empty() ? !entry.scope.empty() : entry.scope_name() != scope) continue;
      if (entry.pattern == rest) return true;
    }
    return false;
  }

  /// Where an entry comes from, and whether it takes the place of a builtin one: of one whose name
  /// `same(name, its own)` calls the same.
  template <class Same>
  Provenance provenance(const Entry& entry, Same same) const {
    Provenance result;
    result.kind = noun_;
    result.name = entry.pattern;
    result.file = entry.file;
    result.line = entry.line;
    if (entry.origin == Origin::builtin) return result;
    result.from = Provenance::From::plugin;
    result.plugin = entry.plugin;
    const auto replaced = [&](const Entry& other) {
      return other.origin == Origin::builtin && other.scope.empty() &&
             same(other.pattern, entry.pattern);
    };
    result.replaces_builtin =
        entry.scope.empty() && (std::any_of(entries_.begin(), entries_.end(), replaced) ||
                                std::any_of(overridden_.begin(), overridden_.end(), replaced));
    return result;
  }
  Provenance provenance(const Entry& entry) const { return provenance(entry, same_letters); }

  /// The entry that accepts something by its own rule: the best of those for which
  /// `accepts(entry)` holds, or null. Custom wins over builtin; two of one origin that both accept
  /// are an Error naming both, with `what` for the thing that they accept.
  template <class Accepts>
  const Entry* match(Accepts accepts, std::string_view what) const {
    const Entry* winner = nullptr;
    for (const Entry* entry : entries()) {
      if (!entry->scope.empty() || (winner != nullptr && winner->origin != entry->origin)) continue;
      if (winner != nullptr && winner->file == entry->file && winner->line == entry->line) continue;
      if (!accepts(*entry)) continue;
      if (winner != nullptr) {
        throw Error(fmt::format("{} is recognised by {} '{}' ({}) and by '{}' ({})", what, noun_,
                                winner->pattern, winner->place(), entry->pattern, entry->place()),
                    "make one of the two predicates narrower");
      }
      winner = entry;
    }
    if (winner != nullptr) reject_failed(*winner);
    return winner;
  }

  /// Names without wildcards, sorted: what a misspelt name is compared with.
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const Entry& entry : entries_) {
      if (!is_literal_pattern(entry.pattern)) continue;
      result.push_back(entry.scope.empty() ? std::string(entry.pattern)
                                           : fmt::format("{}::{}", entry.scope, entry.pattern));
    }
    std::sort(result.begin(), result.end());
    result.erase(std::unique(result.begin(), result.end()), result.end());
    return result;
  }

  /// One message for each name that two entries of one scope have, sorted.
  const std::vector<std::string>& duplicates() const { return duplicates_; }

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
  static constexpr const char* duplicate_hint =
      "remove one of the two registrations, rename it, or register it as overriding(\"name\")";

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

  static bool same_key(const Entry& a, const Entry& b) {
    return a.pattern == b.pattern && a.origin == b.origin && a.scope == b.scope;
  }

  static bool same_letters(std::string_view a, std::string_view b) {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [&](char x, char y) { return lower(x) == lower(y); });
  }

  /// Entries of a plugin (empty: of any) registered under this text, whatever its letters' case.
  std::vector<const Entry*> same_name(std::string_view plugin, std::string_view name) const {
    const auto [scope, rest] = split_scope(name);
    std::vector<const Entry*> found;
    for (const Entry& entry : entries_) {
      if (plugin.empty() ? (scope.empty() ? !entry.scope.empty() : entry.scope_name() != scope)
                         : !same_letters(entry.plugin, plugin)) {
        continue;
      }
      if (same_letters(entry.pattern, rest)) found.push_back(&entry);
    }
    arrange(found);
    return found;
  }

  std::string known_text() const {
    const std::vector<std::string> known = names();
    return known.empty() ? fmt::format("no {} is registered at all", noun_)
                         : fmt::format("known are {}", join(known, ", "));
  }

  std::vector<std::string> references() const {
    std::vector<std::string> result = names();
    for (const Entry& entry : entries_) {
      if (!entry.plugin.empty()) {
        result.push_back(fmt::format("{}:{}", entry.plugin, entry.pattern));
      }
    }
    return result;
  }

  std::string duplicate_text(const Entry& a, const Entry& b) const {
    return fmt::format("{} '{}' is registered twice: {} and {}", noun_, a.pattern, a.place(),
                       b.place());
  }

  void reject_failed(const Entry& entry) const {
    if (entry.failure.empty()) return;
    throw Error(fmt::format("{} '{}' belongs to the plugin '{}' ({}), which failed: {}", noun_,
                            entry.pattern, entry.plugin, entry.place(), entry.failure),
                "'tcast plugins' shows what is wrong; TCAST_PLUGIN_TRACE=1 prints nested causes");
  }

  const Entry* best(const std::vector<const Entry*>& found, std::string_view name) const {
    if (found.empty()) return nullptr;
    const Entry& winner = *found[0];
    if (found.size() > 1 && rank(winner) == rank(*found[1]) && winner.scope == found[1]->scope) {
      const Entry& other = *found[1];
      if (winner.pattern == other.pattern) {
        throw Error(duplicate_text(winner, other), duplicate_hint);
      }
      throw Error(fmt::format("{} '{}' is matched equally well by '{}' ({}) and '{}' ({})", noun_,
                              printable(name), winner.pattern, winner.place(), other.pattern,
                              other.place()),
                  fmt::format("register the exact name '{}' in one of them", printable(name)));
    }
    reject_failed(winner);
    return &winner;
  }

  /// Takes the scope off the name and complains about what cannot be a name.
  void check(Entry& entry) const {
    entry.noun = noun_;
    if (const auto [scope, rest] = split_scope(entry.pattern); !scope.empty()) {
      if (scope != name_of(Origin::custom) && scope != name_of(Origin::builtin)) {
        entry.scope = scope;
      } else if (scope != name_of(entry.origin)) {
        throw Error(fmt::format("{}: {} '{}' is registered from the {} folder", entry.place(),
                                noun_, entry.pattern, name_of(entry.origin)),
                    "leave out the scope, or choose a name of your own for it");
      }
      entry.pattern = rest;
    }
    if (entry.pattern.empty()) {
      throw Error(fmt::format("{}: {} registered under an empty name", entry.place(), noun_),
                  "give the registration a name or a pattern");
    }
  }

  /// Puts entries into order of precedence; of equal ones, what overrides stands first.
  static void arrange(std::vector<const Entry*>& list) {
    if (list.size() < 2) return;
    std::vector<std::pair<Rank, const Entry*>> ranked;
    ranked.reserve(list.size());
    for (const Entry* entry : list) ranked.emplace_back(rank(*entry), entry);
    std::sort(ranked.begin(), ranked.end(), [](const auto& x, const auto& y) {
      if (x.first != y.first) return x.first < y.first;
      const Entry& a = *x.second;
      const Entry& b = *y.second;
      const bool a_is_default = !a.overrides;
      const bool b_is_default = !b.overrides;
      return std::tie(a.pattern, a.scope, a_is_default, a.file, a.line) <
             std::tie(b.pattern, b.scope, b_is_default, b.file, b.line);
    });
    for (std::size_t i = 0; i < list.size(); ++i) list[i] = ranked[i].second;
  }

  /// The entries whose pattern another one has too: putting all of them into order takes ten times
  /// as long as a hash table.
  std::vector<const Entry*> repeated() const {
    TextIndex index(entries_.size());
    std::vector<std::size_t> found;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const std::size_t first = index.insert(entries_[i].pattern, i);
      if (first == i) continue;
      found.push_back(first);
      found.push_back(i);
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    std::vector<const Entry*> list;
    list.reserve(found.size());
    for (const std::size_t i : found) list.push_back(&entries_[i]);
    return list;
  }

  /// Takes out what an override of the same name stands in for, and notes the names that are there
  /// twice all the same.
  void compare_names() {
    duplicates_.clear();
    std::vector<const Entry*> same = repeated();
    arrange(same);
    std::vector<std::size_t> replaced;
    const Entry* kept = nullptr;
    for (const Entry* entry : same) {
      if (kept == nullptr || !same_key(*kept, *entry)) {
        kept = entry;
      } else if (kept->overrides && !entry->overrides) {
        replaced.push_back(static_cast<std::size_t>(entry - entries_.data()));
      } else {
        duplicates_.push_back(duplicate_text(*kept, *entry));
        kept = entry;
      }
    }
    std::sort(duplicates_.begin(), duplicates_.end());
    std::sort(replaced.rbegin(), replaced.rend());  // from the end: what is erased moves the rest
    for (const std::size_t at : replaced) {
      const auto entry = entries_.begin() + static_cast<std::ptrdiff_t>(at);
      overridden_.push_back(std::move(*entry));
      entries_.erase(entry);
    }
  }

  LastingText noun_;
  std::vector<Entry> entries_;
  std::vector<Entry> overridden_;
  std::vector<std::string> duplicates_;
};

}  // namespace tcast
