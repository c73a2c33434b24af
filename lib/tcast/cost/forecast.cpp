#include "tcast/cost/forecast.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/units.h"

namespace tcast {
namespace {

/// Intervals between breaks that are evaluated one by one; of more, so many evenly spread ones.
constexpr std::size_t most_intervals = 64;

/// With more chunks than this a single one does not show.
constexpr std::int64_t most_chunks = 10'000;

/// An operator whose sizes mean nothing (a negative number of rows) has work and time that do not.
void require_sensible(const OpEstimate& estimate, const OpRecord& record) {
  const auto sensible = [](double value) { return value >= 0 && std::isfinite(value); };
  TCAST_CHECK(
      sensible(estimate.total_s) && sensible(estimate.work.flops()) &&
          sensible(estimate.work.bytes()),
      fmt::format("the work of {} ({}) is a number >= 0", name_of(record), describe(record)));
}

/// Tokens of all requests together that a forecast is made for: far beyond any use, and small
/// enough that sizes of single operators stay within 64 bits.
constexpr std::int64_t most_tokens = std::int64_t{1} << 40;

/// Answers of inverse questions from here on are "memory does not limit it".
constexpr std::int64_t search_limit = std::int64_t{1} << 30;

void require_positive(std::int64_t value, std::string_view name) {
  if (value >= 1) return;
  throw Error(fmt::format("{}: expected at least 1, got {}", name, value));
}

void require_valid(const ForecastRequest& request) {
  require_positive(request.batch, "batch size");
  require_positive(request.input_length, "input length");
  require_positive(request.output_length, "output length");
  if (request.reserved_bytes < 0) {
    throw Error(
        fmt::format("reserved memory: expected at least 0 bytes, got {}", request.reserved_bytes));
  }
  const std::int64_t length =
      checked_add(request.input_length, request.output_length, "length of a request");
  if (length > most_tokens / request.batch) {
    throw Error(
        fmt::format("{} requests of {} tokens are more than the {} tokens that tcast "
                    "calculates with",
                    request.batch, length, most_tokens));
  }
}

Workload prefill_workload(const ForecastRequest& request) {
  return {.phase = Phase::prefill,
          .batch = request.batch,
          .query_length = request.input_length,
          .context_length = 0,
          .requests = request.requests};
}

Workload decode_workload(const ForecastRequest& request, std::int64_t context_length) {
  return {.phase = Phase::decode,
          .batch = request.batch,
          .query_length = 1,
          .context_length = context_length,
          .requests = request.requests};
}

/// The largest 1 <= x <= limit for which bytes(x), which never falls, is within `capacity`; 0 when
/// there is none, nothing when it is the limit itself. Memory grows almost linearly, so the search
/// starts where a straight line through two points meets the capacity and widens from there.
template <class Bytes>
std::optional<std::int64_t> largest(std::int64_t limit, std::int64_t capacity, Bytes&& bytes) {
  const std::int64_t least = bytes(1);
  if (least > capacity) return 0;
  if (limit == 1) return std::nullopt;
  const std::int64_t second = std::min<std::int64_t>(limit, 256);
  const double slope = static_cast<double>(bytes(second) - least) / static_cast<double>(second - 1);
  const double guess = static_cast<double>(capacity - least) / std::max(slope, 1e-9);
  const std::int64_t start =
      guess < static_cast<double>(limit) ? 1 + static_cast<std::int64_t>(guess) : limit;

  const auto fits = [&](std::int64_t x) { return bytes(x) <= capacity; };
  std::int64_t good = 1;
  std::int64_t bad = limit + 1;
  std::int64_t step = 1 + start / 1024;
  if (fits(start)) {
    good = start;
    while (good < limit) {
      const std::int64_t next = std::min(limit, good + step);
      if (!fits(next)) {
        bad = next;
        break;
      }
      good = next;
      step *= 2;
    }
  } else {
    bad = start;
    while (bad > 2) {
      const std::int64_t next = std::max<std::int64_t>(1, bad - step);
      if (next == 1 || fits(next)) {
        good = next;
        break;
      }
      bad = next;
      step *= 2;
    }
  }
  while (bad - good > 1) {
    const std::int64_t middle = good + (bad - good) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  if (good == limit) return std::nullopt;
  return good;
}

}  // namespace

std::int64_t MemoryForecast::total_bytes() const {
  std::int64_t total = 0;
  for (const std::int64_t part :
       {weight_bytes, kv_cache_bytes, activation.bytes, workspace_bytes, reserved_bytes}) {
    total = checked_add(total, part, "memory in bytes");
  }
  return total;
}

Forecaster::Forecaster(const GraphSource& source, const CostModel& cost,
                       const DeviceProfile& device)
    : source_(source), cost_(cost), device_(device) {}

void Forecaster::price(const Workload& workload, PhaseForecast& phase) {
  const std::int64_t length =
      checked_add(workload.query_length, workload.context_length, "length of a request");
  if (workload.batch < 1 || workload.query_length < 1 || length > most_tokens / workload.batch) {
    throw Error(
        fmt::format("{} requests of {} tokens are more than the {} tokens that tcast "
                    "calculates with",
                    workload.batch, length, most_tokens));
  }
  source_.trace(workload, phase.graph);
  const Graph& graph = phase.graph;
  calls_of_region_.assign(graph.region_count, 0);
  for (const Call& call : graph.calls) ++calls_of_region_[call.region];
  phase.ops.clear();
  phase.total_s = 0;
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    const std::vector<Op>& ops = graph.regions[r].ops;
    for (std::uint32_t i = 0; i < ops.size(); ++i) {
      OpRow& row = phase.ops.emplace_back();
      row.region = r;
      row.op = i;
      row.calls = static_cast<double>(calls_of_region_[r]) * ops[i].runs;
      row.estimate = cost_.estimate(ops[i].record);
      require_sensible(row.estimate, ops[i].record);
      phase.total_s += row.calls * row.estimate.total_s;
    }
  }
  phase.activation = planner_.peak_of(graph);
}

/// The time of a decode step, without rows and memory.
double Forecaster::step_seconds(const ForecastRequest& request, std::int64_t context_length) {
  if (context_length == known_context_) return known_step_s_;
  source_.trace(decode_workload(request, context_length), scratch_);
  calls_of_region_.assign(scratch_.region_count, 0);
  for (const Call& call : scratch_.calls) ++calls_of_region_[call.region];
  double seconds = 0;
  for (std::uint32_t r = 0; r < scratch_.region_count; ++r) {
    double region_s = 0;
    for (const Op& op : scratch_.regions[r].ops) {
      region_s += op.runs * cost_.estimate(op.record).total_s;
    }
    seconds += static_cast<double>(calls_of_region_[r]) * region_s;
  }
  return seconds;
}

/// Context lengths between `begin` and `end` at which the cost of a step bends or jumps: where a
/// window is full, and where a new chunk begins. Sorted, with `begin` and `end` themselves.
void Forecaster::find_breaks(const Graph& graph, std::int64_t begin, std::int64_t end) {
  breaks_.clear();
  breaks_.push_back(begin);
  breaks_.push_back(end);
  const auto add = [&](std::int64_t at) {
    if (at > begin && at < end) breaks_.push_back(at);
  };
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    for (const CacheSpec& cache : graph.regions[r].caches) {
      const AttentionSpan& span = cache.span;
      if (!span.causal) continue;
      if (span.window > 0) add(span.window - 1);  // the query itself takes a place
      if (span.chunk <= 0 || (end - begin) / span.chunk > most_chunks) continue;
      for (std::int64_t at = round_up(begin, span.chunk); at < end; at += span.chunk) add(at);
    }
  }
  std::sort(breaks_.begin(), breaks_.end());
  breaks_.erase(std::unique(breaks_.begin(), breaks_.end()), breaks_.end());
}

