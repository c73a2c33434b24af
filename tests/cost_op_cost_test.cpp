#include <cctype>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/cost/op_cost.h"

namespace tcast {
namespace {

struct Row {
  std::string what;
  OpRecord record;
  double matrix_flops;
  double vector_flops;
  double read_bytes;
  double write_bytes;
};

OpWork work_of_example(const CustomOp& op) {
  OpWork work;
  work.matrix_flops = static_cast<double>(op.sizes[0]);
  work.matrix_dtype = op.dtype;
  work.vector_flops = 3;
  work.read_bytes = 5;
  work.write_bytes = 7;
  return work;
}

const OperatorDefinition example{.name = "example", .work = {{}, work_of_example}};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"linear", MatMul{.m = 512, .n = 4096, .k = 1024}, 2.0 * 512 * 4096 * 1024, 0,
       2.0 * (512 * 1024 + 4096 * 1024), 2.0 * 512 * 4096},
      {"linear with bias", MatMul{.m = 2, .n = 3, .k = 4, .bias = true}, 48, 6, 2.0 * (8 + 12 + 3),
       12},
      {"w8a8: scales of both operands, one rescaling per result",
       MatMul{.m = 10,
              .n = 30,
              .k = 20,
              .input = DType::i8,
              .weight = DType::i8,
              .compute = DType::i8,
              .weight_scales = scale_per_row,
              .activation_scales = scale_per_row},
       2.0 * 10 * 30 * 20, 2.0 * 300, 200 + 600 + 4 * 30 + 4 * 10, 600},
      {"fp8 in blocks of 128: one rescaling per block of k",
       MatMul{.m = 10,
              .n = 256,
              .k = 512,
              .input = DType::f8_e4m3,
              .weight = DType::f8_e4m3,
              .compute = DType::f8_e4m3,
              .weight_scales = ScaleGrid{128, 128},     // 2 x 4 blocks
              .activation_scales = ScaleGrid{1, 128}},  // 10 rows x 4
       2.0 * 10 * 256 * 512, 2.0 * 10 * 256 * 4, 5120.0 + 131072 + 32 + 160, 5120},
      {"w8a16: the weight is converted, compute stays in 16 bit",
       MatMul{.m = 10, .n = 30, .k = 20, .weight = DType::i8, .weight_scales = scale_per_row},
       2.0 * 10 * 30 * 20, 600, 400 + 600 + 120, 600},
      {"w4a16 in groups of 10",
       MatMul{.m = 1, .n = 30, .k = 20, .weight = DType::i4, .weight_scales = ScaleGrid{1, 10}},
       2.0 * 30 * 20, 600, 40 + 300 + 240, 60},
      {"w4a16 in groups of 10 with scales in 16 bit and 4-bit zero points",
       MatMul{.m = 1,
              .n = 30,
              .k = 20,
              .weight = DType::i4,
              .weight_scales = ScaleGrid{1, 10, DType::bf16, DType::i4}},
       2.0 * 30 * 20, 600, 40 + 300 + 60 * 2 + 60 / 2, 60},
      {"one scale for a batch of matrices that lie below each other",
       MatMul{.batch = 4,
              .m = 1,
              .n = 30,
              .k = 20,
              .weight = DType::i8,
              .weight_scales = scale_per_tensor},
       4 * 2.0 * 30 * 20, 4 * 600, 4 * (40 + 600) + 4, 4 * 60},
      {"experts in 4 bit: scales and zero points of those that are read",
       GroupedMatMul{.experts = 256,
                     .distinct_experts = 6,
                     .rows = 8,
                     .n = 32,
                     .k = 16,
                     .weight = DType::i4,
                     .weight_scales = ScaleGrid{1, 8, DType::f16, DType::i4}},
       2.0 * 8 * 32 * 16, 6.0 * 32 * 16,
       2.0 * 8 * 16 + 6 * 32 * 16 / 2 + 6.0 * 64 * 2 + 6.0 * 64 / 2, 2.0 * 8 * 32},
      {"scores of eager attention: second operand per batch",
       MatMul{.batch = 8, .m = 16, .n = 16, .k = 64, .weight_is_parameter = false},
       8 * 2.0 * 16 * 16 * 64, 0, 2.0 * 8 * (16 * 64 + 16 * 64), 2.0 * 8 * 256},
      {"no rows: the weight is not even read", MatMul{.m = 0, .n = 4096, .k = 1024}, 0, 0, 0, 0},
      {"grouped matmul reads the experts that have tokens",
       GroupedMatMul{.experts = 256, .distinct_experts = 6, .rows = 8, .n = 32, .k = 16},
       2.0 * 8 * 32 * 16, 0, 2.0 * (8 * 16 + 6 * 32 * 16), 2.0 * 8 * 32},
      {"grouped matmul, weight-only i8",
       GroupedMatMul{.experts = 256,
                     .distinct_experts = 6,
                     .rows = 8,
                     .n = 32,
                     .k = 16,
                     .weight = DType::i8,
                     .weight_scales = scale_per_row},
       2.0 * 8 * 32 * 16, 6.0 * 32 * 16, 2.0 * 8 * 16 + 6 * 32 * 16 + 4.0 * 6 * 32, 2.0 * 8 * 32},
      // S6: expected numbers count as they are, scales with their experts and rows.
      {"grouped matmul of expected numbers",
       GroupedMatMul{.experts = 16, .distinct_experts = 2.5, .rows = 3.25, .n = 32, .k = 16},
       2.0 * 3.25 * 32 * 16, 0, 2.0 * (3.25 * 16 + 2.5 * 32 * 16), 2.0 * 3.25 * 32},
      {"grouped matmul of less than one row",
       GroupedMatMul{.experts = 16, .distinct_experts = 0.125, .rows = 0.125, .n = 32, .k = 16},
       2.0 * 32 * 16 / 8, 0, 2.0 * (16 + 32 * 16) / 8, 2.0 * 32 / 8},
      {"grouped matmul of expected numbers, fp8 with 1 x 128 activation scales and blocks",
       GroupedMatMul{.experts = 16,
                     .distinct_experts = 2.5,
                     .rows = 3.25,
                     .n = 256,
                     .k = 512,
                     .input = DType::f8_e4m3,
                     .weight = DType::f8_e4m3,
                     .compute = DType::f8_e4m3,
                     .bias = true,
                     .weight_scales = ScaleGrid{128, 128},
                     .activation_scales = ScaleGrid{1, 128}},  // 4 rows x 4
       2.0 * 3.25 * 256 * 512, 2.0 * 3.25 * 256 * 4 + 3.25 * 256,
       3.25 * 512 + 2.5 * 256 * 512 + 2.5 * 8 * 4 + 3.25 * 4 * 4 + 2.5 * 256 * 2, 2.0 * 3.25 * 256},
      {"grouped matmul without rows",
       GroupedMatMul{.experts = 8, .distinct_experts = 0, .n = 9, .k = 9}, 0, 0, 0, 0},
      {"prefill attention: the triangle, keys read once per kv head",
       Attention{.batch = 2,
                 .query_length = 4,
                 .heads = 8,
                 .kv_heads = 2,
                 .qk_head_dim = 16,
                 .v_head_dim = 16},
       2.0 * 2 * 8 * 10 * 32, 4.0 * 2 * 8 * 10, 2.0 * (2 * 4 * 8 * 16) + 2.0 * (2 * 4 * 2 * 32),
       2.0 * 2 * 4 * 8 * 16},
      {"decode attention",
       Attention{.query_length = 1,
                 .context_length = 99,
                 .heads = 8,
                 .kv_heads = 2,
                 .qk_head_dim = 16,
                 .v_head_dim = 16},
       2.0 * 8 * 100 * 32, 4.0 * 8 * 100, 2.0 * (8 * 16) + 2.0 * (100 * 2 * 32), 2.0 * 8 * 16},
      {"decode in a window with an i8 cache, sinks and soft-capping",
       Attention{.query_length = 1,
                 .context_length = 99,
                 .heads = 8,
                 .kv_heads = 2,
                 .qk_head_dim = 16,
                 .v_head_dim = 16,
                 .span = {.causal = true, .window = 10, .chunk = 0},
                 .cache = DType::i8,
                 .sinks = true,
                 .softcap = 30},
       2.0 * 8 * 10 * 32, 7.0 * 8 * 10 + 10 * 2 * 32, 2.0 * (8 * 16) + 10 * 2 * 32 + 2.0 * 8,
       2.0 * 8 * 16},
      {"latent attention reads the latent once for keys and values",
       Attention{.query_length = 1,
                 .context_length = 99,
                 .heads = 128,
                 .kv_heads = 1,
                 .qk_head_dim = 576,
                 .v_head_dim = 512,
                 .value_in_key = true},
       2.0 * 128 * 100 * (576 + 512), 4.0 * 128 * 100, 2.0 * 128 * 576 + 2.0 * 100 * 576,
       2.0 * 128 * 512},
      {"bidirectional attention: the square",
       Attention{.query_length = 4,
                 .qk_head_dim = 8,
                 .v_head_dim = 8,
                 .span = {.causal = false, .window = 0, .chunk = 0}},
       2.0 * 16 * 16, 4.0 * 16, 2.0 * (4 * 8 + 4 * 16), 2.0 * 4 * 8},
      {"softmax", Softmax{.rows = 3, .columns = 5}, 0, 75, 30, 30},
      {"softmax with sinks", Softmax{.rows = 4, .columns = 5, .sink_heads = 2}, 0, 100, 40 + 4, 40},
      {"sums of squares of a part of a row",
       Norm{.stage = NormStage::sum_squares, .rows = 3, .width = 8}, 0, 2.0 * 24, 48, 12},
      {"rms norm with sums from elsewhere",
       Norm{.stage = NormStage::scale, .ranks = 2, .rows = 3, .width = 8}, 0, 2.0 * 24,
       2.0 * (24 + 8) + 12, 48},
      {"both operands in one tensor",
       Elementwise{.kind = ElementwiseKind::silu_mul,
                   .elements = 12,
                   .packing = Packing::halves,
                   .width = 4},
       0, 60, 48, 24},
      {"clamped SwiGLU",
       Elementwise{.kind = ElementwiseKind::clamped_swiglu,
                   .elements = 12,
                   .packing = Packing::pairs,
                   .width = 4},
       0, 120, 48, 24},
      {"rms norm", Norm{.rows = 3, .width = 8}, 0, 4.0 * 24, 2.0 * (24 + 8), 48},
      {"layer norm",
       Norm{.kind = NormKind::layer, .rows = 3, .width = 8, .dtype = DType::f32, .bias = true}, 0,
       7.0 * 24, 4.0 * (24 + 16), 96},
      {"add", Elementwise{.elements = 12, .second_elements = 12}, 0, 12, 48, 24},
      {"broadcast add", Elementwise{.elements = 12, .second_elements = 4}, 0, 12, 32, 24},
      {"scale", Elementwise{.kind = ElementwiseKind::scale, .elements = 12}, 0, 12, 24, 24},
      {"silu * b",
       Elementwise{.kind = ElementwiseKind::silu_mul, .elements = 12, .second_elements = 12}, 0, 60,
       48, 24},
      {"gelu tanh", Elementwise{.kind = ElementwiseKind::gelu_tanh, .elements = 10}, 0, 90, 20, 20},
      {"partial rotary", Rotary{.tokens = 5, .heads = 2, .head_dim = 16, .rotary_dim = 8}, 0,
       3.0 * 80, 2.0 * (160 + 80), 2.0 * 160},
      {"rotary table computed", RotaryTable{.tokens = 5, .dim = 8}, 0, 100, 40, 160},
      {"rotary table looked up",
       RotaryTable{.tokens = 5, .dim = 8, .cached = true, .table_positions = 4096}, 0, 0, 40 + 160,
       160},
      {"embedding reads its rows, not the table",
       Gather{.rows = 5, .width = 16, .table_rows = 128256}, 0, 0, 5 * 8 + 160, 160},
      {"cache append", CacheAppend{.tokens = 5, .width = 16}, 0, 0, 5 * 8 + 160, 160},
      {"cache append, i8", CacheAppend{.tokens = 5, .width = 16, .cache = DType::i8}, 0, 160,
       5 * 8 + 160, 80},
      {"repeat of kv heads",
       Copy{.kind = CopyKind::repeat, .read_elements = 10, .written_elements = 40}, 0, 0, 20, 80},
      {"cast",
       Copy{.kind = CopyKind::cast, .read_elements = 10, .written_elements = 10, .to = DType::f32},
       0, 0, 20, 40},
      {"route", Route{.tokens = 2, .experts = 8, .top_k = 2}, 0, 5.0 * 16 + 2 * 16, 64,
       4.0 * (4 + 8)},
      {"route with groups, bias and normalization",
       Route{.tokens = 2,
             .experts = 8,
             .top_k = 2,
             .score = RouterScore::sigmoid,
             .groups = 4,
             .topk_groups = 2,
             .correction_bias = true,
             .normalize = true},
       0, (4.0 + 1 + 2 + 2) * 16 + 2 * 4, 64 + 32, 48},
      {"top k", TopK{.rows = 2, .columns = 8, .k = 1}, 0, 16, 64, 24},
      {"permute: one read per token, one write per row",
       Permute{.tokens = 5, .rows = 40, .width = 16}, 0, 0, 40 * 8 + 160, 1280},
      {"permute of the few rows that stay on this rank",
       Permute{.tokens = 5, .rows = 2, .width = 16}, 0, 0, 2 * 8 + 64, 64},
      {"combine", Combine{.tokens = 5, .rows = 40, .width = 16}, 0, 1280, 40 * 12 + 1280, 160},
      {"dynamic quantization per row", Quantize{.rows = 3, .columns = 10}, 0, 120, 60, 30 + 12},
      {"dynamic quantization per group", Quantize{.rows = 3, .columns = 10, .group = 4}, 0, 120, 60,
       30 + 36},
      {"static quantization", Quantize{.rows = 3, .columns = 10, .group = -1}, 0, 60, 60, 30},
      {"all-reduce", Collective{.bytes = 1024, .group_size = 4}, 0, 384, 1024, 1024},
      {"all-gather", Collective{.kind = CollectiveKind::all_gather, .bytes = 1024, .group_size = 4},
       0, 0, 256, 1024},
      {"reduce-scatter",
       Collective{.kind = CollectiveKind::reduce_scatter, .bytes = 1024, .group_size = 4}, 0, 384,
       1024, 256},
      {"all-to-all", Collective{.kind = CollectiveKind::all_to_all, .bytes = 1024, .group_size = 4},
       0, 0, 1024, 1024},
      {"a group of one", Collective{.bytes = 1024, .group_size = 1}, 0, 0, 0, 0},
      {"custom", CustomOp{.definition = &example, .sizes = {11}}, 11, 3, 5, 7},
  };
  return table;
}

