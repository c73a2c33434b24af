#pragma once

namespace tcast {

/// Seconds that the executor spends on an operator beside its kernel: binding buffers, looking up
/// what to run, keeping times, and its share of making a pass ready. Measured, in some 20 ms, with
/// the ops of a model of 24 layers of 16 ops that have next to no work.
double measure_executor_overhead_s();

}  // namespace tcast
