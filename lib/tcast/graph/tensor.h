#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/base/export.h"
#include "tcast/base/units.h"

namespace tcast {

/// Dimensions of a tensor in PyTorch's order, outermost first; at most six. More dimensions, and
/// dimensions that a shape does not have, are an Error (in a constant expression: do not compile).
class Shape {
 public:
  static constexpr int max_rank = 6;

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<std::int64_t> dims) {
    if (dims.size() > dims_.size()) fail_rank(dims.size());
    for (const std::int64_t dim : dims) dims_[static_cast<std::size_t>(rank_++)] = dim;
  }

  constexpr int rank() const { return rank_; }
  constexpr std::int64_t operator[](int i) const { return dims_[checked(i)]; }
  constexpr void set(int i, std::int64_t value) { dims_[checked(i)] = value; }

  /// Number of elements; Shape{} is a scalar and has one. Throws Error on overflow.
  std::int64_t elements() const {
    std::int64_t product = 1;
    for (int i = 0; i < rank_; ++i) product = checked_mul(product, (*this)[i], "shape");
    return product;
  }

  constexpr bool operator==(const Shape&) const = default;

 private:
  constexpr std::size_t checked(int i) const {
    const auto index = static_cast<std::size_t>(i);
    if (index >= rank_) fail_dimension(i);
    return index;
  }
  [[noreturn]] TCAST_API static void fail_rank(std::size_t rank);
  [[noreturn]] TCAST_API void fail_dimension(int i) const;

  std::array<std::int64_t, max_rank> dims_{};
  std::uint8_t rank_ = 0;
};

/// "[4096, 1024]".
TCAST_API std::string to_string(const Shape& shape);

/// What a parameter is for: decides the range of generated weights (decision D6).
enum class InitRole : std::uint8_t {
  matrix,
  query_key,
  embedding,
  norm,
  centered_norm,  ///< of a norm that multiplies by 1 + weight
  bias,
  router_bias,
  sink,  ///< a score for each head
};

/// One run of rows (or columns) along the sharded dimension that is cut on its own, such as the
/// query part of a fused query_key_value projection. `parts` different slices exist; when there
/// are more ranks than parts, each slice is held by ranks / parts of them (replicated KV heads).
struct ShardSegment {
  std::int64_t size = 0;
  std::int64_t parts = 1;

  std::int64_t local_size() const { return ceil_div(size, parts); }

  bool operator==(const ShardSegment&) const = default;
};

/// How a parameter is cut over `ranks` ranks: along `dim`, segment by segment; dim < 0: whole.
struct Shard {
  int dim = -1;
  std::int64_t ranks = 1;
  std::int64_t stride = 1;  ///< between device numbers of neighbouring ranks
  std::vector<ShardSegment> segments{};

  bool operator==(const Shard&) const = default;
};

/// The scales of a quantized matrix: one per `block_rows` x `block_columns` elements; 0 means the
/// whole extent. Of weights [out, in]: per output channel 1 x 0, groups of the inputs 1 x 128,
/// DeepSeek-V3 128 x 128. Of activations [rows, in]: per token 1 x 0. One for all: 0 x 0.
struct ScaleGrid {
  std::int64_t block_rows = 1;
  std::int64_t block_columns = 0;
  DType dtype = DType::f32;
  /// A zero point beside each scale, in this dtype; nothing: zero stands for zero.
  std::optional<DType> zero_points{};

  /// Scales along each side of a matrix of that size, and of all of it.
  std::int64_t rows(std::int64_t matrix_rows) const { return along(matrix_rows, block_rows); }
  std::int64_t columns(std::int64_t matrix_columns) const {
    return along(matrix_columns, block_columns);
  }
  std::int64_t count(std::int64_t matrix_rows, std::int64_t matrix_columns) const {
    return rows(matrix_rows) * columns(matrix_columns);
  }
  /// The place of an element's scale among those of a matrix with so many columns, row by row.
  std::int64_t index(std::int64_t row, std::int64_t column, std::int64_t matrix_columns) const {
    return (block_rows > 0 ? row / block_rows : 0) * columns(matrix_columns) +
           (block_columns > 0 ? column / block_columns : 0);
  }
  bool is_per_tensor() const { return block_rows == 0 && block_columns == 0; }
  bool is_per_row() const { return block_rows == 1 && block_columns == 0; }

  bool operator==(const ScaleGrid&) const = default;

 private:
  static std::int64_t along(std::int64_t size, std::int64_t block) {
    return block > 0 ? ceil_div(size, block) : 1;
  }
};

/// A scale for each row: of weights per output channel, of activations per token.
inline constexpr ScaleGrid scale_per_row{};
/// One scale for the whole matrix.
inline constexpr ScaleGrid scale_per_tensor{0, 0};

