#include <string>
#include <utility>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/graph/tensor.h"
#include "tcast/graph/trace.h"

#include "error_of.h"

namespace tcast {
namespace {

TEST_CASE("shapes print as PyTorch's") {
  CHECK(to_string(Shape{}) == "[]");
  CHECK(to_string(Shape{7}) == "[7]");
  CHECK(to_string(Shape{4096, 1024}) == "[4096, 1024]");
}

TEST_CASE("a shape has at most six dimensions, and only those") {  // S24
  static_assert(Shape{1, 2, 3, 4, 5, 6}.rank() == 6);
  static_assert(Shape{1, 2, 3, 4, 5, 6}[5] == 6);
  CHECK(Shape{1280, 3, 2, 14, 14}.elements() == 1280 * 3 * 2 * 14 * 14);
  CHECK(error_of([] {
          static_cast<void>(Shape{1, 2, 3, 4, 5, 6, 7});
        }) == "a tensor of rank 7, but at most 6 are supported | flatten neighbouring dimensions");
  Shape shape{4, 5};
  shape.set(1, 6);
  CHECK(shape == Shape{4, 6});
  for (const int i : {-1, 2, 5, 6, 1000000}) {
    CAPTURE(i);
    const std::string expected = fmt::format("a tensor of shape [4, 6] has no dimension {}", i);
    CHECK(error_of([&] { static_cast<void>(shape[i]); }) == expected);
    CHECK(error_of([&] { shape.set(i, 1); }) == expected);
  }
  CHECK(error_of([] { static_cast<void>(Shape{}[0]); }) ==
        "a tensor of shape [] has no dimension 0");
}

TEST_CASE("fixed lists of operands end where they end") {  // S24
  IdList ids;
  for (std::uint32_t i = 0; i < max_operands; ++i) ids.push(i);
  CHECK(ids[5] == 5);
  const std::string many =
      "an operator, or a call of a layer, has more than 6 operands on a side | join tensors, or "
      "compute in several operators";
  CHECK(error_of([&] { ids.push(6); }) == many);
  CHECK(error_of([&] { static_cast<void>(ids[6]); }) == "there is no operand 6 among 6");
  CHECK(error_of([&] { static_cast<void>(ids[-1]); }) != "");
  CHECK(error_of([&] { ids.set(6, 0); }) != "");
  CHECK(error_of([] { Operands{{}, {}, {}, {}, {}, {}, {}}; }) == many);
  Operands two{{}, {}};
  CHECK(error_of([&] { two[2] = {}; }) == "there is no operand 2 among 2");
  CustomOp op;
  op.sizes = {1, 2};
  CHECK(op.sizes[1] == 2);
  CHECK(error_of([&] { op.sizes[8] = 1; }) ==
        "a registered operator has 8 sizes, there is no sizes[8]");
  CHECK(error_of([&] { static_cast<void>(std::as_const(op).sizes[100]); }) != "");
}

TEST_CASE("a trace refuses what its lists cannot hold") {  // S24
  Graph graph;
  Trace trace(graph, {});
  CHECK(error_of([&] { trace.add_result({1}, DType::f32); }) ==
        "a further result was added before any operator was traced");
  const Value x = trace.input("token ids", {4, 4}, DType::bf16);
  CHECK(error_of([&] {
          trace.rearrange(CopyKind::concat, {x, x, x}, {}, {4, 4});
        }) == "there is no operand 2 among 2");
  static_cast<void>(trace.unary(ElementwiseKind::silu, x));
  for (std::size_t i = 1; i < max_operands; ++i) trace.add_result({1}, DType::f32);
  CHECK(error_of([&] { trace.add_result({1}, DType::f32); }) != "");
}

TEST_CASE("scale grids: how many scales a matrix has, and which of them an element") {
  struct Row {
    ScaleGrid grid;
    std::int64_t rows, columns;  // of scales, of a matrix [200, 300]
    std::int64_t index;          // of the element in row 130, column 260
  };
  const Row rows[] = {
      {{1, 0}, 200, 1, 130},       {{0, 0}, 1, 1, 0},   {{128, 128}, 2, 3, 3 + 2},
      {{1, 128}, 200, 3, 390 + 2}, {{0, 100}, 1, 3, 2}, {{64, 0}, 4, 1, 2},
      {{512, 512}, 1, 1, 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.grid.block_rows);
    CAPTURE(row.grid.block_columns);
    CHECK(row.grid.rows(200) == row.rows);
    CHECK(row.grid.columns(300) == row.columns);
    CHECK(row.grid.count(200, 300) == row.rows * row.columns);
    CHECK(row.grid.index(130, 260, 300) == row.index);
    CHECK(row.grid.index(199, 299, 300) == row.rows * row.columns - 1);
  }
}

TEST_CASE("parameters are equal when all of their fields are") {  // S1
  Parameter one;
  one.name = "weight";
  one.shape = {8, 4};
  using Change = void (*)(Parameter&);
  const Change changes[] = {
      [](Parameter& p) { p.name = "bias"; },
      [](Parameter& p) {
        p.shape = {4, 8};
      },
      [](Parameter& p) { p.dtype = DType::f32; },
      [](Parameter& p) { p.role = InitRole::norm; },
      [](Parameter& p) { p.quantized_from = DType::bf16; },
      [](Parameter& p) { p.transposed = true; },
      [](Parameter& p) { p.buffer = true; },
      [](Parameter& p) { p.stored_name = "weight_packed"; },
      [](Parameter& p) { p.part = QuantizationPart::scales; },
      [](Parameter& p) { p.grid.block_rows = 2; },
      [](Parameter& p) { p.grid.block_columns = 1; },
      [](Parameter& p) { p.grid.dtype = DType::bf16; },
      [](Parameter& p) { p.grid.zero_points = DType::i4; },
      [](Parameter& p) { p.tied_to = "a.weight"; },
      [](Parameter& p) { p.shard.dim = 0; },
      [](Parameter& p) { p.shard.stride = 2; },
      [](Parameter& p) {
        p.shard.segments = {{8, 2}};
      },
      [](Parameter& p) { p.stack.ranks = 2; },
  };
  CHECK(Parameter(one) == one);
  for (const Change change : changes) {
    Parameter other = one;
    change(other);
    CHECK_FALSE(other == one);
  }
}

TEST_CASE("a rank's slice of a parameter") {
  struct Row {
    std::string what;
    Shape shape;
    Shard shard;
    Shape local;
  };
  const Row rows[] = {
      {"whole", {4096, 1024}, {}, {4096, 1024}},
      {"one rank", {4096, 1024}, {.dim = 0, .ranks = 1, .segments = {{4096, 1}}}, {4096, 1024}},
      {"rows", {4096, 1024}, {.dim = 0, .ranks = 8, .segments = {{4096, 8}}}, {512, 1024}},
      {"columns", {4096, 1024}, {.dim = 1, .ranks = 8, .segments = {{1024, 8}}}, {4096, 128}},
      {"no segments", {4096, 1024}, {.dim = 0, .ranks = 8}, {512, 1024}},
      {"padded vocabulary",
       {50257, 768},
       {.dim = 0, .ranks = 4, .segments = {{50257, 4}}},
       {12565, 768}},
      {"fused qkv, kv heads replicated",
       {5120, 4096},
       {.dim = 0, .ranks = 8, .segments = {{4096, 8}, {512, 4}, {512, 4}}},
       {768, 4096}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const Parameter parameter{.name = "weight", .shape = row.shape, .shard = row.shard};
    CHECK(to_string(parameter.local_shape()) == to_string(row.local));
    CHECK(parameter.local_bytes() == row.local.elements() * 2);
  }
}

TEST_CASE("a tied parameter takes no memory, a 4-bit one half a byte per element") {
  CHECK(Parameter{.name = "weight", .shape = {8, 8}, .tied_to = "model.embed_tokens.weight"}
            .local_bytes() == 0);
  CHECK(Parameter{.name = "weight", .shape = {3, 3}, .dtype = DType::i4}.local_bytes() == 5);
}

TEST_CASE("a shard along a missing dimension is our bug") {
  const Parameter parameter{.name = "bias", .shape = {8}, .shard = {.dim = 1, .ranks = 2}};
  CHECK_THROWS_AS(static_cast<void>(parameter.local_shape()), InternalError);
}

}  // namespace
}  // namespace tcast
