#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/graph/graph.h"

namespace tcast {

/// The pass and the rank that an input of a graph is filled for.
struct InputContext {
  const Workload& workload;
  const AttentionSpan& span;  ///< of a mask; else without meaning
  std::int64_t rank = 0;
};

/// Fills a value that comes from outside of a model (Trace::input) before a pass is executed on
/// this CPU: all elements of the buffer, whose shape is set. Registered under the input's name.
using InputFiller = std::function<void(const InputContext& context, const Buffer& buffer)>;

/// Every registered filler. tcast's own: "positions", "last rows" and "attention mask"; token ids
/// are what the executor is given.
TCAST_API const Registry<InputFiller>& input_fillers();
/// What tcast itself has there.
TCAST_API std::vector<RegistryEntry<InputFiller>> core_input_fillers();

/// The input that is no business of a filler.
inline constexpr std::string_view token_ids_input = "token ids";

/// Throws Error for inputs of a graph that nobody fills, naming the module that takes the first of
/// them: before any work.
TCAST_API void require_fillers(const Graph& graph);

}  // namespace tcast
