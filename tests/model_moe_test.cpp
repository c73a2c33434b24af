// What the products of routed experts expect of a pass: real numbers of rows and distinct experts,
// the same in the eager loop and in the fused block, and none lost when they are spread (S6, D17).
#include <cmath>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/cost/op_cost.h"
#include "tcast/graph/expert_routing.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

using namespace tcast;
using doctest::Approx;

namespace {

TransformerModel build(const std::string& name, const ModelOptions& options = {}) {
  HfConfig config =
      HfConfig::load(std::string(TCAST_SOURCE_DIR) + "/configs/models/" + name + ".json");
  ModelProfile profile = load_profile(config.model_type(), {});
  return build_model(std::move(config), std::move(profile), options);
}

TransformerModel transformed(const std::string& name, const ModelOptions& options) {
  TransformerModel model = build(name, options);
  transform(model);
  return model;
}

std::vector<GroupedMatMul> products(const TransformerModel& model, const Workload& work) {
  Graph graph;
  model.trace(work, graph);
  std::vector<GroupedMatMul> list;
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    for (const Op& op : graph.regions[r].ops) {
      if (const auto* product = std::get_if<GroupedMatMul>(&op.record)) list.push_back(*product);
    }
  }
  return list;
}

/// Expected distinct experts under independent even routing, written down once more.
double distinct(double tokens, double experts, double top_k) {
  return experts * (1 - std::pow(1 - top_k / experts, tokens));
}

}  // namespace

TEST_CASE("a token counts once for all ranks that share the experts") {  // S6, D17
  struct Row {
    std::int64_t devices, tp, ep, requests, query;
    double tokens;  ///< of the ranks that share the experts
  };
  const Row rows[] =
      {
          {1, 1, 1, 16, 1, 16}, {1, 1, 1, 2, 33, 66}, {8, 1, 8, 16, 1, 16},
          {8, 8, 8, 16, 1, 16}, {8, 8, 1, 16, 1, 16}, {64, 4, 64, 128, 1, 128},
          {8, 1, 1, 16, 1, 2},   // replicas with experts of their own
          {8, 1, 8, 1, 1, 1},    // seven replicas without a request
          {8, 1, 4, 5, 1, 4},    // two groups of four replicas: 4 and 1 requests
          {8, 1, 4, 13, 2, 16},  // 8 and 5 requests
          {8, 2, 4, 6, 1, 4},    // groups of two replicas: 2 + 2, 1 + 1 requests
          {8, 2, 4, 6, 7, 28},   //
          {16, 4, 2, 7, 1, 2},   // a group inside each replica
      };
  for (const char* name : {"qwen3-235b-a22b", "gpt-oss-20b-bf16"}) {
    for (const Row& row : rows) {
      for (const double skew : {0.0, 0.7}) {
        ModelOptions options;
        options.parallel = {row.devices, row.tp, row.ep};
        options.expert_skew = skew;
        if (std::string(name) == "gpt-oss-20b-bf16" && row.ep > 32) continue;
        CAPTURE(name);
        CAPTURE(row.devices);
        CAPTURE(row.tp);
        CAPTURE(row.ep);
        CAPTURE(row.requests);
        const TransformerModel model = transformed(name, options);
        Workload work;
        work.phase = row.query > 1 ? Phase::prefill : Phase::decode;
        work.batch = ceil_div(row.requests, options.parallel.dp());
        work.query_length = row.query;
        work.context_length = row.query > 1 ? 0 : 100;
        work.requests = row.requests;
        const std::vector<GroupedMatMul> list = products(model, work);
        REQUIRE(!list.empty());
        for (const GroupedMatMul& product : list) {
          const ExpertRouting& routing = product.routing;
          CHECK(routing.tokens == Approx(row.tokens).epsilon(1e-12));
          CHECK(routing.ranks == row.ep);
          CHECK(product.experts * row.ep == routing.num_experts);
          // Ranks together have every row, and as many distinct experts as one rank would.
          ExpertLoad sum;
          for (std::int64_t rank = 0; rank < row.ep; ++rank) {
            const ExpertLoad load = expert_load(routing, rank);
            sum.rows += load.rows;
            sum.distinct_experts += load.distinct_experts;
          }
          const auto top_k = static_cast<double>(routing.top_k);
          CHECK(sum.rows == Approx(row.tokens * top_k).epsilon(1e-12));
          if (skew == 0) {
            const double all =
                distinct(row.tokens, static_cast<double>(routing.num_experts), top_k);
            CHECK(sum.distinct_experts == Approx(all).epsilon(1e-12));
            CHECK(product.rows * static_cast<double>(row.ep) ==
                  Approx(row.tokens * top_k).epsilon(1e-12));
            CHECK(product.distinct_experts * static_cast<double>(row.ep) ==
                  Approx(all).epsilon(1e-12));
          }
          // The busiest rank is priced.
          CHECK(product.rows == expert_load(routing, 0).rows);
          CHECK(product.distinct_experts == expert_load(routing, 0).distinct_experts);
        }
      }
    }
  }
}

