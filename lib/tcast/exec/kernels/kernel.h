#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/units.h"
#include "tcast/exec/kernels/isa.h"
#include "tcast/graph/op.h"
#include "tcast/graph/tensor.h"

// What runs one operator on this processor. The executor runs a whole graph through this interface
// and the timer times single operators through it: there is no second code path.
//
// The life of a kernel: make_kernel() once per distinct record; pack_weight() once per weight,
// after which the plain copy can be freed; run() as often as needed.

namespace tcast {

/// A dense row-major tensor in somebody else's memory.
struct Buffer {
  std::byte* data = nullptr;
  std::int64_t bytes = 0;
  DType dtype = DType::f32;
  /// Needed only by operators whose record does not say it all (broadcasting, Copy); a kernel that
  /// misses it takes the buffer as flat.
  Shape shape;
};

/// A few buffers in their order.
class TCAST_API Buffers : public std::span<const Buffer> {
 public:
  using std::span<const Buffer>::span;

  /// Throws InternalError when there are fewer.
  const Buffer& operator[](std::size_t i) const {
    if (i >= size()) fail_missing(i);
    return data()[i];
  }

 private:
  [[noreturn]] void fail_missing(std::size_t i) const;
};

/// How a layer's cache lies in memory: blocks of `block_tokens` tokens, and in a block, head after
/// head, the keys of its tokens and then their values. `v_head_dim` 0: the value is in the key.
struct CacheLayout {
  std::int64_t block_tokens = 128;
  std::int64_t kv_heads = 1;
  std::int64_t qk_head_dim = 1;
  std::int64_t v_head_dim = 0;
  DType dtype = DType::bf16;

  std::int64_t width() const { return kv_heads * (qk_head_dim + v_head_dim); }
  std::int64_t bytes_per_block() const { return bytes_of(block_tokens * width(), dtype); }
};

/// A layer's cache during one forward pass. Token p of request r lies in block
/// block_table[r * blocks_per_request + p / block_tokens]; blocks that no query looks at (they have
/// left the window) may name any block.
struct CacheView {
  std::byte* data = nullptr;
  CacheLayout layout;
  std::span<const std::int32_t> block_table;
  std::int64_t blocks_per_request = 0;
  /// Requests, and tokens that each had before this pass: new token t of a request gets position
  /// context_length + t.
  std::int64_t batch = 1;
  std::int64_t context_length = 0;
  /// Stored integer times scale is the value; of no effect for a floating-point cache.
  float key_scale = 1;
  float value_scale = 1;
};

/// Operands of one run. Inputs and outputs are in the order of Op::inputs and Op::outputs, with the
/// packed weight in the place of the plain one. An output may be the same memory as an input of the
/// same size and dtype for softmax, norm, elementwise, rotary; else they must not overlap.
struct KernelArgs {
  Buffers inputs;
  Buffers outputs;
  /// At least Kernel::scratch_bytes(), aligned to 64 bytes; contents do not matter.
  std::span<std::byte> scratch;
  /// For paged Attention, CacheAppend, CacheRead and registered operators: the cache that stands
  /// among the inputs, in full.
  const CacheView* cache = nullptr;
};

/// One operator made ready for this processor.
class TCAST_API Kernel {
 public:
  Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  virtual ~Kernel() = default;

  /// Who computes it: "brg:avx512_core_amx_bf16" of oneDNN, "tcast:avx512" of our own.
  const std::string& implementation() const { return implementation_; }

  /// Scratch memory that run() needs.
  std::int64_t scratch_bytes() const { return scratch_bytes_; }

  /// Size of input 1, the weight, in the kernel's own layout; 0 when it is used as it is.
  std::int64_t packed_bytes() const { return packed_bytes_; }

  /// Names that layout: kernels with equal layouts (prefill and decode) share one packed weight.
  const std::string& packed_layout() const { return packed_layout_; }

  /// Rearranges a plain weight into `packed`, of packed_bytes(). Only if packed_bytes() > 0.
  virtual void pack_weight(const Buffer& plain, const Buffer& packed);

  /// Memory of its own that run() may come to hold, beside the scratch memory.
  virtual std::int64_t held_bytes() { return 0; }

  /// Computes, on current_threads() threads. Throws InternalError when the operands do not fit the
  /// record. One run at a time per kernel.
  virtual void run(const KernelArgs& args) = 0;

 protected:
  std::string implementation_;
  std::int64_t scratch_bytes_ = 0;
  std::int64_t packed_bytes_ = 0;
  std::string packed_layout_;
};

struct KernelContext;
struct KernelResult;

/// Another maker of kernels, which is asked first (exec/kernels/plugin_kernel.h).
using KernelMaker =
    std::function<KernelResult(const OpRecord& record, const KernelContext& context)>;

/// What kernels are made for. Set the threads (set_threads) before making any.
struct KernelContext {
  /// The best instruction set that our own kernels may use; the host's unless a test lowers it.
  Isa isa = host_isa();
  KernelMaker maker{};
};

/// A kernel, or the reason why there is none.
struct KernelResult {
  std::unique_ptr<Kernel> kernel;
  std::string unsupported;
};

/// Makes the kernel for a record. "Unsupported" (a collective in one process, a dtype that this
/// processor lacks, a shape for which oneDNN has only its reference code) is a result; an Error is
/// thrown only for sizes that no machine can hold.
TCAST_API KernelResult make_kernel(const OpRecord& record, const KernelContext& context = {});

/// What the host is able to compute: see host_substitute.
struct HostDTypes {
  bool bf16 = host_isa() >= Isa::avx512_bf16;
  bool int8 = true;
};

/// What a dtype becomes on such a host; the same when it is fine.
TCAST_API DType substitute_dtype(DType dtype, const HostDTypes& host);

/// The record with dtypes that this host lacks replaced (decision D9): 8-bit floats by bf16 after
/// dequantization, 4-bit integers by 8-bit ones (and these like 8-bit floats where there are none),
/// f16 by bf16, and bf16 by f32 where the processor has no bf16. `note`, if not null, receives what
/// was replaced ("f8_e4m3 -> bf16"), or nothing.
TCAST_API OpRecord host_substitute(const OpRecord& record, const HostDTypes& host,
                                   std::string* note);

/// How a timer or a test has to fill an operand.
enum class OperandRole : std::uint8_t {
  activation,
  weight,     ///< input 1 of matrix products, tables: from memory, not from cache
  parameter,  ///< smaller ones, such as norm weights, biases and scales: likewise
  cache,      ///< in full in KernelArgs::cache
  index,      ///< whole numbers, 0 <= value < `limit`
  counts,     ///< whole numbers that sum to `limit`
};

/// One operand of a record as run() expects it, in the plain layout.
struct Operand {
  OperandRole role = OperandRole::activation;
  Shape shape;
  DType dtype = DType::f32;
  std::int64_t limit = 0;

  std::int64_t bytes() const { return bytes_of(shape.elements(), dtype); }
};

struct KernelOperands {
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;
};

/// Operands of a record for which make_kernel gives a kernel.
TCAST_API KernelOperands operands_of(const OpRecord& record);

/// "2.6.3".
TCAST_API std::string onednn_version();

/// What oneDNN makes of ONEDNN_MAX_CPU_ISA, ONEDNN_CPU_ISA_HINTS and ONEDNN_DEFAULT_FPMATH_MODE:
/// the numbers of its constants, because names differ between its versions.
TCAST_API std::string onednn_settings();

}  // namespace tcast
