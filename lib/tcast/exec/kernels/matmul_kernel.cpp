#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/kernels/onednn_compat.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/threads.h"

// Matrix products. Floating point and int8 * int8 run in oneDNN, the latter to int32 with our own
// epilogue: oneDNN 2.6 falls to its reference code, a thousand times slower, for scales that are
// known only at run time. Weight-only int8 is our own for few rows (a matrix-vector product that
// reads one byte per weight) and oneDNN after widening a strip of the weight for many.

namespace tcast {
namespace {

using dnnl::memory;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

memory::data_type onednn_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return memory::data_type::f32;
    case DType::bf16:
      return memory::data_type::bf16;
    case DType::i8:
      return memory::data_type::s8;
    case DType::i32:
      return memory::data_type::s32;
    default:
      break;
  }
  check_failed(__FILE__, __LINE__, "dtype", "no oneDNN type");
}

/// One primitive of fixed shape: y[batch, m, n] = x[batch, m, k] * w[batch, n, k]^T (+ bias[n]).
/// Strides in elements; 0: rows and matrices lie side by side.
struct ProductShape {
  std::int64_t batch = 1;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType src = DType::f32;
  DType weight = DType::f32;
  DType dst = DType::f32;
  std::int64_t src_stride = 0;  ///< from one row of x to the next
  std::int64_t src_batch_stride = 0;
  std::int64_t weight_batch_stride = 0;
  std::int64_t dst_stride = 0;
  std::int64_t dst_batch_stride = 0;
  bool transposed = false;  ///< w is [batch, k, n]
  bool bias = false;
  /// The weight may be rearranged beforehand; else it is plain [n, k].
  bool packed = false;
};

class Product {
 public:
  /// Empty, with the reason, when oneDNN has nothing but its reference code.
  static std::optional<Product> make(const ProductShape& shape, std::string& reason) {
    try {
      return Product(shape, reason);
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
      reason = fmt::format("oneDNN {} has no such product of {} * {}", onednn_version(),
                           short_name_of(shape.src), short_name_of(shape.weight));
    } catch (const Reference&) {
    }
    return std::nullopt;
  }

  std::string implementation() const { return desc_.impl_info_str(); }
  std::int64_t scratch_bytes() const {
    return static_cast<std::int64_t>(desc_.scratchpad_desc().get_size());
  }
  memory::desc weights_desc() const { return desc_.weights_desc(); }
  std::int64_t weight_bytes() const { return static_cast<std::int64_t>(weights_desc().get_size()); }

  void run(const void* x, const void* w, const void* bias, void* y, void* scratch) {
    // oneDNN takes pointers to non-const for operands that it only reads.
    src_.set_data_handle(const_cast<void*>(x));
    weights_.set_data_handle(const_cast<void*>(w));
    dst_.set_data_handle(y);
    scratch_.set_data_handle(scratch);
    if (bias_) bias_.set_data_handle(const_cast<void*>(bias));
    primitive_.execute(stream_, arguments_);
    stream_.wait();
  }

 private:
  struct Reference {};

