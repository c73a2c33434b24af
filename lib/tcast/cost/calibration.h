#pragma once

#include <span>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/device/device_profile.h"
#include "tcast/graph/op.h"

// From timed operators to a device profile whose roofline (cost/roofline.h) gives their times.
// Nothing here looks at a clock or at the machine: who times the operators says what they took.

namespace tcast {

/// Which operators are worth timing on a device.
struct CalibrationRange {
  bool bf16 = true;       ///< the device has bf16 arithmetic; else f32 and int8 only
  bool thorough = false;  ///< about twice as many
};

/// Operators to time: products of few to many rows in every dtype, attention of prompts and of
/// single tokens, and all the small operators around them, over the sizes that models have.
TCAST_API std::vector<OpRecord> calibration_ops(const CalibrationRange& range);

/// An operator and what it took.
struct CalibrationPoint {
  OpRecord record{};
  double seconds = 0;
};

/// How well a fit does on operators of one class that it has not seen.
struct CalibrationResidual {
  OpClass op_class = OpClass::custom;
  int fitted = 0;
  int held_out = 0;
  double median = 0;         ///< of |estimate / measured - 1| over those held out
  double percentile_95 = 0;  ///< of the same
};

struct Calibration {
  DeviceProfile device{};
  /// One for each class that has points, in the order of OpClass.
  std::vector<CalibrationResidual> residuals{};
  std::vector<bool> held_out{};  ///< for each point: judges the fit, took no part in it
};

/// What a fit needs to know besides the points.
struct CalibrationFrame {
  /// Name, description, sizes of memory and cache, and lower bounds of its bandwidth and of the f32
  /// peaks; the fit replaces peaks, bandwidths and efficiencies.
  DeviceProfile device{};
  /// What executing any operator takes beyond its kernel; becomes part of every overhead_s.
  double overhead_s = 0;
  /// Where the points come from, for the sources of the profile's numbers.
  std::string source{};
};

/// Fits, per class of operators, the efficiencies (of products per dtype), the overhead and the
/// exponent of the roofline to the points, three of four of each class and dtype; the others judge.
/// Errors are relative, and outliers count little. Peaks are what
/// products of many rows tend to; no efficiency exceeds 1. Classes without points get assumed
/// figures. Throws Error when there is no product in f32 among the points or when a time is not
/// above 0.
TCAST_API Calibration calibrate(const CalibrationFrame& frame,
                                std::span<const CalibrationPoint> points);

}  // namespace tcast
