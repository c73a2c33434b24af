#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/model/module.h"

namespace tcast {

/// Whether quantization has something to do in the module itself: a Linear, or experts stored
/// together.
TCAST_API bool holds_products(const Module& module);

/// How a list of patterns means modules. In all of them "re:" begins a regular expression that must
/// match from the start of the path.
enum class PatternStyle : std::uint8_t {
  /// A literal names a module, everything below it, or, as a suffix, modules anywhere ("lm_head",
  /// "mlp.gate"); '*', '?' and '[...]' make it a glob over the path of a module, which it names
  /// with everything below it.
  subtree,
  /// As compressed-tensors has it: everything else is the path of exactly one module or the name of
  /// a class, '*' being a letter like any other.
  exact,
};

/// A list of patterns of module paths, as quantization configs write what must not be converted, or
/// what shall be.
class TCAST_API ModuleFilter {
 public:
  /// The names of a path that globs and regular expressions are held against: by default the path
  /// itself. They keep the numbers of list entries.
  using Names = std::function<std::vector<std::string>(const std::string& path)>;

  /// How a pattern matches, from the most to the least specific.
  enum class Kind : std::uint8_t { name, expression, class_name };
  struct Match {
    std::string_view pattern;
    Kind kind = Kind::name;
  };

  ModuleFilter() = default;
  /// Throws Error naming `where` for a regular expression that does not compile, that cannot be
  /// matched in polynomial time (back references), or that is longer than 1,000 letters. Literals
  /// mean the path itself, whatever `names` are.
  ModuleFilter(const std::vector<std::string>& patterns, const std::string& where,
               PatternStyle style = PatternStyle::subtree, Names names = {});

  const Names& names() const { return names_; }

  /// The most specific pattern that names the module at `path` (a member path: list indices given)
  /// whose class HuggingFace calls `class_name`; of equally specific ones the first.
  std::optional<Match> match(std::string_view path, std::string_view class_name = {}) const;

  /// Cuts list nodes below `root` apart until, for every quantizable node and every pattern, all of
  /// its members match or none, so that a pattern may name one layer out of many. Neighbours that
  /// no pattern tells apart stay together. Throws Error for lists of more than 10^6 entries.
  void split_lists(Module& root) const;

  /// The patterns that name nothing in a tree: no module, no parameter, no class.
  std::vector<std::string> unmatched(const Module& root) const;

 private:
  struct Pattern {
    std::string text;
    std::optional<std::regex> expression{};  // of one that begins with "re:"
    bool literal = false;
  };

  bool matches_name(const Pattern& pattern, std::string_view name) const;
  bool matches(const Pattern& pattern, std::string_view path) const;
  bool names_anything(const Pattern& pattern, const Module& root) const;

  std::vector<Pattern> patterns_;
  PatternStyle style_ = PatternStyle::subtree;
  Names names_;
};

}  // namespace tcast
