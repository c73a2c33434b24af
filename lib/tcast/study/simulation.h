#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/cost/device_cost.h"
#include "tcast/cost/forecast.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/exec/timing/timer.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"
#include "tcast/report/trace_writer.h"
#include "tcast/study/expert_counts.h"
#include "tcast/study/host_cost.h"
#include "tcast/study/host_timing.h"

namespace tcast {

/// Requests of the whole deployment, and memory set aside on each device.
struct SimulationRequest {
  std::int64_t batch_size = 1;
  std::int64_t input_length = 512;
  std::int64_t output_length = 128;
  std::int64_t reserved_bytes = 0;
  /// One forward pass exactly, instead of whole requests; its batch is that of the deployment.
  std::optional<Workload> phase;
  /// trace_events() will be asked for: refused before anything is timed if there are too many.
  bool traced_events = false;
};

/// Most events of a time line: viewers load it whole, and so do we.
inline constexpr std::int64_t max_trace_events = 400'000;

/// Requests that one rank gets: data-parallel replicas share the batch, the busiest has ceil(n /
/// dp).
std::int64_t batch_per_rank(std::int64_t batch_size, const ParallelOptions& parallel);

/// A model's graph for the forecaster.
class ModelSource final : public GraphSource {
 public:
  /// `whole_requests`: decode steps are those of a generation, which with multi-token prediction
  /// check the predicted tokens along with the last one; else passes are traced exactly as asked.
  explicit ModelSource(const TransformerModel& model, bool whole_requests = true)
      : model_(model),
        weight_bytes_(model.weight_bytes()),
        extra_tokens_(whole_requests ? predicted_tokens(model) : 0) {}

  void trace(const Workload& workload, Graph& graph) const override {
    Workload work = workload;
    if (work.phase == Phase::decode) work.query_length += extra_tokens_;
    model_.trace(work, graph);
    counts_.put_into(graph);
  }
  std::int64_t weight_bytes() const override { return weight_bytes_; }
  std::int64_t longest_sequence() const override { return model_.longest_sequence(); }

  /// From now on, graphs have the distinct experts that an execution has counted.
  void use(ExpertCounts counts) { counts_ = std::move(counts); }

  /// Tokens of each request that a pass of whole requests predicts.
  std::int64_t tokens_per_request() const { return 1 + extra_tokens_; }

 private:
  /// Tokens that the model as it stands predicts beyond the next one.
  static std::int64_t predicted_tokens(const TransformerModel& model) {
    const auto* wrapper = dynamic_cast<const LanguageModelWrapper*>(&model.root());
    return wrapper == nullptr ? 0 : wrapper->mtp_tokens();
  }

  const TransformerModel& model_;
  std::int64_t weight_bytes_;
  std::int64_t extra_tokens_;
  ExpertCounts counts_;  ///< empty: what is expected
};

/// A distinct op of a pass, over all places where it runs.
struct DistinctOp {
  Phase phase = Phase::prefill;
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
  /// Keeps a reference to the model.
  Simulation(const TransformerModel& model, const SimulationRequest& request);

  /// Prices the model on a device, by the cost model that a plugin registered as `runner` if there
  /// is one. With `ideal`, the datasheet bound is found as well.
  void run(const DeviceProfile& device, bool ideal, const std::string& runner = {});
  /// Times every distinct op on this host, or takes the times kept of it; called again, products of
  /// other numbers of experts only.
  void run_on_host(const HostTimingOptions& options, bool ideal);
  /// What is run afterwards has the distinct experts that an execution has counted, in place of the
  /// expected ones (decision D7).
  void use(ExpertCounts counts) { source_.use(std::move(counts)); }

  const DeviceProfile& device() const { return device_; }
  /// Of the pass, or of each step at half of the output; 0: not simulated.
  double prefill_s() const { return forecast_.prefill_s; }
  double decode_step_s() const { return forecast_.decode_step_s; }
  /// Threads that this host was timed with; 0: it was not.
  std::int64_t threads() const { return threads_; }

  /// Memory, latency, throughput and ops; for the host also what was timed and how.
  void fill(Report& report);
  /// The ops of each phase on a time line, in order of execution.
  std::vector<TraceEvent> trace_events() const;
  /// Each phase's distinct ops, those whose kernels take the most time in total first.
  std::vector<DistinctOp> distinct_ops() const;
  /// How the estimates of an op (by its name in the op table) come about. Throws Error with the
  /// closest name when the model has no such op.
  std::string explain(std::string_view op_name) const;

 private:
  void forecast(const CostModel& cost);
  TopK sampling() const;
  void note_substitutes();
  void time_further_experts(const HostTimingOptions& options);
  void note_timing(const std::vector<OpRecord>& records, const HostTimings& timings);
  void fill_latency(Report& report);
  void fill_range(Report& report, const TopK& choice) const;
  ReportLatency latency_of(const Forecast& forecast, double sampling_s) const;
  void fill_experts(Report& report) const;
  void fill_timing(Report& report) const;
  void fill_memory(Report& report);

  const TransformerModel& model_;
  SimulationRequest request_;
  ModelSource source_;
  DeviceProfile device_;
  std::unique_ptr<DeviceCost> estimates_;
  std::unique_ptr<RooflineModel> ideal_;
  std::unique_ptr<MeasuredCostModel> measured_;
  const CostModel* cost_ = nullptr;  // measured_ or that of estimates_
  std::unique_ptr<Forecaster> forecaster_;
  Forecast forecast_;  // for single phases only the pass of that phase and the memory are filled
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
