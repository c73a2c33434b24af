// Executes every model type and compares logits with those of the real transformers
// (scripts/goldens/logits.py): untransformed, after every step, and on several ranks.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

#include "app/generation.h"

using namespace tcast;

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const fs::path logits_dir = fs::path(TCAST_SOURCE_DIR) / "tests/data/logits";

json read_golden(const fs::path& file) {
  const std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return json::parse(text.str());
}

TransformerModel build(const json& golden, ModelOptions options) {
  HfConfig config = HfConfig::parse(golden.at("config").dump(), "config.json");
  ModelProfile profile = load_profile(config.model_type(), {});
  return build_model(std::move(config), std::move(profile), std::move(options));
}

using Rows = std::vector<std::vector<double>>;

/// What a golden expects for the last token of each request after the prompt, then for each request
/// after each decoded token.
std::vector<Rows> expected_of(const json& golden) {
  std::vector<Rows> steps;
  Rows& prompt = steps.emplace_back();
  for (const json& request : golden.at("logits")) {
    prompt.push_back(request.back().get<std::vector<double>>());
  }
  for (const json& step : golden.at("decode_logits")) steps.push_back(step.get<Rows>());
  return steps;
}

/// The same from executing a model.
std::vector<Rows> execute(const TransformerModel& model, const json& golden) {
  const auto prompt = golden.at("prompt").get<TokenIds>();
  const auto decode = golden.at("decode").get<TokenIds>();
  const std::size_t steps = decode[0].size();
  Generation generation(model, static_cast<std::int64_t>(prompt.size()),
                        static_cast<std::int64_t>(prompt[0].size() + steps));
  std::vector<Rows> result;
  for (std::size_t step = 0; step <= steps; ++step) {
    TokenIds tokens = prompt;
    for (std::size_t i = 0; step > 0 && i < prompt.size(); ++i) tokens[i] = {decode[i][step - 1]};
    Rows& rows = result.emplace_back();
    for (const std::vector<float>& row : generation.step(tokens)) {
      rows.emplace_back(row.begin(), row.end());
    }
  }
  return result;
}

/// max |a - b| / max |b|.
double error_of(const std::vector<Rows>& a, const std::vector<Rows>& b) {
  double most = 0;
  double largest = 0;
  for (std::size_t step = 0; step < b.size(); ++step) {
    for (std::size_t row = 0; row < b[step].size(); ++row) {
      for (std::size_t i = 0; i < b[step][row].size(); ++i) {
        const double difference = std::abs(a.at(step).at(row).at(i) - b[step][row][i]);
        if (!(difference <= most)) most = difference;
        largest = std::max(largest, std::abs(b[step][row][i]));
      }
    }
  }
  return most / largest;
}

std::vector<fs::path> goldens() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(logits_dir)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

/// Error of a model's logits, transformed as the options say or not at all.
double error_of_model(const json& golden, ModelOptions options, bool transforms) {
  options.dtype = DType::f32;
  TransformerModel model = build(golden, std::move(options));
  if (transforms) transform(model);
  return error_of(execute(model, golden), expected_of(golden));
}

/// Checks all goldens, and goes on after one that fails.
void check_all(const ModelOptions& options, bool transforms, double tolerance) {
  for (const fs::path& file : goldens()) {
    CAPTURE(file.filename().string());
    try {
      const double error = error_of_model(read_golden(file), options, transforms);
      MESSAGE(fmt::format("{} {:.2e}", file.filename().string(), error));
      CHECK(error < tolerance);
    } catch (const std::exception& error) {
      FAIL_CHECK(std::string(error.what()));
    }
  }
}

}  // namespace

TEST_CASE("untransformed models have the logits of HuggingFace") { check_all({}, false, 1e-4); }

TEST_CASE("transformed models have the logits of HuggingFace") { check_all({}, true, 1e-4); }

TEST_CASE("tensor-parallel models have the logits of HuggingFace") {
  ModelOptions options;
  options.parallel.tp = 2;
  check_all(options, true, 1e-4);
}

TEST_CASE("expert-parallel models have the logits of HuggingFace") {
  ModelOptions options;
  options.parallel.ep = 2;
  options.parallel.num_devices = 2;
  check_all(options, true, 1e-4);
}
