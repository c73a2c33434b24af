#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/device/device_profile.h"
#include "tcast/exec/kernels/kernel.h"

#include "app/cli.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Run {
  int status = 0;
  std::string out;
  std::string err;
};

Run run(const std::vector<std::string>& words) {
  std::vector<const char*> arguments = {"tcast"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  std::ostringstream out;
  std::ostringstream err;
  const int status = tcast::run_cli(static_cast<int>(arguments.size()), arguments.data(), out, err);
  return {status, out.str(), err.str()};
}

/// A folder of its own with a tiny model, removed at the end.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("tcast-calibrate-" + std::to_string(++count))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    const fs::path golden = fs::path(TCAST_SOURCE_DIR) / "tests/data/logits/llama-plain.json";
    std::ifstream stream(golden);
    std::ofstream(path_ / "config.json") << json::parse(stream).at("config").dump();
  }
  ~Folder() { fs::remove_all(path_); }

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(path_), fs::directory_iterator{}));
  }

 private:
  static inline int count = 0;
  fs::path path_;
};

}  // namespace

TEST_CASE("what calibrate writes is a device that simulate answers with") {
  const Folder folder;
  const std::string file = folder.file("host.yaml");
  const Run calibrated = run({"calibrate", "-o", file, "--threads", "1", "--time-budget", "1",
                              "--name", "my \"host\": 1", "--format", "json"});
  REQUIRE_MESSAGE(calibrated.status == 0, calibrated.err);
  CHECK(folder.files() == 2);  // no temporary file is left
  const json report = json::parse(calibrated.out);
  CHECK(report.at("schema") == 1);
  CHECK(report.at("device").at("name") == "my \"host\": 1");
  CHECK(report.at("residuals").size() >= 10);
  CHECK(report.at("ops").size() >= 100);
  for (const json& op : report.at("ops")) {
    CAPTURE(op.dump());
    CHECK(op.at("measured_s").get<double>() > 0);
    CHECK(op.at("estimated_s").get<double>() > 0);
  }

  const tcast::DeviceProfile device = tcast::load_device(file);
  CHECK(device.name == "my \"host\": 1");
  CHECK(device.matrix.basis == tcast::Source::calibrated);
  CHECK(device.matrix.source.find(", 1 thread(s), oneDNN " + tcast::onednn_version()) !=
        std::string::npos);
  CHECK(device.matrix[tcast::DType::f32] > 1e8);
  CHECK((device.matrix[tcast::DType::bf16] > 0) == tcast::HostDTypes{}.bf16);

  const Run simulated = run({"simulate", folder.file("config.json"), "--device", file,
                             "--input-length", "8", "--output-length", "4", "--format", "json"});
  REQUIRE_MESSAGE(simulated.status == 0, simulated.err);
  const json answer = json::parse(simulated.out);
  CHECK(answer.at("latency").at("prefill_s").get<double>() > 0);
  for (const json& op : answer.at("ops")) {
    CAPTURE(op.dump());
    CHECK(op.at("source") == "calibrated");
  }
}

TEST_CASE("the profile goes to the standard output when no file is named, the table elsewhere") {
  const Run outcome = run({"calibrate", "--threads", "1", "--time-budget", "0.5"});
  REQUIRE_MESSAGE(outcome.status == 0, outcome.err);
  const tcast::DeviceProfile device =
      tcast::read_device(tcast::Node::parse_yaml(outcome.out, "stdout"));
  CHECK(device.memory_bandwidth_bytes_per_s > 1e8);
  CHECK(outcome.err.find("median error") != std::string::npos);
  CHECK(outcome.err.find("matvec") != std::string::npos);
}

TEST_CASE("calibrate refuses what would fail after minutes, at once") {
  const Folder folder;
  struct Row {
    std::vector<std::string> words;
    int status;
    std::string message;
  };
  const std::string missing = folder.file("no/such/host.yaml");
  const std::vector<Row> rows = {
      {{"-o", folder.file("")}, 1, "cannot write '" + folder.file("") + "': Is a directory"},
      {{"-o", missing}, 1, "cannot write '" + missing + "': No such file or directory"},
      {{"--name", " - "}, 2, "--name: expected a name, got ' - '"},
      {{"--name", "a\x1b[31m"}, 2, "--name: expected a name, got 'a\\x1b[31m'"},
      {{"--threads", "0"}, 2, "--threads: expected a whole number >= 1, got 0"},
      {{"--time-budget", "0"}, 2, "--time-budget: expected a number from 0.1 to 86400, got 0"},
      {{"--format", "yaml"}, 2, "--format: expected one of table, json, got 'yaml'"},
      {{"model.json"}, 2, "unexpected argument 'model.json'"},
  };
  for (const Row& row : rows) {
    std::vector<std::string> words = {"calibrate"};
    words.insert(words.end(), row.words.begin(), row.words.end());
    const Run outcome = run(words);
    CAPTURE(row.message);
    CHECK(outcome.status == row.status);
    CHECK(outcome.out.empty());
    CHECK(outcome.err.find("tcast: error: " + row.message) == 0);
  }
}

TEST_CASE("profile-ops lists each distinct op of a pass once, with what it reaches") {
  const Folder folder;
  const std::vector<std::string> words = {"profile-ops",      folder.file("config.json"),
                                          "--phase",          "decode",
                                          "--context-length", "20",
                                          "--threads",        "1",
                                          "--time-budget",    "0.3",
                                          "--no-store"};
  std::vector<std::string> as_json = words;
  as_json.insert(as_json.end(), {"--format", "json"});
  const Run outcome = run(as_json);
  REQUIRE_MESSAGE(outcome.status == 0, outcome.err);
  const json report = json::parse(outcome.out);
  CHECK(report.at("inputs").at("phase") == "decode");
  CHECK(report.at("inputs").at("context_length") == 20);
  std::vector<std::string> seen;
  double before = 1e9;
  bool has_product = false;
  for (const json& op : report.at("ops")) {
    CAPTURE(op.dump());
    const std::string text = op.at("name").get<std::string>() + op.at("sizes").get<std::string>();
    CHECK(std::find(seen.begin(), seen.end(), text) == seen.end());
    seen.push_back(text);
    CHECK(op.at("phase") == "decode");
    CHECK(op.at("source") == "measured");
    CHECK_FALSE(op.at("kernel").get<std::string>().empty());
    CHECK_FALSE(op.at("modules").empty());
    const auto total_s = op.at("total_s").get<double>();
    CHECK(total_s <= before);
    before = total_s;
    const auto calls = op.at("calls").get<double>();
    CHECK(total_s == doctest::Approx(calls * op.at("seconds").get<double>()).epsilon(1e-9));
    has_product = has_product || op.at("class") == "matvec";
  }
  CHECK(has_product);

  const Run table = run(words);
  REQUIRE_MESSAGE(table.status == 0, table.err);
  std::istringstream lines(table.out);
  std::size_t longest = 0;
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    longest = std::max(longest, line.size());
    if (!line.empty()) last = line;
  }
  CHECK(longest <= 100);
  CHECK(last.rfind("total", 0) == 0);
  CHECK(table.out.find("decode, 1 request(s), 1 new token(s) each, 20 in the cache\n") !=
        std::string::npos);
}
