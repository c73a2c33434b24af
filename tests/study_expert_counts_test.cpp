// Experts that the tokens of an execution went to, counted and put in the place of expected ones
// (D7).
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/device/device_profile.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/expert_counts.h"
#include "tcast/study/simulation.h"
#include "tcast/study/single_pass.h"
#include "tcast/transform/pipeline.h"

namespace {

using namespace tcast;
using doctest::Approx;

/// Counts a pass in which the tokens of a layer went to these experts, `top_k` for each token.
void add(ExpertCounts& counts, Phase phase, std::int64_t layer, std::int64_t num_experts,
         std::int64_t top_k, std::vector<std::int64_t> experts) {
  Route op;
  op.experts = num_experts;
  op.top_k = top_k;
  op.tokens = static_cast<std::int64_t>(experts.size()) / top_k;
  RoutingCall call{op, "mlp", layer, 0, 0, op.tokens, {}, {}, {}, {}, phase};
  call.experts = {static_cast<std::byte*>(static_cast<void*>(experts.data())),
                  static_cast<std::int64_t>(experts.size()) * 8,
                  DType::i64,
                  {}};
  counts.add(call);
}

GroupedMatMul product(double tokens, double share) {
  const ExpertLoad load = expert_load({tokens, 8, 2}).part(share);
  GroupedMatMul op;
  op.experts = static_cast<std::int64_t>(8 * share);
  op.distinct_experts = load.distinct_experts;
  op.rows = load.rows;
  op.routing = load.routing;
  return op;
}

}  // namespace

TEST_CASE("distinct experts are counted pass by pass and layer by layer") {  // S6, D17
  ExpertCounts counts;
  CHECK(!counts.mean(Phase::prefill));
  add(counts, Phase::prefill, 0, 8, 2, {0, 1, 0, 1, 7, 1});  // 3 experts
  add(counts, Phase::prefill, 3, 8, 2, {0, 1, 2, 3, 4, 5});  // 6
  add(counts, Phase::decode, 0, 8, 2, {0, 1});
  add(counts, Phase::decode, 0, 8, 2, {5, 1, 2, 3});
  CHECK(*counts.mean(Phase::prefill) == Approx(4.5));
  CHECK(*counts.mean(Phase::prefill, {3}) == Approx(6));
  CHECK(*counts.mean(Phase::decode) == Approx(3));
  CHECK(!counts.mean(Phase::decode, {3}));
  counts.clear();
  CHECK(!counts.mean(Phase::decode));
}

TEST_CASE("a graph gets the distinct experts of the layers that call its regions") {  // S6, D7
  ExpertCounts counts;
  add(counts, Phase::decode, 0, 8, 2, {0, 1, 0, 1});  // 2 experts
  add(counts, Phase::decode, 1, 8, 2, {0, 1, 2, 1});  // 3
  add(counts, Phase::decode, 2, 8, 2, {0, 1, 2, 3});  // 4
  Graph graph;
  graph.workload.phase = Phase::decode;
  graph.region_count = 3;
  graph.regions.resize(3);
  graph.regions[0].ops.push_back({.record = product(2, 1)});
  graph.regions[1].ops.push_back({.record = product(2, 0.25)});
  graph.regions[1].ops.push_back({.record = product(2, 0.75)});
  graph.regions[2].ops.push_back({.record = product(2, 1)});
  for (const auto& [region, member] :
       std::vector<std::pair<std::uint32_t, std::int32_t>>{{0, 0}, {0, 1}, {1, 2}, {2, 9}}) {
    graph.calls.push_back({.region = region, .member = member});
  }
  counts.put_into(graph);
  const auto at = [&](std::size_t region, std::size_t op) {
    return std::get<GroupedMatMul>(graph.regions[region].ops[op].record);
  };
  CHECK(at(0, 0).distinct_experts == Approx(2.5));
  CHECK(at(0, 0).rows == Approx(4));
  CHECK(at(0, 0).routing.num_experts == 0);  // counted, so no formula explains it
  // Products of parts of the experts: parts of what was counted.
  CHECK(at(1, 0).distinct_experts == Approx(1));
  CHECK(at(1, 1).distinct_experts == Approx(3));
  // Nothing was counted of layer 9.
  CHECK(at(2, 0).distinct_experts == Approx(8 * (1 - 0.75 * 0.75)));
  CHECK(at(2, 0).routing.num_experts == 8);
}

