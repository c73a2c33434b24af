// Rotary frequencies against those of transformers (scripts/goldens/rope.py), and what is refused.
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/model/rope.h"

namespace {

tcast::RopeParameters read(const std::string& json, const std::string& layer_type = "") {
  return tcast::read_rope(tcast::HfConfig::parse(json, "config.json"), layer_type);
}

std::string error_of(const std::string& json) {
  try {
    read(json);
  } catch (const tcast::Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("inverse frequencies equal those of transformers") {
  std::ifstream file(std::string(TCAST_SOURCE_DIR) + "/tests/data/rope.json");
  const nlohmann::json cases = nlohmann::json::parse(file);
  CHECK(cases.size() == 16);
  for (const auto& golden : cases) {
    CAPTURE(golden.at("name").get<std::string>());
    const tcast::RopeParameters rope =
        read(golden.at("config").dump(), golden.at("layer_type").get<std::string>());
    const auto expected = golden.at("inverse_frequencies").get<std::vector<double>>();
    double attention_factor = 0;
    const std::vector<float> frequencies =
        tcast::inverse_frequencies(rope, 2 * static_cast<std::int64_t>(expected.size()),
                                   golden.at("sequence_length"), attention_factor);
    CHECK(attention_factor == doctest::Approx(golden.at("attention_factor").get<double>()));
    REQUIRE(frequencies.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(i);
      // A few roundings of f32, no more.
      CHECK(std::abs(frequencies[i] / expected[i] - 1) < 5e-7);
    }
  }
}

TEST_CASE("what rope scaling lacks is named") {
  struct Case {
    std::string config;
    std::string message;
  };
  const Case table[] = {
      {R"({"rope_scaling": {"type": "yarm", "factor": 2}})",
       "config.json:1:18: rope_scaling: 'yarm' is not a kind of rope scaling that tcast knows"},
      {R"({"rope_scaling": {"type": "linear"}})",
       "config.json: rope_scaling.factor: required key is missing"},
      {R"({"rope_scaling": {"type": "linear", "factor": 0}})",
       "config.json:1:47: rope_scaling.factor: expected a number above 0, got 0"},
      {R"({"rope_scaling": {"type": "linear", "factor": "4"}})",
       "config.json:1:47: rope_scaling.factor: expected a number, got the string \"4\""},
      {R"({"rope_scaling": {"type": "dynamic", "factor": 2}})",
       "config.json: max_position_embeddings: required key is missing"},
      {R"({"rope_scaling": {"type": "yarn"}})",
       "config.json: max_position_embeddings: required key is missing"},
      {R"({"rope_scaling": {"type": "longrope", "factor": 2, "short_factor": [1, 2],
 "original_max_position_embeddings": 8}})",
       "config.json: rope_scaling.long_factor: longrope needs a factor for each frequency"},
      {R"({"rope_scaling": {"type": "longrope", "factor": 2, "short_factor": [1, 0],
 "original_max_position_embeddings": 8}})",
       "config.json:1:72: rope_scaling.short_factor[1]: expected a number above 0, got the number "
       "0"},
      {R"({"rope_theta": -1})", "config.json:1:16: rope_theta: expected a number above 0, got -1"},
      {R"({"rope_scaling": [2]})",
       "config.json:1:18: rope_scaling: expected a map, got a list of 1"},
  };
  for (const Case& c : table) CHECK(error_of(c.config) == c.message);
}

TEST_CASE("the first name of longrope") {
  const tcast::RopeParameters rope = read(R"({"rope_scaling": {"type": "su", "factor": 2,
      "original_max_position_embeddings": 8, "short_factor": [1, 2], "long_factor": [3, 4]}})");
  CHECK(rope.type == "longrope");
  CHECK(rope.long_factor == std::vector<double>{3, 4});
}
