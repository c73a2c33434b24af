#pragma once

#include <cstdint>
#include <string_view>

#include "tcast/exec/kernels/kernel.h"
#include "tcast/graph/tensor.h"

namespace tcast {

// Weights without weight files (decision D6): the value of element i of a checkpoint's parameter is
// a pure function of the parameter's path, i and the parameter's role. scripts/goldens/weights.py
// is the same rule in numpy.

/// Generated values lie strictly between center - scale and center + scale.
struct ValueRange {
  float center = 0;
  float scale = 1;

  bool operator==(const ValueRange&) const = default;
};

/// The range of a parameter's values, from its role and, for matrices, the number of inputs:
/// outputs have the variance of the inputs, attention scores a spread of 1 to 2.
ValueRange value_range(const Parameter& parameter);

/// Elements [first, first + count) of the parameter `path`, row-major in the checkpoint's shape, as
/// f32: FNV-1a of the path, splitmix64 over it and the index, the top 24 bits as a symmetric
/// uniform.
void generate_values(std::string_view path, const ValueRange& range, std::int64_t first,
                     std::int64_t count, float* result);

/// One rank's part of a parameter, rounded to nearest even in its storage dtype (f32, f16, all
/// others as bf16), and then to that of `target`, which holds the elements of
/// parameter.local_shape(), as f32 or bf16. What only pads is zero. Runs on current_threads()
/// threads.
void generate_parameter(const Parameter& parameter, std::string_view path, std::int64_t rank,
                        const Buffer& target);

/// The same for a weight that was quantized, and its scales: computed from the whole checkpoint
/// parameter, so that a shard is exactly the slice of the whole. `scale` describes the scales;
/// either target may be empty. Values in i8 have their zero points taken off. A target of f32 or
/// bf16 gets quantized values times their scales:
/// for processors and kernels that cannot read the quantized form.
void generate_quantized(const Parameter& weight, const Parameter& scale, std::string_view path,
                        std::int64_t rank, const Buffer& values, const Buffer& scales);

/// First element along the sharded dimension that `rank` holds of segment `segment`, in that
/// segment.
std::int64_t shard_begin(const Shard& shard, std::size_t segment, std::int64_t rank);

/// Rounds to the nearest number that a dtype of 16 bit holds (f16: infinity beyond 65504; all
/// others as bf16); f32 stays.
float round_to_storage(float value, DType dtype);

/// Rounds to the nearest 8-bit float with four exponent and three mantissa bits (e4m3fn, largest
/// 448), or e5m2; saturates.
float round_to_f8(float value, DType dtype);

}  // namespace tcast
