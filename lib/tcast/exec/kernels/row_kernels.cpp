#include <array>
#include <cmath>
#include <vector>

#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/threads.h"

// Operators that work on rows independently: softmax, norm, elementwise, rotary, quantize.

namespace tcast {
namespace {

/// Elements that are worth a thread of their own.
constexpr std::int64_t elements_per_thread = 16384;

std::int64_t row_grain(std::int64_t width) {
  return std::max<std::int64_t>(1, elements_per_thread / std::max<std::int64_t>(1, width));
}

class OwnKernel : public Kernel {
 protected:
  explicit OwnKernel(const KernelContext& context)
      : functions_(vector_functions(context.isa)), threads_(current_threads()) {
    implementation_ = own_implementation(context);
  }

  const VectorFunctions& functions_;
  int threads_;
};

class SoftmaxKernel final : public OwnKernel {
 public:
  SoftmaxKernel(const Softmax& op, const KernelContext& context) : OwnKernel(context), op_(op) {
    row_bytes_ = round_up(checked_mul(op.columns, 4, "softmax"), 64);
    scratch_bytes_ = checked_mul(row_bytes_, threads_, "softmax");
  }

  void run(const KernelArgs& args) override {
    const bool sinks = op_.sink_heads > 0;
    expect_operands(args, sinks ? 2 : 1, 1);
    expect(args.inputs[0], op_.dtype, op_.rows * op_.columns, "scores");
    expect(args.outputs[0], op_.dtype, op_.rows * op_.columns, "probabilities");
    with_element(op_.dtype, [&](auto element) {
      using T = decltype(element);
      parallel_ranges(
          op_.rows, row_grain(op_.columns), [&](std::int64_t begin, std::int64_t end, int thread) {
            ScratchLayout layout(args.scratch.data() + thread * row_bytes_);
            float* scratch = layout.take<float>(op_.columns);
            // Rows of one head at a time share their sink.
            for (std::int64_t row = begin; row < end;) {
              std::int64_t next = end;
              float sink = 0;
              if (sinks) {
                const std::int64_t head = row / op_.rows_per_head;
                next = std::min(end, (head + 1) * op_.rows_per_head);
                read_f32(functions_, args.inputs[1], head % op_.sink_heads, 1, &sink);
              }
              rows_of<T>(functions_)
                  .softmax(in<T>(args, 0) + row * op_.columns, out<T>(args, 0) + row * op_.columns,
                           next - row, op_.columns, sinks ? &sink : nullptr, scratch);
              row = next;
            }
          });
    });
  }

 private:
  Softmax op_;
  std::int64_t row_bytes_ = 0;
};

class NormKernel final : public OwnKernel {
 public:
  NormKernel(const Norm& op, const KernelContext& context) : OwnKernel(context), op_(op) {
    scratch_bytes_ = 2 * round_up(checked_mul(op.width, 4, "norm"), 64);
  }

  void run(const KernelArgs& args) override {
    expect(args.inputs[0], op_.dtype, op_.rows * op_.width, "x");
    if (op_.stage == NormStage::sum_squares) {
      sum_squares(args);
      return;
    }
    const bool scale = op_.stage == NormStage::scale;
    const std::size_t inputs =
        1u + (op_.weight ? 1u : 0u) + (op_.bias ? 1u : 0u) + (scale ? 1u : 0u);
    expect_operands(args, inputs, 1);
    expect(args.outputs[0], op_.dtype, op_.rows * op_.width, "y");
    const float* sums = nullptr;
    if (scale) {
      expect(args.inputs[inputs - 1], DType::f32, op_.rows, "sums of squares");
      sums = in<float>(args, inputs - 1);
    }
    ScratchLayout layout(args.scratch.data());
    float* weight = nullptr;
    float* bias = nullptr;
    std::size_t next = 1;
    if (op_.weight) {
      weight = layout.take<float>(op_.width);
      read_f32(functions_, args.inputs[next++], 0, op_.width, weight);
      const auto offset = static_cast<float>(op_.weight_offset);
      if (offset != 0) {
        for (std::int64_t i = 0; i < op_.width; ++i) weight[i] += offset;
      }
    }
    if (op_.bias) {
      bias = layout.take<float>(op_.width);
      read_f32(functions_, args.inputs[next], 0, op_.width, bias);
    }
    with_element(op_.dtype, [&](auto element) {
      using T = decltype(element);
      parallel_ranges(op_.rows, row_grain(op_.width),
                      [&](std::int64_t begin, std::int64_t end, int) {
                        rows_of<T>(functions_)
                            .norm(op_.kind, in<T>(args, 0) + begin * op_.width, weight, bias,
                                  out<T>(args, 0) + begin * op_.width, end - begin, op_.width,
                                  sums == nullptr ? nullptr : sums + begin, op_.width * op_.ranks,
                                  static_cast<float>(op_.epsilon));
                      });
    });
  }

