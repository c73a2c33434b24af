#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/exec/timing/host.h"
#include "tcast/exec/timing/measurement.h"
#include "tcast/graph/op.h"

namespace tcast {

/// How steady the machine was during a session of timings.
struct TimingConditions {
  double took_s = 0;            ///< since the timer was made
  double canary_drift = 0;      ///< between the canaries at begin and end, 0.1 = 10 %
  double others_cpu_share = 0;  ///< of the processors' time, that other processes took; 0: unknown
  Pace best_pace{};  ///< the best that is known: of this session, or TimerOptions::best_pace
};

struct TimerOptions {
  double time_budget_s = 10;  ///< for everything, canaries included
  int threads = 0;            ///< 0: available_threads()
  /// For operands and the memory that keeps them out of the caches; 0: a quarter of what is
  /// available, at most 2 GiB.
  std::int64_t memory_limit_bytes = 0;
  /// Called between samples, if set; may throw to end the session.
  std::function<void()> poll{};
  /// The best pace that is known of this machine from earlier sessions.
  Pace best_pace{};
};

/// What a session of timings tells while it runs. Either may be empty.
struct TimerObserver {
  /// Before an operator is timed: how many are done, of how many, which comes now, and how long
  /// the rest may take. May throw to end the session.
  std::function<void(std::size_t done, std::size_t total, std::string_view what, double left_s)>
      progress;
  /// After it was timed, and again when it was timed once more or found implausible: index of the
  /// first of the equal records.
  std::function<void(std::size_t index, const Measurement& measurement)> measured;
};

/// What an operator is known by: two records with equal names cost the same on the same host.
std::string signature_of(const OpRecord& record);

/// Times operators by running their kernels on this host as a pass over all layers would. Weights
/// and caches come from memory: every run takes others, out of a region larger than the last-level
/// cache holds. Activations were just written, by all threads in turns; results have meanwhile been
/// driven out of the inner caches by other layers' weights.
/// Packing of weights is left out.
class OpTimer {
 public:
  /// Sets the threads of the process (set_threads) and takes the canary.
  explicit OpTimer(const TimerOptions& options = {});
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;
  ~OpTimer();

  /// Times one operator within the whole budget.
  Measurement measure(const OpRecord& record);

  /// Times all of them within the budget, each distinct one (by name and description) once, and
  /// those again, while there is time, whose times are disturbed or do not fit to the others. What
  /// stays so is marked. The results are in the order of the records.
  std::vector<Measurement> measure_all(std::span<const OpRecord> records,
                                       const TimerObserver& observer = {});

  /// Takes the canary again, as long as the first time, and tells what has changed since the timer
  /// was made.
  TimingConditions conditions();

  const HostFeatures& host() const;
  int threads() const;
  const HostSpeed& speed() const;
  std::int64_t memory_limit_bytes() const;
  /// Most memory that was in use at a time so far.
  std::int64_t memory_used_bytes() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// --- parts of the timer that need no clock -------------------------------------------------------

/// An operator whose time counts in that of another, in proportion to `weight`.
struct WeightedOp {
  OpRecord record;
  double weight = 1;
};

/// What is timed in place of an operator. A product of experts that expects a number of distinct
/// experts which is not whole stands between those with the whole numbers below and above it, and
/// its time on the line through theirs; no experts take no time. Less than a thousandth of the
/// experts is not worth a timing of its own. Everything else is timed itself.
std::vector<WeightedOp> timed_in_place_of(const OpRecord& record);

/// An operator made smaller along a dimension in which its time grows evenly.
struct ShrunkOp {
  OpRecord record;
  double share = 1;  ///< of the work that is left; 1 when it cannot be made smaller
};

/// The operator at about `share` of its work (0 < share <= 1), or as near as its dimensions allow.
ShrunkOp shrink(const OpRecord& record, double share);

/// Cuts a budget: what costs less than its equal part keeps what it wants, and the rest is shared
/// by the others in equal parts. The results sum to at most `budget`, or to the wishes if they fit.
std::vector<double> share_budget(std::span<const double> wishes, double budget);

struct SampleSummary {
  double median = 0;
  double spread = 0;  ///< interquartile range / median
  /// Mean without outliers (Tukey: more than 1.5 interquartile ranges outside the quartiles). What
  /// many runs take together: where a machine is now fast and now slow, the median is one of both.
  double mean = 0;
  int samples = 0;
};
/// Of at least one sample.
SampleSummary summarize(std::vector<double> samples);

/// What the clocks of this process show.
struct Moment {
  double time_s = 0;
  double cpu_s = 0;              ///< of all its threads
  std::int64_t preemptions = 0;  ///< how often one of them lost its processor to something else
};

/// Of this process, now.
Moment process_moment();

/// What passed between two moments, while something ran.
struct Sample {
  double seconds = 0;
  double cpu_s = 0;
  std::int64_t preemptions = 0;
};
Sample between(const Moment& begin, const Moment& end);

/// Calls `run` after a warm-up until the median is known well or `limit_s` is spent, at least once
/// and at most `most` times, and returns what each took. `before` is called before each run, and is
/// not part of its time. A warm-up that takes long and more than the limit is itself the only
/// sample.
std::vector<Sample> take_samples(const std::function<void()>& before,
                                 const std::function<void()>& run,
                                 const std::function<Moment()>& clock, double limit_s, int most);

/// Seconds of the samples in which no thread lost its processor, where they are three at least and
/// a quarter of all; else of all samples.
std::vector<double> undisturbed(std::span<const Sample> samples);

/// Of the time of the samples that undisturbed() takes, in which threads waited for processors that
/// others had: at most. A preemption costs no more than 0.1 s; what threads sleep on their own
/// account shows in samples without one, and does not count.
double stalled_share(std::span<const Sample> samples, int threads);

}  // namespace tcast
