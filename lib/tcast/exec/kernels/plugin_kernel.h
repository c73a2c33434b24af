#pragma once

#include <functional>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/exec/kernels/kernel.h"

namespace tcast {

/// Computes a registered operator from args.inputs to args.outputs, which are in the order of
/// Op::inputs and Op::outputs; their dtypes are those of the buffers (f32 where this processor has
/// no bf16). Of an operator with a cache among its inputs, args.cache is that cache, whose buffer
/// among the inputs is all of it. Registered under the operator's name.
using OperatorKernel = std::function<void(const CustomOp& op, const KernelArgs& args)>;
TCAST_API const Registry<OperatorKernel>& operator_kernels();

/// Operands that a kernel can be given: sizes above 0, known dtypes and roles, whole numbers below
/// a limit above 0. Throws Error.
template <>
struct TCAST_API Checked<KernelOperands> {
  static KernelOperands of(const Registered& by, KernelOperands operands);
};

/// Says which operands a registered operator has, so that it can be timed on its own.
using OperatorOperands = std::function<KernelOperands(const CustomOp& op)>;
TCAST_API const Registry<OperatorOperands>& operator_operands();

/// A kernel whose functions are called guarded, and whose memory has sizes >= 0; or none.
template <>
struct TCAST_API Checked<KernelResult> {
  static KernelResult of(const Registered& by, KernelResult result);
};

/// Another way to execute: makes the kernel of an operator, or none and a reason, and then tcast's
/// own one is used. Registered under what `tcast run --runner` calls it.
TCAST_API const Registry<KernelMaker>& executors();

/// The kernel of a registered operator. "Unsupported" when none is registered.
TCAST_API KernelResult make_operator_kernel(const CustomOp& op);

/// Element `i` of a buffer of f32, bf16, i8, i32 or i64 as a number. Throws Error when the buffer
/// has no such element.
TCAST_API double read_element(const Buffer& buffer, std::int64_t i);
/// Sets element `i` of a buffer: of f32 or bf16 rounded to nearest even, of i32 or i64 to a whole
/// number. Throws Error when the buffer has no such element.
TCAST_API void write_element(const Buffer& buffer, std::int64_t i, double value);

}  // namespace tcast
