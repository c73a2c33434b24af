#include "tcast/exec/run/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/bf16.h"
#include "tcast/exec/threads.h"

namespace tcast {
namespace {

std::uint64_t hash_of(std::string_view path) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : path) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

/// Value i of a parameter whose path has this hash.
float value_at(std::uint64_t hash, std::int64_t i, const ValueRange& range) {
  std::uint64_t z = hash + static_cast<std::uint64_t>(i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  const auto bits = static_cast<std::int32_t>(z >> 40);
  // Odd numbers below 2^24 in magnitude: f32 holds them exactly.
  const float uniform = static_cast<float>(2 * bits + 1 - (1 << 24)) * 0x1p-24f;
  const float product = range.scale * uniform;
  return range.center + product;
}

/// Elements worth a thread of their own.
constexpr std::int64_t grain = 1 << 14;

void store(float value, std::int64_t i, const Buffer& target) {
  void* data = target.data;
  if (target.dtype == DType::f32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<Bf16*>(data)[i] = to_bf16(value);
  }
}

void check_target(const Buffer& target, std::int64_t count) {
  TCAST_CHECK(target.dtype == DType::f32 || target.dtype == DType::bf16,
              "weights are made as f32 or bf16");
  TCAST_CHECK(target.bytes >= bytes_of(count, target.dtype), "memory for a weight");
}

/// Where an element of a parameter stands in the checkpoint, which may have matrices transposed.
class CheckpointOrder {
 public:
  explicit CheckpointOrder(const Parameter& parameter) {
    if (!parameter.transposed) return;
    const int rank = parameter.shape.rank();
    rows_ = parameter.shape[rank - 2];
    columns_ = parameter.shape[rank - 1];
  }

  std::int64_t operator()(std::int64_t i) const {
    if (columns_ == 0) return i;
    const std::int64_t matrix = i / (rows_ * columns_) * (rows_ * columns_);
    return matrix + i % columns_ * rows_ + i / columns_ % rows_;
  }

 private:
  std::int64_t rows_ = 0;
  std::int64_t columns_ = 0;  ///< 0: as in the checkpoint
};

/// A parameter as a matrix whose rows are cut or whose columns are, and one rank's part of it: runs
/// of elements that lie together in the whole and in the part.
struct Run {
  std::int64_t whole = 0;  ///< index of its first element in the whole
  std::int64_t part = 0;
  std::int64_t count = 0;
};

std::vector<Run> runs_of(const Parameter& parameter, std::int64_t rank) {
  // The matrices of a stack that the rank holds; of each of them, its part.
  Shape shape = parameter.shape;
  std::int64_t stack_begin = 0;
  if (parameter.stack.dim == 0 && parameter.stack.ranks > 1) {
    shape.set(0, parameter.local_shape()[0]);
    stack_begin = shard_begin(parameter.stack, 0, rank) * (shape.elements() / shape[0]);
  }
  if (parameter.shard.dim < 0 || parameter.shard.ranks <= 1) {
    return {{stack_begin, 0, shape.elements()}};
  }
  const int dim = parameter.shard.dim;
  std::int64_t outer = 1;
  std::int64_t inner = 1;
  for (int i = 0; i < dim; ++i) outer *= shape[i];
  for (int i = dim + 1; i < shape.rank(); ++i) inner *= shape[i];
  const std::int64_t whole_size = shape[dim];
  const std::int64_t part_size = parameter.local_shape()[dim];
  std::vector<Run> runs;
  std::int64_t segment_begin = 0;
  std::int64_t part_begin = 0;
  for (std::size_t s = 0; s < parameter.shard.segments.size(); ++s) {
    const ShardSegment& segment = parameter.shard.segments[s];
    const std::int64_t begin = shard_begin(parameter.shard, s, rank);
    // The last parts may reach beyond the end: what is there pads.
    const std::int64_t held =
        std::clamp<std::int64_t>(segment.size - begin, 0, segment.local_size());
    for (std::int64_t o = 0; o < outer && held > 0; ++o) {
      runs.push_back({stack_begin + (o * whole_size + segment_begin + begin) * inner,
                      (o * part_size + part_begin) * inner, held * inner});
    }
    segment_begin += segment.size;
    part_begin += segment.local_size();
  }
  TCAST_CHECK(segment_begin == whole_size, "segments make up the sharded dimension");
  return runs;
}

/// Calls body(whole, part, count) for pieces of the runs, on all threads.
template <class Body>
void for_each_run(const std::vector<Run>& runs, const Body& body) {
  if (runs.empty()) return;  // a part that only pads
  if (runs.size() == 1) {
    const Run& run = runs[0];
    parallel_ranges(run.count, grain, [&](std::int64_t begin, std::int64_t end, int) {
      body(run.whole + begin, run.part + begin, end - begin);
    });
    return;
  }
  parallel_ranges(static_cast<std::int64_t>(runs.size()),
                  std::max<std::int64_t>(1, grain / std::max<std::int64_t>(1, runs[0].count)),
                  [&](std::int64_t begin, std::int64_t end, int) {
                    for (std::int64_t i = begin; i < end; ++i) {
                      const Run& run = runs[static_cast<std::size_t>(i)];
                      body(run.whole, run.part, run.count);
                    }
                  });
}

/// Largest magnitude that a quantized dtype represents.
float largest_of(DType dtype) {
  switch (dtype) {
    case DType::i8:
      return 127.0f;
    case DType::f8_e4m3:
      return 448.0f;
    case DType::f8_e5m2:
      return 57344.0f;
    default:
      break;
  }
  throw Error(fmt::format("weights of {} cannot be generated", short_name_of(dtype)),
              "execute the model with another quantization");
}

float quantize_value(float value, float scale, DType dtype) {
  if (scale == 0) return 0;
  const float scaled = value / scale;
  if (dtype == DType::i8) return std::clamp(std::nearbyint(scaled), -127.0f, 127.0f);
  return round_to_f8(scaled, dtype);
}

}  // namespace

ValueRange value_range(const Parameter& parameter) {
  switch (parameter.role) {
    case InitRole::norm:
      return {1.0f, 0.25f};
    case InitRole::centered_norm:
    case InitRole::bias:
      return {0.0f, 0.25f};
    case InitRole::router_bias:
      return {0.0f, 0.125f};
    case InitRole::sink:
      return {0.0f, 1.0f};
    case InitRole::matrix:
    case InitRole::query_key:
    case InitRole::embedding:
      break;
  }
  const Shape& shape = parameter.shape;
  const double gain = parameter.role == InitRole::query_key ? 1.25 : 1.0;
  const auto inputs = static_cast<double>(shape[shape.rank() - 1]);
  return {0.0f, static_cast<float>(gain * std::sqrt(3.0 / inputs))};
}

void generate_values(std::string_view path, const ValueRange& range, std::int64_t first,
                     std::int64_t count, float* result) {
  const std::uint64_t hash = hash_of(path);
  for (std::int64_t i = 0; i < count; ++i) result[i] = value_at(hash, first + i, range);
}

std::int64_t shard_begin(const Shard& shard, std::size_t segment, std::int64_t rank) {
  const ShardSegment& piece = shard.segments.at(segment);
  const std::int64_t place = rank / shard.stride % shard.ranks;
  return place * piece.parts / shard.ranks * piece.local_size();
}

void generate_parameter(const Parameter& parameter, std::string_view path, std::int64_t rank,
                        const Buffer& target) {
  const std::int64_t count = parameter.local_shape().elements();
  check_target(target, count);
  const std::vector<Run> runs = runs_of(parameter, rank);
  std::int64_t held = 0;
  for (const Run& run : runs) held += run.count;
  if (held < count) std::fill_n(target.data, bytes_of(count, target.dtype), std::byte{0});
  const std::uint64_t hash = hash_of(path);
  const ValueRange range = value_range(parameter);
  const CheckpointOrder place(parameter);
  for_each_run(runs, [&](std::int64_t whole, std::int64_t part, std::int64_t length) {
    // A checkpoint in 16 bit is rounded to that, whatever it is computed in.
    if (target.dtype == DType::bf16 && parameter.dtype != DType::f16) {
      void* data = target.data;
      Bf16* to = static_cast<Bf16*>(data) + part;
      for (std::int64_t i = 0; i < length; ++i)
        to[i] = to_bf16(value_at(hash, place(whole + i), range));
      return;
    }
    for (std::int64_t i = 0; i < length; ++i) {
      const float value = value_at(hash, place(whole + i), range);
      store(round_to_storage(value, parameter.dtype), part + i, target);
    }
  });
}

void generate_quantized(const Parameter& weight, const Parameter& scale, std::string_view path,
                        std::int64_t rank, const Buffer& values, const Buffer& scales) {
  // Matrices of a stack lie below each other: blocks do not reach from one to the next.
  const int last_dim = weight.shape.rank() - 1;
  TCAST_CHECK(last_dim >= 1 && scale.shape.rank() == last_dim + 1,
              "a quantized weight is a matrix, or a stack of them");
  const std::int64_t columns = weight.shape[last_dim];
  const std::int64_t rows = weight.shape.elements() / columns;
  const std::int64_t scale_columns = scale.shape[last_dim];
  const std::int64_t scale_rows = scale.shape.elements() / scale_columns;
  const std::int64_t block_rows = scale.block_rows;
  const std::int64_t block_columns = scale.block_columns;
  TCAST_CHECK(block_rows > 0 && block_columns > 0 && ceil_div(rows, block_rows) == scale_rows &&
                  ceil_div(columns, block_columns) == scale_columns,
              "scales fit their weight");
  TCAST_CHECK(last_dim == 1 || block_rows == 1, "one scale for each output of a stack");
  const float largest = largest_of(weight.dtype);
  const std::uint64_t hash = hash_of(path);
  const ValueRange range = value_range(weight);
  const DType stored = weight.quantized_from.value_or(DType::bf16);
  const CheckpointOrder place(weight);
  const auto original = [&](std::int64_t i) {
    return round_to_storage(value_at(hash, place(i), range), stored);
  };
  // The scales of the whole.
  std::vector<float> all(static_cast<std::size_t>(scale_rows * scale_columns));
  parallel_ranges(scale_rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t block = begin; block < end; ++block) {
      float* const line = all.data() + block * scale_columns;
      const std::int64_t last = std::min(rows, (block + 1) * block_rows);
      for (std::int64_t row = block * block_rows; row < last; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
          float& most = line[column / block_columns];
          most = std::max(most, std::abs(original(row * columns + column)));
        }
      }
      for (std::int64_t i = 0; i < scale_columns; ++i) line[i] /= largest;
    }
  });
  if (scales.data != nullptr) {
    TCAST_CHECK(scales.dtype == DType::f32, "scales are f32");
    void* data = scales.data;
    for_each_run(runs_of(scale, rank),
                 [&](std::int64_t whole, std::int64_t part, std::int64_t count) {
                   std::copy_n(all.data() + whole, count, static_cast<float*>(data) + part);
                 });
  }
  if (values.data == nullptr) return;
  const std::vector<Run> runs = runs_of(weight, rank);
  std::fill_n(values.data, values.bytes, std::byte{0});
  for_each_run(runs, [&](std::int64_t whole, std::int64_t part, std::int64_t count) {
    void* data = values.data;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = whole + i;
      const float s = all[static_cast<std::size_t>(at / columns / block_rows * scale_columns +
                                                   at % columns / block_columns)];
      const float quantized = quantize_value(original(at), s, weight.dtype);
      if (values.dtype == DType::i8) {
        static_cast<std::int8_t*>(data)[part + i] = static_cast<std::int8_t>(quantized);
      } else {
        store(quantized * s, part + i, values);
      }
    }
  });
}