/// What a parameter is to the weight that quantization added it for.
enum class QuantizationPart : std::uint8_t { none, scales, zero_points };

/// One trainable parameter or persistent buffer of a module, under HuggingFace's name.
struct TCAST_API Parameter {
  std::string name{};         ///< within its module: "weight", "bias", "e_score_correction_bias"
  std::string stored_name{};  ///< what a quantized checkpoint calls it; empty: `name`
  Shape shape{};              ///< of the whole, matrices as [out, in]
  DType dtype = DType::bf16;  ///< storage
  InitRole role = InitRole::matrix;
  /// What the checkpoint stores, when `dtype` is what a step quantized it to.
  std::optional<DType> quantized_from{};
  /// The checkpoint has the last two dimensions the other way round: [in, out].
  bool transposed = false;
  bool buffer = false;  ///< persistent buffer: listed apart, not in parameter totals
  /// Scales and zero points that quantization added; not in parameter totals either.
  QuantizationPart part = QuantizationPart::none;
  /// Of those: which elements of the weight each belongs to.
  ScaleGrid grid{};
  std::string tied_to{};  ///< path of the parameter that it shares storage with; else empty
  /// Why quantization leaves this matrix as the checkpoint has it, and why tensor parallelism
  /// leaves it whole on every rank ("every head needs all of the latent"); empty: they need not.
  std::string unquantized_because{};
  std::string whole_because{};
  Shard shard{};
  /// How dimension 0 of a stack of matrices (experts) is shared out over ranks besides.
  Shard stack{};

  bool is_quantization_part() const { return part != QuantizationPart::none; }
  const std::string& checkpoint_name() const { return stored_name.empty() ? name : stored_name; }
  /// Shape under which the checkpoint stores it; of values packed into wider words, the values'.
  Shape checkpoint_shape() const;
  /// Shape of the slice that one rank holds (the busiest one, if uneven by padding).
  Shape local_shape() const;
  /// Bytes of that slice; 0 when tied.
  std::int64_t local_bytes() const;

  bool operator==(const Parameter&) const = default;
};

using TensorId = std::uint32_t;

/// Most operands of an op, and most values that go into a call or come out of it.
inline constexpr std::size_t max_operands = 6;
/// Throws Error: somebody's module or operator has more than max_operands.
[[noreturn]] TCAST_API void fail_operand_count();
/// Throws Error: there is no operand `index` among `count`.
[[noreturn]] TCAST_API void fail_operand_index(int index, std::size_t count);

/// A few ids of tensors or values: a fixed list, so that tracing allocates nothing per op.
class IdList {
 public:
  void push(std::uint32_t id) {
    if (count == ids_.size()) fail_operand_count();
    ids_[count++] = id;
  }
  void set(int i, std::uint32_t id) { ids_[checked(i)] = id; }
  std::uint32_t operator[](int i) const { return ids_[checked(i)]; }
  const std::uint32_t* begin() const { return ids_.data(); }
  const std::uint32_t* end() const { return ids_.data() + count; }

  std::uint8_t count = 0;

 private:
  std::size_t checked(int i) const {
    const auto index = static_cast<std::size_t>(i);
    if (index >= count) fail_operand_index(i, count);
    return index;
  }

  std::array<std::uint32_t, max_operands> ids_{};
};

enum class TensorKind : std::uint8_t {
  activation,  ///< computed by an op of the region
  input,       ///< comes into the region from outside (another call, token ids)
  parameter,   ///< bound per call: weights of the layer that the call stands for
  cache,       ///< bound per call: this layer's cache, lives between forward passes
  constant,    ///< numbers that the model's config gives (inverse frequencies of rotary positions)
};

/// A value inside a region.
struct Tensor {
  Shape shape{};
  DType dtype = DType::bf16;
  TensorKind kind = TensorKind::activation;
  /// The tensor whose memory it shares (a view); its own id when it has memory of its own.
  TensorId storage = 0;
  /// For kind parameter: the parameter. `stacked` > 0: that many list members side by side (the
  /// local experts of a grouped matmul), else one.
  const Parameter* parameter = nullptr;
  std::int64_t stacked = 0;
  /// Ranks that a stacked list is spread over (each holds the next `stacked` entries), and how far
  /// apart their device numbers are.
  std::int64_t list_ranks = 1;
  std::int64_t list_stride = 1;
  /// Rows of a second parameter that follow those of the first: two projections as one.
  const Parameter* joined = nullptr;
  /// Entry of the list inside the region (an expert) that the parameter belongs to, the first one
  /// if stacked; -1: none.
  std::int32_t member = -1;
  /// For kind constant: index into Graph::constants, -1 when none were made. For kind cache: index
  /// into Region::caches.
  std::int32_t index = -1;

  std::int64_t bytes() const { return bytes_of(shape.elements(), dtype); }
};

}  // namespace tcast
