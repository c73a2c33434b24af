// The nine steps in any order and any number of times: the numbers of the standard order, or a
// refusal that names two steps, or a warning; never other numbers in silence.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/cost/op_cost.h"
#include "tcast/exec/threads.h"
#include "tcast/model/decoder.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/generation.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

#include "error_of.h"
#include "linked_plugins.h"

using namespace tcast;

namespace {

using nlohmann::json;
using Order = std::vector<std::string>;

json config_of(const std::string& golden) {
  std::ifstream stream(std::string(TCAST_SOURCE_DIR) + "/tests/data/logits/" + golden + ".json");
  return json::parse(stream).at("config");
}

TransformerModel build(const json& config, ModelOptions options) {
  options.dtype = DType::f32;
  HfConfig parsed = HfConfig::parse(config.dump(), "config.json");
  ModelProfile profile = load_profile(parsed.model_type(), {});
  return build_model(std::move(parsed), std::move(profile), std::move(options));
}

/// Runs steps as a hook does, so that what nobody carried out is refused.
class HookedSteps {
 public:
  HookedSteps() : linked_(true) {
    linked_.add("custom_model", {"in_this_order"},
                CustomModelHook{[](TransformerModel& model) {
                                  for (const std::string& name : order) {
                                    for (const StepInfo& step : standard_steps()) {
                                      if (step.name == name) step.function(model);
                                    }
                                  }
                                },
                                {}},
                "custom_model/order.cpp");
    linked_.link();
  }

  TransformerModel run(const json& config, ModelOptions options, const Order& steps) {
    order = steps;
    options.custom_models = {"*=in_this_order"};
    TransformerModel model = build(config, std::move(options));
    transform(model);
    return model;
  }

 private:
  LinkedPlugins linked_;
  static inline Order order;
};

/// What a model costs, in numbers that no rounding changes.
struct Figures {
  std::int64_t weight_bytes = 0;
  std::int64_t cache_bytes = 0;
  std::int64_t parameters = 0;
  double flops = 0;
  double bytes = 0;

  /// Sums of real numbers (experts are expected ones) may differ in their last digits.
  bool operator==(const Figures& other) const {
    return weight_bytes == other.weight_bytes && cache_bytes == other.cache_bytes &&
           parameters == other.parameters && flops == doctest::Approx(other.flops).epsilon(1e-12) &&
           bytes == doctest::Approx(other.bytes).epsilon(1e-12);
  }
};

Figures figures_of(const TransformerModel& model) {
  Figures figures;
  figures.weight_bytes = model.weight_bytes();
  figures.parameters = model.count_parameters().total;
  for (const Workload& work :
       {Workload{Phase::prefill, 2, 7, 0}, Workload{Phase::decode, 2, 1, 9}}) {
    Graph graph;
    model.trace(work, graph);
    const std::vector<std::int64_t> calls = graph.calls_per_region();
    for (std::uint32_t r = 0; r < graph.region_count; ++r) {
      for (const Op& op : graph.regions[r].ops) {
        const OpWork one = work_of(op.record);
        figures.flops += static_cast<double>(calls[r]) * op.runs * one.flops();
        figures.bytes += static_cast<double>(calls[r]) * op.runs * one.bytes();
      }
      for (const CacheSpec& cache : graph.regions[r].caches) {
        figures.cache_bytes += calls[r] * cache.bytes(work.batch, work.sequence_length());
      }
    }
  }
  return figures;
}

/// Logits after a prompt and a decode step.
std::vector<LogitRows> logits_of(const TransformerModel& model) {
  Generation generation(model, 2, 6);
  const FollowingTokens following = [](std::int64_t depth) {
    return TokenIds{{1 + depth, 2, 3, 4}, {5, 6 + depth, 7, 8}};
  };
  std::vector<LogitRows> rows;
  rows.push_back(generation.step({{3, 1, 4, 1}, {5, 9, 2, 6}}, following));
  rows.push_back(generation.step({{5}, {8}}, [](std::int64_t depth) {
    return TokenIds{{depth}, {1 + depth}};
  }));
  return rows;
}

/// max |a - b| / max |b|.
double error_of_rows(const std::vector<LogitRows>& a, const std::vector<LogitRows>& b) {
  double most = 0;
  double largest = 0;
  for (std::size_t pass = 0; pass < b.size(); ++pass) {
    for (std::size_t row = 0; row < b[pass].size(); ++row) {
      for (std::size_t i = 0; i < b[pass][row].size(); ++i) {
        const double difference = std::abs(static_cast<double>(a.at(pass).at(row).at(i)) -
                                           static_cast<double>(b[pass][row][i]));
        if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
        most = std::max(most, difference);
        largest = std::max(largest, std::abs(static_cast<double>(b[pass][row][i])));
      }
    }
  }
  return most / largest;
}

Order standard_order() {
  Order order;
  for (const StepInfo& step : standard_steps()) order.emplace_back(step.name);
  return order;
}

bool warned(const TransformerModel& model) {
  return std::any_of(model.reports().begin(), model.reports().end(),
                     [](const StepReport& report) { return !report.warnings.empty(); });
}

struct Family {
  const char* golden;
  bool experts;
  bool mtp;
};
const Family families[] = {{"qwen3-plain", false, false},
                           {"qwen3_moe-plain", true, false},
                           {"deepseek_v3-plain", true, true},
                           {"gpt_oss-plain", true, false}};

json family_config(const Family& family) {
  json config = config_of(family.golden);
  if (family.mtp) config["num_nextn_predict_layers"] = 1;
  return config;
}

/// Options that ask for what a subset of the steps can do.
ModelOptions options_for(const Family& family, const Order& steps) {
  const auto has = [&steps](const char* name) {
    return std::find(steps.begin(), steps.end(), name) != steps.end();
  };
  ModelOptions options;
  if (has("shard_model")) {
    options.parallel.tp = 2;
    if (family.experts && has("patch_moe")) options.parallel.ep = 2;
  }
  if (has("quantize_model")) {
    options.quantize_linear = LinearScheme::w8a8_dynamic;
    if (has("patch_attention")) options.quantize_kv_cache = KvScheme::int8;
  }
  if (family.mtp && has("maybe_enable_mtp") && has("wrap_model")) options.num_mtp_tokens = 1;
  return options;
}

}  // namespace

