#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/bf16.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/kernels/reference.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/threads.h"

using namespace tcast;

// Every kernel against the reference: one list of records per kind, with odd sizes, every dtype and
// every instruction set that this processor has.

namespace {

using Bytes = std::vector<std::byte>;

void set(const Buffer& buffer, std::int64_t i, double value) {
  void* data = buffer.data;
  switch (buffer.dtype) {
    case DType::f32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      break;
    case DType::bf16:
      static_cast<Bf16*>(data)[i] = to_bf16(static_cast<float>(value));
      break;
    case DType::i8:
      static_cast<std::int8_t*>(data)[i] = static_cast<std::int8_t>(value);
      break;
    case DType::i32:
      static_cast<std::int32_t*>(data)[i] = static_cast<std::int32_t>(value);
      break;
    case DType::i64:
      static_cast<std::int64_t*>(data)[i] = static_cast<std::int64_t>(value);
      break;
    default:
      FAIL("dtype");
      break;
  }
}

double get(const Buffer& buffer, std::int64_t i) {
  const void* data = buffer.data;
  switch (buffer.dtype) {
    case DType::f32:
      return static_cast<double>(static_cast<const float*>(data)[i]);
    case DType::bf16:
      return static_cast<double>(to_float(static_cast<const Bf16*>(data)[i]));
    case DType::i8:
      return static_cast<const std::int8_t*>(data)[i];
    case DType::i32:
      return static_cast<const std::int32_t*>(data)[i];
    case DType::i64:
      return static_cast<double>(static_cast<const std::int64_t*>(data)[i]);
    default:
      break;
  }
  FAIL("dtype");
  return 0;
}

std::int64_t count_of(const Buffer& buffer) { return buffer.bytes * 8 / bits_of(buffer.dtype); }

/// Operands of one record with random contents; a guard behind each shows writes beyond the end.
struct Case {
  static constexpr std::int64_t guard_bytes = 64;

  KernelOperands operands;
  std::vector<Bytes> memory;
  std::vector<Buffer> inputs;
  std::vector<Buffer> outputs;
  Bytes cache_memory;
  std::vector<std::int32_t> block_table;
  CacheView cache;
  bool has_cache = false;

  explicit Case(const OpRecord& record, std::uint32_t seed = 1) : operands(operands_of(record)) {
    std::mt19937 random(seed);
    for (const Operand& operand : operands.inputs) {
      inputs.push_back(allocate(operand));
      if (operand.role == OperandRole::cache) {
        make_cache(record, random);
      } else {
        fill(inputs.back(), operand, record, random);
      }
    }
    for (const Operand& operand : operands.outputs) {
      outputs.push_back(allocate(operand));
      for (std::int64_t i = 0; i < operand.shape.elements(); ++i) set(outputs.back(), i, 77);
    }
  }

  Buffer allocate(const Operand& operand) {
    const std::int64_t bytes = operand.bytes();
    memory.emplace_back(static_cast<std::size_t>(bytes + guard_bytes), std::byte{0x5a});
    return {memory.back().data(), bytes, operand.dtype, {}};
  }

  static void fill(const Buffer& buffer, const Operand& operand, const OpRecord& record,
                   std::mt19937& random) {
    const std::int64_t count = operand.shape.elements();
    std::normal_distribution<double> normal;
    for (std::int64_t i = 0; i < count; ++i) {
      double value = normal(random);
      if (operand.role == OperandRole::index) {
        value = static_cast<double>(random() % static_cast<std::uint32_t>(operand.limit));
      } else if (operand.role == OperandRole::counts) {
        // An uneven routing: the last active experts get what the first leave.
        const auto& op = std::get<GroupedMatMul>(record);
        const std::int64_t rows = op.row_count();
        value = i + 1 < count ? static_cast<double>(i % 2 == 0 ? rows / count : 0) : 0;
        if (i + 1 == count) {
          value = static_cast<double>(rows);
          for (std::int64_t j = 0; j < i; ++j) value -= get(buffer, j);
        }
      } else if (buffer.dtype == DType::i8) {
        value = static_cast<double>(random() % 255) - 127;
      } else if (operand.role == OperandRole::weight) {
        value *= 0.1;
      } else if (std::holds_alternative<Quantize>(record) && count == 1) {
        value = 0.02;  // the fixed scale
      }
      set(buffer, i, value);
    }
  }

