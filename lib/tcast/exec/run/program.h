#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tcast/exec/kernels/kernel.h"
#include "tcast/graph/graph.h"

// Private to this folder: a graph made ready for this processor.

namespace tcast {

/// How an op of a region is executed.
struct PreparedOp {
  OpRecord original;
  OpRecord record;  ///< with dtypes that the host has
  std::shared_ptr<Kernel> kernel;
  std::string packed_layout;
  bool dequantized = false;   ///< the weight is converted when it is loaded
  bool checked = false;       ///< compared with run_reference()
  bool static_scale = false;  ///< the product's input has a fixed scale, found at the first run
  std::vector<int> inputs;    ///< of Op::inputs, those that the kernel takes

  /// True when the kernel wants input `i` packed.
  bool packs(int i) const { return i == 1 && !packed_layout.empty(); }
};

struct PreparedRegion {
  std::vector<PreparedOp> ops;
  std::vector<std::int64_t> offsets;  ///< of each tensor's storage in the arena; -1: elsewhere
};

/// Buffers of all tensors of a call on one rank.
using CallBuffers = std::vector<Buffer>;

/// The graphs of one phase.
struct Program {
  bool bound = false;
  std::vector<PreparedRegion> regions;
  std::vector<std::vector<CallBuffers>> calls;  ///< [call][rank]
  /// Fixed scales of activations, as StatePool::activation_scale() gave them: [call][rank][tensor].
  std::vector<std::vector<std::map<TensorId, float>>> scales;
  std::vector<std::int64_t> value_offsets;
  std::int64_t weight_bytes_per_pass = 0;  ///< without experts
  double expert_bytes = 0;                 ///< read by all passes since times were reset
  std::int64_t passes = 0;                 ///< since then
};

/// True for dtypes of at most 8 bit: quantized weights.
inline bool is_narrow(DType dtype) { return bits_of(dtype) <= 8; }

/// Bytes of a tensor on a host that stores `dtype` as substitute_dtype() says.
inline std::int64_t host_bytes(const Shape& shape, DType dtype, const HostDTypes& host) {
  return bytes_of(shape.elements(), substitute_dtype(dtype, host));
}
inline std::int64_t host_bytes(const Tensor& tensor, const HostDTypes& host) {
  return host_bytes(tensor.shape, tensor.dtype, host);
}

}  // namespace tcast
