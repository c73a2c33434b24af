#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "app/cli.h"
#include "app/token_ids.h"
#include "error_of.h"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A folder of its own with a tiny model, removed at the end.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("tcast-run-" + std::to_string(++count))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    for (const auto& [model, name] :
         {std::pair{"llama", "config.json"}, std::pair{"olmoe", "experts.json"}}) {
      std::ifstream stream(fs::path(TCAST_SOURCE_DIR) / "tests/data/logits" /
                           (std::string(model) + "-plain.json"));
      write(name, json::parse(stream).at("config").dump());
    }
  }
  ~Folder() { fs::remove_all(path_); }

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  std::string read(const std::string& name) const {
    std::ifstream stream(path_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

 private:
  static inline int count = 0;
  fs::path path_;
};

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

}  // namespace

TEST_CASE("run executes, counts and is the same every time") {
  const Folder folder;
  const std::vector<std::string> words = {"run",
                                          folder.file("config.json"),
                                          "--input-length",
                                          "9",
                                          "--output-length",
                                          "3",
                                          "--batch-size",
                                          "2",
                                          "--dtype",
                                          "float32",
                                          "--format",
                                          "json"};
  const Run first = run(words);
  REQUIRE_MESSAGE(first.status == 0, first.err);
  const json report = json::parse(first.out);
  CHECK(report.at("inputs").at("batch_size") == 2);
  CHECK(report.at("model").at("total_parameters") == 94528);
  CHECK(report.at("latency").at("decode_steps_s").size() == 2);
  REQUIRE(report.at("tokens").size() == 2);
  CHECK(report.at("tokens")[0].size() == 3);
  // All passes of each op are counted: two layers, one prefill, two decode steps.
  for (const json& op : report.at("ops")) {
    if (op.at("module") != "model.layers.*.self_attn.q_proj") continue;
    CHECK(op.at("calls") == (op.at("phase") == "prefill" ? 2 : 4));
  }
  CHECK(json::parse(run(words).out).at("tokens") == report.at("tokens"));
  // Two ranks, or every layer traced on its own, generate the same tokens.
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--tp", "2"}, {"--no-reuse-layers"}, {"--num-devices", "2"}}) {
    std::vector<std::string> longer = words;
    longer.insert(longer.end(), more.begin(), more.end());
    const Run other = run(longer);
    REQUIRE_MESSAGE(other.status == 0, other.err);
    CHECK(json::parse(other.out).at("tokens") == report.at("tokens"));
  }
}

TEST_CASE("logits are dumped as a NumPy file") {
  const Folder folder;
  folder.write("ids.txt", "1 2 3\n\n4, 5,6\r\n");
  const Run outcome = run({"run", folder.file("config.json"), "--token-ids", folder.file("ids.txt"),
                           "--output-length", "2", "--dump-logits", folder.file("logits.npy")});
  REQUIRE_MESSAGE(outcome.status == 0, outcome.err);
  const std::string npy = folder.read("logits.npy");
  REQUIRE(npy.size() > 128);
  CHECK(npy.substr(0, 8) == std::string("\x93NUMPY\x01\0", 8));
  const std::size_t header = static_cast<unsigned char>(npy[8]) +
                             256 * static_cast<std::size_t>(static_cast<unsigned char>(npy[9]));
  CHECK((10 + header) % 64 == 0);
  CHECK(npy.substr(10, 66) == "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 96, ), } ");
  CHECK(npy.size() == 10 + header + 2 * 2 * 96 * 4);
}

