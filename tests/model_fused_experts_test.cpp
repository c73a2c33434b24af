// Experts that are stored together: what their products say, quantized and on several ranks, and
// what is refused.
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/model/fused_experts.h"

using namespace tcast;

namespace {

constexpr std::int64_t experts = 4;
constexpr std::int64_t hidden = 16;
constexpr std::int64_t width = 24;

GroupedFusedExperts grouped() {
  FusedExperts original("Experts", experts, hidden, width, 7, DType::bf16);
  return GroupedFusedExperts(original);
}

/// The grouped products of a forward pass over `rows` rows.
std::vector<GroupedMatMul> products(const GroupedFusedExperts& module, std::int64_t rows) {
  Graph graph;
  Trace trace(graph, {.phase = Phase::prefill, .batch = 1, .query_length = rows});
  const Value x = trace.input("token ids", {rows, hidden}, DType::bf16);
  const Value counts = trace.input("positions", {experts}, DType::i64);
  module.run(trace, x, counts, {static_cast<double>(rows), experts});
  trace.finish();
  std::vector<GroupedMatMul> list;
  for (const Op& op : graph.regions[0].ops) {
    if (const auto* product = std::get_if<GroupedMatMul>(&op.record)) list.push_back(*product);
  }
  return list;
}

LinearQuantization per_channel(DType weight) {
  LinearQuantization quantization;
  quantization.weight = weight;
  quantization.scales.block_rows = 1;
  quantization.scales.block_columns = 0;
  return quantization;
}

std::string error_of_shards(std::int64_t tensor, std::int64_t expert) {
  GroupedFusedExperts module = grouped();
  try {
    module.shard_tensor({tensor, 1}, "mlp.experts");
    module.shard_experts({expert, 1}, "mlp.experts");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("fused experts: two products with biases, the second one's shared out over the ranks") {
  GroupedFusedExperts module = grouped();
  const GroupedMatMul gate_up{.experts = experts,
                              .distinct_experts = experts,
                              .rows = 10,
                              .n = 2 * width,
                              .k = hidden,
                              .bias = true};
  GroupedMatMul down = gate_up;
  down.n = hidden;
  down.k = width;
  CHECK(products(module, 10) == std::vector<GroupedMatMul>{gate_up, down});

  module.shard_tensor({2, 1}, "experts");
  module.shard_experts({2, 2}, "experts");
  GroupedMatMul half_up = gate_up;
  half_up.experts = 2;
  half_up.n = width;
  GroupedMatMul half_down = down;
  half_down.experts = 2;
  half_down.k = width / 2;
  half_down.bias_scale = 0.5;
  CHECK(products(module, 10) == std::vector<GroupedMatMul>{half_up, half_down});
  CHECK(module.find_parameter("down_proj")->local_shape() == Shape{2, hidden, width / 2});
  CHECK(module.find_parameter("down_proj")->checkpoint_shape() == Shape{experts, width, hidden});
  CHECK(module.find_parameter("down_proj_bias")->local_shape() == Shape{2, hidden});
  CHECK(module.find_parameter("gate_up_proj_bias")->local_shape() == Shape{2, width});
}

TEST_CASE("fused experts: quantized with one scale for each output") {
  GroupedFusedExperts module = grouped();
  LinearQuantization dynamic = per_channel(DType::i8);
  dynamic.activation = DType::i8;
  module.quantize(dynamic);
  module.shard_tensor({2, 1}, "experts");
  const std::vector<GroupedMatMul> list = products(module, 10);
  REQUIRE(list.size() == 2);
  CHECK(list[0].weight == DType::i8);
  CHECK(list[0].compute == DType::i8);
  CHECK(list[0].weight_scale_count() == width);
  CHECK(list[0].activation_scale_count() == 10);
  CHECK(list[1].weight_scale_count() == hidden);
  CHECK(list[1].bias_scale == 0.5);
  CHECK(module.find_parameter("gate_up_proj_scale")->local_shape() == Shape{experts, width, 1});
  CHECK(module.find_parameter("down_proj_scale")->local_shape() == Shape{experts, hidden, 1});
}

// The grids of linears, for each expert: cut over ranks before or after.
TEST_CASE("fused experts: any grid of scales, with zero points, whole and cut") {
  struct Row {
    const char* what;
    ScaleGrid grid;
    Shape up, down;            // scales of the whole
    Shape half_up, half_down;  // of one of two ranks
  };
  const Row rows[] = {
      {"blocks", {8, 8}, {4, 6, 2}, {4, 2, 3}, {4, 3, 2}, {4, 2, 2}},
      {"groups of the inputs, in 16 bit",
       {1, 4, DType::bf16},
       {4, 48, 4},
       {4, 16, 6},
       {4, 24, 4},
       {4, 16, 3}},
      {"groups with zero points",
       {1, 4, DType::f16, DType::i4},
       {4, 48, 4},
       {4, 16, 6},
       {4, 24, 4},
       {4, 16, 3}},
      {"one for all", {0, 0}, {4, 1, 1}, {4, 1, 1}, {4, 1, 1}, {4, 1, 1}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    LinearQuantization format;
    format.weight = row.grid.zero_points ? DType::i4 : DType::f8_e4m3;
    format.scales = row.grid;
    GroupedFusedExperts module = grouped();
    module.quantize(format);
    CHECK(module.fault().empty());
    const Parameter* up = module.find_parameter("gate_up_proj_scale");
    const Parameter* down = module.find_parameter("down_proj_scale");
    REQUIRE(up != nullptr);
    REQUIRE(down != nullptr);
    CHECK(up->shape == row.up);
    CHECK(down->shape == row.down);
    CHECK(up->dtype == row.grid.dtype);
    const Parameter* const zero = module.find_parameter("gate_up_proj_zero_point");
    CHECK((zero != nullptr) == row.grid.zero_points.has_value());
    if (zero != nullptr) {
      CHECK(zero->shape == row.up);
      CHECK(zero->dtype == DType::i4);
    }
    const std::vector<GroupedMatMul> list = products(module, 10);
    REQUIRE(list.size() == 2);
    CHECK(list[0].weight_scales == row.grid);
    CHECK(list[0].weight_scale_count() == row.up.elements() / experts);
    CHECK(list[1].weight_scale_count() == row.down.elements() / experts);
    module.shard_tensor({2, 1}, "experts");
    GroupedFusedExperts last = grouped();
    last.shard_tensor({2, 1}, "experts");
    last.quantize(format);
    for (const GroupedFusedExperts* cut : {&module, &last}) {
      CHECK(cut->find_parameter("gate_up_proj_scale")->local_shape() == row.half_up);
      CHECK(cut->find_parameter("down_proj_scale")->local_shape() == row.half_down);
    }
    last.shard_experts({4, 1}, "experts");
    CHECK(last.find_parameter("gate_up_proj_scale")->local_shape()[0] == 1);
  }
}

TEST_CASE("fused experts: ranks that do not divide are refused") {
  CHECK(error_of_shards(1, 3) == "mlp.experts: 4 experts cannot be divided over ep 3");
  CHECK(error_of_shards(5, 1) ==
        "mlp.experts: an intermediate size of 24 cannot be divided over 5 ranks");
}
