// Small models that are really executed: whatever steps run in whatever order, the function of the
// model stays, or there is a refusal.

#include <string>
#include <vector>

#include "configs.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::WorkingFolder folder;
  static const fuzz::NearlyRightConfigs configs(std::string(TCAST_SOURCE_DIR) +
                                                "/tests/data/logits");
  FuzzedDataProvider input(data, size);
  std::vector<std::string> words = {"verify", "config.json", "--format", "json", "--threads", "1"};
  if (input.ConsumeIntegralInRange(0, 3) == 0) {
    words = {"run",          "config.json", "--format",       "json", "--threads",       "1",
             "--batch-size", "2",           "--input-length", "5",    "--output-length", "3"};
  }
  fuzz::add_deployment(input, words);
  fuzz::write_file("config.json", configs.make(input).dump());
  const std::string pipeline = fuzz::pipeline_profile(input);
  if (!pipeline.empty()) {
    fuzz::write_file("profile.yaml", pipeline);
    words.insert(words.end(), {"--profile", "profile.yaml"});
  }
  const fuzz::Outcome outcome = fuzz::run(words);
  if (outcome.status == 3) {
    fuzz::fail("the function changed: " + tcast::join(words, " ") + "\n" + pipeline + outcome.out);
  }
  if (outcome.status == 0 && nlohmann::json::parse(outcome.out, nullptr, false).is_discarded()) {
    fuzz::fail("the result is no JSON: " + outcome.out);
  }
  return 0;
}
