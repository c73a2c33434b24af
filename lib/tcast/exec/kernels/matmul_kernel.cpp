#include <memory>
#include <optional>
#include <vector>

#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/kernels/onednn_product.h"
#include "tcast/exec/threads.h"

// Matrix products. Floating point and int8 * int8 run in oneDNN, the latter to int32 with our own
// epilogue: oneDNN 2.6 falls to its reference code, a thousand times slower, for scales that are
// known only at run time. Weight-only int8 is our own for few rows (a matrix-vector product that
// reads one byte per weight) and oneDNN after widening a strip of the weight for many.

namespace tcast {
namespace {

using dnnl::memory;
using onednn::Product;
using onednn::ProductShape;

/// Where a product's optional operands stand.
struct OperandPlaces {
  std::size_t weight_scales = 0;
  std::size_t bias = 0;
  std::size_t activation_scales = 0;
};

OperandPlaces places_of(const MatMul& op) {
  OperandPlaces places;
  std::size_t next = 2;
  if (op.weight_scales) places.weight_scales = next++;
  if (op.bias) places.bias = next++;
  if (op.activation_scales) places.activation_scales = next++;
  return places;
}

class MatMulBase : public Kernel {
 protected:
  explicit MatMulBase(const MatMul& op, const KernelContext& context)
      : op_(op), places_(places_of(op)), functions_(vector_functions(context.isa)) {}

  void check(const KernelArgs& args) const {
    expect_operands(args, 2, 1);
    const MatMulStrides at(op_);
    expect(args.inputs[0], op_.input, at.x_extent, "x");
    if (packed_bytes_ > 0) {
      TCAST_CHECK(args.inputs[1].bytes >= packed_bytes_, "the weight is not packed");
    } else {
      expect(args.inputs[1], op_.weight, at.weight_extent, "weight");
    }
    expect(args.outputs[0], op_.output, at.y_extent, "y");
  }

  /// The bias in f32, or null without one.
  const float* read_bias(const KernelArgs& args, float* scratch) const {
    if (!op_.bias) return nullptr;
    read_f32(functions_, args.inputs[places_.bias], op_.bias_offset, op_.n, scratch);
    return scratch;
  }

  MatMul op_;
  OperandPlaces places_;
  const VectorFunctions& functions_;
};

void convert(const VectorFunctions& functions, const Buffer& from, std::int64_t count, DType to,
             void* result) {
  parallel_ranges(count, 16384, [&](std::int64_t begin, std::int64_t end, int) {
    if (to == DType::f32) {
      read_f32(functions, from, begin, end - begin, static_cast<float*>(result) + begin);
    } else {
      TCAST_CHECK(from.dtype == DType::f32 && to == DType::bf16, "conversion");
      functions.bf16.from_f32(static_cast<const float*>(static_cast<void*>(from.data)) + begin,
                              static_cast<Bf16*>(result) + begin, end - begin);
    }
  });
}

/// A parameter that is a whole matrix is packed; parts of one are read where they lie.
bool packs(const MatMul& op) {
  return op.weight_is_parameter && op.weight_offset == 0 && op.weight_batch_stride == 0;
}

/// Floating point times floating point.
class FloatMatMul final : public MatMulBase {
 public:
  FloatMatMul(const MatMul& op, const KernelContext& context, Product product)
      : MatMulBase(op, context), product_(std::move(product)) {
    implementation_ = product_.implementation();
    if (packs(op)) {
      packed_bytes_ = product_.weight_bytes();
      packed_layout_ = onednn::layout_key(product_.weights_desc());
    }
    Scratch scratch;
    ScratchLayout layout;
    place(layout, scratch);
    scratch_bytes_ = layout.used();
  }

  void pack_weight(const Buffer& plain, const Buffer& packed) override {
    if (packed_bytes_ == 0) return Kernel::pack_weight(plain, packed);
    onednn::pack_matrix(op_, plain, product_.weights_desc(), packed);
  }

  void run(const KernelArgs& args) override {
    check(args);
    Scratch scratch;
    ScratchLayout layout(args.scratch.data());
    place(layout, scratch);
    const void* x = args.inputs[0].data;
    if (op_.input != op_.compute) {
      convert(functions_, args.inputs[0], MatMulStrides(op_).x_extent, op_.compute, scratch.input);
      x = scratch.input;
    }
    const std::byte* w = args.inputs[1].data;
    if (!packs(op_)) {
      if (op_.weight != op_.compute) {
        convert(functions_, args.inputs[1], MatMulStrides(op_).weight_extent, op_.compute,
                scratch.weight);
        w = scratch.weight;
      }
      w += bytes_of(op_.weight_offset, op_.compute);
    }
    product_.run(x, w, read_bias(args, scratch.bias), args.outputs[0].data, scratch.product);
  }

