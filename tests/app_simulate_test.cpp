// What simulate knows of a report before it runs anything.
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "command_runs.h"

namespace {

TEST_CASE("assertions may name what a report of this command line has, and nothing else") {
  struct Row {
    std::vector<std::string> options;
    std::string field;
    bool known;
  };
  const std::vector<std::string> device = {"--device", "h200"};
  const std::vector<std::string> ideal = {"--device", "h200", "--ideal"};
  const std::vector<std::string> pass = {"--device", "h200", "--phase", "decode"};
  const std::vector<std::string> ideal_pass = {"--device", "h200", "--phase", "decode", "--ideal"};
  const std::vector<std::string> host = {};
  const std::vector<Row> rows = {
      {device, "ttft_s", true},
      {device, "throughput.output_tokens_per_s", true},
      {device, "experts.expected_distinct_decode", true},
      {device, "ideal.ttft_s", false},
      {device, "range.ttft_low_s", false},
      {device, "timing.took_s", false},
      {ideal, "ideal.ttft_s", true},
      {ideal, "ideal.output_tokens_per_s", false},  // a bound is that of a time
      {pass, "ttft_s", true},                       // which this run does not find
      {pass, "decode_step_s", true},
      {pass, "ideal.decode_step_s", false},
      {ideal_pass, "ideal.decode_step_s", true},
      {host, "range.ttft_low_s", true},
      {host, "range.decode_step_high_s", true},
      {host, "range.output_tokens_per_s_low_s", false},
      {host, "timing.took_s", true},
      {host, "ideal.ttft_s", false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.field);
    std::vector<std::string> words = {
        "simulate", std::string(TCAST_SOURCE_DIR) + "/tests/golden/models/mixtral.json"};
    words.insert(words.end(), row.options.begin(), row.options.end());
    // The second one ends the run before anything is timed.
    for (const std::string& text : {row.field + "<1", std::string("no_such_field<1")}) {
      words.insert(words.end(), {"--assert", text});
    }
    const Run found = run(words);
    CHECK(found.status == 2);
    const std::string unknown = row.known ? "no_such_field" : row.field;
    CHECK(contains(found.err, "the report has no number '" + unknown + "'"));
  }
}

}  // namespace