TEST_CASE("a simulation prices the distinct experts that were counted") {  // S6, D7
  HfConfig config =
      HfConfig::load(std::string(TCAST_SOURCE_DIR) + "/configs/models/olmoe-1b-7b.json");
  ModelProfile profile = load_profile(config.model_type(), {});
  ModelOptions options;
  options.num_hidden_layers = 2;
  TransformerModel model = build_model(std::move(config), std::move(profile), options);
  transform(model);
  const Workload step{.phase = Phase::decode, .batch = 2, .query_length = 1, .context_length = 9};
  const auto expert_bytes = [&](const ExpertCounts& counts) {
    Simulation simulation(model, std::make_unique<SinglePass>(step, Deployment{}));
    simulation.use(counts);
    simulation.run(load_device("h200"), false);
    Report report;
    simulation.fill(report);
    double bytes = 0;
    for (const ReportOp& op : report.ops) bytes += op.name == "grouped_matmul" ? op.bytes : 0;
    return bytes;
  };
  ExpertCounts counts;
  const double expected = expert_bytes(counts);
  // 8 of 64 experts for a token: both tokens to the same 8 in one layer, to 15 in the other.
  add(counts, Phase::decode, 0, 64, 8, {0, 1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 1, 0});
  add(counts, Phase::decode, 1, 64, 8, {0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14});
  const double of_expert = 3.0 * 2048 * 1024 * 2;
  CHECK(expected - expert_bytes(counts) ==
        Approx(2 * of_expert * (64 * (1 - 0.875 * 0.875) - 11.5)));
}

TEST_CASE("experts are dealt evenly") {
  struct Row {
    std::int64_t tokens, experts, top_k, first;
    std::int64_t least, most;
  };
  for (const Row& row : {Row{8, 4, 2, 0, 4, 4}, Row{1, 8, 2, 0, 0, 1}, Row{5, 8, 3, 2, 1, 2},
                         Row{7, 7, 7, 3, 7, 7}}) {
    Route op;
    op.tokens = row.tokens;
    op.experts = row.experts;
    op.top_k = row.top_k;
    for (const DType dtype : {DType::i32, DType::i64}) {
      std::vector<std::int64_t> room(static_cast<std::size_t>(row.tokens * row.top_k), -1);
      RoutingCall call{op, "mlp", 0, 0, row.first, row.tokens, {}, {}, {}, {}};
      call.experts = {static_cast<std::byte*>(static_cast<void*>(room.data())),
                      bytes_of(row.tokens * row.top_k, dtype),
                      dtype,
                      {}};
      choose_evenly(call);
      const auto* narrow = static_cast<const std::int32_t*>(static_cast<const void*>(room.data()));
      std::map<std::int64_t, std::int64_t> rows_of;
      for (std::int64_t token = 0; token < row.tokens; ++token) {
        std::map<std::int64_t, int> chosen;
        for (std::int64_t k = 0; k < row.top_k; ++k) {
          const auto i = static_cast<std::size_t>(token * row.top_k + k);
          const std::int64_t expert = dtype == DType::i64 ? room[i] : narrow[i];
          CHECK(expert >= 0);
          CHECK(expert < row.experts);
          ++chosen[expert];
          ++rows_of[expert];
        }
        CHECK(static_cast<std::int64_t>(chosen.size()) == row.top_k);  // none twice
      }
      for (std::int64_t expert = 0; expert < row.experts; ++expert) {
        CHECK(rows_of[expert] >= row.least);
        CHECK(rows_of[expert] <= row.most);
      }
    }
  }
}
