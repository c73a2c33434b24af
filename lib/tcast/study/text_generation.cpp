#include "tcast/study/text_generation.h"

#include <memory_resource>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/units.h"

namespace tcast {
namespace {

/// Intervals between breaks that are evaluated one by one; of more, so many evenly spread ones.
constexpr std::size_t most_intervals = 64;

/// With more chunks than this a single one does not show.
constexpr std::int64_t most_chunks = 10'000;

/// Answers of inverse questions from here on are "memory does not limit it".
constexpr std::int64_t search_limit = std::int64_t{1} << 30;

void require_positive(std::int64_t value, std::string_view name) {
  if (value >= 1) return;
  throw Error(fmt::format("{}: expected at least 1, got {}", name, value));
}

/// Context lengths at which the cost of a step bends or jumps, in memory of the stack while there
/// are few.
class Breaks {
 public:
  /// Between `begin` and `end`: where a window of the graph's caches is full, and where a new chunk
  /// begins. Sorted, with `begin` and `end` themselves.
  Breaks(const Graph& graph, std::int64_t begin, std::int64_t end) {
    at_.reserve(most_intervals + 1);
    at_.push_back(begin);
    at_.push_back(end);
    const auto add = [&](std::int64_t at) {
      if (at > begin && at < end) at_.push_back(at);
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
    std::sort(at_.begin(), at_.end());
    at_.erase(std::unique(at_.begin(), at_.end()), at_.end());
  }

  std::size_t intervals() const { return at_.size() - 1; }
  std::int64_t operator[](std::size_t i) const { return at_[i]; }

 private:
  alignas(std::int64_t) std::array<std::byte, (most_intervals + 2) * sizeof(std::int64_t)> few_{};
  std::pmr::monotonic_buffer_resource memory_{few_.data(), few_.size()};
  std::pmr::vector<std::int64_t> at_{&memory_};
};

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

std::vector<ReportMetric> text_generation_metrics(const TextGenerationMetrics& values,
                                                  std::int64_t tokens_per_step) {
  // A step checks that many tokens, of which one counts.
  const bool drafts = tokens_per_step > 1;
  const std::string step =
      drafts ? fmt::format("step of 1+{} tokens", tokens_per_step - 1) : "step";
  std::vector<ReportMetric> metrics;
  const auto add = [&](const char* group, const char* name, std::string label, const char* unit,
                       const std::optional<double>& value) {
    ReportMetric& metric = metrics.emplace_back();
    metric.group = group;
    metric.name = name;
    metric.label = std::move(label);
    metric.unit = unit;
    metric.value = value;
  };
  add("latency", "prefill_s", "prefill", "s", values.prefill_s);
  add("latency", "ttft_s", "time to first token (TTFT)", "s", values.ttft_s);
  add("latency", "decode_step_s", "decode " + step, "s", values.decode_step_s);
  add("latency", "tpot_s", "time per output token (TPOT)" + (drafts ? ", per " + step : ""), "s",
      values.tpot_s);
  add("latency", "end_to_end_s", "end to end", "s", values.end_to_end_s);
  add("throughput", "output_tokens_per_s", "output tokens/s", "tokens/s",
      values.output_tokens_per_s);
  add("throughput", "output_tokens_per_s_per_device", "output tokens/s/device", "tokens/s",
      values.output_tokens_per_s_per_device);
  return metrics;
}

TextGeneration::TextGeneration(const TextGenerationRequest& request, const Deployment& deployment)
    : request_(request), deployment_(deployment) {
  require_positive(request.batch_size, "batch size");
  require_positive(request.input_length, "input length");
  require_positive(request.output_length, "output length");
  batch_ = deployment.batch_per_rank(request.batch_size);
  requests_ = request.batch_size;
  lay_out();
}

/// The passes that request and batch make.
void TextGeneration::lay_out() {
  const std::int64_t full_length =
      checked_add(request_.input_length, request_.output_length, "length of a request");
  require_tokens(batch_, full_length);
  passes_[prefill_pass].workload = prefill();
  memory_passes_[0] = {prefill_pass, prefill()};
  passes_[decode_pass].workload.reset();
  if (request_.output_length == 1) return;
  passes_[decode_pass].workload = step(middle());
  // The last step has the longest context and so the largest scores, masks and tables.
  memory_passes_[1] = {decode_pass, step(full_length - 2)};
}

TextGeneration TextGeneration::with_batch_of_each_rank(std::int64_t batch) const {
  TextGeneration other = *this;
  other.batch_ = batch;
  other.requests_ = 0;
  other.lay_out();
  return other;
}

TextGeneration TextGeneration::with_input_length(std::int64_t input_length) const {
  TextGeneration other = *this;
  other.request_.input_length = input_length;
  other.lay_out();
  return other;
}

Workload TextGeneration::prefill() const {
  return {.phase = Phase::prefill,
          .batch = batch_,
          .query_length = request_.input_length,
          .context_length = 0,
          .requests = requests_};
}

Workload TextGeneration::step(std::int64_t context_length) const {
  return {.phase = Phase::decode,
          .batch = batch_,
          .query_length = deployment_.tokens_per_step,
          .context_length = context_length,
          .requests = requests_};
}

/// Choosing every request's next token, and those that multi-token prediction adds to it: one pass
/// over the rows of the logits, which are what a pass makes last.
TopK TextGeneration::sampling(const PricedPass& prefill) const {
  TopK op;
  op.rows = checked_mul(batch_, deployment_.tokens_per_step, "tokens to choose");
  op.k = 1;
  for (std::uint32_t r = prefill.graph.region_count; r-- > 0;) {
    const Region& region = prefill.graph.regions[r];
    for (std::size_t i = region.ops.size(); i-- > 0;) {
      if (region.ops[i].outputs.count == 0) continue;
      const Tensor& out = region.tensors[region.ops[i].outputs[0]];
      op.columns = out.shape[out.shape.rank() - 1];
      op.dtype = out.dtype;
      return op;
    }
  }
  return op;
}

std::vector<OtherOp> TextGeneration::other_ops(std::span<const PricedPass> priced) const {
  return {{"sampling", "sampling", sampling(priced[prefill_pass])}};
}

/// Mean time of the decode steps: step i has a context of input_length + i - 1 tokens.
double TextGeneration::mean_step_s(PassPricer& pricer, const PricedPass& middle_step) const {
  const std::int64_t begin = request_.input_length;
  const Breaks breaks(middle_step.graph, begin, begin + request_.output_length - 1);
  const std::size_t intervals = breaks.intervals();
  const std::size_t evaluated = std::min(intervals, most_intervals);
  double weighted = 0;
  double steps = 0;
  for (std::size_t i = 0; i < evaluated; ++i) {
    const std::size_t at = (2 * i + 1) * intervals / (2 * evaluated);
    const auto length = static_cast<double>(breaks[at + 1] - breaks[at]);
    weighted +=
        length * mean_over_integers(breaks[at], breaks[at + 1], [&](std::int64_t context_length) {
          return context_length == middle() ? middle_step.total_s
                                            : pricer.seconds_of(step(context_length));
        });
    steps += length;
  }
  return weighted / steps;
}

TextGenerationTimes TextGeneration::times(PassPricer& pricer,
                                          std::span<const PricedPass> priced) const {
  TextGenerationTimes times;
  times.prefill_s = priced[prefill_pass].total_s;
  const bool decodes = request_.output_length > 1;
  if (decodes) {
    times.decode_step_s = priced[decode_pass].total_s;
    times.mean_step_s = mean_step_s(pricer, priced[decode_pass]);
  }
  times.sampling_s = pricer.estimate(sampling(priced[prefill_pass])).total_s;
  times.ttft_s = times.prefill_s + times.sampling_s;
  times.tpot_s = decodes ? times.mean_step_s + times.sampling_s : 0;
  times.end_to_end_s =
      times.ttft_s + static_cast<double>(request_.output_length - 1) * times.tpot_s;
  return times;
}

std::vector<ReportMetric> TextGeneration::metrics() const {
  return text_generation_metrics({}, deployment_.tokens_per_step);
}

std::vector<ReportMetric> TextGeneration::metrics(PassPricer& pricer,
                                                  std::span<const PricedPass> priced) const {
  const TextGenerationTimes found = times(pricer, priced);
  TextGenerationMetrics values;
  values.prefill_s = found.prefill_s;
  values.ttft_s = found.ttft_s;
  values.decode_step_s = found.decode_step_s;
  // Of a single token there is no time per further token; a 0 would pass every "at most".
  if (request_.output_length > 1) values.tpot_s = found.tpot_s;
  values.end_to_end_s = found.end_to_end_s;
  if (found.end_to_end_s > 0) {
    values.output_tokens_per_s = static_cast<double>(request_.batch_size) *
                                 static_cast<double>(request_.output_length) / found.end_to_end_s;
    values.output_tokens_per_s_per_device =
        *values.output_tokens_per_s / static_cast<double>(deployment_.devices);
  }
  return text_generation_metrics(values, deployment_.tokens_per_step);
}

ScenarioMemory TextGeneration::memory() const {
  const std::span<const MemoryPass> passes = memory_passes_;
  return {.passes = passes.first(request_.output_length > 1 ? 2 : 1),
          .batch = batch_,
          .cached_length = request_.input_length + request_.output_length};
}

std::optional<std::int64_t> TextGeneration::largest_batch(PassTracer& tracer,
                                                          const MemoryBudget& budget) const {
  const std::int64_t length = request_.input_length + request_.output_length;
  const std::int64_t limit = std::clamp<std::int64_t>(most_tokens / length, 1, search_limit);
  return largest(limit, budget.capacity_bytes, [&](std::int64_t batch) {
    return forecast_memory(with_batch_of_each_rank(batch), tracer, {}, budget).total_bytes();
  });
}

std::optional<std::int64_t> TextGeneration::largest_context(PassTracer& tracer,
                                                            const MemoryBudget& budget) const {
  const std::int64_t output_length = request_.output_length;
  const std::int64_t most_input = most_tokens / batch_ - output_length;
  const std::int64_t longest = tracer.source().longest_sequence();
  const std::int64_t positions = longest - output_length;
  const bool limited = positions < std::min(most_input, search_limit);
  const std::int64_t limit =
      std::clamp<std::int64_t>(std::min(most_input, positions), 1, search_limit);
  const std::optional<std::int64_t> input =
      largest(limit, budget.capacity_bytes, [&](std::int64_t length) {
        return forecast_memory(with_input_length(length), tracer, {}, budget).total_bytes();
      });
  if (!input && limited) return longest;
  if (!input || *input == 0) return input;
  return *input + output_length;
}

std::optional<ScenarioLimits> TextGeneration::limits(PassTracer& tracer,
                                                     const MemoryBudget& budget) const {
  ScenarioLimits limits;
  if (const auto batch = largest_batch(tracer, budget)) {
    limits.batch_size = *batch * std::max<std::int64_t>(1, deployment_.replicas);
  }
  limits.context_length = largest_context(tracer, budget);
  return limits;
}

}  // namespace tcast
