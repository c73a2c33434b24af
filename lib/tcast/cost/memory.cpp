#include "tcast/cost/memory.h"

#include <algorithm>

#include "tcast/base/error.h"
#include "tcast/base/units.h"

namespace tcast {
namespace {

constexpr std::uint32_t no_storage = 0xffffffffU;

}  // namespace

std::int64_t cache_bytes(const Graph& graph, std::int64_t batch, std::int64_t sequence_length) {
  std::int64_t total = 0;
  for (const Call& call : graph.calls) {
    for (const CacheSpec& cache : graph.regions[call.region].caches) {
      total = checked_add(total, cache.bytes(batch, sequence_length), "bytes of the caches");
    }
  }
  return total;
}

void MemoryPlanner::plan_region(const Region& region, RegionPlan& plan) {
  const std::size_t tensors = region.tensors.size();
  const auto ops = static_cast<std::int32_t>(region.ops.size());
  root_.resize(tensors);
  for (std::size_t i = 0; i < tensors; ++i) {
    // A view is made after what it shows, so the root of that is known.
    const TensorId storage = region.tensors[i].storage;
    TCAST_CHECK(storage <= i, "a view comes after the tensor that it shows");
    root_[i] = storage == i ? storage : root_[storage];
  }
  lifetime_.assign(tensors, {});
  for (std::int32_t i = 0; i < ops; ++i) {
    const Op& op = region.ops[static_cast<std::size_t>(i)];
    const auto touch = [this, i](TensorId id) {
      Lifetime& lifetime = lifetime_[root_[id]];
      lifetime.first = std::min(lifetime.first, i);
      lifetime.last = i;
    };
    for (const TensorId id : op.inputs) touch(id);
    for (const TensorId id : op.outputs) touch(id);
  }
  plan.output_storage.clear();
  for (const TensorId id : region.outputs) {
    plan.output_storage.push_back(root_[id]);
    lifetime_[root_[id]].last = always;
  }
  plan.input_last_use.clear();
  for (const TensorId id : region.inputs) plan.input_last_use.push_back(lifetime_[root_[id]].last);

  // A region without ops still holds what passes through it: it has one moment, too.
  const std::int32_t moments = std::max(ops, 1);
  change_.assign(static_cast<std::size_t>(moments) + 1, 0);
  for (std::size_t i = 0; i < tensors; ++i) {
    const Tensor& tensor = region.tensors[i];
    const Lifetime& lifetime = lifetime_[i];
    if (tensor.kind != TensorKind::activation || root_[i] != i || lifetime.last < 0) continue;
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

std::uint32_t MemoryPlanner::new_storage(std::int64_t bytes, std::int32_t made_by) {
  storages_.push_back({bytes, made_by, never});
  return static_cast<std::uint32_t>(storages_.size() - 1);
}

/// Follows the values through the calls: which memory they show, who makes it, who needs it last.
void MemoryPlanner::connect_calls(const Graph& graph) {
  storages_.clear();
  storage_of_value_.assign(graph.values.size(), no_storage);
  consumed_.assign(graph.values.size(), false);
  for (std::size_t c = 0; c < graph.calls.size(); ++c) {
    const Call& call = graph.calls[c];
    const Region& region = graph.regions[call.region];
    const RegionPlan& plan = plans_[call.region];
    const auto index = static_cast<std::int32_t>(c);
    for (const ValueId value : call.inputs) {
      std::uint32_t& storage = storage_of_value_[value];
      if (storage == no_storage) storage = new_storage(graph.values[value].bytes(), never);
      storages_[storage].last_use = index;
      consumed_[value] = true;
    }
    for (int i = 0; i < call.outputs.count; ++i) {
      const TensorId root = plan.output_storage[static_cast<std::size_t>(i)];
      std::uint32_t storage = no_storage;
      if (region.tensors[root].kind == TensorKind::input) {
        for (int j = 0; j < call.inputs.count; ++j) {
          if (region.inputs[static_cast<std::size_t>(j)] == root) {
            storage = storage_of_value_[call.inputs[j]];
          }
        }
      } else if (region.tensors[root].kind == TensorKind::activation) {
        for (int j = 0; j < i; ++j) {
          if (plan.output_storage[static_cast<std::size_t>(j)] == root) {
            storage = storage_of_value_[call.outputs[j]];
          }
        }
        if (storage == no_storage) storage = new_storage(region.tensors[root].bytes(), index);
      } else {
        storage = new_storage(0, index);  // a parameter or a cache handed on
      }
      TCAST_CHECK(storage != no_storage, "an output shows an input of its region or is made there");
      storage_of_value_[call.outputs[i]] = storage;
    }
  }
  for (std::size_t value = 0; value < graph.values.size(); ++value) {
    if (storage_of_value_[value] == no_storage || consumed_[value]) continue;
    storages_[storage_of_value_[value]].last_use = always;
  }
}

MemoryPlanner::DyingInputs MemoryPlanner::dying_inputs(const Call& call, std::int32_t index,
                                                       const RegionPlan& plan) const {
  DyingInputs dying{};
  for (int i = 0; i < call.inputs.count; ++i) {
    const std::uint32_t id = storage_of_value_[call.inputs[i]];
    if (storages_[id].last_use != index) continue;
    // The same memory may come in twice: it counts once and stays for the longer use.
    int first = 0;
    while (storage_of_value_[call.inputs[first]] != id) ++first;
    DyingInput& input = dying[static_cast<std::size_t>(first)];
    input.bytes = storages_[id].bytes;
    input.last_use = std::max(input.last_use, plan.input_last_use[static_cast<std::size_t>(i)]);
  }
  return dying;
}

ActivationPeak MemoryPlanner::peak_of(const Graph& graph) {
  if (plans_.size() < graph.region_count) plans_.resize(graph.region_count);
  for (std::uint32_t i = 0; i < graph.region_count; ++i) plan_region(graph.regions[i], plans_[i]);
  connect_calls(graph);

  // What is alive during a call but neither made nor released by it.
  const auto calls = static_cast<std::int32_t>(graph.calls.size());
  change_.assign(graph.calls.size() + 1, 0);
  for (const Storage& storage : storages_) {
    const std::int32_t from = storage.made_by + 1;
    const std::int32_t end = std::min(storage.last_use, calls);
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
    const DyingInputs dying = dying_inputs(call, c, plan);
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