/// Mean time of the decode steps: step i has a context of input_length + i - 1 tokens.
double Forecaster::mean_step_seconds(const ForecastRequest& request) {
  const std::int64_t begin = request.input_length;
  const std::int64_t end = begin + request.output_length - 1;
  find_breaks(forecast_.decode.graph, begin, end);
  const std::size_t intervals = breaks_.size() - 1;
  const std::size_t evaluated = std::min(intervals, most_intervals);
  double weighted = 0;
  double steps = 0;
  for (std::size_t i = 0; i < evaluated; ++i) {
    const std::size_t at = (2 * i + 1) * intervals / (2 * evaluated);
    const auto length = static_cast<double>(breaks_[at + 1] - breaks_[at]);
    weighted +=
        length * mean_over_integers(breaks_[at], breaks_[at + 1], [&](std::int64_t context_length) {
          return step_seconds(request, context_length);
        });
    steps += length;
  }
  return weighted / steps;
}

/// All parts, given a prefill pass that has been traced; traces the last decode step.
MemoryForecast Forecaster::memory_with(const ForecastRequest& request, const Graph& prefill,
                                       const ActivationPeak& prefill_peak) {
  const std::int64_t full_length = request.input_length + request.output_length;
  MemoryForecast memory;
  memory.weight_bytes = source_.weight_bytes();
  memory.reserved_bytes = request.reserved_bytes;
  memory.capacity_bytes = device_.memory_bytes;
  memory.kv_cache_bytes = cache_bytes(prefill, request.batch, full_length);
  memory.workspace_bytes = prefill.constant_bytes;
  memory.activation = prefill_peak;
  if (request.output_length == 1) return memory;

  // The last step has the longest context and so the largest scores, masks and tables.
  source_.trace(decode_workload(request, full_length - 2), scratch_);
  memory.kv_cache_bytes =
      std::max(memory.kv_cache_bytes, cache_bytes(scratch_, request.batch, full_length));
  memory.workspace_bytes = std::max(memory.workspace_bytes, scratch_.constant_bytes);
  const ActivationPeak last_step = planner_.peak_of(scratch_);
  if (last_step.bytes > memory.activation.bytes) {
    memory.activation = last_step;
    memory.activation_phase = Phase::decode;
  }
  return memory;
}

