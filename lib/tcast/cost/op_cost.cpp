#include "tcast/cost/op_cost.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/graph/attention_span.h"

// Every formula stands here once and is read in two ways: by Counter, whose numbers are doubles and
// which the compiler turns into plain arithmetic, and by Writer, whose numbers are terms that
// remember how they came about. So an explanation can never tell another story than the estimate.
//
// Conventions. A multiply-add counts as two operations; exp, erf, tanh and a division as one each.
// Vector work runs in f32 whatever the storage (as PyTorch's kernels do). Scales are f32, indices
// and positions i64. An operand is read once: a kernel that tiles well keeps the rest on the chip.

namespace tcast {
namespace {

// --- first reading: numbers ----------------------------------------------------------------------

struct Counter {
  using Number = double;

  Number size(const char*, double value) const { return value; }
  Number bytes(DType dtype) const { return bits_of(dtype) / 8.0; }
  void matrix(const char*, Number flops, DType dtype) {
    work.matrix_flops += flops;
    work.matrix_dtype = dtype;
  }
  void vector(const char*, Number flops) { work.vector_flops += flops; }
  void read(const char*, Number bytes_read) { work.read_bytes += bytes_read; }
  void write(const char*, Number bytes_written) { work.write_bytes += bytes_written; }
  void read_cold(const char*, Number bytes_read) {
    work.read_bytes += bytes_read;
    work.cold_bytes += bytes_read;
  }
  void write_cold(const char*, Number bytes_written) {
    work.write_bytes += bytes_written;
    work.cold_bytes += bytes_written;
  }
  void add(const OpWork& other) { work = other; }
  void routing(const GroupedMatMul&) {}

  OpWork work;
};

// --- second reading: text ------------------------------------------------------------------------

std::string number_text(double value) {
  constexpr double largest_exact = 9007199254740992.0;  // 2^53
  // Of a large number, what is behind the point says nothing.
  constexpr double large = 1e6;
  if ((value == std::floor(value) || std::abs(value) >= large) && std::abs(value) < largest_exact) {
    return format_grouped(std::llround(value));
  }
  return fmt::format("{:.6g}", value);
}

/// A value that knows its formula in names and in numbers.
struct Term {
  Term(double number)  // NOLINT(google-explicit-constructor): literals in formulas
      : value(number), names(number_text(number)), numbers(names) {}
  Term(double number, std::string name)
      : value(number), names(std::move(name)), numbers(number_text(number)) {}
  Term(double number, std::string name, std::string digits, bool sum)
      : value(number), names(std::move(name)), numbers(std::move(digits)), is_sum(sum) {}

  double value;
  std::string names;
  std::string numbers;
  bool is_sum = false;  // needs parentheses as a factor
};

std::string as_factor(const Term& term, const std::string& text) {
  return term.is_sum ? "(" + text + ")" : text;
}

Term operator*(const Term& a, const Term& b) {
  return {a.value * b.value, as_factor(a, a.names) + " * " + as_factor(b, b.names),
          as_factor(a, a.numbers) + " * " + as_factor(b, b.numbers), false};
}

Term operator+(const Term& a, const Term& b) {
  return {a.value + b.value, a.names + " + " + b.names, a.numbers + " + " + b.numbers, true};
}

struct Writer {
  using Number = Term;

  Number size(const char* name, double value) const { return {value, name}; }
  Number bytes(DType dtype) const {
    return {bits_of(dtype) / 8.0, fmt::format("bytes({})", short_name_of(dtype))};
  }
  void matrix(const char* what, const Number& flops, DType dtype) {
    line(fmt::format("{} ({} flops)", what, short_name_of(dtype)), flops, "");
  }
  void vector(const char* what, const Number& flops) {
    line(fmt::format("{} (vector flops)", what), flops, "");
  }
  void read(const char* what, const Number& bytes_read) {
    line(fmt::format("read {}", what), bytes_read, " B");
  }
  void write(const char* what, const Number& bytes_written) {
    line(fmt::format("write {}", what), bytes_written, " B");
  }
  void read_cold(const char* what, const Number& bytes_read) { read(what, bytes_read); }
  void write_cold(const char* what, const Number& bytes_written) { write(what, bytes_written); }
  void add(const OpWork&) {
    lines.emplace_back("the definition of the operator", "gives its work");
  }

