#pragma once

#include <string>

#include "tcast/base/export.h"
#include "tcast/device/interconnect.h"
#include "tcast/graph/op.h"

namespace tcast {

/// Seconds that a collective takes on the links: the cheapest of the known algorithms at each level
/// of the interconnect that the group spans, without the overhead of starting it. A group of one
/// and an empty tensor cost nothing. `ideal`: full bandwidth, no latency.
/// Throws Error when the group is larger than the interconnect.
TCAST_API double collective_seconds(const Interconnect& interconnect, const Collective& op,
                                    bool ideal = false);

/// The steps behind that number, one line per level with the formula and its numbers.
TCAST_API std::string explain_collective(const Interconnect& interconnect, const Collective& op,
                                         bool ideal = false);

}  // namespace tcast
