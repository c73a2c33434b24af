#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/registry.h"
#include "tcast/base/units.h"
#include "tcast/graph/attention_span.h"
#include "tcast/graph/expert_routing.h"
#include "tcast/graph/tensor.h"

// One record per kind of operator. A record holds everything that pricing the operator needs, in
// numbers of this rank: no look-up of tensors, so that a cost model sees the record alone. What
// executing needs beyond that (which buffers) is in Op::inputs and Op::outputs.

namespace tcast {

/// How operators are grouped for efficiencies in a device profile.
enum class OpClass : std::uint8_t {
  matmul,
  grouped_matmul,
  matvec,          ///< a product of few rows, which is about reading the weight
  grouped_matvec,  ///< the same for products of few rows per expert
  attention,
  decode_attention,  ///< of few tokens per request, which is about reading the cache
  softmax,
  norm,
  elementwise,
  rotary,
  gather,
  cache,
  routing,
  quantize,
  copy,
  collective,
  custom,
};
inline constexpr int op_class_count = 17;
/// Rows up to which a product (per expert, of a grouped one) is of class matvec, and tokens up to
/// which attention is of class decode_attention: kernels for so few do not use matrix units, or
/// leave most of them idle.
inline constexpr std::int64_t matvec_rows = 4;
TCAST_API std::string_view name_of(OpClass op_class);

/// y[batch, m, n] = x[batch, m, k] * w[batch, n, k]^T (+ bias). `weight` is the storage dtype,
/// `compute` what the multiplication runs in: weight-only quantization keeps compute in 16 bit.
/// Inputs: x, w, [weight scales], [weight zero points], [bias], [activation scales].
/// The biases of several products may lie side by side: `bias_offset` is where these begin.
/// A part of a larger tensor is named by strides, in elements, 0 meaning that rows (and matrices)
/// lie side by side: x and y may be columns of wider rows, w a run of rows of each matrix.
struct MatMul {
  std::int64_t batch = 1;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType input = DType::bf16;
  DType weight = DType::bf16;
  DType output = DType::bf16;
  DType compute = DType::bf16;
  bool weight_is_parameter = true;  ///< else w is an activation (attention scores)
  bool weight_transposed = false;   ///< w is stored as [batch, k, n]
  bool bias = false;
  /// Of w as it lies in memory (transposed: [k, n]); nothing: it has none. Matrices of a batch lie
  /// below each other.
  std::optional<ScaleGrid> weight_scales{};
  std::optional<ScaleGrid> activation_scales{};  ///< of the rows of x; nothing: none, or fixed
  std::int64_t bias_offset = 0;
  std::int64_t x_row_stride = 0;
  std::int64_t x_batch_stride = 0;
  std::int64_t weight_offset = 0;  ///< elements of w before the first matrix
  std::int64_t weight_batch_stride = 0;
  std::int64_t y_row_stride = 0;
  std::int64_t y_batch_stride = 0;

  /// Numbers of scales that the product reads.
  std::int64_t weight_scale_count() const {
    if (!weight_scales) return 0;
    return weight_scales->count(batch * (weight_transposed ? k : n), weight_transposed ? n : k);
  }
  std::int64_t activation_scale_count() const {
    return activation_scales ? activation_scales->count(batch * m, k) : 0;
  }

  bool operator==(const MatMul&) const = default;
};

/// The strides of a product with its defaults filled in, in elements.
struct MatMulStrides {
  explicit MatMulStrides(const MatMul& op)
      : x_row(op.x_row_stride > 0 ? op.x_row_stride : op.k),
        x_batch(op.x_batch_stride > 0 ? op.x_batch_stride : op.m * op.k),
        weight_offset(op.weight_offset),
        weight_batch(op.weight_batch_stride > 0 ? op.weight_batch_stride : op.n * op.k),
        weight_n(op.weight_transposed ? 1 : op.k),
        weight_k(op.weight_transposed ? op.n : 1),
        y_row(op.y_row_stride > 0 ? op.y_row_stride : op.n),
        y_batch(op.y_batch_stride > 0 ? op.y_batch_stride : op.m * op.n),
        x_extent((op.batch - 1) * x_batch + (op.m - 1) * x_row + op.k),
        weight_extent(weight_offset + (op.batch - 1) * weight_batch + op.n * op.k),
        y_extent((op.batch - 1) * y_batch + (op.m - 1) * y_row + op.n) {}

