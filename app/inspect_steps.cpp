#include "app/inspect_steps.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "tcast/cost/device_cost.h"
#include "tcast/cost/pass.h"
#include "tcast/device/device_profile.h"
#include "tcast/model/tree_check.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/steps_writer.h"
#include "tcast/study/model_source.h"
#include "tcast/study/report_model.h"
#include "tcast/study/simulation.h"
#include "tcast/study/text_generation.h"
#include "tcast/transform/pipeline.h"

#include "app/output.h"

namespace tcast {
namespace {

/// Prices the model as it stands after every step, for one workload and device.
class PricingObserver final : public StepObserver {
 public:
  PricingObserver(Report& report, const TextGenerationRequest& request, const DeviceProfile& device)
      : report_(report), request_(request), cost_(device) {}

  void before_step(const TransformerModel&, std::string_view) override {}
  void after_step(const TransformerModel& model, const StepReport& step) override {
    add(model, to_report_step(step));
  }

  /// Adds the model's figures under `step`.
  void add(const TransformerModel& model, ReportStep step) {
    const ModelSource source(model);
    PassPricer pricer(source, cost_.model());
    const TextGeneration generation(request_, deployment_of(model));
    const Workload inputs = generation.prefill();
    PricedPass prefill;
    PricedPass decode;
    pricer.price(inputs, prefill);
    std::int64_t longest = inputs.query_length;
    if (model.generates()) {
      longest = generation.memory().cached_length;
      pricer.price(generation.step(generation.middle()), decode);
    }
    StepFigures& figures = step.figures.emplace();
    figures.regions = prefill.graph.region_count;
    figures.traced_ops = static_cast<std::int64_t>(prefill.ops.size());
    double called = 0;
    for (const OpRow& row : prefill.ops) called += row.calls;
    figures.called_ops = std::llround(called);
    auto sum = [](const PricedPass& pass, double& flops, double& bytes) {
      for (const OpRow& row : pass.ops) {
        flops += row.calls * row.estimate.work.flops();
        bytes += row.calls * row.estimate.work.bytes();
      }
    };
    sum(prefill, figures.prefill_flops, figures.prefill_bytes);
    sum(decode, figures.decode_flops, figures.decode_bytes);
    figures.weights_bytes = source.weight_bytes();
    const Graph& last = model.generates() ? decode.graph : prefill.graph;
    figures.kv_cache_bytes = cache_bytes(last, inputs.batch, longest);
    figures.activation_peak_bytes = std::max(prefill.activation.bytes, decode.activation.bytes);
    figures.prefill_s = prefill.total_s;
    figures.decode_step_s = decode.total_s;
    report_.steps.push_back(std::move(step));
  }

 private:
  Report& report_;
  TextGenerationRequest request_;
  DeviceCost cost_;
};

std::size_t inspect_model(TransformerModel& model, const std::string& config_path,
                          const ModelInputs& inputs, const WorkloadInputs& workload,
                          const std::string& device_name, OutputInputs& output, Streams streams) {
  const DeviceProfile device = load_device(device_name);
  Report report;
  report.config_file = config_path;
  report.device = device.name;
  report.provenance.push_back(device.provenance);
  const WorkloadInputs asked = workload_for(model, workload);
  PricingObserver observer(report, {asked.batch_size, asked.input_length, asked.output_length},
                           device);
  require_traceable_as_built(model);
  observer.add(model, {});
  model.set_observer(&observer);
  transform(model);
  model.set_observer(nullptr);
  TargetInputs target;
  target.device = device_name;
  add_inputs(report, model, inputs, asked, target);
  add_model(report, model);
  const bool json = output.format == OutputFormat::json;
  write_result(output, json ? write_steps_json(report) : write_steps_table(report), streams);
  return report.warnings.size();
}

}  // namespace

std::size_t inspect_steps(const std::string& config_path, const ModelInputs& inputs,
                          const WorkloadInputs& workload, const std::string& device_name,
                          OutputInputs& output, Streams streams) {
  TransformerModel model = load_model(config_path, inputs);
  return model.guard_modules("inspect", [&] {
    return inspect_model(model, config_path, inputs, workload, device_name, output, streams);
  });
}

}  // namespace tcast