TEST_CASE("steps in any order: the standard numbers, or a refusal") {  // S19
  set_threads(1);
  HookedSteps hook;
  for (const Family& family : families) {
    CAPTURE(family.golden);
    const json config = family_config(family);
    std::mt19937 random(7);
    int same = 0;
    int refused = 0;
    int executed = 0;
    for (int round = 0; round < 120; ++round) {
      Order order;
      // Most of them, so that most are about order.
      for (const std::string& step : standard_order()) {
        if (random() % 5 != 0) order.push_back(step);
      }
      const ModelOptions options = options_for(family, order);
      std::optional<TransformerModel> reference;
      try {
        reference = hook.run(config, options, order);
      } catch (const Error&) {
        // The subset cannot do what was asked for, in whatever order.
      }
      std::shuffle(order.begin(), order.end(), random);
      CAPTURE(fmt::format("{}", fmt::join(order, " ")));
      std::optional<TransformerModel> model;
      try {
        model = hook.run(config, options, order);
      } catch (const Error& error) {
        const std::string why = error.what();
        INFO(why);
        CHECK((why.find("comes after step") != std::string::npos ||
               why.find("was asked for, but") != std::string::npos ||
               why.find("are cut one by one already") != std::string::npos));
        ++refused;
        continue;
      }
      REQUIRE(reference.has_value());
      if (warned(*model)) continue;
      ++same;
      const Figures found = figures_of(*model);
      const Figures expected = figures_of(*reference);
      CHECK(found == expected);
      if (executed >= 8) continue;
      ++executed;
      CHECK(error_of_rows(logits_of(*model), logits_of(*reference)) < 1e-5);
    }
    CHECK(same >= 10);
    CHECK(refused >= 10);
    CHECK(executed == 8);
  }
}