  /// Where the expected rows and distinct experts come from.
  void routing(const GroupedMatMul& op) {
    const ExpertRouting& by = op.routing;
    if (by.num_experts <= 0) return;
    const std::string tokens = number_text(by.tokens);
    const std::string held = number_text(static_cast<double>(op.experts));
    lines.emplace_back("tokens of a pass (T)",
                       fmt::format("{}, on all ranks that share the experts", tokens));
    std::string rows;
    std::string distinct;
    if (by.skew <= 0) {
      const std::string p = number_text(expert_probability(by, 0));
      lines.emplace_back("chosen by a token (p)", fmt::format("top_k / num_experts = {} / {} = {}",
                                                              by.top_k, by.num_experts, p));
      rows = fmt::format("experts * p * T = {} * {} * {}", held, p, tokens);
      distinct = fmt::format("experts * (1 - (1 - p)^T) = {} * (1 - (1 - {})^{})", held, p, tokens);
    } else {
      lines.emplace_back(
          "chosen by a token (p_i)",
          fmt::format("min(1, c * i^-{}) for number i of {} in popularity, {} together; p_1 = {}",
                      number_text(by.skew), by.num_experts, by.top_k,
                      number_text(expert_probability(by, 0))));
      rows = fmt::format("sum over {} experts of p_i * T", held);
      distinct = fmt::format("sum over {} experts of 1 - (1 - p_i)^{}", held, tokens);
    }
    lines.emplace_back("expected rows", fmt::format("{} = {}", rows, number_text(op.rows)));
    lines.emplace_back("expected distinct experts",
                       fmt::format("{} = {}", distinct, number_text(op.distinct_experts)));
  }

  void line(std::string what, const Number& term, const char* unit) {
    const std::string result = number_text(term.value);
    std::string formula = term.names;
    if (term.numbers != term.names && term.numbers != result) formula += " = " + term.numbers;
    lines.emplace_back(std::move(what), fmt::format("{} = {}{}", formula, result, unit));
  }