  void make_cache(const OpRecord& record, std::mt19937& random) {
    has_cache = true;
    std::int64_t tokens = 0;
    if (const auto* op = std::get_if<Attention>(&record)) {
      cache.layout = {.block_tokens = 48,
                      .kv_heads = op->kv_heads,
                      .qk_head_dim = op->qk_head_dim,
                      .v_head_dim = op->value_in_key ? 0 : op->v_head_dim,
                      .dtype = op->cache};
      cache.batch = op->batch;
      cache.context_length = op->context_length;
      tokens = op->context_length + op->query_length;
    } else if (const auto* read = std::get_if<CacheRead>(&record)) {
      cache.layout = {.block_tokens = 4,
                      .kv_heads = read->kv_heads,
                      .qk_head_dim = read->head_dim,
                      .v_head_dim = read->head_dim,
                      .dtype = read->cache};
      cache.batch = read->batch;
      tokens = read->tokens;
    } else {
      const auto& append = std::get<CacheAppend>(record);
      // Two requests with five tokens each already there, two heads of a third and two thirds.
      cache.layout = {.block_tokens = 4,
                      .kv_heads = 2,
                      .qk_head_dim = append.width / 6,
                      .v_head_dim = append.width / 3,
                      .dtype = append.cache};
      cache.batch = 2;
      cache.context_length = 5;
      tokens = 5 + append.tokens / 2;
    }
    // Blocks of all requests, in an order of their own.
    cache.blocks_per_request = ceil_div(tokens, cache.layout.block_tokens);
    const std::int64_t blocks = cache.batch * cache.blocks_per_request;
    for (std::int64_t i = 0; i < blocks; ++i) {
      block_table.push_back(static_cast<std::int32_t>((i * 7 + 3) % blocks));
    }
    if (blocks % 7 == 0) {
      for (std::int64_t i = 0; i < blocks; ++i) {
        block_table[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(blocks - 1 - i);
      }
    }
    cache.key_scale = 0.02f;
    cache.value_scale = 0.03f;
    cache_memory.assign(
        static_cast<std::size_t>(blocks * cache.layout.bytes_per_block() + guard_bytes),
        std::byte{0x5a});
    refresh();
    std::normal_distribution<double> normal;
    const Buffer all{cache.data, blocks * cache.layout.bytes_per_block(), cache.layout.dtype, {}};
    for (std::int64_t i = 0; i < count_of(all); ++i) {
      set(all, i,
          all.dtype == DType::i8 ? static_cast<double>(random() % 255) - 127 : normal(random));
    }
  }

  void refresh() {
    cache.data = cache_memory.data();
    cache.block_table = block_table;
  }

  KernelArgs args(std::span<std::byte> scratch) {
    if (has_cache) refresh();
    return {inputs, outputs, scratch, has_cache ? &cache : nullptr};
  }
};

/// How far two results may lie apart: `absolute` + `relative` * |expected|.
struct Tolerance {
  double absolute;
  double relative;
};

void compare(const Buffer& actual, const Buffer& expected, Tolerance tolerance) {
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < count_of(expected); ++i) {
    const double a = get(actual, i);
    const double e = get(expected, i);
    if (std::abs(a - e) <= tolerance.absolute + tolerance.relative * std::abs(e)) continue;
    if (wrong++ == 0) FAIL_CHECK("element ", i, ": ", a, " instead of ", e);
  }
  CHECK(wrong == 0);
}

std::vector<Isa> instruction_sets() {
  std::vector<Isa> result;
  for (int i = 0; i <= static_cast<int>(host_isa()); ++i) result.push_back(static_cast<Isa>(i));
  return result;
}

/// Runs the record's kernel for one instruction set and compares its results with `expected`.
void check_kernel(const OpRecord& record, Isa isa, const Case& expected, Tolerance tolerance) {
  CAPTURE(name_of(isa));
  KernelResult result = make_kernel(record, {isa});
  REQUIRE_MESSAGE(result.kernel != nullptr, result.unsupported);
  Kernel& kernel = *result.kernel;
  CHECK(kernel.implementation().substr(0, 3) != "ref");

  Case actual(record);
  const AlignedMemory packed(kernel.packed_bytes());
  if (kernel.packed_bytes() > 0) {
    const Buffer packed_weight{packed.data(), packed.bytes(), actual.inputs[1].dtype, {}};
    kernel.pack_weight(actual.inputs[1], packed_weight);
    actual.inputs[1] = packed_weight;
  }
  // Scratch of exactly the size, with contents that would show if they were read.
  AlignedMemory scratch(kernel.scratch_bytes() + 64);
  std::fill(scratch.span().begin(), scratch.span().end(), std::byte{0x7f});
  const auto usable = scratch.span().first(static_cast<std::size_t>(kernel.scratch_bytes()));
  kernel.run(actual.args(usable));
  // A second run must not depend on the first.
  if (!actual.outputs.empty()) kernel.run(actual.args(usable));

  for (std::size_t i = 0; i < actual.outputs.size(); ++i) {
    CAPTURE(i);
    compare(actual.outputs[i], expected.outputs[i], tolerance);
  }
  for (const Bytes& memory : actual.memory) {
    REQUIRE(std::all_of(memory.end() - Case::guard_bytes, memory.end(),
                        [](std::byte byte) { return byte == std::byte{0x5a}; }));
  }
  REQUIRE(std::all_of(scratch.span().end() - 64, scratch.span().end(),
                      [](std::byte byte) { return byte == std::byte{0x7f}; }));
  if (actual.has_cache) CHECK(actual.cache_memory == expected.cache_memory);
}

/// Runs the record's kernel and the reference on equal operands and compares all results.
void check_against_reference(const OpRecord& record, const std::vector<Isa>& sets,
                             Tolerance tolerance) {
  CAPTURE(name_of(record));
  CAPTURE(describe(record));
  Case expected(record);
  run_reference(record, expected.args({}));
  for (const Isa isa : sets) check_kernel(record, isa, expected, tolerance);
}

/// Cuts, exchanges and repetitions that models use: runs of one element, of few and of many.
const std::vector<CopyPart> copy_parts = {
    {.sizes = {1, 1, 37},
     .run = 10,
     .source_offset = 5,
     .source_strides = {0, 0, 17},
     .target_strides = {0, 0, 10}},
    {.sizes = {2, 3, 5},
     .run = 40,
     .source_strides = {600, 40, 120},
     .target_strides = {600, 200, 40}},
    {.sizes = {4, 2, 6}, .run = 1, .source_strides = {12, 1, 2}, .target_strides = {12, 6, 1}},
    {.sizes = {1, 7, 3},
     .run = 100,
     .source_strides = {0, 100, 0},
     .target_strides = {0, 300, 100}},
};

/// One rounding to bf16 is half of 2^-7 relative; results that were rounded once from f32 may fall
/// to the other side, so a whole one is allowed.
constexpr double bf16_step = 1.0 / 128;

Tolerance rounded_once(DType dtype) {
  return dtype == DType::bf16 ? Tolerance{1e-5, bf16_step} : Tolerance{1e-5, 1e-5};
}

}  // namespace

TEST_CASE("matmul equals the reference") {
  // Sums of k products of N(0,1) by N(0,0.1): f32 accumulation loses about sqrt(k) * 2^-24 of them.
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !HostDTypes{}.bf16) continue;
    for (const bool bias : {false, true}) {
      for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
               {1, 64, 128}, {1, 33, 17}, {3, 100, 65}, {16, 48, 256}, {70, 130, 96}, {1, 1, 1}}) {
        for (const DType output : {dtype, DType::f32}) {
          const MatMul op{.m = m,
                          .n = n,
                          .k = k,
                          .input = dtype,
                          .weight = dtype,
                          .output = output,
                          .compute = dtype,
                          .bias = bias};
          check_against_reference(
              op, {host_isa()},
              output == DType::bf16 ? Tolerance{1e-4, bf16_step} : Tolerance{1e-4, 1e-4});
        }
      }
    }
  }
}

TEST_CASE("batched products of activations equal the reference") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !HostDTypes{}.bf16) continue;
    for (const auto& [batch, m, n, k] :
         std::vector<std::array<std::int64_t, 4>>{{1, 5, 7, 9}, {3, 17, 33, 64}, {6, 1, 40, 31}}) {
      const MatMul op{.batch = batch,
                      .m = m,
                      .n = n,
                      .k = k,
                      .input = dtype,
                      .weight = dtype,
                      .output = dtype,
                      .compute = dtype,
                      .weight_is_parameter = false};
      check_against_reference(
          op, {host_isa()},
          dtype == DType::bf16 ? Tolerance{1e-3, bf16_step} : Tolerance{1e-4, 1e-4});
    }
  }
}

