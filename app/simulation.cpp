#include "app/simulation.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/transform/pipeline.h"

namespace tcast {
namespace {

/// Rows of the op table of one phase, merged by op and module.
void add_rows(Report& report, const char* phase_name, const PhaseForecast& phase,
              const CostModel* ideal) {
  // Paths are made once per scope of a region, not per op.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::string> paths;
  std::map<std::tuple<std::string_view, std::string, Bound>, std::size_t> row_of;
  for (const OpRow& row : phase.ops) {
    const Region& region = phase.graph.regions[row.region];
    const Op& op = region.ops[row.op];
    if (row.estimate.total_s == 0 && row.estimate.work.bytes() == 0) continue;
    auto [path, added] = paths.try_emplace({row.region, op.scope});
    if (added) path->second = path_of(region, op.scope);
    const auto key = std::make_tuple(name_of(op.record), path->second, row.estimate.bound);
    const auto [at, is_new] = row_of.try_emplace(key, report.ops.size());
    if (is_new) {
      ReportOp& fresh = report.ops.emplace_back();
      fresh.phase = phase_name;
      fresh.name = name_of(op.record);
      fresh.module = path->second;
      fresh.bound = name_of(row.estimate.bound);
      fresh.source = name_of(row.estimate.source);
    }
    ReportOp& target = report.ops[at->second];
    const auto calls = static_cast<double>(row.calls);
    target.calls += row.calls;
    target.total_s += calls * row.estimate.total_s;
    target.flops += calls * row.estimate.work.flops();
    target.bytes += calls * row.estimate.work.bytes();
    if (ideal != nullptr) target.ideal_s += calls * ideal->estimate(op.record).total_s;
  }
}

/// Choosing the next token from the logits: one pass over them for each request.
TopK sampling_op(const PhaseForecast& phase, std::int64_t batch) {
  TopK op;
  op.rows = batch;
  op.k = 1;
  for (auto region = phase.graph.regions.begin();
       region != phase.graph.regions.begin() + phase.graph.region_count; ++region) {
    for (const Op& traced : region->ops) {
      // The logits are what the last product of the pass makes.
      if (traced.outputs.count == 0) continue;
      const Tensor& out = region->tensors[traced.outputs[0]];
      op.columns = out.shape[out.shape.rank() - 1];
      op.dtype = out.dtype;
    }
  }
  return op;
}

void add_sampling(Report& report, const CostModel& cost, const TopK& op, double& seconds) {
  const OpEstimate estimate = cost.estimate(op);
  seconds = estimate.total_s;
  ReportOp& row = report.ops.emplace_back();
  row.phase = "sampling";
  row.name = name_of(OpRecord(op));
  row.module = "";
  row.calls = 1;
  row.total_s = estimate.total_s;
  row.flops = estimate.work.flops();
  row.bytes = estimate.work.bytes();
  row.bound = name_of(estimate.bound);
  row.source = name_of(estimate.source);
}

void fill_memory(Report& report, const MemoryForecast& memory, const Forecast& forecast) {
  ReportMemory& out = report.memory;
  out.weights_bytes = memory.weight_bytes;
  out.kv_cache_bytes = memory.kv_cache_bytes;
  out.activation_peak_bytes = memory.activation.bytes;
  out.workspace_bytes = memory.workspace_bytes;
  out.reserved_bytes = memory.reserved_bytes;
  out.total_bytes = memory.total_bytes();
  out.capacity_bytes = memory.capacity_bytes;
  out.fits = memory.fits();
  const bool prefill = memory.activation_phase == Phase::prefill;
  const Graph& graph = (prefill ? forecast.prefill : forecast.decode).graph;
  if (memory.activation.region < graph.region_count) {
    const Region& region = graph.regions[memory.activation.region];
    if (memory.activation.op < region.ops.size()) {
      const Op& op = region.ops[memory.activation.op];
      out.activation_peak_at = fmt::format("{} {} {}", prefill ? "prefill" : "decode",
                                           name_of(op.record), path_of(region, op.scope));
    }
  }
}

}  // namespace

std::int64_t batch_per_rank(std::int64_t batch_size, const ParallelOptions& parallel) {
  return ceil_div(batch_size, std::max<std::int64_t>(1, parallel.dp()));
}

void simulate_into(Report& report, const TransformerModel& model, const SimulationRequest& request,
                   const CostModel& cost, const CostModel* ideal, const DeviceProfile& device) {
  const ParallelOptions& parallel = model.options().parallel;
  const ModelSource source(model);
  Forecaster forecaster(source, cost, device);
  ForecastRequest asked;
  asked.batch = batch_per_rank(request.batch_size, parallel);
  asked.input_length = request.input_length;
  asked.output_length = request.output_length;
  asked.reserved_bytes = request.reserved_bytes;
  const Forecast& forecast = forecaster.run(asked);

  report.latency.prefill_s = forecast.prefill_s;
  report.latency.decode_step_s = forecast.decode_step_s;
  add_rows(report, "prefill", forecast.prefill, ideal);
  add_rows(report, "decode", forecast.decode, ideal);
  double sampling_s = 0;
  add_sampling(report, cost, sampling_op(forecast.prefill, asked.batch), sampling_s);
  const auto steps = static_cast<double>(request.output_length - 1);
  report.latency.ttft_s = forecast.prefill_s + sampling_s;
  report.latency.tpot_s = request.output_length > 1 ? forecast.tpot_s + sampling_s : 0;
  report.latency.end_to_end_s = report.latency.ttft_s + steps * report.latency.tpot_s;
  report.output_tokens_per_s =
      static_cast<double>(request.batch_size) * static_cast<double>(request.output_length) /
      report.latency.end_to_end_s;
  report.output_tokens_per_s_per_device =
      report.output_tokens_per_s / static_cast<double>(parallel.devices());

  fill_memory(report, forecast.memory, forecast);
  // Data-parallel replicas fill up alike; without a limit by memory there is none to report.
  const std::int64_t unlimited = 0;
  report.memory.max_batch_size =
      forecaster.largest_batch(asked).value_or(unlimited) * parallel.dp();
  report.memory.max_context_length = forecaster.largest_context(asked).value_or(unlimited);

  if (ideal == nullptr) return;
  Forecaster bound(source, *ideal, device);
  const Forecast& best = bound.run(asked);
  ReportLatency& latency = report.ideal.emplace();
  latency.prefill_s = best.prefill_s;
  latency.ttft_s = best.prefill_s;
  latency.decode_step_s = best.decode_step_s;
  latency.tpot_s = best.tpot_s;
  latency.end_to_end_s = best.end_to_end_s;
}

std::int64_t least_devices(const TransformerModel& model, const std::string& assume_base,
                           const SimulationRequest& request, const DeviceProfile& device) {
  constexpr std::int64_t most = 1024;
  const ParameterCounts counts = model.count_parameters();
  const bool experts = counts.active < counts.total;
  for (std::int64_t devices = 1; devices <= most; devices *= 2) {
    // What a rank must hold at least, before anything is built.
    if (model.weight_bytes() * model.options().parallel.devices() / (2 * devices) >
        device.memory_bytes) {
      continue;
    }
    for (std::int64_t tp = devices; tp >= 1; tp /= 2) {
      if (tp > 64 || (!experts && tp != devices)) continue;
      ModelOptions options = model.options();
      options.parallel.num_devices = devices;
      options.parallel.tp = tp;
      options.parallel.ep = experts ? devices : 1;
      try {
        TransformerModel candidate =
            build_model(model.config(), model.profile(), options, assume_base);
        transform(candidate);
        const ModelSource source(candidate);
        const RooflineModel cost(device);
        Forecaster forecaster(source, cost, device);
        ForecastRequest asked;
        asked.batch = batch_per_rank(request.batch_size, options.parallel);
        asked.input_length = request.input_length;
        asked.output_length = request.output_length;
        asked.reserved_bytes = request.reserved_bytes;
        if (forecaster.memory_of(asked).fits()) return devices;
      } catch (const Error&) {
        // Heads or experts do not divide by this number: the next one may.
      }
    }
  }
  return 0;
}

}  // namespace tcast