  std::vector<std::pair<std::string, std::string>> lines;
};

// --- the formulas --------------------------------------------------------------------------------

/// Weights of at most 8 bits that are multiplied in a wider type are converted first.
bool needs_dequantization(DType weight, DType compute) {
  return bits_of(weight) <= 8 && bits_of(compute) > 8;
}

/// Products of narrow operands are put right by scales: by the weight's (and the activation's) once
/// per result, or once per group of k when activations have a scale per group.
double scale_groups(const std::optional<ScaleGrid>& activation_scales, std::int64_t k) {
  return activation_scales ? static_cast<double>(activation_scales->columns(k)) : 1;
}

template <class Form>
void read_weight_scales(Form& f, const ScaleGrid& grid, std::int64_t count) {
  const auto scales = f.size("weight_scales", static_cast<double>(count));
  f.read("weight scales", scales * f.bytes(grid.dtype));
  if (grid.zero_points) f.read("weight zero points", scales * f.bytes(*grid.zero_points));
}

/// Of each of the experts that are read.
template <class Form, class Experts>
void read_expert_scales(Form& f, const ScaleGrid& grid, std::int64_t count,
                        const Experts& experts) {
  const auto scales = f.size("weight_scales", static_cast<double>(count));
  f.read("weight scales", experts * scales * f.bytes(grid.dtype));
  if (grid.zero_points) f.read("weight zero points", experts * scales * f.bytes(*grid.zero_points));
}

template <class Form>
void work(Form& f, const MatMul& op) {
  if (op.batch <= 0 || op.m <= 0 || op.n <= 0 || op.k <= 0) return;
  const auto batch = f.size("batch", static_cast<double>(op.batch));
  const auto m = f.size("m", static_cast<double>(op.m));
  const auto n = f.size("n", static_cast<double>(op.n));
  const auto k = f.size("k", static_cast<double>(op.k));
  f.matrix("multiply-adds", 2.0 * batch * m * n * k, op.compute);
  f.read("x", batch * m * k * f.bytes(op.input));
  if (op.weight_is_parameter) {
    f.read_cold("weight", batch * n * k * f.bytes(op.weight));
  } else {
    f.read("second operand", batch * n * k * f.bytes(op.weight));
  }
  if (op.weight_scales) read_weight_scales(f, *op.weight_scales, op.weight_scale_count());
  if (op.activation_scales) {
    f.read("activation scales",
           f.size("activation_scales", static_cast<double>(op.activation_scale_count())) *
               f.bytes(op.activation_scales->dtype));
  }
  if (needs_dequantization(op.weight, op.compute)) {
    f.vector("dequantize the weight", batch * n * k);
  } else if (op.weight_scales || op.activation_scales) {
    f.vector("apply scales", 2.0 * batch * m * n *
                                 f.size("scale_groups", scale_groups(op.activation_scales, op.k)));
  }
  if (op.bias) {
    f.read("bias", n * f.bytes(op.output));
    f.vector("add the bias", batch * m * n);
  }
  f.write("y", batch * m * n * f.bytes(op.output));
}

template <class Form>
void work(Form& f, const GroupedMatMul& op) {
  if (op.rows <= 0 || op.n <= 0 || op.k <= 0) return;
  f.routing(op);
  const auto rows = f.size("rows", op.rows);
  const auto distinct = f.size("distinct_experts", op.distinct_experts);
  const auto n = f.size("n", static_cast<double>(op.n));
  const auto k = f.size("k", static_cast<double>(op.k));
  f.matrix("multiply-adds", 2.0 * rows * n * k, op.compute);
  f.read("x", rows * k * f.bytes(op.input));
  f.read_cold("weights of experts with tokens", distinct * n * k * f.bytes(op.weight));
  if (op.weight_scales) {
    read_expert_scales(f, *op.weight_scales, op.weight_scale_count(), distinct);
  }
  if (op.activation_scales) {
    const double per_row =
        static_cast<double>(op.activation_scale_count()) / static_cast<double>(op.row_count());
    f.read("activation scales",
           rows * f.size("scales_per_row", per_row) * f.bytes(op.activation_scales->dtype));
  }
  if (needs_dequantization(op.weight, op.compute)) {
    f.vector("dequantize the weights", distinct * n * k);
  } else if (op.weight_scales || op.activation_scales) {
    f.vector("apply scales",
             2.0 * rows * n * f.size("scale_groups", scale_groups(op.activation_scales, op.k)));
  }
  if (op.bias) {
    f.read("biases", distinct * n * f.bytes(op.output));
    f.vector("add the biases", rows * n);
  }
  f.write("y", rows * n * f.bytes(op.output));
}

// Fused attention (Dao et al., FlashAttention, 2022): scores stay on the chip; every query block
// passes over the keys once, and a good kernel lets query heads of one group share them.
template <class Form>
void work(Form& f, const Attention& op) {
  if (op.batch <= 0 || op.query_length <= 0 || op.heads <= 0) return;
  const auto batch = f.size("batch", static_cast<double>(op.batch));
  const auto query = f.size("query_length", static_cast<double>(op.query_length));
  const auto heads = f.size("heads", static_cast<double>(op.heads));
  const auto kv_heads = f.size("kv_heads", static_cast<double>(op.kv_heads));
  const auto qk = f.size("qk_head_dim", static_cast<double>(op.qk_head_dim));
  const auto v = f.size("v_head_dim", static_cast<double>(op.v_head_dim));
  const auto pairs =
      f.size("attended_pairs", attended_pairs(op.span, op.query_length, op.context_length));
  const auto keys =
      f.size("attended_keys",
             static_cast<double>(attended_keys(op.span, op.query_length, op.context_length)));
  f.matrix("scores and values", 2.0 * batch * heads * pairs * (qk + v), op.query);
  // Running maximum, difference, exp, sum.
  f.vector("softmax", 4.0 * batch * heads * pairs);
  if (op.softcap > 0) f.vector("soft-capping", 3.0 * batch * heads * pairs);
  const auto row = op.value_in_key ? kv_heads * qk : kv_heads * (qk + v);
  if (needs_dequantization(op.cache, op.query))
    f.vector("dequantize the cache", batch * keys * row);
  f.read("q", batch * query * heads * qk * f.bytes(op.query));
  f.read_cold("keys and values", batch * keys * row * f.bytes(op.cache));
  if (op.sinks) f.read("sinks", heads * f.bytes(op.query));
  f.write("result", batch * query * heads * v * f.bytes(op.query));
}

template <class Form>
void work(Form& f, const Softmax& op) {
  const auto rows = f.size("rows", static_cast<double>(op.rows));
  const auto columns = f.size("columns", static_cast<double>(op.columns));
  // Maximum, difference, exp, sum, division.
  f.vector("softmax", 5.0 * rows * columns);
  f.read("x", rows * columns * f.bytes(op.dtype));
  if (op.sink_heads > 0) {
    f.read("sinks", f.size("sink_heads", static_cast<double>(op.sink_heads)) * f.bytes(op.dtype));
  }
  f.write("y", rows * columns * f.bytes(op.dtype));
}

template <class Form>
void work(Form& f, const Norm& op) {
  if (op.rows <= 0) return;
  const auto rows = f.size("rows", static_cast<double>(op.rows));
  const auto width = f.size("width", static_cast<double>(op.width));
  f.read("x", rows * width * f.bytes(op.dtype));
  if (op.stage == NormStage::sum_squares) {
    f.vector("square and sum", 2.0 * rows * width);
    f.write("sums", rows * f.bytes(DType::f32));
    return;
  }
  if (op.stage == NormStage::scale) {
    f.vector("scale", rows * width);
    f.read("sums", rows * f.bytes(DType::f32));
  } else {
    // RMS: square, sum, scale. Layer norm: also the mean and its difference.
    const double statistics = op.kind == NormKind::rms ? 3 : 5;
    f.vector("normalize", statistics * rows * width);
  }
  if (op.weight) {
    f.vector("times the weight", rows * width);
    f.read("weight", width * f.bytes(op.dtype));
  }
  if (op.bias) {
    f.vector("plus the bias", rows * width);
    f.read("bias", width * f.bytes(op.dtype));
  }
  f.write("y", rows * width * f.bytes(op.dtype));
}

/// Operations per element.
double elementwise_flops(ElementwiseKind kind) {
  constexpr double silu = 4;        // -x, exp, 1 +, x /
  constexpr double gelu = 5;        // x / sqrt(2), erf, 1 +, x *, / 2
  constexpr double gelu_tanh = 9;   // x^3 in two, * a, + x, * b, tanh, 1 +, x *, / 2
  constexpr double quick_gelu = 5;  // * alpha, and silu's
  constexpr double clamped = 10;    // min, two clamps, 1 +, * alpha, sigmoid in three, two products
  switch (kind) {
    case ElementwiseKind::add:
    case ElementwiseKind::multiply:
    case ElementwiseKind::scale:
    case ElementwiseKind::relu:
    case ElementwiseKind::mask_add:
    case ElementwiseKind::negate:
    case ElementwiseKind::tanh:
      return 1;
    case ElementwiseKind::clamp:
    case ElementwiseKind::relu2:
    case ElementwiseKind::relu_mul:
    case ElementwiseKind::tanh_mul:
      return 2;
    case ElementwiseKind::relu2_mul:
      return 3;
    case ElementwiseKind::sigmoid:
    case ElementwiseKind::silu:
      return silu;
    case ElementwiseKind::gelu:
      return gelu;
    case ElementwiseKind::gelu_tanh:
      return gelu_tanh;
    case ElementwiseKind::quick_gelu:
      return quick_gelu;
    case ElementwiseKind::sigmoid_mul:
    case ElementwiseKind::silu_mul:
      return silu + 1;
    case ElementwiseKind::quick_gelu_mul:
      return quick_gelu + 1;
    case ElementwiseKind::gelu_mul:
      return gelu + 1;
    case ElementwiseKind::gelu_tanh_mul:
      return gelu_tanh + 1;
    case ElementwiseKind::clamped_swiglu:
      return clamped;
  }
  throw InternalError("an elementwise kind without a cost");
}

template <class Form>
void work(Form& f, const Elementwise& op) {
  if (op.elements <= 0) return;
  const auto elements = f.size("elements", static_cast<double>(op.elements));
  f.vector("arithmetic", elementwise_flops(op.kind) * elements);
  if (op.packing == Packing::none) {
    f.read("first operand", elements * f.bytes(op.dtype));
  } else {
    f.read("both operands", 2.0 * elements * f.bytes(op.dtype));
  }
  if (op.second_elements > 0) {
    f.read("second operand",
           f.size("second_elements", static_cast<double>(op.second_elements)) * f.bytes(op.dtype));
  }
  f.write("result", elements * f.bytes(op.dtype));
}

template <class Form>
void work(Form& f, const Rotary& op) {
  if (op.heads <= 0) return;
  const auto tokens = f.size("tokens", static_cast<double>(op.tokens));
  const auto heads = f.size("heads", static_cast<double>(op.heads));
  const auto head_dim = f.size("head_dim", static_cast<double>(op.head_dim));
  const auto rotary_dim = f.size("rotary_dim", static_cast<double>(op.rotary_dim));
  // x * cos + rotated(x) * sin.
  f.vector("rotate", 3.0 * tokens * heads * rotary_dim);
  f.read("cos and sin", 2.0 * tokens * rotary_dim * f.bytes(op.dtype));
  // The result is a tensor of its own, so that of a head (192 elements in DeepSeek-V3) what is not
  // rotated (128) is copied along: that is what the kernels do.
  f.read("x", tokens * heads * head_dim * f.bytes(op.dtype));
  f.write("rotated and copied", tokens * heads * head_dim * f.bytes(op.dtype));
}

template <class Form>
void work(Form& f, const RotaryTable& op) {
  const auto tokens = f.size("tokens", static_cast<double>(op.tokens));
  const auto dim = f.size("dim", static_cast<double>(op.dim));
  f.read("positions", tokens * f.bytes(DType::i64));
  if (op.cached) {
    f.read("rows of the table", 2.0 * tokens * dim * f.bytes(op.dtype));
  } else {
    // Half an angle per element (both halves share it), its cos and its sin.
    f.vector("angles, cos and sin", 2.5 * tokens * dim);
  }
  f.write("cos and sin", 2.0 * tokens * dim * f.bytes(op.dtype));
}

template <class Form>
void work(Form& f, const Gather& op) {
  const auto rows = f.size("rows", static_cast<double>(op.rows));
  const auto width = f.size("width", static_cast<double>(op.width));
  f.read("indices", rows * f.bytes(DType::i64));
  f.read_cold("rows", rows * width * f.bytes(op.dtype));
  f.write("rows", rows * width * f.bytes(op.dtype));
}

template <class Form>
void work(Form& f, const CacheAppend& op) {
  const auto tokens = f.size("tokens", static_cast<double>(op.tokens));
  const auto width = f.size("width", static_cast<double>(op.width));
  if (op.cache != op.input) f.vector("scale and round", 2.0 * tokens * width);
  f.read("slots", tokens * f.bytes(DType::i64));
  f.read("new values", tokens * width * f.bytes(op.input));
  f.write_cold("cache", tokens * width * f.bytes(op.cache));
}

template <class Form>
void work(Form& f, const CacheRead& op) {
  const auto elements = f.size("batch", static_cast<double>(op.batch)) *
                        f.size("tokens", static_cast<double>(op.tokens)) *
                        f.size("kv_heads", static_cast<double>(op.kv_heads)) *
                        f.size("head_dim", static_cast<double>(op.head_dim));
  if (needs_dequantization(op.cache, op.output)) f.vector("dequantize", elements);
  f.read_cold("cache", elements * f.bytes(op.cache));
  f.write("copy", elements * f.bytes(op.output));
}

template <class Form>
void work(Form& f, const Copy& op) {
  f.read("source",
         f.size("read_elements", static_cast<double>(op.read_elements)) * f.bytes(op.from));
  f.write("copy",
          f.size("written_elements", static_cast<double>(op.written_elements)) * f.bytes(op.to));
}

/// Comparisons per element to keep the k largest in a heap of k, at most.
double selection_steps(std::int64_t k) {
  const auto largest = static_cast<std::uint64_t>(std::max<std::int64_t>(k, 1) - 1);
  return 1.0 + static_cast<double>(std::bit_width(largest));
}

template <class Form>
void work(Form& f, const Route& op) {
  if (op.tokens <= 0) return;
  const auto tokens = f.size("tokens", static_cast<double>(op.tokens));
  const auto experts = f.size("experts", static_cast<double>(op.experts));
  const auto top_k = f.size("top_k", static_cast<double>(op.top_k));
  f.vector("scores", (op.score == RouterScore::softmax ? 5.0 : 4.0) * tokens * experts);
  if (op.correction_bias) {
    f.vector("add the correction bias", tokens * experts);
    f.read("correction bias", experts * f.bytes(DType::f32));
  }
  if (op.groups > 1) f.vector("best two of each group", 2.0 * tokens * experts);
  f.vector("selection", f.size("selection_steps", selection_steps(op.top_k)) * tokens * experts);
  if (op.normalize) f.vector("normalize", 2.0 * tokens * top_k);
  f.read("logits", tokens * experts * f.bytes(op.dtype));
  f.write("weights and indices", tokens * top_k * (f.bytes(op.dtype) + f.bytes(DType::i64)));
}

template <class Form>
void work(Form& f, const TopK& op) {
  const auto rows = f.size("rows", static_cast<double>(op.rows));
  const auto columns = f.size("columns", static_cast<double>(op.columns));
  const auto k = f.size("k", static_cast<double>(op.k));
  f.vector("selection", f.size("selection_steps", selection_steps(op.k)) * rows * columns);
  f.read("values", rows * columns * f.bytes(op.dtype));
  f.write("values and indices", rows * k * (f.bytes(op.dtype) + f.bytes(DType::i64)));
}

template <class Form>
void work(Form& f, const Permute& op) {
  const auto rows = f.size("rows", static_cast<double>(op.rows));
  const auto width = f.size("width", static_cast<double>(op.width));
  // A token's row is read once for all the experts that it goes to.
  const auto read_rows = f.size("read_rows", static_cast<double>(std::min(op.tokens, op.rows)));
  f.read("indices", rows * f.bytes(DType::i64));
  f.read("rows of tokens", read_rows * width * f.bytes(op.dtype));
  f.write("rows by expert", rows * width * f.bytes(op.dtype));
}

template <class Form>
void work(Form& f, const Combine& op) {
  if (op.rows <= 0) return;
  const auto tokens = f.size("tokens", static_cast<double>(op.tokens));
  const auto rows = f.size("rows", static_cast<double>(op.rows));
  const auto width = f.size("width", static_cast<double>(op.width));
  f.vector("weighted sum", 2.0 * rows * width);
  f.read("indices and weights", rows * (f.bytes(DType::i64) + f.bytes(DType::f32)));
  f.read("rows by expert", rows * width * f.bytes(op.dtype));
  f.write("rows of tokens", tokens * width * f.bytes(op.dtype));
}

template <class Form>
void work(Form& f, const Quantize& op) {
  if (op.rows <= 0 || op.columns <= 0) return;
  const auto rows = f.size("rows", static_cast<double>(op.rows));
  const auto columns = f.size("columns", static_cast<double>(op.columns));
  f.vector("scale and round", 2.0 * rows * columns);
  f.read("x", rows * columns * f.bytes(op.from));
  f.write("quantized", rows * columns * f.bytes(op.to));
  if (op.group >= 0) {
    f.vector("largest magnitude", 2.0 * rows * columns);
    const std::int64_t groups = op.group > 0 ? ceil_div(op.columns, op.group) : 1;
    f.write("scales", rows * f.size("groups", static_cast<double>(groups)) * f.bytes(DType::f32));
  }
}

// What a collective moves through this device's own memory; its time on the links is the business
// of collectives.h.
template <class Form>
void work(Form& f, const Collective& op) {
  if (op.group_size <= 1 || op.bytes <= 0) return;
  const auto tensor = f.size("bytes", static_cast<double>(op.bytes));
  const double share = 1.0 / static_cast<double>(op.group_size);
  const auto part = f.size("(1/ranks)", share);
  const double elements = static_cast<double>(op.bytes) * 8 / bits_of(op.dtype);
  switch (op.kind) {
    case CollectiveKind::all_reduce:
      f.vector("add", f.size("elements", elements) * f.size("(1-1/ranks)", 1 - share));
      f.read("tensor", tensor);
      f.write("tensor", tensor);
      break;
    case CollectiveKind::all_gather:
      f.read("own part", tensor * part);
      f.write("gathered tensor", tensor);
      break;
    case CollectiveKind::reduce_scatter:
      f.vector("add", f.size("elements", elements) * f.size("(1-1/ranks)", 1 - share));
      f.read("tensor", tensor);
      f.write("own part", tensor * part);
      break;
    case CollectiveKind::all_to_all:
      f.read("parts to send", tensor);
      f.write("received parts", tensor);
      break;
    case CollectiveKind::slice:
      f.read("own share", tensor);
      f.write("own share", tensor);
      break;
  }
}

template <class Form>
void work(Form& f, const CustomOp& op) {
  TCAST_CHECK(op.definition != nullptr && !(op.definition->work.value == nullptr),
              "a custom operator has a definition with a cost");
  f.add(op.definition->work.call(op));
}

}  // namespace

OpWork work_of(const OpRecord& record) {
  Counter counter;
  std::visit([&counter](const auto& op) { work(counter, op); }, record);
  return counter.work;
}

std::string explain_work(const OpRecord& record) {
  Writer writer;
  std::visit([&writer](const auto& op) { work(writer, op); }, record);
  std::size_t width = 0;
  for (const auto& [what, formula] : writer.lines) width = std::max(width, what.size());
  std::string text = fmt::format("{}: {}\n", name_of(record), describe(record));
  for (const auto& [what, formula] : writer.lines) {
    text += fmt::format("  {:<{}}  {}\n", what, width, formula);
  }
  const OpWork total = work_of(record);
  text +=
      fmt::format("  {:<{}}  {} matrix flops, {} vector flops, {} B read, {} B written\n", "total",
                  width, number_text(total.matrix_flops), number_text(total.vector_flops),
                  number_text(total.read_bytes), number_text(total.write_bytes));
  return text;
}

}  // namespace tcast