TEST_CASE("products of parts of larger tensors equal the reference") {
  // Latent attention: heads side by side in the rows of tokens, each with its part of one weight.
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !HostDTypes{}.bf16) continue;
    for (const std::int64_t tokens : {1, 3, 20}) {
      MatMul op{.batch = 4,
                .m = tokens,
                .n = 20,
                .k = 12,
                .input = dtype,
                .weight = dtype,
                .output = dtype,
                .compute = dtype,
                .weight_transposed = true,
                .x_row_stride = 4 * 16,
                .x_batch_stride = 16,
                .weight_batch_stride = 22 * 20,
                .y_row_stride = 4 * 20,
                .y_batch_stride = 20};
      const Tolerance tolerance =
          dtype == DType::bf16 ? Tolerance{1e-3, bf16_step} : Tolerance{1e-4, 1e-4};
      check_against_reference(op, {host_isa()}, tolerance);
      op.weight_transposed = false;
      op.weight_offset = 12 * 20;
      op.n = 10;
      op.k = 20;
      op.x_row_stride = 4 * 20;
      op.x_batch_stride = 20;
      op.y_row_stride = 4 * 10;
      op.y_batch_stride = 10;
      check_against_reference(op, {host_isa()}, tolerance);
      // A weight that the checkpoint stores as [in, out].
      check_against_reference(MatMul{.m = tokens,
                                     .n = 24,
                                     .k = 40,
                                     .input = dtype,
                                     .weight = dtype,
                                     .output = dtype,
                                     .compute = dtype,
                                     .weight_transposed = true},
                              {host_isa()}, tolerance);
      // One of several experts that are stored together, with its bias.
      for (const std::int64_t expert : {0, 2}) {
        check_against_reference(MatMul{.m = tokens,
                                       .n = 24,
                                       .k = 40,
                                       .input = dtype,
                                       .weight = dtype,
                                       .output = dtype,
                                       .compute = dtype,
                                       .bias = true,
                                       .bias_offset = expert * 24,
                                       .weight_offset = expert * 24 * 40,
                                       .weight_batch_stride = 24 * 40},
                                {host_isa()}, tolerance);
      }
    }
  }
}

TEST_CASE("mixed storage and compute dtypes are converted") {
  MatMul op{.m = 4,
            .n = 40,
            .k = 64,
            .input = DType::bf16,
            .weight = DType::bf16,
            .output = DType::f32,
            .compute = DType::f32};
  check_against_reference(op, {host_isa()}, {1e-4, 1e-4});
  op.weight_is_parameter = false;
  check_against_reference(op, {host_isa()}, {1e-4, 1e-4});
  if (!HostDTypes{}.bf16) return;
  op.input = DType::f32;
  op.compute = DType::bf16;
  // x is rounded to bf16 before the product, the reference's is not: 64 errors of up to 2^-9 of
  // N(0,1) * N(0,1), four sigma of their sum.
  check_against_reference(op, {host_isa()}, {0.06, 0.01});
}

TEST_CASE("int8 times int8 equals the reference") {
  for (const auto& [m, n, k] :
       std::vector<std::array<std::int64_t, 3>>{{1, 64, 128}, {5, 33, 70}, {40, 96, 256}}) {
    using Scales = std::optional<ScaleGrid>;
    for (const Scales weight_scales : {Scales(), Scales(scale_per_tensor), Scales(scale_per_row)}) {
      for (const Scales activation_scales :
           {Scales(), Scales(scale_per_tensor), Scales(scale_per_row)}) {
        for (const DType output : {DType::f32, DType::bf16}) {
          const MatMul op{.m = m,
                          .n = n,
                          .k = k,
                          .input = DType::i8,
                          .weight = DType::i8,
                          .output = output,
                          .compute = DType::i8,
                          .bias = weight_scales == scale_per_tensor,
                          .weight_scales = weight_scales,
                          .activation_scales = activation_scales};
          // Sums are exact; scaling rounds twice in f32, and to the output.
          check_against_reference(
              op, {host_isa()},
              output == DType::bf16 ? Tolerance{1e-4, bf16_step} : Tolerance{1e-4, 1e-5});
        }
      }
    }
  }
}

TEST_CASE("int8 weights with floating activations equal the reference on every instruction set") {
  const std::vector<Isa> sets = instruction_sets();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
             {1, 64, 128}, {2, 33, 77}, {9, 130, 256}, {16, 5, 40}, {33, 600, 64}, {20, 512, 32}}) {
      const bool widened = m > 16;
      if (widened && dtype == DType::bf16 && !HostDTypes{}.bf16) continue;
      // Blocks of any size, whether they divide the weight or not.
      const std::vector<std::optional<ScaleGrid>> scales = {
          std::nullopt,     scale_per_tensor,  scale_per_row,   ScaleGrid{128, 128},
          ScaleGrid{1, 32}, ScaleGrid{64, 48}, ScaleGrid{3, 0}, ScaleGrid{0, 16}};
      for (const std::optional<ScaleGrid>& weight_scales : scales) {
        const MatMul op{.m = m,
                        .n = n,
                        .k = k,
                        .input = dtype,
                        .weight = DType::i8,
                        .output = dtype,
                        .compute = dtype,
                        .bias = weight_scales == scale_per_row,
                        .weight_scales = weight_scales};
        // Values of about 75 * sqrt(k). Widening to bf16 rounds the scaled weight: 2^-9 each.
        const double size = 75 * std::sqrt(static_cast<double>(k));
        check_against_reference(
            op, sets,
            dtype == DType::f32 ? Tolerance{1e-5 * size, 1e-5} : Tolerance{2e-2 * size, bf16_step});
      }
    }
  }
}

TEST_CASE("grouped matmul follows the token counts") {
  std::vector<GroupedMatMul> ops;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    if (dtype == DType::bf16 && !HostDTypes{}.bf16) continue;
    for (const auto& [experts, rows] :
         std::vector<std::array<std::int64_t, 2>>{{1, 3}, {4, 9}, {5, 100}}) {
      ops.push_back({.experts = experts,
                     .distinct_experts = static_cast<double>(std::min(experts, rows)),
                     .rows = static_cast<double>(rows),
                     .n = 40,
                     .k = 64,
                     .input = dtype,
                     .weight = dtype,
                     .output = dtype,
                     .compute = dtype});
      ops.push_back(ops.back());
      ops.back().bias = true;
      ops.back().bias_scale = 0.25;
      ops.push_back(ops.back());
      ops.back().weight = DType::i8;
      ops.back().weight_scales = scale_per_row;
      ops.push_back(ops.back());
      ops.back().weight_scales = ScaleGrid{1, 32};
      // Some of the experts: the rows of those before them become zeros.
      for (const std::int64_t first : {1, 2}) {
        ops.push_back(ops[ops.size() - 2]);
        ops.back().first_expert = first;
      }
    }
  }
  ops.push_back({.experts = 5,
                 .distinct_experts = 3,
                 .rows = 70,
                 .n = 33,
                 .k = 64,
                 .input = DType::i8,
                 .weight = DType::i8,
                 .output = DType::f32,
                 .compute = DType::i8,
                 .weight_scales = scale_per_row,
                 .activation_scales = scale_per_row});
  // One row for some experts, for which oneDNN may want another layout of the weight.
  ops.push_back({.experts = 3,
                 .distinct_experts = 3,
                 .rows = 4,
                 .n = 64,
                 .k = 256,
                 .input = DType::i8,
                 .weight = DType::i8,
                 .output = DType::f32,
                 .compute = DType::i8,
                 .weight_scales = scale_per_row,
                 .activation_scales = scale_per_row});
  for (const GroupedMatMul& op : ops) {
    const double size = op.weight == DType::i8 ? 75 * 8.0 : 1;
    check_against_reference(op, {host_isa()},
                            op.output == DType::bf16 ? Tolerance{2e-2 * size, bf16_step}
                                                     : Tolerance{1e-4 * size, 1e-4});
  }
}

