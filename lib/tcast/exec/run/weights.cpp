#include "tcast/exec/run/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
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

/// Largest magnitude that a quantized dtype represents; of 4-bit integers, -8 to 7, the mean of
/// both ends, as compressed-tensors has it (quantization/utils/helpers.py, calculate_qparams).
float largest_of(DType dtype) {
  switch (dtype) {
    case DType::i4:
      return 7.5f;
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

/// The scale and zero point of elements that share them.
struct Step {
  float scale = 0;
  float zero = 0;
};

/// From the least and the largest of the elements.
Step step_of(float least, float most, DType dtype, const ScaleGrid& grid) {
  if (!grid.zero_points) {
    const float magnitude = std::max(std::abs(least), std::abs(most));
    return {round_to_storage(magnitude / largest_of(dtype), grid.dtype), 0};
  }
  // Integers from 0 on, as AutoAWQ has them (awq/quantize/quantizer.py, pseudo_quantize_tensor); of
  // a range that reaches to zero, so that every value of a small group lies within, as
  // compressed-tensors has it.
  least = std::min(least, 0.0f);
  most = std::max(most, 0.0f);
  const auto levels = static_cast<float>((1 << bits_of(dtype)) - 1);
  const float scale = round_to_storage(std::max(most - least, 1e-5f) / levels, grid.dtype);
  return {scale, std::clamp(-std::nearbyint(least / scale), 0.0f, levels)};
}

/// What a value is stored as, with its zero point taken off.
float quantize_value(float value, const Step& step, DType dtype, bool zero_points) {
  if (step.scale == 0) return 0;
  const float scaled = value / step.scale;
  if (dtype != DType::i4 && dtype != DType::i8) return round_to_f8(scaled, dtype);
  const float whole = std::nearbyint(scaled);
  if (zero_points) {
    const auto levels = static_cast<float>((1 << bits_of(dtype)) - 1);
    return std::clamp(whole + step.zero, 0.0f, levels) - step.zero;
  }
  return dtype == DType::i4 ? std::clamp(whole, -8.0f, 7.0f) : std::clamp(whole, -127.0f, 127.0f);
}

/// Which scale of a weight, a matrix or a stack of them, an element has.
class ScalePlaces {
 public:
  ScalePlaces(const Parameter& weight, const Parameter& scale) : grid_(scale.grid) {
    const int last_dim = weight.shape.rank() - 1;
    TCAST_CHECK(last_dim >= 1 && scale.shape.rank() == last_dim + 1,
                "a quantized weight is a matrix, or a stack of them");
    columns = weight.shape[last_dim];
    matrix_rows = weight.shape[last_dim - 1];
    matrices = weight.shape.elements() / (columns * matrix_rows);
    block_rows = grid_.block_rows > 0 ? grid_.block_rows : matrix_rows;
    line = grid_.columns(columns);
    lines_per_matrix = grid_.rows(matrix_rows);
    TCAST_CHECK(scale.shape.elements() == matrices * lines_per_matrix * line,
                "scales fit their weight");
  }

  /// Rows [first, last) that have the scales of a line.
  std::pair<std::int64_t, std::int64_t> rows_of(std::int64_t line_index) const {
    const std::int64_t matrix = line_index / lines_per_matrix * matrix_rows;
    const std::int64_t first = line_index % lines_per_matrix * block_rows;
    return {matrix + first, matrix + std::min(matrix_rows, first + block_rows)};
  }
  /// The first scale of a row's line, and the place in the line of a column's.
  std::int64_t line_of(std::int64_t row) const {
    return (row / matrix_rows * lines_per_matrix + row % matrix_rows / block_rows) * line;
  }
  std::int64_t column_of(std::int64_t column) const {
    return grid_.block_columns > 0 ? column / grid_.block_columns : 0;
  }

  std::int64_t columns = 0;
  std::int64_t matrix_rows = 0;
  std::int64_t matrices = 0;
  std::int64_t block_rows = 0;
  std::int64_t line = 0;  ///< scales side by side
  std::int64_t lines_per_matrix = 0;

 private:
  ScaleGrid grid_;
};

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
  const ScalePlaces places(weight, scale);
  const std::uint64_t hash = hash_of(path);
  const ValueRange range = value_range(weight);
  const DType stored = weight.quantized_from.value_or(DType::bf16);
  const CheckpointOrder place(weight);
  const auto original = [&](std::int64_t i) {
    return round_to_storage(value_at(hash, place(i), range), stored);
  };
  // The scales of the whole.
  const std::int64_t lines = places.matrices * places.lines_per_matrix;
  std::vector<Step> all(static_cast<std::size_t>(lines * places.line));
  parallel_ranges(lines, 1, [&](std::int64_t begin, std::int64_t end, int) {
    std::vector<std::pair<float, float>> ends(static_cast<std::size_t>(places.line));
    for (std::int64_t i = begin; i < end; ++i) {
      constexpr float infinity = std::numeric_limits<float>::infinity();
      std::fill(ends.begin(), ends.end(), std::pair{infinity, -infinity});
      const auto [first, last] = places.rows_of(i);
      for (std::int64_t row = first; row < last; ++row) {
        for (std::int64_t column = 0; column < places.columns; ++column) {
          auto& [least, most] = ends[static_cast<std::size_t>(places.column_of(column))];
          const float value = original(row * places.columns + column);
          least = std::min(least, value);
          most = std::max(most, value);
        }
      }
      for (std::size_t j = 0; j < ends.size(); ++j) {
        all[static_cast<std::size_t>(i * places.line) + j] =
            step_of(ends[j].first, ends[j].second, weight.dtype, scale.grid);
      }
    }
  });
  if (scales.data != nullptr) {
    TCAST_CHECK(scales.dtype == DType::f32, "scales are f32");
    void* data = scales.data;
    for_each_run(
        runs_of(scale, rank), [&](std::int64_t whole, std::int64_t part, std::int64_t count) {
          for (std::int64_t i = 0; i < count; ++i) {
            static_cast<float*>(data)[part + i] = all[static_cast<std::size_t>(whole + i)].scale;
          }
        });
  }
  if (values.data == nullptr) return;
  const std::vector<Run> runs = runs_of(weight, rank);
  std::fill_n(values.data, values.bytes, std::byte{0});
  for_each_run(runs, [&](std::int64_t whole, std::int64_t part, std::int64_t count) {
    void* data = values.data;
    std::int64_t row = whole / places.columns;
    std::int64_t column = whole % places.columns;
    const Step* line = all.data() + places.line_of(row);
    for (std::int64_t i = 0; i < count; ++i) {
      if (column == places.columns) {
        column = 0;
        line = all.data() + places.line_of(++row);
      }
      const Step& step = line[places.column_of(column++)];
      const float quantized = quantize_value(original(whole + i), step, weight.dtype,
                                             scale.grid.zero_points.has_value());
      if (values.dtype == DType::i8) {
        static_cast<std::int8_t*>(data)[part + i] = static_cast<std::int8_t>(quantized);
      } else {
        store(quantized * step.scale, part + i, values);
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