  std::int64_t x_row, x_batch;
  std::int64_t weight_offset, weight_batch, weight_n, weight_k;
  std::int64_t y_row, y_batch;
  /// Elements up to the end of what is used.
  std::int64_t x_extent, weight_extent, y_extent;
};

/// For every expert e: y_e[m_e, n] = x_e[m_e, k] * w_e[n, k]^T; sum of m_e is `rows`. When pricing,
/// `rows` and `distinct_experts` (those with m_e > 0, whose weights are read) are expected values
/// of the busiest rank, real numbers; when executing, m_e come from the routing and `rows` is
/// whole, room for all that may come (decision D7). Inputs: x[row_count(), k], stacked w[experts,
/// n, k], token counts, [weight scales], [weight zero points], [biases[experts, n]], [activation
/// scales]. Rows of experts that it does not have, and those of nobody, become 0.
struct GroupedMatMul {
  std::int64_t experts = 0;
  std::int64_t first_expert = 0;  ///< the first one, of those that the token counts are of
  double distinct_experts = 0;
  double rows = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType input = DType::bf16;
  DType weight = DType::bf16;
  DType output = DType::bf16;
  DType compute = DType::bf16;
  bool bias = false;
  /// On the biases: 1 / ranks where the results of ranks are going to be added up.
  double bias_scale = 1;
  std::optional<ScaleGrid> weight_scales{};      ///< of each expert
  std::optional<ScaleGrid> activation_scales{};  ///< of row_count() rows
  ExpertRouting routing{};  ///< that the expected values follow from, if they do

  /// Rows of x and y: those that are expected, and the rest of the last one.
  std::int64_t row_count() const { return static_cast<std::int64_t>(std::ceil(rows)); }
  /// Numbers of scales: of one expert's weight, and of all rows.
  std::int64_t weight_scale_count() const { return weight_scales ? weight_scales->count(n, k) : 0; }
  std::int64_t activation_scale_count() const {
    return activation_scales ? activation_scales->count(row_count(), k) : 0;
  }

  bool operator==(const GroupedMatMul&) const = default;
};

/// Fused attention over a cache (flash or paged attention): scores never reach memory. GQA shares
/// each K/V head among heads / kv_heads query heads. `value_in_key`: the value is the first
/// v_head_dim elements of the key row (latent attention), so it is read once.
/// Inputs: q[tokens, heads * qk_head_dim], cache (which already holds the new tokens), [sinks]. Not
/// `paged`: q, k[batch * all tokens, kv_heads * qk_head_dim], v[the same, kv_heads * v_head_dim].
struct Attention {
  std::int64_t batch = 1;
  std::int64_t query_length = 1;
  std::int64_t context_length = 0;
  std::int64_t heads = 1;
  std::int64_t kv_heads = 1;
  std::int64_t qk_head_dim = 1;
  std::int64_t v_head_dim = 1;
  AttentionSpan span{};
  DType query = DType::bf16;
  DType cache = DType::bf16;
  bool paged = true;
  bool value_in_key = false;
  bool sinks = false;
  double scale = 1;
  double softcap = 0;

  bool operator==(const Attention&) const = default;
};

/// Softmax over the last dimension of [rows, columns]; computed in f32. Inputs: x, [sinks[heads]]:
/// with `sink_heads` > 0, rows are [batch, sink_heads, rows of a head], and the sink of its head
/// takes part in the sum of each row without a column of its own.
struct Softmax {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  DType dtype = DType::bf16;
  std::int64_t sink_heads = 0;
  std::int64_t rows_per_head = 1;

  bool operator==(const Softmax&) const = default;
};

enum class NormKind : std::uint8_t { rms, layer };

/// Which part of a normalization an operator does. A row that lies on several ranks takes two: each
/// adds the squares of its part, and when the ranks have added those up, the rest is done.
enum class NormStage : std::uint8_t { whole, sum_squares, scale };

/// Normalization of each of `rows` rows of `width` elements, scaled by a weight of that width
/// (weight_offset + w). Computed in f32. Inputs: x, [weight], [bias]. Stage sum_squares (rms only):
/// input x, output f32 [rows]; stage scale: the last input is that, summed over `ranks`.
struct Norm {
  NormKind kind = NormKind::rms;
  NormStage stage = NormStage::whole;
  std::int64_t ranks = 1;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  DType dtype = DType::bf16;
  bool weight = true;
  bool bias = false;
  double epsilon = 1e-6;
  double weight_offset = 0;

