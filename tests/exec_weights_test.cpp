#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/exec/run/weights.h"

using namespace tcast;

namespace {

Buffer buffer_of(std::vector<float>& values, const Shape& shape) {
  return {static_cast<std::byte*>(static_cast<void*>(values.data())),
          static_cast<std::int64_t>(values.size() * 4), DType::f32, shape};
}

std::vector<float> generate(const Parameter& parameter, std::int64_t rank) {
  const Shape local = parameter.local_shape();
  std::vector<float> values(static_cast<std::size_t>(local.elements()), 77.0f);
  generate_parameter(parameter, "some.weight", rank, buffer_of(values, local));
  return values;
}

}  // namespace

TEST_CASE("values follow from the path, the index and the role") {
  // As scripts/goldens/weights.py computes them.
  std::vector<float> values(3);
  generate_values("a", {0.0f, 1.0f}, 0, 3, values.data());
  CHECK(values ==
        std::vector<float>{-0.2565380930900574f, 0.9962446093559265f, 0.9842130541801453f});
  std::vector<float> norm(3);
  generate_values("model.norm.weight", {1.0f, 0.25f}, 0, 3, norm.data());
  CHECK(norm == std::vector<float>{0x1.8c76cep-1f, 0x1.a3482ep-1f, 0x1.e6ed34p-1f});
  std::vector<float> later(1);
  generate_values("a", {0.0f, 1.0f}, 2, 1, later.data());
  CHECK(values[2] == later[0]);
  CHECK(values[0] != values[1]);
  for (const float value : values) CHECK(std::abs(value) < 1.0f);
  std::vector<float> other(3);
  generate_values("b", {0.0f, 1.0f}, 0, 3, other.data());
  CHECK(values != other);
}

// tests/architecture/check_weights.py compares what this prints with numpy's values.
TEST_CASE("print generated values" * doctest::skip()) {
  struct Row {
    const char* path;
    Parameter parameter;
  };
  const std::vector<Row> rows = {
      {"model.embed_tokens.weight", {.shape = {7, 24}, .role = InitRole::embedding}},
      {"model.layers.0.self_attn.q_proj.weight", {.shape = {16, 24}, .role = InitRole::query_key}},
      {"model.layers.0.self_attn.q_proj.bias", {.shape = {16}, .role = InitRole::bias}},
      {"model.layers.11.mlp.experts.63.up_proj.weight", {.shape = {10, 24}}},
      {"model.norm.weight", {.shape = {24}, .role = InitRole::norm}},
      {"model.layers.1.mlp.gate.e_score_correction_bias",
       {.shape = {9}, .role = InitRole::router_bias}},
      {"model.layers.1.self_attn.sinks", {.shape = {8}, .role = InitRole::sink}},
  };
  for (const Row& row : rows) {
    const std::int64_t count = row.parameter.shape.elements();
    std::vector<float> values(static_cast<std::size_t>(count));
    generate_values(row.path, value_range(row.parameter), 0, count, values.data());
    std::printf("values %s", row.path);
    for (int i = 0; i < row.parameter.shape.rank(); ++i) {
      std::printf("%c%lld", i == 0 ? ' ' : 'x', static_cast<long long>(row.parameter.shape[i]));
    }
    for (const float value : values) std::printf(" %a", static_cast<double>(value));
    std::printf("\n");
  }
}

TEST_CASE("ranges follow from the role") {
  struct Row {
    Parameter parameter;
    ValueRange range;
  };
  const auto root3 = static_cast<float>(std::sqrt(3.0 / 48));
  const std::vector<Row> rows = {
      {{.shape = {16, 48}, .role = InitRole::matrix}, {0.0f, root3}},
      {{.shape = {16, 48}, .role = InitRole::matrix, .transposed = true}, {0.0f, root3}},
      {{.shape = {3, 16, 48}, .role = InitRole::matrix, .transposed = true}, {0.0f, root3}},
      {{.shape = {16, 48}, .role = InitRole::query_key},
       {0.0f, static_cast<float>(1.25 * std::sqrt(3.0 / 48))}},
      {{.shape = {16, 48}, .role = InitRole::embedding}, {0.0f, root3}},
      {{.shape = {16}, .role = InitRole::norm}, {1.0f, 0.25f}},
      {{.shape = {16}, .role = InitRole::centered_norm}, {0.0f, 0.25f}},
      {{.shape = {16}, .role = InitRole::bias}, {0.0f, 0.25f}},
      {{.shape = {16}, .role = InitRole::router_bias}, {0.0f, 0.125f}},
      {{.shape = {16}, .role = InitRole::sink}, {0.0f, 1.0f}},
  };
  for (const Row& row : rows) CHECK(value_range(row.parameter) == row.range);
}

