#include "tcast/study/expert_counts.h"

#include <algorithm>

#include "tcast/exec/kernels/buffer_values.h"

namespace tcast {

void ExpertCounts::add(const RoutingCall& call) {
  if (call.tokens <= 0) return;
  chosen_.assign(static_cast<std::size_t>(call.op.experts), false);
  std::int64_t distinct = 0;
  for (std::int64_t i = 0; i < call.tokens * call.op.top_k; ++i) {
    const auto expert = static_cast<std::size_t>(index_at(call.experts, i));
    if (chosen_.at(expert)) continue;
    chosen_[expert] = true;
    ++distinct;
  }
  Count& count = counts_[{call.phase, call.layer}];
  count.distinct += distinct;
  ++count.passes;
}

std::optional<double> ExpertCounts::mean(Phase phase) const {
  std::vector<std::int64_t> layers;
  for (const auto& [key, count] : counts_) {
    if (key.first == phase) layers.push_back(key.second);
  }
  return mean(phase, layers);
}

std::optional<double> ExpertCounts::mean(Phase phase,
                                         const std::vector<std::int64_t>& layers) const {
  double sum = 0;
  double counted = 0;
  for (const std::int64_t layer : layers) {
    const auto found = counts_.find({phase, layer});
    if (found == counts_.end()) continue;
    sum += static_cast<double>(found->second.distinct) / static_cast<double>(found->second.passes);
    ++counted;
  }
  if (counted == 0) return std::nullopt;
  return sum / counted;
}

void ExpertCounts::put_into(Graph& graph) const {
  std::vector<std::vector<std::int64_t>> layers(graph.region_count);
  for (const Call& call : graph.calls) layers[call.region].push_back(call.member);
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    const std::optional<double> counted = mean(graph.workload.phase, layers[r]);
    if (!counted) continue;
    for (Op& op : graph.regions[r].ops) {
      auto* product = std::get_if<GroupedMatMul>(&op.record);
      if (product == nullptr || product->routing.num_experts == 0) continue;
      // A product may be of a part of the experts.
      product->distinct_experts *= *counted / expert_load(product->routing).distinct_experts;
      product->routing = {};
    }
  }
}

void choose_evenly(const RoutingCall& call) {
  const std::int64_t top_k = call.op.top_k;
  for (std::int64_t i = 0; i < call.tokens * top_k; ++i) {
    set_index(call.experts, i, (call.first_token * top_k + i) % call.op.experts);
  }
}

}  // namespace tcast
