#include "tcast/exec/kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/bf16.h"

namespace tcast {
namespace {

using std::int64_t;
using Doubles = std::vector<double>;

double get(const Buffer& buffer, int64_t i) {
  const void* data = buffer.data;
  switch (buffer.dtype) {
    case DType::f32:
      return static_cast<double>(static_cast<const float*>(data)[i]);
    case DType::bf16:
      return static_cast<double>(to_float(static_cast<const Bf16*>(data)[i]));
    case DType::i8:
      return static_cast<const std::int8_t*>(data)[i];
    case DType::i32:
      return static_cast<const std::int32_t*>(data)[i];
    case DType::i64:
      return static_cast<double>(static_cast<const int64_t*>(data)[i]);
    default:
      break;
  }
  check_failed(__FILE__, __LINE__, "dtype", "no reference for this dtype");
}

void put(const Buffer& buffer, int64_t i, double value) {
  void* data = buffer.data;
  switch (buffer.dtype) {
    case DType::f32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      return;
    case DType::bf16:
      static_cast<Bf16*>(data)[i] = to_bf16(static_cast<float>(value));
      return;
    case DType::i8:
      static_cast<std::int8_t*>(data)[i] =
          static_cast<std::int8_t>(std::clamp(std::nearbyint(value), -127.0, 127.0));
      return;
    case DType::i32:
      static_cast<std::int32_t*>(data)[i] = static_cast<std::int32_t>(value);
      return;
    case DType::i64:
      static_cast<int64_t*>(data)[i] = static_cast<int64_t>(value);
      return;
    default:
      break;
  }
  check_failed(__FILE__, __LINE__, "dtype", "no reference for this dtype");
}

int64_t whole(const Buffer& buffer, int64_t i) { return static_cast<int64_t>(get(buffer, i)); }

struct Reference {
  const KernelArgs& args;

  const Buffer& x(std::size_t i) const { return args.inputs[i]; }
  const Buffer& y(std::size_t i) const { return args.outputs[i]; }

  void operator()(const MatMul& op) const {
    const MatMulStrides at(op);
    std::size_t next = 2;
    const std::size_t scales = op.weight_scales ? next++ : 0;
    const std::int64_t width = op.weight_transposed ? op.n : op.k;  // of w's rows in memory
    const std::size_t bias = op.bias ? next++ : 0;
    for (int64_t b = 0; b < op.batch; ++b) {
      for (int64_t j = 0; j < op.n; ++j) {
        Doubles w;
        for (int64_t k = 0; k < op.k; ++k) {
          const int64_t place =
              at.weight_offset + b * at.weight_batch + j * at.weight_n + k * at.weight_k;
          w.push_back(get(x(1), place));
          if (op.weight_scales) {
            w.back() *=
                get(x(scales), op.weight_scales->index(place / width, place % width, width));
          }
        }
        for (int64_t i = 0; i < op.m; ++i) {
          double sum = product(b * at.x_batch + i * at.x_row, w);
          if (op.activation_scales) sum *= get(x(next), op.activation_scales->index(i, 0, op.k));
          if (op.bias) sum += get(x(bias), op.bias_offset + j);
          put(y(0), b * at.y_batch + i * at.y_row + j, sum);
        }
      }
    }
  }

  /// Of the elements of input 0 from `first` on with `w`.
  double product(int64_t first, const Doubles& w) const {
    double sum = 0;
    for (std::size_t k = 0; k < w.size(); ++k)
      sum += get(x(0), first + static_cast<int64_t>(k)) * w[k];
    return sum;
  }

  void operator()(const GroupedMatMul& op) const {
    std::size_t next = 3;
    const std::size_t scales = op.weight_scales ? next++ : 0;
    const std::size_t biases = op.bias ? next++ : 0;
    for (int64_t i = 0; i < op.row_count() * op.n; ++i) put(y(0), i, 0);
    int64_t row = 0;
    for (int64_t expert = 0; expert < op.first_expert; ++expert) row += whole(x(2), expert);
    for (int64_t expert = 0; expert < op.experts; ++expert) {
      const int64_t begin = row;
      const int64_t end = row + whole(x(2), op.first_expert + expert);
      for (int64_t j = 0; begin < end && j < op.n; ++j) {
        Doubles w;
        for (int64_t k = 0; k < op.k; ++k) {
          w.push_back(get(x(1), (expert * op.n + j) * op.k + k));
          if (op.weight_scales) {
            w.back() *= get(x(scales),
                            expert * op.weight_scale_count() + op.weight_scales->index(j, k, op.k));
          }
        }
        for (row = begin; row < end; ++row) {
          double sum = product(row * op.k, w);
          if (op.activation_scales) sum *= get(x(next), op.activation_scales->index(row, 0, op.k));
          if (op.bias) sum += op.bias_scale * get(x(biases), expert * op.n + j);
          put(y(0), row * op.n + j, sum);
        }
      }
      row = end;
    }
  }

