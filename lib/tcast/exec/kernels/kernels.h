#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/bf16.h"
#include "tcast/exec/kernels/buffer_values.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/kernels/vector_functions.h"

// Private to this folder: what the files of kernels share, and their factories.

namespace tcast {

KernelResult make_matmul(const MatMul& op, const KernelContext& context);
KernelResult make_grouped_matmul(const GroupedMatMul& op, const KernelContext& context);
KernelResult make_attention(const Attention& op, const KernelContext& context);

KernelResult make_softmax(const Softmax& op, const KernelContext& context);
KernelResult make_norm(const Norm& op, const KernelContext& context);
KernelResult make_elementwise(const Elementwise& op, const KernelContext& context);
KernelResult make_rotary(const Rotary& op, const KernelContext& context);
KernelResult make_rotary_table(const RotaryTable& op, const KernelContext& context);
KernelResult make_quantize(const Quantize& op, const KernelContext& context);

KernelResult make_gather(const Gather& op, const KernelContext& context);
KernelResult make_cache_append(const CacheAppend& op, const KernelContext& context);
KernelResult make_cache_read(const CacheRead& op, const KernelContext& context);
KernelResult make_copy(const Copy& op, const KernelContext& context);
KernelResult make_route(const Route& op, const KernelContext& context);
/// A router's scores of one token: `scores` holds the logits and becomes the shares (softmax) or
/// sigmoids; `choice` becomes those plus `bias` (null: none); `groups` [Route::groups], if not
/// null, what each group counts. `work` has room for the logits.
void score_experts(const Route& op, const VectorFunctions& functions, const float* bias,
                   float* scores, float* choice, float* groups, float* work);
/// Puts the indices of the `k` largest of values[0, count) into `best`, largest first; of equal
/// ones the earlier wins.
void largest(const float* values, std::int64_t count, std::int64_t k, std::int64_t* best);

KernelResult make_top_k(const TopK& op, const KernelContext& context);
KernelResult make_permute(const Permute& op, const KernelContext& context);
KernelResult make_combine(const Combine& op, const KernelContext& context);

inline KernelResult unsupported(std::string reason) { return {nullptr, std::move(reason)}; }

inline std::string own_implementation(const KernelContext& context) {
  return fmt::format("tcast:{}", name_of(context.isa));
}

/// The reason why a kernel that works in f32 and bf16 cannot take `dtype`; empty if it can.
inline std::string float_only(DType dtype) {
  if (dtype == DType::f32 || dtype == DType::bf16) return {};
  return fmt::format("no kernel for {}", short_name_of(dtype));
}

template <class T>
const T* in(const KernelArgs& args, std::size_t i) {
  TCAST_CHECK(i < args.inputs.size(), "operand missing");
  return static_cast<const T*>(static_cast<const void*>(args.inputs[i].data));
}

template <class T>
T* out(const KernelArgs& args, std::size_t i) {
  TCAST_CHECK(i < args.outputs.size(), "result missing");
  return static_cast<T*>(static_cast<void*>(args.outputs[i].data));
}

/// A buffer of at least `count` elements of `dtype`; else the executor is wrong.
inline void expect(const Buffer& buffer, DType dtype, std::int64_t count, const char* what) {
  TCAST_CHECK(buffer.dtype == dtype, fmt::format("{} is {} and should be {}", what,
                                                 name_of(buffer.dtype), name_of(dtype)));
  TCAST_CHECK(buffer.bytes >= bytes_of(count, dtype),
              fmt::format("{} has {} bytes, {} elements are needed", what, buffer.bytes, count));
}

inline void expect_operands(const KernelArgs& args, std::size_t inputs, std::size_t outputs) {
  TCAST_CHECK(args.inputs.size() >= inputs && args.outputs.size() >= outputs,
              fmt::format("{} inputs and {} outputs, {} and {} are needed", args.inputs.size(),
                          args.outputs.size(), inputs, outputs));
}

inline void expect_index(const Buffer& buffer, std::int64_t count, const char* what) {
  TCAST_CHECK(buffer.dtype == DType::i64 || buffer.dtype == DType::i32,
              fmt::format("{} should be whole numbers", what));
  expect(buffer, buffer.dtype, count, what);
}

/// Hands out pieces of scratch memory, each aligned to a cache line; with no memory it only counts.
class ScratchLayout {
 public:
  explicit ScratchLayout(std::byte* base = nullptr) : base_(base) {}

  template <class T>
  T* take(std::int64_t count) {
    std::byte* const place = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(checked_mul(count, static_cast<std::int64_t>(sizeof(T)), "scratch"), 64);
    return static_cast<T*>(static_cast<void*>(place));
  }
  std::int64_t used() const { return used_; }

 private:
  std::byte* base_;
  std::int64_t used_ = 0;
};

/// Copies `count` floating-point values of a buffer, from its element `first` on, to f32.
inline void read_f32(const VectorFunctions& functions, const Buffer& buffer, std::int64_t first,
                     std::int64_t count, float* result) {
  const void* data = buffer.data;
  if (buffer.dtype == DType::bf16) {
    functions.bf16.to_f32(static_cast<const Bf16*>(data) + first, result, count);
  } else {
    TCAST_CHECK(buffer.dtype == DType::f32, "floating-point operand expected");
    functions.f32.to_f32(static_cast<const float*>(data) + first, result, count);
  }
}

/// Calls function(T{}) with the element type of `dtype`, f32 or bf16.
template <class Function>
void with_element(DType dtype, const Function& function) {
  if (dtype == DType::bf16) {
    function(Bf16{});
  } else {
    TCAST_CHECK(dtype == DType::f32, "f32 or bf16 expected");
    function(float{});
  }
}

}  // namespace tcast