 private:
  struct Scratch {
    std::byte* input = nullptr;
    std::byte* weight = nullptr;
    std::byte* product = nullptr;
    float* bias = nullptr;
  };

  void place(ScratchLayout& layout, Scratch& scratch) const {
    scratch.product = layout.take<std::byte>(product_.scratch_bytes());
    if (op_.bias) scratch.bias = layout.take<float>(op_.n);
    if (op_.input != op_.compute) {
      scratch.input = layout.take<std::byte>(bytes_of(MatMulStrides(op_).x_extent, op_.compute));
    }
    if (!packs(op_) && op_.weight != op_.compute) {
      scratch.weight =
          layout.take<std::byte>(bytes_of(MatMulStrides(op_).weight_extent, op_.compute));
    }
  }

  Product product_;
};

/// Few rows times a weight in blocks of columns: reads the packed weight of the other rows' product
/// at the speed of memory, which oneDNN 2.6's products of one row stay far below (11 of 20 GB/s on
/// a Sapphire Rapids with two cores).
class FewRowsMatMul final : public MatMulBase {
 public:
  FewRowsMatMul(const MatMul& op, const KernelContext& context, const memory::desc& weights,
                std::int64_t rows)
      : MatMulBase(op, context), weights_(weights), rows_(rows) {
    implementation_ = own_implementation(context);
    packed_bytes_ = static_cast<std::int64_t>(weights_.get_size());
    packed_layout_ = onednn::layout_key(weights_);
    threads_ = current_threads();
    scratch_bytes_ = round_up(op.n * 4, 64) + threads_ * sums_bytes;
  }

  /// Empty when the shape or the layout is another one.
  static std::unique_ptr<Kernel> make(const MatMul& op, const KernelContext& context,
                                      const memory::desc& weights) {
    const bool bf16 = op.compute == DType::bf16;
    std::int64_t rows = 0;
    if (op.m > few_rows || op.batch != 1 || !packs(op) || op.input != op.compute ||
        !onednn::is_column_blocked(weights, bf16 ? 2 : 1, rows)) {
      return nullptr;
    }
    if (bf16 && vector_functions(context.isa).column_block_bf16 == nullptr) return nullptr;
    return std::make_unique<FewRowsMatMul>(op, context, weights, rows);
  }

  void pack_weight(const Buffer& plain, const Buffer& packed) override {
    onednn::pack_matrix(op_, plain, weights_, packed);
  }

  void run(const KernelArgs& args) override {
    check(args);
    ScratchLayout layout(args.scratch.data());
    const float* bias = read_bias(args, layout.take<float>(op_.n));
    std::byte* const sums = args.scratch.data() + round_up(op_.n * 4, 64);
    with_element(op_.compute, [&](auto element) {
      using T = decltype(element);
      const std::int64_t x_row = MatMulStrides(op_).x_row;
      parallel_ranges(ceil_div(op_.n, block), 1,
                      [&](std::int64_t begin, std::int64_t end, int thread) {
                        void* memory_of_thread = sums + thread * sums_bytes;
                        float* c = static_cast<float*>(memory_of_thread);
                        for (std::int64_t i = begin; i < end; ++i) {
                          const T* w = in<T>(args, 1) + i * rows_ * block;
                          if constexpr (std::is_same_v<T, Bf16>) {
                            functions_.column_block_bf16(static_cast<int>(op_.m), op_.k,
                                                         in<T>(args, 0), x_row, w, c);
                          } else {
                            functions_.column_block_f32(static_cast<int>(op_.m), op_.k,
                                                        in<T>(args, 0), x_row, w, c);
                          }
                          write(args, c, bias, i * block);
                        }
                      });
    });
  }

 private:
  static constexpr std::int64_t block = 64;
  /// A thread's results, a page apart from those of the others.
  static constexpr std::int64_t sums_bytes = 4096;

  void write(const KernelArgs& args, float* c, const float* bias, std::int64_t first) const {
    const std::int64_t count = std::min(block, op_.n - first);
    for (std::int64_t row = 0; row < op_.m; ++row) {
      float* line = c + row * block;
      if (bias != nullptr) {
        for (std::int64_t i = 0; i < count; ++i) line[i] += bias[first + i];
      }
      with_element(op_.output, [&](auto element) {
        using T = decltype(element);
        rows_of<T>(functions_)
            .from_f32(line, out<T>(args, 0) + row * MatMulStrides(op_).y_row + first, count);
      });
    }
  }

