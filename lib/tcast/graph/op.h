#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "tcast/base/export.h"
#include "tcast/base/units.h"
#include "tcast/graph/attention_span.h"
#include "tcast/graph/tensor.h"

// One record per kind of operator. A record holds everything that pricing the operator needs, in
// numbers of this rank: no look-up of tensors, so that a cost model sees the record alone. What
// executing needs beyond that (which buffers) is in Op::inputs and Op::outputs.

namespace tcast {

/// How operators are grouped for efficiencies in a device profile.
enum class OpClass : std::uint8_t {
  matmul,
  grouped_matmul,
  attention,
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
inline constexpr int op_class_count = 14;
TCAST_API std::string_view name_of(OpClass op_class);

/// y[batch, m, n] = x[batch, m, k] * w[batch, n, k]^T (+ bias). `weight` is the storage dtype,
/// `compute` what the multiplication runs in: weight-only quantization keeps compute in 16 bit.
/// Inputs: x, w, [weight scales], [bias], [activation scales].
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
  bool bias = false;
  std::int64_t weight_scales = 0;      ///< number of scales that go with the weight, 0 = none
  std::int64_t activation_scales = 0;  ///< number of scales that go with x, 0 = none
};

/// For every expert e: y_e[m_e, n] = x_e[m_e, k] * w_e[n, k]^T; sum of m_e is `rows`. When pricing,
/// `rows` and `active_experts` (those with m_e > 0) are expected values of the busiest rank; when
/// executing they come from the routing (decision D7).
/// Inputs: x[rows, k], stacked w[experts, n, k], token counts, [weight scales], [activation
/// scales].
struct GroupedMatMul {
  std::int64_t experts = 0;
  std::int64_t active_experts = 0;
  std::int64_t rows = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType input = DType::bf16;
  DType weight = DType::bf16;
  DType output = DType::bf16;
  DType compute = DType::bf16;
  std::int64_t weight_scales = 0;  ///< per expert
  std::int64_t activation_scales = 0;
};

/// Fused attention over a cache (flash or paged attention): scores never reach memory. GQA shares
/// each K/V head among heads / kv_heads query heads. `value_in_key`: the value is the first
/// v_head_dim elements of the key row (latent attention), so it is read once.
/// Inputs: q[tokens, heads * qk_head_dim], cache (which already holds the new tokens), [sinks].
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
  bool value_in_key = false;
  bool sinks = false;
  double scale = 1;
  double softcap = 0;
};

/// Softmax over the last dimension of [rows, columns]; computed in f32.
struct Softmax {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  DType dtype = DType::bf16;
};

enum class NormKind : std::uint8_t { rms, layer };

/// Normalization of each of `rows` rows of `width` elements, scaled by a weight of that width
/// (weight_offset + w). Computed in f32. Inputs: x, [weight], [bias].
struct Norm {
  NormKind kind = NormKind::rms;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  DType dtype = DType::bf16;
  bool weight = true;
  bool bias = false;
  double epsilon = 1e-6;
  double weight_offset = 0;
};

enum class ElementwiseKind : std::uint8_t {
  add,
  multiply,
  scale,  ///< by a constant
  silu,
  gelu,  ///< erf form
  gelu_tanh,
  relu,
  sigmoid,
  silu_mul,       ///< silu(a) * b: SwiGLU in one pass
  gelu_mul,       ///< gelu(a) * b, erf form
  gelu_tanh_mul,  ///< gelu(a) * b, tanh form
  mask_add,       ///< adds the causal mask to scores; second operand is one mask for all heads
  negate,
};
TCAST_API std::string_view name_of(ElementwiseKind kind);

/// One pass over `elements` results. `second_elements` is the size of the second operand as it lies
/// in memory (0 = none, smaller than `elements` when it is broadcast).
struct Elementwise {
  ElementwiseKind kind = ElementwiseKind::add;
  std::int64_t elements = 0;
  std::int64_t second_elements = 0;
  DType dtype = DType::bf16;
  double constant = 1;
};

/// Rotary embedding applied to [tokens, heads, head_dim]: the first `rotary_dim` elements of each
/// head are rotated. Interleaved: pairs are neighbours, else halves. Inputs: x, cos, sin.
struct Rotary {
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;
  bool interleaved = false;
  DType dtype = DType::bf16;
};

/// cos and sin for `tokens` positions, [tokens, dim] each. `cached`: rows are looked up in a table
/// of `table_positions` positions that was computed once; else computed in f32 every time.
struct RotaryTable {
  std::int64_t tokens = 0;
  std::int64_t dim = 0;
  DType dtype = DType::bf16;
  bool cached = false;
  std::int64_t table_positions = 0;
};

