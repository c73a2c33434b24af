#include "tcast/exec/timing/timer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <string>

#include <fmt/format.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/kernels/plugin_kernel.h"
#include "tcast/exec/kernels/vector_functions.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/threads.h"

namespace tcast {
namespace {

constexpr std::int64_t gib = std::int64_t{1} << 30;
constexpr int most_samples = 51;
/// How often what stays disturbed is timed once more, while there is time.
constexpr int most_rounds = 3;
/// Runs that a measurement should have room for: the warm-up and three samples.
constexpr double runs_wanted = 4;
/// Making kernels and filling operands, per operator.
constexpr double setup_s = 0.01;

/// Parts for which an operator is first timed, so that one that is far slower than expected does
/// not take all the time.
constexpr double pilot_s = 0.01;

double real(std::int64_t value) { return static_cast<double>(value); }

// --- what an operator will take, roughly ---------------------------------------------------------

struct RoughWork {
  double flops = 0;
  DType dtype = DType::f32;
  double bytes = 0;
};

struct Rough {
  RoughWork operator()(const MatMul& op) const {
    return {2.0 * real(op.batch) * real(op.m) * real(op.n) * real(op.k), op.compute,
            real(op.batch) * (real(op.n) * real(op.k) * bits_of(op.weight) / 8 +
                              real(op.m) * real(op.n) * bits_of(op.output) / 8)};
  }
  RoughWork operator()(const GroupedMatMul& op) const {
    return {2.0 * op.rows * real(op.n) * real(op.k), op.compute,
            op.distinct_experts * real(op.n) * real(op.k) * bits_of(op.weight) / 8};
  }
  RoughWork operator()(const Attention& op) const {
    const double keys = real(attended_keys(op.span, op.query_length, op.context_length));
    // Softmax and rearranging cost about as much again as the products.
    return {4.0 * attended_pairs(op.span, op.query_length, op.context_length) * real(op.batch) *
                real(op.heads) * real(op.qk_head_dim + op.v_head_dim),
            op.query,
            real(op.batch) * real(op.kv_heads) * keys * real(op.qk_head_dim + op.v_head_dim) *
                bits_of(op.cache) / 8};
  }
  RoughWork operator()(const Softmax& op) const {
    return elements(real(op.rows) * real(op.columns));
  }
  RoughWork operator()(const Norm& op) const { return elements(real(op.rows) * real(op.width)); }
  RoughWork operator()(const Elementwise& op) const { return elements(real(op.elements)); }
  RoughWork operator()(const Rotary& op) const {
    return elements(real(op.tokens) * real(op.heads) * real(op.head_dim));
  }
  RoughWork operator()(const RotaryTable& op) const {
    return elements(4.0 * real(op.tokens) * real(op.dim));
  }
  RoughWork operator()(const Gather& op) const { return elements(real(op.rows) * real(op.width)); }
  RoughWork operator()(const CacheAppend& op) const {
    return elements(real(op.tokens) * real(op.width));
  }
  RoughWork operator()(const CacheRead& op) const {
    return elements(real(op.batch) * real(op.kv_heads) * real(op.tokens) * real(op.head_dim));
  }
  RoughWork operator()(const Copy& op) const { return elements(real(op.written_elements)); }
  RoughWork operator()(const Route& op) const {
    return elements(2.0 * real(op.tokens) * real(op.experts));
  }
  RoughWork operator()(const TopK& op) const { return elements(real(op.rows) * real(op.columns)); }
  RoughWork operator()(const Permute& op) const { return elements(real(op.rows) * real(op.width)); }
  RoughWork operator()(const Combine& op) const { return elements(real(op.rows) * real(op.width)); }
  RoughWork operator()(const Quantize& op) const {
    return elements(real(op.rows) * real(op.columns));
  }
  RoughWork operator()(const Collective&) const { return {}; }
  RoughWork operator()(const CustomOp&) const { return {}; }

 private:
  static RoughWork elements(double count) { return {0, DType::f32, 8 * count}; }
};

// --- operands ------------------------------------------------------------------------------------

/// Fills memory with what is an ordinary number in every dtype: 16-bit words of random sign and
/// mantissa and a small exponent, which make floats between 0.008 and 0.03 of them in bf16 and in
/// f32 alike.
void fill(std::byte* data, std::int64_t bytes) {
  constexpr std::int64_t block = std::int64_t{1} << 16;
  static const std::vector<std::uint16_t> pattern = [] {
    std::vector<std::uint16_t> words(static_cast<std::size_t>(block / 2));
    std::uint32_t state = 1;
    for (std::uint16_t& word : words) {
      state = state * 1664525u + 1013904223u;
      word = static_cast<std::uint16_t>(0x3c00u | ((state >> 16) & 0x80ffu));
    }
    return words;
  }();
  const auto* source = static_cast<const std::byte*>(static_cast<const void*>(pattern.data()));
  parallel_ranges(ceil_div(bytes, block), 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::copy_n(source, std::min(block, bytes - i * block), data + i * block);
    }
  });
}