TEST_CASE("work of every kind of op") {
  for (const Row& row : rows()) {
    CAPTURE(row.what);
    const OpWork work = work_of(row.record);
    CHECK(work.matrix_flops == row.matrix_flops);
    CHECK(work.vector_flops == row.vector_flops);
    CHECK(work.read_bytes == row.read_bytes);
    CHECK(work.write_bytes == row.write_bytes);
  }
}

TEST_CASE("an empty op of any kind has no work") {
  for (const Row& row : rows()) {
    if (std::holds_alternative<CustomOp>(row.record)) continue;
    CAPTURE(row.what);
    // Rows, tokens, elements, bytes or batch are 0 by default.
    const OpRecord empty = std::visit(
        [](auto op) -> OpRecord {
          using T = decltype(op);
          T fresh{};
          if constexpr (std::is_same_v<T, Attention>) fresh.batch = 0;
          if constexpr (std::is_same_v<T, Collective>) fresh.group_size = 8;
          return fresh;
        },
        row.record);
    const OpWork work = work_of(empty);
    CHECK(work.flops() == 0);
    CHECK(work.bytes() == 0);
  }
}

TEST_CASE("the matrix dtype is what the multiplication runs in") {
  CHECK(work_of(MatMul{.m = 1, .n = 1, .k = 1, .weight = DType::i8}).matrix_dtype == DType::bf16);
  CHECK(work_of(MatMul{.m = 1, .n = 1, .k = 1, .compute = DType::f32}).matrix_dtype == DType::f32);
  CHECK(work_of(Attention{.query = DType::f16, .cache = DType::i8}).matrix_dtype == DType::f16);
}

