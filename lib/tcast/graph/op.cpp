#include "tcast/graph/op.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"

namespace tcast {
namespace {

std::string_view brief(DType dtype) { return short_name_of(dtype); }

std::string_view name(const MatMul&) { return "matmul"; }
std::string_view name(const GroupedMatMul&) { return "grouped_matmul"; }
std::string_view name(const Attention&) { return "attention"; }
std::string_view name(const Softmax&) { return "softmax"; }
std::string_view name(const Norm& op) {
  return op.kind == NormKind::rms ? "rms_norm" : "layer_norm";
}
std::string_view name(const Elementwise& op) { return name_of(op.kind); }
std::string_view name(const Rotary&) { return "rotary"; }
std::string_view name(const RotaryTable&) { return "rotary_table"; }
std::string_view name(const Gather&) { return "gather"; }
std::string_view name(const CacheAppend&) { return "cache_append"; }
std::string_view name(const CacheRead&) { return "cache_read"; }
std::string_view name(const Copy& op) { return name_of(op.kind); }
std::string_view name(const Route&) { return "route"; }
std::string_view name(const TopK&) { return "top_k"; }
std::string_view name(const Permute&) { return "permute"; }
std::string_view name(const Combine&) { return "combine"; }
std::string_view name(const Quantize&) { return "quantize"; }
std::string_view name(const Collective& op) { return name_of(op.kind); }
std::string_view name(const CustomOp& op) {
  return op.definition != nullptr ? op.definition->name : "custom";
}

OpClass op_class(const MatMul& op) {
  return op.m <= matvec_rows ? OpClass::matvec : OpClass::matmul;
}
OpClass op_class(const GroupedMatMul& op) {
  return op.rows <= static_cast<double>(matvec_rows) * op.distinct_experts
             ? OpClass::grouped_matvec
             : OpClass::grouped_matmul;
}
OpClass op_class(const Attention& op) {
  return op.query_length <= matvec_rows ? OpClass::decode_attention : OpClass::attention;
}
OpClass op_class(const Softmax&) { return OpClass::softmax; }
OpClass op_class(const Norm&) { return OpClass::norm; }
OpClass op_class(const Elementwise&) { return OpClass::elementwise; }
OpClass op_class(const Rotary&) { return OpClass::rotary; }
OpClass op_class(const RotaryTable&) { return OpClass::rotary; }
OpClass op_class(const Gather&) { return OpClass::gather; }
OpClass op_class(const CacheAppend&) { return OpClass::cache; }
OpClass op_class(const CacheRead&) { return OpClass::cache; }
OpClass op_class(const Copy&) { return OpClass::copy; }
OpClass op_class(const Route&) { return OpClass::routing; }
OpClass op_class(const TopK&) { return OpClass::routing; }
OpClass op_class(const Permute&) { return OpClass::routing; }
OpClass op_class(const Combine&) { return OpClass::routing; }
OpClass op_class(const Quantize&) { return OpClass::quantize; }
OpClass op_class(const Collective&) { return OpClass::collective; }
OpClass op_class(const CustomOp&) { return OpClass::custom; }

// What is left out of a description never changes the work: epsilons, scales and other constants.
// What is left out because it has its usual value is written whenever it has another one, so that
// two ops of one name have the same description exactly when they are the same work. Expected
// numbers, which need not be whole, are written with six digits.

std::string flag(bool set, std::string_view text) {
  return set ? std::string(text) : std::string();
}

/// Whole numbers in full.
std::string expected(double number) {
  constexpr double largest_exact = 9007199254740992.0;  // 2^53
  return number == std::floor(number) && number < largest_exact ? fmt::format("{:.0f}", number)
                                                                : fmt::format("{:.6g}", number);
}

/// " weight_scales=4096" of rows or of all, " weight_scales=128x128" of blocks.
std::string scales(std::string_view what, const std::optional<ScaleGrid>& grid,
                   std::int64_t count) {
  if (!grid || count == 0) return "";
  std::string text =
      grid->is_per_tensor() || grid->is_per_row()
          ? fmt::format(" {}_scales={}", what, count)
          : fmt::format(" {}_scales={}x{}", what, grid->block_rows, grid->block_columns);
  if (grid->dtype != DType::f32) text += fmt::format(" {}", brief(grid->dtype));
  if (grid->zero_points) text += fmt::format(" zero_points={}", brief(*grid->zero_points));
  return text;
}

template <class Product>
std::string scales(const Product& op) {
  return scales("weight", op.weight_scales, op.weight_scale_count()) +
         scales("activation", op.activation_scales, op.activation_scale_count());
}

/// "bf16*i8->bf16", and the compute dtype when it is not the input's.
std::string product(DType input, DType weight, DType output, DType compute) {
  return fmt::format("{}*{}->{}", brief(input), brief(weight), brief(output)) +
         (compute != input ? fmt::format(" compute={}", brief(compute)) : "");
}

std::string sizes(const MatMul& op) {
  return (op.batch != 1 ? fmt::format("batch={} ", op.batch) : "") +
         fmt::format("m={} n={} k={} ", op.m, op.n, op.k) +
         product(op.input, op.weight, op.output, op.compute) + flag(op.bias, " bias") +
         flag(!op.weight_is_parameter, " activations") + flag(op.weight_transposed, " transposed") +
         (op.x_row_stride > 0 ? fmt::format(" x_stride={}", op.x_row_stride) : "") +
         (op.y_row_stride > 0 ? fmt::format(" y_stride={}", op.y_row_stride) : "") + scales(op);
}

std::string sizes(const GroupedMatMul& op) {
  return fmt::format("experts={}/{} rows={} n={} k={} ", expected(op.distinct_experts), op.experts,
                     expected(op.rows), op.n, op.k) +
         product(op.input, op.weight, op.output, op.compute) + flag(op.bias, " bias") +
         (op.first_expert > 0 ? fmt::format(" first={}", op.first_expert) : "") + scales(op);
}

std::string sizes(const Attention& op) {
  return fmt::format("batch={} query={} context={} heads={}/{} dims={}/{} {} cache={}", op.batch,
                     op.query_length, op.context_length, op.heads, op.kv_heads, op.qk_head_dim,
                     op.v_head_dim, brief(op.query), brief(op.cache)) +
         flag(!op.span.causal, " bidirectional") +
         (op.span.window > 0 ? fmt::format(" window={}", op.span.window) : "") +
         (op.span.chunk > 0 ? fmt::format(" chunk={}", op.span.chunk) : "") +
         flag(!op.paged, " unpaged") + flag(op.value_in_key, " value_in_key") +
         flag(op.sinks, " sinks") + flag(op.softcap > 0, " softcap");
}

std::string sizes(const Softmax& op) {
  return fmt::format("rows={} columns={} {}", op.rows, op.columns, brief(op.dtype)) +
         flag(op.sink_heads > 0, " sinks");
}

std::string sizes(const Norm& op) {
  return fmt::format("rows={} width={} {}", op.rows, op.width, brief(op.dtype)) +
         flag(!op.weight, " no_weight") + flag(op.bias, " bias") +
         flag(op.stage == NormStage::sum_squares, " sum_squares") +
         flag(op.stage == NormStage::scale, " scale");
}

std::string sizes(const Elementwise& op) {
  return fmt::format("elements={}", op.elements) +
         (op.second_elements > 0 ? fmt::format(" second={}", op.second_elements) : "") +
         flag(op.packing == Packing::halves, " halves") +
         flag(op.packing == Packing::pairs, " pairs") + fmt::format(" {}", brief(op.dtype));
}

std::string sizes(const Rotary& op) {
  return fmt::format("tokens={} heads={} head_dim={} rotary_dim={} {}", op.tokens, op.heads,
                     op.head_dim, op.rotary_dim, brief(op.dtype)) +
         (op.rotary_offset > 0 ? fmt::format(" from={}", op.rotary_offset) : "") +
         flag(op.interleaved, " interleaved");
}

std::string sizes(const RotaryTable& op) {
  return fmt::format("tokens={} dim={} {}", op.tokens, op.dim, brief(op.dtype)) +
         (op.cached ? fmt::format(" cached={}", op.table_positions) : "");
}

std::string sizes(const Gather& op) {
  return fmt::format("rows={} width={} of={} {}", op.rows, op.width, op.table_rows,
                     brief(op.dtype)) +
         flag(op.partial, " partial");
}

std::string sizes(const CacheAppend& op) {
  return fmt::format("tokens={} width={} {}->{}", op.tokens, op.width, brief(op.input),
                     brief(op.cache));
}

std::string sizes(const CacheRead& op) {
  return fmt::format("batch={} tokens={} heads={} head_dim={} {}->{}", op.batch, op.tokens,
                     op.kv_heads, op.head_dim, brief(op.cache), brief(op.output));
}

std::string sizes(const Copy& op) {
  std::string text = fmt::format("read={} written={}", op.read_elements, op.written_elements);
  for (const CopyPart& part : op.parts) {
    if (part.run > 0) text += fmt::format(" run={}", part.run);
  }
  return text + fmt::format(" {}->{}", brief(op.from), brief(op.to));
}

std::string sizes(const Route& op) {
  return fmt::format("tokens={} experts={} top_k={} {} {}", op.tokens, op.experts, op.top_k,
                     name_of(op.score), brief(op.dtype)) +
         (op.groups > 1 ? fmt::format(" groups={}/{}", op.topk_groups, op.groups) : "") +
         flag(op.groups > 1 && op.group_best == 1, " group_best=1") +
         flag(op.correction_bias, " correction_bias") + flag(op.normalize, " normalize");
}

std::string sizes(const TopK& op) {
  return fmt::format("rows={} columns={} k={} {}", op.rows, op.columns, op.k, brief(op.dtype));
}

std::string sizes(const Permute& op) {
  return fmt::format("tokens={} rows={} width={} {}", op.tokens, op.rows, op.width,
                     brief(op.dtype));
}

std::string sizes(const Combine& op) {
  return fmt::format("tokens={} rows={} width={} {}", op.tokens, op.rows, op.width,
                     brief(op.dtype));
}

std::string sizes(const Quantize& op) {
  return fmt::format("rows={} columns={} {}->{}", op.rows, op.columns, brief(op.from),
                     brief(op.to)) +
         (op.group > 0 ? fmt::format(" group={}", op.group) : flag(op.group < 0, " static"));
}

std::string sizes(const Collective& op) {
  return fmt::format("bytes={} ranks={}", op.bytes, op.group_size) +
         (op.stride != 1 ? fmt::format(" stride={}", op.stride) : "") +
         fmt::format(" {}", brief(op.dtype));
}

std::string sizes(const CustomOp& op) {
  std::string text = "sizes=";
  for (std::size_t i = 0; i < op.sizes.size(); ++i) {
    text += fmt::format("{}{}", i > 0 ? "," : "", op.sizes[i]);
  }
  return text + fmt::format(" {}", brief(op.dtype));
}

}  // namespace

void Checked<OpWork>::require(const Registered& by, const OpWork& work) {
  const auto sensible = [](double value) { return value >= 0 && std::isfinite(value); };
  const bool fine = sensible(work.matrix_flops) && sensible(work.vector_flops) &&
                    sensible(work.flops()) && sensible(work.read_bytes) &&
                    sensible(work.write_bytes) && sensible(work.bytes()) && work.cold_bytes >= 0 &&
                    work.cold_bytes <= work.bytes() && is_dtype(work.matrix_dtype) &&
                    is_dtype(work.vector_dtype);
  // Once for each operator: what is wrong is looked for when something is.
  if (fine) return;
  const std::pair<const char*, double> numbers[] = {
      {"matrix_flops", work.matrix_flops}, {"vector_flops", work.vector_flops},
      {"read_bytes", work.read_bytes},     {"write_bytes", work.write_bytes},
      {"cold_bytes", work.cold_bytes},
  };
  for (const auto& [name, value] : numbers) {
    if (sensible(value)) continue;
    by.refuse(fmt::format("its work has {} = {}", name, value), "work is a number >= 0");
  }
  if (!sensible(work.flops()) || !sensible(work.bytes())) {
    by.refuse("its work is more than any number", "work is a number >= 0");
  }
  for (const DType dtype : {work.matrix_dtype, work.vector_dtype}) {
    if (is_dtype(dtype)) continue;
    by.refuse(fmt::format("its work has the dtype number {}, which there is none of",
                          static_cast<int>(dtype)));
  }
  by.refuse(
      fmt::format("its work has cold_bytes = {}, more than the {} bytes that are read and "
                  "written",
                  work.cold_bytes, work.bytes()));
}

std::size_t OperatorSizes::checked(std::size_t i) const {
  if (i >= size()) {
    throw Error(
        fmt::format("a registered operator has {} sizes, there is no sizes[{}]", size(), i));
  }
  return i;
}

std::string_view name_of(OpClass op_class) {
  constexpr std::array<std::string_view, op_class_count> names = {
      "matmul",  "grouped_matmul", "matvec",      "grouped_matvec", "attention", "decode_attention",
      "softmax", "norm",           "elementwise", "rotary",         "gather",    "cache",
      "routing", "quantize",       "copy",        "collective",     "custom"};
  return names[static_cast<std::size_t>(op_class)];
}

std::string_view name_of(ElementwiseKind kind) {
  constexpr std::array<std::string_view, 23> names = {
      "add",           "multiply", "scale",     "silu",        "gelu",           "gelu_tanh",
      "relu",          "relu2",    "sigmoid",   "quick_gelu",  "silu_mul",       "gelu_mul",
      "gelu_tanh_mul", "relu_mul", "relu2_mul", "sigmoid_mul", "quick_gelu_mul", "tanh_mul",
      "mask_add",      "negate",   "tanh",      "clamp",       "clamped_swiglu"};
  static_assert(static_cast<std::size_t>(ElementwiseKind::clamped_swiglu) + 1 == names.size());
  return names[static_cast<std::size_t>(kind)];
}

namespace {

constexpr std::pair<ElementwiseKind, ElementwiseKind> gated_forms[] = {
    {ElementwiseKind::silu, ElementwiseKind::silu_mul},
    {ElementwiseKind::gelu, ElementwiseKind::gelu_mul},
    {ElementwiseKind::gelu_tanh, ElementwiseKind::gelu_tanh_mul},
    {ElementwiseKind::relu, ElementwiseKind::relu_mul},
    {ElementwiseKind::relu2, ElementwiseKind::relu2_mul},
    {ElementwiseKind::sigmoid, ElementwiseKind::sigmoid_mul},
    {ElementwiseKind::quick_gelu, ElementwiseKind::quick_gelu_mul},
    {ElementwiseKind::tanh, ElementwiseKind::tanh_mul},
};

}  // namespace

std::optional<ElementwiseKind> gated_form(ElementwiseKind activation) {
  for (const auto& [plain, gated] : gated_forms) {
    if (plain == activation) return gated;
  }
  return std::nullopt;
}

bool takes_two(ElementwiseKind kind) {
  switch (kind) {
    case ElementwiseKind::add:
    case ElementwiseKind::multiply:
    case ElementwiseKind::mask_add:
    case ElementwiseKind::clamped_swiglu:
      return true;
    default:
      return std::any_of(std::begin(gated_forms), std::end(gated_forms),
                         [kind](const auto& forms) { return forms.second == kind; });
  }
}

std::string_view name_of(CopyKind kind) {
  constexpr std::array<std::string_view, 5> names = {"concat", "transpose", "repeat", "slice",
                                                     "cast"};
  static_assert(static_cast<std::size_t>(CopyKind::cast) + 1 == names.size());
  return names[static_cast<std::size_t>(kind)];
}

namespace {

constexpr std::array<std::string_view, 2> router_scores = {"softmax", "sigmoid"};
static_assert(static_cast<std::size_t>(RouterScore::sigmoid) + 1 == router_scores.size());

}  // namespace

std::string_view name_of(RouterScore score) {
  return router_scores[static_cast<std::size_t>(score)];
}

std::optional<RouterScore> parse_router_score(std::string_view name) {
  for (std::size_t i = 0; i < router_scores.size(); ++i) {
    if (router_scores[i] == name) return static_cast<RouterScore>(i);
  }
  return std::nullopt;
}

std::vector<std::string> router_score_names() {
  return {router_scores.begin(), router_scores.end()};
}

std::string_view name_of(CollectiveKind kind) {
  constexpr std::array<std::string_view, 5> names = {"all_reduce", "all_gather", "reduce_scatter",
                                                     "all_to_all", "rank_slice"};
  static_assert(static_cast<std::size_t>(CollectiveKind::slice) + 1 == names.size());
  return names[static_cast<std::size_t>(kind)];
}

std::string_view name_of(const OpRecord& record) {
  return std::visit([](const auto& op) { return name(op); }, record);
}

OpClass class_of(const OpRecord& record) {
  return std::visit([](const auto& op) { return op_class(op); }, record);
}

std::string describe(const OpRecord& record) {
  return std::visit([](const auto& op) { return sizes(op); }, record);
}

}  // namespace tcast
