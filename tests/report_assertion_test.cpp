#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/report/assertion.h"

#include "error_of.h"
#include "report_samples.h"

namespace tcast {
namespace {

TEST_CASE("assertion: comparisons") {
  struct Row {
    std::string assertion;
    bool passed;
    std::string text;
  };
  // Where it failed: device, batch and layout.
  const std::string place =
      " on h200, batch_size 4, input_length 512, output_length 128, num_devices 2, tp 2";
  const std::vector<Row> rows = {
      {"tpot_s<0.02", true, "passed: latency.tpot_s < 0.02 (it is 0.0031)"},
      {"tpot_s<0.0031", false, "failed: latency.tpot_s < 0.0031 (it is 0.0031)" + place},
      {"tpot_s<=0.0031", true, "passed: latency.tpot_s <= 0.0031 (it is 0.0031)"},
      {"latency.tpot_s > 3e-3", true, "passed: latency.tpot_s > 0.003 (it is 0.0031)"},
      {" tpot_s\t>=\t1 ", false, "failed: latency.tpot_s >= 1 (it is 0.0031)" + place},
      {"min_devices==1", true, "passed: memory.min_devices == 1 (it is 1)"},
      {"min_devices!=1", false, "failed: memory.min_devices != 1 (it is 1)" + place},
      {"total_bytes<-5", false, "failed: memory.total_bytes < -5 (it is 9295626240)" + place},
      {"memory.fits==true", true, "passed: memory.fits == true (it is true)"},
      {"fits == 0", false, "failed: memory.fits == false (it is true)" + place},
      {"fits>0.5", true, "passed: memory.fits > 0.5 (it is true)"},
      {"schema==1", true, "passed: schema == 1 (it is 1)"},
      {"inputs.batch_size==4", true, "passed: inputs.batch_size == 4 (it is 4)"},
      {"output_tokens_per_s_per_device>.5", true,
       "passed: throughput.output_tokens_per_s_per_device > 0.5 (it is 630.125)"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.assertion);
    const AssertionResult result = evaluate(parse_assertion(row.assertion), sample_report());
    CHECK(result.passed == row.passed);
    CHECK(result.text == row.text);
  }
  CHECK(evaluate(parse_assertion("ttft_s<1"), sample_report()).actual == 0.0126);
}

TEST_CASE("assertion: a short name is the estimate, not the ideal") {
  Report report = sample_report();
  report.with_ideal = true;
  metric_of(report, "tpot_s").ideal = 0.001;
  CHECK(evaluate(parse_assertion("tpot_s<1"), report).actual == 0.0031);
  CHECK(evaluate(parse_assertion("ideal.tpot_s<1"), report).actual == 0.001);
}

TEST_CASE("assertion: malformed") {
  struct Row {
    std::string assertion;
    std::string message;
  };
  const std::vector<Row> rows = {
      {"", "assertion '', column 1: expected the name of a field, found the end"},
      {"   ", "assertion '   ', column 4: expected the name of a field, found the end"},
      {"<1", "assertion '<1', column 1: expected the name of a field, found '<1'"},
      {"tpot_s", "assertion 'tpot_s', column 7: expected one of < <= > >= == !=, found the end"},
      {"tpot_s 0.02",
       "assertion 'tpot_s 0.02', column 8: expected one of < <= > >= == !=, found '0.02'"},
      {"tpot_s=1", "assertion 'tpot_s=1', column 7: expected one of < <= > >= == !=, found '=1'"},
      {"tpot_s=<1",
       "assertion 'tpot_s=<1', column 7: expected one of < <= > >= == !=, found '=<1'"},
      {"tpot_s<",
       "assertion 'tpot_s<', column 8: expected a plain number, true or false, found the end"},
      {"tpot_s<20ms",
       "assertion 'tpot_s<20ms', column 8: expected a plain number, true or false, found '20ms'"},
      {"tpot_s<<1",
       "assertion 'tpot_s<<1', column 8: expected a plain number, true or false, found '<1'"},
      {"tpot_s<nan",
       "assertion 'tpot_s<nan', column 8: expected a plain number, true or false, found 'nan'"},
      {"tpot_s<inf",
       "assertion 'tpot_s<inf', column 8: expected a plain number, true or false, found 'inf'"},
      {"tpot_s<1e999",
       "assertion 'tpot_s<1e999', column 8: expected a plain number, true or false, found "
       "'1e999'"},
      {"tpot_s<1 ms", "assertion 'tpot_s<1 ms', column 10: expected the end, found 'ms'"},
      {"tpot_s<0,02",
       "assertion 'tpot_s<0,02', column 8: expected a plain number, true or false, found '0,02'"},
      {"tpot_s<1\x1b[31m",
       "assertion 'tpot_s<1\\x1b[31m', column 8: expected a plain number, true or false, found "
       "'1\\x1b[31m'"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.assertion);
    CHECK_THROWS_WITH_AS(parse_assertion(row.assertion), row.message.c_str(), Error);
  }
  try {
    parse_assertion("tpot_s");
  } catch (const Error& error) {
    CHECK(error.hint() == "write it like 'tpot_s<0.02' or 'memory.fits==true'");
  }
}

TEST_CASE("assertion: fields that cannot be compared") {
  struct Row {
    std::string assertion;
    std::string message;
    std::string hint;
  };
  const std::vector<Row> rows = {
      {"tpot<1", "assertion 'tpot<1': the report has no number 'tpot'", "did you mean 'tpot_s'?"},
      {"latency.tpott_s<1",
       "assertion 'latency.tpott_s<1': the report has no number "
       "'latency.tpott_s'",
       "did you mean 'latency.tpot_s'?"},
      {"colour<1", "assertion 'colour<1': the report has no number 'colour'",
       "--format json shows the names of all fields"},
      {"device==1", "assertion 'device==1': device is not a number", ""},
      {"model.model_type==1", "assertion 'model.model_type==1': model.model_type is not a number",
       ""},
      {"ops<1", "assertion 'ops<1': the report has no number 'ops'",
       "--format json shows the names of all fields"},
      {"ideal.tpot_s<1", "assertion 'ideal.tpot_s<1': the report has no number 'ideal.tpot_s'",
       "--ideal adds these fields to a report"},
      {"inputs.dtype==1", "assertion 'inputs.dtype==1': inputs.dtype is unknown in this run", ""},
      {"weights_bytes<1", "assertion 'weights_bytes<1': 'weights_bytes' is the name of 2 fields",
       "write one of inputs.weights_bytes, memory.weights_bytes"},
  };
  Report report = sample_report();
  report.inputs.push_back({"weights_bytes", "1"});
  for (const Row& row : rows) {
    CAPTURE(row.assertion);
    const Assertion assertion = parse_assertion(row.assertion);
    CHECK_THROWS_WITH_AS(evaluate(assertion, report), row.message.c_str(), Error);
    try {
      evaluate(assertion, report);
    } catch (const Error& error) {
      CHECK(error.hint() == row.hint);
    }
  }
}

TEST_CASE("assertion: a name that no report has is known before the run") {
  struct Row {
    std::string assertion;
    std::string error;
  };
  const std::vector<Row> rows = {
      {"tpot_s<1", ""},
      {"latency.tpot_s<1", ""},
      {"fits==1", ""},
      {"tp==4", ""},
      {"tpot<1", "assertion 'tpot<1': the report has no number 'tpot' | did you mean 'tpot_s'?"},
      {"batchsize<1",
       "assertion 'batchsize<1': the report has no number 'batchsize' | did you mean "
       "'batch_size'?"},
      {"device==1", "assertion 'device==1': device is not a number"},
      {"ideal.tpot_s<1",
       "assertion 'ideal.tpot_s<1': the report has no number 'ideal.tpot_s' | --ideal adds these "
       "fields to a report"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.assertion);
    CHECK(error_of([&] { require_field(parse_assertion(row.assertion), sample_report()); }) ==
          row.error);
  }
  // What this run does not find is a field all the same.
  CHECK(error_of([] {
          require_field(parse_assertion("tpot_s<1"), single_pass_report("prefill"));
        }) == "");
}

TEST_CASE("assertion: the absent phase has no numbers") {
  const Assertion assertion = parse_assertion("tpot_s<1");
  const Report report = single_pass_report("prefill");
  CHECK_THROWS_WITH_AS(evaluate(assertion, report),
                       "assertion 'tpot_s<1': latency.tpot_s is unknown in this run", Error);
  try {
    evaluate(assertion, report);
  } catch (const Error& error) {
    CHECK(error.hint() == "a run with --phase has numbers of that phase only");
  }
  CHECK(evaluate(parse_assertion("prefill_s<1"), report).passed);
}

}  // namespace
}  // namespace tcast
