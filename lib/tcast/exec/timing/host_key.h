#pragma once

#include <string>

namespace tcast {

/// Everything outside an operator that its time on this machine depends on, as one line: CPU,
/// instruction set, threads, the cpus and the quota that the process may
/// use, page policy, oneDNN with the limits that the environment sets it, and the kernels of this
/// build. Timings hold only where all of it is equal.
std::string host_key(int threads);

}  // namespace tcast