  static memory::dims dims(const ProductShape& s, std::int64_t rows, std::int64_t columns) {
    if (s.batch == 1) return {rows, columns};
    return {s.batch, rows, columns};
  }
  static memory::desc strided(const ProductShape& s, std::int64_t rows, std::int64_t columns,
                              DType dtype, std::int64_t row_stride, std::int64_t batch_stride) {
    if (row_stride == 0) row_stride = columns;
    memory::dims strides{row_stride, 1};
    if (s.batch != 1) {
      strides.insert(strides.begin(),
                     batch_stride > 0 ? batch_stride : checked_mul(rows, row_stride, "matmul"));
    }
    return {dims(s, rows, columns), onednn_type(dtype), strides};
  }
  static memory::desc plain_weights(const ProductShape& s) {
    memory::dims strides = s.transposed ? memory::dims{s.n, 1} : memory::dims{1, s.k};
    if (s.batch != 1) {
      strides.insert(strides.begin(), s.weight_batch_stride > 0 ? s.weight_batch_stride
                                                                : checked_mul(s.n, s.k, "matmul"));
    }
    return {dims(s, s.k, s.n), onednn_type(s.weight), strides};
  }
  static dnnl::matmul::primitive_desc describe_product(const ProductShape& s, std::int64_t m,
                                                       const memory::desc& weights) {
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    memory::desc bias;
    if (s.bias) {
      memory::dims bias_dims(s.batch == 1 ? 2 : 3, 1);
      bias_dims.back() = s.n;
      bias = memory::desc(bias_dims, memory::data_type::f32, memory::dims(bias_dims.size(), 1));
    }
    return onednn::matmul_desc(cpu_engine(), attr,
                               strided(s, m, s.k, s.src, s.src_stride, s.src_batch_stride), weights,
                               bias, strided(s, m, s.n, s.dst, s.dst_stride, s.dst_batch_stride));
  }
  static bool is_reference(const dnnl::matmul::primitive_desc& desc) {
    return std::string_view(desc.impl_info_str()).substr(0, 3) == "ref";
  }

  /// "brg" of "brg:avx512_core_amx_bf16".
  static std::string_view family(const dnnl::matmul::primitive_desc& desc) {
    const std::string_view name = desc.impl_info_str();
    return name.substr(0, name.find(':'));
  }

  static dnnl::matmul::primitive_desc choose(const ProductShape& s) {
    if (!s.packed) return describe_product(s, s.m, plain_weights(s));
    const memory::desc any(dims(s, s.k, s.n), onednn_type(s.weight), memory::format_tag::any);
    const dnnl::matmul::primitive_desc best = describe_product(s, s.m, any);
    // One layout for every number of rows, so that prefill and decode share the packed weight: the
    // one that 256 rows would choose, unless a slower family of implementations came with it.
    try {
      const memory::desc shared = describe_product(s, 256, any).weights_desc();
      dnnl::matmul::primitive_desc same = describe_product(s, s.m, shared);
      if (family(same) == family(best)) return same;
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
    }
    return best;
  }

  Product(const ProductShape& s, std::string& reason) : desc_(choose(s)) {
    if (is_reference(desc_)) {
      reason = fmt::format("oneDNN {} has only reference code ({}) for {} * {}", onednn_version(),
                           desc_.impl_info_str(), short_name_of(s.src), short_name_of(s.weight));
      throw Reference{};
    }
    primitive_ = dnnl::matmul(desc_);
    stream_ = dnnl::stream(cpu_engine());
    src_ = memory(desc_.src_desc(), cpu_engine(), nullptr);
    weights_ = memory(desc_.weights_desc(), cpu_engine(), nullptr);
    dst_ = memory(desc_.dst_desc(), cpu_engine(), nullptr);
    scratch_ = memory(desc_.scratchpad_desc(), cpu_engine(), nullptr);
    arguments_ = {{DNNL_ARG_SRC, src_},
                  {DNNL_ARG_WEIGHTS, weights_},
                  {DNNL_ARG_DST, dst_},
                  {DNNL_ARG_SCRATCHPAD, scratch_}};
    if (s.bias) {
      bias_ = memory(desc_.bias_desc(), cpu_engine(), nullptr);
      arguments_.emplace(DNNL_ARG_BIAS, bias_);
    }
  }

  dnnl::matmul::primitive_desc desc_;
  dnnl::matmul primitive_;
  dnnl::stream stream_;
  memory src_;
  memory weights_;
  memory dst_;
  memory scratch_;
  memory bias_;
  std::unordered_map<int, memory> arguments_;
};

/// Shape of the scales of a weight [n, k]: `rows` x `columns` of them, one per block. The record
/// has only their number; which blocks give it is decided by what checkpoints use.
struct ScaleGrid {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t block_rows = 1;
  std::int64_t block_columns = 1;
};

