// The goldens can fail: what people get wrong when they build a model by hand moves the logits far
// beyond the tolerance. Each mutation changes the traced graph of a transformed model, or the
// weights that it is bound to, and nothing else.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/exec/run/executor.h"
#include "tcast/model/parameter_paths.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

using namespace tcast;

namespace {

using nlohmann::json;

constexpr double tolerance = 1e-4;

json read_golden(const std::string& name) {
  const std::filesystem::path folder = TCAST_SOURCE_DIR;
  const std::ifstream stream(folder / "tests/data/logits" / (name + ".json"));
  std::ostringstream text;
  text << stream.rdbuf();
  return json::parse(text.str());
}

/// Changes a graph; returns how many ops (or numbers) it changed.
using Mutation = std::function<int(Graph&)>;

/// Changes every op whose record is an R.
template <class R>
Mutation each(std::function<bool(R& record, Op& op)> change) {
  return [change = std::move(change)](Graph& graph) {
    int changed = 0;
    for (std::uint32_t i = 0; i < graph.region_count; ++i) {
      for (Op& op : graph.regions[i].ops) {
        auto* record = std::get_if<R>(&op.record);
        if (record == nullptr) continue;
        R copy = *record;
        if (!change(copy, op)) continue;
        if (std::holds_alternative<R>(op.record)) op.record = copy;
        ++changed;
      }
    }
    return changed;
  };
}

void drop_input(Op& op, int index) {
  for (int i = index; i + 1 < op.inputs.count; ++i) {
    op.inputs.set(i, op.inputs[i + 1]);
  }
  --op.inputs.count;
}

int no_rotary(Graph& graph) {
  for (std::vector<float>& frequencies : graph.constants) {
    std::fill(frequencies.begin(), frequencies.end(), 0.0f);
  }
  return static_cast<int>(graph.constants.size());
}

/// Only the norms that are called `name`.
Mutation without_norm(const std::string& name) {
  return [name](Graph& graph) {
    int changed = 0;
    for (std::uint32_t i = 0; i < graph.region_count; ++i) {
      Region& region = graph.regions[i];
      for (Op& op : region.ops) {
        const auto* norm = std::get_if<Norm>(&op.record);
        if (norm == nullptr || *region.scopes[op.scope].name != name) continue;
        op.record = Elementwise{.kind = ElementwiseKind::scale,
                                .elements = norm->rows * norm->width,
                                .dtype = norm->dtype};
        op.inputs.count = 1;
        ++changed;
      }
    }
    return changed;
  };
}

/// "...experts.3.up_proj..." becomes the next expert's.
std::string next_expert(const std::string& path, std::int64_t experts) {
  const std::string word = ".experts.";
  const std::size_t at = path.find(word);
  if (at == std::string::npos) return path;
  const std::size_t first = at + word.size();
  const std::size_t end = path.find('.', first);
  const std::int64_t expert = std::stoll(path.substr(first, end - first));
  return path.substr(0, first) + std::to_string((expert + 1) % experts) + path.substr(end);
}

/// Error of the logits after the prompt, relative to the largest one of HuggingFace.
double mutated_error(const std::string& name, const Mutation& mutation, std::int64_t experts = 0) {
  const json golden = read_golden(name);
  HfConfig config = HfConfig::parse(golden.at("config").dump(), "config.json");
  ModelProfile profile = load_profile(config.model_type(), {});
  ModelOptions options;
  options.dtype = DType::f32;
  TransformerModel model = build_model(std::move(config), std::move(profile), std::move(options));
  transform(model);
  const auto prompt = golden.at("prompt").get<std::vector<std::vector<std::int64_t>>>();
  Workload work;
  work.batch = static_cast<std::int64_t>(prompt.size());
  work.query_length = static_cast<std::int64_t>(prompt[0].size());
  work.executes = true;
  Graph graph;
  model.trace(work, graph);
  if (mutation) CHECK(mutation(graph) > 0);
  const ParameterPaths paths(model.root());
  Executor executor(
      [&](const Parameter& parameter, std::int64_t layer, std::int64_t member) {
        const std::string path = paths(parameter, layer, member);
        return experts > 0 ? next_expert(path, experts) : path;
      },
      {.ranks = 1, .max_sequence_length = work.query_length, .context = {}});
  std::vector<std::vector<std::int64_t>> ids(1);
  for (const auto& request : prompt) ids[0].insert(ids[0].end(), request.begin(), request.end());
  executor.run(graph, ids);
  const std::vector<float> logits = executor.logits(0);
  const std::size_t width = logits.size() / prompt.size();
  double most = 0;
  double largest = 0;
  for (std::size_t request = 0; request < prompt.size(); ++request) {
    const auto expected = golden.at("logits")[request].back().get<std::vector<double>>();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double found = static_cast<double>(logits[request * width + i]);
      REQUIRE(std::isfinite(found));
      most = std::max(most, std::abs(found - expected[i]));
      largest = std::max(largest, std::abs(expected[i]));
    }
  }
  return most / largest;
}

}  // namespace