void fill_index(const Buffer& buffer, const Operand& operand) {
  auto* values = static_cast<std::int64_t*>(static_cast<void*>(buffer.data));
  const std::int64_t count = operand.shape.elements();
  for (std::int64_t i = 0; i < count; ++i) {
    // Scattered, and even over every power of two.
    values[i] = static_cast<std::int64_t>(static_cast<std::uint64_t>(i) * 2654435761u %
                                          static_cast<std::uint64_t>(operand.limit));
  }
}

/// Other rows than before.
void move_index(const Buffer& buffer, const Operand& operand) {
  auto* values = static_cast<std::int64_t*>(static_cast<void*>(buffer.data));
  const std::int64_t count = operand.shape.elements();
  for (std::int64_t i = 0; i < count; ++i) values[i] = (values[i] + count + 1) % operand.limit;
}

void fill_counts(const Buffer& buffer, const GroupedMatMul& op) {
  auto* counts = static_cast<std::int64_t*>(static_cast<void*>(buffer.data));
  const std::int64_t rows = op.row_count();
  const std::int64_t distinct =
      std::clamp<std::int64_t>(std::llround(op.distinct_experts), 1, op.experts);
  for (std::int64_t expert = 0; expert < op.experts; ++expert) counts[expert] = 0;
  for (std::int64_t i = 0; i < distinct; ++i) {
    counts[op.experts * i / distinct] = rows * (i + 1) / distinct - rows * i / distinct;
  }
}

/// A cache for timing: only blocks that some query looks at have memory of their own.
struct TimedCache {
  CacheView view;
  std::vector<std::int32_t> table;
  std::int64_t bytes = 0;

  static std::optional<TimedCache> of(const OpRecord& record) {
    TimedCache cache;
    CacheLayout& layout = cache.view.layout;
    std::int64_t tokens = 0;
    std::int64_t first_seen = 0;
    if (const auto* op = std::get_if<Attention>(&record); op != nullptr && op->paged) {
      layout.kv_heads = op->kv_heads;
      layout.qk_head_dim = op->qk_head_dim;
      layout.v_head_dim = op->value_in_key ? 0 : op->v_head_dim;
      layout.dtype = op->cache;
      cache.view.batch = op->batch;
      cache.view.context_length = op->context_length;
      tokens = op->context_length + op->query_length;
      first_seen = tokens - attended_keys(op->span, op->query_length, op->context_length);
    } else if (const auto* read = std::get_if<CacheRead>(&record)) {
      layout.kv_heads = read->kv_heads;
      layout.qk_head_dim = read->head_dim;
      layout.v_head_dim = read->values ? read->head_dim : 0;
      layout.dtype = read->cache;
      cache.view.batch = read->batch;
      tokens = read->tokens;
    } else if (const auto* append = std::get_if<CacheAppend>(&record)) {
      layout.qk_head_dim = append->width;
      layout.dtype = append->cache;
      tokens = append->tokens;
    } else {
      return std::nullopt;
    }
    // So that products of integers stay in the range of ordinary scores.
    cache.view.key_scale = 0.001f;
    cache.view.value_scale = 0.001f;
    cache.view.blocks_per_request = ceil_div(tokens, layout.block_tokens);
    const std::int64_t hidden = first_seen / layout.block_tokens;
    const std::int64_t own = cache.view.blocks_per_request - hidden;
    cache.bytes =
        checked_mul(checked_mul(cache.view.batch, own, "cache"), layout.bytes_per_block(), "cache");
    TCAST_CHECK(checked_mul(cache.view.batch, own, "cache") < (std::int64_t{1} << 31),
                "blocks of a cache");
    cache.table.resize(static_cast<std::size_t>(
        checked_mul(cache.view.batch, cache.view.blocks_per_request, "cache")));
    for (std::int64_t request = 0; request < cache.view.batch; ++request) {
      for (std::int64_t block = hidden; block < cache.view.blocks_per_request; ++block) {
        cache.table[static_cast<std::size_t>(request * cache.view.blocks_per_request + block)] =
            static_cast<std::int32_t>(request * own + block - hidden);
      }
    }
    return cache;
  }
};

/// Bytes of an operator's operands: those that come from memory, and the others.
struct MemoryNeed {
  std::int64_t cold = 0;
  std::int64_t warm = 0;
};

