#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "app/command_line.h"
#include "app/output.h"
#include "error_of.h"

namespace {

using tcast::CommandLine;
using tcast::Error;
using tcast::Reader;
using tcast::UsageError;

/// A line with one of everything.
struct Sample {
  Sample() {
    line.add_positional({"CONFIG", tcast::FileUse::config}, tcast::to_text(config), "the config");
    line.add_option("--tp", "N", tcast::to_size(tp), "ranks");
    line.add_output("-o,--output", output, "a file");
    line.add_repeated("--skip", "STEP", tcast::append_to(skips), "steps to skip");
    line.add_flag("--diff", diff, "a view");
    line.add_hidden("--pp", [](const std::string&) { throw Error("not yet", "use --tp"); });
  }

  std::string config;
  std::int64_t tp = 1;
  tcast::OutputFile output;
  std::vector<std::string> skips;
  bool diff = false;
  CommandLine line{"tcast sample", "a sample"};
};

TEST_CASE("command line: values, flags and repeated options anywhere") {
  Sample sample;
  CHECK(sample.line.parse(
      {"--tp=4", "--skip", "a", "c.json", "--diff", "--skip=b=c", "-o", "-", "--"}));
  CHECK(sample.config == "c.json");
  CHECK(sample.tp == 4);
  CHECK(sample.output.path() == "-");
  CHECK(sample.skips == std::vector<std::string>{"a", "b=c"});
  CHECK(sample.diff);
  CHECK(sample.line.given("--tp"));
  CHECK(sample.line.given("-o"));
  CHECK_FALSE(sample.line.given("--pp"));
}

TEST_CASE("command line: a value that looks like an option or a list stays whole") {
  Sample sample;
  CHECK(sample.line.parse({"--skip", "[a,b]", "--skip", "-x", "--", "--tp"}));
  CHECK(sample.skips == std::vector<std::string>{"[a,b]", "-x"});
  CHECK(sample.config == "--tp");
  CHECK(sample.tp == 1);
}

TEST_CASE("command line: help wins over everything that is wrong") {
  Sample sample;
  CHECK_FALSE(sample.line.parse({"--tp", "abc", "--unknown", "--help"}));
}

TEST_CASE("command line: what makes no sense") {
  struct Row {
    std::vector<std::string> arguments;
    std::string message;
    std::string hint;
  };
  const std::string help = "see 'tcast sample --help'";
  const Row rows[] = {
      {{}, "CONFIG is missing", "the config; see 'tcast sample --help'"},
      {{"a", "b"}, "unexpected argument 'b'", help},
      {{"a", "--diffs"}, "unknown option '--diffs'", "did you mean '--diff'?"},
      {{"a", "--dif"}, "unknown option '--dif'", "did you mean '--diff'?"},
      {{"a", "--out=x"}, "unknown option '--out'", "did you mean '--output'?"},
      {{"a", "--zzzz", "3"}, "unknown option '--zzzz'", help},
      {{"--zzzz"}, "unknown option '--zzzz'", help},
      {{"a", "-x"}, "unknown option '-x'", help},
      {{"a", "-5"}, "unexpected argument '-5'", help},
      {{"a", "--tp"}, "--tp needs a value", help},
      {{"a", "--tp="}, "--tp= has no value behind it", help},
      {{"a", "--tp", "--diff"}, "--tp needs a value, got the option '--diff'", help},
      {{"a", "--tp", "2", "--tp", "2"}, "--tp is given 2 times", help},
      {{"a", "--diff=no"}, "--diff takes no value", help},
      {{"a", "--help=no"}, "--help takes no value", help},
      {{"a", "--tp", "x"}, "--tp: expected a whole number, got 'x'", help},
      {{"a", "-o", ""}, "--output: expected a value, got an empty one", help},
      {{""}, "CONFIG: expected a value, got an empty one", help},
      {{"a", "--pp", "2"}, "--pp: not yet", "use --tp"},
      {{"a\x1b[2J", "\x1b[2Jb"}, "unexpected argument '\\x1b[2Jb'", help},
  };
  for (const Row& row : rows) {
    Sample sample;
    CAPTURE(row.message);
    try {
      sample.line.parse(row.arguments);
      FAIL_CHECK("accepted");
    } catch (const UsageError& error) {
      CHECK(std::string(error.what()) == row.message);
      CHECK(error.hint() == row.hint);
    }
  }
}

TEST_CASE("command line: checks between options run last") {
  Sample sample;
  sample.line.add_check([&] {
    if (sample.diff && sample.tp > 1) throw Error("--diff and --tp do not go together", "drop one");
  });
  CHECK(sample.line.parse({"a", "--diff"}));
  Sample second;
  second.line.add_check([&] {
    if (second.diff && second.tp > 1) throw Error("--diff and --tp do not go together", "drop one");
  });
  CHECK_THROWS_WITH_AS(second.line.parse({"a", "--tp", "2", "--diff"}),
                       "--diff and --tp do not go together", UsageError);
}

TEST_CASE("command line: a repeated positional takes all that are left") {
  std::vector<std::string> configs;
  CommandLine line("tcast sample", "a sample");
  line.add_positional({"CONFIG", tcast::FileUse::config}, tcast::append_to(configs), "configs",
                      true, true);
  CHECK(line.parse({"a", "b", "c"}));
  CHECK(configs == std::vector<std::string>{"a", "b", "c"});
}

TEST_CASE("command line: help lists options by group, without hidden ones") {
  std::int64_t size = 0;
  bool flag = false;
  CommandLine line("tcast sample", "a sample");
  line.add_positional(
      {"CONFIG", tcast::FileUse::config}, [](const std::string&) {}, "the config");
  line.begin_group("Sizes");
  line.add_option("--a-rather-long-option", "TOKENS", tcast::to_size(size),
                  "words that go on until they do not fit into one line of the help any more");
  line.add_hidden("--pp", [](const std::string&) {});
  line.begin_group("Others");
  line.add_flag("-f,--flag", flag, "a flag");
  line.set_example("  $ tcast sample x\n");
  std::ostringstream help;
  line.print_help(help);
  CHECK(help.str() ==
        "tcast sample: a sample\n"
        "\n"
        "Usage: tcast sample [options] CONFIG\n"
        "\n"
        "  CONFIG                      the config\n"
        "\n"
        "Sizes:\n"
        "  --a-rather-long-option TOKENS\n"
        "                              words that go on until they do not fit into one line of the "
        "help any\n"
        "                              more\n"
        "\n"
        "Others:\n"
        "  -f, --flag                  a flag\n"
        "\n"
        "  -h, --help                  this help\n"
        "\n"
        "Example:\n"
        "  $ tcast sample x\n");
}

// --- readers -------------------------------------------------------------------------------------

TEST_CASE("command line: sizes") {
  struct Row {
    std::string text;
    std::string message;
  };
  const Row rows[] = {
      {"0", "expected a whole number >= 1, got 0"},
      {"-3", "expected a whole number >= 1, got -3"},
      {"-99999999999999999999", "expected a whole number >= 1, got -99999999999999999999"},
      {"1.5", "expected a whole number, got '1.5'"},
      {"1e3", "expected a whole number, got '1e3'"},
      {"abc", "expected a whole number, got 'abc'"},
      {"", "expected a whole number, got ''"},
      {" 4", "expected a whole number, got ' 4'"},
      {"4 ", "expected a whole number, got '4 '"},
      {"+4", "expected a whole number, got '+4'"},
      {"0x10", "expected a whole number, got '0x10'"},
      {"4k", "expected a whole number, got '4k'"},
      {"1099511627777", "expected a whole number <= 2^40, got 1099511627777"},
      {"99999999999999999999", "expected a whole number <= 2^40, got 99999999999999999999"},
      {"99999999999999999999x", "expected a whole number, got '99999999999999999999x'"},
  };
  std::int64_t size = 7;
  for (const Row& row : rows) {
    CAPTURE(row.text);
    CHECK(error_of([&] { tcast::to_size(size)(row.text); }) == row.message);
    CHECK(size == 7);
  }
  tcast::to_size(size)("1099511627776");
  CHECK(size == tcast::max_option_size);
  tcast::to_size(size, 0, 9)("0");
  CHECK(size == 0);
  CHECK(error_of([&] { tcast::to_size(size, 0, 9)("10"); }) ==
        "expected a whole number <= 9, got 10");
}

TEST_CASE("command line: numbers") {
  double number = 7;
  tcast::to_number(number, 0, 10)("1.5");
  CHECK(number == 1.5);
  CHECK(error_of([&] { tcast::to_number(number, 0, 10)("-1"); }) ==
        "expected a number from 0 to 10, got -1");
  for (const char* text : {"nan", "inf", "1,5", "", "x", "1.5x", "1e999"}) {
    CAPTURE(text);
    CHECK(error_of([&] { tcast::to_number(number, 0, 10)(text); }) ==
          "expected a number, got '" + std::string(text) + "'");
  }
  CHECK(number == 1.5);
}

TEST_CASE("command line: bytes") {
  struct Row {
    std::string text;
    std::int64_t bytes;
  };
  const Row rows[] = {{"0", 0},
                      {"4096", 4096},
                      {"4096B", 4096},
                      {"512MiB", std::int64_t{512} << 20},
                      {"2GiB", std::int64_t{2} << 30},
                      {"1.5GiB", std::int64_t{3} << 29},
                      {"2 GB", 2'000'000'000},
                      {"1kB", 1000},
                      {"1TiB", std::int64_t{1} << 40}};
  for (const Row& row : rows) {
    CAPTURE(row.text);
    std::int64_t bytes = -1;
    tcast::to_bytes(bytes)(row.text);
    CHECK(bytes == row.bytes);
  }
  std::int64_t bytes = 7;
  for (const char* text : {"", "GiB", "2G", "2gib", "2GiBs", "nanGiB", "two"}) {
    CAPTURE(text);
    CHECK(error_of([&] { tcast::to_bytes(bytes)(text); }) ==
          "expected a number of bytes, got '" + std::string(text) +
              "' | as in 4096, 512MiB, 2GiB or 1.5GB");
  }
  CHECK(error_of([&] { tcast::to_bytes(bytes)("-1GiB"); }) ==
        "expected a number of bytes from 0 to 1024 TiB, got -1GiB");
  CHECK(error_of([&] { tcast::to_bytes(bytes)("1e30"); }) ==
        "expected a number of bytes from 0 to 1024 TiB, got 1e30");
  CHECK(bytes == 7);
}

TEST_CASE("command line: choices") {
  const std::string names[] = {"table", "json", "jsonl"};
  CHECK(tcast::find_choice("jsonl", names) == 2);
  CHECK(error_of([&] { tcast::find_choice("xml", names); }) ==
        "expected one of table, json, jsonl, got 'xml'");
  CHECK(error_of([&] { tcast::find_choice("jsno", names); }) ==
        "expected one of table, json, jsonl, got 'jsno' | did you mean 'json'?");
  CHECK(error_of([&] { tcast::find_choice("tab", names); }) ==
        "expected one of table, json, jsonl, got 'tab' | did you mean 'table'?");
  const std::string one[] = {"explain"};
  CHECK(error_of([&] { tcast::find_choice("llama", one); }) == "expected explain, got 'llama'");
}

}  // namespace
