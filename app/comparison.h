#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tcast/exec/executor.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"

#include "app/host_timing.h"

namespace tcast {

/// What is expected of a run before it begins, from timed ops.
struct Prediction {
  double prefill_s = 0;
  double decode_step_s = 0;   ///< mean of the steps
  std::int64_t steps = 0;     ///< decode steps
  std::vector<ReportOp> ops;  ///< of the prefill, and of all steps together
  std::vector<std::string> notes;

  double total_s() const { return prefill_s + static_cast<double>(steps) * decode_step_s; }
};

/// Predicts executing `batch_size` requests on this host, as `tcast simulate` does. Throws Error
/// for a model that is spread over several devices.
Prediction predict_run(const TransformerModel& model, std::int64_t batch_size,
                       std::int64_t input_length, std::int64_t output_length,
                       const HostTimingOptions& options);

/// Deals the experts to the tokens in turn, in the place of the router's choice: every expert gets
/// as many rows as a prediction counts on, and routers of generated weights mean nothing anyway
/// (decision D7).
void choose_evenly(const RoutingCall& call);

/// A prediction beside what happened.
class Comparison {
 public:
  Comparison(Prediction prediction, double prefill_s, const std::vector<double>& decode_s,
             const std::vector<OpTime>& ops);

  /// What was predicted, as a line each for prefill, decode step and total.
  static std::string predicted_text(const Prediction& prediction);
  /// Predicted beside measured: in total, by class of operators, by module.
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

  Prediction prediction_;
  double prefill_s_;
  double decode_s_ = 0;  ///< of all steps
  std::vector<OpTime> ops_;
};

}  // namespace tcast