/// Rows of a table picked by index: token embedding, selection of the rows that need logits.
/// Inputs: table[table_rows, width], indices[rows].
struct Gather {
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t table_rows = 0;
  DType dtype = DType::bf16;
};

/// New keys and values written to the cache, converted to its dtype: `width` elements per token.
/// Inputs: the new values, cache. Output: none (the cache changes in place).
struct CacheAppend {
  std::int64_t tokens = 0;
  std::int64_t width = 0;
  DType input = DType::bf16;
  DType cache = DType::bf16;
};

enum class CopyKind : std::uint8_t {
  concat,     ///< joins tensors (an eager KV cache grows by this)
  transpose,  ///< reorders dimensions into new memory
  repeat,     ///< repeats KV heads for each of their query heads
  slice,      ///< cuts a part out into memory of its own
  cast,       ///< converts the dtype
};
TCAST_API std::string_view name_of(CopyKind kind);

/// Data movement without arithmetic.
struct Copy {
  CopyKind kind = CopyKind::concat;
  std::int64_t read_elements = 0;
  std::int64_t written_elements = 0;
  DType from = DType::bf16;
  DType to = DType::bf16;
};

enum class RouterScore : std::uint8_t { softmax, sigmoid };

/// Chooses `top_k` of `experts` for each token from the router's logits, in one pass: score,
/// add the correction bias (selection only), keep the best `topk_groups` of `groups` groups (a
/// group counts by the sum of its best two), take the top k, normalize, scale. Inputs:
/// logits[tokens, experts], [bias]. Outputs: weights and indices [tokens, top_k].
struct Route {
  std::int64_t tokens = 0;
  std::int64_t experts = 0;
  std::int64_t top_k = 0;
  RouterScore score = RouterScore::softmax;
  std::int64_t groups = 1;
  std::int64_t topk_groups = 1;
  bool correction_bias = false;
  bool normalize = false;
  double scale = 1;
  DType dtype = DType::f32;
};

/// The k largest of each row, with their indices: one of the many small ops of eager routing.
struct TopK {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t k = 0;
  DType dtype = DType::f32;
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
};

/// The reverse: each token's rows weighted and summed. Inputs: rows, weights, indices. With
/// `expert` >= 0 the rows of that expert are added to a running sum, the last input.
struct Combine {
  std::int64_t tokens = 0;
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t expert = -1;
  DType dtype = DType::bf16;
};

/// Activations converted to a narrow dtype with one scale per `group` elements of a row (0: one per
/// row, dynamic; < 0: fixed scale known beforehand). Outputs: values, [scales].
struct Quantize {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t group = 0;
  DType from = DType::bf16;
  DType to = DType::i8;
};

enum class CollectiveKind : std::uint8_t { all_reduce, all_gather, reduce_scatter, all_to_all };
TCAST_API std::string_view name_of(CollectiveKind kind);

/// Communication of `group_size` ranks whose device numbers are `stride` apart (tensor-parallel
/// neighbours: 1). `bytes` per rank: all_reduce and reduce_scatter: the full tensor; all_gather:
/// the gathered tensor; all_to_all: what the busiest rank sends, its own part included.
struct Collective {
  CollectiveKind kind = CollectiveKind::all_reduce;
  std::int64_t bytes = 0;
  std::int64_t group_size = 1;
  std::int64_t stride = 1;
  DType dtype = DType::bf16;
};

/// An operator that somebody else registered: shapes, cost and, if given, a kernel.
struct OperatorDefinition;

/// A use of a registered operator. The meaning of `sizes` is the definition's own.
struct CustomOp {
  const OperatorDefinition* definition = nullptr;
  std::array<std::int64_t, 8> sizes{};
  DType dtype = DType::bf16;
};

using OpRecord = std::variant<MatMul, GroupedMatMul, Attention, Softmax, Norm, Elementwise, Rotary,
                              RotaryTable, Gather, CacheAppend, Copy, Route, TopK, Permute, Combine,
                              Quantize, Collective, CustomOp>;

/// Work of one operator on one rank: what a cost model prices.
struct OpWork {
  double matrix_flops = 0;  ///< multiply-adds count two
  DType matrix_dtype = DType::bf16;
  double vector_flops = 0;
  DType vector_dtype = DType::f32;
  double read_bytes = 0;
  double write_bytes = 0;

  double flops() const { return matrix_flops + vector_flops; }
  double bytes() const { return read_bytes + write_bytes; }
};

/// A registered operator (TCAST_REGISTER_OPERATOR): its name and its cost as a function of sizes.
struct OperatorDefinition {
  const char* name = "";
  OpWork (*work)(const CustomOp& op) = nullptr;
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
};

}  // namespace tcast