TEST_CASE("token ids: what is wrong is said with file and line") {
  struct Row {
    std::string text;
    std::string message;
  };
  const std::vector<Row> rows = {
      {"", "FILE: no token ids | write one line of whole numbers for each request"},
      {"\n \n,\n", "FILE: no token ids | write one line of whole numbers for each request"},
      {"1 2 x",
       "FILE:1:5: expected a token id, got 'x' | write one line of whole numbers for each "
       "request"},
      {"1 2.5",
       "FILE:1:3: expected a token id, got '2.5' | write one line of whole numbers for each "
       "request"},
      {"1\n96",
       "FILE:2:1: token id 96 is outside the vocabulary of 96 | token ids go from 0 to 95"},
      {"-1", "FILE:1:1: token id -1 is outside the vocabulary of 96 | token ids go from 0 to 95"},
      {"99999999999999999999",
       "FILE:1:1: expected a token id, got '99999999999999999999' | write one "
       "line of whole numbers for each request"},
      {"1 2\n\n1 2 3",
       "FILE:3: 3 token ids, line 1 has 2 | all requests of a run are equally long"},
      {"[1, 2]",
       "FILE:1:1: expected a token id, got '[1' | write one line of whole numbers for each "
       "request"},
      {std::string("1 \0 2", 5),
       "FILE:1:3: expected a token id, got '\\x00' | write one line of whole "
       "numbers for each request"},
  };
  const Folder folder;
  for (const Row& row : rows) {
    CAPTURE(row.text);
    folder.write("ids.txt", row.text);
    std::string found = error_of([&] { tcast::read_token_ids(folder.file("ids.txt"), 96); });
    const std::size_t at = found.find(folder.file("ids.txt"));
    REQUIRE(at == 0);
    CHECK("FILE" + found.substr(folder.file("ids.txt").size()) == row.message);
  }
  CHECK(error_of([&] { tcast::read_token_ids("/nowhere/ids.txt", 96); }) ==
        "/nowhere/ids.txt: no such file");
  // R11: what never ends is not waited for.
  for (const char* endless : {"/dev/zero", "/dev/stdin"}) {
    if (fs::is_regular_file(endless)) continue;
    CHECK(error_of([&] {
            tcast::read_token_ids(endless, 96);
          }).find(": expected a regular file, got a device, pipe or socket") != std::string::npos);
  }
}

TEST_CASE("run decodes with drafts of multi-token prediction") {
  const Folder folder;
  const fs::path golden = fs::path(TCAST_SOURCE_DIR) / "tests/data/mtp/deepseek_v3-plain.json";
  std::ifstream stream(golden);
  folder.write("config.json", json::parse(stream).at("config").dump());
  std::vector<std::string> words = {"run",
                                    folder.file("config.json"),
                                    "--dtype",
                                    "float32",
                                    "--format",
                                    "json",
                                    "--input-length",
                                    "5",
                                    "--output-length",
                                    "6",
                                    "--batch-size",
                                    "2",
                                    "--dump-logits",
                                    folder.file("logits.npy")};
  const Run without = run(words);
  REQUIRE_MESSAGE(without.status == 0, without.err);
  const std::string logits = folder.read("logits.npy");
  words.insert(words.end(), {"--num-mtp-tokens", "2"});
  const Run with = run(words);
  REQUIRE_MESSAGE(with.status == 0, with.err);
  const json report = json::parse(with.out);
  CHECK(report.at("tokens") == json::parse(without.out).at("tokens"));
  CHECK(folder.read("logits.npy").size() == logits.size());
  const json& drafts = report.at("speculation");
  CHECK(drafts.at("mtp_tokens") == 2);
  const auto steps = static_cast<std::int64_t>(report.at("latency").at("decode_steps_s").size());
  CHECK(drafts.at("drafts") == steps * 2 * 2);
  CHECK(drafts.at("decoded_tokens") >= 5);
  CHECK(json::parse(without.out).at("speculation").at("drafts") == 0);
  words[5] = "table";
  const Run table = run(words);
  REQUIRE_MESSAGE(table.status == 0, table.err);
  CHECK(table.out.find("\ndrafts ") != std::string::npos);
  CHECK(table.out.find(" tokens per step and request\n") != std::string::npos);
}

