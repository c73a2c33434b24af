#include "tcast/exec/plugin_kernel.h"

#include <bit>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/exec/reference.h"

namespace tcast {
namespace {

class PluginKernel final : public Kernel {
 public:
  PluginKernel(CustomOp op, const RegistryEntry<OperatorKernel>& entry)
      : op_(op), run_(entry.value), place_(entry.place()) {
    implementation_ = fmt::format("plugin:{}", entry.plugin);
  }

  void run(const KernelArgs& args) override {
    try {
      run_(op_, args);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(fmt::format("the kernel of operator '{}' ({}) failed: {}", op_.definition->name,
                              place_, error.what()));
    }
  }

 private:
  CustomOp op_;
  OperatorKernel run_;
  std::string place_;
};

}  // namespace

const Registry<OperatorKernel>& operator_kernels() {
  return registry_of<OperatorKernel>("operator_kernel");
}

const Registry<OperatorOperands>& operator_operands() {
  return registry_of<OperatorOperands>("operator_operands");
}

const Registry<KernelMaker>& executors() { return registry_of<KernelMaker>("executor"); }

KernelResult make_operator_kernel(const CustomOp& op) {
  const std::string_view name = op.definition != nullptr ? op.definition->name : "?";
  const auto* const entry = operator_kernels().find(name);
  if (entry == nullptr) return {nullptr, fmt::format("operator '{}' has no kernel", name)};
  return {std::make_unique<PluginKernel>(op, *entry), {}};
}

double read_element(const Buffer& buffer, std::int64_t i) { return number_at(buffer, i); }

void write_element(const Buffer& buffer, std::int64_t i, double value) {
  const std::size_t bytes = buffer.dtype == DType::bf16 ? 2 : 4;
  const std::size_t at = static_cast<std::size_t>(i) * bytes;
  const auto single = static_cast<float>(rounded_to(buffer.dtype, value));
  if (buffer.dtype == DType::f32) {
    std::memcpy(buffer.data + at, &single, bytes);
    return;
  }
  TCAST_CHECK(buffer.dtype == DType::bf16, "a buffer of f32 or bf16");
  const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(single) >> 16);
  std::memcpy(buffer.data + at, &bits, bytes);
}

}  // namespace tcast
