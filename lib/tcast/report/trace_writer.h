#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tcast/base/export.h"

namespace tcast {

/// One bar of a timeline: a call of an operator, or anything that begins and takes time.
struct TraceEvent {
  std::string name{};
  std::string category{};
  double start_s = 0;     ///< since the start of its process
  double duration_s = 0;  ///< not negative
  std::string process{};  ///< "prefill", "decode": drawn apart from each other
  std::string thread{};   ///< a line inside the process: "rank 0", "network"
  std::vector<std::pair<std::string, std::string>> texts{};  ///< shown with the event
  std::vector<std::pair<std::string, double>> numbers{};     ///< units in the names
};

/// Events in the Trace Event Format (JSON) that Perfetto and chrome://tracing open, an event on a
/// line. Processes and threads are numbered in the order in which they first occur, events are
/// sorted by start within each thread. Times are microseconds, precise to a millionth of one; an
/// event that takes time never has the duration 0, and events that follow each other without a gap
/// do not overlap. Throws Error for times beyond 4 * 10^6 s, InternalError for times that are
/// negative or not numbers.
TCAST_API std::string write_trace(std::span<const TraceEvent> events);

}  // namespace tcast
