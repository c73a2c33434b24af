#include "tcast/exec/run/activation_memory.h"

#include <algorithm>
#include <utility>

#include "tcast/exec/run/arena_plan.h"

namespace tcast {

ActivationMemory::ActivationMemory(std::int64_t ranks, const HostDTypes& host)
    : host_(host),
      arenas_(static_cast<std::size_t>(ranks)),
      values_(static_cast<std::size_t>(ranks)) {}

void ActivationMemory::plan(const Graph& graph, Program& program) {
  find_liveness(graph, liveness_);
  for (std::uint32_t i = 0; i < graph.region_count; ++i) {
    arena_bytes_ = std::max(
        arena_bytes_, plan_region(graph.regions[i], liveness_.regions[i], program.regions[i]));
  }
  value_bytes_ = std::max(value_bytes_, plan_values(graph, program));
}

/// Places the activations of a region; those that leave it get no place here.
std::int64_t ActivationMemory::plan_region(const Region& region, const RegionLiveness& liveness,
                                           PreparedRegion& prepared) const {
  prepared.offsets.assign(region.tensors.size(), -1);
  ArenaPlan plan;
  std::vector<std::pair<std::size_t, std::size_t>> items;
  for (std::size_t i = 0; i < region.tensors.size(); ++i) {
    const Tensor& tensor = region.tensors[i];
    const Lifetime& lifetime = liveness.lifetimes[i];
    if (tensor.kind != TensorKind::activation || liveness.roots[i] != i) continue;
    if (!lifetime.is_used() || lifetime.outlives()) continue;
    items.emplace_back(i, plan.add(host_bytes(tensor, host_), lifetime));
  }
  const std::int64_t bytes = plan.place();
  for (const auto& [tensor, item] : items) prepared.offsets[tensor] = plan.offset(item);
  return bytes;
}

/// Places the values that pass between calls: those that show the same memory at the same place.
std::int64_t ActivationMemory::plan_values(const Graph& graph, Program& program) const {
  std::vector<std::int64_t> bytes(liveness_.storages.size(), 0);
  const auto make_room = [&](ValueId value, std::int64_t for_bytes) {
    std::int64_t& room = bytes[liveness_.storage_of[value]];
    room = std::max(room, for_bytes);
  };
  for (ValueId id = 0; id < graph.values.size(); ++id) {
    make_room(id, host_bytes(graph.values[id].shape, graph.values[id].dtype, host_));
  }
  for (const Call& call : graph.calls) {
    const Region& region = graph.regions[call.region];
    const std::vector<TensorId>& roots = liveness_.regions[call.region].roots;
    for (int i = 0; i < call.outputs.count; ++i) {
      const TensorId root = roots[region.outputs[static_cast<std::size_t>(i)]];
      make_room(call.outputs[i], host_bytes(region.tensors[root], host_));
    }
  }
  ArenaPlan plan;
  constexpr std::size_t none = ~std::size_t{0};
  std::vector<std::size_t> item_of(bytes.size(), none);
  for (const std::uint32_t storage : liveness_.storage_of) {
    if (item_of[storage] != none) continue;
    item_of[storage] = plan.add(bytes[storage], liveness_.storages[storage].lifetime);
  }
  const std::int64_t total = plan.place();
  program.value_offsets.clear();
  for (const std::uint32_t storage : liveness_.storage_of) {
    program.value_offsets.push_back(plan.offset(item_of[storage]));
  }
  return total;
}

void ActivationMemory::allocate() {
  for (AlignedMemory& arena : arenas_) grow(arena, arena_bytes_);
  for (AlignedMemory& values : values_) grow(values, value_bytes_);
}

void ActivationMemory::bind(const Graph& graph, const Program& program, const Call& call,
                            std::int64_t rank, CallBuffers& buffers) const {
  const Region& region = graph.regions[call.region];
  const std::vector<std::int64_t>& offsets = program.regions[call.region].offsets;
  const std::vector<TensorId>& roots = liveness_.regions[call.region].roots;
  buffers.resize(region.tensors.size());
  std::byte* const arena = arenas_[static_cast<std::size_t>(rank)].data();
  std::byte* const values = values_[static_cast<std::size_t>(rank)].data();
  for (std::size_t i = 0; i < region.tensors.size(); ++i) {
    const Tensor& tensor = region.tensors[i];
    if (tensor.kind == TensorKind::parameter) continue;
    Buffer& buffer = buffers[i];
    buffer.dtype = substitute_dtype(tensor.dtype, host_);
    buffer.shape = tensor.shape;
    buffer.bytes = host_bytes(tensor, host_);
    buffer.data = nullptr;
    if (offsets[roots[i]] >= 0) {
      buffer.data = arena + offsets[roots[i]];
    } else if (tensor.kind == TensorKind::constant) {
      const std::vector<float>& numbers =
          graph.constants.at(static_cast<std::size_t>(tensor.index));
      // Only read: constants belong to the graph, which lives as long as the run.
      buffer.data = static_cast<std::byte*>(static_cast<void*>(const_cast<float*>(numbers.data())));
    }
  }
  const auto bind_value = [&](TensorId tensor, ValueId value) {
    std::byte* const place = values + program.value_offsets[value];
    for (std::size_t i = 0; i < region.tensors.size(); ++i) {
      if (roots[i] == roots[tensor]) buffers[i].data = place;
    }
  };
  for (int i = 0; i < call.outputs.count; ++i) {
    const TensorId tensor = region.outputs[static_cast<std::size_t>(i)];
    if (region.tensors[roots[tensor]].kind == TensorKind::activation) {
      bind_value(tensor, call.outputs[i]);
    }
  }
  for (int i = 0; i < call.inputs.count; ++i) {
    bind_value(region.inputs[static_cast<std::size_t>(i)], call.inputs[i]);
  }
}

void ActivationMemory::hand_on(const Graph& graph, const Program& program, const Call& call,
                               std::int64_t rank, const CallBuffers& buffers) const {
  const Region& region = graph.regions[call.region];
  for (int i = 0; i < call.outputs.count; ++i) {
    const TensorId tensor = region.outputs[static_cast<std::size_t>(i)];
    const TensorKind kind = region.tensors[liveness_.regions[call.region].roots[tensor]].kind;
    if (kind == TensorKind::activation || kind == TensorKind::input) continue;
    const Buffer target = value(graph, program, call.outputs[i], rank);
    std::copy_n(buffers[tensor].data, target.bytes, target.data);
  }
}

Buffer ActivationMemory::value(const Graph& graph, const Program& program, ValueId id,
                               std::int64_t rank) const {
  const GraphValue& value = graph.values[id];
  const DType dtype = substitute_dtype(value.dtype, host_);
  return {values_[static_cast<std::size_t>(rank)].data() + program.value_offsets[id],
          bytes_of(value.shape.elements(), dtype), dtype, value.shape};
}

std::int64_t ActivationMemory::planned_bytes() const {
  return checked_mul(checked_add(arena_bytes_, value_bytes_), ranks());
}

std::int64_t ActivationMemory::held_bytes() const {
  std::int64_t bytes = 0;
  for (const AlignedMemory& arena : arenas_) bytes += arena.bytes();
  for (const AlignedMemory& values : values_) bytes += values.bytes();
  return bytes;
}

}  // namespace tcast