TEST_CASE("what cannot be executed is refused, and nothing is written") {
  const Folder folder;
  const std::string config = folder.file("config.json");
  const std::string logits = folder.file("logits.npy");
  struct Row {
    std::vector<std::string> words;
    int status;
    std::string error;  // beginning of what is said
  };
  const std::vector<Row> rows = {
      {{"--num-devices", "2", "--batch-size", "3"},
       1,
       "tcast: error: 3 requests cannot be spread evenly over 2 data-parallel replicas"},
      {{"--tp", "3"}, 1, "tcast: error: model.layers.[0-1].self_attn: 8 attention heads cannot be"},
      {{"--ep", "2", "--num-devices", "2"}, 1, "tcast: error: --ep 2 was asked for, but"},
      {{"--input-length", "100000000", "--batch-size", "100000"},
       1,
       "tcast: error: executing takes"},
      {{"--input-length", "0"}, 2, "tcast: error: --input-length: "},
      {{"--output-length", "-1"}, 2, "tcast: error: --output-length: "},
      {{"--dtype", "int8"}, 2, "tcast: error: --dtype: "},
      {{"--device", "h200"}, 2, "tcast: error: unknown option '--device'"},
      {{"--token-ids", "/nowhere", "--seed", "1"},
       2,
       "tcast: error: --seed describes random prompts, but --token-ids gives them"},
      {{"--token-ids", "/nowhere"}, 1, "tcast: error: /nowhere: no such file"},
  };
  for (const Row& row : rows) {
    std::vector<std::string> words = {"run", config, "--dump-logits", logits};
    words.insert(words.end(), row.words.begin(), row.words.end());
    CAPTURE(row.error);
    const Run outcome = run(words);
    CHECK(outcome.status == row.status);
    CHECK(outcome.err.substr(0, row.error.size()) == row.error);
    CHECK(outcome.out.empty());
    CHECK(!fs::exists(logits));
  }
}

TEST_CASE("a prediction stands beside what was measured, and its parts sum to its totals") {
  const Folder folder;
  const Run outcome = run({"run", folder.file("config.json"), "--input-length", "6",
                           "--output-length", "3", "--compare", "--time-budget", "0.5", "--store",
                           folder.file("kept.sqlite"), "--format", "json"});
  CHECK(outcome.err == "");
  REQUIRE(outcome.status == 0);
  const json report = json::parse(outcome.out);
  const json& comparison = report.at("comparison");
  REQUIRE(comparison.at("totals").size() == 3);
  CHECK(comparison["totals"][0]["name"] == "prefill");
  CHECK(comparison["totals"][1]["name"] == "decode step");
  CHECK(comparison["totals"][2]["name"] == "total");
  const auto sum = [](const json& rows, const char* key) {
    double total = 0;
    for (const json& row : rows) total += row.at(key).get<double>();
    return total;
  };
  for (const char* phase : {"prefill", "decode"}) {
    for (const char* key : {"predicted_s", "measured_s"}) {
      const std::size_t place = std::string(phase) == "prefill" ? 0 : 1;
      const double steps = place == 0 ? 1 : 2;
      const double whole = comparison["totals"][place][key].get<double>() * steps;
      CHECK(whole > 0);
      CHECK(sum(comparison[phase]["classes"], key) == doctest::Approx(whole));
      CHECK(sum(comparison[phase]["modules"], key) == doctest::Approx(whole));
    }
    // Predicted and measured of an op are in one class: neither side stands alone.
    for (const json& row : comparison[phase]["classes"]) {
      if (row["name"] == "(between ops)") continue;
      CAPTURE(row.dump());
      CHECK(row["predicted_s"].get<double>() > 0);
      CHECK(row["measured_s"].get<double>() > 0);
    }
  }
  CHECK(report["latency"]["prefill_s"] == comparison["totals"][0]["measured_s"]);
  // S20: without what other processes took of it
  CHECK(comparison["undisturbed_prefill_s"] <= comparison["totals"][0]["measured_s"]);
  CHECK(comparison["undisturbed_prefill_s"] >= 0);
  CHECK(comparison["undisturbed_decode_step_s"] >= 0);

  const Run text =
      run({"run", folder.file("config.json"), "--input-length", "6", "--output-length", "1",
           "--compare", "--time-budget", "0.5", "--store", folder.file("kept.sqlite")});
  REQUIRE(text.status == 0);
  CHECK(text.out.find("predicted: prefill ") == 0);
  CHECK(text.out.find("predicted: prefill ") < text.out.find("tcast run: "));
  CHECK(text.out.find("prefill: class") != std::string::npos);
  CHECK(text.out.find("decode") == std::string::npos);
}