 private:
  void sum_squares(const KernelArgs& args) const {
    expect_operands(args, 1, 1);
    expect(args.outputs[0], DType::f32, op_.rows, "sums of squares");
    with_element(op_.dtype, [&](auto element) {
      using T = decltype(element);
      parallel_ranges(op_.rows, row_grain(op_.width),
                      [&](std::int64_t begin, std::int64_t end, int) {
                        rows_of<T>(functions_)
                            .sum_squares(in<T>(args, 0) + begin * op_.width,
                                         out<float>(args, 0) + begin, end - begin, op_.width);
                      });
    });
  }

  Norm op_;
};

/// How the second operand is stretched over the first, from the shapes, aligned at the right as in
/// PyTorch: rows of `width` elements; where row r's part of b begins; one value of b per row.
struct Broadcast {
  std::int64_t width = 1;
  bool one_value = false;
  /// Of the dimensions in front of the last one, innermost first.
  std::size_t outer = 0;
  std::array<std::int64_t, Shape::max_rank> sizes{};
  std::array<std::int64_t, Shape::max_rank> strides{};

  static Broadcast from_shapes(const Shape& a, const Shape& b) {
    Broadcast result;
    result.width = a[a.rank() - 1];
    result.one_value = b[b.rank() - 1] == 1 && result.width > 1;
    std::int64_t stride = b[b.rank() - 1];
    // From the second last dimension outwards.
    for (int i = 1; i < a.rank(); ++i) {
      const auto place = static_cast<std::size_t>(i - 1);
      const std::int64_t size = i < b.rank() ? b[b.rank() - 1 - i] : 1;
      result.sizes[place] = a[a.rank() - 1 - i];
      result.strides[place] = size == 1 ? 0 : stride;
      TCAST_CHECK(size == 1 || size == result.sizes[place],
                  fmt::format("{} does not stretch to {}", to_string(b), to_string(a)));
      stride *= size;
      result.outer = place + 1;
    }
    TCAST_CHECK(b.rank() <= a.rank() && (result.one_value || b[b.rank() - 1] == result.width),
                fmt::format("{} does not stretch to {}", to_string(b), to_string(a)));
    return result;
  }
  /// Without shapes: b is repeated as a whole.
  static Broadcast repeated(std::int64_t second) {
    Broadcast result;
    result.width = second;
    return result;
  }

  std::int64_t offset(std::int64_t row) const {
    std::int64_t result = 0;
    for (std::size_t i = 0; i < outer; ++i) {
      result += row % sizes[i] * strides[i];
      row /= sizes[i];
    }
    return result;
  }
};

class ElementwiseKernel final : public OwnKernel {
 public:
  ElementwiseKernel(const Elementwise& op, const KernelContext& context)
      : OwnKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    if (op_.packing != Packing::none) {
      expect_operands(args, 1, 1);
      expect(args.inputs[0], op_.dtype, 2 * op_.elements, "both operands");
      expect(args.outputs[0], op_.dtype, op_.elements, "result");
      with_element(op_.dtype, [&](auto element) { run_packed<decltype(element)>(args); });
      return;
    }
    const bool two = takes_two(op_.kind);
    expect_operands(args, two ? 2 : 1, 1);
    expect(args.inputs[0], op_.dtype, op_.elements, "first operand");
    expect(args.outputs[0], op_.dtype, op_.elements, "result");
    if (two) expect(args.inputs[1], op_.dtype, op_.second_elements, "second operand");
    with_element(op_.dtype, [&](auto element) {
      if (!two || op_.second_elements == op_.elements) {
        run_flat<decltype(element)>(args, two);
      } else {
        run_broadcast<decltype(element)>(args);
      }
    });
  }

