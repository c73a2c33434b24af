#include <immintrin.h>

#include "tcast/exec/kernels/vector_functions.h"

namespace tcast {
namespace {

constexpr int vector_width = 16;
#include "tcast/exec/kernels/vector_avx512.inl"
#include "tcast/exec/kernels/vector_functions.inl"

__m512bh as_pairs(__m512i words) {
  __m512bh pairs;
  __builtin_memcpy(&pairs, &words, sizeof pairs);
  return pairs;
}

// `rows` x 32 results stay in registers over the whole of k.
template <int rows>
TCAST_INLINE void multiply_bf16_strip(int n, int k, const Bf16* a, std::int64_t lda, const Bf16* b,
                                      std::int64_t ldb, float* c, std::int64_t ldc,
                                      bool accumulate) {
  for (int column = 0; column < n; column += 32) {
    __m512 left[rows];
    __m512 right[rows];
    for (int row = 0; row < rows; ++row) {
      const float* line = c + row * ldc + column;
      left[row] = accumulate ? _mm512_loadu_ps(line) : _mm512_setzero_ps();
      right[row] = accumulate ? _mm512_loadu_ps(line + 16) : _mm512_setzero_ps();
    }
    const Bf16* line = b + std::ptrdiff_t{2} * column;
    for (int i = 0; i < k; i += 2, line += 2 * ldb) {
      const __m512bh b0 = as_pairs(_mm512_loadu_si512(line));
      const __m512bh b1 = as_pairs(_mm512_loadu_si512(line + 32));
      for (int row = 0; row < rows; ++row) {
        int pair;
        __builtin_memcpy(&pair, a + row * lda + i, sizeof pair);
        const __m512bh value = as_pairs(_mm512_set1_epi32(pair));
        left[row] = _mm512_dpbf16_ps(left[row], value, b0);
        right[row] = _mm512_dpbf16_ps(right[row], value, b1);
      }
    }
    for (int row = 0; row < rows; ++row) {
      float* out = c + row * ldc + column;
      _mm512_storeu_ps(out, left[row]);
      _mm512_storeu_ps(out + 16, right[row]);
    }
  }
}

void multiply_bf16(int m, int n, int k, const Bf16* a, std::int64_t lda, const Bf16* b,
                   std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  int row = 0;
  for (; row + 8 <= m; row += 8) {
    multiply_bf16_strip<8>(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
  }
  for (; row + 4 <= m; row += 4) {
    multiply_bf16_strip<4>(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
  }
  for (; row < m; ++row) {
    multiply_bf16_strip<1>(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
  }
}

template <int rows>
TCAST_INLINE void column_block_rows_bf16(std::int64_t k, const Bf16* a, std::int64_t lda,
                                         const Bf16* b, float* c) {
  // The weight comes from memory in one stream; asking for it this early keeps that busy.
  constexpr std::int64_t ahead = 2048;
  __m512 sums[rows][4];
  for (int row = 0; row < rows; ++row) {
    for (std::ptrdiff_t part = 0; part < 4; ++part) sums[row][part] = _mm512_setzero_ps();
  }
  for (std::int64_t i = 0; i < k; i += 2, b += 128) {
    __m512bh column[4];
    for (std::ptrdiff_t part = 0; part < 4; ++part) {
      column[part] = as_pairs(_mm512_loadu_si512(b + part * 32));
      _mm_prefetch(reinterpret_cast<const char*>(b + ahead + part * 32), _MM_HINT_T0);
    }
    for (int row = 0; row < rows; ++row) {
      int pair = 0;
      __builtin_memcpy(&pair, a + row * lda + i, i + 1 < k ? 4 : 2);
      const __m512bh value = as_pairs(_mm512_set1_epi32(pair));
      for (std::ptrdiff_t part = 0; part < 4; ++part) {
        sums[row][part] = _mm512_dpbf16_ps(sums[row][part], value, column[part]);
      }
    }
  }
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (std::ptrdiff_t part = 0; part < 4; ++part) {
      _mm512_storeu_ps(c + row * 64 + part * 16, sums[row][part]);
    }
  }
}

void column_block_bf16(int m, std::int64_t k, const Bf16* a, std::int64_t lda, const Bf16* b,
                       float* c) {
  if (m == 1) return column_block_rows_bf16<1>(k, a, lda, b, c);
  if (m == 2) return column_block_rows_bf16<2>(k, a, lda, b, c);
  if (m == 3) return column_block_rows_bf16<3>(k, a, lda, b, c);
  column_block_rows_bf16<4>(k, a, lda, b, c);
}

constexpr VectorFunctions make_functions() {
  VectorFunctions functions = generic_functions(Isa::avx512_bf16);
  functions.multiply_bf16 = multiply_bf16;
  functions.column_block_bf16 = column_block_bf16;
  return functions;
}

constexpr VectorFunctions functions = make_functions();

}  // namespace

const VectorFunctions& avx512_bf16_functions() { return functions; }

}  // namespace tcast