TEST_CASE("the loop over experts reads and multiplies what the fused block does") {  // S6, D17
  struct Sums {
    double flops = 0;
    double weight_bytes = 0;
  };
  const auto sums = [](const TransformerModel& model, const Workload& work) {
    Graph graph;
    model.trace(work, graph);
    const std::vector<std::int64_t> calls = graph.calls_per_region();
    Sums all;
    for (std::uint32_t r = 0; r < graph.region_count; ++r) {
      for (const Op& op : graph.regions[r].ops) {
        const OpWork one = work_of(op.record);
        const double times = static_cast<double>(calls[r]) * op.runs;
        all.flops += times * one.matrix_flops;
        all.weight_bytes += times * one.cold_bytes;
      }
    }
    return all;
  };
  for (const char* name : {"qwen3-30b-a3b", "deepseek-v2-lite", "qwen1.5-moe-a2.7b", "mixtral-8x7b",
                           "olmoe-1b-7b", "gpt-oss-20b-bf16", "glm-4.5-air"}) {
    ModelOptions options;
    options.num_hidden_layers = 3;
    const TransformerModel eager = build(name, options);
    TransformerModel fused = build(name, options);
    patch_moe(fused);
    for (const std::int64_t tokens : {1, 2, 3, 5, 8, 16, 17, 100, 999}) {
      CAPTURE(name);
      CAPTURE(tokens);
      for (const Phase phase : {Phase::decode, Phase::prefill}) {
        Workload work;
        work.phase = phase;
        work.batch = phase == Phase::decode ? tokens : 1;
        work.query_length = phase == Phase::decode ? 1 : tokens;
        work.context_length = phase == Phase::decode ? 7 : 0;
        const Sums loop = sums(eager, work);
        const Sums grouped = sums(fused, work);
        CHECK(loop.flops == Approx(grouped.flops).epsilon(1e-9));
        CHECK(loop.weight_bytes == Approx(grouped.weight_bytes).epsilon(1e-9));
      }
    }
  }
}

TEST_CASE("each expert of the loop is expected to run as often as it has rows") {  // S6
  const auto runs_of = [](const TransformerModel& model, bool executes) {
    Graph graph;
    Workload work;
    work.phase = Phase::decode;
    work.batch = 16;
    work.query_length = 1;
    work.context_length = 5;
    work.executes = executes;
    model.trace(work, graph);
    std::vector<double> runs;
    for (const Op& op : graph.regions[1].ops) {
      const auto* pick = std::get_if<Permute>(&op.record);
      if (pick != nullptr && pick->expert >= 0) runs.push_back(op.runs);
    }
    return runs;
  };
  ModelOptions options;
  options.num_hidden_layers = 1;
  const TransformerModel model = build("qwen3-30b-a3b", options);
  const std::vector<double> expected = runs_of(model, false);
  REQUIRE(expected.size() == 128);
  double sum = 0;
  for (const double runs : expected) {
    CHECK(runs == Approx(distinct(16, 128, 8) / 128).epsilon(0.01));
    sum += runs;
  }
  CHECK(sum == Approx(distinct(16, 128, 8)).epsilon(1e-12));
  for (const double runs : runs_of(model, true)) CHECK(runs == 1);
}

TEST_CASE("experts that are stored in different ways share rows and distinct experts out") {  // S6
  ModelOptions options;
  options.quantize_linear = LinearScheme::w8a8_dynamic;
  options.quantize_ignore = {"re:.*experts[.](3|17)[.].*"};
  options.num_hidden_layers = 2;
  const TransformerModel model = transformed("qwen3-30b-a3b", options);
  Workload work;
  work.phase = Phase::decode;
  work.batch = 4;
  work.query_length = 1;
  work.context_length = 50;
  double rows = 0;
  double experts = 0;
  double held = 0;
  bool mixed = false;
  for (const GroupedMatMul& product : products(model, work)) {
    mixed = mixed || product.weight == DType::bf16;
    if (product.n != 2048) continue;  // the products that lead back to the hidden size
    rows += product.rows;
    experts += product.distinct_experts;
    held += static_cast<double>(product.experts);
    CHECK(product.distinct_experts ==
          Approx(static_cast<double>(product.experts) * distinct(4, 128, 8) / 128));
  }
  CHECK(mixed);
  const double layers = held / 128;
  CHECK(rows == Approx(layers * 32));
  CHECK(experts == Approx(layers * distinct(4, 128, 8)));
}
