#pragma once

#include <optional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/graph/graph.h"

namespace tcast {

/// An operator, or a call, whose operands are not what its record says.
struct GraphFault {
  std::string path;  ///< dotted path of the module, with the index of the layer
  std::string text;  ///< "matmul m=6 n=8 k=4: its input is [6, 8], expected rows of 4"
};

/// The first operator of a graph whose tensors have other sizes than its record, or the first call
/// that hands a region values of other shapes than it was traced with; nothing when all agree. A
/// registered operator's sizes mean what its author wants: they are not looked at.
TCAST_API std::optional<GraphFault> find_fault(const Graph& graph);

}  // namespace tcast
