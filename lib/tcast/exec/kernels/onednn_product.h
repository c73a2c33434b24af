#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/kernels/onednn_compat.h"

// Private to this folder: matrix products of oneDNN.

namespace tcast::onednn {

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
  static std::optional<Product> make(const ProductShape& shape, std::string& reason);

  std::string implementation() const { return desc_.impl_info_str(); }
  std::int64_t scratch_bytes() const {
    return static_cast<std::int64_t>(desc_.scratchpad_desc().get_size());
  }
  dnnl::memory::desc weights_desc() const { return desc_.weights_desc(); }
  std::int64_t weight_bytes() const { return static_cast<std::int64_t>(weights_desc().get_size()); }

  void run(const void* x, const void* w, const void* bias, void* y, void* scratch);

 private:
  struct Reference {};

  Product(const ProductShape& s, std::string& reason);

  dnnl::matmul::primitive_desc desc_;
  dnnl::matmul primitive_;
  dnnl::stream stream_;
  dnnl::memory src_;
  dnnl::memory weights_;
  dnnl::memory dst_;
  dnnl::memory scratch_;
  dnnl::memory bias_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

/// Brings the plain weight of a product into oneDNN's layout.
void pack_matrix(const MatMul& op, const Buffer& plain, const dnnl::memory::desc& layout,
                 const Buffer& packed);

}  // namespace tcast::onednn
