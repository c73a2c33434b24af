#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tcast/graph/op.h"

namespace tcast {

/// What short probes between the samples say of the machine at that time. 0: not probed, or of no
/// influence on what was timed.
struct Pace {
  double read_bytes_per_s = 0;  ///< all threads reading memory
  double f32_flops_per_s = 0;   ///< a small product through oneDNN
  double bf16_flops_per_s = 0;
};

/// How many times slower a machine of pace `now` is than one of pace `best`, by the probe that lost
/// most; at least 1. A probe that one of them lacks says nothing.
double slowdown(const Pace& now, const Pace& best);

/// The faster of both, probe by probe.
Pace faster(const Pace& a, const Pace& b);

/// The pace that a machine usually reaches: the upper quartile of each probe. Nothing of probes
/// that were taken less than three times: one moment is no habit.
Pace usual_pace(std::span<const Pace> paces);

/// What timing an operator on this host gave.
struct Measurement {
  /// Why there is no time; empty when there is one.
  std::string unsupported;
  double seconds = 0;  ///< mean of the samples, without outliers, of the operator in full
  double spread = 0;   ///< interquartile range of the samples, as a part of the median
  int samples = 0;
  int threads = 0;
  std::string implementation;
  std::string onednn_version;
  /// The operator was timed at two smaller sizes, the larger one `share` of its work, to keep
  /// within time or memory, and the line through them continued. `error`: how far that is from
  /// growing in proportion, as a part of the time.
  bool scaled = false;
  double share = 1;
  double error = 0;
  double budget_s = 0;  ///< of the session that it was taken in
  /// dtypes that this host lacks and what stood in for them ("f8_e4m3 -> bf16"); empty if none.
  std::string substituted;
  /// Sizes that were timed in place of the operator's, which stands between them; empty if none.
  std::string between;

  /// Of the time of the samples, in which threads of this process waited for processors that others
  /// had: an upper bound.
  double stalled_share = 0;
  Pace pace;  ///< meanwhile
  /// What the rates of operators like this one make of it, where that is far off and the time could
  /// not be confirmed; 0: it fits.
  double expected_s = 0;

  bool supported() const { return unsupported.empty(); }
};

/// Why a time may be that of a disturbed machine rather than of the operator, in words to follow
/// "the machine was disturbed: "; empty: nothing speaks against it. `best` is the best pace that is
/// known of the machine: what was slow at its time shows when the machine is faster later.
std::string disturbance(const Measurement& measurement, const Pace& best);

/// Between what an operator takes on this machine when nothing disturbs it, and what it took.
struct TimeRange {
  double low_s = 0;
  double high_s = 0;
};

/// The range of a measurement. Upwards the upper quartile of its samples, downwards the lower one,
/// and whatever stalls and a slow pace may have added; never less than the 5 % by which timings on
/// a quiet machine differ from session to session, and as much as an extrapolation may be off.
TimeRange range_of(const Measurement& measurement, const Pace& best);

/// An operator's time, and what its work lets expect of it by the speeds of the machine alone.
struct TimedOp {
  const OpRecord* record = nullptr;
  double seconds = 0;
  double rough_s = 0;
};

/// Times that do not fit to each other. For each operator: 0, or what others make of it: an
/// operator of the same kind that is at least as large in every dimension and yet takes less than
/// half, or the rate that is usual among operators of its kind and of about its size, when it is
/// off by more than a factor of three.
std::vector<double> expected_by_others(std::span<const TimedOp> ops);

}  // namespace tcast
