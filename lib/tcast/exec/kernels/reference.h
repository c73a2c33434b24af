#pragma once

#include "tcast/exec/kernels/kernel.h"

namespace tcast {

/// Computes what Kernel::run() of the record promises, by plain loops in double, from operands in
/// the plain layout (weights not packed). Slow and obvious: kernels are tested against it. For
/// records for which make_kernel gives a kernel.
void run_reference(const OpRecord& record, const KernelArgs& args);

/// Element `i` of a buffer of f32, bf16, i8, i32 or i64.
double number_at(const Buffer& buffer, std::int64_t i);

}  // namespace tcast