 private:
  template <class T>
  void run_flat(const KernelArgs& args, bool two) const {
    parallel_ranges(op_.elements, elements_per_thread,
                    [&](std::int64_t begin, std::int64_t end, int) {
                      const T* a = in<T>(args, 0) + begin;
                      const T* b = two ? in<T>(args, 1) + begin : a;
                      rows_of<T>(functions_)
                          .elementwise(op_.kind, a, b, out<T>(args, 0) + begin, end - begin,
                                       static_cast<float>(op_.constant));
                    });
  }

  template <class T>
  void run_packed(const KernelArgs& args) const {
    const auto constant = static_cast<float>(op_.constant);
    const auto& rows = rows_of<T>(functions_);
    parallel_ranges(op_.elements / op_.width, row_grain(2 * op_.width),
                    [&](std::int64_t begin, std::int64_t end, int) {
                      for (std::int64_t row = begin; row < end; ++row) {
                        const T* x = in<T>(args, 0) + row * 2 * op_.width;
                        T* y = out<T>(args, 0) + row * op_.width;
                        if (op_.packing == Packing::halves) {
                          rows.elementwise(op_.kind, x, x + op_.width, y, op_.width, constant);
                          continue;
                        }
                        // Pairs are taken apart a piece at a time.
                        constexpr std::int64_t piece = 256;
                        T a[piece];
                        T b[piece];
                        for (std::int64_t first = 0; first < op_.width; first += piece) {
                          const std::int64_t count = std::min(piece, op_.width - first);
                          for (std::int64_t i = 0; i < count; ++i) {
                            a[i] = x[2 * (first + i)];
                            b[i] = x[2 * (first + i) + 1];
                          }
                          rows.elementwise(op_.kind, a, b, y + first, count, constant);
                        }
                      }
                    });
  }

  template <class T>
  void run_broadcast(const KernelArgs& args) const {
    const Shape& a_shape = args.inputs[0].shape;
    const Shape& b_shape = args.inputs[1].shape;
    const Broadcast broadcast = a_shape.rank() > 0 && b_shape.rank() > 0
                                    ? Broadcast::from_shapes(a_shape, b_shape)
                                    : Broadcast::repeated(op_.second_elements);
    const std::int64_t width = broadcast.width;
    parallel_ranges(op_.elements / width, row_grain(width),
                    [&](std::int64_t begin, std::int64_t end, int) {
                      for (std::int64_t row = begin; row < end; ++row) {
                        const T* a = in<T>(args, 0) + row * width;
                        const T* b = in<T>(args, 1) + broadcast.offset(row);
                        T* y = out<T>(args, 0) + row * width;
                        const auto constant = static_cast<float>(op_.constant);
                        if (broadcast.one_value) {
                          rows_of<T>(functions_)
                              .elementwise_scalar(op_.kind, a, to_float(*b), y, width, constant);
                        } else {
                          rows_of<T>(functions_).elementwise(op_.kind, a, b, y, width, constant);
                        }
                      }
                    });
  }

  Elementwise op_;
};

class RotaryKernel final : public OwnKernel {
 public:
  RotaryKernel(const Rotary& op, const KernelContext& context) : OwnKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    expect_operands(args, 3, 1);
    const std::int64_t row = op_.heads * op_.head_dim;
    expect(args.inputs[0], op_.dtype, op_.tokens * row, "x");
    expect(args.inputs[1], op_.dtype, op_.tokens * op_.rotary_dim, "cos");
    expect(args.inputs[2], op_.dtype, op_.tokens * op_.rotary_dim, "sin");
    expect(args.outputs[0], op_.dtype, op_.tokens * row, "y");
    with_element(op_.dtype, [&](auto element) {
      using T = decltype(element);
      parallel_ranges(op_.tokens, row_grain(row), [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t token = begin; token < end; ++token) {
          const T* cos = in<T>(args, 1) + token * op_.rotary_dim;
          const T* sin = in<T>(args, 2) + token * op_.rotary_dim;
          for (std::int64_t head = 0; head < op_.heads; ++head) {
            const T* x = in<T>(args, 0) + token * row + head * op_.head_dim;
            T* y = out<T>(args, 0) + token * row + head * op_.head_dim;
            if (y != x) std::copy_n(x, op_.rotary_offset, y);
            rows_of<T>(functions_)
                .rotate(x + op_.rotary_offset, cos, sin, y + op_.rotary_offset,
                        op_.head_dim - op_.rotary_offset, op_.rotary_dim, op_.interleaved);
          }
        }
      });
    });
  }

 private:
  Rotary op_;
};

