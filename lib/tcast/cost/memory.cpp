#include "tcast/cost/memory.h"

#include <algorithm>

#include "tcast/base/error.h"
#include "tcast/base/units.h"

namespace tcast {

std::int64_t cache_bytes(const Graph& graph, std::int64_t batch, std::int64_t sequence_length) {
  std::int64_t total = 0;
  for (const Call& call : graph.calls) {
    for (const CacheSpec& cache : graph.regions[call.region].caches) {
      total = checked_add(total, cache.bytes(batch, sequence_length), "bytes of the caches");
    }
  }
  return total;
}

std::int64_t MemoryForecast::total_bytes() const {
  std::int64_t total = 0;
  for (const std::int64_t part :
       {weight_bytes, kv_cache_bytes, activation.bytes, workspace_bytes, reserved_bytes}) {
    total = checked_add(total, part, "memory in bytes");
  }
  return total;
}

void MemoryPlanner::plan_region(const Region& region, const RegionLiveness& liveness,
                                RegionPlan& plan) {
  // A region without ops still holds what passes through it: it has one moment, too.
  const auto moments = std::max(static_cast<std::int32_t>(region.ops.size()), 1);
  change_.assign(static_cast<std::size_t>(moments) + 1, 0);
  for (std::size_t i = 0; i < region.tensors.size(); ++i) {
    const Tensor& tensor = region.tensors[i];
    const Lifetime& lifetime = liveness.lifetimes[i];
    if (tensor.kind != TensorKind::activation || liveness.roots[i] != i) continue;
    if (!lifetime.is_used()) continue;
    const std::int64_t bytes = tensor.bytes();
    change_[static_cast<std::size_t>(std::min(lifetime.first, moments - 1))] += bytes;
    change_[static_cast<std::size_t>(std::min(lifetime.last, moments - 1)) + 1] -= bytes;
  }
  plan.own_bytes.resize(static_cast<std::size_t>(moments));
  std::int64_t alive = 0;
  for (std::size_t i = 0; i < plan.own_bytes.size(); ++i) {
    alive += change_[i];
    plan.own_bytes[i] = alive;
  }
  plan.has_answer = false;
}

MemoryPlanner::DyingInputs MemoryPlanner::dying_inputs(const Graph& graph,
                                                       std::int32_t index) const {
  const Call& call = graph.calls[static_cast<std::size_t>(index)];
  const Region& region = graph.regions[call.region];
  const RegionLiveness& liveness = liveness_.regions[call.region];
  DyingInputs dying{};
  for (int i = 0; i < call.inputs.count; ++i) {
    const std::uint32_t id = liveness_.storage_of[call.inputs[i]];
    const ValueStorage& storage = liveness_.storages[id];
    if (storage.lifetime.last != index) continue;
    // The same memory may come in twice: it counts once and stays for the longer use.
    int first = 0;
    while (liveness_.storage_of[call.inputs[first]] != id) ++first;
    DyingInput& input = dying[static_cast<std::size_t>(first)];
    input.bytes = storage.bytes;
    const TensorId tensor = region.inputs[static_cast<std::size_t>(i)];
    input.last_use = std::max(input.last_use, liveness.lifetime_of(tensor).last);
  }
  return dying;
}

ActivationPeak MemoryPlanner::peak_of(const Graph& graph) {
  if (plans_.size() < graph.region_count) plans_.resize(graph.region_count);
  find_liveness(graph, liveness_);
  for (std::uint32_t i = 0; i < graph.region_count; ++i) {
    plan_region(graph.regions[i], liveness_.regions[i], plans_[i]);
  }

  // What is alive during a call but neither made nor released by it.
  const auto calls = static_cast<std::int32_t>(graph.calls.size());
  change_.assign(graph.calls.size() + 1, 0);
  for (const ValueStorage& storage : liveness_.storages) {
    const std::int32_t from = storage.lifetime.first + 1;
    const std::int32_t end = std::min(storage.lifetime.last, calls);
    if (from >= end) continue;
    change_[static_cast<std::size_t>(from)] += storage.bytes;
    change_[static_cast<std::size_t>(end)] -= storage.bytes;
  }

  ActivationPeak peak;
  std::int64_t outside = 0;
  for (std::int32_t c = 0; c < calls; ++c) {
    const Call& call = graph.calls[static_cast<std::size_t>(c)];
    outside += change_[static_cast<std::size_t>(c)];
    RegionPlan& plan = plans_[call.region];
    const DyingInputs dying = dying_inputs(graph, c);
    if (!plan.has_answer || plan.dying != dying) {
      plan.has_answer = true;
      plan.dying = dying;
      plan.peak_bytes = -1;
      for (std::size_t i = 0; i < plan.own_bytes.size(); ++i) {
        std::int64_t bytes = plan.own_bytes[i];
        for (const DyingInput& input : dying) {
          if (static_cast<std::int32_t>(i) <= input.last_use) bytes += input.bytes;
        }
        if (bytes <= plan.peak_bytes) continue;
        plan.peak_bytes = bytes;
        plan.peak_op = static_cast<std::uint32_t>(i);
      }
    }
    if (outside + plan.peak_bytes > peak.bytes) {
      peak = {outside + plan.peak_bytes, static_cast<std::uint32_t>(c), call.region, plan.peak_op};
    }
  }
  return peak;
}

}  // namespace tcast