TEST_CASE("attention equals the reference on every instruction set") {
  const std::vector<Attention> shapes = {
      {.batch = 2,
       .query_length = 19,
       .context_length = 6,
       .heads = 6,
       .kv_heads = 3,
       .qk_head_dim = 20,
       .v_head_dim = 12,
       .paged = false,
       .scale = 0.3},
      {.batch = 1,
       .query_length = 1,
       .context_length = 0,
       .heads = 1,
       .kv_heads = 1,
       .qk_head_dim = 8,
       .v_head_dim = 8,
       .scale = 0.3},
      {.batch = 2,
       .query_length = 1,
       .context_length = 77,
       .heads = 8,
       .kv_heads = 2,
       .qk_head_dim = 64,
       .v_head_dim = 64,
       .scale = 0.125},
      {.batch = 1,
       .query_length = 1,
       .context_length = 2000,
       .heads = 4,
       .kv_heads = 1,
       .qk_head_dim = 32,
       .v_head_dim = 32,
       .scale = 0.2},
      {.batch = 2,
       .query_length = 37,
       .context_length = 0,
       .heads = 4,
       .kv_heads = 4,
       .qk_head_dim = 80,
       .v_head_dim = 80,
       .scale = 0.1},
      {.batch = 1,
       .query_length = 140,
       .context_length = 45,
       .heads = 2,
       .kv_heads = 1,
       .qk_head_dim = 24,
       .v_head_dim = 40,
       .scale = 0.2},
      {.batch = 1,
       .query_length = 150,
       .context_length = 100,
       .heads = 2,
       .kv_heads = 2,
       .qk_head_dim = 32,
       .v_head_dim = 32,
       .span = {.window = 33},
       .scale = 0.2},
      {.batch = 1,
       .query_length = 150,
       .context_length = 100,
       .heads = 2,
       .kv_heads = 2,
       .qk_head_dim = 32,
       .v_head_dim = 32,
       .span = {.chunk = 64},
       .scale = 0.2},
      {.batch = 2,
       .query_length = 20,
       .context_length = 0,
       .heads = 2,
       .kv_heads = 2,
       .qk_head_dim = 72,
       .v_head_dim = 72,
       .span = {.causal = false},
       .scale = 0.1},
      {.batch = 1,
       .query_length = 3,
       .context_length = 130,
       .heads = 16,
       .kv_heads = 1,
       .qk_head_dim = 96,
       .v_head_dim = 64,
       .value_in_key = true,
       .scale = 0.1},
      {.batch = 1,
       .query_length = 20,
       .context_length = 9,
       .heads = 6,
       .kv_heads = 2,
       .qk_head_dim = 16,
       .v_head_dim = 16,
       .span = {.window = 8},
       .sinks = true,
       .scale = 0.25},
      {.batch = 1,
       .query_length = 20,
       .context_length = 9,
       .heads = 2,
       .kv_heads = 2,
       .qk_head_dim = 16,
       .v_head_dim = 16,
       .scale = 0.5,
       .softcap = 3},
  };
  const std::vector<Isa> sets = instruction_sets();
  for (const DType query : {DType::f32, DType::bf16}) {
    for (const DType cache : {DType::f32, DType::bf16, DType::i8}) {
      for (Attention op : shapes) {
        if (!op.paged && cache == DType::i8) continue;
        op.query = query;
        op.cache = cache;
        // Results are averages of N(0,1) values. In bf16 the exponentials (and the f32 cache) are
        // rounded to 2^-9 relative, scores of a few units to 2^-9 absolute times their size.
        check_against_reference(
            op, sets, query == DType::f32 ? Tolerance{2e-5, 2e-5} : Tolerance{2e-2, bf16_step});
      }
    }
  }
}

TEST_CASE("attention splits the keys among threads that have no rows") {
  const int before = current_threads();
  for (const int threads : {1, 3, 8}) {
    set_threads(threads);
    const Attention op{.batch = 1,
                       .query_length = 1,
                       .context_length = 5000,
                       .heads = 2,
                       .kv_heads = 1,
                       .qk_head_dim = 32,
                       .v_head_dim = 32,
                       .query = DType::f32,
                       .cache = DType::f32,
                       .sinks = true,
                       .scale = 0.5};
    check_against_reference(op, {host_isa()}, {2e-5, 2e-5});
  }
  set_threads(before);
}

