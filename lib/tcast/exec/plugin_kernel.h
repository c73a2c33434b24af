#pragma once

#include <functional>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/exec/kernel.h"

namespace tcast {

/// Computes a registered operator from args.inputs to args.outputs, which are in the order of
/// Op::inputs and Op::outputs; their dtypes are those of the buffers (f32 where this processor has
/// no bf16). Registered under the operator's name.
using OperatorKernel = std::function<void(const CustomOp& op, const KernelArgs& args)>;
TCAST_API const Registry<OperatorKernel>& operator_kernels();

/// Says which operands a registered operator has, so that it can be timed on its own.
using OperatorOperands = std::function<KernelOperands(const CustomOp& op)>;
TCAST_API const Registry<OperatorOperands>& operator_operands();

/// Another way to execute: makes the kernel of an operator, or none and a reason, and then tcast's
/// own one is used. Registered under what `tcast run --runner` calls it.
TCAST_API const Registry<KernelMaker>& executors();

/// The kernel of a registered operator. "Unsupported" when none is registered.
KernelResult make_operator_kernel(const CustomOp& op);

/// Element `i` of a buffer of f32, bf16, i8, i32 or i64 as a number.
TCAST_API double read_element(const Buffer& buffer, std::int64_t i);
/// Sets element `i` of a buffer of f32 or bf16, rounded to nearest even.
TCAST_API void write_element(const Buffer& buffer, std::int64_t i, double value);

}  // namespace tcast