  memory::desc weights_;
  std::int64_t rows_;  ///< k as the layout pads it
  int threads_;
};

/// int8 times int8: exact sums in int32, then scales and bias.
class IntegerMatMul final : public MatMulBase {
 public:
  IntegerMatMul(const MatMul& op, const KernelContext& context, Product product)
      : MatMulBase(op, context), product_(std::move(product)) {
    implementation_ = product_.implementation();
    packed_bytes_ = product_.weight_bytes();
    packed_layout_ = onednn::layout_key(product_.weights_desc());
    Scratch scratch;
    ScratchLayout layout;
    place(layout, scratch);
    scratch_bytes_ = layout.used();
  }

  void pack_weight(const Buffer& plain, const Buffer& packed) override {
    expect(plain, DType::i8, op_.n * op_.k, "weight");
    TCAST_CHECK(packed.bytes >= packed_bytes_, "packed weight");
    onednn::pack_matrix(op_, plain, product_.weights_desc(), packed);
  }

  void run(const KernelArgs& args) override {
    check(args);
    Scratch scratch;
    ScratchLayout layout(args.scratch.data());
    place(layout, scratch);
    product_.run(args.inputs[0].data, args.inputs[1].data, nullptr, scratch.sums, scratch.product);
    const float* bias = read_bias(args, scratch.bias);
    const float* scales = nullptr;
    float common = 1;
    if (op_.weight_scales && op_.weight_scales->is_per_tensor()) {
      read_f32(functions_, args.inputs[places_.weight_scales], 0, 1, &common);
    } else if (op_.weight_scales) {
      read_f32(functions_, args.inputs[places_.weight_scales], 0, op_.n, scratch.scales);
      scales = scratch.scales;
    }
    with_element(op_.output, [&](auto element) {
      using T = decltype(element);
      T* y = out<T>(args, 0);
      const std::int64_t grain = std::max<std::int64_t>(1, 16384 / op_.n);
      parallel_ranges(op_.m, grain, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t row = begin; row < end; ++row) {
          float row_scale = 1;
          if (op_.activation_scales) {
            read_f32(functions_, args.inputs[places_.activation_scales],
                     op_.activation_scales->is_per_tensor() ? 0 : row, 1, &row_scale);
          }
          rows_of<T>(functions_)
              .scale_i32(scratch.sums + row * op_.n, scales, row_scale * common, bias,
                         y + row * op_.n, op_.n);
        }
      });
    });
  }

 private:
  struct Scratch {
    std::byte* product = nullptr;
    std::int32_t* sums = nullptr;
    float* scales = nullptr;
    float* bias = nullptr;
  };

  void place(ScratchLayout& layout, Scratch& scratch) const {
    scratch.product = layout.take<std::byte>(product_.scratch_bytes());
    scratch.sums = layout.take<std::int32_t>(checked_mul(op_.m, op_.n, "matmul"));
    if (op_.weight_scales) scratch.scales = layout.take<float>(op_.n);
    if (op_.bias) scratch.bias = layout.take<float>(op_.n);
  }

  Product product_;
};

/// Rows up to which reading a byte per weight wins over widening the weight for oneDNN.
constexpr std::int64_t few_rows_i8 = 8;
/// Channels of the weight that are widened at a time.
constexpr std::int64_t strip_channels = 512;

/// int8 weights, floating-point activations and arithmetic.
class WeightOnlyMatMul final : public MatMulBase {
 public:
  WeightOnlyMatMul(const MatMul& op, const KernelContext& context, std::optional<Product> strip,
                   std::optional<Product> last)
      : MatMulBase(op, context), strip_(std::move(strip)), last_(std::move(last)) {
    implementation_ = own_implementation(context);
    if (strip_) implementation_ += "+" + strip_->implementation();
    Scratch scratch;
    ScratchLayout layout;
    place(layout, scratch);
    scratch_bytes_ = layout.used();
  }

  void run(const KernelArgs& args) override {
    check(args);
    Scratch scratch;
    ScratchLayout layout(args.scratch.data());
    place(layout, scratch);
    if (op_.weight_scales) {
      read_f32(functions_, args.inputs[places_.weight_scales], 0, op_.weight_scale_count(),
               scratch.scales);
    }
    const float* bias = read_bias(args, scratch.bias);
    if (strip_) {
      with_element(op_.compute,
                   [&](auto element) { run_widened<decltype(element)>(args, scratch, bias); });
    } else {
      with_element(op_.output,
                   [&](auto element) { run_direct<decltype(element)>(args, scratch, bias); });
    }
  }

