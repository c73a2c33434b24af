#include "tcast/transform/module_filter.h"

#include <algorithm>
#include <regex>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/layers.h"

namespace tcast {
namespace {

constexpr std::string_view regex_prefix = "re:";

bool is_regex(std::string_view pattern) {
  return pattern.substr(0, regex_prefix.size()) == regex_prefix;
}

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

bool matches(std::string_view path, const std::string& pattern) {
  if (is_regex(pattern)) {
    const std::regex expression(pattern.substr(regex_prefix.size()));
    return std::regex_search(path.begin(), path.end(), expression,
                             std::regex_constants::match_continuous);
  }
  if (!is_literal_pattern(pattern)) return matches_pattern(path, pattern);
  if (path == pattern) return true;
  if (starts_with(path, pattern) && path.size() > pattern.size() && path[pattern.size()] == '.') {
    return true;
  }
  if (path.size() <= pattern.size()) return false;
  const std::size_t at = path.size() - pattern.size();
  return path[at - 1] == '.' && path.substr(at) == pattern;
}

bool has_digit(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// True when members of one list may match differently: only then lists have to be cut.
bool depends_on_index(const std::string& pattern) {
  if (is_regex(pattern)) return true;
  return has_digit(pattern) || pattern.find('?') != std::string::npos ||
         pattern.find('[') != std::string::npos;
}

/// Cuts lists along a literal path ("model.layers.3.mlp.gate_proj"), beginning at `module`, if it
/// leads to something with a Linear in it.
bool leads_to_linear(const Module& module) {
  bool found = false;
  walk(module, [&found](const Module& below, const ModulePath&) {
    found = found || dynamic_cast<const Linear*>(&below) != nullptr;
  });
  return found;
}

Module* entry_of(Module& module, const std::string& piece) {
  for (const auto& child : module.children()) {
    const ListMembers& members = child->members();
    if (!members.in_list()) {
      if (child->name() == piece) return child.get();
      continue;
    }
    if (piece.empty() || piece.size() > 9 ||
        piece.find_first_not_of("0123456789") != std::string::npos) {
      continue;
    }
    const std::int64_t index = std::stoll(piece);
    if (index >= members.first && index < members.first + members.count) return child.get();
  }
  return nullptr;
}

void split_along(Module& module, const std::vector<std::string>& pieces, std::size_t next) {
  // First look whether the path leads anywhere, then cut on the way down.
  Module* at = &module;
  for (std::size_t i = next; i < pieces.size(); ++i) {
    at = entry_of(*at, pieces[i]);
    if (at == nullptr) return;
  }
  if (!leads_to_linear(*at)) return;
  at = &module;
  for (std::size_t i = next; i < pieces.size(); ++i) {
    const Module* entry = entry_of(*at, pieces[i]);
    if (entry->members().in_list()) at->split_list(std::stoll(pieces[i]), 1);
    at = entry_of(*at, pieces[i]);
  }
}

}  // namespace

ModuleFilter::ModuleFilter(std::vector<std::string> patterns, const std::string& where)
    : patterns_(std::move(patterns)) {
  for (const std::string& pattern : patterns_) {
    if (!is_regex(pattern)) continue;
    try {
      const std::regex expression(pattern.substr(regex_prefix.size()));
    } catch (const std::regex_error& error) {
      throw Error(fmt::format("{}: '{}' is not a regular expression ({})", where,
                              printable(pattern), error.what()));
    }
  }
}

std::string_view ModuleFilter::match(std::string_view path) const {
  for (const std::string& pattern : patterns_) {
    if (matches(path, pattern)) return pattern;
  }
  return {};
}

void ModuleFilter::split_lists(Module& root) const {
  std::vector<std::string> enumerated;
  for (const std::string& pattern : patterns_) {
    if (!depends_on_index(pattern)) continue;
    if (is_regex(pattern) || !is_literal_pattern(pattern)) {
      enumerated.push_back(pattern);
      continue;
    }
    // A literal may begin at the root or, as a suffix, anywhere.
    const std::vector<std::string> pieces = split(pattern, '.');
    std::vector<Module*> starts;
    walk(root, [&](Module& module, const ModulePath&) {
      if (entry_of(module, pieces[0]) != nullptr) starts.push_back(&module);
    });
    for (Module* start : starts) split_along(*start, pieces, 0);
  }
  if (enumerated.empty()) return;
  // Globs and regular expressions over indices: every member of every Linear is tried.
  const ModuleFilter filter(enumerated, "");
  std::vector<std::string> to_cut;
  walk(root, [&](Module& module, const ModulePath& path) {
    if (dynamic_cast<Linear*>(&module) == nullptr || path.count() == 1) return;
    std::vector<const Module*> lists;
    for (const Module* on_way : path.chain()) {
      if (on_way->members().in_list()) lists.push_back(on_way);
    }
    std::vector<std::int64_t> indices;
    std::vector<std::string> matched;
    std::int64_t members = 0;
    auto enumerate = [&](auto&& self, std::size_t depth) -> void {
      if (depth == lists.size()) {
        ++members;
        std::string member = path.member(indices);
        if (!filter.match(member).empty()) matched.push_back(std::move(member));
        return;
      }
      const ListMembers& range = lists[depth]->members();
      for (std::int64_t i = 0; i < range.count; ++i) {
        indices.push_back(range.first + i);
        self(self, depth + 1);
        indices.pop_back();
      }
    };
    enumerate(enumerate, 0);
    if (static_cast<std::int64_t>(matched.size()) == members) return;
    to_cut.insert(to_cut.end(), matched.begin(), matched.end());
  });
  for (const std::string& path : to_cut) {
    Module* start = &root;
    const std::vector<std::string> pieces = split(path, '.');
    // The wrapper's child has no name and is no piece of the path.
    while (entry_of(*start, pieces[0]) == nullptr && start->children().size() == 1) {
      start = start->children()[0].get();
    }
    split_along(*start, pieces, 0);
  }
}

}  // namespace tcast
