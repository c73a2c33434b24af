#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tcast/exec/run/executor.h"
#include "tcast/exec/timing/timer.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"
#include "tcast/study/expert_counts.h"
#include "tcast/study/host_timing.h"

namespace tcast {

class Simulation;

/// What is expected of a run, from timed ops.
struct Prediction {
  double prefill_s = 0;
  double decode_step_s = 0;        ///< mean of the steps
  std::int64_t steps = 0;          ///< decode steps
  std::vector<ReportOp> ops;       ///< of the prefill, and of all steps together
  std::vector<ReportPass> passes;  ///< of a model with routed experts with the expected ones
  std::vector<std::string> notes;

  /// Whether a pass has routed experts.
  bool routes() const;
  double total_s() const { return prefill_s + static_cast<double>(steps) * decode_step_s; }
};

/// Predicts executing `batch_size` requests on this host, as `tcast simulate` does.
class RunPredictor {
 public:
  /// Keeps a reference to the model. Throws Error for one that is spread over several devices.
  RunPredictor(const TransformerModel& model, std::int64_t batch_size, std::int64_t input_length,
               std::int64_t output_length, HostTimingOptions options);
  RunPredictor(const RunPredictor&) = delete;
  RunPredictor& operator=(const RunPredictor&) = delete;
  ~RunPredictor();

  /// Before the run: with the expected distinct experts.
  const Prediction& expected() const { return expected_; }
  /// After it: with the distinct experts that it has counted (decision D7).
  Prediction counted(const ExpertCounts& counts);

 private:
  Prediction prediction() const;

  HostTimingOptions options_;
  std::int64_t steps_;
  std::unique_ptr<Simulation> simulation_;
  Prediction expected_;
};

/// A prediction beside what happened.
class Comparison {
 public:
  /// `expected` as it was before the run, `prediction` with the distinct experts that the run has
  /// counted.
  Comparison(Prediction expected, Prediction prediction, const ExpertCounts& counts,
             const Sample& prefill, const std::vector<Sample>& decode_steps,
             const std::vector<OpTime>& ops);

  /// What was predicted, as a line each for prefill, decode step and total.
  static std::string predicted_text(const Prediction& prediction);
  /// Predicted beside measured: in total, by class of operators, by module; and, of a model with
  /// routed experts, the expected distinct ones beside those of the run.
  std::string text() const;
  nlohmann::ordered_json json() const;

 private:
  struct Row {
    std::string name;
    double predicted_s = 0;
    double measured_s = 0;
  };
  /// Sums of the ops of a phase by what `key` gives, largest first.
  template <class PredictedKey, class MeasuredKey>
  std::vector<Row> sums(Phase phase, const PredictedKey& predicted_key,
                        const MeasuredKey& measured_key) const;
  std::vector<Row> totals() const;
  std::vector<Row> by_class(Phase phase) const;
  std::vector<Row> by_module(Phase phase) const;

  /// Distinct experts of a layer in one pass of a phase.
  struct Experts {
    Phase phase = Phase::prefill;
    double expected = 0;
    double counted = 0;     ///< in the run, mean over layers and passes
    double expected_s = 0;  ///< time of the pass with the expected ones
  };
  std::vector<Experts> experts(const ExpertCounts& counts) const;

  Prediction expected_;
  Prediction prediction_;
  std::vector<Experts> experts_;
  double prefill_s_;
  double decode_s_ = 0;  ///< of all steps
  /// Of the passes in which no thread lost its processor or, where there are too few, of all
  /// without the time in which threads waited: what a prediction made of undisturbed times is to be
  /// compared with.
  double undisturbed_prefill_s_ = 0;
  double undisturbed_step_s_ = 0;
  std::vector<OpTime> ops_;
};

}  // namespace tcast
