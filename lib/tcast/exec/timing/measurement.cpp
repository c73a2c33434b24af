#include "tcast/exec/timing/measurement.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "tcast/base/text.h"

namespace tcast {
namespace {

constexpr double Pace::*probes[] = {&Pace::read_bytes_per_s, &Pace::f32_flops_per_s,
                                    &Pace::bf16_flops_per_s};

/// Most timings of a quiet machine repeat within this, from session to session: 20 of them within
/// half an hour lay between 6 % below and 8 % above their median (tests/bench/disturbance_bench).
constexpr double repeatability = 0.05;
/// What a quiet machine shows of each kind of disturbance.
constexpr double usual_stall = 0.1;
constexpr double usual_slowdown = 1.25;
constexpr double usual_spread = 0.3;
/// Shorter ones are dominated by what an operator takes whatever its size.
constexpr double least_comparable_s = 100e-6;
/// From so few samples no quartile is known.
constexpr int few_samples = 3;
constexpr double spread_of_few = 0.2;

/// The value at a share of an ordered list.
double quantile(const std::vector<double>& ordered, double share) {
  const double place = share * static_cast<double>(ordered.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, ordered.size() - 1);
  return ordered[below] + (ordered[above] - ordered[below]) * (place - std::floor(place));
}

/// Operators of one kind: only their sizes differ.
std::string kind_of(const OpRecord& record) {
  if (const auto* op = std::get_if<MatMul>(&record)) {
    return fmt::format("matmul {} {} {} {} {}", name_of(op->input), name_of(op->weight),
                       name_of(op->output), name_of(op->compute), op->m);
  }
  if (const auto* op = std::get_if<GroupedMatMul>(&record)) {
    return fmt::format("grouped {} {} {} {} {}", name_of(op->input), name_of(op->weight),
                       name_of(op->output), name_of(op->compute), op->row_count());
  }
  return std::string(name_of(record));
}

/// A product that is at least as large as another in every dimension.
bool is_as_large(const OpRecord& large, const OpRecord& small) {
  if (const auto* a = std::get_if<MatMul>(&large)) {
    const auto* b = std::get_if<MatMul>(&small);
    return b != nullptr && a->batch >= b->batch && a->m >= b->m && a->n >= b->n && a->k >= b->k;
  }
  if (const auto* a = std::get_if<GroupedMatMul>(&large)) {
    const auto* b = std::get_if<GroupedMatMul>(&small);
    return b != nullptr && a->distinct_experts >= b->distinct_experts && a->rows >= b->rows &&
           a->n >= b->n && a->k >= b->k;
  }
  return false;
}

/// What the operators of a kind make of one of them.
double expected_in(const std::vector<TimedOp>& kind, const TimedOp& op) {
  constexpr double clearly = 2;
  constexpr double far_off = 3;
  constexpr double about_its_size = 16;
  constexpr std::size_t enough = 3;
  double expected = 0;
  std::vector<double> rates;
  for (const TimedOp& other : kind) {
    if (other.record == op.record) continue;
    if (other.seconds * clearly < op.seconds && is_as_large(*other.record, *op.record)) {
      expected = expected == 0 ? other.seconds : std::min(expected, other.seconds);
    }
    const double size = other.rough_s / op.rough_s;
    if (size < about_its_size && size > 1 / about_its_size) {
      rates.push_back(other.seconds / other.rough_s);
    }
  }
  if (expected > 0 || rates.size() < enough) return expected;
  std::sort(rates.begin(), rates.end());
  const double usual_s = quantile(rates, 0.5) * op.rough_s;
  const bool fits = op.seconds < far_off * usual_s && op.seconds > usual_s / far_off;
  return fits ? 0 : usual_s;
}

}  // namespace

double slowdown(const Pace& now, const Pace& best) {
  double most = 1;
  for (const auto probe : probes) {
    if (now.*probe > 0 && best.*probe > 0) most = std::max(most, best.*probe / now.*probe);
  }
  return most;
}

Pace faster(const Pace& a, const Pace& b) {
  Pace result;
  for (const auto probe : probes) result.*probe = std::max(a.*probe, b.*probe);
  return result;
}

Pace usual_pace(std::span<const Pace> paces) {
  constexpr std::size_t habit = 3;
  Pace result;
  for (const auto probe : probes) {
    std::vector<double> known;
    for (const Pace& pace : paces) {
      if (pace.*probe > 0) known.push_back(pace.*probe);
    }
    if (known.size() < habit) continue;
    std::sort(known.begin(), known.end());
    result.*probe = quantile(known, 0.75);
  }
  return result;
}

std::string disturbance(const Measurement& measurement, const Pace& best) {
  if (!measurement.supported()) return {};
  if (measurement.expected_s > 0) {
    return fmt::format("operators like it would make it {}",
                       format_seconds(measurement.expected_s));
  }
  if (measurement.stalled_share > usual_stall) {
    return fmt::format("threads waited for other processes in up to {:.0f} % of the time",
                       100 * measurement.stalled_share);
  }
  if (const double slower = slowdown(measurement.pace, best); slower > usual_slowdown) {
    return fmt::format("the machine was {:.1f} times slower than at its best", slower);
  }
  // A sample of a short one differs by what any interrupt takes.
  if (measurement.spread > usual_spread && measurement.seconds > least_comparable_s) {
    return fmt::format("the samples differ by {:.0f} %", 100 * measurement.spread);
  }
  return {};
}

TimeRange range_of(const Measurement& measurement, const Pace& best) {
  const double spread = measurement.samples < few_samples
                            ? std::max(measurement.spread, spread_of_few)
                            : measurement.spread;
  const double half = std::max(spread / 2, repeatability) + measurement.error;
  const double added =
      std::min(1 - measurement.stalled_share, 1 / slowdown(measurement.pace, best));
  TimeRange range;
  range.low_s = measurement.seconds * std::max(0.0, std::min(added, 1 / (1 + half)));
  range.high_s = measurement.seconds * (1 + half);
  // One wait may be all that a few short samples saw.
  constexpr double one_wait_s = 0.1;
  if (measurement.samples < few_samples && measurement.stalled_share > usual_stall &&
      measurement.seconds < one_wait_s) {
    range.low_s = 0;
  }
  if (measurement.expected_s > 0) {
    range.low_s = std::min(range.low_s, measurement.expected_s);
    range.high_s = std::max(range.high_s, measurement.expected_s);
  }
  return range;
}

std::vector<double> expected_by_others(std::span<const TimedOp> ops) {
  std::map<std::string, std::vector<TimedOp>> kinds;
  for (const TimedOp& op : ops) {
    if (op.seconds >= least_comparable_s || op.rough_s >= least_comparable_s) {
      kinds[kind_of(*op.record)].push_back(op);
    }
  }
  std::vector<double> expected;
  expected.reserve(ops.size());
  for (const TimedOp& op : ops) {
    const auto kind = kinds.find(kind_of(*op.record));
    const bool comparable = op.seconds >= least_comparable_s || op.rough_s >= least_comparable_s;
    expected.push_back(comparable ? expected_in(kind->second, op) : 0);
  }
  return expected;
}

}  // namespace tcast