// --- the explanation tells the same story --------------------------------------------------------

/// Value of "2 * 3 * (4 + 5.5)" with "," in numbers ignored.
class Arithmetic {
 public:
  explicit Arithmetic(std::string_view text) {
    for (const char c : text) {
      if (c != ',' && c != ' ') text_ += c;
    }
  }
  double value() { return sum(); }

 private:
  double sum() {
    double total = product();
    while (at_ < text_.size() && text_[at_] == '+') {
      ++at_;
      total += product();
    }
    return total;
  }
  double product() {
    double total = factor();
    while (at_ < text_.size() && text_[at_] == '*') {
      ++at_;
      total *= factor();
    }
    return total;
  }
  double factor() {
    if (text_[at_] == '(') {
      ++at_;
      const double inner = sum();
      REQUIRE(text_[at_] == ')');
      ++at_;
      return inner;
    }
    char* end = nullptr;
    const double number = std::strtod(text_.c_str() + at_, &end);
    REQUIRE(end != text_.c_str() + at_);
    at_ = static_cast<std::size_t>(end - text_.c_str());
    return number;
  }

  std::string text_;
  std::size_t at_ = 0;
};

TEST_CASE("the explanation's arithmetic is right and adds up to the work") {
  for (const Row& row : rows()) {
    if (std::holds_alternative<CustomOp>(row.record)) continue;
    CAPTURE(row.what);
    double flops = 0;
    double bytes = 0;
    int lines = 0;
    for (const std::string& line : split(explain_work(row.record), '\n')) {
      const std::vector<std::string> parts = split(line, '=');
      if (line.rfind("  ", 0) != 0 || parts.size() < 2) continue;
      CAPTURE(line);
      ++lines;
      std::string result = parts.back();
      const bool is_bytes = result.size() > 2 && result.substr(result.size() - 2) == " B";
      if (is_bytes) result.resize(result.size() - 2);
      const double value = Arithmetic(result).value();
      if (parts.size() == 3) {
        CHECK(Arithmetic(parts[1]).value() == doctest::Approx(value).epsilon(1e-5));
      }
      (is_bytes ? bytes : flops) += value;
    }
    const OpWork work = work_of(row.record);
    CHECK(flops == doctest::Approx(work.flops()).epsilon(1e-5));
    CHECK(bytes == doctest::Approx(work.bytes()).epsilon(1e-5));
    CHECK((lines > 0) == (work.bytes() > 0));
  }
}

