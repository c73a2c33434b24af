#include "tcast/transform/module_filter.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/layers.h"

// DeepSeek-V3 has 45,000 Linears in a dozen nodes, and a pattern may name any of them. They are not
// tried one by one: what a pattern cannot tell apart is tried once. A literal tells a list index
// from another only if it names it; a glob or a regular expression tests letter by letter, so that
// digits which do not occur in it are all the same to it, and only the number of them counts.

namespace tcast {
namespace {

constexpr std::string_view regex_prefix = "re:";
constexpr std::string_view digits = "0123456789";

bool is_regex(std::string_view pattern) {
  return pattern.substr(0, regex_prefix.size()) == regex_prefix;
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

std::regex compile(const std::string& pattern, const std::string& where) {
  constexpr std::size_t longest = 1000;  // the library's compiler recurses into parentheses
  std::string reason = fmt::format("it is longer than {} letters", longest);
  try {
    // Without this flag of libstdc++ a pattern such as "(.|.)*x" takes exponential time.
    constexpr auto syntax = std::regex::ECMAScript | std::regex_constants::__polynomial;
    if (pattern.size() <= longest) {
      return std::regex(pattern.substr(regex_prefix.size()), syntax);
    }
  } catch (const std::regex_error& error) {
    reason = error.what();
  }
  throw Error(fmt::format("{}: '{}' is no regular expression that can be used ({})", where,
                          printable(pattern), reason));
}

/// What a pattern can see of list indices.
class IndexView {
 public:
  IndexView(const std::string& pattern, bool literal) : literal_(literal) {
    if (literal) {
      pieces_ = split(pattern, '.');
      depends_ = std::any_of(pieces_.begin(), pieces_.end(), is_index);
      return;
    }
    depends_ = is_regex(pattern) || pattern.find_first_of("?[0123456789") != std::string::npos;
    seen_.fill('#');
    for (std::size_t i = 0; i < pattern.size(); ++i) {
      see(pattern[i], pattern[i]);
      // Ranges of letters; outside of brackets this sees more than it must, which does no harm.
      if (pattern[i] != '-' || i == 0 || i + 1 == pattern.size()) continue;
      const bool all_digits = pattern[i - 1] <= '0' && pattern[i + 1] >= '9';
      if (!all_digits) see(pattern[i - 1], pattern[i + 1]);
    }
    // Letters by the name of what they collate with: "[[.one.]]".
    if (pattern.find("[.") != std::string::npos || pattern.find("[=") != std::string::npos) {
      see('0', '9');
    }
  }

  /// False: whatever the indices are, it is all the same to the pattern.
  bool depends_on_index() const { return depends_; }

  /// Equal for indices that the pattern cannot tell apart.
  std::string of(std::int64_t index) const {
    std::string text = std::to_string(index);
    if (literal_) return std::count(pieces_.begin(), pieces_.end(), text) > 0 ? text : "#";
    for (char& digit : text) digit = seen_[static_cast<std::size_t>(digit - '0')];
    return text;
  }

 private:
  static bool is_index(const std::string& piece) {
    return !piece.empty() && piece.find_first_not_of(digits) == std::string::npos;
  }
  void see(char first, char last) {
    for (const char digit : digits) {
      if (digit >= first && digit <= last) seen_[static_cast<std::size_t>(digit - '0')] = digit;
    }
  }

  bool literal_;
  bool depends_ = false;
  std::vector<std::string> pieces_;
  std::array<char, 10> seen_{};
};

std::string path_below(const std::string& path, const std::string& piece) {
  if (path.empty() || piece.empty()) return path + piece;
  return path + "." + piece;
}

/// Cuts lists by what one pattern says of their members.
class Splitter {
 public:
  Splitter(const IndexView& view, std::function<bool(const std::string& path)> matches)
      : view_(view), matches_(std::move(matches)) {}

  void split(Module& module, const std::string& path) {
    for (std::size_t i = 0; i < module.children().size(); ++i) {
      Module& child = *module.children()[i];
      const ListMembers members = child.members();
      if (!members.in_list()) {
        split(child, path_below(path, child.name()));
        continue;
      }
      // From the end, so that what is cut off is not looked at again.
      const std::vector<Run> runs = decide(child, path);
      std::int64_t end = members.first + members.count;
      for (std::size_t run = runs.size(); run-- > 0;) {
        end -= runs[run].count;
        module.split_list(members.first, end - members.first);
      }
      for (std::size_t run = 0; run < runs.size(); ++run) {
        Module& node = *module.children()[i + run];
        split(node, path_below(path, std::to_string(node.members().first)));
      }
      i += runs.size() - 1;
    }
  }

 private:
  /// Neighbouring list members of which the pattern says the same.
  struct Run {
    std::int64_t count;
    std::string decision;
  };

  /// Which Linears of `module` and below match, as a text: "+" or "-" for each, and behind members
  /// of lists how many of them in a row are alike.
  std::string decide_below(const Module& module, const std::string& path) const {
    std::string decision;
    if (holds_products(module)) decision = matches_(path) ? '+' : '-';
    for (const auto& child : module.children()) {
      if (!child->members().in_list()) {
        decision += decide_below(*child, path_below(path, child->name()));
        continue;
      }
      for (const Run& run : decide(*child, path)) {
        decision += fmt::format("({}{})", run.decision, run.count);
      }
    }
    return decision;
  }

  std::vector<Run> decide(const Module& node, const std::string& list_path) const {
    std::vector<Run> runs;
    std::map<std::string, std::string> known;
    const ListMembers& members = node.members();
    constexpr std::int64_t most = 1'000'000;  // of one list; no model comes near
    if (members.count > most) {
      throw Error(fmt::format("{}: {} entries are too many for patterns that tell entries apart",
                              list_path, format_grouped(members.count)),
                  "name modules by literals without numbers");
    }
    for (std::int64_t i = members.first; i < members.first + members.count; ++i) {
      const auto [seen, is_new] = known.try_emplace(view_.of(i));
      if (is_new) seen->second = decide_below(node, path_below(list_path, std::to_string(i)));
      if (!runs.empty() && runs.back().decision == seen->second) {
        ++runs.back().count;
      } else {
        runs.push_back({1, seen->second});
      }
    }
    return runs;
  }

  const IndexView& view_;
  std::function<bool(const std::string& path)> matches_;
};

/// Looks for a member path that a predicate holds for, trying list entries that the pattern cannot
/// tell apart once.
class Finder {
 public:
  Finder(const IndexView& view, const std::function<bool(const std::string& path)>& holds)
      : view_(view), holds_(holds) {}

  bool find(const Module& module, const std::string& path) const {
    if (!path.empty() && holds_(path)) return true;
    for (const Parameter& parameter : module.parameters()) {
      if (holds_(path_below(path, parameter.name))) return true;
    }
    for (const auto& child : module.children()) {
      const ListMembers& members = child->members();
      if (!members.in_list()) {
        if (find(*child, path_below(path, child->name()))) return true;
        continue;
      }
      std::set<std::string> seen;
      for (std::int64_t i = members.first; i < members.first + members.count; ++i) {
        if (!seen.insert(view_.of(i)).second) continue;
        if (find(*child, path_below(path, std::to_string(i)))) return true;
        if (!view_.depends_on_index()) break;
      }
    }
    return false;
  }

 private:
  const IndexView& view_;
  const std::function<bool(const std::string& path)>& holds_;
};

/// Whether a dotted path leads from a node to a module or a parameter.
bool leads_somewhere(const Module& from, const std::vector<std::string>& pieces) {
  const Module* at = &from;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Module* below = at->find_entry(pieces[i]);
    if (below == nullptr) {
      return i > 0 && i + 1 == pieces.size() && at->find_parameter(pieces[i]) != nullptr;
    }
    at = below;
  }
  return true;
}

/// The path itself and, one after the other, the modules that it lies in.
template <class Holds>
bool any_on_the_way(std::string_view path, Holds holds) {
  while (true) {
    if (holds(path)) return true;
    const std::size_t dot = path.rfind('.');
    if (dot == std::string_view::npos) return false;
    path = path.substr(0, dot);
  }
}

}  // namespace

bool holds_products(const Module& module) {
  return dynamic_cast<const Linear*>(&module) != nullptr ||
         dynamic_cast<const GroupedFusedExperts*>(&module) != nullptr ||
         dynamic_cast<const FusedExperts*>(&module) != nullptr;
}

ModuleFilter::ModuleFilter(const std::vector<std::string>& patterns, const std::string& where,
                           PatternStyle style, Names names)
    : style_(style), names_(std::move(names)) {
  for (const std::string& text : patterns) {
    Pattern& pattern = patterns_.emplace_back(Pattern{text});
    if (is_regex(text)) {
      pattern.expression = compile(text, where);
    } else {
      pattern.literal = style_ == PatternStyle::exact || is_literal_pattern(text);
    }
  }
}

bool ModuleFilter::matches_name(const Pattern& pattern, std::string_view name) const {
  const std::string_view text = pattern.text;
  if (pattern.expression) {
    return std::regex_search(name.begin(), name.end(), *pattern.expression,
                             std::regex_constants::match_continuous);
  }
  if (style_ == PatternStyle::exact) return name == text;
  if (!pattern.literal) {
    return any_on_the_way(name,
                          [&](std::string_view on_way) { return matches_pattern(on_way, text); });
  }
  if (name.size() <= text.size()) return name == text;
  const std::size_t at = name.size() - text.size();
  return (starts_with(name, text) && name[text.size()] == '.') ||
         (name[at - 1] == '.' && name.substr(at) == text);
}

bool ModuleFilter::matches(const Pattern& pattern, std::string_view path) const {
  if ((names_ == nullptr || pattern.literal) && matches_name(pattern, path)) return true;
  if (names_ == nullptr) return false;
  const std::vector<std::string> names = names_(std::string(path));
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return matches_name(pattern, name); });
}

