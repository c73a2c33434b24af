#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <ostream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ostream.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/cost/calibration.h"
#include "tcast/cost/roofline.h"
#include "tcast/exec/kernel.h"
#include "tcast/exec/timer.h"
#include "tcast/report/report.h"
#include "tcast/report/text_table.h"

#include "app/command.h"
#include "app/host_timing.h"
#include "app/options.h"
#include "app/output.h"
#include "app/simulation.h"

namespace tcast {
namespace {

constexpr double default_budget_s = 10;
constexpr double thorough_budget_s = 60;
/// How often every operator is timed, with all the others in between, so that a disturbance hits
/// one of the times.
constexpr int most_rounds = 3;
constexpr double least_budget_of_round_s = 2;

/// Median of the rounds' times of each operator that has one.
struct TimedPoint {
  CalibrationPoint point;
  double spread = 0;  ///< largest time of a round / least - 1
  Measurement last;
};

double median_of(std::vector<double> values) { return summarize(std::move(values)).median; }

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
    timed.point = {ops[i], median_of(seconds)};
    timed.last = measured.back().measurements[i];
  }
  return points;
}

class CalibrateCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.begin_group("Calibration");
    line.add_option(
        "--name", "NAME",
        [this](const std::string& text) {
          const bool blank = text.find_first_not_of(" -_") == std::string::npos;
          if (blank || printable(text) != text) {
            throw Error(fmt::format("expected a name, got '{}'", printable(text)));
          }
          name_ = text;
        },
        "of the device; default that of the CPU");
    line.add_option("--threads", "N", to_size(threads_, 1, 4096),
                    "threads to time with; default all that this process may use");
    line.add_option(
        "--time-budget", "SECONDS", to_number(time_budget_s_, 0.1, 86400),
        fmt::format("limit of the time spent on timing (default {}, with --thorough {})",
                    default_budget_s, thorough_budget_s));
    line.add_flag("--thorough", thorough_, "time about twice as many operators");
    line.begin_group("Output");
    line.add_option("-o,--output", "FILE", to_text(file_),
                    "write the device profile to a file, and the table of errors to the standard "
                    "output; else the profile goes there and the table to the standard error");
    line.add_option(
        "--format", "FORMAT",
        [this](const std::string& text) {
          const std::string names[] = {"table", "json"};
          json_ = find_choice(text, names) == 1;
        },
        "of the errors, with all operators in json: table, json; default table");
    line.set_example(
        "  $ tcast calibrate -o host.yaml\n"
        "  $ tcast simulate configs/models/qwen3-0.6b.json --device host.yaml\n");
  }

  int run(Streams streams) override {
    check_target();
    const double budget_s =
        time_budget_s_ > 0 ? time_budget_s_ : (thorough_ ? thorough_budget_s : default_budget_s);
    const std::vector<OpRecord> ops = calibration_ops({HostDTypes{}.bf16, thorough_});
    HostTimingOptions timing;
    const int rounds =
        std::clamp(static_cast<int>(budget_s / least_budget_of_round_s), 1, most_rounds);
    timing.timer.time_budget_s = budget_s / rounds;
    timing.timer.threads = static_cast<int>(threads_);
    timing.err = &streams.err;
    std::vector<HostTimings> measured;
    for (int round = 0; round < rounds; ++round) measured.push_back(time_on_host(ops, timing));
    const std::vector<TimedPoint> timed = points_of(ops, measured);
    const TimingConditions conditions = conditions_of(measured);
    std::vector<CalibrationPoint> points;
    points.reserve(timed.size());
    for (const TimedPoint& point : timed) points.push_back(point.point);

    const CalibrationFrame frame = frame_of(measured);
    const Calibration calibration = calibrate(frame, points);
    warn(timed, conditions, streams.err);
    const std::string yaml =
        "# Written by tcast calibrate: " + frame.source + "\n" + to_yaml(calibration.device);
    const std::string errors = json_
                                   ? json_of(calibration, timed, conditions)
                                   : table_of(calibration, timed, rounds, conditions, frame.source);
    write_result(file_, yaml, streams.out);
    (file_.empty() ? streams.err : streams.out) << errors;
    return 0;
  }

 private:
  /// What would only fail after all the timing.
  void check_target() const {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::is_directory(file_, error)) {
      throw Error(fmt::format("-o: '{}' is a directory", printable(file_)),
                  "name a file, as host.yaml");
    }
    const fs::path folder = fs::path(file_).parent_path();
    if (!folder.empty() && !fs::is_directory(folder, error)) {
      throw Error(fmt::format("-o: there is no directory '{}'", printable(folder.string())),
                  "make it first");
    }
  }

  CalibrationFrame frame_of(const std::vector<HostTimings>& measured) const {
    CalibrationFrame frame;
    const HostTimings& timings = measured.back();
    const HostFeatures& host = timings.host;
    const std::string cpu = host.cpu.empty() ? "unknown CPU" : host.cpu;
    const std::string threads = fmt::format("{} thread(s)", timings.threads);
    frame.device.name = name_.empty() ? fmt::format("{}, {}", cpu, threads) : name_;
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
    frame.source = fmt::format("{:%Y-%m-%d}, {}, {}, {}, oneDNN {}, tcast {}", fmt::gmtime(now),
                               cpu, name_of(host.isa), threads, onednn_version(), TCAST_VERSION);
    return frame;
  }

  /// Of all rounds: their time together, the canary of the worst.
  static TimingConditions conditions_of(const std::vector<HostTimings>& measured) {
    TimingConditions all;
    for (const HostTimings& round : measured) {
      if (!round.conditions) continue;
      all.took_s += round.conditions->took_s;
      all.canary_drift = std::max(all.canary_drift, round.conditions->canary_drift);
      all.others_cpu_share = std::max(all.others_cpu_share, round.conditions->others_cpu_share);
    }
    return all;
  }

  static void warn(const std::vector<TimedPoint>& timed, const TimingConditions& conditions,
                   std::ostream& err) {
    ReportTiming timing;
    timing.others_cpu_share = conditions.others_cpu_share;
    timing.canary_drift = conditions.canary_drift;
    double sum = 0;
    double weighted = 0;
    for (const TimedPoint& point : timed) {
      sum += point.point.seconds;
      weighted += point.point.seconds * point.last.spread;
    }
    if (sum > 0) timing.mean_spread = weighted / sum;
    for (const std::string& warning : timing_warnings(timing)) {
      fmt::print(err, "tcast: warning: {}\n", warning);
    }
  }

  std::string table_of(const Calibration& calibration, const std::vector<TimedPoint>& timed,
                       int rounds, const TimingConditions& conditions,
                       const std::string& source) const {
    const DeviceProfile& device = calibration.device;
    std::string text = wrap("tcast calibrate: ", source);
    text += fmt::format("  {} operators timed {} time(s) in {}\n", timed.size(), rounds,
                        format_seconds(conditions.took_s));
    std::string reached = "products reach";
    for (int i = 0; i < dtype_count; ++i) {
      const auto dtype = static_cast<DType>(i);
      if (device.matrix[dtype] <= 0) continue;
      reached +=
          fmt::format(" {:.0f} GFLOP/s in {},", 1e-9 * device.matrix[dtype], short_name_of(dtype));
    }
    reached += fmt::format(" memory {:.1f} GB/s", 1e-9 * device.memory_bandwidth_bytes_per_s);
    if (device.cache_bytes > 0) {
      reached += fmt::format(", caches {:.0f} GB/s", 1e-9 * device.cache_bandwidth_bytes_per_s);
    }
    text += wrap("  ", reached) + "\n";
    TextTable table({{"operators"},
                     {"fitted", true},
                     {"held out", true},
                     {"median error", true},
                     {"95th percentile", true},
                     {"overhead", true},
                     {"exponent", true}});
    for (const CalibrationResidual& residual : calibration.residuals) {
      const ClassEfficiency& efficiency = device.efficiency_of(residual.op_class);
      const auto percent = [&](double value) {
        return residual.held_out > 0 ? fmt::format("{:.1f} %", 100 * value) : "-";
      };
      table.add_row({std::string(name_of(residual.op_class)), std::to_string(residual.fitted),
                     std::to_string(residual.held_out), percent(residual.median),
                     percent(residual.percentile_95), format_seconds(efficiency.overhead_s),
                     fmt::format("{:.2f}", efficiency.smooth_max)});
    }
    text += table.text() + "\n";
    text += wrap("", "Errors are |estimate / measured - 1| of operators that the fit did not see.");
    if (!file_.empty()) {
      text += fmt::format(
          "Use it: tcast simulate CONFIG --device {}\n",
          file_.find('/') == std::string::npos && !is_yaml(file_) ? "./" + file_ : file_);
    }
    return text;
  }

  static bool is_yaml(const std::string& file) {
    return file.ends_with(".yaml") || file.ends_with(".yml");
  }

  static std::string json_of(const Calibration& calibration, const std::vector<TimedPoint>& timed,
                             const TimingConditions& conditions) {
    const DeviceProfile& device = calibration.device;
    const RooflineModel model(device);
    nlohmann::ordered_json json;
    json["schema"] = 1;
    json["device"] = {{"name", device.name},
                      {"description", device.description},
                      {"memory_bytes_per_s", device.memory_bandwidth_bytes_per_s},
                      {"cache_bytes_per_s", device.cache_bandwidth_bytes_per_s},
                      {"matrix_flops_per_s", nlohmann::ordered_json::object()}};
    for (int i = 0; i < dtype_count; ++i) {
      const auto dtype = static_cast<DType>(i);
      if (device.matrix[dtype] <= 0) continue;
      json["device"]["matrix_flops_per_s"][std::string(short_name_of(dtype))] =
          device.matrix[dtype];
    }
    json["timing"] = {{"took_s", conditions.took_s},
                      {"canary_drift", conditions.canary_drift},
                      {"others_cpu_share", conditions.others_cpu_share}};
    json["residuals"] = nlohmann::ordered_json::array();
    for (const CalibrationResidual& residual : calibration.residuals) {
      nlohmann::ordered_json& row = json["residuals"].emplace_back();
      row = {{"class", name_of(residual.op_class)},
             {"fitted", residual.fitted},
             {"held_out", residual.held_out}};
      if (residual.held_out == 0) continue;
      row["median_error"] = residual.median;
      row["percentile_95_error"] = residual.percentile_95;
    }
    json["ops"] = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < timed.size(); ++i) {
      const CalibrationPoint& point = timed[i].point;
      json["ops"].push_back({{"name", name_of(point.record)},
                             {"class", name_of(class_of(point.record))},
                             {"sizes", describe(point.record)},
                             {"held_out", static_cast<bool>(calibration.held_out[i])},
                             {"measured_s", point.seconds},
                             {"estimated_s", model.estimate(point.record).total_s},
                             {"spread_of_rounds", timed[i].spread},
                             {"timed_share", timed[i].last.share},
                             {"kernel", timed[i].last.implementation}});
    }
    return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }

  std::string name_;
  std::string file_;
  std::int64_t threads_ = 0;
  double time_budget_s_ = 0;  // 0: the default
  bool thorough_ = false;
  bool json_ = false;
};

}  // namespace

constinit const CommandInfo calibrate_command = {
    "calibrate", "measures this host and writes it as a device profile",
    make_command<CalibrateCommand>};

}  // namespace tcast
