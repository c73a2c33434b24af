// What the files for AVX-512 share beyond the generic loops; included inside an unnamed namespace
// after <immintrin.h>.

#define TCAST_HAVE_TRANSPOSE16

// 16 rows of 16 words at a time: pairs of rows, then pairs of pairs, then 128-bit lanes.
static void transpose16(const std::uint32_t* src, std::int64_t src_stride, std::uint32_t* dst,
                        std::int64_t dst_stride, std::int64_t columns) {
  std::int64_t column = 0;
  for (; column + 16 <= columns; column += 16) {
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
  for (; column < columns; ++column) {
    for (int row = 0; row < 16; ++row) {
      dst[column * dst_stride + row] = src[row * src_stride + column];
    }
  }
}