TEST_CASE("reused layers have the figures of layers that are traced one by one") {  // S1
  std::vector<ModelOptions> variants(3);
  variants[1].quantize_linear = LinearScheme::w8a8_dynamic;
  variants[1].quantize_kv_cache = KvScheme::int8;
  variants[2].parallel.tp = 2;
  int compared = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(TCAST_SOURCE_DIR) + "/tests/data/shapes")) {
    CAPTURE(entry.path().filename().string());
    std::ifstream stream(entry.path());
    json config = json::parse(stream).at("config");
    for (const ModelOptions& options : variants) {
      ModelOptions without = options;
      without.reuse_layers = false;
      TransformerModel reused = build(config, options);
      TransformerModel written_out = build(config, without);
      try {
        transform(reused);
        transform(written_out);
      } catch (const Error&) {
        continue;  // sizes that do not divide
      }
      ++compared;
      CHECK(figures_of(reused) == figures_of(written_out));
    }
  }
  CHECK(compared > 90);
}

TEST_CASE("a step that is called again changes nothing") {  // S19
  set_threads(1);
  HookedSteps hook;
  for (const Family& family : families) {
    CAPTURE(family.golden);
    const json config = family_config(family);
    const ModelOptions options = options_for(family, standard_order());
    const TransformerModel reference = hook.run(config, options, standard_order());
    const Figures expected = figures_of(reference);
    for (const std::string& again : standard_order()) {
      CAPTURE(again);
      for (const bool at_once : {true, false}) {
        CAPTURE(at_once);
        Order order;
        for (const std::string& step : standard_order()) {
          order.push_back(step);
          if (at_once && step == again) order.push_back(step);
        }
        if (!at_once) order.push_back(again);
        const TransformerModel model = hook.run(config, options, order);
        CHECK(figures_of(model) == expected);
        CHECK(error_of_rows(logits_of(model), logits_of(reference)) < 1e-5);
        const StepReport* last = nullptr;
        for (const StepReport& report : model.reports()) {
          if (report.step == again) last = &report;
        }
        CHECK(last->changed_modules == 0);
        CHECK(last->changed.empty());
        CHECK_FALSE(last->skipped.empty());
        CHECK(last->expected.value_or(0) == 0);
      }
    }
  }
}

TEST_CASE("orders that would leave a part whole are refused by the names of both steps") {  // S19
  HookedSteps hook;
  struct Row {
    std::size_t family;
    Order order;
    const char* message;
  };
  const Row rows[] = {
      {2,
       {"wrap_model", "quantize_model", "maybe_enable_mtp"},
       "step 'maybe_enable_mtp' comes after step 'quantize_model': the projection eh_proj of the "
       "new layers would not be quantized | call maybe_enable_mtp before quantize_model"},
      {1,
       {"wrap_model", "shard_model", "patch_moe"},
       "step 'patch_moe' comes after step 'shard_model': the experts would not be spread as fused "
       "ones are | call patch_moe before shard_model"},
      {3,
       {"wrap_model", "shard_model", "patch_moe"},
       "step 'patch_moe' comes after step 'shard_model': the experts would not be spread as fused "
       "ones are | call patch_moe before shard_model"},
  };
  for (const Row& row : rows) {
    const Family& family = families[row.family];
    CAPTURE(family.golden);
    ModelOptions options = options_for(family, row.order);
    options.parallel.ep = 1;
    CHECK(error_of([&] { hook.run(family_config(family), options, row.order); }) ==
          std::string("the hook 'in_this_order' of plugin 'order' (custom_model/order.cpp:1): ") +
              row.message);
  }
}

TEST_CASE("scales that come after the cut are cut as their weights are") {  // S19
  for (const bool rows : {false, true}) {
    for (const auto& block : {std::pair{1, 0}, std::pair{0, 0}, std::pair{16, 16}}) {
      const int block_rows = block.first;
      const int block_columns = block.second;
      CAPTURE(rows);
      CAPTURE(block_rows);
      LinearQuantization scheme;
      scheme.scales.block_rows = block_rows;
      scheme.scales.block_columns = block_columns;
      Linear first(64, 96, true, DType::bf16);
      first.quantize(scheme);
      rows ? first.shard_rows({2, 1}) : first.shard_columns({2, 1}, {{64, 2}, {32, 1}});
      Linear last(64, 96, true, DType::bf16);
      rows ? last.shard_rows({2, 1}) : last.shard_columns({2, 1}, {{64, 2}, {32, 1}});
      last.quantize(scheme);
      CHECK(same_structure(first, last));
      CHECK(first.fault().empty());
    }
  }
}
