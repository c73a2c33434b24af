#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tcast/cost/calibration.h"
#include "tcast/study/host_timing.h"

namespace tcast {

struct HostCalibrationOptions {
  static constexpr double default_budget_s = 10;
  static constexpr double thorough_budget_s = 60;

  std::string name{};        ///< of the device; empty: that of the CPU
  int threads = 0;           ///< 0: all that this process may use
  double time_budget_s = 0;  ///< 0: one of the above
  bool thorough = false;     ///< time about twice as many operators
  std::function<std::unique_ptr<TimingProgress>()> progress{};  ///< as in HostTimingOptions
};

/// An operator, the mean of its times in the middle rounds, and how much they differ.
struct TimedPoint {
  CalibrationPoint point;
  double spread = 0;  ///< largest time of a round / least - 1
  Measurement last;
};

struct HostCalibration {
  Calibration calibration;
  std::vector<TimedPoint> timed;
  TimingConditions conditions;  ///< of all rounds: their time together, the worst of the rest
  int rounds = 0;
  std::string source;  ///< date, CPU, instruction set, threads, versions
};

/// Times the operators of calibration_ops() on this host, again and again, and fits a device
/// profile to what they took.
class HostCalibrator {
 public:
  explicit HostCalibrator(const HostCalibrationOptions& options);

  /// Times every operator once more, in `time_budget_s` / rounds().
  void time_round();
  /// How many rounds the budget is for.
  int rounds() const { return rounds_; }
  /// Of the rounds so far, of which there is one at least.
  HostCalibration fit() const;

 private:
  HostCalibrationOptions options_;
  int rounds_ = 1;
  double round_budget_s_ = 0;
  std::vector<OpRecord> ops_;
  std::vector<HostTimings> measured_;
};

}  // namespace tcast
