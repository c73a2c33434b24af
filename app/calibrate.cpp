#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/cost/calibration.h"
#include "tcast/cost/roofline.h"
#include "tcast/report/json_text.h"
#include "tcast/report/report.h"
#include "tcast/report/text_table.h"
#include "tcast/study/host_calibration.h"
#include "tcast/study/simulation.h"

#include "app/command.h"
#include "app/options.h"
#include "app/output.h"
#include "app/progress.h"

namespace tcast {
namespace {

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
                    HostCalibrationOptions::default_budget_s,
                    HostCalibrationOptions::thorough_budget_s));
    line.add_flag("--thorough", thorough_, "time about twice as many operators");
    line.begin_group("Output");
    line.add_output("-o,--output", file_,
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
    HostCalibrationOptions options;
    options.name = name_;
    options.threads = static_cast<int>(threads_);
    options.thorough = thorough_;
    options.time_budget_s = time_budget_s_;
    options.progress = progress_on(streams.progress);
    HostCalibrator calibrator(options);
    for (int round = 0; round < calibrator.rounds(); ++round) calibrator.time_round();
    const HostCalibration host = calibrator.fit();
    warn(host.timed, host.conditions, streams.err);
    warn_of_fit(host.calibration, streams.err);
    const std::string yaml =
        "# Written by tcast calibrate: " + host.source + "\n" + to_yaml(host.calibration.device);
    const std::string errors = json_ ? json_of(host) : table_of(host);
    write_data(file_, yaml, streams);
    if (json_) {
      (file_.is_given() ? streams.data : streams.err) << errors;
    } else {
      (file_.is_given() ? streams.out : streams.err) << errors;
    }
    return 0;
  }

 private:
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
      say(err, "warning", warning);
    }
  }

  /// A profile that cannot be trusted says so when it is made.
  static void warn_of_fit(const Calibration& calibration, std::ostream& err) {
    constexpr double much = 0.3;
    for (const CalibrationResidual& residual : calibration.residuals) {
      const bool product =
          residual.op_class == OpClass::matmul || residual.op_class == OpClass::matvec;
      if (!product || residual.held_out == 0 || residual.median <= much) continue;
      say(err, "warning",
          fmt::format("the profile misses the {} operators that it was not fitted to by {:.0f} % "
                      "(median); repeat on a quiet machine or with a larger --time-budget",
                      name_of(residual.op_class), 100 * residual.median));
    }
  }

  std::string table_of(const HostCalibration& host) const {
    const Calibration& calibration = host.calibration;
    const DeviceProfile& device = calibration.device;
    std::string text = wrap("tcast calibrate: ", host.source);
    text += fmt::format("  {} operators timed {} time(s) in {}\n", host.timed.size(), host.rounds,
                        format_seconds(host.conditions.took_s));
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
    if (const std::string& file = file_.path(); !file.empty()) {
      text += fmt::format("Use it: tcast simulate CONFIG --device {}\n",
                          is_device_path(file) ? file : "./" + file);
    }
    return text;
  }

  static std::string json_of(const HostCalibration& host) {
    const auto& [calibration, timed, conditions, rounds, source] = host;
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
    return json_document(json, 2);
  }

  std::string name_;
  OutputFile file_;
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
