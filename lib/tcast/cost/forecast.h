#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/cost/memory.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/graph/graph.h"
#include "tcast/graph/workload.h"

namespace tcast {

/// Something that can be traced for any workload: a model on one rank. trace() is called several
/// times per forecast and must give the same graph for the same workload.
class TCAST_API GraphSource {
 public:
  GraphSource() = default;
  GraphSource(const GraphSource&) = delete;
  GraphSource& operator=(const GraphSource&) = delete;
  virtual ~GraphSource() = default;

  /// Replaces the content of `graph` by one forward pass.
  virtual void trace(const Workload& workload, Graph& graph) const = 0;

  /// Bytes of the parameters that one rank holds.
  virtual std::int64_t weight_bytes() const = 0;

  /// Tokens of the longest sequence that can be traced.
  virtual std::int64_t longest_sequence() const { return std::numeric_limits<std::int64_t>::max(); }
};

/// What is asked: `batch` requests of one rank, all at once, each with the same lengths.
struct ForecastRequest {
  std::int64_t batch = 1;
  std::int64_t input_length = 512;
  std::int64_t output_length = 128;
  std::int64_t reserved_bytes = 0;  ///< of the device's memory, for others
  /// Of all data-parallel replicas together (Workload::requests); 0: `batch` on each.
  std::int64_t requests = 0;
};

/// An operator of a phase's graph, its cost, and how often it runs in the phase.
struct OpRow {
  std::uint32_t region = 0;
  std::uint32_t op = 0;   ///< index into Region::ops
  double calls = 0;       ///< calls of the region times Op::runs, so not always whole
  OpEstimate estimate{};  ///< of one call
};

/// One forward pass, priced.
struct PhaseForecast {
  Graph graph{};
  std::vector<OpRow> ops{};  ///< in order of regions and their ops
  double total_s = 0;        ///< sum over ops of calls * total_s
  ActivationPeak activation{};
};

/// Where the device's memory goes, in bytes on one rank.
struct TCAST_API MemoryForecast {
  std::int64_t weight_bytes = 0;
  std::int64_t kv_cache_bytes = 0;   ///< with all requests at full length, in whole blocks
  std::int64_t workspace_bytes = 0;  ///< computed once and kept: rotary tables
  std::int64_t reserved_bytes = 0;
  std::int64_t capacity_bytes = 0;

  /// The pass with the activation peak, prefill or the last decode step, and where in its graph
  /// (whose regions and ops are those of Forecast::prefill or Forecast::decode).
  Phase activation_phase = Phase::prefill;
  ActivationPeak activation{};

  /// Sum of the parts. Throws Error beyond 64 bits.
  std::int64_t total_bytes() const;
  bool fits() const { return total_bytes() <= capacity_bytes; }
};

/// The answer to a request.
struct Forecast {
  ForecastRequest request{};

  double prefill_s = 0;      ///< one pass over all inputs; its last op is the sampling, if traced
  double ttft_s = 0;         ///< time to first token: a prefill pass
  double decode_step_s = 0;  ///< one step at context input_length + output_length / 2
  double tpot_s = 0;         ///< time per output token: mean of the output_length - 1 decode steps
  double end_to_end_s = 0;   ///< ttft_s + (output_length - 1) * tpot_s
  double output_tokens_per_s = 0;  ///< of this rank's batch: batch * output_length / end_to_end_s

  PhaseForecast prefill{};
  PhaseForecast decode{};  ///< the step of decode_step_s; empty when output_length is 1
  MemoryForecast memory{};
};

/// Forecasts requests of one model on one device. Keeps its memory from request to request, so that
/// a repeated forecast allocates next to nothing; one per thread.
class TCAST_API Forecaster {
 public:
  /// Keeps references; the arguments must outlive it.
  Forecaster(const GraphSource& source, const CostModel& cost, const DeviceProfile& device);

  /// The forecast stays valid until the next call. Throws Error for a batch or lengths below 1, and
  /// what tracing and the cost model throw.
  const Forecast& run(const ForecastRequest& request) &;

  /// Traces and prices one pass; `phase` keeps its memory.
  void price(const Workload& workload, PhaseForecast& phase);

  /// Memory alone, without prices.
  MemoryForecast memory_of(const ForecastRequest& request);

  /// The largest batch with which the request fits; 0 when not even one request does, nothing when
  /// memory does not limit it (below 2^30).
  std::optional<std::int64_t> largest_batch(ForecastRequest request);

  /// The largest input_length + output_length with which the request fits, with its output_length;
  /// 0 when not even an input of one token does, nothing when neither memory nor the model limits
  /// it.
  std::optional<std::int64_t> largest_context(ForecastRequest request);

 private:
  double step_seconds(const ForecastRequest& request, std::int64_t context_length);
  double mean_step_seconds(const ForecastRequest& request);
  void find_breaks(const Graph& graph, std::int64_t begin, std::int64_t end);
  MemoryForecast memory_with(const ForecastRequest& request, const Graph& prefill,
                             const ActivationPeak& prefill_peak);

  const GraphSource& source_;
  const CostModel& cost_;
  const DeviceProfile& device_;
  Forecast forecast_{};
  MemoryPlanner planner_{};
  Graph scratch_{};
  std::vector<std::int64_t> calls_of_region_;
  std::vector<std::int64_t> breaks_;
  std::int64_t known_context_ = -1;  // the decode step that has been priced already
  double known_step_s_ = 0;
};

/// Mean of f over the whole numbers begin <= x < end, from its values at a few of them: exact for
/// polynomials up to the second degree. f takes and returns what step costs do: a context length,
/// seconds.
template <class Function>
double mean_over_integers(std::int64_t begin, std::int64_t end, Function&& f) {
  const std::int64_t count = end - begin;
  if (count <= 3) {
    double sum = 0;
    for (std::int64_t x = begin; x < end; ++x) sum += f(x);
    return sum / static_cast<double>(count);
  }
  // The three nodes of Gauss and Legendre, moved to the nearest whole numbers; weights such that
  // polynomials of the second degree stay exact on those. t = x - center; the mean of t over the
  // whole numbers is 0, that of t^2 is (count^2 - 1) / 12.
  const double center = static_cast<double>(begin) + static_cast<double>(count - 1) / 2;
  constexpr double outer_node = 0.774596669241483377;  // sqrt(3/5)
  const std::int64_t reach = std::llround(outer_node * static_cast<double>(count) / 2);
  const std::int64_t middle = begin + (count + 1) / 2;
  const std::int64_t nodes[3] = {std::max(begin, middle - reach), middle,
                                 std::min(end - 1, middle + reach)};
  const double spread = (static_cast<double>(count) * static_cast<double>(count) - 1) / 12;
  double mean = 0;
  for (int i = 0; i < 3; ++i) {
    const double a = static_cast<double>(nodes[(i + 1) % 3]) - center;
    const double b = static_cast<double>(nodes[(i + 2) % 3]) - center;
    const double t = static_cast<double>(nodes[i]) - center;
    // Mean of (x - a)(x - b) / ((t - a)(t - b)), Lagrange's polynomial of this node.
    mean += (spread + a * b) / ((t - a) * (t - b)) * f(nodes[i]);
  }
  return mean;
}

}  // namespace tcast