  /// Element of the cache: of the key, or of the value.
  double cached(int64_t request, int64_t position, int64_t head, int64_t i, bool value) const {
    const CacheView& cache = *args.cache;
    const CacheLayout& l = cache.layout;
    const int64_t block = cache.block_table[static_cast<std::size_t>(
        request * cache.blocks_per_request + position / l.block_tokens)];
    const int64_t slot = position % l.block_tokens;
    int64_t element = l.block_tokens * (block * l.width() + head * (l.qk_head_dim + l.v_head_dim));
    if (value && l.v_head_dim > 0) {
      element += l.block_tokens * l.qk_head_dim + slot * l.v_head_dim + i;
    } else {
      element += slot * l.qk_head_dim + i;
    }
    const double scale = l.dtype != DType::i8 ? 1
                         : value              ? static_cast<double>(cache.value_scale)
                                              : static_cast<double>(cache.key_scale);
    return get({cache.data, 0, l.dtype, {}}, element) * scale;
  }

  void operator()(const Attention& op) const {
    const int64_t group = op.heads / op.kv_heads;
    const int64_t total = op.context_length + op.query_length;
    for (int64_t token = 0; token < op.batch * op.query_length; ++token) {
      const int64_t request = token / op.query_length;
      const int64_t position = op.context_length + token % op.query_length;
      for (int64_t head = 0; head < op.heads; ++head) {
        Doubles scores(static_cast<std::size_t>(total), -std::numeric_limits<double>::infinity());
        double top =
            op.sinks ? get(x(op.paged ? 2 : 3), head) : -std::numeric_limits<double>::infinity();
        for (int64_t key = 0; key < total; ++key) {
          if (op.span.causal) {
            if (key > position) continue;
            if (op.span.window > 0 && position - key >= op.span.window) continue;
            if (op.span.chunk > 0 && key / op.span.chunk != position / op.span.chunk) continue;
          }
          double score = 0;
          for (int64_t i = 0; i < op.qk_head_dim; ++i) {
            const double key_element =
                op.paged ? cached(request, key, head / group, i, false)
                         : get(x(1), ((request * total + key) * op.kv_heads + head / group) *
                                             op.qk_head_dim +
                                         i);
            score += get(x(0), (token * op.heads + head) * op.qk_head_dim + i) * key_element;
          }
          score *= op.scale;
          if (op.softcap > 0) score = op.softcap * std::tanh(score / op.softcap);
          scores[static_cast<std::size_t>(key)] = score;
          top = std::max(top, score);
        }
        double sum = op.sinks ? std::exp(get(x(op.paged ? 2 : 3), head) - top) : 0;
        Doubles values(static_cast<std::size_t>(op.v_head_dim), 0);
        for (int64_t key = 0; key < total; ++key) {
          const double weight = std::exp(scores[static_cast<std::size_t>(key)] - top);
          if (weight == 0) continue;
          sum += weight;
          for (int64_t i = 0; i < op.v_head_dim; ++i) {
            values[static_cast<std::size_t>(i)] +=
                weight * (op.paged
                              ? cached(request, key, head / group, i, true)
                              : get(x(2), ((request * total + key) * op.kv_heads + head / group) *
                                                  op.v_head_dim +
                                              i));
          }
        }
        for (int64_t i = 0; i < op.v_head_dim; ++i) {
          put(y(0), (token * op.heads + head) * op.v_head_dim + i,
              values[static_cast<std::size_t>(i)] / sum);
        }
      }
    }
  }

  static Doubles softmax_of(Doubles values) {
    const double top = *std::max_element(values.begin(), values.end());
    double sum = 0;
    for (double& value : values) {
      value = top == -std::numeric_limits<double>::infinity() ? 1 : std::exp(value - top);
      sum += value;
    }
    for (double& value : values) value /= sum;
    return values;
  }

  Doubles row_of(const Buffer& buffer, int64_t row, int64_t columns) const {
    Doubles values;
    for (int64_t i = 0; i < columns; ++i) values.push_back(get(buffer, row * columns + i));
    return values;
  }

