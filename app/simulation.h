#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tcast/cost/forecast.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"

namespace tcast {

/// Requests of the whole deployment, and memory set aside.
struct SimulationRequest {
  std::int64_t batch_size = 1;
  std::int64_t input_length = 512;
  std::int64_t output_length = 128;
  std::int64_t reserved_bytes = 0;
  /// One phase exactly, instead of a whole request: batch, query and context are those of `phase`.
  std::optional<Workload> phase;
};

/// A transformed model as the forecaster sees it.
class ModelSource final : public GraphSource {
 public:
  explicit ModelSource(const TransformerModel& model)
      : model_(model), weight_bytes_(model.weight_bytes()) {}

  void trace(const Workload& workload, Graph& graph) const override {
    model_.trace(workload, graph);
  }
  std::int64_t weight_bytes() const override { return weight_bytes_; }

 private:
  const TransformerModel& model_;
  std::int64_t weight_bytes_;
};

/// Requests that one rank gets: dp replicas share the batch, the busiest has ceil(n / dp).
std::int64_t batch_per_rank(std::int64_t batch_size, const ParallelOptions& parallel);

/// Fills memory, latency, throughput and ops of a report. `ideal`, if given, prices the same ops for
/// the datasheet bound beside the estimate.
void simulate_into(Report& report, const TransformerModel& model, const SimulationRequest& request,
                   const CostModel& cost, const CostModel* ideal, const DeviceProfile& device);

/// The least number of devices on which a model with these options fits, spread by tensor parallelism
/// (and, with routed experts, expert parallelism); 0 when no number up to 1024 does.
std::int64_t least_devices(const TransformerModel& model, const std::string& assume_base,
                           const SimulationRequest& request, const DeviceProfile& device);

}  // namespace tcast
