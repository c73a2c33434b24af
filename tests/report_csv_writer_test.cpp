#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/report/csv_writer.h"

#include "report_samples.h"

namespace tcast {
namespace {

/// Reads RFC 4180 back.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> row = {""};
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '"' && i + 1 < text.size() && text[i + 1] == '"') {
        row.back() += c;
        ++i;
      } else if (c == '"') {
        quoted = false;
      } else {
        row.back() += c;
      }
    } else if (c == '"') {
      REQUIRE(row.back().empty());
      quoted = true;
    } else if (c == ',') {
      row.emplace_back();
    } else if (c == '\r') {
      REQUIRE(text[i + 1] == '\n');
      ++i;
      rows.push_back(row);
      row = {""};
    } else {
      row.back() += c;
    }
  }
  REQUIRE_FALSE(quoted);
  REQUIRE(row == std::vector<std::string>{""});
  return rows;
}

TEST_CASE("csv: the whole text") {
  Report report = sample_report();
  report.ops = {report.ops[2], report.ops[3]};
  report.ops[1].spread = 0.125;
  CHECK(write_csv(report) ==
        "config,phase,name,module,calls,total_s,flops,bytes,bound,source,ideal_s,scaled,spread\r\n"
        "configs/models/tiny.json,prefill,matmul,model.layers.*.self_attn.q_proj,32,0.005,"
        "1000000000000,1000000000,compute,calibrated,,false,\r\n"
        "configs/models/tiny.json,prefill,attention,model.layers.*.self_attn,32,0.0015,"
        "10000000000,100000000,memory,measured,,true,0.125\r\n");
  report.with_ideal = true;
  report.ops.pop_back();
  CHECK(write_csv(report, false) ==
        "configs/models/tiny.json,prefill,matmul,model.layers.*.self_attn.q_proj,32,0.005,"
        "1000000000000,1000000000,compute,calibrated,0,false,\r\n");
}

TEST_CASE("csv: no operators") {
  CHECK(write_csv(Report{}).find("\r\n") == write_csv(Report{}).size() - 2);
  CHECK(write_csv(Report{}, false).empty());
}

// R15: a text that a spreadsheet would calculate is none any more; numbers stay numbers.
TEST_CASE("csv: no field is a formula") {
  struct Row {
    std::string text;
    std::string field;
  };
  const std::vector<Row> rows = {
      {"=1+1.json", "\"'=1+1.json\""},
      {"+1", "\"'+1\""},
      {"-1", "\"'-1\""},
      {"@SUM(A1)", "\"'@SUM(A1)\""},
      {"\t=1", "\"'\t=1\""},
      {"\r=1", "\"'\r=1\""},
      {"\n=1", "\"'\n=1\""},
      {"=\"a\",b", "\"'=\"\"a\"\",b\""},
      {"\xEF\xBC\x9D"
       "1",
       "\"'\xEF\xBC\x9D"
       "1\""},
      {"a=1", "a=1"},
      {"a-b+c@d", "a-b+c@d"},
      {"'=1", "'=1"},
      {"", ""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    Report report = sample_report();
    report.ops = {report.ops[0]};
    report.config_file = row.text;
    report.ops[0].module = row.text;
    report.ops[0].total_s = 1e-12;
    report.ops[0].flops = -1;  // whatever a cost model of a plugin says
    const std::string csv = write_csv(report, false);
    CHECK(csv == row.field + ",prefill,gather," + row.field +
                     ",1,1e-12,-1,2048,launch,assumed,,false,\r\n");
  }
}

TEST_CASE("csv: texts come back") {
  struct Row {
    std::string text;
    std::string expected;
  };
  const std::vector<Row> rows = {
      {"", ""},
      {"a,b", "a,b"},
      {"\"", "\""},
      {"a \"quoted\" word", "a \"quoted\" word"},
      {"two\nlines", "two\nlines"},
      {"two\r\nlines", "two\r\nlines"},
      {"\r", "'\r"},  // R15
      {" blanks ", " blanks "},
      {"\xc3\xa9", "\xc3\xa9"},
      {"\xff,", "\\xff,"},
      {std::string("nul\0", 4), std::string("nul\0", 4)},
      {",,,\"\"\"\n", ",,,\"\"\"\n"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    Report report;
    report.config_file = row.text;
    report.ops = {{.phase = row.text,
                   .name = row.text,
                   .module = row.text,
                   .bound = row.text,
                   .source = row.text}};
    const auto parsed = parse_csv(write_csv(report));
    REQUIRE(parsed.size() == 2);
    CHECK(parsed[0].size() == 13);
    const std::string& text = row.expected;
    CHECK(parsed[1] == std::vector<std::string>{text, text, text, text, "0", "0", "0", "0", text,
                                                text, "", "false", ""});
  }
}

TEST_CASE("csv: what is not finite is a bug of ours") {
  Report report = sample_report();
  report.ops[1].flops = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(write_csv(report), InternalError);
}

}  // namespace
}  // namespace tcast
