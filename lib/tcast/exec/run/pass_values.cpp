#include "tcast/exec/run/pass_values.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/kernels/buffer_values.h"
#include "tcast/exec/run/input_filler.h"

namespace tcast {
namespace {

const NamedValue* token_ids_of(const Graph& graph, std::int64_t depth) {
  for (const NamedValue& input : graph.inputs) {
    if (input.name == token_ids_input && input.depth == depth) return &input;
  }
  return nullptr;
}

bool is_logits(const NamedValue& output) { return output.name == "logits"; }

}  // namespace

bool takes_token_ids(const Graph& graph, const Call& call, std::int64_t depth) {
  const NamedValue* ids = token_ids_of(graph, depth);
  return ids != nullptr &&
         std::find(call.inputs.begin(), call.inputs.end(), ids->value) != call.inputs.end();
}

void set_token_ids(const Graph& graph, const Program& program, const ActivationMemory& memory,
                   std::int64_t depth, const std::vector<std::vector<std::int64_t>>& ids) {
  TCAST_CHECK(ids.size() == static_cast<std::size_t>(memory.ranks()), "token ids per rank");
  const NamedValue* input = token_ids_of(graph, depth);
  if (input == nullptr) return;
  for (std::size_t rank = 0; rank < ids.size(); ++rank) {
    const std::vector<std::int64_t>& list = ids[rank];
    TCAST_CHECK(static_cast<std::int64_t>(list.size()) == graph.workload.tokens(), "token ids");
    const Buffer buffer =
        memory.value(graph, program, input->value, static_cast<std::int64_t>(rank));
    for (std::size_t i = 0; i < list.size(); ++i) {
      set_index(buffer, static_cast<std::int64_t>(i), list[i]);
    }
  }
}

void set_inputs(const Graph& graph, const Program& program, const ActivationMemory& memory,
                std::int64_t rank) {
  for (const NamedValue& input : graph.inputs) {
    if (input.name == token_ids_input) continue;
    const auto* const filler = input_fillers().find(input.name);
    TCAST_CHECK(filler != nullptr, "inputs were looked at before");
    filler->call(InputContext{graph.workload, input.span, rank},
                 memory.value(graph, program, input.value, rank));
  }
}

void require_logits(const Graph& graph) {
  for (const NamedValue& output : graph.outputs) {
    const DType dtype = graph.values[output.value].dtype;
    if (!is_logits(output) || is_float(dtype)) continue;
    throw Error(fmt::format("the model's logits are of dtype {}, expected a floating-point one",
                            name_of(dtype)));
  }
  if (graph.outputs.empty() || std::any_of(graph.outputs.begin(), graph.outputs.end(), is_logits)) {
    return;
  }
  std::vector<std::string> names;
  for (const NamedValue& output : graph.outputs) names.push_back(printable(output.name));
  throw Error(fmt::format("the model has no result named 'logits', only {}", join(names, ", ")),
              "name it in forward: trace.output(\"logits\", value)");
}

std::int64_t logits_bytes(const Graph& graph) {
  std::int64_t bytes = 0;
  for (const NamedValue& named : graph.outputs) {
    bytes += bytes_of(graph.values[named.value].shape.elements(), DType::f32);
  }
  return bytes;
}

void LogitsStore::begin(const Graph& graph) {
  std::erase_if(by_depth_, [&graph](const auto& known) {
    return std::none_of(graph.outputs.begin(), graph.outputs.end(),
                        [&known](const NamedValue& made) { return made.depth == known.first; });
  });
}

void LogitsStore::keep(const Graph& graph, const Program& program, const ActivationMemory& memory,
                       const Call& call) {
  for (const NamedValue& named : graph.outputs) {
    if (!is_logits(named)) continue;
    if (std::find(call.outputs.begin(), call.outputs.end(), named.value) == call.outputs.end()) {
      continue;
    }
    Logits& logits = by_depth_[named.depth];
    logits.shape = graph.values[named.value].shape;
    logits.values.resize(static_cast<std::size_t>(ranks_));
    for (std::int64_t rank = 0; rank < ranks_; ++rank) {
      to_floats(memory.value(graph, program, named.value, rank),
                logits.values[static_cast<std::size_t>(rank)]);
    }
  }
}

const LogitsStore::Logits& LogitsStore::of(std::int64_t depth) const {
  const auto found = by_depth_.find(depth);
  if (found == by_depth_.end()) {
    throw Error(fmt::format("the model has no logits of depth {}", depth));
  }
  return found->second;
}

std::int64_t LogitsStore::held_bytes() const {
  std::int64_t bytes = 0;
  for (const auto& [depth, logits] : by_depth_) {
    bytes += bytes_of(logits.shape.elements(), DType::f32) * ranks_;
  }
  return bytes;
}

}  // namespace tcast
