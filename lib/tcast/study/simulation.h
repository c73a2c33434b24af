#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/cost/device_cost.h"
#include "tcast/cost/pass.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/exec/timing/timer.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"
#include "tcast/report/trace_writer.h"
#include "tcast/study/expert_counts.h"
#include "tcast/study/host_cost.h"
#include "tcast/study/host_timing.h"
#include "tcast/study/inputs.h"
#include "tcast/study/model_source.h"
#include "tcast/study/scenario.h"

namespace tcast {

struct SimulationOptions {
  std::int64_t reserved_bytes = 0;  ///< of each device, for others
  /// trace_events() will be asked for: refused before anything is timed if there are too many.
  bool traced_events = false;
};

/// Most events of a time line: viewers load it whole, and so do we.
inline constexpr std::int64_t max_trace_events = 400'000;

/// A distinct op of a pass, over all places where it runs.
struct DistinctOp {
  std::size_t pass = 0;  ///< index into Scenario::passes()
  OpRecord record{};
  std::vector<std::string> modules{};  ///< paths with '*' for list members, in order of execution
  double calls = 0;                    ///< expected ones
  OpEstimate estimate{};               ///< of one call
  const Measurement* measurement = nullptr;  ///< where the estimate was timed; lives as long as the
                                             ///< simulation
};

/// One simulation of a transformed model: run it on a device or on this host, then ask for what it
/// found.
class Simulation {
 public:
  /// Keeps a reference to the model. The scenario is that of the model's deployment.
  Simulation(const TransformerModel& model, std::unique_ptr<Scenario> scenario,
             const SimulationOptions& options = {});

  /// Prices the model on a device, by the cost model that a plugin registered as `runner` if there
  /// is one. With `ideal`, the datasheet bound is found as well.
  void run(const DeviceProfile& device, bool ideal, const std::string& runner = {});
  /// Times every distinct op on this host, or takes the times kept of it; called again, products of
  /// other numbers of experts only.
  void run_on_host(const HostTimingOptions& options, bool ideal);
  /// What is run afterwards has the distinct experts that an execution has counted, in place of the
  /// expected ones (decision D7).
  void use(ExpertCounts counts) { source_.use(std::move(counts)); }

  const Scenario& scenario() const { return *scenario_; }
  const DeviceProfile& device() const { return device_; }
  /// The scenario's passes, priced; none before it is run.
  std::span<const PricedPass> passes() const { return passes_; }
  /// Threads that this host was timed with; 0: it was not.
  std::int64_t threads() const { return threads_; }

  /// Memory, metrics, passes and ops; for the host also what was timed and how.
  void fill(Report& report);
  /// The ops of each pass on a time line, in order of execution.
  std::vector<TraceEvent> trace_events() const;
  /// Each pass's distinct ops, those whose kernels take the most time in total first.
  std::vector<DistinctOp> distinct_ops() const;
  /// How the estimates of an op (by its name in the op table) come about. Throws Error with the
  /// closest name when the model has no such op.
  std::string explain(std::string_view op_name) const;

 private:
  void price(const CostModel& cost);
  std::vector<ReportMetric> metrics_by(const CostModel& cost) const;
  void note_substitutes();
  void time_further_experts(const HostTimingOptions& options);
  void note_timing(const std::vector<OpRecord>& records, const HostTimings& timings);
  void fill_metrics(Report& report) const;
  void fill_ops(Report& report) const;
  void fill_experts(Report& report) const;
  void fill_timing(Report& report) const;
  void fill_memory(Report& report);

  const TransformerModel& model_;
  std::unique_ptr<Scenario> scenario_;
  SimulationOptions options_;
  ModelSource source_;
  DeviceProfile device_;
  std::unique_ptr<DeviceCost> estimates_;
  std::unique_ptr<RooflineModel> ideal_;
  std::unique_ptr<MeasuredCostModel> measured_;
  const CostModel* cost_ = nullptr;  // measured_ or that of estimates_
  std::unique_ptr<PassPricer> pricer_;
  std::vector<PricedPass> passes_;     // the scenario's, in their order
  std::vector<ReportMetric> metrics_;  // by the cost model of pricer_
  std::vector<std::string> notes_;
  std::vector<std::string> warnings_;
  std::optional<ReportTiming> timing_;  // of this host, without the spread
  Pace best_pace_;                      // of this host
  std::int64_t threads_ = 0;
};

/// What a reader of timed figures has to be warned of: other processes that took more than 10 % of
/// the processors, a machine that became slower or faster by more than 10 %, samples that differ by
/// more than 20 %.
std::vector<std::string> timing_warnings(const ReportTiming& timing);

/// A step's report as the writers take it, without the figures of the graph.
ReportStep to_report_step(const StepReport& step);

}  // namespace tcast