TEST_CASE("a rank holds exactly its slice of the whole") {
  Parameter whole{.shape = {12, 10}, .dtype = DType::f32, .role = InitRole::matrix};
  const std::vector<float> all = generate(whole, 0);
  // Rows in two segments of 8 and 4, the second replicated: 4 ranks hold 2 parts.
  Parameter rows = whole;
  rows.shard = {.dim = 0, .ranks = 4, .segments = {{8, 4}, {4, 2}}};
  for (std::int64_t rank = 0; rank < 4; ++rank) {
    CAPTURE(rank);
    const std::vector<float> part = generate(rows, rank);
    REQUIRE(part.size() == 40);
    for (std::int64_t i = 0; i < 40; ++i) {
      const std::int64_t row = i / 10;
      const std::int64_t from = row < 2 ? rank * 2 + row : 8 + rank / 2 * 2 + row - 2;
      CHECK(part[static_cast<std::size_t>(i)] == all[static_cast<std::size_t>(from * 10 + i % 10)]);
    }
  }
  Parameter columns = whole;
  columns.shard = {.dim = 1, .ranks = 2, .stride = 3, .segments = {{10, 2}}};
  for (std::int64_t rank = 0; rank < 6; ++rank) {
    CAPTURE(rank);
    const std::vector<float> part = generate(columns, rank);
    REQUIRE(part.size() == 60);
    for (std::int64_t i = 0; i < 60; ++i) {
      const std::int64_t from = i / 5 * 10 + rank / 3 * 5 + i % 5;
      CHECK(part[static_cast<std::size_t>(i)] == all[static_cast<std::size_t>(from)]);
    }
  }
  // A vocabulary that does not divide: what pads is zero.
  Parameter padded = whole;
  padded.shard = {.dim = 0, .ranks = 5, .segments = {{12, 5}}};
  const std::vector<float> last = generate(padded, 4);
  REQUIRE(last.size() == 30);
  for (const float value : last) CHECK(value == 0.0f);
}

TEST_CASE("experts stored together, as [in, out], are cut by expert and by width") {
  // 4 experts of 6 outputs and 5 inputs; the checkpoint has [4, 5, 6].
  const Parameter stored{.shape = {4, 5, 6}, .dtype = DType::f32, .role = InitRole::bias};
  const std::vector<float> checkpoint = generate(stored, 0);
  Parameter weight{
      .shape = {4, 6, 5}, .dtype = DType::f32, .role = InitRole::bias, .transposed = true};
  CHECK(weight.checkpoint_shape() == stored.shape);
  const auto expected = [&](std::int64_t expert, std::int64_t output, std::int64_t input) {
    return checkpoint[static_cast<std::size_t>((expert * 5 + input) * 6 + output)];
  };
  const std::vector<float> whole = generate(weight, 0);
  REQUIRE(whole.size() == 120);
  for (std::int64_t i = 0; i < 120; ++i) {
    CHECK(whole[static_cast<std::size_t>(i)] == expected(i / 30, i / 5 % 6, i % 5));
  }
  // Ranks 0 and 1 have the first two experts, each half of their outputs.
  weight.stack = {.dim = 0, .ranks = 2, .stride = 2, .segments = {{4, 2}}};
  weight.shard = {.dim = 1, .ranks = 2, .segments = {{6, 2}}};
  for (std::int64_t rank = 0; rank < 4; ++rank) {
    CAPTURE(rank);
    const std::vector<float> part = generate(weight, rank);
    REQUIRE(part.size() == 30);
    for (std::int64_t i = 0; i < 30; ++i) {
      CHECK(part[static_cast<std::size_t>(i)] ==
            expected(rank / 2 * 2 + i / 15, rank % 2 * 3 + i / 5 % 3, i % 5));
    }
  }
}