std::optional<ModuleFilter::Match> ModuleFilter::match(std::string_view path,
                                                       std::string_view class_name) const {
  std::optional<Match> best;
  for (const Pattern& pattern : patterns_) {
    Match found{pattern.text, pattern.expression ? Kind::expression : Kind::name};
    if (!matches(pattern, path)) {
      if (style_ != PatternStyle::exact || pattern.text != class_name) continue;
      found.kind = Kind::class_name;
    }
    if (!best || found.kind < best->kind) best = found;
  }
  return best;
}

void ModuleFilter::split_lists(Module& root) const {
  for (const Pattern& pattern : patterns_) {
    const IndexView view(pattern.text, pattern.literal);
    if (!view.depends_on_index()) continue;
    Splitter splitter(view, [&](const std::string& path) { return matches(pattern, path); });
    splitter.split(root, "");
  }
}

bool ModuleFilter::names_anything(const Pattern& pattern, const Module& root) const {
  bool found = false;
  if (pattern.literal) {
    const std::vector<std::string> pieces = split(pattern.text, '.');
    if (leads_somewhere(root, pieces)) return true;
    walk(root, [&](const Module& module, const ModulePath&) {
      found = found || (style_ == PatternStyle::exact ? module.hf_class_name() == pattern.text
                                                      : leads_somewhere(module, pieces));
    });
    if (found || names_ == nullptr) return found;
  }
  const IndexView view(pattern.text, pattern.literal);
  const std::function<bool(const std::string&)> holds = [&](const std::string& path) {
    return matches(pattern, path);
  };
  return Finder(view, holds).find(root, "");
}

std::vector<std::string> ModuleFilter::unmatched(const Module& root) const {
  std::vector<std::string> texts;
  for (const Pattern& pattern : patterns_) {
    if (!names_anything(pattern, root)) texts.push_back(pattern.text);
  }
  return texts;
}

}  // namespace tcast