float round_to_storage(float value, DType dtype) {
  if (dtype == DType::f32) return value;
  if (dtype != DType::f16) return to_float(to_bf16(value));
  // Below the smallest normal number steps are 2^-24; above, ten bits of mantissa stay.
  if (std::abs(value) < 0x1p-14f) return std::nearbyint(value * 0x1p24f) * 0x1p-24f;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const float rounded = std::bit_cast<float>((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
  constexpr float largest = 65504;
  if (!(std::abs(rounded) > largest)) return rounded;
  return std::copysign(std::numeric_limits<float>::infinity(), value);
}

float round_to_f8(float value, DType dtype) {
  const bool e4m3 = dtype == DType::f8_e4m3;
  const float largest = largest_of(dtype);
  const int mantissa_bits = e4m3 ? 3 : 2;
  const int least_exponent = e4m3 ? -6 : -14;
  if (std::isnan(value)) return value;
  const float magnitude = std::min(std::abs(value), largest);
  if (magnitude == 0) return value;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = f * 2^exponent with 0.5 <= f < 1
  const int step = std::max(exponent - 1, least_exponent) - mantissa_bits;
  const float rounded =
      std::min(std::ldexp(std::nearbyint(std::ldexp(magnitude, -step)), step), largest);
  return std::copysign(rounded, value);
}

}  // namespace tcast
