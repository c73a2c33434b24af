#pragma once

#include <cstdint>

#include "tcast/cost/memory.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/inputs.h"

namespace tcast {

/// How few devices would do.
struct LeastDevices {
  std::int64_t devices = 0;  ///< 0: unknown
  std::int64_t tp = 0;
  std::int64_t ep = 0;
  std::int64_t built = 0;   ///< models that were built and transformed to find out
  std::int64_t traced = 0;  ///< ways of spreading of which the memory was looked at
};

/// The least number of devices, up to 1024, on which a transformed model fits with the request,
/// spread by tensor parallelism (up to 64 ranks), data parallelism and, with routed experts, expert
/// parallelism over all devices; unknown when there is none. Every number is tried over which heads
/// and experts divide and that its share of the memory does not rule out; after 64 ways of
/// spreading that do not fit, powers of two alone.
///
/// What tcast itself builds, and the nine standard steps transform, is spread by the last of these
/// alone: one model is built at most, for one device, where this one is sharded. Whatever a plugin,
/// a hook or a profile's pipeline takes part in is built and transformed again for each way of
/// spreading that is looked at, but for the one that the model has: nothing is built, and no hook
/// runs again, when it fits on one device and is meant for one.
///
/// `asked`: of the model, as workload_for() has it; `budget`: of one device.
LeastDevices least_devices(const TransformerModel& model, const WorkloadInputs& asked,
                           const MemoryBudget& budget);

}  // namespace tcast
