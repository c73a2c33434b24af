#pragma once

#include "tcast/exec/kernel.h"

namespace tcast {

/// Computes what Kernel::run() of the record promises, by plain loops in double, from operands in
/// the plain layout (weights not packed). Slow and obvious: kernels are tested against it. For
/// records for which make_kernel gives a kernel.
void run_reference(const OpRecord& record, const KernelArgs& args);

}  // namespace tcast