/// Inputs: positions, and the table's cos and sin (cached) or the inverse frequencies [dim / 2].
/// Both halves of a row hold the same angles, as HuggingFace concatenates them.
class RotaryTableKernel final : public OwnKernel {
 public:
  RotaryTableKernel(const RotaryTable& op, const KernelContext& context)
      : OwnKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    expect_operands(args, op_.cached ? 3 : 2, 2);
    expect_index(args.inputs[0], op_.tokens, "positions");
    for (const Buffer& result : args.outputs.first(2)) {
      expect(result, op_.dtype, op_.tokens * op_.dim, "rotary table");
    }
    if (op_.cached) {
      expect(args.inputs[1], op_.dtype, op_.table_positions * op_.dim, "cos table");
      expect(args.inputs[2], op_.dtype, op_.table_positions * op_.dim, "sin table");
      look_up(args);
    } else {
      expect(args.inputs[1], DType::f32, op_.dim / 2, "inverse frequencies");
      with_element(op_.dtype, [&](auto element) { compute<decltype(element)>(args); });
    }
  }

 private:
  void look_up(const KernelArgs& args) const {
    const std::int64_t row = bytes_of(op_.dim, op_.dtype);
    parallel_ranges(op_.tokens, row_grain(op_.dim), [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t token = begin; token < end; ++token) {
        const std::int64_t position = index_at(args.inputs[0], token);
        TCAST_CHECK(position >= 0 && position < op_.table_positions, "position outside the table");
        for (std::size_t i = 0; i < 2; ++i) {
          std::copy_n(args.inputs[i + 1].data + position * row, row,
                      args.outputs[i].data + token * row);
        }
      }
    });
  }

  template <class T>
  void compute(const KernelArgs& args) const {
    const auto* frequency = in<float>(args, 1);
    const std::int64_t half = op_.dim / 2;
    const auto scale = static_cast<float>(op_.scale);
    parallel_ranges(op_.tokens, row_grain(32 * op_.dim),
                    [&](std::int64_t begin, std::int64_t end, int) {
                      for (std::int64_t token = begin; token < end; ++token) {
                        const auto position = static_cast<float>(index_at(args.inputs[0], token));
                        T* cos = out<T>(args, 0) + token * op_.dim;
                        T* sin = out<T>(args, 1) + token * op_.dim;
                        for (std::int64_t i = 0; i < half; ++i) {
                          const float angle = position * frequency[i];
                          if constexpr (std::is_same_v<T, float>) {
                            cos[i] = cos[half + i] = std::cos(angle) * scale;
                            sin[i] = sin[half + i] = std::sin(angle) * scale;
                          } else {
                            cos[i] = cos[half + i] = to_bf16(std::cos(angle) * scale);
                            sin[i] = sin[half + i] = to_bf16(std::sin(angle) * scale);
                          }
                        }
                      }
                    });
  }

  RotaryTable op_;
};

