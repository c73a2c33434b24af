#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/export.h"
#include "tcast/base/registration.h"
#include "tcast/base/text.h"

namespace tcast {

/// "custom" or "builtin"; the name of that origin's scope too.
TCAST_API std::string_view name_of(Origin origin);

/// A view of a text that lives as long as the program: a literal, or what plugins are known by.
class LastingText : public std::string_view {
 public:
  using std::string_view::string_view;
  // Implicit, as literals are meant.
  constexpr LastingText(std::string_view text) : std::string_view(text) {}  // NOLINT
  LastingText(const std::string& text) : std::string_view(text) {}          // NOLINT
  LastingText(std::string&& text) = delete;                                 // NOLINT
};

/// One name or pattern of a registry, with the place and the plugin that registered it. There may
/// be thousands at every start: they own no text.
template <class T>
struct RegistryEntry {
  LastingText pattern{};
  T value{};
  Origin origin = Origin::builtin;
  bool overrides = false;
  int line = 0;
  LastingText file{};
  LastingText plugin{};
  LastingText scope{};    ///< empty: that of the origin
  LastingText failure{};  ///< why it cannot be used: the plugin failed; empty: it can

  std::string place() const {
    return line > 0 ? fmt::format("{}:{}", file, line) : std::string(file);
  }
  std::string_view scope_name() const {
    return scope.empty() ? name_of(origin) : std::string_view(scope);
  }
};

/// Names and patterns of one group with what they stand for. A plain value: registry_of() makes one
/// from what was linked in, tests make their own by hand.
///
/// Precedence: custom before builtin, exact name before pattern, more literal letters before fewer;
/// the order of linking never shows. Scopes: "builtin::name" looks into that scope alone, a plain
/// name into custom and then into its parent, builtin; from within a scope of one's own, into that
/// first.
template <class T>
class Registry {
 public:
  using Entry = RegistryEntry<T>;

  /// `noun` ("custom model", "architecture") appears in messages.
  explicit Registry(std::string noun) : noun_(std::move(noun)) {}

  /// Of entries whose duplicates and ties are reported when somebody asks for their names: one bad
  /// pair leaves the rest working.
  Registry(std::string noun, std::vector<Entry> entries)
      : noun_(std::move(noun)), entries_(std::move(entries)) {
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

  const std::string& noun() const { return noun_; }

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

  /// Entries that match `name`, in order of precedence: the first one wins. `from` is the scope
  /// that asks.
  std::vector<const Entry*> candidates(std::string_view name, std::string_view from = {}) const {
    const auto [scope, rest] = split_scope(name);
    std::vector<const Entry*> found;
    for (const Entry& entry : entries_) {
      // There may be thousands: most differ in their first letter.
      const char first = entry.pattern.front();
      const bool wildcard = first == '*' || first == '?' || first == '[';
      if (!wildcard && (rest.empty() || rest.front() != first)) continue;
      if (!matches_pattern(rest, entry.pattern)) continue;
      const bool open = entry.scope.empty() || (!from.empty() && entry.scope == from);
      if (scope.empty() ? open : entry.scope_name() == scope) found.push_back(&entry);
    }
    arrange(found);
    if (!from.empty()) {
      std::stable_sort(found.begin(), found.end(), [from](const Entry* a, const Entry* b) {
        return (a->scope_name() == from) > (b->scope_name() == from);
      });
    }
    return found;
  }

  /// The winner for `name`, or null. Throws Error naming both places when two match equally well,
  /// and saying so when the winner's plugin failed.
  const Entry* find(std::string_view name, std::string_view from = {}) const {
    return best(candidates(name, from), name);
  }

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
    for (std::size_t i = 0; i < reference.size(); ++i) {
      if (reference[i] != ':' && reference[i] != '.') continue;
      const std::string_view plugin = reference.substr(0, i);
      const std::string_view name = reference.substr(i + 1);
      if (plugin.empty() || name.empty()) continue;
      if (const Entry* found = best(same_name(plugin, name), reference)) return *found;
    }
    if (const Entry* found = find(reference)) return *found;
    throw Error(fmt::format("no {} '{}' is registered", noun_, printable(reference)),
                did_you_mean(reference, references(), known_text()));
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

  /// The entry whose value accepts something by its own rule: the best of those for which
  /// `accepts(value)` holds, or null. Custom wins over builtin; two of one origin that both accept
  /// are an Error naming both, with `what` for the thing that they accept.
  template <class Accepts>
  const Entry* match(Accepts accepts, std::string_view what) const {
    const Entry* winner = nullptr;
    for (const Entry* entry : entries()) {
      if (!entry->scope.empty() || (winner != nullptr && winner->origin != entry->origin)) continue;
      if (winner != nullptr && winner->file == entry->file && winner->line == entry->line) continue;
      if (!accepts(entry->value)) continue;
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
    if (winner.scope != other.scope) return "the scope that asks comes first";
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

  /// "scope::name" in its two parts; the first is empty for a plain name.
  static std::pair<std::string_view, std::string_view> split_scope(std::string_view name) {
    const std::size_t at = name.find("::");
    if (at == std::string_view::npos || at == 0) return {{}, name};
    return {name.substr(0, at), name.substr(at + 2)};
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
    std::sort(replaced.begin(), replaced.end());
    for (auto at = replaced.rbegin(); at != replaced.rend(); ++at) {
      const auto entry = entries_.begin() + static_cast<std::ptrdiff_t>(*at);
      overridden_.push_back(std::move(*entry));
      entries_.erase(entry);
    }
  }

  std::string noun_;
  std::vector<Entry> entries_;
  std::vector<Entry> overridden_;
  std::vector<std::string> duplicates_;
};

}  // namespace tcast
