#include "tcast/exec/kernels/buffer_values.h"

#include <algorithm>
#include <cmath>

namespace tcast {

void to_floats(const Buffer& buffer, std::vector<float>& values) {
  values.resize(static_cast<std::size_t>(buffer.bytes / bytes_of(1, buffer.dtype)));
  const void* data = buffer.data;
  if (buffer.dtype == DType::bf16) {
    const auto* source = static_cast<const Bf16*>(data);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(source[i]);
  } else {
    TCAST_CHECK(buffer.dtype == DType::f32, "floating-point values");
    std::copy_n(static_cast<const float*>(data), values.size(), values.begin());
  }
}

float largest_magnitude(const Buffer& buffer) {
  const std::int64_t count = buffer.bytes / bytes_of(1, buffer.dtype);
  float most = 0;
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::abs(float_at(buffer, i)));
  return most;
}

}  // namespace tcast
