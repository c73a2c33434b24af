#include <immintrin.h>

#include "tcast/exec/kernels/vector_functions.h"

// Products of bf16 by AMX tiles; everything else is that of AVX-512 BF16.

namespace tcast {
namespace {

/// Memory image of LDTILECFG (Intel SDM, palette 1).
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t column_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

/// Tiles 0..3 are results, 4 and 5 rows of a, 6 and 7 columns of b; `upper` and `lower` rows of a.
void configure(int upper, int lower) {
  TileConfig config;
  const int rows[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
  for (int i = 0; i < 8; ++i) {
    config.column_bytes[i] = 64;
    config.rows[i] = static_cast<std::uint8_t>(rows[i]);
  }
  _tile_loadconfig(&config);
}

void multiply_two(int n, int k, const Bf16* a, std::int64_t lda, const Bf16* b, std::int64_t ldb,
                  float* c, std::int64_t ldc, bool accumulate) {
  const std::int64_t a_bytes = lda * 2;
  const std::int64_t b_bytes = ldb * 4;
  const std::int64_t c_bytes = ldc * 4;
  const Bf16* a_lower = a + 16 * lda;
  for (int column = 0; column < n; column += 32) {
    float* upper = c + column;
    float* lower = c + 16 * ldc + column;
    if (accumulate) {
      _tile_loadd(0, upper, c_bytes);
      _tile_loadd(1, upper + 16, c_bytes);
      _tile_loadd(2, lower, c_bytes);
      _tile_loadd(3, lower + 16, c_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    const Bf16* pairs = b + std::ptrdiff_t{2} * column;
    for (int i = 0; i < k; i += 32, pairs += 32 * ldb) {
      _tile_loadd(4, a + i, a_bytes);
      _tile_loadd(6, pairs, b_bytes);
      _tile_loadd(7, pairs + 32, b_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, a_lower + i, a_bytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, upper, c_bytes);
    _tile_stored(1, upper + 16, c_bytes);
    _tile_stored(2, lower, c_bytes);
    _tile_stored(3, lower + 16, c_bytes);
  }
}

void multiply_one(int n, int k, const Bf16* a, std::int64_t lda, const Bf16* b, std::int64_t ldb,
                  float* c, std::int64_t ldc, bool accumulate) {
  const std::int64_t a_bytes = lda * 2;
  const std::int64_t b_bytes = ldb * 4;
  const std::int64_t c_bytes = ldc * 4;
  for (int column = 0; column < n; column += 32) {
    float* upper = c + column;
    if (accumulate) {
      _tile_loadd(0, upper, c_bytes);
      _tile_loadd(1, upper + 16, c_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
    }
    const Bf16* pairs = b + std::ptrdiff_t{2} * column;
    for (int i = 0; i < k; i += 32, pairs += 32 * ldb) {
      _tile_loadd(4, a + i, a_bytes);
      _tile_loadd(6, pairs, b_bytes);
      _tile_loadd(7, pairs + 32, b_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, upper, c_bytes);
    _tile_stored(1, upper + 16, c_bytes);
  }
}

void multiply_bf16(int m, int n, int k, const Bf16* a, std::int64_t lda, const Bf16* b,
                   std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  int row = 0;
  if (m > 16) {
    const int whole = m - m % 32;
    if (whole > 0) {
      configure(16, 16);
      for (; row < whole; row += 32) {
        multiply_two(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
      }
    }
    if (m - row > 16) {
      configure(16, m - row - 16);
      multiply_two(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
      row = m;
    }
  }
  if (row < m) {
    configure(m - row, 16);
    multiply_one(n, k, a + row * lda, lda, b, ldb, c + row * ldc, ldc, accumulate);
  }
  _tile_release();
}

}  // namespace

const VectorFunctions& amx_bf16_functions() {
  static const VectorFunctions functions = [] {
    VectorFunctions result = avx512_bf16_functions();
    result.isa = Isa::amx_bf16;
    result.multiply_bf16 = multiply_bf16;
    return result;
  }();
  return functions;
}

}  // namespace tcast
