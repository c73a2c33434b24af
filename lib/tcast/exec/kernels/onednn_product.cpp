#include "tcast/exec/kernels/onednn_product.h"

#include <string_view>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/kernels.h"

namespace tcast::onednn {
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

memory::dims dims(const ProductShape& s, std::int64_t rows, std::int64_t columns) {
  if (s.batch == 1) return {rows, columns};
  return {s.batch, rows, columns};
}
memory::desc strided(const ProductShape& s, std::int64_t rows, std::int64_t columns, DType dtype,
                     std::int64_t row_stride, std::int64_t batch_stride) {
  if (row_stride == 0) row_stride = columns;
  memory::dims strides{row_stride, 1};
  if (s.batch != 1) {
    strides.insert(strides.begin(),
                   batch_stride > 0 ? batch_stride : checked_mul(rows, row_stride, "matmul"));
  }
  return {dims(s, rows, columns), onednn_type(dtype), strides};
}
memory::desc plain_weights(const ProductShape& s) {
  memory::dims strides = s.transposed ? memory::dims{s.n, 1} : memory::dims{1, s.k};
  if (s.batch != 1) {
    strides.insert(strides.begin(), s.weight_batch_stride > 0 ? s.weight_batch_stride
                                                              : checked_mul(s.n, s.k, "matmul"));
  }
  return {dims(s, s.k, s.n), onednn_type(s.weight), strides};
}
dnnl::matmul::primitive_desc describe_product(const ProductShape& s, std::int64_t m,
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
bool is_reference(const dnnl::matmul::primitive_desc& desc) {
  return std::string_view(desc.impl_info_str()).substr(0, 3) == "ref";
}

/// "brg" of "brg:avx512_core_amx_bf16".
std::string_view family(const dnnl::matmul::primitive_desc& desc) {
  const std::string_view name = desc.impl_info_str();
  return name.substr(0, name.find(':'));
}

dnnl::matmul::primitive_desc choose(const ProductShape& s) {
  if (!s.packed) return describe_product(s, s.m, plain_weights(s));
  const memory::desc any(dims(s, s.k, s.n), onednn_type(s.weight), memory::format_tag::any);
  dnnl::matmul::primitive_desc best = describe_product(s, s.m, any);
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

}  // namespace

std::optional<Product> Product::make(const ProductShape& shape, std::string& reason) {
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

void Product::run(const void* x, const void* w, const void* bias, void* y, void* scratch) {
  // oneDNN takes pointers to non-const for operands that it only reads.
  src_.set_data_handle(const_cast<void*>(x));
  weights_.set_data_handle(const_cast<void*>(w));
  dst_.set_data_handle(y);
  scratch_.set_data_handle(scratch);
  if (bias_) bias_.set_data_handle(const_cast<void*>(bias));
  primitive_.execute(stream_, arguments_);
  stream_.wait();
}

Product::Product(const ProductShape& s, std::string& reason) : desc_(choose(s)) {
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

}  // namespace tcast::onednn
