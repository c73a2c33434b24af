#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "tcast/cost/memory.h"
#include "tcast/cost/pass.h"
#include "tcast/graph/workload.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"
#include "tcast/study/inputs.h"

namespace tcast {

/// A kind of forward pass that a scenario is made of.
struct ScenarioPass {
  std::string_view name;             ///< "prefill", "decode": the same in JSON and op tables
  std::string_view title;            ///< for people: "decode step"
  std::optional<Workload> workload;  ///< of one rank; nothing: the pass does not occur
};

/// An operator beside the passes, which the model itself does not execute: the choice of tokens.
struct OtherOp {
  std::string_view phase;   ///< where it is shown: "sampling"
  std::string_view module;  ///< what stands in the place of a module's path
  OpRecord record;
};

/// A pass that may have the activation peak or the largest tables. It is of the kind of
/// Scenario::passes()[pass], in whose graph the place of the peak is looked up.
struct MemoryPass {
  std::size_t pass = 0;
  Workload workload{};
};

/// What has to be in memory at the same time as the weights.
struct ScenarioMemory {
  std::span<const MemoryPass> passes;  ///< part of the scenario
  std::int64_t batch = 1;              ///< requests of one rank, all of whose caches are kept
  std::int64_t cached_length = 1;      ///< tokens of each of them that the caches hold
};

/// How much more of it would fit.
struct ScenarioLimits {
  /// Requests of the whole deployment with these lengths; 0 when not even one fits, nothing when
  /// memory does not limit them.
  std::optional<std::int64_t> batch_size;
  /// Tokens of each request with this batch, in the same way.
  std::optional<std::int64_t> context_length;
};

/// What is asked of a model: named passes, each priced operator by operator and shown, and metrics
/// that are made from priced passes. Asked of one deployment; sizes of its passes are those of one
/// rank. Everything that estimates, times or reports is the same for all scenarios: a further one
/// is a class in a file of its own, and make_scenario() decides when it is asked for.
class Scenario {
 public:
  Scenario() = default;
  virtual ~Scenario() = default;

  /// All kinds of passes, those that do not occur included.
  virtual std::span<const ScenarioPass> passes() const = 0;

  /// Operators beside the passes. `priced`: the passes, in their order.
  virtual std::vector<OtherOp> other_ops(std::span<const PricedPass> priced) const;

  /// The metrics in the order of reports, without values: known before anything is priced.
  virtual std::vector<ReportMetric> metrics() const = 0;

  /// The same metrics with their values. `priced`: the passes, priced by the cost model of
  /// `pricer`, which prices whatever else it takes.
  virtual std::vector<ReportMetric> metrics(PassPricer& pricer,
                                            std::span<const PricedPass> priced) const = 0;

  /// What to tell somebody who asks for a metric that has no value; empty: nothing.
  virtual std::string_view absent_hint() const { return {}; }

  virtual ScenarioMemory memory() const = 0;

  /// How much more would fit; nothing: the question makes no sense.
  virtual std::optional<ScenarioLimits> limits(PassTracer& tracer,
                                               const MemoryBudget& budget) const;

 protected:
  Scenario(const Scenario&) = default;
  Scenario& operator=(const Scenario&) = default;
};

/// Prices the passes of a scenario; those that do not occur are cleared. `priced` keeps its memory
/// and has one for each of Scenario::passes().
void price_passes(const Scenario& scenario, PassPricer& pricer, std::span<PricedPass> priced);

/// Where memory goes. Passes that are in `priced` (the scenario's passes in their order, or none)
/// with the same workload are not traced again. Throws Error for less than 0 reserved bytes.
MemoryForecast forecast_memory(const Scenario& scenario, PassTracer& tracer,
                               std::span<const PricedPass> priced, const MemoryBudget& budget);

/// Names a scenario's passes and metrics in a report, without values.
void add_scenario(Report& report, const Scenario& scenario);

/// How a model is deployed, as far as scenarios depend on it.
struct Deployment {
  std::int64_t replicas = 1;  ///< data-parallel ones, which share the requests
  std::int64_t devices = 1;
  std::int64_t tokens_per_step = 1;  ///< 1 and the tokens that multi-token prediction drafts

  /// Requests that one rank gets: those of the busiest replica.
  std::int64_t batch_per_rank(std::int64_t batch_size) const;
};
/// Of a model as it stands.
Deployment deployment_of(const TransformerModel& model);

/// The scenario that was asked for: whole requests, or one forward pass exactly. Throws Error for
/// sizes below 1 and beyond most_tokens.
std::unique_ptr<Scenario> make_scenario(const WorkloadInputs& asked, const Deployment& deployment);

}  // namespace tcast