  bool operator==(const Norm&) const = default;
};

enum class ElementwiseKind : std::uint8_t {
  add,
  multiply,
  scale,  ///< by a constant
  silu,
  gelu,  ///< erf form
  gelu_tanh,
  relu,
  relu2,  ///< the square of relu
  sigmoid,
  quick_gelu,     ///< a * sigmoid(alpha * a)
  silu_mul,       ///< silu(a) * b: SwiGLU in one pass
  gelu_mul,       ///< gelu(a) * b, erf form
  gelu_tanh_mul,  ///< gelu(a) * b, tanh form
  relu_mul,       ///< relu(a) * b, and so on
  relu2_mul,
  sigmoid_mul,
  quick_gelu_mul,
  tanh_mul,
  mask_add,  ///< adds the causal mask to scores; second operand is one mask for all heads
  negate,
  tanh,
  clamp,  ///< to +-constant
  /// (clamp(b) + 1) * a' * sigmoid(alpha * a'), a' = min(a, constant), b within +-constant: gpt-oss
  clamped_swiglu,
};
inline constexpr double clamped_swiglu_alpha = 1.702;
inline constexpr double quick_gelu_alpha = 1.702;
/// Whether the kind has a second operand.
TCAST_API bool takes_two(ElementwiseKind kind);
/// The kind that multiplies an activation's result by a second operand in the same pass; nothing
/// for what is no activation.
TCAST_API std::optional<ElementwiseKind> gated_form(ElementwiseKind activation);
TCAST_API std::string_view name_of(ElementwiseKind kind);

/// Where a kind of two operands finds them: in tensors of their own, or in one whose rows hold
/// both, one after the other (halves) or taking turns (pairs).
enum class Packing : std::uint8_t { none, halves, pairs };

/// One pass over `elements` results. `second_elements` is the size of the second operand as it lies
/// in memory (0 = none, smaller than `elements` when it is broadcast). With packing, the only
/// operand has rows of 2 * `width` elements and the result rows of `width`.
struct Elementwise {
  ElementwiseKind kind = ElementwiseKind::add;
  std::int64_t elements = 0;
  std::int64_t second_elements = 0;
  DType dtype = DType::bf16;
  double constant = 1;
  Packing packing = Packing::none;
  std::int64_t width = 0;

  bool operator==(const Elementwise&) const = default;
};

/// Rotary embedding applied to [tokens, heads, head_dim]: `rotary_dim` elements of each head, from
/// `rotary_offset` on, are rotated. Interleaved: pairs are neighbours, else halves. Inputs: x, cos,
/// sin.
struct Rotary {
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;
  std::int64_t rotary_offset = 0;
  bool interleaved = false;
  DType dtype = DType::bf16;

  bool operator==(const Rotary&) const = default;
};

/// cos and sin, times `scale`, for `tokens` positions, [tokens, dim] each. `cached`: rows are
/// looked up in a table of `table_positions` positions that was computed once; else computed in f32
/// every time. Inputs: positions, inverse frequencies [dim / 2] (cached, for a kernel: cos and sin
/// tables).
struct RotaryTable {
  std::int64_t tokens = 0;
  std::int64_t dim = 0;
  DType dtype = DType::bf16;
  bool cached = false;
  std::int64_t table_positions = 0;
  double scale = 1;

  bool operator==(const RotaryTable&) const = default;
};

/// Rows of a table picked by index: token embedding, selection of the rows that need logits.
/// Inputs: table[table_rows, width], indices[rows]. `partial`: the table is one rank's part of a
/// larger one; rows that other ranks hold come out as zeros.
struct Gather {
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t table_rows = 0;
  DType dtype = DType::bf16;
  bool partial = false;

  bool operator==(const Gather&) const = default;
};

/// New keys and values written to the cache, converted to its dtype: `width` elements per token.
/// Inputs: the new values, cache. Output: none (the cache changes in place).
struct CacheAppend {
  std::int64_t tokens = 0;
  std::int64_t width = 0;
  DType input = DType::bf16;
  DType cache = DType::bf16;

  bool operator==(const CacheAppend&) const = default;
};

/// What a cache holds for `tokens` tokens of each of `batch` requests, read back into memory of its
/// own: [batch, kv_heads, tokens, head_dim], keys or values. Inputs: cache.
struct CacheRead {
  std::int64_t batch = 1;
  std::int64_t tokens = 0;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 0;
  bool values = false;  ///< else keys
  DType cache = DType::bf16;
  DType output = DType::bf16;

