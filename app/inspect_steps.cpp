#include "app/inspect_steps.h"

#include <algorithm>
#include <string>

#include "tcast/cost/device_cost.h"
#include "tcast/cost/forecast.h"
#include "tcast/device/device_profile.h"
#include "tcast/model/tree_check.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/steps_writer.h"
#include "tcast/transform/pipeline.h"

#include "app/output.h"
#include "app/report_model.h"
#include "app/simulation.h"

namespace tcast {
namespace {

/// Prices the model as it stands after every step, for one workload and device.
class PricingObserver final : public StepObserver {
 public:
  PricingObserver(Report& report, const SimulationRequest& request, const DeviceProfile& device)
      : report_(report), request_(request), device_(device), cost_(device) {}

  void before_step(const TransformerModel&, std::string_view) override {}
  void after_step(const TransformerModel& model, const StepReport& step) override {
    add(model, to_report_step(step));
  }

  /// Adds the model's figures under `step`.
  void add(const TransformerModel& model, ReportStep step) {
    const ModelSource source(model);
    Forecaster forecaster(source, cost_.model(), device_);
    ForecastRequest asked;
    asked.batch = batch_per_rank(request_.batch_size, model.options().parallel);
    asked.input_length = request_.input_length;
    asked.output_length = request_.output_length;
    PhaseForecast prefill;
    PhaseForecast decode;
    forecaster.price({Phase::prefill, asked.batch, asked.input_length, 0}, prefill);
    const std::int64_t context = asked.input_length + asked.output_length / 2;
    forecaster.price({Phase::decode, asked.batch, 1, context}, decode);
    StepFigures& figures = step.figures.emplace();
    figures.regions = prefill.graph.region_count;
    const std::vector<std::int64_t> calls = prefill.graph.calls_per_region();
    for (std::uint32_t r = 0; r < prefill.graph.region_count; ++r) {
      const auto ops = static_cast<std::int64_t>(prefill.graph.regions[r].ops.size());
      figures.traced_ops += ops;
      figures.called_ops += ops * calls[r];
    }
    auto sum = [](const PhaseForecast& phase, double& flops, double& bytes) {
      for (const OpRow& row : phase.ops) {
        flops += static_cast<double>(row.calls) * row.estimate.work.flops();
        bytes += static_cast<double>(row.calls) * row.estimate.work.bytes();
      }
    };
    sum(prefill, figures.prefill_flops, figures.prefill_bytes);
    sum(decode, figures.decode_flops, figures.decode_bytes);
    figures.weights_bytes = source.weight_bytes();
    figures.kv_cache_bytes =
        cache_bytes(decode.graph, asked.batch, asked.input_length + asked.output_length);
    figures.activation_peak_bytes = std::max(prefill.activation.bytes, decode.activation.bytes);
    figures.prefill_s = prefill.total_s;
    figures.decode_step_s = decode.total_s;
    report_.steps.push_back(std::move(step));
  }

 private:
  Report& report_;
  SimulationRequest request_;
  const DeviceProfile& device_;
  DeviceCost cost_;
};

}  // namespace

int inspect_steps(const std::string& config_path, const ModelInputs& inputs,
                  const WorkloadInputs& workload, const std::string& device_name,
                  const OutputInputs& output, Streams streams) {
  TransformerModel model = load_model(config_path, inputs);
  const DeviceProfile device = load_device(device_name);
  Report report;
  report.config_file = config_path;
  report.device = device.name;
  SimulationRequest request;
  request.batch_size = workload.batch_size;
  request.input_length = workload.input_length;
  request.output_length = workload.output_length;
  PricingObserver observer(report, request, device);
  require_traceable_as_built(model);
  observer.add(model, {});
  model.set_observer(&observer);
  transform(model);
  model.set_observer(nullptr);
  TargetInputs target;
  target.device = device_name;
  add_inputs(report, model, inputs, workload, target);
  add_model(report, model);
  const bool json = output.format == OutputFormat::json;
  write_result(output.file, json ? write_steps_json(report) : write_steps_table(report),
               streams.out);
  return 0;
}

}  // namespace tcast
