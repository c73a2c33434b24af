#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/exec/timing/host.h"
#include "tcast/exec/timing/timer.h"

namespace tcast {

/// Where measurements of this host are kept.
struct StoreInputs {
  std::string file;          ///< that the user named; empty: default_file
  bool enabled = true;       ///< else everything is timed anew, and forgotten
  std::string default_file;  ///< in the user's cache directory; empty when there is none
};

/// Shows how far a session of timings is.
class TimingProgress {
 public:
  TimingProgress() = default;
  TimingProgress(const TimingProgress&) = delete;
  TimingProgress& operator=(const TimingProgress&) = delete;
  virtual ~TimingProgress() = default;

  /// `done` of `total` are behind us, `what` comes now, and about `left_s` are to go.
  virtual void show(std::size_t done, std::size_t total, std::string_view what, double left_s) = 0;
  /// A text instead, such as what is waited for.
  virtual void show(std::string_view text) = 0;
};

struct HostTimingOptions {
  TimerOptions timer;
  StoreInputs store{.file = {}, .enabled = false, .default_file = {}};
  /// What of the environment decides where threads run: times under other settings are others'.
  std::string thread_settings{};
  /// Makes what shows the progress of a session, which is gone when the session ends; empty:
  /// nobody.
  std::function<std::unique_ptr<TimingProgress>()> progress{};
  /// Asked before kept times that were disturbed are taken again.
  std::function<bool(const Pace& best, int threads)> quiet = is_quiet;
};

/// What is known of ops on this host, timed now or kept from earlier.
struct HostTimings {
  HostFeatures host;
  int threads = 0;
  HostSpeed speed;
  double op_overhead_s = 0;  ///< the executor's own, for each op: measure_executor_overhead_s()
  std::vector<Measurement> measurements;  ///< of the records, in their order
  std::size_t timed = 0;                  ///< distinct ops with a time
  std::size_t kept = 0;                   ///< of them, how many came from the store
  /// Of this session of timings; nothing when all came from the store.
  std::optional<TimingConditions> conditions;
  /// The best pace that is known of this host: what the measurements are judged by.
  Pace best_pace;
  std::int64_t memory_used_bytes = 0;
  std::string store_file;             ///< empty: none
  std::vector<std::string> warnings;  ///< of the store
};

/// Looks the records up in the store and times those that it does not have, one process at a time;
/// what is timed is kept at once. A kept time that says of itself that the machine was disturbed is
/// taken again as soon as the machine is quiet, and stands until then. A record that stands between
/// two that can be timed (see timed_in_place_of) gets its time from theirs. A default store that
/// cannot be used is a warning; one that the user named throws Error. Throws Interrupted after
/// Ctrl-C, with what was timed so far kept.
HostTimings time_on_host(const std::vector<OpRecord>& records, const HostTimingOptions& options);

}  // namespace tcast
