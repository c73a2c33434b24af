#pragma once

#include <cstdint>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/bf16.h"
#include "tcast/exec/kernels/kernel.h"

// Single values in buffers, for whoever fills operands or reads results.

namespace tcast {

/// Whole numbers in a buffer of i32 or i64.
inline std::int64_t index_at(const Buffer& buffer, std::int64_t i) {
  const void* data = buffer.data;
  return buffer.dtype == DType::i64 ? static_cast<const std::int64_t*>(data)[i]
                                    : static_cast<const std::int32_t*>(data)[i];
}
inline void set_index(const Buffer& buffer, std::int64_t i, std::int64_t value) {
  void* data = buffer.data;
  if (buffer.dtype == DType::i64) {
    static_cast<std::int64_t*>(data)[i] = value;
  } else {
    static_cast<std::int32_t*>(data)[i] = static_cast<std::int32_t>(value);
  }
}

/// A floating-point value in a buffer of f32 or bf16.
inline float float_at(const Buffer& buffer, std::int64_t i) {
  const void* data = buffer.data;
  if (buffer.dtype == DType::bf16) return to_float(static_cast<const Bf16*>(data)[i]);
  TCAST_CHECK(buffer.dtype == DType::f32, "a floating-point value");
  return static_cast<const float*>(data)[i];
}
inline void set_float(const Buffer& buffer, std::int64_t i, float value) {
  void* data = buffer.data;
  if (buffer.dtype == DType::bf16) {
    static_cast<Bf16*>(data)[i] = to_bf16(value);
  } else {
    TCAST_CHECK(buffer.dtype == DType::f32, "a floating-point value");
    static_cast<float*>(data)[i] = value;
  }
}

/// All elements of a floating-point buffer, in the memory that `values` has already.
void to_floats(const Buffer& buffer, std::vector<float>& values);

/// The largest |x| of a floating-point buffer; 0 of an empty one.
float largest_magnitude(const Buffer& buffer);

}  // namespace tcast
