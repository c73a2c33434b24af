#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/cost/memory.h"
#include "tcast/cost/roofline.h"
#include "tcast/graph/graph.h"
#include "tcast/graph/workload.h"

namespace tcast {

/// Something that can be traced for any workload: a model on one rank. trace() is called several
/// times per estimate and must give the same graph for the same workload.
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

/// Tokens of all requests of a pass together, cached ones included, that are calculated with: far
/// beyond any use, and small enough that sizes of single operators stay within 64 bits.
inline constexpr std::int64_t most_tokens = std::int64_t{1} << 40;

/// Throws Error when `batch` requests of `length` tokens each are more than most_tokens, or there
/// is not a single one.
TCAST_API void require_tokens(std::int64_t batch, std::int64_t length);

/// An operator of a pass's graph, its cost, and how often it runs in the pass.
struct OpRow {
  std::uint32_t region = 0;
  std::uint32_t op = 0;   ///< index into Region::ops
  double calls = 0;       ///< calls of the region times Op::runs, so not always whole
  OpEstimate estimate{};  ///< of one call
};

/// One forward pass, priced.
struct PricedPass {
  Workload workload{};
  Graph graph{};
  std::vector<OpRow> ops{};  ///< in order of regions and their ops
  double total_s = 0;        ///< sum over ops of calls * total_s
  ActivationPeak activation{};

  /// A pass that does not occur; keeps its memory.
  void clear();
};

/// Traces passes of one model. Keeps its memory from pass to pass, so that tracing again allocates
/// next to nothing; one per thread.
class TCAST_API PassTracer {
 public:
  /// Keeps a reference to the source.
  explicit PassTracer(const GraphSource& source) : source_(source) {}

  const GraphSource& source() const { return source_; }

  /// A pass without its price; valid until the next call, also of what a PassPricer does.
  const Graph& trace(const Workload& workload);
  ActivationPeak peak_of(const Graph& graph) { return planner_.peak_of(graph); }

 private:
  const GraphSource& source_;
  MemoryPlanner planner_{};
  Graph scratch_{};
};

/// Traces and prices passes of one model by one cost model.
class TCAST_API PassPricer : public PassTracer {
 public:
  /// Keeps references to the source and the cost model.
  PassPricer(const GraphSource& source, const CostModel& cost) : PassTracer(source), cost_(cost) {}

  /// One forward pass, op by op, with its activation peak; `pass` keeps its memory. Throws Error
  /// for more tokens than most_tokens, and what tracing and the cost model throw.
  void price(const Workload& workload, PricedPass& pass);

  /// The time of a pass alone, without rows and memory.
  double seconds_of(const Workload& workload);

  /// One call of an operator. Throws InternalError when its work or time is no number >= 0.
  OpEstimate estimate(const OpRecord& record) const;

 private:
  void count_calls(const Graph& graph);

  const CostModel& cost_;
  std::vector<std::int64_t> calls_of_region_;
};

}  // namespace tcast
