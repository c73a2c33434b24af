// Measurements as lines of JSON, out and in again.
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/exec/timing/measurement_store.h"
#include "tcast/study/measurement_text.h"

#include "command_runs.h"
#include "error_of.h"
#include "measurements.h"
#include "scratch.h"

using namespace tcast;

TEST_CASE("measurements: lines out, and in again") {
  const Scratch folder;
  MeasurementStore store(folder.file("a"));
  store.put("a \"host\"\n", "op \xc3\xa9", measured(1e-7));
  Measurement none;
  none.unsupported = "no kernel";
  store.put("host", "op 2", none);
  const std::string text = measurements_text(store);
  MeasurementStore other(folder.file("b"));
  const std::vector<StoredMeasurement> list = read_measurements(text + "\n  \n", "text");
  CHECK(list.size() == 2);
  other.put_all(list);
  CHECK(measurements_text(other) == text);
  CHECK(other.find("host", "op 2")->unsupported == "no kernel");
}

// R16: a number out of its range is an error with line, column and key; nothing is converted that
// does not fit.
TEST_CASE("measurements: what is no measurement is said with its place") {
  const Scratch folder;
  MeasurementStore store(folder.file("a"));
  store.put("host", "op", measured(1e-7));
  const std::string text = measurements_text(store);
  const std::string line = text.substr(0, text.find('\n'));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = line;
    const std::size_t at = changed.find(from);
    REQUIRE(at != std::string::npos);
    return changed.replace(at, from.size(), to);
  };
  const std::string seconds = "\"seconds\":1e-07";
  const std::string taken = line.substr(line.find("\"taken_at\":"),
                                        line.find(",\"seconds\"") - line.find("\"taken_at\":"));
  struct Row {
    std::string text;
    std::string message;  // behind "f.jsonl:2:"
  };
  const Row rows[] = {
      {"{", ": expected '}' for the map that begins on line 2, got the end of the file"},
      {"[]", "1: expected a map, got an empty list"},
      {"null", "1: expected a map, got null"},
      {with(seconds, "\"seconds\":0"), "1: 0 seconds are no time"},
      {with(seconds, "\"seconds\":-1"), "1: -1 seconds are no time"},
      {with(seconds, "\"seconds\":NaN"), "1: nan seconds are no time"},
      {with(seconds, "\"seconds\":Infinity"), "1: inf seconds are no time"},
      {with(seconds, "\"seconds\":1e300"), "1: 1e+300 seconds are no time"},
      {with(seconds, "\"seconds\":\"1\""), ": seconds: expected a number, got the string \"1\""},
      {with(seconds, "\"second\":1"), "1: expected the key 'seconds'"},
      {with("\"samples\":7", "\"samples\":1e300"),
       ": samples: expected a whole number, got the number 1e300"},
      {with("\"samples\":7", "\"samples\":2147483648"),
       ": samples: expected a whole number from 0 to 2147483647, got the number 2147483648"},
      {with("\"samples\":7", "\"samples\":-1"), ": samples: expected a whole number from 0 to"},
      {with("\"samples\":7", "\"samples\":7.5"), ": samples: expected a whole number, got"},
      {with("\"threads\":2", "\"threads\":true"), ": threads: expected a whole number, got true"},
      {with("\"threads\":2", "\"threads\":null"), ": threads: expected a whole number, got null"},
      {with(taken, "\"taken_at\":1e30"), ": taken_at: expected a whole number, got"},
      {with(taken, "\"taken_at\":99999999999999"), "1: 99999999999999 is no second of the years"},
      {with("\"share\":0.25", "\"share\":0"), "1: share is above 0 and at most 1, got 0"},
      {with("\"share\":0.25", "\"share\":2"), "1: share is above 0 and at most 1, got 2"},
      {with("\"error\":0.03", "\"error\":1e999"), ": error: expected a number in the range"},
      {with("\"host\":\"host\"", "\"host\":\"\""), "1: it has no host or no op"},
      {std::string(60'000, '['), "65: lists and maps are nested more than 64 deep"},
      {line + line, ": expected the end of the file, got '{'"},
      {with("\"share\":0.25", "\"share\":0.25,\"share\":0.5"), ": duplicate key 'share'"},
      {std::string(1 << 17, 'x'), " a line of 131,072 bytes"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text.substr(0, 300));
    const std::string error =
        error_of([&] { read_measurements(line + "\n" + row.text + "\n", "f.jsonl"); });
    CHECK(error.find("f.jsonl:2:") == 0);
    CHECK(error.find(row.message) != std::string::npos);
    CHECK(error.find("; expected a measurement as 'tcast store export' writes it | nothing was "
                     "imported") != std::string::npos);
  }
}

TEST_CASE("measurements: import takes all of a file or nothing, and no file without an end") {
  const Scratch folder;
  const std::string store = folder.file("s.sqlite");
  { MeasurementStore(folder.file("a")).put("host", "op", measured(1)); }
  const Run exported =
      run({"store", "export", "--store", folder.file("a"), "-o", folder.file("good")});
  REQUIRE_MESSAGE(exported.status == 0, exported.err);
  const std::string bad = folder.write("bad", folder.read("good") + "x\n");
  const Run refused = run({"store", "import", bad, "--store", store});
  CHECK(refused.status == 1);
  CHECK(refused.err.find("tcast: error: " + bad + ":2:1: expected a value, got 'x'; expected a") ==
        0);
  CHECK_FALSE(std::filesystem::exists(store));
  const Run taken = run({"store", "import", folder.file("good"), "--store", store});
  CHECK(taken.out == "1 measurements imported into " + store + "\n");
  for (const std::string& endless : {std::string("/dev/zero"), folder.path()}) {
    const Run outcome = run({"store", "import", endless, "--store", store});
    CHECK(outcome.status == 1);
    CHECK(outcome.err.find("tcast: error: " + endless + ": expected a ") == 0);
  }
  const std::string sparse = folder.write("sparse", "");
  std::filesystem::resize_file(sparse, std::uintmax_t{700} << 20);
  const Run outcome = run({"store", "import", sparse, "--store", store});
  CHECK(outcome.err ==
        "tcast: error: " + sparse +
            ": expected at most 134,217,728 bytes, got 734,003,200\n  hint: import it in several "
            "parts\n");
}