/// A fixed scale comes as input 1, one f32.
class QuantizeKernel final : public OwnKernel {
 public:
  QuantizeKernel(const Quantize& op, const KernelContext& context) : OwnKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    const bool fixed = op_.group < 0;
    expect_operands(args, fixed ? 2 : 1, fixed ? 1 : 2);
    const std::int64_t group = op_.group > 0 ? op_.group : op_.columns;
    const std::int64_t groups = ceil_div(op_.columns, group);
    expect(args.inputs[0], op_.from, op_.rows * op_.columns, "x");
    expect(args.outputs[0], op_.to, op_.rows * op_.columns, "y");
    float fixed_scale = 0;
    if (fixed) {
      read_f32(functions_, args.inputs[1], 0, 1, &fixed_scale);
    } else {
      expect(args.outputs[1], DType::f32, op_.rows * groups, "scales");
    }
    with_element(op_.from, [&](auto element) {
      using T = decltype(element);
      parallel_ranges(
          op_.rows, row_grain(op_.columns), [&](std::int64_t begin, std::int64_t end, int) {
            for (std::int64_t row = begin; row < end; ++row) {
              for (std::int64_t i = 0; i < groups; ++i) {
                const std::int64_t first = row * op_.columns + i * group;
                const std::int64_t count = std::min(group, op_.columns - i * group);
                const float scale =
                    rows_of<T>(functions_)
                        .quantize(in<T>(args, 0) + first, out<std::int8_t>(args, 0) + first, count,
                                  fixed_scale);
                if (!fixed) out<float>(args, 1)[row * groups + i] = scale;
              }
            }
          });
    });
  }

 private:
  Quantize op_;
};

}  // namespace

KernelResult make_softmax(const Softmax& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.rows <= 0 || op.columns <= 0) return unsupported("empty softmax");
  bytes_of(checked_mul(op.rows, op.columns, "softmax"), DType::f32);
  return {std::make_unique<SoftmaxKernel>(op, context), {}};
}

KernelResult make_norm(const Norm& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.rows <= 0 || op.width <= 0) return unsupported("empty norm");
  bytes_of(checked_mul(op.rows, op.width, "norm"), DType::f32);
  return {std::make_unique<NormKernel>(op, context), {}};
}

KernelResult make_elementwise(const Elementwise& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.elements <= 0) return unsupported("empty elementwise");
  bytes_of(op.elements, DType::f32);
  if (op.packing != Packing::none) {
    if (!takes_two(op.kind) || op.width <= 0 || op.elements % op.width != 0) {
      return unsupported(fmt::format("packed operands in rows of {}", op.width));
    }
    return {std::make_unique<ElementwiseKernel>(op, context), {}};
  }
  if (takes_two(op.kind) && (op.second_elements <= 0 || op.elements % op.second_elements != 0)) {
    return unsupported(fmt::format("a second operand of {} elements does not divide {}",
                                   op.second_elements, op.elements));
  }
  return {std::make_unique<ElementwiseKernel>(op, context), {}};
}

KernelResult make_rotary(const Rotary& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.tokens <= 0 || op.heads <= 0 || op.head_dim <= 0) return unsupported("empty rotary");
  if (op.rotary_dim < 0 || op.rotary_dim > op.head_dim || op.rotary_dim % 2 != 0) {
    return unsupported(
        fmt::format("{} elements of a head of {} to rotate", op.rotary_dim, op.head_dim));
  }
  bytes_of(checked_mul(checked_mul(op.tokens, op.heads, "rotary"), op.head_dim, "rotary"),
           DType::f32);
  return {std::make_unique<RotaryKernel>(op, context), {}};
}

KernelResult make_rotary_table(const RotaryTable& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.tokens <= 0 || op.dim <= 0 || op.dim % 2 != 0) return unsupported("empty rotary table");
  if (op.cached && op.table_positions <= 0) return unsupported("empty rotary table");
  bytes_of(checked_mul(std::max(op.tokens, op.table_positions), op.dim, "rotary table"),
           DType::f32);
  return {std::make_unique<RotaryTableKernel>(op, context), {}};
}

KernelResult make_quantize(const Quantize& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.from); !reason.empty()) return unsupported(reason);
  if (op.to != DType::i8) {
    return unsupported(fmt::format("no kernel that quantizes to {}", short_name_of(op.to)));
  }
  if (op.rows <= 0 || op.columns <= 0) return unsupported("empty quantize");
  bytes_of(checked_mul(op.rows, op.columns, "quantize"), DType::f32);
  return {std::make_unique<QuantizeKernel>(op, context), {}};
}

}  // namespace tcast