TEST_CASE("quantized weights are the whole's, whatever the rank") {
  Parameter weight{.shape = {6, 8}, .dtype = DType::i8, .quantized_from = DType::f32};
  Parameter scale{.name = "weight_scale",
                  .shape = {6, 1},
                  .dtype = DType::f32,
                  .part = QuantizationPart::scales,
                  .grid = scale_per_row};
  const Parameter plain{.shape = {6, 8}, .dtype = DType::f32};
  const std::vector<float> original = generate(plain, 0);
  std::vector<float> scales(6);
  std::vector<std::int8_t> values(48);
  const Buffer target{
      static_cast<std::byte*>(static_cast<void*>(values.data())), 48, DType::i8, {}};
  generate_quantized(weight, scale, "some.weight", 0, target, buffer_of(scales, {6, 1}));
  for (std::size_t row = 0; row < 6; ++row) {
    float most = 0;
    for (std::size_t i = 0; i < 8; ++i) most = std::max(most, std::abs(original[row * 8 + i]));
    CHECK(scales[row] == most / 127.0f);
    for (std::size_t i = 0; i < 8; ++i) {
      const auto value = static_cast<float>(values[row * 8 + i]);
      CHECK(std::abs(value * scales[row] - original[row * 8 + i]) <= 0.5001f * scales[row]);
    }
  }
  // Cut along the inputs: scales are those of whole rows.
  weight.shard = {.dim = 1, .ranks = 2, .segments = {{8, 2}}};
  std::vector<std::int8_t> half(24);
  std::vector<float> same(6);
  generate_quantized(weight, scale, "some.weight", 1,
                     {static_cast<std::byte*>(static_cast<void*>(half.data())), 24, DType::i8, {}},
                     buffer_of(same, {6, 1}));
  CHECK(same == scales);
  for (std::size_t i = 0; i < 24; ++i) CHECK(half[i] == values[i / 4 * 8 + 4 + i % 4]);
  // Dequantized: values times scales.
  weight.shard = {};
  std::vector<float> floats(48);
  generate_quantized(weight, scale, "some.weight", 0, buffer_of(floats, {6, 8}), {});
  for (std::size_t i = 0; i < 48; ++i) {
    CHECK(floats[i] == static_cast<float>(values[i]) * scales[i / 8]);
  }
}

// Each element with the scale, and the zero point, of its own part of the grid; also in a stack.
TEST_CASE("quantized weights: any grid, 4 bit, with zero points") {
  struct Row {
    const char* what;
    Shape shape;
    DType dtype;
    ScaleGrid grid;
    float least, most;  // of a stored value, its zero point taken off
  };
  const Row rows[] = {
      {"blocks that do not divide", {6, 10}, DType::i8, {4, 4}, -127, 127},
      {"blocks in a stack", {2, 6, 10}, DType::i8, {4, 4}, -127, 127},
      {"groups of 4 bit with scales in bf16", {6, 8}, DType::i4, {1, 4, DType::bf16}, -8, 7},
      {"with zero points", {6, 8}, DType::i4, {1, 4, DType::f16, DType::i4}, -15, 15},
      {"a stack with zero points", {3, 6, 8}, DType::i4, {1, 2, DType::f16, DType::i4}, -15, 15},
      {"one scale for each matrix", {3, 6, 8}, DType::i4, {0, 0}, -8, 7},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const int last = row.shape.rank() - 1;
    const std::int64_t columns = row.shape[last];
    const std::int64_t matrix_rows = row.shape[last - 1];
    Parameter weight{.shape = row.shape, .dtype = row.dtype, .quantized_from = DType::f32};
    Parameter scale{.shape = row.shape,
                    .dtype = row.grid.dtype,
                    .part = QuantizationPart::scales,
                    .grid = row.grid};
    scale.shape.set(last - 1, row.grid.rows(matrix_rows));
    scale.shape.set(last, row.grid.columns(columns));
    const Parameter plain{.shape = row.shape, .dtype = DType::f32};
    const std::vector<float> original = generate(plain, 0);
    const auto size = static_cast<std::size_t>(row.shape.elements());
    std::vector<float> scales(static_cast<std::size_t>(scale.shape.elements()));
    std::vector<std::int8_t> values(size);
    generate_quantized(weight, scale, "some.weight", 0,
                       {static_cast<std::byte*>(static_cast<void*>(values.data())),
                        static_cast<std::int64_t>(size),
                        DType::i8,
                        {}},
                       buffer_of(scales, scale.shape));
    std::vector<float> floats(size);
    generate_quantized(weight, scale, "some.weight", 0, buffer_of(floats, row.shape), {});
    for (std::size_t i = 0; i < size; ++i) {
      const auto at = static_cast<std::int64_t>(i);
      const std::int64_t line = at / columns;
      const std::int64_t index = line / matrix_rows * row.grid.count(matrix_rows, columns) +
                                 row.grid.index(line % matrix_rows, at % columns, columns);
      const float s = scales[static_cast<std::size_t>(index)];
      CHECK(s == round_to_storage(s, row.grid.dtype));
      const auto value = static_cast<float>(values[i]);
      CHECK(value >= row.least);
      CHECK(value <= row.most);
      // Half a step; the ends of a range may be cut by half a step more, and scales are rounded.
      CHECK(std::abs(value * s - original[i]) <= 1.1f * s);
      CHECK(floats[i] == value * s);
    }
  }
}