TEST_CASE("without a mutation the logits agree") {
  for (const char* name : {"llama-odd", "mistral-odd", "qwen2-plain", "qwen3_moe-plain"}) {
    CAPTURE(name);
    CHECK(mutated_error(name, {}) < tolerance);
  }
}

TEST_CASE("mutations move the logits by more than a hundred tolerances") {
  const Mutation scaled = each<Attention>([](Attention& op, Op&) {
    op.scale *= 1.25;
    return true;
  });
  const auto window = [](std::int64_t by) {
    return each<Attention>([by](Attention& op, Op&) {
      if (op.span.window == 0) return false;
      op.span.window += by;
      return true;
    });
  };
  const Mutation swapped = each<Elementwise>([](Elementwise& op, Op& use) {
    if (op.kind != ElementwiseKind::silu_mul) return false;
    const TensorId first = use.inputs[0];
    use.inputs.set(0, use.inputs[1]);
    use.inputs.set(1, first);
    return true;
  });
  const Mutation no_bias = each<MatMul>([](MatMul& op, Op& use) {
    if (!op.bias) return false;
    op.bias = false;
    drop_input(use, 2);
    return true;
  });
  const Mutation interleaved = each<Rotary>([](Rotary& op, Op&) {
    op.interleaved = !op.interleaved;
    return true;
  });
  const Mutation unnormalized = each<Route>([](Route& op, Op&) {
    op.normalize = !op.normalize;
    return true;
  });
  struct Row {
    const char* what;
    const char* golden;
    Mutation mutation;
    std::int64_t experts = 0;
  };
  const std::vector<Row> rows = {
      {"no rotary", "llama-plain", no_rotary},
      {"no rotary", "deepseek_v3-plain", no_rotary},
      {"neighbours rotated instead of halves", "qwen3-plain", interleaved},
      {"wrong softmax scale", "llama-plain", scaled},
      {"wrong softmax scale", "deepseek_v3-plain", scaled},
      {"window one longer", "mistral-odd", window(1)},
      {"window one shorter", "mistral-odd", window(-1)},
      {"gate and up swapped", "llama-plain", swapped},
      {"gate and up swapped", "qwen3_moe-plain", swapped},
      {"biases dropped", "qwen2-plain", no_bias},
      {"norm dropped", "qwen3-plain", without_norm("q_norm")},
      {"norm dropped", "llama-plain", without_norm("norm")},
      {"norm dropped", "deepseek_v3-plain", without_norm("kv_a_layernorm")},
      {"routing weights not normalized", "qwen3_moe-plain", unnormalized},
      {"experts in another order", "mixtral-plain", {}, 4},
      {"experts in another order", "qwen3_moe-plain", {}, 4},
      {"experts in another order", "deepseek_v3-plain", {}, 4},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CAPTURE(row.golden);
    CHECK(mutated_error(row.golden, row.mutation, row.experts) > 100 * tolerance);
  }
}
