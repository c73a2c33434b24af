#include "tcast/report/table_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/report/text_table.h"

// Rounded parts need not add up to their rounded total. So a total is rounded to whole quanta (the
// last digit shown), and its quanta are then distributed: each part gets its share rounded down,
// and what is left goes to the parts that lost most (the largest-remainder method). Parts of parts
// get theirs from the quanta of the part, so that every level adds up and none drifts.

namespace tcast {
namespace {

/// `total` quanta, a whole number, in proportion to the values.
std::vector<double> distribute(const std::vector<double>& values, double total) {
  std::vector<double> parts(values.size());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  if (!(sum > 0) || !(total > 0)) return parts;
  std::vector<double> lost(values.size());
  double left = total;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double exact = values[i] / sum * total;
    parts[i] = std::floor(exact);
    lost[i] = exact - parts[i];
    left -= parts[i];
  }
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return lost[a] > lost[b]; });
  for (const std::size_t i : order) {
    if (left < 1) break;
    parts[i] += 1;
    left -= 1;
  }
  return parts;
}

/// Parts and their total in whole quanta.
struct Quanta {
  std::vector<double> parts;
  double total = 0;
};

Quanta round_together(const std::vector<double>& values, double quantum) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  const double total = quantum > 0 ? std::round(sum / quantum) : 0;
  return {distribute(values, total), total};
}

/// A unit of which a thousandth is one quantum.
struct Unit {
  std::string_view name;
  double size;

  double quantum() const { return size / 1000; }
};

/// Quanta as a number with three decimals.
std::string show(double quanta) {
  const double value = quanta / 1000;
  return std::abs(value) < 1e9 ? fmt::format("{:.3f}", value) : fmt::format("{:.3e}", value);
}

/// The largest unit that the amount fills.
template <std::size_t count>
Unit unit_for(double amount, const std::array<Unit, count>& units) {
  for (const Unit& unit : units) {
    if (amount >= unit.size) return unit;
  }
  return units.back();
}

Unit time_unit(double seconds) {
  static constexpr std::array<Unit, 4> units = {
      Unit{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}};
  return unit_for(seconds, units);
}