TEST_CASE("softmax, norm, elementwise, rotary equal the reference on every instruction set") {
  const std::vector<Isa> sets = instruction_sets();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t columns : {1, 7, 16, 33, 1000}) {
      check_against_reference(Softmax{.rows = 5, .columns = columns, .dtype = dtype}, sets,
                              rounded_once(dtype));
      check_against_reference(
          Softmax{
              .rows = 24, .columns = columns, .dtype = dtype, .sink_heads = 3, .rows_per_head = 4},
          sets, rounded_once(dtype));
      for (const NormKind kind : {NormKind::rms, NormKind::layer}) {
        // A row of one element has no spread: layer norm divides rounding errors by epsilon.
        if (columns == 1 && kind == NormKind::layer) continue;
        for (const bool with : {false, true}) {
          check_against_reference(Norm{.kind = kind,
                                       .rows = 3,
                                       .width = columns,
                                       .dtype = dtype,
                                       .weight = with,
                                       .bias = with && kind == NormKind::layer,
                                       .weight_offset = with ? 1.0 : 0.0},
                                  sets, rounded_once(dtype));
        }
      }
      // Rows that lie on three ranks: the sum of squares of this one, then the rest.
      check_against_reference(
          Norm{.stage = NormStage::sum_squares, .rows = 3, .width = columns, .dtype = dtype}, sets,
          {1e-4, 1e-5});
      check_against_reference(Norm{.stage = NormStage::scale,
                                   .ranks = 3,
                                   .rows = 3,
                                   .width = columns,
                                   .dtype = dtype,
                                   .epsilon = 3},
                              sets, rounded_once(dtype));
      for (int kind = 0; kind <= static_cast<int>(ElementwiseKind::clamped_swiglu); ++kind) {
        const auto k = static_cast<ElementwiseKind>(kind);
        const bool one = !takes_two(k);
        for (const Packing packing : {Packing::halves, Packing::pairs}) {
          if (one) continue;
          check_against_reference(Elementwise{.kind = k,
                                              .elements = 3 * columns,
                                              .dtype = dtype,
                                              .constant = 0.3,
                                              .packing = packing,
                                              .width = columns},
                                  sets, rounded_once(dtype));
        }
        for (const std::int64_t times : {1, 4}) {
          check_against_reference(Elementwise{.kind = k,
                                              .elements = columns * times,
                                              .second_elements = one ? 0 : columns,
                                              .dtype = dtype,
                                              .constant = 0.3},
                                  sets, rounded_once(dtype));
        }
      }
    }
    for (const bool interleaved : {false, true}) {
      for (const auto& [head_dim, rotary_dim] :
           std::vector<std::array<std::int64_t, 2>>{{64, 64}, {64, 32}, {10, 6}, {128, 128}}) {
        check_against_reference(Rotary{.tokens = 5,
                                       .heads = 3,
                                       .head_dim = head_dim,
                                       .rotary_dim = rotary_dim,
                                       .interleaved = interleaved,
                                       .dtype = dtype},
                                sets, rounded_once(dtype));
      }
    }
  }
}

