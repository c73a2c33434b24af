#include "tcast/report/trace_writer.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <numeric>
#include <string_view>
#include <tuple>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/report/json_text.h"

namespace tcast {
namespace {

/// Times are whole picoseconds, so that the end of one event and the start of the next, which are
/// the same double, are also the same number in the file.
std::int64_t picoseconds(double seconds) { return std::llround(seconds * 1e12); }

/// Picoseconds as microseconds: "12.000345", "3".
void append_microseconds(std::string& out, std::int64_t picoseconds) {
  constexpr std::int64_t per_microsecond = 1'000'000;
  fmt::format_to(std::back_inserter(out), "{}", picoseconds / per_microsecond);
  const std::int64_t fraction = picoseconds % per_microsecond;
  if (fraction == 0) return;
  fmt::format_to(std::back_inserter(out), ".{:06}", fraction);
  out.erase(out.find_last_not_of('0') + 1);
}

struct Track {
  std::int64_t process = 0;
  std::int64_t thread = 0;
};

/// Numbers for the names of processes and their threads.
class Tracks {
 public:
  /// Writes the names of a track that is new.
  Track number(const TraceEvent& event, std::string& out) {
    const auto [process, new_process] =
        processes_.try_emplace(event.process, Process{std::ssize(processes_) + 1, {}});
    Track track{process->second.number, 0};
    if (new_process) {
      append_metadata(out, track, "process_name", event.process);
      // The viewers sort by number only when told to.
      append_line_start(out, track, "process_sort_index");
      fmt::format_to(std::back_inserter(out), ",\"args\":{{\"sort_index\":{}}}}},\n",
                     track.process);
    }
    std::map<std::string, std::int64_t, std::less<>>& threads = process->second.threads;
    const auto [thread, new_thread] = threads.try_emplace(event.thread, std::ssize(threads) + 1);
    track.thread = thread->second;
    if (new_thread) append_metadata(out, track, "thread_name", event.thread);
    return track;
  }

 private:
  struct Process {
    std::int64_t number = 0;
    std::map<std::string, std::int64_t, std::less<>> threads{};
  };

  static void append_line_start(std::string& out, Track track, std::string_view kind) {
    fmt::format_to(std::back_inserter(out), R"({{"ph":"M","pid":{},"tid":{},"name":"{}")",
                   track.process, track.thread, kind);
  }

  static void append_metadata(std::string& out, Track track, std::string_view kind,
                              std::string_view name) {
    append_line_start(out, track, kind);
    out += ",\"args\":{\"name\":";
    append_json_string(out, name);
    out += "}},\n";
  }

  std::map<std::string, Process, std::less<>> processes_;
};

void append_event(std::string& out, const TraceEvent& event, Track track) {
  const std::int64_t start = picoseconds(event.start_s);
  std::int64_t duration = picoseconds(event.start_s + event.duration_s) - start;
  if (duration == 0 && event.duration_s > 0) duration = 1;
  fmt::format_to(std::back_inserter(out), R"({{"ph":"X","pid":{},"tid":{},"ts":)", track.process,
                 track.thread);
  append_microseconds(out, start);
  out += ",\"dur\":";
  append_microseconds(out, duration);
  out += ",\"name\":";
  append_json_string(out, event.name);
  out += ",\"cat\":";
  append_json_string(out, event.category);
  if (!event.texts.empty() || !event.numbers.empty()) {
    out += ",\"args\":";
    JsonObjectWriter args(out);
    for (const auto& [name, text] : event.texts) args.text(name, text);
    for (const auto& [name, number] : event.numbers) args.number(name, number);
    args.close();
  }
  out += "},\n";
}

}  // namespace

std::string write_trace(std::span<const TraceEvent> events) {
  constexpr double max_s = 4e6;  // picoseconds of twice that fit into int64
  for (const TraceEvent& event : events) {
    TCAST_CHECK(event.start_s >= 0 && event.duration_s >= 0,
                fmt::format("trace event at {} s for {} s", event.start_s, event.duration_s));
    if (event.start_s > max_s || event.duration_s > max_s) {
      throw Error(fmt::format("the trace has an event at {:.3g} s for {:.3g} s, its times end at "
                              "{:.0e} s",
                              event.start_s, event.duration_s, max_s),
                  "leave --trace out, or ask for fewer tokens");
    }
  }
  std::string out = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
  Tracks tracks;
  std::vector<Track> track_of;
  for (const TraceEvent& event : events) track_of.push_back(tracks.number(event, out));

  std::vector<std::size_t> order(events.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto key = [&](std::size_t i) {
      return std::tuple(track_of[i].process, track_of[i].thread, events[i].start_s);
    };
    return key(a) < key(b);
  });
  for (const std::size_t i : order) append_event(out, events[i], track_of[i]);
  // Each line ends in a comma but the last.
  if (!events.empty()) out.erase(out.size() - 2, 1);
  return out + "]}\n";
}

}  // namespace tcast