MemoryForecast Forecaster::memory_of(const ForecastRequest& request) {
  require_valid(request);
  source_.trace(prefill_workload(request), scratch_);
  const ActivationPeak peak = planner_.peak_of(scratch_);
  return memory_with(request, scratch_, peak);
}

const Forecast& Forecaster::run(const ForecastRequest& request) & {
  require_valid(request);
  Forecast& result = forecast_;
  result.request = request;
  price(prefill_workload(request), result.prefill);
  result.memory = memory_with(request, result.prefill.graph, result.prefill.activation);
  result.prefill_s = result.prefill.total_s;
  result.ttft_s = result.prefill_s;
  result.decode_step_s = 0;
  result.tpot_s = 0;
  if (request.output_length > 1) {
    const std::int64_t context = request.input_length + request.output_length / 2;
    price(decode_workload(request, context), result.decode);
    result.decode_step_s = result.decode.total_s;
    known_context_ = context;
    known_step_s_ = result.decode_step_s;
    result.tpot_s = mean_step_seconds(request);
    known_context_ = -1;
  } else {
    result.decode.graph.clear();
    result.decode.ops.clear();
    result.decode.total_s = 0;
    result.decode.activation = {};
  }
  result.end_to_end_s =
      result.ttft_s + static_cast<double>(request.output_length - 1) * result.tpot_s;
  const double tokens =
      static_cast<double>(request.batch) * static_cast<double>(request.output_length);
  result.output_tokens_per_s = result.end_to_end_s > 0 ? tokens / result.end_to_end_s : 0;
  return result;
}

std::optional<std::int64_t> Forecaster::largest_batch(ForecastRequest request) {
  require_valid(request);
  const std::int64_t length = request.input_length + request.output_length;
  const std::int64_t limit = std::clamp<std::int64_t>(most_tokens / length, 1, search_limit);
  request.requests = 0;  // all replicas have the largest batch
  return largest(limit, device_.memory_bytes, [&](std::int64_t batch) {
    request.batch = batch;
    return memory_of(request).total_bytes();
  });
}

std::optional<std::int64_t> Forecaster::largest_context(ForecastRequest request) {
  require_valid(request);
  const std::int64_t most_input = most_tokens / request.batch - request.output_length;
  const std::int64_t positions = source_.longest_sequence() - request.output_length;
  const bool limited = positions < std::min(most_input, search_limit);
  const std::int64_t limit =
      std::clamp<std::int64_t>(std::min(most_input, positions), 1, search_limit);
  const std::optional<std::int64_t> input =
      largest(limit, device_.memory_bytes, [&](std::int64_t length) {
        request.input_length = length;
        return memory_of(request).total_bytes();
      });
  if (!input && limited) return source_.longest_sequence();
  if (!input || *input == 0) return input;
  return *input + request.output_length;
}

}  // namespace tcast
