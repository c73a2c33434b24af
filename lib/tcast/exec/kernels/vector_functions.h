#pragma once

#include <cstdint>

#include "tcast/exec/kernels/bf16.h"
#include "tcast/exec/kernels/isa.h"
#include "tcast/graph/op.h"

// Inner loops, compiled once per instruction set (vector_<isa>.cpp) and reached through a table of
// functions, so that one binary runs everywhere and a test can ask for any set that the host has.
// All arithmetic is f32; single-threaded; pointers need no alignment.

namespace tcast {

/// Loops over rows of T, float or Bf16.
template <class T>
struct RowFunctions {
  /// y = softmax(x) over each row. `scratch` holds `columns` floats. `sink` (null: none) is one
  /// more score of every row, which takes part in the sum only.
  void (*softmax)(const T* x, T* y, std::int64_t rows, std::int64_t columns, const float* sink,
                  float* scratch);
  /// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, mean 0 for rms; `weight` and `bias`
  /// may be null. `sums` (null: computed here) are the rows' sums of squares over `count` elements.
  void (*norm)(NormKind kind, const T* x, const float* weight, const float* bias, T* y,
               std::int64_t rows, std::int64_t width, const float* sums, std::int64_t count,
               float epsilon);
  /// The sum of the squares of each row.
  void (*sum_squares)(const T* x, float* sums, std::int64_t rows, std::int64_t width);
  /// y = f(a, b), or f(a) when the kind takes one operand.
  void (*elementwise)(ElementwiseKind kind, const T* a, const T* b, T* y, std::int64_t count,
                      float constant);
  /// The same with one value of b for all of a.
  void (*elementwise_scalar)(ElementwiseKind kind, const T* a, float b, T* y, std::int64_t count,
                             float constant);
  /// Rotates one head: the first `rotary_dim` elements, the rest is copied.
  void (*rotate)(const T* x, const T* cos, const T* sin, T* y, std::int64_t head_dim,
                 std::int64_t rotary_dim, bool interleaved);
  /// y = round(x / scale) clamped to +-127 and returns scale: `fixed_scale`, or max|x| / 127 if 0.
  float (*quantize)(const T* x, std::int8_t* y, std::int64_t count, float fixed_scale);
  /// sum += weight * x.
  void (*add_scaled)(float* sum, const T* x, float weight, std::int64_t count);
  void (*to_f32)(const T* x, float* y, std::int64_t count);
  void (*from_f32)(const float* x, T* y, std::int64_t count);
  /// y[i] = x[i] * scale[i] * row_scale + bias[i]; `scale` and `bias` may be null.
  void (*scale_i32)(const std::int32_t* x, const float* scale, float row_scale, const float* bias,
                    T* y, std::int64_t count);
  /// y = x of int8 weights, times scale.
  void (*widen_i8)(const std::int8_t* x, float scale, T* y, std::int64_t count);
};

/// One row of a block of scores in flash attention.
struct ScoreRow {
  float maximum;  ///< running maximum of scaled scores
  float sum;      ///< running sum of exponentials
};

/// Rows up to which a product is limited by reading its weight.
inline constexpr int few_rows = 4;

struct VectorFunctions {
  Isa isa;
  RowFunctions<float> f32;
  RowFunctions<Bf16> bf16;

  /// sums[i] = dot product of x[i * x_stride ..] and w, for i < rows <= 8.
  void (*dot_i8)(const float* x, std::int64_t x_stride, int rows, const std::int8_t* w,
                 std::int64_t count, float* sums);

  /// c[m, n] (+)= a[m, k] * b[k, n]; n is a multiple of 32.
  void (*multiply_f32)(int m, int n, int k, const float* a, std::int64_t lda, const float* b,
                       std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate);
  /// The same for bf16, or null where the set has no such instruction. b is [k / 2, ldb, 2]: pairs
  /// of rows interleaved; k is a multiple of 32.
  void (*multiply_bf16)(int m, int n, int k, const Bf16* a, std::int64_t lda, const Bf16* b,
                        std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate);
  /// c[m, 64] = a[m, k] * b for m <= few_rows and b a block of 64 columns, [k, 64]: matrix times
  /// vector, at the speed at which b comes from memory.
  void (*column_block_f32)(int m, std::int64_t k, const float* a, std::int64_t lda, const float* b,
                           float* c);
  /// The same for bf16, or null; b is [k / 2, 64, 2], with zeros behind an odd k.
  void (*column_block_bf16)(int m, std::int64_t k, const Bf16* a, std::int64_t lda, const Bf16* b,
                            float* c);
  /// dst[column * dst_stride + row] = src[row * src_stride + column] for 32-bit words, 16 rows;
  /// `columns` is a multiple of 16.
  void (*transpose16)(const std::uint32_t* src, std::int64_t src_stride, std::uint32_t* dst,
                      std::int64_t dst_stride, std::int64_t columns);
  /// dst[2 * i] = even[i], dst[2 * i + 1] = odd[i].
  void (*interleave)(const Bf16* even, const Bf16* odd, Bf16* dst, std::int64_t count);

  /// Online softmax of scores[0, count) of which [begin, end) may be seen: scores are multiplied by
  /// `scale` and capped (softcap > 0), `row` is updated, `p` gets exp(score - maximum), 0 where not
  /// seen. Returns the factor by which what was summed up before has to be multiplied.
  float (*attend_f32)(const float* scores, int count, int begin, int end, float scale,
                      float softcap, ScoreRow* row, float* p);
  float (*attend_bf16)(const float* scores, int count, int begin, int end, float scale,
                       float softcap, ScoreRow* row, Bf16* p);
  /// x *= factor.
  void (*scale)(float* x, float factor, std::int64_t count);
  /// The sum of x, in four strands: reads memory as fast as it comes.
  float (*total)(const float* x, std::int64_t count);
};

/// The table of an instruction set that the host supports (isa <= host_isa()).
const VectorFunctions& vector_functions(Isa isa);

/// Row functions of a table by element type.
template <class T>
const RowFunctions<T>& rows_of(const VectorFunctions& functions);
template <>
inline const RowFunctions<float>& rows_of<float>(const VectorFunctions& functions) {
  return functions.f32;
}
template <>
inline const RowFunctions<Bf16>& rows_of<Bf16>(const VectorFunctions& functions) {
  return functions.bf16;
}

// One per file; only those in the binary for this architecture exist.
const VectorFunctions& baseline_functions();
const VectorFunctions& avx2_functions();
const VectorFunctions& avx512_functions();
const VectorFunctions& avx512_bf16_functions();
const VectorFunctions& amx_bf16_functions();

}  // namespace tcast