 private:
  struct Scratch {
    float* scales = nullptr;
    float* bias = nullptr;
    float* input = nullptr;
    std::byte* converted = nullptr;
    std::byte* strip = nullptr;
    std::byte* product = nullptr;
  };

  void place(ScratchLayout& layout, Scratch& scratch) const {
    if (op_.weight_scales) scratch.scales = layout.take<float>(op_.weight_scale_count());
    if (op_.bias) scratch.bias = layout.take<float>(op_.n);
    if (strip_) {
      const std::int64_t channels = std::min(op_.n, strip_channels);
      scratch.strip = layout.take<std::byte>(bytes_of(channels * op_.k, op_.compute));
      scratch.product = layout.take<std::byte>(
          std::max(strip_->scratch_bytes(), last_ ? last_->scratch_bytes() : 0));
      if (op_.input != op_.compute) {
        scratch.converted = layout.take<std::byte>(bytes_of(op_.m * op_.k, op_.compute));
      }
    } else {
      scratch.input = layout.take<float>(op_.m * op_.k);
    }
  }

  float scale_at(const Scratch& scratch, std::int64_t row, std::int64_t column) const {
    return op_.weight_scales ? scratch.scales[op_.weight_scales->index(row, column, op_.k)] : 1;
  }
  /// Columns that share a scale.
  std::int64_t block_columns() const {
    const bool whole = !op_.weight_scales || op_.weight_scales->block_columns == 0;
    return whole ? op_.k : op_.weight_scales->block_columns;
  }

  template <class T>
  void run_direct(const KernelArgs& args, const Scratch& scratch, const float* bias) {
    convert(functions_, args.inputs[0], op_.m * op_.k, DType::f32, scratch.input);
    const auto* w = in<std::int8_t>(args, 1);
    T* y = out<T>(args, 0);
    const std::int64_t grain = std::max<std::int64_t>(1, 65536 / op_.k);
    parallel_ranges(op_.n, grain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t channel = begin; channel < end; ++channel) {
        for (std::int64_t row = 0; row < op_.m; row += 8) {
          const int rows = static_cast<int>(std::min<std::int64_t>(8, op_.m - row));
          float totals[8] = {};
          float sums[8];
          for (std::int64_t k = 0; k < op_.k; k += block_columns()) {
            functions_.dot_i8(scratch.input + row * op_.k + k, op_.k, rows, w + channel * op_.k + k,
                              std::min(block_columns(), op_.k - k), sums);
            const float scale = scale_at(scratch, channel, k);
            for (int i = 0; i < rows; ++i) totals[i] += sums[i] * scale;
          }
          for (int i = 0; i < rows; ++i) {
            const float value = totals[i] + (bias != nullptr ? bias[channel] : 0.0f);
            T* place = y + (row + i) * op_.n + channel;
            if constexpr (std::is_same_v<T, float>) {
              *place = value;
            } else {
              *place = to_bf16(value);
            }
          }
        }
      }
    });
  }

  template <class T>
  void run_widened(const KernelArgs& args, const Scratch& scratch, const float* bias) {
    const void* x = args.inputs[0].data;
    if (op_.input != op_.compute) {
      convert(functions_, args.inputs[0], op_.m * op_.k, op_.compute, scratch.converted);
      x = scratch.converted;
    }
    const auto* w = in<std::int8_t>(args, 1);
    T* strip = static_cast<T*>(static_cast<void*>(scratch.strip));
    for (std::int64_t first = 0; first < op_.n; first += strip_channels) {
      const std::int64_t channels = std::min(strip_channels, op_.n - first);
      parallel_ranges(channels, 4, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t i = begin; i < end; ++i) {
          for (std::int64_t k = 0; k < op_.k; k += block_columns()) {
            rows_of<T>(functions_)
                .widen_i8(w + (first + i) * op_.k + k, scale_at(scratch, first + i, k),
                          strip + i * op_.k + k, std::min(block_columns(), op_.k - k));
          }
        }
      });
      Product& product = channels == std::min(op_.n, strip_channels) ? *strip_ : *last_;
      product.run(x, strip, bias != nullptr ? bias + first : nullptr,
                  args.outputs[0].data + bytes_of(first, op_.output), scratch.product);
    }
  }

  std::optional<Product> strip_;
  std::optional<Product> last_;
};

/// Only the floating-point product knows parts of larger tensors.
bool is_plain(const MatMul& op) {
  return op.batch == 1 && op.weight_is_parameter && !op.weight_transposed &&
         op.weight_offset == 0 && op.x_row_stride == 0 && op.y_row_stride == 0;
}

