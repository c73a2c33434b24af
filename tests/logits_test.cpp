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
#include "tcast/exec/executor.h"
#include "tcast/model/parameter_paths.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

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

/// The same from executing a model; requests are spread over the data-parallel replicas.
std::vector<Rows> execute(const TransformerModel& model, const json& golden) {
  const ParallelOptions& parallel = model.options().parallel;
  const auto prompt = golden.at("prompt").get<std::vector<std::vector<std::int64_t>>>();
  const auto decode = golden.at("decode").get<std::vector<std::vector<std::int64_t>>>();
  bool sharded = false;
  for (const StepReport& report : model.reports())
    sharded = sharded || report.step == "shard_model";
  const std::int64_t ranks = sharded ? parallel.devices() : 1;
  const std::int64_t replicas = sharded ? parallel.dp() : 1;
  const auto requests = static_cast<std::int64_t>(prompt.size());
  REQUIRE(requests % replicas == 0);
  const std::int64_t per_replica = requests / replicas;
  const auto steps = static_cast<std::int64_t>(decode[0].size());
  const auto length = static_cast<std::int64_t>(prompt[0].size());

  Executor executor(ParameterPaths(model.root()),
                    {.ranks = ranks, .max_sequence_length = length + steps, .context = {}});
  std::vector<Rows> result;
  for (std::int64_t step = 0; step <= steps; ++step) {
    Workload work;
    work.phase = step == 0 ? Phase::prefill : Phase::decode;
    work.batch = per_replica;
    work.query_length = step == 0 ? length : 1;
    work.context_length = step == 0 ? 0 : length + step - 1;
    work.executes = true;
    Graph graph;
    model.trace(work, graph);
    std::vector<std::vector<std::int64_t>> ids(static_cast<std::size_t>(ranks));
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const std::int64_t replica = rank / (ranks / replicas);
      for (std::int64_t i = 0; i < per_replica; ++i) {
        const auto request = static_cast<std::size_t>(replica * per_replica + i);
        auto& list = ids[static_cast<std::size_t>(rank)];
        if (step == 0) {
          list.insert(list.end(), prompt[request].begin(), prompt[request].end());
        } else {
          list.push_back(decode[request][static_cast<std::size_t>(step - 1)]);
        }
      }
    }
    executor.run(graph, ids);
    const Shape shape = executor.output_shape("logits");
    const std::int64_t rows_per_request = shape.elements() / shape[shape.rank() - 1] / per_replica;
    const std::int64_t width = shape[shape.rank() - 1];
    const auto vocabulary = static_cast<std::int64_t>(golden.at("logits")[0][0].size());
    Rows& rows = result.emplace_back();
    for (std::int64_t replica = 0; replica < replicas; ++replica) {
      const std::vector<float> logits = executor.output("logits", replica * (ranks / replicas));
      for (std::int64_t i = 0; i < per_replica; ++i) {
        const float* row = logits.data() + ((i + 1) * rows_per_request - 1) * width;
        rows.emplace_back(row, row + vocabulary);
      }
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
