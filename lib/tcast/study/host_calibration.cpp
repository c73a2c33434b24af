#include "tcast/study/host_calibration.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <numeric>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/timing/timer.h"
#include "tcast/report/report.h"
#include "tcast/study/simulation.h"

namespace tcast {
namespace {

/// How often every operator is timed, with all the others in between, so that a disturbance hits
/// one of the times.
constexpr int most_rounds = 5;
constexpr double least_budget_of_round_s = 2;

double median_of(std::vector<double> values) { return summarize(std::move(values)).median; }

/// Mean without the smallest and the largest: a machine that is now fast and now slow takes for a
/// pass the mean of both, not what it is more often.
double middle_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::ptrdiff_t ends = values.size() > 2 ? 1 : 0;
  const double sum = std::accumulate(values.begin() + ends, values.end() - ends, 0.0);
  return sum / static_cast<double>(values.size() - 2 * static_cast<std::size_t>(ends));
}

std::vector<TimedPoint> points_of(const std::vector<OpRecord>& ops,
                                  const std::vector<HostTimings>& measured) {
  std::vector<TimedPoint> points;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    std::vector<double> seconds;
    for (const HostTimings& round : measured) {
      const Measurement& measurement = round.measurements[i];
      if (measurement.supported()) seconds.push_back(measurement.seconds);
    }
    if (seconds.empty()) continue;
    const auto [least, most] = std::minmax_element(seconds.begin(), seconds.end());
    TimedPoint& timed = points.emplace_back();
    timed.spread = *most / *least - 1;
    timed.point = {ops[i], middle_of(seconds)};
    timed.last = measured.back().measurements[i];
  }
  return points;
}

CalibrationFrame frame_of(const std::vector<HostTimings>& measured, const std::string& name) {
  CalibrationFrame frame;
  const HostTimings& timings = measured.back();
  const HostFeatures& host = timings.host;
  const std::string cpu = host.cpu.empty() ? "unknown CPU" : host.cpu;
  const std::string threads = fmt::format("{} thread(s)", timings.threads);
  frame.device.name = name.empty() ? fmt::format("{}, {}", cpu, threads) : name;
  frame.device.description = fmt::format("{}, {}, {}", cpu, name_of(host.isa), threads);
  frame.device.memory_bytes = std::max<std::int64_t>(host.memory_bytes, 1);
  frame.device.cache_bytes = host.last_level_bytes;
  std::vector<double> overheads;
  for (const HostTimings& round : measured) {
    double& bandwidth = frame.device.memory_bandwidth_bytes_per_s;
    bandwidth = std::max(bandwidth, round.speed.read_bytes_per_s);
    double& flops = frame.device.vector[DType::f32];
    flops = std::max(flops, round.speed.f32_flops_per_s);
    overheads.push_back(round.op_overhead_s);
  }
  frame.overhead_s = median_of(overheads);
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  frame.source = fmt::format("{:%Y-%m-%d}, {}, {}, {}, oneDNN {}, tcast {}", fmt::gmtime(now), cpu,
                             name_of(host.isa), threads, onednn_version(), TCAST_VERSION);
  return frame;
}

TimingConditions conditions_of(const std::vector<HostTimings>& measured) {
  TimingConditions all;
  for (const HostTimings& round : measured) {
    if (!round.conditions) continue;
    all.took_s += round.conditions->took_s;
    all.canary_drift = std::max(all.canary_drift, round.conditions->canary_drift);
    all.others_cpu_share = std::max(all.others_cpu_share, round.conditions->others_cpu_share);
  }
  return all;
}

}  // namespace

HostCalibrator::HostCalibrator(const HostCalibrationOptions& options)
    : options_(options), ops_(calibration_ops({HostDTypes{}.bf16, options.thorough})) {
  double budget_s = options.time_budget_s;
  if (budget_s <= 0) {
    budget_s = options.thorough ? HostCalibrationOptions::thorough_budget_s
                                : HostCalibrationOptions::default_budget_s;
  }
  rounds_ = std::clamp(static_cast<int>(budget_s / least_budget_of_round_s), 1, most_rounds);
  round_budget_s_ = budget_s / rounds_;
}

void HostCalibrator::time_round() {
  HostTimingOptions timing;
  timing.timer.time_budget_s = round_budget_s_;
  timing.timer.threads = options_.threads;
  timing.progress = options_.progress;
  measured_.push_back(time_on_host(ops_, timing));
}

HostCalibration HostCalibrator::fit() const {
  HostCalibration result;
  result.rounds = static_cast<int>(measured_.size());
  result.timed = points_of(ops_, measured_);
  result.conditions = conditions_of(measured_);
  std::vector<CalibrationPoint> points;
  points.reserve(result.timed.size());
  for (const TimedPoint& timed : result.timed) points.push_back(timed.point);
  const CalibrationFrame frame = frame_of(measured_, options_.name);
  result.calibration = calibrate(frame, points);
  result.source = frame.source;
  return result;
}

}  // namespace tcast