TEST_CASE("explanations read well") {
  CHECK(explain_work(MatMul{.m = 512, .n = 4096, .k = 1024, .bias = true}) ==
        "matmul: m=512 n=4096 k=1024 bf16*bf16->bf16 bias\n"
        "  multiply-adds (bf16 flops)   2 * batch * m * n * k = 2 * 1 * 512 * 4,096 * 1,024 = "
        "4,294,967,296\n"
        "  read x                       batch * m * k * bytes(bf16) = 1 * 512 * 1,024 * 2 = "
        "1,048,576 B\n"
        "  read weight                  batch * n * k * bytes(bf16) = 1 * 4,096 * 1,024 * 2 = "
        "8,388,608 B\n"
        "  read bias                    n * bytes(bf16) = 4,096 * 2 = 8,192 B\n"
        "  add the bias (vector flops)  batch * m * n = 1 * 512 * 4,096 = 2,097,152\n"
        "  write y                      batch * m * n * bytes(bf16) = 1 * 512 * 4,096 * 2 = "
        "4,194,304 B\n"
        "  total                        4,294,967,296 matrix flops, 2,097,152 vector flops, "
        "9,445,376 B read, 4,194,304 B written\n");
  CHECK(explain_work(Collective{.bytes = 1024, .group_size = 1}) ==
        "all_reduce: bytes=1024 ranks=1 bf16\n"
        "  total  0 matrix flops, 0 vector flops, 0 B read, 0 B written\n");
  CHECK(explain_work(CustomOp{.definition = &example, .sizes = {11}}) ==
        "example: sizes=11,0,0,0,0,0,0,0 bf16\n"
        "  the definition of the operator  gives its work\n"
        "  total                           11 matrix flops, 3 vector flops, 5 B read, 7 B "
        "written\n");
}

TEST_CASE("a custom operator without a definition is our bug") {
  CHECK_THROWS_AS(static_cast<void>(work_of(CustomOp{})), InternalError);
}

}  // namespace
}  // namespace tcast