/// Room around the operand that is worth having at least, for padding of packed weights.
std::int64_t padded(std::int64_t bytes) { return bytes + bytes / 16 + 65536; }

MemoryNeed memory_need(const OpRecord& record) {
  MemoryNeed need;
  const KernelOperands operands = operands_of(record);
  for (const Operand& operand : operands.inputs) {
    if (operand.role == OperandRole::weight) {
      need.cold = checked_add(need.cold, padded(operand.bytes()));
    } else if (operand.role != OperandRole::cache) {
      need.warm = checked_add(need.warm, padded(operand.bytes()));
    }
  }
  for (const Operand& operand : operands.outputs) {
    need.warm = checked_add(need.warm, padded(operand.bytes()));
  }
  if (const auto* op = std::get_if<Attention>(&record)) {
    const std::int64_t keys = attended_keys(op->span, op->query_length, op->context_length) +
                              2 * CacheLayout{}.block_tokens;
    const std::int64_t width =
        checked_mul(op->kv_heads, op->qk_head_dim + (op->value_in_key ? 0 : op->v_head_dim));
    need.cold = checked_add(need.cold,
                            bytes_of(checked_mul(checked_mul(op->batch, keys), width), op->cache));
  } else if (const auto* append = std::get_if<CacheAppend>(&record)) {
    need.cold = checked_add(
        need.cold, bytes_of(checked_mul(append->tokens + CacheLayout{}.block_tokens, append->width),
                            append->cache));
  }
  return need;
}

/// The record with what has no influence on its time brought to sizes that can be held.
OpRecord bounded(const OpRecord& record, std::int64_t memory_limit_bytes) {
  if (const auto* gather = std::get_if<Gather>(&record)) {
    Gather op = *gather;
    // Scattered rows of a table that the caches do not hold: more of it makes no difference.
    const std::int64_t row_bytes = std::max<std::int64_t>(1, bytes_of(op.width, op.dtype));
    const std::int64_t enough =
        std::max(op.rows, std::min(gib / 4, memory_limit_bytes / 4) / row_bytes);
    op.table_rows = std::min(op.table_rows, std::max<std::int64_t>(1, enough));
    return op;
  }
  if (const auto* table = std::get_if<RotaryTable>(&record)) {
    RotaryTable op = *table;
    op.table_positions = std::min<std::int64_t>(op.table_positions, 65536);
    return op;
  }
  if (const auto* grouped = std::get_if<GroupedMatMul>(&record)) {
    // The next run takes the weights behind this one's: with experts between that nobody reads, the
    // memory would hold so few of those read that they stay in the caches.
    GroupedMatMul op = *grouped;
    TCAST_CHECK(
        op.distinct_experts == std::round(op.distinct_experts) && op.rows == real(op.row_count()),
        "products of whole numbers of experts and rows are timed");
    op.experts = std::min(op.experts, std::max<std::int64_t>(1, std::llround(op.distinct_experts)));
    return op;
  }
  if (const auto* permute = std::get_if<Permute>(&record); permute && permute->expert > 0) {
    Permute op = *permute;
    op.expert = 0;
    return op;
  }
  if (const auto* combine = std::get_if<Combine>(&record); combine && combine->expert > 0) {
    Combine op = *combine;
    op.expert = 0;
    return op;
  }
  return record;
}

}  // namespace

// --- parts without a clock -----------------------------------------------------------------------

std::string signature_of(const OpRecord& record) {
  return fmt::format("{} {}", name_of(record), describe(record));
}

std::vector<WeightedOp> timed_in_place_of(const OpRecord& record) {
  const auto* grouped = std::get_if<GroupedMatMul>(&record);
  if (grouped == nullptr) return {{record}};
  const double wanted = grouped->distinct_experts;
  const auto with = [grouped](double distinct) {
    GroupedMatMul op = *grouped;
    op.rows = real(op.row_count());
    op.distinct_experts = distinct;
    op.routing = {};
    return op;
  };
  constexpr double least_part = 1e-3;
  const double nearest = std::round(wanted);
  if (nearest >= 1 && std::abs(wanted - nearest) < least_part * wanted) return {{with(nearest)}};
  const double below = std::floor(wanted);
  std::vector<WeightedOp> ops;
  if (below >= 1) ops.push_back({with(below), 1 - (wanted - below)});
  ops.push_back({with(below + 1), wanted - below});
  return ops;
}

// --- the timer -----------------------------------------------------------------------------------