TEST_CASE("C2, C11: activations have the values of transformers' ACT2FN, gated ones times b") {
  constexpr std::array<float, 5> x = {-2.0F, -0.5F, 0.0F, 0.75F, 3.0F};
  constexpr std::array<float, 5> b = {3.0F, -1.5F, 7.0F, 0.5F, 2.0F};
  struct Row {
    ElementwiseKind kind;
    std::array<double, 5> values;
  };
  const Row rows[] = {
      {ElementwiseKind::silu, {-0.23840584, -0.18877033, 0, 0.50938402, 2.85772238}},
      {ElementwiseKind::gelu, {-0.04550026, -0.15426877, 0, 0.58002949, 2.99595031}},
      {ElementwiseKind::gelu_tanh, {-0.04540231, -0.15428599, 0, 0.57996056, 2.99636261}},
      {ElementwiseKind::relu, {0, 0, 0, 0.75, 3}},
      {ElementwiseKind::relu2, {0, 0, 0, 0.5625, 9}},
      {ElementwiseKind::sigmoid, {0.11920292, 0.37754067, 0.5, 0.67917870, 0.95257413}},
      {ElementwiseKind::tanh, {-0.96402758, -0.46211716, 0, 0.63514895, 0.99505475}},
      {ElementwiseKind::quick_gelu, {-0.06434138, -0.14961156, 0, 0.58639006, 2.98192869}},
  };
  const auto buffer = [](const float* data) {
    return Buffer{const_cast<std::byte*>(  // NOLINT: a Buffer is read and written
                      static_cast<const std::byte*>(static_cast<const void*>(data))),
                  20,
                  DType::f32,
                  {}};
  };
  for (const Row& row : rows) {
    for (const bool gated : {false, true}) {
      CAPTURE(name_of(row.kind));
      const ElementwiseKind kind = gated ? gated_form(row.kind).value() : row.kind;
      CHECK(takes_two(kind) == gated);
      const Elementwise op{
          .kind = kind, .elements = 5, .second_elements = gated ? 5 : 0, .dtype = DType::f32};
      std::array<float, 5> by_kernel{};
      std::array<float, 5> by_loops{};
      std::vector<Buffer> inputs = {buffer(x.data())};
      if (gated) inputs.push_back(buffer(b.data()));
      const Buffer of_kernel[] = {buffer(by_kernel.data())};
      const Buffer of_loops[] = {buffer(by_loops.data())};
      KernelResult made = make_kernel(op);
      REQUIRE(made.kernel != nullptr);
      made.kernel->run({inputs, of_kernel, {}, nullptr});
      run_reference(op, {inputs, of_loops, {}, nullptr});
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = row.values[i] * (gated ? static_cast<double>(b[i]) : 1);
        CHECK(static_cast<double>(by_kernel[i]) == doctest::Approx(expected).epsilon(2e-6));
        CHECK(static_cast<double>(by_loops[i]) == doctest::Approx(expected).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("elementwise stretches the second operand by its shape") {
  struct Row {
    Shape a;
    Shape b;
  };
  const std::vector<Row> rows = {
      {{2, 3, 4, 5}, {2, 1, 4, 5}}, {{2, 3, 4, 5}, {4, 5}},       {{2, 3, 4, 5}, {2, 3, 4, 1}},
      {{2, 3, 4, 5}, {1, 3, 1, 5}}, {{2, 3, 4, 5}, {2, 1, 1, 1}}, {{6, 1}, {6, 1}},
  };
  for (const Row& row : rows) {
    CAPTURE(to_string(row.a));
    CAPTURE(to_string(row.b));
    const Elementwise op{.kind = ElementwiseKind::multiply,
                         .elements = row.a.elements(),
                         .second_elements = row.b.elements(),
                         .dtype = DType::f32};
    const KernelResult result = make_kernel(op);
    REQUIRE(result.kernel != nullptr);
    Case expected(op);
    Case actual(op);
    for (Case* one : {&expected, &actual}) {
      one->inputs[0].shape = row.a;
      one->inputs[1].shape = row.b;
      one->outputs[0].shape = row.a;
    }
    run_reference(op, expected.args({}));
    result.kernel->run(actual.args({}));
    compare(actual.outputs[0], expected.outputs[0], {0, 1e-6});
  }
}

TEST_CASE("softmax, norm, elementwise and rotary may work in place") {
  const std::vector<OpRecord> records = {
      Softmax{.rows = 5, .columns = 70, .dtype = DType::bf16},
      Norm{.rows = 5, .width = 70, .dtype = DType::bf16},
      Elementwise{.kind = ElementwiseKind::silu_mul,
                  .elements = 1000,
                  .second_elements = 1000,
                  .dtype = DType::bf16},
      Rotary{.tokens = 3, .heads = 2, .head_dim = 48, .rotary_dim = 32, .dtype = DType::bf16},
      Rotary{.tokens = 3,
             .heads = 2,
             .head_dim = 48,
             .rotary_dim = 32,
             .interleaved = true,
             .dtype = DType::bf16},
  };
  for (const OpRecord& record : records) {
    CAPTURE(name_of(record));
    const KernelResult result = make_kernel(record);
    REQUIRE(result.kernel != nullptr);
    const AlignedMemory scratch(result.kernel->scratch_bytes());
    Case apart(record);
    Case in_place(record);
    in_place.outputs[0] = in_place.inputs[0];
    result.kernel->run(apart.args(scratch.span()));
    result.kernel->run(in_place.args(scratch.span()));
    compare(in_place.outputs[0], apart.outputs[0], {0, 0});
  }
}

TEST_CASE("a row of scores that is masked entirely gives equal probabilities, not NaN") {
  const Softmax op{.rows = 1, .columns = 20, .dtype = DType::f32};
  for (const Isa isa : instruction_sets()) {
    const KernelResult result = make_kernel(op, {isa});
    Case one(op);
    for (int i = 0; i < 20; ++i) set(one.inputs[0], i, -std::numeric_limits<double>::infinity());
    const AlignedMemory scratch(result.kernel->scratch_bytes());
    result.kernel->run(one.args(scratch.span()));
    for (int i = 0; i < 20; ++i) {
      CHECK(get(one.outputs[0], i) == doctest::Approx(0.05));
    }
  }
}

TEST_CASE("rotary tables, gather, quantize, routing equal the reference") {
  std::vector<OpRecord> records;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    records.push_back(RotaryTable{.tokens = 7, .dim = 20, .dtype = dtype});
    records.push_back(
        RotaryTable{.tokens = 7, .dim = 20, .dtype = dtype, .cached = true, .table_positions = 9});
    records.push_back(Gather{.rows = 9, .width = 33, .table_rows = 50, .dtype = dtype});
    for (const std::int64_t group : {-1, 0, 16, 10}) {
      records.push_back(Quantize{.rows = 4, .columns = 50, .group = group, .from = dtype});
    }
    records.push_back(TopK{.rows = 4, .columns = 33, .k = 5, .dtype = dtype});
    records.push_back(TopK{.rows = 4, .columns = 3, .k = 3, .dtype = dtype});
    records.push_back(Permute{.tokens = 6, .rows = 12, .width = 20, .dtype = dtype});
    records.push_back(Combine{.tokens = 6, .rows = 12, .width = 20, .dtype = dtype});
    records.push_back(
        Gather{.rows = 9, .width = 33, .table_rows = 50, .dtype = dtype, .partial = true});
    for (const bool values : {false, true}) {
      records.push_back(CacheRead{.batch = 2,
                                  .tokens = 9,
                                  .kv_heads = 3,
                                  .head_dim = 10,
                                  .values = values,
                                  .cache = dtype,
                                  .output = dtype});
    }
    for (const CopyPart& part : copy_parts) {
      records.push_back(Copy{.kind = CopyKind::slice,
                             .read_elements = part.elements(),
                             .written_elements = part.target_extent(),
                             .from = dtype,
                             .to = dtype,
                             .parts = {{part}}});
    }
    records.push_back(Copy{.kind = CopyKind::cast,
                           .read_elements = 777,
                           .written_elements = 777,
                           .from = dtype,
                           .to = dtype == DType::f32 ? DType::bf16 : DType::f32});
  }
  for (const RouterScore score : {RouterScore::softmax, RouterScore::sigmoid}) {
    for (const bool flag : {false, true}) {
      records.push_back(Route{.tokens = 9,
                              .experts = 24,
                              .top_k = 4,
                              .score = score,
                              .groups = flag ? 6 : 1,
                              .topk_groups = flag ? 3 : 1,
                              .group_best = score == RouterScore::softmax ? 1 : 2,
                              .correction_bias = flag,
                              .normalize = flag,
                              .scale = 2.5});
    }
  }
  for (const OpRecord& record : records) {
    const std::vector<Isa> sets = instruction_sets();
    const auto* quantize = std::get_if<Quantize>(&record);
    // A value half way between two integers may go to either.
    check_against_reference(record, sets,
                            quantize != nullptr ? Tolerance{1, 1e-5} : Tolerance{1e-6, bf16_step});
  }
}

TEST_CASE("quantized values times their scale are within half a step of the original") {
  const Quantize op{.rows = 5, .columns = 100, .group = 32, .from = DType::f32};
  for (const Isa isa : instruction_sets()) {
    const KernelResult result = make_kernel(op, {isa});
    Case one(op);
    for (int i = 0; i < 32; ++i) set(one.inputs[0], i, 0);
    result.kernel->run(one.args({}));
    for (std::int64_t i = 0; i < 500; ++i) {
      const double scale = get(one.outputs[1], i / 100 * 4 + i % 100 / 32);
      CHECK(std::abs(get(one.outputs[0], i) * scale - get(one.inputs[0], i)) <=
            scale * 0.5 * 1.0001);
    }
    CHECK(get(one.outputs[1], 0) == 0);
  }
}

TEST_CASE("one expert's rows are picked and added back") {
  // Five tokens choose two of three experts each.
  const std::vector<std::int64_t> chosen = {0, 1, 1, 2, 2, 0, 0, 2, 1, 0};
  const std::int64_t width = 6;
  const std::int64_t rows = 4;  // of expert 0: tokens 0, 2, 3, 4
  std::vector<float> x(5 * static_cast<std::size_t>(width));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  std::vector<float> picked(static_cast<std::size_t>(rows * width), -1.0f);
  std::vector<float> weights(10, 0.5f);
  std::vector<float> sum(x.size(), 1.0f);
  std::vector<std::int64_t> indices = chosen;
  const auto buffer = [](auto& values, DType dtype) {
    return Buffer{static_cast<std::byte*>(static_cast<void*>(values.data())),
                  static_cast<std::int64_t>(values.size() * sizeof(values[0])),
                  dtype,
                  {}};
  };
  const Buffer x_buffer = buffer(x, DType::f32);
  const Buffer index_buffer = buffer(indices, DType::i64);
  const Buffer picked_buffer = buffer(picked, DType::f32);

  KernelResult pick = make_kernel(
      Permute{.tokens = rows, .rows = rows, .width = width, .expert = 0, .dtype = DType::f32});
  REQUIRE(pick.kernel != nullptr);
  const std::vector<Buffer> pick_inputs = {x_buffer, index_buffer};
  pick.kernel->run({pick_inputs, {&picked_buffer, 1}, {}, nullptr});
  const std::vector<std::int64_t> tokens = {0, 2, 3, 4};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(picked[i * 6] == static_cast<float>(tokens[i] * 6));
  }

  KernelResult add = make_kernel(
      Combine{.tokens = rows, .rows = rows, .width = width, .expert = 0, .dtype = DType::f32});
  REQUIRE(add.kernel != nullptr);
  const AlignedMemory scratch(add.kernel->scratch_bytes());
  const std::vector<Buffer> add_inputs = {picked_buffer, buffer(weights, DType::f32), index_buffer,
                                          buffer(sum, DType::f32)};
  add.kernel->run({add_inputs, {}, scratch.span(), nullptr});
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const float expected = i / 6 == 1 ? 1.0f : 1.0f + 0.5f * x[i];
    CHECK(sum[i] == expected);
  }
}

TEST_CASE("new tokens land in the cache, from one tensor or several") {
  for (const DType input : {DType::f32, DType::bf16}) {
    for (const DType cache : {DType::f32, DType::bf16, DType::i8}) {
      // check_against_reference compares the whole cache; int8 halves could round either way, but
      // random numbers do not hit them.
      check_against_reference(CacheAppend{.tokens = 6, .width = 60, .input = input, .cache = cache},
                              {host_isa()}, {0, 0});
    }
  }
  // Keys and values apart, and pieces that end inside a head, give the same cache as one tensor.
  const CacheAppend op{.tokens = 6, .width = 60, .input = DType::f32, .cache = DType::f32};
  const KernelResult result = make_kernel(op);
  Case whole(op);
  result.kernel->run(whole.args({}));
  for (const std::vector<std::int64_t>& widths :
       std::vector<std::vector<std::int64_t>>{{20, 40}, {33, 27}, {1, 58, 1}}) {
    Case pieces(op);
    std::vector<std::vector<float>> parts;
    std::vector<Buffer> inputs;
    std::int64_t first = 0;
    for (const std::int64_t width : widths) {
      std::vector<float>& part = parts.emplace_back();
      for (std::int64_t token = 0; token < 6; ++token) {
        for (std::int64_t i = 0; i < width; ++i) {
          part.push_back(static_cast<float>(get(whole.inputs[0], token * 60 + first + i)));
        }
      }
      first += width;
    }
    for (std::vector<float>& part : parts) {
      inputs.push_back({static_cast<std::byte*>(static_cast<void*>(part.data())),
                        static_cast<std::int64_t>(part.size() * 4),
                        DType::f32,
                        {}});
    }
    inputs.push_back(pieces.inputs[1]);
    pieces.inputs = inputs;
    result.kernel->run(pieces.args({}));
    CHECK(pieces.cache_memory == whole.cache_memory);
  }
}

TEST_CASE("copies cut, exchange, repeat and join as their parts say") {
  struct Row {
    CopyKind kind;
    std::vector<int> sources;  // elements of each, numbered through
    std::array<CopyPart, 2> parts;
    std::vector<int> expected;
  };
  const CopyPart left{
      .sizes = {1, 1, 2}, .run = 2, .source_strides = {0, 0, 2}, .target_strides = {0, 0, 3}};
  const CopyPart right{.sizes = {1, 1, 2},
                       .run = 1,
                       .source_strides = {0, 0, 1},
                       .target_offset = 2,
                       .target_strides = {0, 0, 3}};
  const std::vector<Row> rows = {
      {CopyKind::concat, {4, 2}, {left, right}, {0, 1, 4, 2, 3, 5}},
      // The middle column of a matrix of two rows.
      {CopyKind::slice,
       {6},
       {{{.sizes = {1, 1, 2},
          .run = 1,
          .source_offset = 1,
          .source_strides = {0, 0, 3},
          .target_strides = {0, 0, 1}}}},
       {1, 4}},
      // [2, 3, 2] to [3, 2, 2].
      {CopyKind::transpose,
       {12},
       {{{.sizes = {1, 3, 2}, .run = 2, .source_strides = {0, 2, 6}, .target_strides = {0, 4, 2}}}},
       {0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11}},
      {CopyKind::repeat,
       {4},
       {{{.sizes = {1, 2, 2}, .run = 2, .source_strides = {0, 2, 0}, .target_strides = {0, 4, 2}}}},
       {0, 1, 0, 1, 2, 3, 2, 3}},
      {CopyKind::cast, {3}, {}, {0, 1, 2}},
  };
  for (const Row& row : rows) {
    CAPTURE(name_of(row.kind));
    std::vector<std::vector<float>> sources;
    std::vector<Buffer> inputs;
    int number = 0;
    for (const int count : row.sources) {
      std::vector<float>& source = sources.emplace_back();
      for (int i = 0; i < count; ++i) source.push_back(static_cast<float>(number++));
    }
    for (std::vector<float>& source : sources) {
      inputs.push_back({static_cast<std::byte*>(static_cast<void*>(source.data())),
                        static_cast<std::int64_t>(source.size() * 4),
                        DType::f32,
                        {}});
    }
    std::vector<float> result(row.expected.size(), -1.0f);
    const auto count = static_cast<std::int64_t>(result.size());
    const Buffer output{
        static_cast<std::byte*>(static_cast<void*>(result.data())), count * 4, DType::f32, {}};
    const KernelResult kernel = make_kernel(Copy{.kind = row.kind,
                                                 .read_elements = count,
                                                 .written_elements = count,
                                                 .from = DType::f32,
                                                 .to = DType::f32,
                                                 .parts = row.parts});
    REQUIRE(kernel.kernel != nullptr);
    kernel.kernel->run({inputs, {&output, 1}, {}, nullptr});
    for (std::size_t i = 0; i < result.size(); ++i) {
      CAPTURE(i);
      CHECK(result[i] == static_cast<float>(row.expected[i]));
    }
  }
}

TEST_CASE("prefill and decode share a packed weight") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
    if (dtype == DType::bf16 && !HostDTypes{}.bf16) continue;
    std::string layout;
    for (const std::int64_t m : {1, 7, 64, 512}) {
      CAPTURE(m);
      CAPTURE(name_of(dtype));
      const KernelResult result =
          make_kernel(MatMul{.m = m,
                             .n = 512,
                             .k = 1024,
                             .input = dtype,
                             .weight = dtype,
                             .output = dtype == DType::i8 ? DType::f32 : dtype,
                             .compute = dtype});
      REQUIRE(result.kernel != nullptr);
      if (layout.empty()) layout = result.kernel->packed_layout();
      CHECK(result.kernel->packed_layout() == layout);
    }
  }
}