  void operator()(const Softmax& op) const {
    for (int64_t row = 0; row < op.rows; ++row) {
      Doubles scores = row_of(x(0), row, op.columns);
      if (op.sink_heads > 0) {
        scores.push_back(get(x(1), row / op.rows_per_head % op.sink_heads));
      }
      const Doubles values = softmax_of(std::move(scores));
      for (int64_t i = 0; i < op.columns; ++i) {
        put(y(0), row * op.columns + i, values[static_cast<std::size_t>(i)]);
      }
    }
  }

  void operator()(const Norm& op) const {
    const auto width = static_cast<double>(op.width);
    for (int64_t row = 0; row < op.rows; ++row) {
      const Doubles values = row_of(x(0), row, op.width);
      if (op.stage == NormStage::sum_squares) {
        double sum = 0;
        for (const double value : values) sum += value * value;
        put(y(0), row, sum);
        continue;
      }
      double mean = 0;
      if (op.kind == NormKind::layer) {
        mean = std::accumulate(values.begin(), values.end(), 0.0) / width;
      }
      double variance = 0;
      for (const double value : values) variance += (value - mean) * (value - mean) / width;
      if (op.stage == NormStage::scale) {
        variance = get(x(args.inputs.size() - 1), row) / (width * static_cast<double>(op.ranks));
      }
      for (int64_t i = 0; i < op.width; ++i) {
        double value =
            (values[static_cast<std::size_t>(i)] - mean) / std::sqrt(variance + op.epsilon);
        if (op.weight) value *= op.weight_offset + get(x(1), i);
        if (op.bias) value += get(x(op.weight ? 2 : 1), i);
        put(y(0), row * op.width + i, value);
      }
    }
  }