class OpTimer::Impl {
 public:
  explicit Impl(const TimerOptions& options) : options_(options), host_(host_features()) {
    if (options_.threads <= 0) options_.threads = host_.threads;
    set_threads(options_.threads);
    if (options_.memory_limit_bytes <= 0) {
      options_.memory_limit_bytes =
          host_.available_bytes ? std::min(2 * gib, *host_.available_bytes / 4) : gib;
    }
    cpu_at_start_ = cpu_times();
    speed_ = measure_host_speed();
    for (const DType dtype : {DType::f32, DType::bf16}) {
      if (dtype == DType::f32 || HostDTypes{}.bf16) probes_.try_emplace(dtype, small_probe(dtype));
    }
  }

  TimingConditions conditions() const {
    const CpuTimes now = cpu_times();
    TimingConditions found;
    const double all = now.all - cpu_at_start_.all;
    const double others = now.busy - cpu_at_start_.busy - (now.own - cpu_at_start_.own);
    if (all > 0) found.others_cpu_share = std::clamp(others / all, 0.0, 1.0);
    found.canary_drift = drift(speed_, measure_host_speed());
    found.best_pace = best_pace();
    found.took_s = now_s() - start_s_;
    return found;
  }

  std::vector<Measurement> measure_all(std::span<const OpRecord> records,
                                       const TimerObserver& observer) {
    // The canaries at begin and end are part of the budget, unless it is too small for them.
    const double budget = options_.time_budget_s;
    const double deadline = now_s() + std::max(budget - 2 * speed_.took_s, budget / 2);
    std::vector<Job> jobs;
    std::vector<std::size_t> job_of;
    std::map<std::string, std::size_t> known;
    for (const OpRecord& record : records) {
      const auto [place, is_new] = known.emplace(signature_of(record), jobs.size());
      if (is_new) {
        jobs.push_back(prepare(record, place->first));
        jobs.back().first_record = job_of.size();
      }
      job_of.push_back(place->second);
    }
    std::vector<std::size_t> order(jobs.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    time_in_turn(jobs, order, deadline, observer, false);
    for (int round = 0; round < most_rounds; ++round) {
      const std::vector<std::size_t> again = doubtful(jobs, deadline - now_s(), round > 0);
      if (again.empty()) break;
      time_in_turn(jobs, again, deadline, observer, true);
    }
    mark_implausible(jobs, observer);
    std::vector<Measurement> results;
    results.reserve(job_of.size());
    for (const std::size_t job : job_of) results.push_back(jobs[job].result);
    return results;
  }

  const TimerOptions& options() const { return options_; }
  const HostFeatures& host() const { return host_; }
  const HostSpeed& speed() const { return speed_; }
  std::int64_t memory_used_bytes() const { return memory_used_bytes_; }

 private:
  struct Job {
    std::string name;
    OpRecord record;
    OpClass op_class = OpClass::custom;
    double rough_s = 0;
    std::size_t first_record = 0;  ///< of the equal ones that it stands for
    Measurement result;
    bool confirmed = false;  ///< timed twice alike, undisturbed
  };

  /// A time of a part of an operator.
  struct Part {
    double share = 1;
    double seconds = 0;
  };

  /// Times the jobs of `order`, quick ones first: they tell how far off the rough estimates are,
  /// per class of operators. `again`: those that have a time keep the steadier one.
  void time_in_turn(std::vector<Job>& jobs, std::vector<std::size_t> order, double deadline,
                    const TimerObserver& observer, bool again) {
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return jobs[a].rough_s < jobs[b].rough_s;
    });
    for (std::size_t i = 0; i < order.size(); ++i) {
      Job& job = jobs[order[i]];
      if (!job.result.supported()) {
        if (observer.measured) observer.measured(job.first_record, job.result);
        continue;
      }
      std::vector<double> wishes;
      for (std::size_t j = i; j < order.size(); ++j) {
        const Job& other = jobs[order[j]];
        wishes.push_back(other.result.supported() ? runs_wanted * expected_s(other) + setup_s : 0);
      }
      const double left = deadline - now_s();
      if (observer.progress) {
        const double wished = std::accumulate(wishes.begin(), wishes.end(), 0.0);
        observer.progress(i, order.size(), job.name, std::max(0.0, std::min(left, wished)));
      }
      const double allowed = std::max(share_budget(wishes, left)[0], setup_s);
      if (again) {
        time_again(job, allowed, deadline);
      } else {
        time(job, allowed, deadline);
      }
      if (observer.measured) observer.measured(job.first_record, job.result);
    }
  }

  /// The jobs whose times are disturbed, of very few samples although there is time for more, or do
  /// not fit to the others, as far as `left_s` is enough for more than a warm-up.
  std::vector<std::size_t> doubtful(const std::vector<Job>& jobs, double left_s,
                                    bool only_disturbed) const {
    const std::vector<double> expected = others_expect(jobs);
    std::vector<std::size_t> list;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const Job& job = jobs[i];
      if (!job.result.supported()) continue;
      const bool odd = !only_disturbed && expected[i] > 0;
      const bool disturbed = is_doubtful(job.result);
      const double run_s =
          expected[i] > 0 ? std::min(expected[i], job.result.seconds) : job.result.seconds;
      const double cost_s = runs_wanted * run_s * job.result.share + setup_s;
      if ((!odd && !disturbed) || cost_s > left_s) continue;
      left_s -= cost_s;
      list.push_back(i);
    }
    return list;
  }

  bool is_doubtful(const Measurement& measurement) const {
    constexpr int few = 3;
    return !disturbance(measurement, best_pace()).empty() ||
           (measurement.samples < few && !measurement.scaled);
  }

  std::vector<double> others_expect(const std::vector<Job>& jobs) const {
    std::vector<TimedOp> timed;
    timed.reserve(jobs.size());
    for (const Job& job : jobs) {
      timed.push_back({&job.record, job.result.supported() ? job.result.seconds : 0, job.rough_s});
    }
    return expected_by_others(timed);
  }

  /// Marks the times that do not fit to the others and were not seen a second time.
  void mark_implausible(std::vector<Job>& jobs, const TimerObserver& observer) {
    const std::vector<double> expected = others_expect(jobs);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      Job& job = jobs[i];
      if (expected[i] == 0 || job.confirmed || !job.result.supported()) continue;
      job.result.expected_s = expected[i];
      if (observer.measured) observer.measured(job.first_record, job.result);
    }
  }

  /// Times a job that has a time once more. Two times that agree confirm each other; else the
  /// steadier one counts, and of two equally disturbed the shorter, because disturbances only add.
  void time_again(Job& job, double allowed_s, double deadline) {
    Job fresh = job;
    time(fresh, allowed_s, deadline);
    if (!fresh.result.supported() || fresh.result.share < job.result.share) return;
    constexpr double agreement = 0.2;
    const double before_s = job.result.seconds;
    const double now_s = fresh.result.seconds;
    const bool was_doubtful = is_doubtful(job.result);
    const bool is_doubtful_again = is_doubtful(fresh.result);
    const bool agree = std::abs(now_s - before_s) < agreement * std::min(now_s, before_s);
    job.confirmed = agree && !is_doubtful_again;
    if (was_doubtful != is_doubtful_again ? was_doubtful : now_s < before_s) {
      job.result = std::move(fresh.result);
    }
  }

  /// The best that is known: of earlier sessions, and what this one usually reached.
  Pace best_pace() const { return faster(options_.best_pace, usual_pace(paces_)); }

  static ProductProbe small_probe(DType dtype) { return {dtype, 128, 512, 512}; }

  /// The pace of the product unit that a job uses, if it is one.
  void probe_product(const Job& job, Pace& pace) {
    const RoughWork work = std::visit([](const auto& op) { return Rough{}(op); }, job.record);
    if (work.flops <= 0) return;
    const auto probe = probes_.find(work.dtype == DType::f32 ? DType::f32 : DType::bf16);
    if (probe == probes_.end()) return;
    double& known = work.dtype == DType::f32 ? pace.f32_flops_per_s : pace.bf16_flops_per_s;
    constexpr int runs = 3;
    constexpr double limit_s = 0.002;
    const double now = probe->second.flops_per_s(runs, limit_s);
    known = known > 0 ? std::min(known, now) : now;
  }

  /// The speed at which memory was read between the samples since `first`: the upper quartile, so
  /// that a preemption does not count.
  double read_pace(std::size_t first) const {
    if (first >= reads_.size()) return 0;
    std::vector<double> speeds(reads_.begin() + static_cast<std::ptrdiff_t>(first), reads_.end());
    const std::size_t at = (speeds.size() - 1) * 3 / 4;
    std::nth_element(speeds.begin(), speeds.begin() + static_cast<std::ptrdiff_t>(at),
                     speeds.end());
    return speeds[at];
  }

  Job prepare(const OpRecord& record, const std::string& name) const {
    Job job;
    job.name = name;
    job.op_class = class_of(record);
    job.result.threads = options_.threads;
    job.result.onednn_version = onednn_version();
    job.result.budget_s = options_.time_budget_s;
    job.record =
        bounded(host_substitute(record, {}, &job.result.substituted), options_.memory_limit_bytes);
    job.rough_s = rough_s(job.record);
    // Asks for the smallest version only: primitives of the real size are made when timed.
    const KernelResult probe = make_kernel(shrink(job.record, 1e-6).record);
    if (probe.kernel == nullptr) {
      job.result.unsupported = probe.unsupported;
    } else if (const auto* custom = std::get_if<CustomOp>(&job.record);
               custom != nullptr && operator_operands().find(custom->definition->name) == nullptr) {
      job.result.unsupported =
          fmt::format("operator '{}' does not describe its operands", custom->definition->name);
    }
    return job;
  }

  double rough_s(const OpRecord& record) const {
    const RoughWork work = std::visit([](const auto& op) { return Rough{}(op); }, record);
    const double flops_per_s = work.dtype == DType::f32 || speed_.bf16_flops_per_s <= 0
                                   ? speed_.f32_flops_per_s
                                   : speed_.bf16_flops_per_s;
    return 5e-6 + work.flops / std::max(1e9, flops_per_s) +
           work.bytes / std::max(1e8, speed_.read_bytes_per_s);
  }

  double expected_s(const Job& job) const {
    return job.rough_s * correction_[static_cast<std::size_t>(job.op_class)];
  }

  /// Times a job in about `allowed_s`, with the machine's pace meanwhile.
  void time(Job& job, double allowed_s, double deadline) {
    Pace pace;
    const std::size_t first_read = reads_.size();
    const double stolen_before = cpu_times().stolen;
    const double before_s = now_s();
    job.result.stalled_share = 0;
    job.result.expected_s = 0;
    probe_product(job, pace);
    time_parts(job, allowed_s, deadline);
    probe_product(job, pace);
    pace.read_bytes_per_s = read_pace(first_read);
    job.result.pace = pace;
    paces_.push_back(pace);
    // The system counts in steps of some milliseconds.
    constexpr double least_stolen_s = 0.03;
    const double stolen_s = cpu_times().stolen - stolen_before;
    if (stolen_s > least_stolen_s) {
      job.result.stalled_share =
          std::min(1.0, job.result.stalled_share + stolen_s / (now_s() - before_s));
    }
  }

  void time_parts(Job& job, double allowed_s, double deadline) {
    const double start = now_s();
    double expected = expected_s(job);
    if (expected > 4 * pilot_s) {
      Job pilot = job;
      const Part part = time_part(pilot, pilot_s / expected, start, pilot_s, deadline);
      // A small part is less efficient and more easily disturbed: only gross mistakes count.
      constexpr double gross = 8;
      if (part.seconds > gross * expected * part.share) expected = part.seconds / part.share;
    }
    const double share = std::min(1.0, allowed_s / (runs_wanted * expected));
    // Nearly all of it is not worth an extrapolation.
    const bool whole = share > 0.7;
    const Part part =
        time_part(job, whole ? 1 : share, start, whole ? allowed_s : 0.6 * allowed_s, deadline);
    if (!job.result.supported()) return;
    job.result.seconds = part.seconds / part.share;
    job.result.share = part.share;
    job.result.scaled = part.share < 1;
    if (job.result.scaled) extrapolate(job, part, start, allowed_s, deadline);
    // Later operators of the class are expected to be off by the same factor.
    double& factor = correction_[static_cast<std::size_t>(job.op_class)];
    factor = std::clamp(job.result.seconds / job.rough_s, 0.1, 1000.0);
  }

  /// Continues the line through `part` and half of it to the whole operator.
  void extrapolate(Job& job, const Part& part, double start, double allowed_s, double deadline) {
    Job half = job;
    const Part small = time_part(half, part.share / 2, start, allowed_s, deadline);
    if (!half.result.supported() || small.share > 0.8 * part.share) return;
    const double slope = (part.seconds - small.seconds) / (part.share - small.share);
    // Noise may make a line that no operator follows.
    const double least = 0.5 * part.seconds / part.share;
    const double proportional = part.seconds / part.share;
    job.result.seconds =
        std::clamp(part.seconds + slope * (1 - part.share), least, 2 * proportional);
    job.result.error = std::abs(job.result.seconds - proportional) / job.result.seconds;
  }

  /// Times about `share` of a job until `allowed_s` after `start`.
  Part time_part(Job& job, double share, double start, double allowed_s, double deadline) {
    ShrunkOp op = shrink(job.record, share);
    KernelResult made;
    for (;;) {
      if (fits(op.record, nullptr)) {
        made = make_kernel(op.record);
        if (made.kernel == nullptr) {
          job.result.unsupported = std::move(made.unsupported);
          return {};
        }
        if (fits(op.record, made.kernel.get())) break;
      }
      // Dimensions are cut to whole blocks, so one step may change nothing yet.
      share = std::min(share, op.share) / 2;
      if (share < 1e-9) {
        job.result.unsupported = fmt::format("its operands take more than {} MiB of memory",
                                             options_.memory_limit_bytes >> 20);
        return {};
      }
      op = shrink(job.record, share);
    }
    const std::vector<Sample> samples = sample(*made.kernel, op.record, start, allowed_s, deadline);
    const SampleSummary summary = summarize(undisturbed(samples));
    job.result.stalled_share =
        std::max(job.result.stalled_share, stalled_share(samples, options_.threads));
    job.result.spread = summary.spread;
    job.result.samples = summary.samples;
    job.result.implementation = made.kernel->implementation();
    return {op.share, summary.mean};
  }

  /// Whether operands, and packed weight and scratch once there is a kernel, keep to the limit.
  bool fits(const OpRecord& record, const Kernel* kernel) const {
    const MemoryNeed need = memory_need(record);
    std::int64_t bytes = checked_add(need.cold, need.warm);
    if (kernel != nullptr) {
      bytes = checked_add(std::max(need.cold, kernel->packed_bytes()),
                          checked_add(need.warm, kernel->scratch_bytes()));
    }
    return bytes <= options_.memory_limit_bytes;
  }

  std::vector<Sample> sample(Kernel& kernel, const OpRecord& record, double start, double allowed_s,
                             double deadline) {
    const KernelOperands operands = operands_of(record);
    std::optional<TimedCache> cache = TimedCache::of(record);
    // Sizes first: one piece of warm memory, and one of the cold region per run.
    const auto size_of = [&](const Operand& operand, std::size_t i) {
      if (operand.role == OperandRole::cache) return cache->bytes;
      if (operand.role == OperandRole::weight && i == 1 && kernel.packed_bytes() > 0) {
        return kernel.packed_bytes();
      }
      return operand.bytes();
    };
    const auto is_cold = [](const Operand& operand) {
      return operand.role == OperandRole::weight || operand.role == OperandRole::parameter ||
             operand.role == OperandRole::cache;
    };
    std::int64_t warm_bytes = round_up(kernel.scratch_bytes(), 4096);
    std::int64_t cold_bytes = 0;
    for (std::size_t i = 0; i < operands.inputs.size(); ++i) {
      std::int64_t& sum = is_cold(operands.inputs[i]) ? cold_bytes : warm_bytes;
      sum += round_up(size_of(operands.inputs[i], i), 4096);
    }
    for (const Operand& operand : operands.outputs) warm_bytes += round_up(operand.bytes(), 4096);
    reserve_cold(cold_bytes, warm_bytes);

    AlignedMemory warm(warm_bytes);
    memory_used_bytes_ = std::max(memory_used_bytes_, warm_bytes + cold_filled_);
    fill(warm.data(), warm_bytes);
    std::byte* next = warm.data();
    const auto take = [&](std::int64_t bytes) {
      std::byte* const place = next;
      next += round_up(bytes, 4096);
      return place;
    };
    const auto scratch_bytes = kernel.scratch_bytes();
    const std::span<std::byte> scratch(take(scratch_bytes),
                                       static_cast<std::size_t>(scratch_bytes));
    std::vector<Buffer> inputs;
    for (std::size_t i = 0; i < operands.inputs.size(); ++i) {
      const Operand& operand = operands.inputs[i];
      const std::int64_t bytes = size_of(operand, i);
      Buffer buffer{is_cold(operand) ? nullptr : take(bytes), bytes, operand.dtype, {}};
      if (operand.role == OperandRole::index) fill_index(buffer, operand);
      if (operand.role == OperandRole::counts) {
        fill_counts(buffer, std::get<GroupedMatMul>(record));
      }
      inputs.push_back(buffer);
    }
    std::vector<Buffer> outputs;
    for (const Operand& operand : operands.outputs) {
      outputs.push_back({take(operand.bytes()), operand.bytes(), operand.dtype, {}});
    }
    if (cache) cache->view.block_table = cache->table;

    const KernelArgs args{inputs, outputs, scratch, cache ? &cache->view : nullptr};
    const auto before = [&] {
      if (options_.poll) options_.poll();
      std::byte* place = next_cold(cold_bytes);
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (operands.inputs[i].role == OperandRole::index &&
            std::holds_alternative<Gather>(record)) {
          move_index(inputs[i], operands.inputs[i]);
        }
        if (!is_cold(operands.inputs[i])) continue;
        inputs[i].data = place;
        if (operands.inputs[i].role == OperandRole::cache) cache->view.data = place;
        place += round_up(inputs[i].bytes, 4096);
      }
      stream();
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (operands.inputs[i].role == OperandRole::activation) rewrite(inputs[i]);
      }
    };
    const auto run = [&] { kernel.run(args); };
    const double limit = std::min(start + allowed_s, deadline) - now_s();
    return take_samples(before, run, process_moment, limit, most_samples);
  }

  /// Reads memory as other layers' weights are read, so that the inner caches hold that. How fast
  /// that goes is the pace of the memory.
  void stream() {
    const double start = now_s();
    const std::int64_t bytes =
        std::min(cold_filled_, 2 * host_.l2_bytes * std::max(1, options_.threads));
    const auto* values =
        static_cast<const float*>(static_cast<const void*>(next_cold(round_up(bytes, 64))));
    const auto& functions = vector_functions(host_.isa);
    std::vector<float> sums(static_cast<std::size_t>(options_.threads));
    parallel_ranges(bytes / 4, 4096, [&](std::int64_t begin, std::int64_t end, int thread) {
      sums[static_cast<std::size_t>(thread)] = functions.total(values + begin, end - begin);
    });
    streamed_ += sums[0];
    reads_.push_back(static_cast<double>(bytes) / std::max(1e-9, now_s() - start));
  }

  /// Writes a buffer as products write theirs: threads take turns along its rows, so that whoever
  /// reads it then has part of it from another core.
  static void rewrite(const Buffer& buffer) {
    constexpr std::int64_t line = 64;
    constexpr std::int64_t run = 16;  // lines
    const std::int64_t lines = ceil_div(buffer.bytes, line);
    const std::int64_t threads = current_threads();
    parallel_ranges(threads, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t thread = begin; thread < end; ++thread) {
        for (std::int64_t first = thread * run; first < lines; first += threads * run) {
          for (std::int64_t i = first; i < std::min(first + run, lines); ++i) {
            volatile std::byte* place = buffer.data + i * line;
            *place = *place;
          }
        }
      }
    });
  }

  /// Sees to it that the cold region is large enough that a piece of `bytes` has left the caches
  /// when its turn comes again, as far as the memory limit allows.
  void reserve_cold(std::int64_t bytes, std::int64_t warm_bytes) {
    const std::int64_t wanted = bytes + 2 * host_.last_level_bytes;
    const std::int64_t size =
        round_up(std::max(bytes, std::min(wanted, options_.memory_limit_bytes - warm_bytes)), 4096);
    if (cold_filled_ >= size) return;
    if (size > cold_.bytes()) {
      // Address space for the whole limit; memory only for what is filled.
      cold_filled_ = 0;
      cold_ = AlignedMemory();
      cold_ = AlignedMemory(std::max(size, options_.memory_limit_bytes));
    }
    fill(cold_.data() + cold_filled_, size - cold_filled_);
    cold_filled_ = size;
  }

  std::byte* next_cold(std::int64_t bytes) {
    if (cold_place_ + bytes > cold_filled_) cold_place_ = 0;
    std::byte* const place = cold_.data() + cold_place_;
    cold_place_ += bytes;
    return place;
  }

  TimerOptions options_;
  HostFeatures host_;
  HostSpeed speed_;
  double start_s_ = now_s();
  CpuTimes cpu_at_start_;
  std::int64_t memory_used_bytes_ = 0;
  AlignedMemory cold_;
  std::int64_t cold_filled_ = 0;
  std::int64_t cold_place_ = 0;
  float streamed_ = 0;  ///< of no use, but nobody may leave the reading out
  std::map<DType, ProductProbe> probes_;
  std::vector<double> reads_;  ///< speeds of all stream()
  std::vector<Pace> paces_;    ///< of all jobs
  std::array<double, op_class_count> correction_ = [] {
    std::array<double, op_class_count> ones{};
    ones.fill(1.0);
    return ones;
  }();
};

OpTimer::OpTimer(const TimerOptions& options) : impl_(std::make_unique<Impl>(options)) {}
OpTimer::~OpTimer() = default;

Measurement OpTimer::measure(const OpRecord& record) {
  return impl_->measure_all({&record, 1}, {}).front();
}

std::vector<Measurement> OpTimer::measure_all(std::span<const OpRecord> records,
                                              const TimerObserver& observer) {
  return impl_->measure_all(records, observer);
}

TimingConditions OpTimer::conditions() { return impl_->conditions(); }

const HostFeatures& OpTimer::host() const { return impl_->host(); }
int OpTimer::threads() const { return impl_->options().threads; }
const HostSpeed& OpTimer::speed() const { return impl_->speed(); }
std::int64_t OpTimer::memory_limit_bytes() const { return impl_->options().memory_limit_bytes; }
std::int64_t OpTimer::memory_used_bytes() const { return impl_->memory_used_bytes(); }

}  // namespace tcast