TEST_CASE("what has no kernel says why") {
  struct Row {
    OpRecord record;
    std::string reason;
  };
  const OperatorDefinition definition{.name = "scan"};
  const std::vector<Row> rows = {
      {Collective{}, "communication between devices cannot be timed in one process"},
      {CustomOp{.definition = &definition}, "operator 'scan' has no kernel"},
      {MatMul{.m = 1, .n = 8, .k = 8, .weight = DType::f8_e4m3}, "no kernel for f8_e4m3"},
      {MatMul{.m = 1, .n = 8, .k = 8, .input = DType::f16}, "no kernel for f16"},
      {MatMul{.m = 0, .n = 8, .k = 8}, "empty product"},
      {MatMul{.m = 1,
              .n = 8,
              .k = 8,
              .weight = DType::i8,
              .weight_scales = ScaleGrid{1, 4, DType::f16, DType::i8}},
       "a weight with zero points"},
      {MatMul{.m = 1, .n = 8, .k = 8, .compute = DType::i8}, "bf16 * bf16 computed in i8"},
      {Attention{.heads = 3, .kv_heads = 2}, "3 heads do not share 2 key-value heads evenly"},
      {Attention{.cache = DType::f8_e4m3}, "no kernel for f8_e4m3"},
      {Attention{.qk_head_dim = 8, .v_head_dim = 16, .value_in_key = true},
       "a value of 16 is not part of a key of 8"},
      {Softmax{.rows = 1, .columns = 0}, "empty softmax"},
      {Softmax{.rows = 1, .columns = 1, .dtype = DType::i8}, "no kernel for i8"},
      {Route{.tokens = 1, .experts = 4, .top_k = 5}, "choice of 5 out of 4 experts"},
      {TopK{.rows = 1, .columns = 2, .k = 3}, "choice of 3 out of 2"},
      {Rotary{.tokens = 1, .heads = 1, .head_dim = 4, .rotary_dim = 6},
       "6 elements of a head of 4 to rotate"},
      {Quantize{.rows = 1, .columns = 1, .to = DType::f8_e4m3},
       "no kernel that quantizes to f8_e4m3"},
      {Elementwise{.kind = ElementwiseKind::add, .elements = 10, .second_elements = 3},
       "a second operand of 3 elements does not divide 10"},
      {Copy{.read_elements = 1,
            .written_elements = 1,
            .from = DType::bf16,
            .to = DType::f32,
            .parts = {{{.run = 1}}}},
       "copy from bf16 to f32"},
      {Attention{.qk_head_dim = 8, .v_head_dim = 8, .cache = DType::i8, .paged = false},
       "attention to keys and values beside each other is in floating point"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.reason);
    const KernelResult result = make_kernel(row.record);
    CHECK(result.kernel == nullptr);
    CHECK(result.unsupported == row.reason);
  }
}

