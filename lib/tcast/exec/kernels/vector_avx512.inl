// What the files for AVX-512 share beyond the generic loops; included inside an unnamed namespace
// after <immintrin.h>.

#define TCAST_NATIVE_CONVERSIONS
typedef __m512 NativeF;

static inline __m512i native_load_u16(const void* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
static inline __m512 native_load_i8(const void* p) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
static inline void native_store_i8(void* p, __m512 v) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
#if defined(__AVX512BF16__)
static inline void native_store_bf16(void* p, __m512 v) {
  const __m256bh rounded = _mm512_cvtneps_pbh(v);
  __builtin_memcpy(p, &rounded, sizeof rounded);
}
#else
static inline void native_store_bf16(void* p, __m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  _mm256_storeu_si256(static_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
#endif

#define TCAST_HAVE_TRANSPOSE16

// 16 rows of 16 words at a time: pairs of rows, then pairs of pairs, then 128-bit lanes.
static void transpose16(const std::uint32_t* src, std::int64_t src_stride, std::uint32_t* dst,
                        std::int64_t dst_stride, std::int64_t columns) {
  for (std::int64_t column = 0; column < columns; column += 16) {
    __m512i r[16];
    __m512i t[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(src + i * src_stride + column);
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      const __m512i low = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
      const __m512i high = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
      const __m512i low2 = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
      const __m512i high2 = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
      t[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
      t[i + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
      t[i + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
      t[i + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(dst + (column + i) * dst_stride, t[i]);
  }
}