  bool operator==(const CacheRead&) const = default;
};

enum class CopyKind : std::uint8_t {
  concat,     ///< joins tensors
  transpose,  ///< reorders dimensions into new memory
  repeat,     ///< repeats KV heads for each of their query heads
  slice,      ///< cuts a part out into memory of its own
  cast,       ///< converts the dtype
};
TCAST_API std::string_view name_of(CopyKind kind);

/// One source of a copy: runs of `run` neighbouring elements, one for each of sizes[0] x sizes[1] x
/// sizes[2], outermost first; where they begin in the source and in the result, in elements. A
/// source stride of 0 repeats.
struct CopyPart {
  std::array<std::int64_t, 3> sizes{1, 1, 1};
  std::int64_t run = 0;
  std::int64_t source_offset = 0;
  std::array<std::int64_t, 3> source_strides{};
  std::int64_t target_offset = 0;
  std::array<std::int64_t, 3> target_strides{};

  std::int64_t elements() const { return sizes[0] * sizes[1] * sizes[2] * run; }
  /// Elements up to the end of the last run in the source, and in the result.
  std::int64_t source_extent() const { return extent(source_offset, source_strides); }
  std::int64_t target_extent() const { return extent(target_offset, target_strides); }

  bool operator==(const CopyPart&) const = default;

 private:
  std::int64_t extent(std::int64_t offset, const std::array<std::int64_t, 3>& strides) const {
    for (std::size_t i = 0; i < 3; ++i) offset += (sizes[i] - 1) * strides[i];
    return offset + run;
  }
};

/// Data movement without arithmetic. Inputs: one per part. All parts empty: a flat copy.
struct Copy {
  CopyKind kind = CopyKind::concat;
  std::int64_t read_elements = 0;
  std::int64_t written_elements = 0;
  DType from = DType::bf16;
  DType to = DType::bf16;
  std::array<CopyPart, 2> parts{};

  bool operator==(const Copy&) const = default;
};

enum class RouterScore : std::uint8_t { softmax, sigmoid };
/// "softmax", "sigmoid": as configs spell it (scoring_func).
TCAST_API std::string_view name_of(RouterScore score);
/// Reads what name_of() returns; nothing for anything else.
TCAST_API std::optional<RouterScore> parse_router_score(std::string_view name);
TCAST_API std::vector<std::string> router_score_names();

/// Chooses `top_k` of `experts` for each token from the router's logits, in one pass: score,
/// add the correction bias (selection only), keep the best `topk_groups` of `groups` groups (a
/// group counts by the sum of its `group_best` best), take the top k, normalize, scale. Inputs:
/// logits[tokens, experts], [bias]. Outputs: weights and indices [tokens, top_k].
struct Route {
  std::int64_t tokens = 0;
  std::int64_t experts = 0;
  std::int64_t top_k = 0;
  RouterScore score = RouterScore::softmax;
  std::int64_t groups = 1;
  std::int64_t topk_groups = 1;
  std::int64_t group_best = 2;  ///< 1 or 2
  bool correction_bias = false;
  bool normalize = false;
  double scale = 1;
  DType dtype = DType::f32;

  bool operator==(const Route&) const = default;
};

/// The k largest of each row, with their indices: one of the many small ops of eager routing.
struct TopK {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t k = 0;
  DType dtype = DType::f32;

  bool operator==(const TopK&) const = default;
};

/// Rows of tokens copied into the order of the experts that they go to (`rows` = tokens * top_k
/// rows are written). Inputs: x[tokens, width], indices. Outputs: rows, token counts per expert.
/// `expert` >= 0: only the rows of that expert, as the eager loop over experts does.
struct Permute {
  std::int64_t tokens = 0;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t expert = -1;
  DType dtype = DType::bf16;

  bool operator==(const Permute&) const = default;
};

/// The reverse: each token's rows weighted and summed. Inputs: rows, weights, indices. With
/// `expert` >= 0 the rows of that expert are added to a running sum, the last input.
struct Combine {
  std::int64_t tokens = 0;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t expert = -1;
  DType dtype = DType::bf16;

  bool operator==(const Combine&) const = default;
};

/// Activations converted to a narrow dtype with one scale per `group` elements of a row (0: one per
/// row, dynamic; < 0: fixed scale known beforehand). Outputs: values, [scales].
struct Quantize {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t group = 0;
  DType from = DType::bf16;
  DType to = DType::i8;

