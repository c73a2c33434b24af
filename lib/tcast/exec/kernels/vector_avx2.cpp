#include <immintrin.h>

#include "tcast/exec/kernels/vector_functions.h"

namespace tcast {
namespace {

#define TCAST_NATIVE_CONVERSIONS
using NativeF = __m256;

inline __m256i native_load_u16(const void* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline __m256 native_load_i8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
inline void native_store_i8(void* p, __m256 v) {
  const __m256i words = _mm256_cvtps_epi32(v);
  const __m128i halves =
      _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
}
inline void native_store_bf16(void* p, __m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  _mm_storeu_si128(
      static_cast<__m128i*>(p),
      _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
}

constexpr int vector_width = 8;
#include "tcast/exec/kernels/vector_functions.inl"

constexpr VectorFunctions functions = generic_functions(Isa::avx2);

}  // namespace

const VectorFunctions& avx2_functions() { return functions; }

}  // namespace tcast
