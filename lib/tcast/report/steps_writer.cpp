#include "tcast/report/steps_writer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/report/table_writer.h"
#include "tcast/report/text_table.h"

namespace tcast {
namespace {

// ---- paths

/// List members of one path component: "3" or "[3-60]", both ends included.
struct Range {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

std::optional<std::int64_t> read_index(std::string_view text) {
  std::int64_t index = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && index >= 0 ? std::optional(index) : std::nullopt;
}

std::optional<Range> read_range(std::string_view component) {
  if (const auto index = read_index(component)) return Range{*index, *index};
  const std::size_t dash = component.find('-');
  if (dash == std::string_view::npos || component.front() != '[' || component.back() != ']') {
    return std::nullopt;
  }
  const auto first = read_index(component.substr(1, dash - 1));
  const auto last = read_index(component.substr(dash + 1, component.size() - dash - 2));
  if (!first || !last || *last < *first) return std::nullopt;
  return Range{*first, *last};
}

/// Paths that differ in their first list member only.
struct PathFamily {
  std::string before;            ///< "model.layers."
  std::string after;             ///< ".mlp"
  std::vector<Range> members{};  ///< empty: `before` is the whole path

  std::string text() const;
};

/// "model.layers.[0-2,5].mlp": neighbouring and repeated ranges joined.
std::string PathFamily::text() const {
  if (members.empty()) return before;
  std::vector<Range> sorted = members;
  std::sort(sorted.begin(), sorted.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> joined;
  for (const Range& range : sorted) {
    if (!joined.empty() && range.first - 1 <= joined.back().last) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  if (joined.size() == 1 && joined[0].first == joined[0].last) {
    return fmt::format("{}{}{}", before, joined[0].first, after);
  }
  std::vector<std::string> parts;
  parts.reserve(joined.size());
  for (const Range& range : joined) {
    parts.push_back(range.first == range.last ? fmt::format("{}", range.first)
                                              : fmt::format("{}-{}", range.first, range.last));
  }
  constexpr std::size_t most = 8;
  if (parts.size() > most) {
    parts.resize(most);
    parts.emplace_back("...");
  }
  return fmt::format("{}[{}]{}", before, join(parts, ","), after);
}

PathFamily family_of(const std::string& path) {
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    if (const auto range = read_range(std::string_view(path).substr(begin, end - begin))) {
      return {path.substr(0, begin), path.substr(end), {*range}};
    }
    begin = end + 1;
  }
  return {path, ""};
}

/// Paths in a few words: those that differ in the list member are one, the first few are named.
class PathSet {
 public:
  void add(const std::string& path) {
    PathFamily family = family_of(path);
    for (PathFamily& known : families_) {
      if (known.before == family.before && known.after == family.after &&
          known.members.empty() == family.members.empty()) {
        known.members.insert(known.members.end(), family.members.begin(), family.members.end());
        return;
      }
    }
    // What is not named need not be told apart.
    if (families_.size() < max_families) {
      families_.push_back(std::move(family));
    } else {
      ++unnamed_;
    }
  }

  std::string text() const {
    constexpr std::size_t named = 3;
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < families_.size() && i < named; ++i) {
      const std::string path = families_[i].text();
      texts.push_back(path.empty() ? "the model itself" : path);
    }
    std::size_t more = unnamed_;
    if (families_.size() > named) more += families_.size() - named;
    std::string result = join(texts, ", ");
    if (more > 0) result += fmt::format(" and {} more", more);
    return result;
  }

 private:
  static constexpr std::size_t max_families = 100;
  std::vector<PathFamily> families_;
  std::size_t unnamed_ = 0;
};

/// What several modules have in common ("Linear -> fp8"), and their paths.
struct Group {
  std::string label;
  PathSet paths{};
};

Group& group_of(std::vector<Group>& groups, const std::string& label) {
  for (Group& group : groups) {
    if (group.label == label) return group;
  }
  return groups.emplace_back(Group{label});
}

std::string write_groups(std::string_view label, const std::vector<Group>& groups) {
  constexpr std::size_t most = 20;
  std::string result;
  for (std::size_t i = 0; i < groups.size() && i < most; ++i) {
    const std::string paths = groups[i].paths.text();
    result += wrap(fmt::format("  {:<12}", i == 0 ? label : ""),
                   groups[i].label + (paths.empty() ? "" : ": " + paths));
  }
  if (groups.size() > most) {
    result += fmt::format("  {:<12}[{} others]\n", "", groups.size() - most);
  }
  return result;
}

std::string write_changes(const ReportStep& step) {
  std::vector<Group> changed;
  for (const ReportStep::Change& change : step.changed) {
    const std::string label =
        change.from.empty() ? "new " + change.to : change.from + " -> " + change.to;
    group_of(changed, label).paths.add(change.path);
  }
  std::vector<Group> skipped;
  for (const ReportStep::Skip& skip : step.skipped) {
    Group& group = group_of(skipped, skip.reason);
    if (!skip.path.empty()) group.paths.add(skip.path);
  }
  std::string result = write_groups("changed", changed) + write_groups("left alone", skipped);
  for (const std::string& warning : step.warnings) result += wrap("  warning     ", warning);
  return result;
}

// ---- figures

enum class FigureUnit { bytes, seconds, count };

/// Something about the model that a step may change.
struct Figure {
  std::string_view name;
  FigureUnit unit;
  double (*value)(const StepFigures& figures);
};

constexpr Figure figures[] = {
    {"weights", FigureUnit::bytes,
     [](const StepFigures& s) { return static_cast<double>(s.weights_bytes); }},
    {"KV cache", FigureUnit::bytes,
     [](const StepFigures& s) { return static_cast<double>(s.kv_cache_bytes); }},
    {"activations, peak", FigureUnit::bytes,
     [](const StepFigures& s) { return static_cast<double>(s.activation_peak_bytes); }},
    {"prefill operations", FigureUnit::count, [](const StepFigures& s) { return s.prefill_flops; }},
    {"prefill memory traffic", FigureUnit::bytes,
     [](const StepFigures& s) { return s.prefill_bytes; }},
    {"prefill time", FigureUnit::seconds, [](const StepFigures& s) { return s.prefill_s; }},
    {"decode step operations", FigureUnit::count,
     [](const StepFigures& s) { return s.decode_flops; }},
    {"decode step memory traffic", FigureUnit::bytes,
     [](const StepFigures& s) { return s.decode_bytes; }},
    {"decode step time", FigureUnit::seconds, [](const StepFigures& s) { return s.decode_step_s; }},
    {"traced regions", FigureUnit::count,
     [](const StepFigures& s) { return static_cast<double>(s.regions); }},
    {"traced operators", FigureUnit::count,
     [](const StepFigures& s) { return static_cast<double>(s.traced_ops); }},
    {"executed operators", FigureUnit::count,
     [](const StepFigures& s) { return static_cast<double>(s.called_ops); }},
};

std::string show(double value, FigureUnit unit) {
  switch (unit) {
    case FigureUnit::bytes:
      return format_bytes(value);
    case FigureUnit::seconds:
      return format_seconds(value);
    case FigureUnit::count:
      break;
  }
  return format_count(value);
}

std::string show_percent(double before, double after) {
  if (before == 0) return "new";
  const double percent = 100 * (after - before) / before;
  return std::abs(percent) < 1e5 ? fmt::format("{:+.1f} %", percent)
                                 : fmt::format("{:+.1e} %", percent);
}

const StepFigures& figures_of(const ReportStep& step) {
  TCAST_CHECK(step.figures.has_value(), "a table of steps has the figures of each");
  return *step.figures;
}

/// The figures that differ; sums of the same prices in another order do not.
std::string write_effect(const ReportStep& step_before, const ReportStep& step_after) {
  const StepFigures& before = figures_of(step_before);
  const StepFigures& after = figures_of(step_after);
  constexpr double rounding = 1e-9;
  TextTable table({{}, {"before", true}, {"after", true}, {"change", true}, {"", true}});
  bool any = false;
  for (const Figure& figure : figures) {
    const double old_value = figure.value(before);
    const double new_value = figure.value(after);
    const double change = new_value - old_value;
    if (std::abs(change) <= rounding * std::max(std::abs(old_value), std::abs(new_value))) continue;
    any = true;
    table.add_row({std::string(figure.name), show(old_value, figure.unit),
                   show(new_value, figure.unit),
                   (change < 0 ? "-" : "+") + show(std::abs(change), figure.unit),
                   show_percent(old_value, new_value)});
  }
  return any ? table.text(2) : "  no figure changes\n";
}

std::string count_of(const ReportStep& step) {
  if (!step.expected) return format_grouped(step.changed_modules);
  return format_grouped(step.changed_modules) + "/" + format_grouped(*step.expected);
}

std::string write_overview(std::span<const ReportStep> steps) {
  TextTable table({{"after step"},
                   {"changed", true},
                   {"ops", true},
                   {"weights", true},
                   {"KV cache", true},
                   {"activations", true},
                   {"prefill", true},
                   {"decode step", true}});
  for (const ReportStep& step : steps) {
    const bool untransformed = step.step.empty();
    const StepFigures& model = figures_of(step);
    table.add_row({untransformed ? "(untransformed)" : step.step,
                   untransformed ? "" : count_of(step), format_grouped(model.called_ops),
                   format_bytes(static_cast<double>(model.weights_bytes)),
                   format_bytes(static_cast<double>(model.kv_cache_bytes)),
                   format_bytes(static_cast<double>(model.activation_peak_bytes)),
                   format_seconds(model.prefill_s), format_seconds(model.decode_step_s)});
  }
  return table.text();
}

std::string write_step(const ReportStep& step, const ReportStep* before) {
  std::string count = format_grouped(step.changed_modules) +
                      (step.changed_modules == 1 ? " module changed" : " modules changed");
  if (step.expected) count += fmt::format(", {} expected", format_grouped(*step.expected));
  std::string result = wrap(step.step + ": ",
                            fmt::format("{} ({})", count, format_seconds(step.milliseconds / 1e3)));
  result += write_changes(step);
  if (before != nullptr) result += write_effect(*before, step);
  return result;
}

}  // namespace

std::string write_steps_table(const Report& report) {
  std::string result = write_header(report);
  if (report.steps.empty()) {
    return result + "\nno step ran\n" + write_notes(report);
  }
  result += "\n" + write_overview(report.steps);
  for (std::size_t i = 0; i < report.steps.size(); ++i) {
    if (report.steps[i].step.empty()) continue;
    result += "\n" + write_step(report.steps[i], i > 0 ? &report.steps[i - 1] : nullptr);
  }
  if (report.steps.size() > 2 && report.steps.front().step.empty()) {
    result += "\nall steps together\n" + write_effect(report.steps.front(), report.steps.back());
  }
  return result + write_notes(report);
}

}  // namespace tcast
