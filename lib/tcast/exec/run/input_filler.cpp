#include "tcast/exec/run/input_filler.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/kernels/buffer_values.h"

namespace tcast {
namespace {

void fill_positions(const InputContext& context, const Buffer& buffer) {
  const Workload& work = context.workload;
  for (std::int64_t i = 0; i < work.tokens(); ++i) {
    set_index(buffer, i, work.context_length + i % work.query_length);
  }
}

void fill_last_rows(const InputContext& context, const Buffer& buffer) {
  const Workload& work = context.workload;
  for (std::int64_t i = 0; i < work.batch; ++i) {
    set_index(buffer, i, (i + 1) * work.query_length - 1);
  }
}

void fill_mask(const InputContext& context, const Buffer& buffer) {
  const Workload& work = context.workload;
  const AttentionSpan& span = context.span;
  for (std::int64_t query = 0; query < work.query_length; ++query) {
    const std::int64_t position = work.context_length + query;
    for (std::int64_t key = 0; key < work.sequence_length(); ++key) {
      const bool seen =
          !span.causal || (key <= position && (span.window == 0 || position - key < span.window) &&
                           (span.chunk == 0 || key / span.chunk == position / span.chunk));
      const float value = seen ? 0.0f : -std::numeric_limits<float>::infinity();
      set_float(buffer, query * work.sequence_length() + key, value);
    }
  }
}

/// The module whose operator takes a value first: its dotted path, "" when none does.
std::string taker_of(const Graph& graph, ValueId value) {
  for (const Call& call : graph.calls) {
    const auto* const at = std::find(call.inputs.begin(), call.inputs.end(), value);
    if (at == call.inputs.end()) continue;
    const Region& region = graph.regions[call.region];
    const TensorId tensor = region.inputs[static_cast<std::size_t>(at - call.inputs.begin())];
    for (const Op& op : region.ops) {
      for (const TensorId input : op.inputs) {
        if (region.tensors[input].storage == region.tensors[tensor].storage) {
          return path_of(region, op.scope);
        }
      }
    }
  }
  return {};
}

}  // namespace

std::vector<RegistryEntry<InputFiller>> core_input_fillers() {
  using Fill = void (*)(const InputContext&, const Buffer&);
  constexpr std::pair<std::string_view, Fill> fillers[] = {
      {"positions", fill_positions}, {"last rows", fill_last_rows}, {"attention mask", fill_mask}};
  std::vector<RegistryEntry<InputFiller>> entries;
  for (const auto& [name, fill] : fillers) {
    entries.push_back({{name, Origin::builtin, false, 0, "lib/tcast/exec/run/input_filler.cpp"},
                       InputFiller(fill)});
  }
  return entries;
}

const Registry<InputFiller>& input_fillers() {
  return registry_of<InputFiller>("input_filler", core_input_fillers);
}

void require_fillers(const Graph& graph) {
  for (const NamedValue& input : graph.inputs) {
    if (input.name == token_ids_input || input_fillers().find(input.name) != nullptr) continue;
    const std::string name = printable(input.name);
    const std::string module = taker_of(graph, input.value);
    const std::vector<std::string> known = input_fillers().names();
    const std::string plugin = missing_plugin_hint("input_filler", input.name);
    throw Error(fmt::format("the model takes the input '{}'{}, which nobody fills", name,
                            module.empty() ? "" : fmt::format(" (in {})", module)),
                plugin.empty()
                    ? did_you_mean(input.name, known,
                                   fmt::format("a plugin fills it with TCAST_REGISTER_INPUT"
                                               "(\"{}\"); simulate needs no values",
                                               name))
                    : plugin);
  }
}

}  // namespace tcast