  bool operator==(const Quantize&) const = default;
};

enum class CollectiveKind : std::uint8_t {
  all_reduce,
  all_gather,  ///< parts side by side, along the dimension in which the result is larger
  reduce_scatter,
  all_to_all,  ///< rows of tokens to the ranks of their experts, or back
  slice,       ///< each rank goes on with its share of the rows; nothing is sent
};
TCAST_API std::string_view name_of(CollectiveKind kind);

/// Communication of `group_size` ranks whose device numbers are `stride` apart (tensor-parallel
/// neighbours: 1). `bytes` per rank: all_reduce and reduce_scatter: the full tensor; all_gather:
/// the gathered tensor; all_to_all: what the busiest rank sends, its own part included; slice: the
/// share. Inputs: x; of an all_to_all also the number of rows that this rank has for each expert.
/// Outputs: y; of an all_to_all to the experts also the rows for each of this rank's experts.
struct Collective {
  CollectiveKind kind = CollectiveKind::all_reduce;
  std::int64_t bytes = 0;
  std::int64_t group_size = 1;
  std::int64_t stride = 1;
  DType dtype = DType::bf16;
  bool returns = false;  ///< all_to_all: back from the experts

  bool operator==(const Collective&) const = default;
};

/// An operator that somebody else registered: shapes, cost and, if given, a kernel.
struct OperatorDefinition;

/// The numbers that a registered operator is described by: at most eight. Throws Error for others.
struct OperatorSizes : std::array<std::int64_t, 8> {
  std::int64_t& operator[](std::size_t i) { return data()[checked(i)]; }
  const std::int64_t& operator[](std::size_t i) const { return data()[checked(i)]; }

 private:
  TCAST_API std::size_t checked(std::size_t i) const;
};

/// A use of a registered operator. The meaning of `sizes` is the definition's own.
struct CustomOp {
  const OperatorDefinition* definition = nullptr;
  OperatorSizes sizes{};
  DType dtype = DType::bf16;

  bool operator==(const CustomOp&) const = default;
};

using OpRecord = std::variant<MatMul, GroupedMatMul, Attention, Softmax, Norm, Elementwise, Rotary,
                              RotaryTable, Gather, CacheAppend, CacheRead, Copy, Route, TopK,
                              Permute, Combine, Quantize, Collective, CustomOp>;

/// Work of one operator on one rank: what a cost model prices.
struct OpWork {
  double matrix_flops = 0;  ///< multiply-adds count two
  DType matrix_dtype = DType::bf16;
  double vector_flops = 0;
  DType vector_dtype = DType::f32;
  double read_bytes = 0;
  double write_bytes = 0;
  /// Of these, what no earlier operator can have left in a cache: parameters and the KV cache,
  /// which are too much for one. The others are activations.
  double cold_bytes = 0;

  double flops() const { return matrix_flops + vector_flops; }
  double bytes() const { return read_bytes + write_bytes; }
  double warm_bytes() const { return bytes() - cold_bytes; }
};

/// The work of a registered operator's use: numbers >= 0, of which no more bytes are cold than are
/// read and written. Throws Error.
template <>
struct TCAST_API Checked<OpWork> {
  static void require(const Registered& by, const OpWork& work);
  static OpWork of(const Registered& by, const OpWork& work) {
    require(by, work);
    return work;
  }
};

/// Work of a registered operator as a function of its sizes.
using OperatorFunction = OpWork (*)(const CustomOp& op);

/// A registered operator (TCAST_REGISTER_OPERATOR): its name and its work.
struct OperatorDefinition {
  const char* name = "";
  RegistryEntry<OperatorFunction> work{};
};

/// "matmul", "attention", "silu_mul", "all_reduce", ...: the name in op tables.
TCAST_API std::string_view name_of(const OpRecord& record);
TCAST_API OpClass class_of(const OpRecord& record);

/// Sizes on one line, for tables and keys of measurements: "m=512 n=4096 k=4096 bf16*bf16->bf16".
TCAST_API std::string describe(const OpRecord& record);

/// One operator of a region: what it does, on which tensors, on behalf of which module.
struct Op {
  OpRecord record{};
  IdList inputs{};
  IdList outputs{};
  std::uint32_t scope = 0;  ///< index into Region::scopes
  /// How often a call of the region is expected to run it: once, unless it depends on the routing,
  /// as the products of one expert do in a loop over the experts. Executed, it always runs once.
  double runs = 1;
};

}  // namespace tcast