TEST_CASE("a comparison prices the experts that the run went to") {  // S6, D7, D17
  const Folder folder;
  const json config = json::parse(folder.read("experts.json"));
  const auto experts = config.at("num_experts").get<double>();
  const auto top_k = config.at("num_experts_per_tok").get<double>();
  const std::vector<std::string> words = {"run",
                                          folder.file("experts.json"),
                                          "--batch-size",
                                          "3",
                                          "--input-length",
                                          "4",
                                          "--output-length",
                                          "3",
                                          "--compare",
                                          "--time-budget",
                                          "0.5",
                                          "--store",
                                          folder.file("kept.sqlite")};
  const auto report_of = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = words;
    all.insert(all.end(), {"--format", "json"});
    all.insert(all.end(), more.begin(), more.end());
    const Run outcome = run(all);
    REQUIRE_MESSAGE(outcome.status == 0, outcome.err);
    return json::parse(outcome.out);
  };
  const json routed = report_of({});
  const json even = report_of({"--even-routing"});
  for (const json* report : {&routed, &even}) {
    const json& found = report->at("comparison").at("experts");
    for (const auto& [phase, tokens] : {std::pair{"prefill", 12.0}, std::pair{"decode", 3.0}}) {
      const double expected = experts * (1 - std::pow(1 - top_k / experts, tokens));
      CHECK(found.at(phase).at("expected_distinct") == doctest::Approx(expected));
      CHECK(found.at(phase).at("predicted_with_expected_s").get<double>() > 0);
      const double most = std::min(experts, tokens * top_k);
      const auto distinct = found.at(phase).at("distinct").get<double>();
      CHECK(distinct >= top_k);
      CHECK(distinct <= most);
      if (report == &even) CHECK(distinct == most);
    }
    CHECK(report->at("comparison").at("totals").size() == 3);
  }
  // Weights that a step reads are those of the experts that it went to.
  CHECK(routed.at("weight_bytes_per_pass").get<double>() <
        even.at("weight_bytes_per_pass").get<double>());
  CHECK(routed.at("tokens") == report_of({}).at("tokens"));

  const Run table = run(words);
  REQUIRE(table.status == 0);
  CHECK(table.out.find("distinct experts of a layer") != std::string::npos);
}

TEST_CASE("experts are dealt evenly when that is asked for, and only then") {  // D17
  const Folder folder;
  const std::string experts = folder.file("experts.json");
  const auto tokens = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {
        "run", experts, "--input-length", "6", "--output-length", "5", "--format", "json"};
    words.insert(words.end(), more.begin(), more.end());
    const Run outcome = run(words);
    REQUIRE_MESSAGE(outcome.status == 0, outcome.err);
    return json::parse(outcome.out).at("tokens");
  };
  const json chosen = tokens({});
  CHECK(chosen != tokens({"--even-routing"}));
  // To compare does not change what the model does.
  CHECK(chosen == tokens({"--compare", "--time-budget", "0.3", "--no-store"}));
  const Run dense = run({"run", folder.file("config.json"), "--even-routing"});
  CHECK(dense.status == 1);
  CHECK(dense.err.find("tcast: error: --even-routing: the model routes no tokens to experts") == 0);
  const Run logits =
      run({"run", experts, "--even-routing", "--dump-logits", folder.file("logits.npy")});
  CHECK(logits.status == 2);
  CHECK(!fs::exists(folder.file("logits.npy")));
}
