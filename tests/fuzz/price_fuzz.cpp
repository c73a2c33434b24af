// Configs that are nearly right, from the file to every writer: config, build, transform, trace,
// price, report. The answer has sensible numbers, or there is a refusal.

#include <cmath>
#include <string>
#include <vector>

#include "configs.h"

namespace {

/// No number of a report is negative, and none is missing where a number must be.
void check_report(const std::string& text) {
  const nlohmann::json report = nlohmann::json::parse(text, nullptr, false);
  if (report.is_discarded()) fuzz::fail("the report is no JSON: " + text);
  for (const char* part : {"memory", "latency", "throughput"}) {
    if (!report.contains(part)) continue;
    for (const auto& [key, value] : report.at(part).items()) {
      if (!value.is_number()) continue;
      if (!(value.get<double>() >= 0)) fuzz::fail(key + " is " + value.dump());
    }
  }
  if (!report.contains("ops")) return;
  for (const auto& op : report.at("ops")) {
    for (const char* key : {"total_s", "flops", "bytes", "calls"}) {
      if (!(op.at(key).get<double>() >= 0)) fuzz::fail(std::string(key) + " of " + op.dump());
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::WorkingFolder folder;
  static const fuzz::NearlyRightConfigs configs(std::string(TCAST_SOURCE_DIR) +
                                                "/tests/data/shapes");
  FuzzedDataProvider input(data, size);
  const char* const shapes[][2] = {
      {"simulate", "json"}, {"simulate", "table"}, {"simulate", "csv"},  {"simulate", "jsonl"},
      {"inspect", "json"},  {"inspect", "table"},  {"simulate", "json"}, {"inspect", "table"}};
  const auto& [command, format] = fuzz::choose(input, shapes);
  std::vector<std::string> words = {command, "config.json", "--format", format};
  fuzz::add_deployment(input, words);
  fuzz::write_file("config.json", configs.make(input).dump());
  const std::string pipeline = fuzz::pipeline_profile(input);
  if (!pipeline.empty()) {
    fuzz::write_file("profile.yaml", pipeline);
    words.insert(words.end(), {"--profile", "profile.yaml"});
  }
  const bool simulates = words[0] == "simulate";
  if (!simulates && input.ConsumeBool()) {
    words.emplace_back(input.ConsumeBool() && words[3] == "table" ? "--transformed" : "--steps");
  }
  if (simulates || words.back() == "--steps") {
    const char* const devices[] = {"h200", "a100-80g", "ascend-910b", "TEST_DEVICE"};
    const char* const sizes[] = {"1", "7", "64", "1000", "100000"};
    words.insert(words.end(),
                 {"--device", fuzz::choose(input, devices), "--batch-size",
                  fuzz::choose(input, sizes), "--input-length", fuzz::choose(input, sizes),
                  "--output-length", fuzz::choose(input, sizes)});
  }
  if (simulates && input.ConsumeIntegralInRange(0, 3) == 0) {
    words.insert(words.end(), {"--trace", "trace.json"});
  }
  if (simulates && input.ConsumeIntegralInRange(0, 3) == 0) words.emplace_back("--ideal");
  const fuzz::Outcome outcome = fuzz::run(words);
  if (outcome.status == 0 && words[3] == "json") check_report(outcome.out);
  return 0;
}