std::optional<ScaleGrid> scale_grid(std::int64_t count, std::int64_t n, std::int64_t k) {
  if (count == 0) return ScaleGrid{};
  if (count == 1) return ScaleGrid{1, 1, n, k};
  if (count == n) return ScaleGrid{n, 1, 1, k};
  constexpr std::int64_t block = 128;
  if (count == ceil_div(n, block) * ceil_div(k, block)) {
    return ScaleGrid{ceil_div(n, block), ceil_div(k, block), block, block};
  }
  if (count % n == 0 && k % (count / n) == 0) {
    return ScaleGrid{n, count / n, 1, k / (count / n)};
  }
  return std::nullopt;
}

/// Where a product's optional operands stand.
struct OperandPlaces {
  std::size_t weight_scales = 0;
  std::size_t bias = 0;
  std::size_t activation_scales = 0;
};

OperandPlaces places_of(const MatMul& op) {
  OperandPlaces places;
  std::size_t next = 2;
  if (op.weight_scales > 0) places.weight_scales = next++;
  if (op.bias) places.bias = next++;
  if (op.activation_scales > 0) places.activation_scales = next++;
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

/// Brings a plain weight into oneDNN's layout.
void pack_matrix(const MatMul& op, const Buffer& plain, const memory::desc& layout,
                 const Buffer& packed) {
  TCAST_CHECK(packed.bytes >= static_cast<std::int64_t>(layout.get_size()), "packed weight");
  expect(plain, plain.dtype, op.batch * op.n * op.k, "weight");
  memory::dims dims{op.k, op.n};
  memory::dims strides = op.weight_transposed ? memory::dims{op.n, 1} : memory::dims{1, op.k};
  if (op.batch != 1) {
    dims.insert(dims.begin(), op.batch);
    strides.insert(strides.begin(), op.n * op.k);
  }
  memory from({dims, onednn_type(plain.dtype), strides}, cpu_engine(), plain.data);
  memory to(layout, cpu_engine(), packed.data);
  dnnl::stream stream(cpu_engine());
  dnnl::reorder(from, to).execute(stream, from, to);
  stream.wait();
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
    pack_matrix(op_, plain, product_.weights_desc(), packed);
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
  FewRowsMatMul(const MatMul& op, const KernelContext& context, memory::desc weights,
                std::int64_t rows)
      : MatMulBase(op, context), weights_(std::move(weights)), rows_(rows) {
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
    pack_matrix(op_, plain, weights_, packed);
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
    pack_matrix(op_, plain, product_.weights_desc(), packed);
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
    if (op_.weight_scales == 1) {
      read_f32(functions_, args.inputs[places_.weight_scales], 0, 1, &common);
    } else if (op_.weight_scales > 1) {
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
          if (op_.activation_scales > 0) {
            read_f32(functions_, args.inputs[places_.activation_scales],
                     op_.activation_scales == 1 ? 0 : row, 1, &row_scale);
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
    if (op_.weight_scales > 1) scratch.scales = layout.take<float>(op_.n);
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
  WeightOnlyMatMul(const MatMul& op, const KernelContext& context, ScaleGrid grid,
                   std::optional<Product> strip, std::optional<Product> last)
      : MatMulBase(op, context), grid_(grid), strip_(std::move(strip)), last_(std::move(last)) {
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
    if (op_.weight_scales > 0) {
      read_f32(functions_, args.inputs[places_.weight_scales], 0, op_.weight_scales,
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
    if (op_.weight_scales > 0) scratch.scales = layout.take<float>(op_.weight_scales);
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

  float scale_at(const Scratch& scratch, std::int64_t row, std::int64_t column_block) const {
    if (op_.weight_scales == 0) return 1;
    return scratch.scales[row / grid_.block_rows * grid_.columns + column_block];
  }
  std::int64_t block_columns() const {
    return op_.weight_scales == 0 ? op_.k : grid_.block_columns;
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
          for (std::int64_t k = 0, block = 0; k < op_.k; k += block_columns(), ++block) {
            functions_.dot_i8(scratch.input + row * op_.k + k, op_.k, rows, w + channel * op_.k + k,
                              std::min(block_columns(), op_.k - k), sums);
            const float scale = scale_at(scratch, channel, block);
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
          for (std::int64_t k = 0, block = 0; k < op_.k; k += block_columns(), ++block) {
            rows_of<T>(functions_)
                .widen_i8(w + (first + i) * op_.k + k, scale_at(scratch, first + i, block),
                          strip + i * op_.k + k, std::min(block_columns(), op_.k - k));
          }
        }
      });
      Product& product = channels == std::min(op_.n, strip_channels) ? *strip_ : *last_;
      product.run(x, strip, bias != nullptr ? bias + first : nullptr,
                  args.outputs[0].data + bytes_of(first, op_.output), scratch.product);
    }
  }

  ScaleGrid grid_;
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
  const std::optional<ScaleGrid> grid = scale_grid(op.weight_scales, op.n, op.k);
  if (!grid) {
    return unsupported(
        fmt::format("{} scales do not divide a weight of {} x {}", op.weight_scales, op.n, op.k));
  }
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
  return {std::make_unique<WeightOnlyMatMul>(op, context, *grid, std::move(strip), std::move(last)),
          {}};
}

KernelResult make_integer(const MatMul& op, const KernelContext& context) {
  if (op.input != DType::i8 || op.weight != DType::i8) {
    return unsupported(
        fmt::format("{} * {} computed in i8", short_name_of(op.input), short_name_of(op.weight)));
  }
  if (!is_plain(op)) return unsupported("batched or strided int8 product");
  if (op.weight_scales > 1 && op.weight_scales != op.n) {
    return unsupported("int8 * int8 with one scale per block of the weight");
  }
  if (op.activation_scales > 1 && op.activation_scales != op.m) {
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

/// One product per expert, of as many rows as the routing sends there.
class GroupedKernel final : public Kernel {
 public:
  GroupedKernel(const GroupedMatMul& op, const KernelContext& context)
      : op_(op), context_(context) {}

  /// Empty when it works, else the reason.
  std::string prepare() {
    // The layout of the weights is that for sixteen rows, whatever the routing does later.
    std::string reason;
    Kernel* const usual = kernel_for(padding, reason);
    if (usual == nullptr) return reason;
    expert_bytes_ = usual->packed_bytes();
    packed_layout_ = usual->packed_layout();
    packed_bytes_ = checked_mul(expert_bytes_, op_.experts, "grouped matmul");
    // Those that most experts will want; others are made when they are needed.
    const double usual_rows = op_.rows / std::max(1.0, op_.distinct_experts);
    for (const double rows : {std::floor(usual_rows), std::ceil(usual_rows)}) {
      const Expert expert =
          expert_for(std::max<std::int64_t>(1, static_cast<std::int64_t>(rows)), reason);
      if (expert.kernel == nullptr) return reason;
      implementation_ = expert.kernel->implementation();
    }
    return {};
  }

  void pack_weight(const Buffer& plain, const Buffer& packed) override {
    if (packed_bytes_ == 0) return Kernel::pack_weight(plain, packed);
    expect(plain, plain.dtype, op_.experts * op_.n * op_.k, "experts");
    TCAST_CHECK(packed.bytes >= packed_bytes_, "packed experts");
    std::string reason;
    Kernel& kernel = *kernel_for(padding, reason);
    const std::int64_t plain_bytes = bytes_of(op_.n * op_.k, plain.dtype);
    for (std::int64_t expert = 0; expert < op_.experts; ++expert) {
      kernel.pack_weight({plain.data + expert * plain_bytes, plain_bytes, plain.dtype, {}},
                         {packed.data + expert * expert_bytes_, expert_bytes_, op_.compute, {}});
    }
  }

  /// One expert may get all rows.
  std::int64_t held_bytes() override {
    std::string reason;
    const std::int64_t m = round_up(std::max<std::int64_t>(1, op_.row_count()), padding);
    // What no kernel can be made for is refused for its size by whoever asks.
    const Kernel* const largest = kernel_for(m, reason);
    return working_bytes(largest == nullptr ? 0 : largest->scratch_bytes(), m, m);
  }

  void run(const KernelArgs& args) override {
    expect_operands(args, op_.bias ? 4 : 3, 1);
    expect_index(args.inputs[2], op_.first_expert + op_.experts, "token counts");
    const Buffer& x = args.inputs[0];
    const Buffer& weight = args.inputs[1];
    const Buffer& y = args.outputs[0];
    const std::int64_t x_row = bytes_of(op_.k, op_.input);
    const std::int64_t y_row = bytes_of(op_.n, op_.output);
    const std::int64_t weight_bytes =
        packed_bytes_ > 0 ? expert_bytes_ : bytes_of(op_.n * op_.k, op_.weight);
    TCAST_CHECK(weight.bytes >= weight_bytes * op_.experts, "stacked experts");
    std::int64_t row = 0;
    for (std::int64_t expert = 0; expert < op_.first_expert; ++expert) {
      row += index_at(args.inputs[2], expert);
    }
    TCAST_CHECK(row >= 0 && y.bytes >= row * y_row, "token counts do not fit the rows");
    std::fill_n(y.data, row * y_row, std::byte{0});
    for (std::int64_t expert = 0; expert < op_.experts; ++expert) {
      const std::int64_t count = index_at(args.inputs[2], op_.first_expert + expert);
      if (count == 0) continue;
      TCAST_CHECK(count > 0 && x.bytes >= (row + count) * x_row && y.bytes >= (row + count) * y_row,
                  "token counts do not fit the rows");
      std::string reason;
      const Expert chosen = expert_for(count, reason);
      TCAST_CHECK(chosen.kernel != nullptr, reason);
      run_expert(chosen, args, expert, row, count, weight_bytes);
      row += count;
    }
    // Rows of other experts, and those of nobody.
    const std::int64_t rows = op_.row_count();
    if (row < rows) std::fill_n(y.data + row * y_row, (rows - row) * y_row, std::byte{0});
  }

 private:
  static constexpr std::int64_t padding = 16;

  /// A kernel and the number of rows that it was made for.
  struct Expert {
    Kernel* kernel = nullptr;
    std::int64_t m = 0;
  };

  /// Few distinct numbers of rows, so that few primitives are made: exact below 16 unless that asks
  /// for another layout of the weight, above that multiples of 16.
  Expert expert_for(std::int64_t rows, std::string& reason) {
    if (rows < padding) {
      Kernel* const exact = kernel_for(rows, reason);
      if (exact != nullptr && exact->packed_layout() == packed_layout_) return {exact, rows};
    }
    const std::int64_t m = round_up(rows, padding);
    Kernel* const padded = kernel_for(m, reason);
    TCAST_CHECK(padded == nullptr || padded->packed_layout() == packed_layout_,
                "layouts of experts differ");
    return {padded, m};
  }

  Kernel* kernel_for(std::int64_t m, std::string& reason) {
    const auto found = kernels_.find(m);
    if (found != kernels_.end()) return found->second.get();
    const MatMul product{
        .m = m,
        .n = op_.n,
        .k = op_.k,
        .input = op_.input,
        .weight = op_.weight,
        .output = op_.output,
        .compute = op_.compute,
        .bias = op_.bias,
        .weight_scales = op_.weight_scales,
        .activation_scales = op_.activation_scales > 1 ? m : op_.activation_scales};
    KernelResult result = make_matmul(product, context_);
    if (result.kernel == nullptr) {
      reason = result.unsupported;
      return nullptr;
    }
    return kernels_.emplace(m, std::move(result.kernel)).first->second.get();
  }

  /// What the product of one expert needs, of `m` rows of which `padded` are copied.
  std::int64_t working_bytes(std::int64_t scratch_bytes, std::int64_t m,
                             std::int64_t padded) const {
    return scratch_bytes + round_up(bytes_of(checked_mul(padded, op_.k), op_.input), 64) +
           round_up(bytes_of(checked_mul(padded, op_.n), op_.output), 64) + round_up(m * 4, 64) +
           round_up(op_.n * 4, 64);
  }

  void run_expert(const Expert& chosen, const KernelArgs& args, std::int64_t expert,
                  std::int64_t row, std::int64_t count, std::int64_t weight_bytes) {
    Kernel& kernel = *chosen.kernel;
    const std::int64_t m = chosen.m;
    const std::int64_t x_row = bytes_of(op_.k, op_.input);
    const std::int64_t y_row = bytes_of(op_.n, op_.output);
    std::byte* x = args.inputs[0].data + row * x_row;
    std::byte* y = args.outputs[0].data + row * y_row;
    const std::int64_t padded = m == count ? 0 : m;
    // Grows to what the largest share of an expert needs, then stays.
    const std::int64_t needed = working_bytes(kernel.scratch_bytes(), m, padded);
    if (memory_.bytes() < needed) memory_ = AlignedMemory(needed);
    ScratchLayout layout(memory_.data());
    const std::span<std::byte> scratch(layout.take<std::byte>(kernel.scratch_bytes()),
                                       static_cast<std::size_t>(kernel.scratch_bytes()));
    if (padded > 0) {
      std::byte* rows = layout.take<std::byte>(m * x_row);
      std::copy(x, x + count * x_row, rows);
      std::fill(rows + count * x_row, rows + m * x_row, std::byte{0});
      x = rows;
      y = layout.take<std::byte>(m * y_row);
    }
    Buffer inputs[5] = {{x, m * x_row, op_.input, {}},
                        {args.inputs[1].data + expert * weight_bytes, weight_bytes, op_.weight, {}},
                        {},
                        {},
                        {}};
    std::size_t used = 2;
    std::size_t next = 3;
    if (op_.weight_scales > 0) {
      const Buffer& all = args.inputs[next++];
      const std::int64_t bytes = bytes_of(op_.weight_scales, all.dtype);
      TCAST_CHECK(all.bytes >= bytes * op_.experts, "scales of experts");
      inputs[used++] = {all.data + expert * bytes, bytes, all.dtype, {}};
    }
    if (op_.bias) {
      float* bias = layout.take<float>(op_.n);
      read_f32(vector_functions(context_.isa), args.inputs[next++], expert * op_.n, op_.n, bias);
      for (std::int64_t i = 0; i < op_.n; ++i) bias[i] *= static_cast<float>(op_.bias_scale);
      inputs[used++] = {
          static_cast<std::byte*>(static_cast<void*>(bias)), op_.n * 4, DType::f32, {}};
    }
    if (op_.activation_scales == 1) {
      inputs[used++] = args.inputs[next];
    } else if (op_.activation_scales > 1) {
      float* scales = layout.take<float>(m);
      read_f32(vector_functions(context_.isa), args.inputs[next], row, count, scales);
      std::fill(scales + count, scales + m, 0.0f);
      inputs[used++] = {static_cast<std::byte*>(static_cast<void*>(scales)), m * 4, DType::f32, {}};
    }
    const Buffer output{y, m * y_row, op_.output, {}};
    kernel.run({{inputs, used}, {&output, 1}, scratch, nullptr});
    if (padded > 0) std::copy(y, y + count * y_row, args.outputs[0].data + row * y_row);
  }

  GroupedMatMul op_;
  KernelContext context_;
  std::int64_t expert_bytes_ = 0;
  std::map<std::int64_t, std::unique_ptr<Kernel>> kernels_;
  AlignedMemory memory_;
};

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
  for (const DType dtype : {op.input, op.output, op.compute}) {
    if (const std::string reason = float_only(dtype); !reason.empty()) return unsupported(reason);
  }
  if (op.weight == DType::i8) return make_weight_only(op, context);
  return make_float(op, context);
}

KernelResult make_grouped_matmul(const GroupedMatMul& op, const KernelContext& context) {
  if (op.experts <= 0 || op.n <= 0 || op.k <= 0) return unsupported("empty product");
  bytes_of(checked_mul(checked_mul(op.experts, op.n, "experts"), op.k, "experts"), DType::f32);
  auto kernel = std::make_unique<GroupedKernel>(op, context);
  std::string reason = kernel->prepare();
  if (!reason.empty()) return unsupported(std::move(reason));
  return {std::move(kernel), {}};
}

}  // namespace tcast