Unit memory_unit(double bytes) {
  static constexpr std::array<Unit, 5> units = {
      Unit{"PiB", 0x1p50}, {"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20}, {"KiB", 0x1p10}};
  return unit_for(bytes, units);
}

/// Quanta of a thousandth as "12.3 %"; "-" where there is nothing to have a share in.
std::string show_share(double quanta, double whole) {
  return whole > 0 ? fmt::format("{:.1f} %", quanta / 10) : "-";
}

void check_finite(const Report& report) {
  const auto check = [](double value) {
    TCAST_CHECK(std::isfinite(value), "a number in the report is not finite");
  };
  for (const ReportOp& op : report.ops) {
    check(op.total_s);
    check(op.ideal_s);
  }
  for (const ReportMetric& metric : report.metrics) {
    for (const auto& value : {metric.value, metric.low, metric.high, metric.ideal}) {
      check(value.value_or(0));
    }
  }
}

// ---- what was run

/// An input's value for a person; empty when there is nothing to say.
std::string show_value(std::string_view json) {
  if (json == "true") return "yes";
  if (json == "false") return "no";
  if (json == "null" || json == "[]" || json == "{}") return {};
  if (json.size() >= 2 && json.front() == '"' && json.back() == '"') {
    json = json.substr(1, json.size() - 2);
  }
  return std::string(json);
}

std::string spaced(std::string text) {
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

/// The line of the header in which an input stands; "" for those that have a line of their own.
std::string_view header_line_of(std::string_view input) {
  struct Entry {
    std::string_view input;
    std::string_view line;
  };
  static constexpr Entry entries[] = {
      {"config", ""},
      {"device", ""},
      {"phase", "workload"},
      {"batch_size", "workload"},
      {"input_length", "workload"},
      {"output_length", "workload"},
      {"num_queries", "workload"},
      {"query_length", "workload"},
      {"context_length", "workload"},
      {"num_mtp_tokens", ""},
      {"num_devices", "parallelism"},
      {"tp", "parallelism"},
      {"dp", "parallelism"},
      {"pp", "parallelism"},
      {"ep", "parallelism"},
      {"quantize_linear", "quantization"},
      {"quantize_kv_cache", "quantization"},
      {"quantize_ignore", "quantization"},
  };
  for (const Entry& entry : entries) {
    if (entry.input == input) return entry.line;
  }
  return "options";
}

// ---- memory

/// Whether the model is known not to fit.
bool does_not_fit(const ReportMemory& memory) { return memory.capacity_bytes > 0 && !memory.fits; }

std::string verdict_of(const ReportMemory& memory) {
  if (memory.capacity_bytes <= 0) return "unknown: the capacity of the device is not known";
  const auto total = static_cast<double>(memory.total_bytes);
  const auto capacity = static_cast<double>(memory.capacity_bytes);
  std::string verdict = memory.fits ? "fits" : "does not fit";
  if (memory.fits && capacity > total) {
    verdict += ", " + format_bytes(capacity - total) + " to spare";
  } else if (!memory.fits && total > capacity) {
    verdict += ", " + format_bytes(total - capacity) + " too much";
  }
  if (memory.fits || memory.min_devices <= 0) return verdict;
  verdict += fmt::format("; {} devices would do", format_grouped(memory.min_devices));
  if (memory.min_devices_tp > 0) {
    verdict += fmt::format(" (--num-devices {} --tp {} --ep {})", memory.min_devices,
                           memory.min_devices_tp, memory.min_devices_ep);
  }
  return verdict;
}

std::string write_memory(const Report& report) {
  const ReportMemory& memory = report.memory;
  struct Part {
    std::string_view name;
    std::int64_t bytes;
    std::string_view note;
  };
  const Part parts[] = {
      {"weights", memory.weights_bytes, ""},
      {"KV cache", memory.kv_cache_bytes, ""},
      {"activations, peak", memory.activation_peak_bytes, memory.activation_peak_at},
      {"workspace", memory.workspace_bytes, ""},
      {"reserved", memory.reserved_bytes, ""},
  };
  std::vector<double> bytes;
  for (const Part& part : parts) bytes.push_back(static_cast<double>(part.bytes));
  const double total = std::accumulate(bytes.begin(), bytes.end(), 0.0);
  const auto capacity = static_cast<double>(memory.capacity_bytes);
  const Unit unit = memory_unit(total);
  const Quanta amounts = round_together(bytes, unit.quantum());
  const Quanta shares = round_together(bytes, capacity / 1000);

  TextTable table({{"memory of one device"}, {std::string(unit.name), true}, {"share", true}, {}});
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    table.add_row({fmt::format("  {}", parts[i].name), show(amounts.parts[i]),
                   show_share(shares.parts[i], capacity), std::string(parts[i].note)});
  }
  table.add_row({"  total", show(amounts.total), show_share(shares.total, capacity)});
  if (capacity > 0) {
    table.add_row({"  capacity", show(std::round(capacity / unit.quantum())), "100.0 %"});
  }

  std::string result = table.text() + wrap("  verdict            ", verdict_of(memory));
  if (!memory.with_limits) return result;
  const auto limit = [](const std::optional<std::int64_t>& value, std::string_view what,
                        std::string_view none) {
    if (!value) return std::string("not limited by memory");
    return *value > 0 ? fmt::format("{} {}", format_grouped(*value), what)
                      : fmt::format("none: {} does not fit", none);
  };
  result += wrap("  largest batch      ",
                 limit(memory.max_batch_size, "with these lengths", "a single request"));
  std::string context =
      limit(memory.max_context_length, "tokens with this batch", "a single token");
  // What fits is one thing, what the model was trained for another.
  const std::optional<std::int64_t> made_for = memory.context_limit;
  if (made_for && memory.max_context_length.value_or(*made_for + 1) > *made_for) {
    context +=
        fmt::format("; the config is made for {} ({})", format_grouped(*made_for),
                    made_for == memory.max_position_embeddings ? "max_position_embeddings"
                                                               : "with its scaling of positions");
  }
  return result + wrap("  longest context    ", context);
}

// ---- experts

std::string write_experts(const Report& report) {
  const ReportExperts& experts = *report.experts;
  TextTable table({{"experts read, of each layer"}, {"expected", true}, {"held", true}, {}});
  for (const ReportPass& pass : report.passes) {
    if (!pass.distinct_experts) continue;
    table.add_row({"  " + pass.title, fmt::format("{:.4g}", *pass.distinct_experts),
                   format_grouped(experts.per_device),
                   fmt::format("a token chooses {} of {}", experts.per_token,
                               format_grouped(experts.num_experts))});
  }
  return table.text();
}

// ---- metrics

/// Tokens per second: whole ones where there are many.
std::string show_rate(double rate) {
  if (std::abs(rate) < 99.95) return fmt::format("{:.1f}", rate);
  return std::abs(rate) < 1e15 ? format_grouped(std::llround(rate)) : fmt::format("{:.3e}", rate);
}

/// Metrics that have a value, group by group; the first group gives the title.
std::string write_metrics(const Report& report) {
  std::string title = report.metrics.front().group;
  if (does_not_fit(report.memory)) title += " (does not fit)";
  std::vector<TextColumn> columns = {{title}, {"estimate", true}};
  if (report.with_range) columns.push_back({"range", true});
  if (report.with_ideal) columns.push_back({"ideal", true});
  TextTable table(std::move(columns));
  const auto seconds = [](const std::optional<double>& value) {
    return value ? format_seconds(*value) : std::string("-");
  };
  for (const ReportMetric& metric : report.metrics) {
    if (!metric.value) continue;
    if (!metric.is_time()) {
      table.add_row({"  " + metric.label, show_rate(*metric.value)});
      continue;
    }
    std::vector<std::string> cells = {"  " + metric.label, seconds(metric.value)};
    if (report.with_range) {
      cells.push_back(fmt::format("{} .. {}", seconds(metric.low), seconds(metric.high)));
    }
    if (report.with_ideal) cells.push_back(seconds(metric.ideal));
    table.add_row(std::move(cells));
  }
  return table.text();
}

// ---- operators

/// The rows of one phase with their rounded columns.
struct PhaseOps {
  std::string phase;
  std::vector<const ReportOp*> ops;  ///< longest first
  Unit unit{};
  double total_s = 0;
  Quanta times;
  Quanta ideals;
  Quanta shares;
};

PhaseOps ops_of(const Report& report, const std::string& phase) {
  PhaseOps result;
  result.phase = phase;
  for (const ReportOp& op : report.ops) {
    if (op.phase == phase) result.ops.push_back(&op);
  }
  std::stable_sort(result.ops.begin(), result.ops.end(),
                   [](const ReportOp* a, const ReportOp* b) { return a->total_s > b->total_s; });
  std::vector<double> seconds;
  std::vector<double> ideals;
  for (const ReportOp* op : result.ops) {
    seconds.push_back(op->total_s);
    ideals.push_back(op->ideal_s);
  }
  result.total_s = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  result.unit = time_unit(result.total_s);
  result.times = round_together(seconds, result.unit.quantum());
  result.ideals = round_together(ideals, result.unit.quantum());
  result.shares = round_together(seconds, result.total_s / 1000);
  return result;
}

/// "compute 64.0 %, memory 28.0 %", largest first.
std::string bounds_of(const PhaseOps& phase) {
  std::vector<std::pair<std::string, double>> bounds;  // with their seconds
  for (const ReportOp* op : phase.ops) {
    auto at = std::find_if(bounds.begin(), bounds.end(),
                           [&](const auto& entry) { return entry.first == op->bound; });
    if (at == bounds.end()) at = bounds.insert(at, {op->bound, 0.0});
    at->second += op->total_s;
  }
  std::stable_sort(bounds.begin(), bounds.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<double> seconds;
  seconds.reserve(bounds.size());
  for (const auto& [bound, bound_s] : bounds) seconds.push_back(bound_s);
  const std::vector<double> shares = distribute(seconds, phase.shares.total);
  std::vector<std::string> texts;
  texts.reserve(bounds.size());
  for (std::size_t i = 0; i < bounds.size(); ++i) {
    texts.push_back(fmt::format("{} {}", bounds[i].first, show_share(shares[i], phase.total_s)));
  }
  return join(texts, ", ");
}

std::string write_ops(const PhaseOps& phase, bool with_ideal, std::size_t max_rows) {
  std::vector<TextColumn> columns = {{"  op"}, {"module"}, {"calls", true}};
  columns.push_back({fmt::format("total {}", phase.unit.name), true});
  if (with_ideal) columns.push_back({fmt::format("ideal {}", phase.unit.name), true});
  columns.insert(columns.end(), {{"share", true}, {"bound"}, {"source"}});
  TextTable table(columns);

  const auto add = [&](std::string name, std::string module, double calls, double time,
                       double ideal, double share, std::string bound, std::string source) {
    std::vector<std::string> cells = {"  " + std::move(name), std::move(module),
                                      fmt::format("{:.0f}", calls), show(time)};
    if (with_ideal) cells.push_back(show(ideal));
    cells.push_back(show_share(share, phase.total_s));
    cells.push_back(std::move(bound));
    cells.push_back(std::move(source));
    table.add_row(std::move(cells));
  };
  // One row less would be no shorter.
  const std::size_t shown = phase.ops.size() <= max_rows + 1 ? phase.ops.size() : max_rows;
  bool any_scaled = false;
  bool any_disturbed = false;
  double calls = 0;
  double other_calls = 0;
  double other_time = 0;
  double other_ideal = 0;
  double other_share = 0;
  for (std::size_t i = 0; i < phase.ops.size(); ++i) {
    const ReportOp& op = *phase.ops[i];
    calls += op.calls;
    if (i < shown) {
      add(op.name, op.module, op.calls, phase.times.parts[i], phase.ideals.parts[i],
          phase.shares.parts[i], op.bound,
          op.source + (op.scaled ? "*" : "") + (op.disturbed ? "!" : ""));
      any_scaled = any_scaled || op.scaled;
      any_disturbed = any_disturbed || op.disturbed;
    } else {
      other_calls += op.calls;
      other_time += phase.times.parts[i];
      other_ideal += phase.ideals.parts[i];
      other_share += phase.shares.parts[i];
    }
  }
  if (shown < phase.ops.size()) {
    add(fmt::format("[{} others]", phase.ops.size() - shown), "", other_calls, other_time,
        other_ideal, other_share, "", "");
  }
  add("total", "", calls, phase.times.total, phase.ideals.total, phase.shares.total, "", "");
  std::string result =
      wrap(phase.phase + ": ",
           fmt::format("{}; limited by {}", format_seconds(phase.total_s), bounds_of(phase)));
  result += table.text();
  if (any_scaled) result += "  * timed on a smaller size and scaled\n";
  if (any_disturbed) result += "  ! timed while the machine was disturbed\n";
  return result;
}

// ---- modules

/// Quanta of time and of share of one phase after the other.
using Amounts = std::vector<double>;

/// A module with everything below it; seconds by phase.
struct ModuleTime {
  explicit ModuleTime(std::string module_name, std::size_t phases)
      : name(std::move(module_name)),
        total_s(phases),
        own_s(phases),
        amounts(2 * phases),
        own_amounts(2 * phases) {}

  std::string name;
  std::vector<double> total_s;
  std::vector<double> own_s;  ///< of its operators that are in no child
  Amounts amounts;
  Amounts own_amounts;
  std::vector<ModuleTime> children{};
};

/// At most three names under which the time of a module is shown: the layer (everything up to the
/// first list member) or, outside layers, the module; its part; the part's part.
std::vector<std::string> levels_of(const std::string& path) {
  if (path.empty()) return {"(model)"};
  const std::vector<std::string> parts = split(path, '.');
  const auto star = std::find(parts.begin(), parts.end(), "*");
  const bool in_layer = star != parts.end();
  const auto top_end =
      in_layer ? star + 1 : parts.begin() + std::min<std::ptrdiff_t>(2, std::ssize(parts));
  std::vector<std::string> levels = {join({parts.begin(), top_end}, ".")};
  for (auto part = top_end; in_layer && part != parts.end() && levels.size() < 3; ++part) {
    if (*part != "*") levels.push_back(*part);
  }
  return levels;
}

ModuleTime& child_of(ModuleTime& node, const std::string& name) {
  for (ModuleTime& child : node.children) {
    if (child.name == name) return child;
  }
  return node.children.emplace_back(name, node.total_s.size());
}

/// Hands the quanta of a module down to its children and its own operators.
void hand_down(ModuleTime& node) {
  for (std::size_t column = 0; column < node.amounts.size(); ++column) {
    std::vector<double> seconds;
    for (const ModuleTime& child : node.children) seconds.push_back(child.total_s[column / 2]);
    seconds.push_back(node.own_s[column / 2]);
    const std::vector<double> parts = distribute(seconds, node.amounts[column]);
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      node.children[i].amounts[column] = parts[i];
    }
    node.own_amounts[column] = parts.back();
  }
  for (ModuleTime& child : node.children) hand_down(child);
}

ModuleTime module_times(const std::vector<PhaseOps>& phases) {
  ModuleTime root("total", phases.size());
  for (std::size_t p = 0; p < phases.size(); ++p) {
    // Modules in the order of the report, which is that of execution; not of their times.
    std::vector<const ReportOp*> ops = phases[p].ops;
    std::sort(ops.begin(), ops.end(), std::less<>());
    for (const ReportOp* op : ops) {
      ModuleTime* node = &root;
      node->total_s[p] += op->total_s;
      for (const std::string& level : levels_of(op->module)) {
        node = &child_of(*node, level);
        node->total_s[p] += op->total_s;
      }
      node->own_s[p] += op->total_s;
    }
    root.amounts[2 * p] = phases[p].times.total;
    root.amounts[2 * p + 1] = phases[p].shares.total;
  }
  hand_down(root);
  return root;
}

/// Lays out a tree of module times: parents in front of their children, the total last.
class ModuleTable {
 public:
  explicit ModuleTable(const std::vector<PhaseOps>& phases) : phases_(phases) {}

  std::string text(const ModuleTime& root) const {
    std::vector<TextColumn> columns = {{"module"}};
    for (const PhaseOps& phase : phases_) {
      columns.push_back({fmt::format("{} {}", phase.phase, phase.unit.name), true});
      columns.push_back({"share", true});
    }
    TextTable table(columns);
    add_children(table, root, 1);
    add_row(table, root.name, root.amounts, 1);
    return table.text();
  }

 private:
  void add_row(TextTable& table, const std::string& name, const Amounts& amounts,
               std::size_t depth) const {
    std::vector<std::string> cells = {std::string(2 * depth, ' ') + name};
    for (std::size_t p = 0; p < phases_.size(); ++p) {
      cells.push_back(show(amounts[2 * p]));
      cells.push_back(show_share(amounts[2 * p + 1], phases_[p].total_s));
    }
    table.add_row(std::move(cells));
  }

  /// Less than half a percent of every phase.
  static bool is_small(const Amounts& amounts) {
    for (std::size_t i = 1; i < amounts.size(); i += 2) {
      if (amounts[i] >= 5) return false;
    }
    return true;
  }

  void add_children(TextTable& table, const ModuleTime& node, std::size_t depth) const {
    if (node.children.empty()) return;
    // Few rows are shown whatever their time; of many, small ones are one row.
    constexpr std::size_t few = 8;
    Amounts others(node.amounts.size());
    std::size_t folded = 0;
    for (const ModuleTime& child : node.children) {
      const bool fold = node.children.size() > few && is_small(child.amounts);
      for (std::size_t i = 0; fold && i < others.size(); ++i) others[i] += child.amounts[i];
      if (fold) {
        ++folded;
      } else {
        add_row(table, child.name, child.amounts, depth);
        add_children(table, child, depth + 1);
      }
    }
    if (folded > 0) add_row(table, fmt::format("[{} others]", folded), others, depth);
    const Amounts& own = node.own_amounts;
    const bool has_own = std::any_of(own.begin(), own.end(), [](double part) { return part > 0; });
    if (has_own) add_row(table, "(itself)", own, depth);
  }

  const std::vector<PhaseOps>& phases_;
};

std::string write_list(std::string_view title, const std::vector<std::string>& texts) {
  if (texts.empty()) return {};
  std::string result = fmt::format("\n{}\n", title);
  for (const std::string& text : texts) result += wrap("  - ", text);
  return result;
}

}  // namespace

std::string write_header(const Report& report) {
  std::map<std::string_view, std::vector<std::string>> lines;
  for (const ReportInput& input : report.inputs) {
    const std::string value = show_value(input.value);
    if (value.empty()) continue;
    std::string_view name = input.name;
    const std::string_view line = header_line_of(name);
    constexpr std::string_view prefix = "quantize_";
    if (line == "quantization") name.remove_prefix(prefix.size());
    lines[line].push_back(spaced(std::string(name)) + " " + value);
  }
  // What weights are says more than the option that asks for it, unless somebody gave one.
  if (report.dtypes) {
    std::erase_if(lines["quantization"], [](const std::string& text) {
      return text == "linear checkpoint" || text == "kv cache checkpoint";
    });
  }
  if (report.mtp_tokens > 0) {
    lines["workload"].push_back(
        fmt::format("num mtp tokens {0} (latency per step of 1+{0} tokens)", report.mtp_tokens));
  }
  std::string result;
  const auto line = [&](std::string_view label, std::string_view text) {
    if (!text.empty()) result += wrap(fmt::format("{:<14}", label), text);
  };
  std::string model = report.model_type;
  if (!report.config_file.empty()) model += " (" + report.config_file + ")";
  line("model", model);
  line("parameters", fmt::format("{} total, {} active per token",
                                 format_count(static_cast<double>(report.total_parameters)),
                                 format_count(static_cast<double>(report.active_parameters))));
  std::vector<std::string> plugins;
  std::string device = report.device;
  for (const Provenance& one : report.provenance) {
    if (one.kind == "device") {
      if (one.from != Provenance::From::host) device += fmt::format(" ({})", to_string(one));
    } else if (one.from == Provenance::From::plugin) {
      plugins.push_back(fmt::format("{} '{}' {}", one.kind, printable(one.name), to_string(one)));
    }
  }
  line("device", device);
  if (report.dtypes) line("dtypes", describe(*report.dtypes));
  for (const std::string_view label : {"parallelism", "quantization", "workload", "options"}) {
    line(label, join(lines[label], ", "));
  }
  line("pipeline", report.pipeline);
  line("plugins", join(plugins, "; "));
  return result;
}

std::string write_table(const Report& report, const TableOptions& options) {
  check_finite(report);
  std::string result;
  if (does_not_fit(report.memory)) result = wrap("verdict       ", verdict_of(report.memory));
  result += write_header(report);
  result += "\n" + write_memory(report);
  if (report.experts) result += "\n" + write_experts(report);
  if (!report.metrics.empty()) result += "\n" + write_metrics(report);
  std::vector<PhaseOps> phases;
  for (const ReportOp& op : report.ops) {
    const bool known = std::any_of(phases.begin(), phases.end(),
                                   [&](const PhaseOps& phase) { return phase.phase == op.phase; });
    if (!known) phases.push_back(ops_of(report, op.phase));
  }
  for (const PhaseOps& phase : phases) {
    result += "\n" + write_ops(phase, has_ideal(report), options.max_op_rows);
  }
  // The modules of one operator are in its row already.
  std::erase_if(phases, [](const PhaseOps& phase) { return phase.ops.size() < 2; });
  if (!phases.empty()) result += "\n" + ModuleTable(phases).text(module_times(phases));
  return result + write_notes(report);
}

std::string write_notes(const Report& report) {
  return write_list("assumptions", report.assumptions) + write_list("warnings", report.warnings);
}

}  // namespace tcast