TEST_CASE("sizes that overflow are errors") {
  const std::int64_t huge = std::int64_t{1} << 40;
  CHECK_THROWS_AS(make_kernel(MatMul{.m = huge, .n = huge, .k = 1}), Error);
  CHECK_THROWS_AS(make_kernel(Softmax{.rows = huge, .columns = huge}), Error);
  CHECK_THROWS_AS(make_kernel(Attention{.batch = huge, .query_length = huge}), Error);
  CHECK_THROWS_AS(make_kernel(GroupedMatMul{.experts = huge, .rows = 1, .n = huge, .k = 2}), Error);
}

TEST_CASE("operands that do not fit the record are our bugs, also inside threads") {
  const Gather op{.rows = 1000, .width = 1000, .table_rows = 5, .dtype = DType::f32};
  const KernelResult result = make_kernel(op);
  Case one(op);
  set(one.inputs[1], 999, 5);
  CHECK_THROWS_AS(result.kernel->run(one.args({})), InternalError);
  set(one.inputs[1], 999, 4);
  result.kernel->run(one.args({}));
  one.inputs[0].bytes -= 1;
  CHECK_THROWS_AS(result.kernel->run(one.args({})), InternalError);
  one.inputs[0].bytes += 1;
  one.inputs[0].dtype = DType::bf16;
  CHECK_THROWS_AS(result.kernel->run(one.args({})), InternalError);
  one.inputs.pop_back();
  CHECK_THROWS_AS(result.kernel->run(one.args({})), InternalError);
}

TEST_CASE("dtypes that the host lacks are replaced and named") {
  std::string note;
  OpRecord record = host_substitute(MatMul{.m = 1,
                                           .n = 2,
                                           .k = 3,
                                           .input = DType::f8_e4m3,
                                           .weight = DType::f8_e4m3,
                                           .compute = DType::f8_e4m3,
                                           .weight_scales = scale_per_row,
                                           .activation_scales = scale_per_row},
                                    {.bf16 = true}, &note);
  const auto& product = std::get<MatMul>(record);
  CHECK(product.input == DType::bf16);
  CHECK(product.weight == DType::bf16);
  CHECK(product.compute == DType::bf16);
  CHECK(!product.weight_scales);
  CHECK(!product.activation_scales);
  CHECK(note == "f8_e4m3 -> bf16");

  record = host_substitute(
      MatMul{.m = 1, .n = 2, .k = 3, .weight = DType::i8, .weight_scales = scale_per_row},
      {.bf16 = false}, &note);
  CHECK(std::get<MatMul>(record).weight == DType::i8);
  CHECK(std::get<MatMul>(record).weight_scales == scale_per_row);
  CHECK(std::get<MatMul>(record).compute == DType::f32);
  CHECK(note == "bf16 -> f32");

  // 4-bit integers are held in 8 bit, their zero points taken off.
  record = host_substitute(MatMul{.m = 1,
                                  .n = 2,
                                  .k = 4,
                                  .weight = DType::i4,
                                  .weight_scales = ScaleGrid{1, 2, DType::f16, DType::i4}},
                           {.bf16 = true}, &note);
  CHECK(std::get<MatMul>(record).weight == DType::i8);
  CHECK(std::get<MatMul>(record).weight_scales == ScaleGrid{1, 2, DType::f16});
  CHECK(note == "i4 -> i8");

  record = host_substitute(Quantize{.rows = 3, .columns = 4, .to = DType::f8_e4m3}, {.bf16 = true},
                           &note);
  CHECK(std::get<Copy>(record).written_elements == 12);
  CHECK(std::get<Copy>(record).to == DType::bf16);

  record = host_substitute(Attention{.cache = DType::f8_e4m3}, {.bf16 = false}, &note);
  CHECK(std::get<Attention>(record).cache == DType::f32);
  CHECK(note == "bf16 -> f32, f8_e4m3 -> f32");

  host_substitute(Softmax{}, {.bf16 = true}, &note);
  CHECK(note.empty());
}