  static double apply(const Elementwise& op, double a, double b) {
    const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
    const auto silu = [](double v) { return v / (1 + std::exp(-v)); };
    const auto gelu = [](double v) { return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))); };
    const auto gelu_tanh = [](double v) {
      return 0.5 * v *
             (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v)));
    };
    switch (op.kind) {
      case ElementwiseKind::add:
      case ElementwiseKind::mask_add:
        return a + b;
      case ElementwiseKind::multiply:
        return a * b;
      case ElementwiseKind::scale:
        return a * op.constant;
      case ElementwiseKind::silu:
        return silu(a);
      case ElementwiseKind::gelu:
        return gelu(a);
      case ElementwiseKind::gelu_tanh:
        return gelu_tanh(a);
      case ElementwiseKind::relu:
        return std::max(a, 0.0);
      case ElementwiseKind::relu2:
        return std::max(a, 0.0) * std::max(a, 0.0);
      case ElementwiseKind::sigmoid:
        return sigmoid(a);
      case ElementwiseKind::quick_gelu:
        return a * sigmoid(quick_gelu_alpha * a);
      case ElementwiseKind::silu_mul:
        return silu(a) * b;
      case ElementwiseKind::gelu_mul:
        return gelu(a) * b;
      case ElementwiseKind::gelu_tanh_mul:
        return gelu_tanh(a) * b;
      case ElementwiseKind::relu_mul:
        return std::max(a, 0.0) * b;
      case ElementwiseKind::relu2_mul:
        return std::max(a, 0.0) * std::max(a, 0.0) * b;
      case ElementwiseKind::sigmoid_mul:
        return sigmoid(a) * b;
      case ElementwiseKind::quick_gelu_mul:
        return a * sigmoid(quick_gelu_alpha * a) * b;
      case ElementwiseKind::tanh_mul:
        return std::tanh(a) * b;
      case ElementwiseKind::negate:
        return -a;
      case ElementwiseKind::tanh:
        return std::tanh(a);
      case ElementwiseKind::clamp:
        return std::clamp(a, -op.constant, op.constant);
      case ElementwiseKind::clamped_swiglu: {
        const double gate = std::min(a, op.constant);
        return (std::clamp(b, -op.constant, op.constant) + 1) * gate /
               (1 + std::exp(-clamped_swiglu_alpha * gate));
      }
    }
    return 0;
  }

  void operator()(const Elementwise& op) const {
    if (op.packing != Packing::none) {
      for (int64_t i = 0; i < op.elements; ++i) {
        const int64_t row = i / op.width * 2 * op.width;
        const int64_t column = i % op.width;
        const bool halves = op.packing == Packing::halves;
        put(y(0), i,
            apply(op, get(x(0), row + (halves ? column : 2 * column)),
                  get(x(0), row + (halves ? op.width + column : 2 * column + 1))));
      }
      return;
    }
    for (int64_t i = 0; i < op.elements; ++i) {
      double b = 0;
      if (args.inputs.size() > 1) {
        int64_t place = i % op.second_elements;
        const Shape& from = x(1).shape;
        const Shape& to = x(0).shape;
        if (from.rank() > 0 && to.rank() > 0) {
          // PyTorch's rule: aligned at the right, sizes of 1 are stretched.
          int64_t rest = i;
          int64_t stride = 1;
          place = 0;
          for (int dim = 1; dim <= to.rank(); ++dim) {
            const int64_t coordinate = rest % to[to.rank() - dim];
            rest /= to[to.rank() - dim];
            if (dim > from.rank()) continue;
            if (from[from.rank() - dim] > 1) place += coordinate * stride;
            stride *= from[from.rank() - dim];
          }
        }
        b = get(x(1), place);
      }
      put(y(0), i, apply(op, get(x(0), i), b));
    }
  }

  void operator()(const Rotary& op) const {
    const int64_t half = op.rotary_dim / 2;
    for (int64_t token = 0; token < op.tokens; ++token) {
      for (int64_t head = 0; head < op.heads; ++head) {
        const int64_t first = (token * op.heads + head) * op.head_dim;
        for (int64_t i = 0; i < op.head_dim; ++i) {
          double value = get(x(0), first + i);
          const int64_t j = i - op.rotary_offset;
          if (j >= 0 && j < op.rotary_dim) {
            int64_t partner = j < half ? j + half : j - half;
            int64_t angle = j;
            double sign = j < half ? -1 : 1;
            if (op.interleaved) {
              partner = j ^ 1;
              angle = j / 2;
              sign = j % 2 == 0 ? -1 : 1;
            }
            value = value * get(x(1), token * op.rotary_dim + angle) +
                    sign * get(x(0), first + op.rotary_offset + partner) *
                        get(x(2), token * op.rotary_dim + angle);
          }
          put(y(0), first + i, value);
        }
      }
    }
  }

  void operator()(const RotaryTable& op) const {
    for (int64_t token = 0; token < op.tokens; ++token) {
      const int64_t position = whole(x(0), token);
      for (int64_t i = 0; i < op.dim; ++i) {
        for (std::size_t table = 0; table < 2; ++table) {
          double value = 0;
          if (op.cached) {
            value = get(x(table + 1), position * op.dim + i);
          } else {
            // The angle itself is a product of two floats, in f32.
            const float angle =
                static_cast<float>(position) * static_cast<float>(get(x(1), i % (op.dim / 2)));
            value = op.scale * (table == 0 ? std::cos(static_cast<double>(angle))
                                           : std::sin(static_cast<double>(angle)));
          }
          put(y(table), token * op.dim + i, value);
        }
      }
    }
  }

  void operator()(const Gather& op) const {
    for (int64_t row = 0; row < op.rows; ++row) {
      for (int64_t i = 0; i < op.width; ++i) {
        const int64_t index = whole(x(1), row);
        const bool held = index >= 0 && index < op.table_rows;
        put(y(0), row * op.width + i, held ? get(x(0), index * op.width + i) : 0);
      }
    }
  }

  void operator()(const CacheAppend& op) const {
    const CacheView& cache = *args.cache;
    const CacheLayout& l = cache.layout;
    const int64_t keys = l.kv_heads * l.qk_head_dim;
    for (int64_t token = 0; token < op.tokens; ++token) {
      const int64_t per_request = op.tokens / cache.batch;
      const int64_t position = cache.context_length + token % per_request;
      const int64_t block = cache.block_table[static_cast<std::size_t>(
          token / per_request * cache.blocks_per_request + position / l.block_tokens)];
      const int64_t slot = position % l.block_tokens;
      for (int64_t i = 0; i < op.width; ++i) {
        const bool key = i < keys;
        const int64_t dim = key ? l.qk_head_dim : l.v_head_dim;
        const int64_t head = (key ? i : i - keys) / dim;
        const int64_t place =
            l.block_tokens * (block * l.width() + head * (l.qk_head_dim + l.v_head_dim) +
                              (key ? 0 : l.qk_head_dim)) +
            slot * dim + (key ? i : i - keys) % dim;
        // The inputs before the cache stand side by side.
        std::size_t piece = 0;
        int64_t column = i;
        const auto width_of = [&](std::size_t input) {
          return x(input).bytes / bytes_of(op.tokens, op.input);
        };
        while (column >= width_of(piece)) column -= width_of(piece++);
        const double value = get(x(piece), token * width_of(piece) + column);
        const auto scale = static_cast<double>(key ? cache.key_scale : cache.value_scale);
        put({cache.data, 0, op.cache, {}}, place, op.cache == DType::i8 ? value / scale : value);
      }
    }
  }

  void operator()(const CacheRead& op) const {
    for (int64_t i = 0; i < op.batch * op.kv_heads * op.tokens * op.head_dim; ++i) {
      const int64_t row = i / op.head_dim;
      put(y(0), i,
          cached(row / op.tokens / op.kv_heads, row % op.tokens, row / op.tokens % op.kv_heads,
                 i % op.head_dim, op.values));
    }
  }

  void operator()(const Copy& op) const {
    if (op.parts[0].run == 0) {
      for (int64_t i = 0; i < op.written_elements; ++i) put(y(0), i, get(x(0), i));
      return;
    }
    for (std::size_t i = 0; i < 2; ++i) {
      const CopyPart& part = op.parts[i];
      for (int64_t j = 0; j < part.elements(); ++j) {
        const int64_t row = j / part.run;
        const int64_t at[3] = {row / part.sizes[2] / part.sizes[1],
                               row / part.sizes[2] % part.sizes[1], row % part.sizes[2]};
        int64_t source = part.source_offset + j % part.run;
        int64_t target = part.target_offset + j % part.run;
        for (std::size_t k = 0; k < 3; ++k) {
          source += at[k] * part.source_strides[k];
          target += at[k] * part.target_strides[k];
        }
        put(y(0), target, get(x(i), source));
      }
    }
  }

  /// Indices of the k largest, of equal ones the first.
  static std::vector<int64_t> largest(const Doubles& values, int64_t k) {
    std::vector<int64_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(k));
    return order;
  }

  void operator()(const Route& op) const {
    for (int64_t token = 0; token < op.tokens; ++token) {
      Doubles scores = row_of(x(0), token, op.experts);
      if (op.score == RouterScore::softmax) {
        scores = softmax_of(scores);
      } else {
        for (double& score : scores) score = 1 / (1 + std::exp(-score));
      }
      Doubles choice = scores;
      for (int64_t i = 0; op.correction_bias && i < op.experts; ++i) {
        choice[static_cast<std::size_t>(i)] += get(x(1), i);
      }
      const auto size = static_cast<std::size_t>(op.experts / op.groups);
      Doubles group_scores;
      for (std::size_t first = 0; first < choice.size(); first += size) {
        Doubles group(choice.begin() + static_cast<std::ptrdiff_t>(first),
                      choice.begin() + static_cast<std::ptrdiff_t>(first + size));
        std::sort(group.rbegin(), group.rend());
        group_scores.push_back(group[0] + (size > 1 && op.group_best > 1 ? group[1] : 0));
      }
      const std::vector<int64_t> groups = largest(group_scores, op.topk_groups);
      for (std::size_t i = 0; i < choice.size(); ++i) {
        if (std::find(groups.begin(), groups.end(), static_cast<int64_t>(i / size)) ==
            groups.end()) {
          choice[i] = -std::numeric_limits<double>::infinity();
        }
      }
      const std::vector<int64_t> best = largest(choice, op.top_k);
      double sum = 0;
      for (const int64_t i : best) sum += scores[static_cast<std::size_t>(i)];
      for (int64_t i = 0; i < op.top_k; ++i) {
        const int64_t expert = best[static_cast<std::size_t>(i)];
        put(y(0), token * op.top_k + i,
            scores[static_cast<std::size_t>(expert)] / (op.normalize ? sum : 1) * op.scale);
        put(y(1), token * op.top_k + i, static_cast<double>(expert));
      }
    }
  }

  void operator()(const TopK& op) const {
    for (int64_t row = 0; row < op.rows; ++row) {
      const Doubles values = row_of(x(0), row, op.columns);
      const std::vector<int64_t> best = largest(values, op.k);
      for (int64_t i = 0; i < op.k; ++i) {
        const int64_t index = best[static_cast<std::size_t>(i)];
        put(y(0), row * op.k + i, values[static_cast<std::size_t>(index)]);
        put(y(1), row * op.k + i, static_cast<double>(index));
      }
    }
  }

  /// Choices (token * per_token + i) in the order of their experts.
  static std::vector<int64_t> by_expert(const Buffer& indices, int64_t experts) {
    std::vector<int64_t> order;
    const int64_t choices = indices.bytes / bytes_of(1, indices.dtype);
    for (int64_t expert = 0; expert < experts; ++expert) {
      for (int64_t i = 0; i < choices; ++i) {
        if (whole(indices, i) == expert) order.push_back(i);
      }
    }
    return order;
  }

  void operator()(const Permute& op) const {
    if (op.expert >= 0) {
      const int64_t tokens = x(0).bytes / bytes_of(op.width, op.dtype);
      const int64_t per_token = x(1).bytes / bytes_of(1, x(1).dtype) / tokens;
      int64_t row = 0;
      for (int64_t i = 0; i < tokens * per_token; ++i) {
        if (whole(x(1), i) != op.expert) continue;
        for (int64_t j = 0; j < op.width; ++j) {
          put(y(0), row * op.width + j, get(x(0), i / per_token * op.width + j));
        }
        ++row;
      }
      return;
    }
    const int64_t experts = y(1).bytes / bytes_of(1, y(1).dtype);
    const int64_t choices = x(1).bytes / bytes_of(1, x(1).dtype);
    const std::vector<int64_t> order = by_expert(x(1), experts);
    for (std::size_t row = 0; row < order.size(); ++row) {
      const int64_t token = order[row] / (choices / op.tokens);
      for (int64_t i = 0; i < op.width; ++i) {
        put(y(0), static_cast<int64_t>(row) * op.width + i, get(x(0), token * op.width + i));
      }
    }
    for (int64_t expert = 0; expert < experts; ++expert) {
      int64_t count = 0;
      for (int64_t i = 0; i < choices; ++i) count += whole(x(1), i) == expert ? 1 : 0;
      put(y(1), expert, static_cast<double>(count));
    }
  }

  void operator()(const Combine& op) const {
    const int64_t choices = x(2).bytes / bytes_of(1, x(2).dtype);
    if (op.expert >= 0) {
      const int64_t per_token = choices / (x(3).bytes / bytes_of(op.width, op.dtype));
      int64_t row = 0;
      for (int64_t i = 0; i < choices; ++i) {
        if (whole(x(2), i) != op.expert) continue;
        for (int64_t j = 0; j < op.width; ++j) {
          const int64_t place = i / per_token * op.width + j;
          put(x(3), place, get(x(3), place) + get(x(1), i) * get(x(0), row * op.width + j));
        }
        ++row;
      }
      return;
    }
    int64_t experts = 0;
    for (int64_t i = 0; i < choices; ++i) experts = std::max(experts, whole(x(2), i) + 1);
    const std::vector<int64_t> order = by_expert(x(2), experts);
    const int64_t per_token = choices / op.tokens;
    for (int64_t token = 0; token < op.tokens; ++token) {
      for (int64_t i = 0; i < op.width; ++i) {
        double sum = 0;
        for (std::size_t row = 0; row < order.size(); ++row) {
          if (order[row] / per_token != token) continue;
          sum += get(x(1), order[row]) * get(x(0), static_cast<int64_t>(row) * op.width + i);
        }
        put(y(0), token * op.width + i, sum);
      }
    }
  }

  void operator()(const Quantize& op) const {
    const int64_t group = op.group > 0 ? op.group : op.columns;
    const int64_t groups = ceil_div(op.columns, group);
    for (int64_t row = 0; row < op.rows; ++row) {
      for (int64_t i = 0; i < groups; ++i) {
        const int64_t first = row * op.columns + i * group;
        const int64_t count = std::min(group, op.columns - i * group);
        double scale = op.group < 0 ? get(x(1), 0) : 0;
        if (op.group >= 0) {
          for (int64_t j = 0; j < count; ++j) {
            scale = std::max(scale, std::abs(get(x(0), first + j)) / 127);
          }
          put(y(1), row * groups + i, scale);
        }
        for (int64_t j = 0; j < count; ++j) {
          put(y(0), first + j, scale > 0 ? get(x(0), first + j) / scale : 0);
        }
      }
    }
  }

  void operator()(const Collective&) const { TCAST_CHECK(false, "no reference"); }
  void operator()(const CustomOp&) const { TCAST_CHECK(false, "no reference"); }
};

}  // namespace

void run_reference(const OpRecord& record, const KernelArgs& args) {
  std::visit(Reference{args}, record);
}

double number_at(const Buffer& buffer, std::int64_t i) { return get(buffer, i); }

}  // namespace tcast
