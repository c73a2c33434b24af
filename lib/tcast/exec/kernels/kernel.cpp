#include "tcast/exec/kernels/kernel.h"

#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/kernels/plugin_kernel.h"

namespace tcast {
namespace {

struct Maker {
  const KernelContext& context;

  KernelResult operator()(const MatMul& op) const { return make_matmul(op, context); }
  KernelResult operator()(const GroupedMatMul& op) const {
    return make_grouped_matmul(op, context);
  }
  KernelResult operator()(const Attention& op) const { return make_attention(op, context); }
  KernelResult operator()(const Softmax& op) const { return make_softmax(op, context); }
  KernelResult operator()(const Norm& op) const { return make_norm(op, context); }
  KernelResult operator()(const Elementwise& op) const { return make_elementwise(op, context); }
  KernelResult operator()(const Rotary& op) const { return make_rotary(op, context); }
  KernelResult operator()(const RotaryTable& op) const { return make_rotary_table(op, context); }
  KernelResult operator()(const Gather& op) const { return make_gather(op, context); }
  KernelResult operator()(const CacheAppend& op) const { return make_cache_append(op, context); }
  KernelResult operator()(const CacheRead& op) const { return make_cache_read(op, context); }
  KernelResult operator()(const Copy& op) const { return make_copy(op, context); }
  KernelResult operator()(const Route& op) const { return make_route(op, context); }
  KernelResult operator()(const TopK& op) const { return make_top_k(op, context); }
  KernelResult operator()(const Permute& op) const { return make_permute(op, context); }
  KernelResult operator()(const Combine& op) const { return make_combine(op, context); }
  KernelResult operator()(const Quantize& op) const { return make_quantize(op, context); }
  KernelResult operator()(const Collective&) const {
    return unsupported("communication between devices cannot be timed in one process");
  }
  KernelResult operator()(const CustomOp& op) const { return make_operator_kernel(op); }
};

/// substitute_dtype(), noting the change.
DType substitute(DType dtype, const HostDTypes& host, std::string* note) {
  const DType result = substitute_dtype(dtype, host);
  if (result != dtype && note != nullptr) {
    const std::string text = fmt::format("{} -> {}", short_name_of(dtype), short_name_of(result));
    if (note->find(text) == std::string::npos) *note += (note->empty() ? "" : ", ") + text;
  }
  return result;
}

bool is_dequantized(DType dtype, const HostDTypes& host) {
  const bool integer = dtype == DType::i8 || dtype == DType::i4;
  return dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2 || (integer && !host.int8);
}

struct Substitute {
  const HostDTypes& host;
  std::string* note;

  void change(DType& dtype) const { dtype = substitute(dtype, host, note); }

  /// Dequantized weights and activations have no scales any more.
  template <class Product>
  void product(Product& op) const {
    if (is_dequantized(op.weight, host)) op.weight_scales.reset();
    if (is_dequantized(op.input, host)) op.activation_scales.reset();
    // In the wider integers a value has its zero point taken off already.
    if (op.weight_scales && op.weight == DType::i4) op.weight_scales->zero_points.reset();
    change(op.input);
    change(op.weight);
    change(op.output);
    change(op.compute);
  }

  OpRecord operator()(MatMul op) const {
    product(op);
    return op;
  }
  OpRecord operator()(GroupedMatMul op) const {
    product(op);
    return op;
  }
  OpRecord operator()(Attention op) const {
    change(op.query);
    change(op.cache);
    return op;
  }
  OpRecord operator()(CacheAppend op) const {
    change(op.input);
    change(op.cache);
    return op;
  }
  OpRecord operator()(CacheRead op) const {
    change(op.cache);
    change(op.output);
    return op;
  }
  OpRecord operator()(Copy op) const {
    change(op.from);
    change(op.to);
    return op;
  }
  /// A conversion to what is not there becomes one to bf16.
  OpRecord operator()(Quantize op) const {
    if (is_dequantized(op.to, host)) {
      const std::int64_t elements = checked_mul(op.rows, op.columns, "quantize");
      change(op.from);
      change(op.to);
      return Copy{.kind = CopyKind::cast,
                  .read_elements = elements,
                  .written_elements = elements,
                  .from = op.from,
                  .to = op.to};
    }
    change(op.from);
    change(op.to);
    return op;
  }
  OpRecord operator()(Collective op) const { return op; }
  OpRecord operator()(CustomOp op) const { return op; }
  template <class Record>
  OpRecord operator()(Record op) const {
    change(op.dtype);
    return op;
  }
};

}  // namespace

void Buffers::fail_missing(std::size_t i) const {
  throw InternalError(fmt::format("operand {} of {} was asked for", i, size()));
}

void Kernel::pack_weight(const Buffer&, const Buffer&) {
  TCAST_CHECK(false, "this kernel uses its weight as it is");
}

KernelResult make_kernel(const OpRecord& record, const KernelContext& context) {
  if (context.maker != nullptr) {
    KernelResult made = context.maker(record, context);
    if (made.kernel != nullptr) return made;
  }
  return std::visit(Maker{context}, record);
}

DType substitute_dtype(DType dtype, const HostDTypes& host) {
  DType result = dtype;
  if (dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2 || dtype == DType::f16) {
    result = DType::bf16;
  } else if (dtype == DType::i4 || dtype == DType::i8) {
    result = host.int8 ? DType::i8 : DType::bf16;
  }
  if (result == DType::bf16 && !host.bf16) result = DType::f32;
  return result;
}

OpRecord host_substitute(const OpRecord& record, const HostDTypes& host, std::string* note) {
  if (note != nullptr) note->clear();
  return std::visit([&](const auto& op) { return Substitute{host, note}(op); }, record);
}

}  // namespace tcast
