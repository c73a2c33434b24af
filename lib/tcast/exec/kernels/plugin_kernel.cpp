#include "tcast/exec/kernels/plugin_kernel.h"

#include <bit>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/reference.h"

namespace tcast {
namespace {

/// A registered operator.
class OperatorKernelRun final : public Kernel {
 public:
  OperatorKernelRun(const CustomOp& op, const RegistryEntry<OperatorKernel>& entry)
      : op_(op), entry_(entry) {
    implementation_ = fmt::format("plugin:{}", entry.plugin);
  }

  void run(const KernelArgs& args) override { entry_.call(op_, args); }

 private:
  CustomOp op_;
  RegistryEntry<OperatorKernel> entry_;
};

/// A kernel that a plugin's executor made.
class GuardedKernel final : public Kernel {
 public:
  GuardedKernel(const Registered& by, std::unique_ptr<Kernel> kernel)
      : by_(by), kernel_(std::move(kernel)) {
    implementation_ = kernel_->implementation();
    scratch_bytes_ = kernel_->scratch_bytes();
    packed_bytes_ = kernel_->packed_bytes();
    packed_layout_ = kernel_->packed_layout();
  }

  void pack_weight(const Buffer& plain, const Buffer& packed) override {
    guarded(by_, "pack_weight", [&] { kernel_->pack_weight(plain, packed); });
  }

  std::int64_t held_bytes() override {
    return guarded(by_, "held_bytes", [&] {
      const std::int64_t bytes = kernel_->held_bytes();
      if (bytes < 0) by_.refuse(fmt::format("its kernel holds {} bytes", bytes));
      return bytes;
    });
  }

  void run(const KernelArgs& args) override {
    guarded(by_, "a kernel", [&] { kernel_->run(args); });
  }

 private:
  Registered by_;
  std::unique_ptr<Kernel> kernel_;
};

void check(const Registered& by, const Operand& operand, std::string_view what) {
  constexpr std::int64_t most_bytes = std::int64_t{1} << 50;
  const auto refuse = [&](const std::string& problem) {
    by.refuse(fmt::format("{} {}", what, problem));
  };
  if (operand.role > OperandRole::counts) refuse("has a role that there is none of");
  if (!is_dtype(operand.dtype)) refuse("has a dtype that there is none of");
  for (int i = 0; i < operand.shape.rank(); ++i) {
    if (operand.shape[i] >= 1) continue;
    refuse(fmt::format("has the shape {}, expected sizes above 0", to_string(operand.shape)));
  }
  // Throws when it leaves the range of whole numbers.
  if (operand.bytes() > most_bytes) {
    refuse(
        fmt::format("has the shape {}, more than any machine can hold", to_string(operand.shape)));
  }
  const bool whole = operand.role == OperandRole::index || operand.role == OperandRole::counts;
  if (whole && operand.limit < 1) {
    refuse(fmt::format("has whole numbers below {}, expected a limit above 0", operand.limit));
  }
  if (whole && operand.dtype != DType::i32 && operand.dtype != DType::i64) {
    refuse(fmt::format("has whole numbers of dtype {}, expected int32 or int64",
                       name_of(operand.dtype)));
  }
}

/// Bytes of the buffer's elements; Error when it has no element `i`.
std::int64_t element_bytes(const Buffer& buffer, std::int64_t i) {
  const std::int64_t bytes = is_dtype(buffer.dtype) ? bits_of(buffer.dtype) / 8 : 0;
  if (bytes == 0) throw Error("a buffer of this dtype has no elements that can be read one by one");
  const std::int64_t count = buffer.data == nullptr ? 0 : buffer.bytes / bytes;
  if (i < 0 || i >= count) {
    throw Error(fmt::format("element {} of a buffer of {} was asked for", i, count));
  }
  return bytes;
}

}  // namespace

const Registry<OperatorKernel>& operator_kernels() {
  return registry_of<OperatorKernel>("operator_kernel");
}

const Registry<OperatorOperands>& operator_operands() {
  return registry_of<OperatorOperands>("operator_operands");
}

const Registry<KernelMaker>& executors() { return registry_of<KernelMaker>("executor"); }

KernelOperands Checked<KernelOperands>::of(const Registered& by, KernelOperands operands) {
  for (std::size_t i = 0; i < operands.inputs.size(); ++i) {
    check(by, operands.inputs[i], fmt::format("its input {}", i));
  }
  for (std::size_t i = 0; i < operands.outputs.size(); ++i) {
    check(by, operands.outputs[i], fmt::format("its output {}", i));
  }
  return operands;
}

KernelResult Checked<KernelResult>::of(const Registered& by, KernelResult result) {
  if (result.kernel == nullptr) return result;
  const Kernel& kernel = *result.kernel;
  if (kernel.scratch_bytes() < 0 || kernel.packed_bytes() < 0) {
    by.refuse(
        fmt::format("it made a kernel with {} bytes of scratch memory and a packed weight of "
                    "{} bytes",
                    kernel.scratch_bytes(), kernel.packed_bytes()));
  }
  if (kernel.packed_bytes() > 0 && kernel.packed_layout().empty()) {
    by.refuse("it made a kernel that packs its weight and does not name the layout",
              "set packed_layout_: kernels with equal layouts share one packed weight");
  }
  result.kernel = std::make_unique<GuardedKernel>(by, std::move(result.kernel));
  return result;
}

KernelResult make_operator_kernel(const CustomOp& op) {
  const std::string_view name = op.definition != nullptr ? op.definition->name : "?";
  const auto* const entry = operator_kernels().find(name);
  if (entry == nullptr) return {nullptr, fmt::format("operator '{}' has no kernel", name)};
  return {std::make_unique<OperatorKernelRun>(op, *entry), {}};
}

double read_element(const Buffer& buffer, std::int64_t i) {
  element_bytes(buffer, i);
  return number_at(buffer, i);
}

void write_element(const Buffer& buffer, std::int64_t i, double value) {
  const std::int64_t bytes = element_bytes(buffer, i);
  std::byte* const place = buffer.data + i * bytes;
  const auto store = [&](const auto& stored) { std::memcpy(place, &stored, sizeof stored); };
  switch (buffer.dtype) {
    case DType::f32:
      return store(static_cast<float>(value));
    case DType::bf16:
      return store(static_cast<std::uint16_t>(
          std::bit_cast<std::uint32_t>(static_cast<float>(rounded_to(DType::bf16, value))) >> 16));
    case DType::i32:
    case DType::i64: {
      const double most = buffer.dtype == DType::i32 ? 0x1p31 : 0x1p63;
      if (!(value >= -most && value < most)) {
        throw Error(fmt::format("{} does not fit into {}", value, name_of(buffer.dtype)));
      }
      return buffer.dtype == DType::i32 ? store(static_cast<std::int32_t>(value))
                                        : store(static_cast<std::int64_t>(value));
    }
    default:
      throw Error(fmt::format("a buffer of {} is not written to", name_of(buffer.dtype)));
  }
}

}  // namespace tcast
