#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/report/trace_writer.h"

namespace tcast {
namespace {

using Json = nlohmann::ordered_json;

TEST_CASE("trace: the whole text") {
  const std::vector<TraceEvent> events = {
      {.name = "matmul",
       .category = "compute",
       .start_s = 0,
       .duration_s = 1.5e-3,
       .process = "prefill",
       .thread = "rank 0",
       .texts = {{"module", "lm_head"}},
       .numbers = {{"flops", 2e9}}},
      {.name = "gather",
       .start_s = 0,
       .duration_s = 2.5e-7,
       .process = "decode",
       .thread = "rank 0"},
      {.name = "all_reduce",
       .category = "network",
       .start_s = 1.5e-3,
       .duration_s = 1e-5,
       .process = "prefill",
       .thread = "network"},
  };
  CHECK(write_trace(events) ==
        R"({"displayTimeUnit":"ns","traceEvents":[
{"ph":"M","pid":1,"tid":0,"name":"process_name","args":{"name":"prefill"}},
{"ph":"M","pid":1,"tid":0,"name":"process_sort_index","args":{"sort_index":1}},
{"ph":"M","pid":1,"tid":1,"name":"thread_name","args":{"name":"rank 0"}},
{"ph":"M","pid":2,"tid":0,"name":"process_name","args":{"name":"decode"}},
{"ph":"M","pid":2,"tid":0,"name":"process_sort_index","args":{"sort_index":2}},
{"ph":"M","pid":2,"tid":1,"name":"thread_name","args":{"name":"rank 0"}},
{"ph":"M","pid":1,"tid":2,"name":"thread_name","args":{"name":"network"}},
{"ph":"X","pid":1,"tid":1,"ts":0,"dur":1500,"name":"matmul","cat":"compute","args":{"module":"lm_head","flops":2000000000}},
{"ph":"X","pid":1,"tid":2,"ts":1500,"dur":10,"name":"all_reduce","cat":"network"},
{"ph":"X","pid":2,"tid":1,"ts":0,"dur":0.25,"name":"gather","cat":""}
]}
)");
  CHECK(write_trace({}) == "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n]}\n");
}

TEST_CASE("trace: valid, in order, without overlaps") {
  std::vector<TraceEvent> events;
  double now = 0;
  for (int i = 0; i < 6000; ++i) {
    const double duration = 1e-13 * std::pow(10, i % 12) * (1 + i % 7);
    events.push_back({.name = "op" + std::to_string(i),
                      .start_s = now,
                      .duration_s = duration,
                      .process = i % 2 == 0 ? "prefill" : "decode",
                      .thread = std::to_string(i % 3)});
    now += duration;
  }
  std::swap(events[10], events[4000]);  // any order will do
  const Json json = Json::parse(write_trace(events));
  std::map<std::pair<int, int>, double> end_us;
  std::size_t count = 0;
  for (const Json& event : json["traceEvents"]) {
    if (event["ph"] != "X") continue;
    ++count;
    const double start_us = event["ts"];
    const double duration_us = event["dur"];
    CHECK(duration_us > 0);
    double& end = end_us[{event["pid"], event["tid"]}];
    // Of events shorter than a picosecond each takes one.
    if (start_us < end - 1e-5) FAIL_CHECK(event.dump(), " starts before ", end);
    end = start_us + duration_us;
  }
  CHECK(count == events.size());
  CHECK(end_us.size() == 6);
}

TEST_CASE("trace: neighbours touch") {
  const double first = 1.0 / 3;
  const double second = 1.0 / 7;
  const Json json = Json::parse(
      write_trace(std::vector<TraceEvent>{{.duration_s = first},
                                          {.start_s = first, .duration_s = second},
                                          {.start_s = first + second, .duration_s = 1e-15},
                                          {.start_s = 1e6, .duration_s = 1e6},
                                          {.start_s = 2}}));
  const Json& events = json["traceEvents"];
  CHECK(events[3]["ts"] == 0);
  CHECK(events[3]["dur"] == 333333.333333);
  CHECK(events[4]["ts"] == 333333.333333);
  CHECK(events[5]["dur"] == 1e-6);
  CHECK(events[6]["dur"] == 0);
  CHECK(events[7]["ts"] == 1e12);
}

TEST_CASE("trace: hostile texts") {
  const std::string texts[] = {
      "",     "\"},{\"ph\":\"X\"",  "\x1b[31m\n", "\xff\xfe",
      "\\\\", std::string(1, '\0'), "</script>",  std::string(100'000, 'x')};
  for (const std::string& text : texts) {
    const std::string written = write_trace(std::vector<TraceEvent>{{.name = text,
                                                                     .category = text,
                                                                     .duration_s = 1,
                                                                     .process = text,
                                                                     .thread = text,
                                                                     .texts = {{text, text}},
                                                                     .numbers = {{"n", 1}}}});
    const Json json = Json::parse(written);
    CHECK(json["traceEvents"].size() == 4);
    CHECK(json["traceEvents"][3]["args"].size() == 2);
  }
}

TEST_CASE("trace: impossible times are a bug of ours") {
  const double bad[] = {-1e-9, std::numeric_limits<double>::quiet_NaN(),
                        -std::numeric_limits<double>::infinity()};
  for (const double value : bad) {
    CAPTURE(value);
    CHECK_THROWS_AS(write_trace(std::vector<TraceEvent>{{.start_s = value}}), InternalError);
    CHECK_THROWS_AS(write_trace(std::vector<TraceEvent>{{.duration_s = value}}), InternalError);
  }
  CHECK_THROWS_AS(write_trace(std::vector<TraceEvent>{
                      {.numbers = {{"n", std::numeric_limits<double>::quiet_NaN()}}}}),
                  InternalError);
}

TEST_CASE("trace: times beyond the format") {
  for (const double value : {1e7, 1e300, std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_AS(write_trace(std::vector<TraceEvent>{{.start_s = value}}), Error);
    CHECK_THROWS_AS(write_trace(std::vector<TraceEvent>{{.duration_s = value}}), Error);
  }
  CHECK_THROWS_WITH_AS(write_trace(std::vector<TraceEvent>{{.start_s = 2, .duration_s = 1e7}}),
                       "the trace has an event at 2 s for 1e+07 s, its times end at 4e+06 s",
                       Error);
}

}  // namespace
}  // namespace tcast