TEST_CASE("a checkpoint in f16 is rounded to f16") {
  struct Row {
    float value;
    float rounded;
  };
  // Ten bits of mantissa, to even in the middle; steps of 2^-24 below 2^-14.
  for (const Row& row : {Row{1.0f, 1.0f},
                         {0x1.002p0f, 1.0f},
                         {0x1.006p0f, 0x1.008p0f},
                         {0x1.0021p0f, 0x1.004p0f},
                         {-0x1.ffep-3f, -0x1.0p-2f},
                         {0x1.8p-25f, 0x1p-24f},
                         {0x1p-25f, 0.0f},
                         {65504.0f, 65504.0f},
                         {65519.0f, 65504.0f},
                         {0.0f, 0.0f}}) {
    CAPTURE(row.value);
    CHECK(round_to_storage(row.value, DType::f16) == row.rounded);
  }
  CHECK(std::isinf(round_to_storage(65520.0f, DType::f16)));
  CHECK(std::isnan(round_to_storage(std::nanf(""), DType::f16)));
  CHECK(round_to_storage(0x1.002p0f, DType::f32) == 0x1.002p0f);
  CHECK(round_to_storage(0x1.018p0f, DType::bf16) == 0x1.02p0f);
  // Finer than bf16, coarser than f32.
  Parameter parameter;
  parameter.shape = {40, 30};
  parameter.dtype = DType::f32;
  const std::vector<float> exact = generate(parameter, 0);
  parameter.dtype = DType::f16;
  const std::vector<float> rounded = generate(parameter, 0);
  CHECK(rounded != exact);
  float most = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    most = std::max(most, std::abs(rounded[i] - exact[i]) / std::abs(exact[i]));
    CHECK(rounded[i] == round_to_storage(exact[i], DType::f16));
  }
  CHECK(most > 0x1p-12f);
  CHECK(most < 0x1p-10f);
  // What the host computes in bf16 is rounded twice, as when such a checkpoint is loaded.
  std::vector<std::uint16_t> halves(exact.size());
  generate_parameter(parameter, "some.weight", 0,
                     {static_cast<std::byte*>(static_cast<void*>(halves.data())),
                      static_cast<std::int64_t>(halves.size() * 2),
                      DType::bf16,
                      {}});
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const float twice = round_to_storage(rounded[i], DType::bf16);
    CHECK(std::bit_cast<float>(static_cast<std::uint32_t>(halves[i]) << 16) == twice);
  }
}

TEST_CASE("8-bit floats round to the nearest, to even in the middle, and saturate") {
  struct Row {
    float value;
    float e4m3;
    float e5m2;
  };
  const std::vector<Row> rows = {
      {0.0f, 0.0f, 0.0f},
      {1.0f, 1.0f, 1.0f},
      {1.06f, 1.0f, 1.0f},
      {1.07f, 1.125f, 1.0f},
      {1.0625f, 1.0f, 1.0f},
      {1.1875f, 1.25f, 1.25f},
      {-3.3f, -3.25f, -3.5f},
      {447.0f, 448.0f, 448.0f},
      {1e9f, 448.0f, 57344.0f},
      {-1e9f, -448.0f, -57344.0f},
      {0.001953125f, 0.001953125f, 0.001953125f},
      {0.0009f, 0.0f, 0.0008544921875f},
  };
  for (const Row& row : rows) {
    CAPTURE(row.value);
    CHECK(round_to_f8(row.value, DType::f8_e4m3) == row.e4m3);
    CHECK(round_to_f8(row.value, DType::f8_e5m2) == row.e5m2);
  }
}