KernelResult make_weight_only(const MatMul& op, const KernelContext& context) {
  if (!is_plain(op)) return unsupported("batched or strided product with int8 weights");
  std::optional<Product> strip;
  std::optional<Product> last;
  if (op.m > few_rows_i8) {
    ProductShape shape{.m = op.m,
                       .n = std::min(op.n, strip_channels),
                       .k = op.k,
                       .src = op.compute,
                       .weight = op.compute,
                       .dst = op.output,
                       .dst_stride = op.n,
                       .bias = op.bias};
    std::string reason;
    strip = Product::make(shape, reason);
    if (!strip) return unsupported(reason);
    if (op.n > strip_channels && op.n % strip_channels != 0) {
      shape.n = op.n % strip_channels;
      last = Product::make(shape, reason);
      if (!last) return unsupported(reason);
    }
  }
  return {std::make_unique<WeightOnlyMatMul>(op, context, std::move(strip), std::move(last)), {}};
}

/// Whether scales can be applied to the results of whole rows.
bool has_blocks(const std::optional<ScaleGrid>& grid) {
  return grid && !grid->is_per_row() && !grid->is_per_tensor();
}

KernelResult make_integer(const MatMul& op, const KernelContext& context) {
  if (op.input != DType::i8 || op.weight != DType::i8) {
    return unsupported(
        fmt::format("{} * {} computed in i8", short_name_of(op.input), short_name_of(op.weight)));
  }
  if (!is_plain(op)) return unsupported("batched or strided int8 product");
  if (has_blocks(op.weight_scales)) {
    return unsupported("int8 * int8 with one scale per block of the weight");
  }
  if (has_blocks(op.activation_scales)) {
    return unsupported("int8 * int8 with one scale per group of an activation row");
  }
  std::string reason;
  std::optional<Product> product = Product::make({.m = op.m,
                                                  .n = op.n,
                                                  .k = op.k,
                                                  .src = DType::i8,
                                                  .weight = DType::i8,
                                                  .dst = DType::i32,
                                                  .packed = true},
                                                 reason);
  if (!product) return unsupported(reason);
  return {std::make_unique<IntegerMatMul>(op, context, std::move(*product)), {}};
}

KernelResult make_float(const MatMul& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.weight); !reason.empty()) return unsupported(reason);
  // bf16 computed in f32 would have to be stored as f32 first: host_substitute says so.
  std::string reason;
  std::optional<Product> product = Product::make({.batch = op.batch,
                                                  .m = op.m,
                                                  .n = op.n,
                                                  .k = op.k,
                                                  .src = op.compute,
                                                  .weight = op.compute,
                                                  .dst = op.output,
                                                  .src_stride = op.x_row_stride,
                                                  .src_batch_stride = op.x_batch_stride,
                                                  .weight_batch_stride = op.weight_batch_stride,
                                                  .dst_stride = op.y_row_stride,
                                                  .dst_batch_stride = op.y_batch_stride,
                                                  .transposed = op.weight_transposed,
                                                  .bias = op.bias,
                                                  .packed = packs(op)},
                                                 reason);
  if (!product) return unsupported(reason);
  if (auto kernel = FewRowsMatMul::make(op, context, product->weights_desc())) {
    return {std::move(kernel), {}};
  }
  return {std::make_unique<FloatMatMul>(op, context, std::move(*product)), {}};
}

}  // namespace

KernelResult make_matmul(const MatMul& op, const KernelContext& context) {
  if (op.batch <= 0 || op.m <= 0 || op.n <= 0 || op.k <= 0) return unsupported("empty product");
  // Sizes that overflow are refused here, once, for all that is computed from them below.
  for (const std::int64_t rows : {op.m, op.n}) {
    bytes_of(checked_mul(checked_mul(op.batch, rows, "matmul"), op.k, "matmul"), DType::f32);
  }
  bytes_of(checked_mul(checked_mul(op.batch, op.m, "matmul"), op.n, "matmul"), DType::f32);
  if (op.compute == DType::i8) {
    if (const std::string reason = float_only(op.output); !reason.empty()) {
      return unsupported(reason);
    }
    return make_integer(op, context);
  }
  if (op.weight_scales && op.weight_scales->zero_points) {
    return unsupported("a weight with zero points");
  }
  for (const DType dtype : {op.input, op.output, op.compute}) {
    if (const std::string reason = float_only(dtype); !reason.empty()) return unsupported(reason);
  }
  if (op.weight == DType::i8) return make_weight_only(op, context);
  return make_float(op, context);
}

}  // namespace tcast
