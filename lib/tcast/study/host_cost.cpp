#include "tcast/study/host_cost.h"

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/cost/op_cost.h"

namespace tcast {
OpEstimate RecordingCostModel::estimate(const OpRecord& record) const {
  const OpEstimate estimate = fallback_.estimate(record);
  if (estimate.total_s > 0 && seen_.try_emplace(signature_of(record), records_.size()).second) {
    records_.push_back(record);
  }
  return estimate;
}

MeasuredCostModel::MeasuredCostModel(const CostModel& fallback,
                                     const std::vector<OpRecord>& records,
                                     const std::vector<Measurement>& measurements,
                                     double op_overhead_s)
    : fallback_(fallback), op_overhead_s_(op_overhead_s) {
  add(records, measurements);
}

void MeasuredCostModel::add(const std::vector<OpRecord>& records,
                            const std::vector<Measurement>& measurements) {
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (measurements[i].supported())
      measurements_.emplace(signature_of(records[i]), measurements[i]);
  }
}

const Measurement* MeasuredCostModel::find(const OpRecord& record) const {
  const auto found = measurements_.find(signature_of(record));
  return found == measurements_.end() ? nullptr : &found->second;
}

OpEstimate MeasuredCostModel::estimate(const OpRecord& record) const {
  OpEstimate estimate = fallback_.estimate(record);
  const Measurement* measured = find(record);
  if (estimate.total_s == 0 || measured == nullptr) return estimate;
  estimate.total_s = measured->seconds + op_overhead_s_;
  estimate.overhead_s = op_overhead_s_;
  estimate.source = Source::measured;
  return estimate;
}

OpEstimate RangeCostModel::estimate(const OpRecord& record) const {
  OpEstimate estimate = measured_.estimate(record);
  const Measurement* measured = measured_.find(record);
  if (estimate.total_s == 0 || measured == nullptr) return estimate;
  estimate.total_s = range_of(*measured, best_).*end_ + estimate.overhead_s;
  return estimate;
}

std::string MeasuredCostModel::explain(const OpRecord& record) const {
  const Measurement* measured = find(record);
  if (measured == nullptr) return fallback_.explain(record);
  std::string text = explain_work(record);
  text += fmt::format(
      "  measured on this host: {} (mean of {} samples, spread {:.1f} %, {} threads, {}, oneDNN "
      "{})\n",
      format_seconds(measured->seconds), measured->samples, 100 * measured->spread,
      measured->threads, measured->implementation, measured->onednn_version);
  if (measured->scaled) {
    text += fmt::format(
        "  timed at {:.1f} % of its work and half of that, and extrapolated; in proportion it "
        "would "
        "be {:.1f} % off\n",
        100 * measured->share, 100 * measured->error);
  }
  if (const std::string why = disturbance(*measured, {}); !why.empty()) {
    text += fmt::format("  the machine was disturbed: {}\n", why);
  }
  if (!measured->between.empty()) {
    text += fmt::format("  on the line between the times of {}\n", measured->between);
  }
  text +=
      fmt::format("  and {} that the executor spends on each op\n", format_seconds(op_overhead_s_));
  if (!measured->substituted.empty()) {
    text += fmt::format("  this host lacks a dtype: {}\n", measured->substituted);
  }
  return text;
}

DeviceProfile host_device(const HostFeatures& features, const HostSpeed& speed) {
  DeviceProfile device;
  device.name = "host";
  device.description = fmt::format("{}, {} threads", features.cpu, features.threads);
  device.provenance = {"device", device.name, Provenance::From::host};
  const std::string source = "measured on this host by the canary of this run";
  for (PeakFlops* peak : {&device.matrix, &device.vector}) {
    peak->basis = Source::calibrated;
    peak->source = source;
    (*peak)[DType::f32] = speed.f32_flops_per_s;
  }
  if (speed.bf16_flops_per_s > 0) device.matrix[DType::bf16] = speed.bf16_flops_per_s;
  device.memory_bytes = features.memory_bytes;
  device.memory_bandwidth_bytes_per_s = speed.read_bytes_per_s;
  device.memory_basis = Source::calibrated;
  device.memory_source = source;
  for (ClassEfficiency& efficiency : device.efficiency) {
    efficiency.basis = Source::calibrated;
    efficiency.source = source;
    efficiency.overhead_s = 1e-6;
  }
  return device;
}

}  // namespace tcast
