#pragma once

#include <functional>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/model/module.h"

namespace tcast {

/// Whether quantization has something to do in the module itself: a Linear, or experts stored
/// together.
bool holds_products(const Module& module);

/// A list of patterns of module paths, as quantization configs write what must not be converted:
/// a literal names a module, everything below it, or, as a suffix, modules anywhere ("lm_head",
/// "mlp.gate"); '*', '?' and '[...]' make it a glob over the whole path; "re:" begins a regular
/// expression that must match from the start of the path.
class ModuleFilter {
 public:
  using KnownAs = std::function<std::string(const std::string& path)>;

  /// Throws Error naming `where` for a regular expression that does not compile, that cannot be
  /// matched in polynomial time (back references), or that is longer than 1,000 letters.
  /// `known_as`, if set, gives another name of a path that patterns may mean as well; it keeps the
  /// numbers of list entries.
  ModuleFilter(const std::vector<std::string>& patterns, const std::string& where,
               KnownAs known_as = {});

  /// The first pattern that a member path matches, or "".
  std::string_view match(std::string_view path) const;

  /// Cuts list nodes below `root` apart until, for every quantizable node and every pattern, all of
  /// its members match or none, so that a pattern may name one layer out of many. Neighbours that
  /// no pattern tells apart stay together. Throws Error for lists of more than 10^6 entries.
  void split_lists(Module& root) const;

 private:
  struct Pattern {
    std::string text;
    std::optional<std::regex> expression{};  // of one that begins with "re:"
    bool literal = false;

    bool matches(std::string_view path) const;
  };

  bool matches(const Pattern& pattern, std::string_view path) const;

  std::vector<Pattern> patterns_;
  KnownAs known_as_;
};

}  // namespace tcast
