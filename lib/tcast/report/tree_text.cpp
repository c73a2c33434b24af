#include "tcast/report/tree_text.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/base/units.h"

namespace tcast {
namespace {

std::string parameter_text(const Parameter& parameter, DType usual) {
  std::string text = parameter.checkpoint_name() + to_string(parameter.checkpoint_shape());
  if (parameter.shard.dim >= 0) text += fmt::format("->{}", to_string(parameter.local_shape()));
  if (parameter.dtype != usual) text += fmt::format(" {}", short_name_of(parameter.dtype));
  if (!parameter.tied_to.empty()) text += fmt::format(" = {}", parameter.tied_to);
  if (parameter.buffer) text += " (buffer)";
  return text;
}

std::string module_text(const Module& module, DType usual) {
  std::string text = module.name().empty() ? "" : module.name() + ": ";
  text += module.class_name();
  if (module.members().local_count != module.members().count) {
    text +=
        fmt::format(" ({} of {} per rank)", module.members().local_count, module.members().count);
  }
  for (const Parameter& parameter : module.parameters()) {
    text += "  " + parameter_text(parameter, usual);
  }
  const std::vector<Attribute> attributes = module.attributes();
  if (!attributes.empty()) text += " ";
  for (const Attribute& attribute : attributes) {
    text += fmt::format(" {}={}", attribute.name, to_string(attribute.value));
  }
  return text;
}

void add_lines(const Module& module, std::size_t depth, DType usual,
               std::vector<std::string>& lines) {
  lines.push_back(std::string(2 * depth, ' ') + printable(module_text(module, usual), 2000));
  for (const auto& child : module.children()) {
    // A wrapper's child has no name: paths go through it, and so do the columns.
    add_lines(*child, child->name().empty() ? depth : depth + 1, usual, lines);
  }
}

/// Edit script by Myers' greedy algorithm ("An O(ND) difference algorithm and its variations",
/// 1986): for each number of edits d the furthest line reached on every diagonal x - y = k.
class ShortestEdit {
 public:
  ShortestEdit(const std::vector<std::string>& before, const std::vector<std::string>& after)
      : before_(before), after_(after) {}

  /// Lines in order, each with its mark. Empty when more than `max_edits` edits are needed.
  std::vector<std::string> lines(std::ptrdiff_t max_edits) {
    const auto n = static_cast<std::ptrdiff_t>(before_.size());
    const auto m = static_cast<std::ptrdiff_t>(after_.size());
    for (std::ptrdiff_t d = 0; d <= std::min(max_edits, n + m); ++d) {
      reached_.emplace_back(static_cast<std::size_t>(2 * d + 1));
      for (std::ptrdiff_t k = -d; k <= d; k += 2) {
        std::ptrdiff_t x = d == 0 ? 0 : start(d, k);
        while (x < n && x - k < m && line(before_, x) == line(after_, x - k)) ++x;
        at(d, k) = x;
        if (x >= n && x - k >= m) return trace_back(d, k);
      }
    }
    return {};
  }

 private:
  static const std::string& line(const std::vector<std::string>& text, std::ptrdiff_t at) {
    return text[static_cast<std::size_t>(at)];
  }

  std::ptrdiff_t& at(std::ptrdiff_t d, std::ptrdiff_t k) {
    return reached_[static_cast<std::size_t>(d)][static_cast<std::size_t>(k + d)];
  }

  /// Whether edit d arrives on diagonal k by taking a line of `after`.
  bool inserts(std::ptrdiff_t d, std::ptrdiff_t k) {
    return k == -d || (k != d && at(d - 1, k - 1) < at(d - 1, k + 1));
  }

  std::ptrdiff_t start(std::ptrdiff_t d, std::ptrdiff_t k) {
    return inserts(d, k) ? at(d - 1, k + 1) : at(d - 1, k - 1) + 1;
  }

  std::vector<std::string> trace_back(std::ptrdiff_t d, std::ptrdiff_t k) {
    std::vector<std::string> reversed;
    std::ptrdiff_t x = at(d, k);
    for (; d >= 0; --d) {
      const std::ptrdiff_t from = d == 0 ? 0 : start(d, k);
      for (; x > from; --x) reversed.push_back("  " + line(before_, x - 1));
      if (d == 0) break;
      if (inserts(d, k)) {
        reversed.push_back("+ " + line(after_, x - k - 1));
        ++k;
      } else {
        reversed.push_back("- " + line(before_, x - 1));
        --x;
        --k;
      }
    }
    return {reversed.rbegin(), reversed.rend()};
  }

  const std::vector<std::string>& before_;
  const std::vector<std::string>& after_;
  std::vector<std::vector<std::ptrdiff_t>> reached_;
};

}  // namespace

std::vector<std::string> tree_lines(const Module& root, DType usual) {
  std::vector<std::string> lines;
  add_lines(root, 0, usual, lines);
  return lines;
}

DType usual_dtype(const Module& root) {
  std::array<std::int64_t, dtype_count> counts{};
  walk(root, [&counts](const Module& module, const ModulePath&) {
    for (const Parameter& parameter : module.parameters()) {
      if (!parameter.is_quantization_part()) ++counts[static_cast<std::size_t>(parameter.dtype)];
    }
  });
  return static_cast<DType>(std::max_element(counts.begin(), counts.end()) - counts.begin());
}

std::vector<std::string> diff_lines(const std::vector<std::string>& before,
                                    const std::vector<std::string>& after) {
  // Time and memory grow with the square of the edits.
  constexpr std::ptrdiff_t max_edits = 1500;
  std::vector<std::string> lines = ShortestEdit(before, after).lines(max_edits);
  if (!lines.empty()) return lines;
  for (const std::string& line : before) lines.push_back("- " + line);
  for (const std::string& line : after) lines.push_back("+ " + line);
  return lines;
}

}  // namespace tcast
