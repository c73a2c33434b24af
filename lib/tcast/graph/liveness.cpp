#include "tcast/graph/liveness.h"

#include <algorithm>

#include "tcast/base/error.h"

namespace tcast {
namespace {

constexpr std::uint32_t no_storage = 0xffffffffU;

/// Follows the values of a graph through its calls.
class ValueFollower {
 public:
  ValueFollower(const Graph& graph, GraphLiveness& result) : graph_(graph), result_(result) {}

  void follow() {
    result_.storages.clear();
    result_.storage_of.assign(graph_.values.size(), no_storage);
    consumed_.assign(graph_.values.size(), false);
    for (std::size_t i = 0; i < graph_.calls.size(); ++i) {
      take_inputs(graph_.calls[i], static_cast<std::int32_t>(i));
      make_outputs(graph_.calls[i], static_cast<std::int32_t>(i));
    }
    for (ValueId value = 0; value < graph_.values.size(); ++value) {
      if (result_.storage_of[value] == no_storage) {
        come_in(value);  // and nobody makes or takes it
      } else if (!consumed_[value]) {
        storage_of(value).lifetime.last = Lifetime::end;
      }
    }
    for (const NamedValue& output : graph_.outputs) {
      storage_of(output.value).lifetime.last = Lifetime::end;
    }
  }

 private:
  ValueStorage& storage_of(ValueId value) { return result_.storages[result_.storage_of[value]]; }

  std::uint32_t new_storage(std::int64_t bytes, std::int32_t made_by) {
    result_.storages.push_back({bytes, {made_by, Lifetime::before}});
    return static_cast<std::uint32_t>(result_.storages.size() - 1);
  }

  void come_in(ValueId value) {
    result_.storage_of[value] = new_storage(graph_.values[value].bytes(), Lifetime::before);
  }

  void take_inputs(const Call& call, std::int32_t index) {
    for (const ValueId value : call.inputs) {
      if (result_.storage_of[value] == no_storage) come_in(value);
      storage_of(value).lifetime.last = index;
      consumed_[value] = true;
    }
  }

  void make_outputs(const Call& call, std::int32_t index) {
    for (int i = 0; i < call.outputs.count; ++i) {
      const std::uint32_t storage = storage_of_output(call, i, index);
      TCAST_CHECK(storage != no_storage, "an output shows an input of its region or is made there");
      result_.storage_of[call.outputs[i]] = storage;
    }
  }

  std::uint32_t storage_of_output(const Call& call, int i, std::int32_t index) {
    const Region& region = graph_.regions[call.region];
    const std::vector<TensorId>& roots = result_.regions[call.region].roots;
    const TensorId root = roots[region.outputs[static_cast<std::size_t>(i)]];
    const TensorKind kind = region.tensors[root].kind;
    std::uint32_t storage = no_storage;
    if (kind == TensorKind::input) {
      for (int j = 0; j < call.inputs.count; ++j) {
        if (region.inputs[static_cast<std::size_t>(j)] == root) {
          storage = result_.storage_of[call.inputs[j]];
        }
      }
      return storage;
    }
    if (kind != TensorKind::activation) return new_storage(0, index);
    for (int j = 0; j < i; ++j) {
      if (roots[region.outputs[static_cast<std::size_t>(j)]] == root) {
        storage = result_.storage_of[call.outputs[j]];
      }
    }
    return storage != no_storage ? storage : new_storage(region.tensors[root].bytes(), index);
  }

  const Graph& graph_;
  GraphLiveness& result_;
  std::vector<bool> consumed_;  // per value
};

}  // namespace

void find_liveness(const Region& region, RegionLiveness& result) {
  const std::size_t tensors = region.tensors.size();
  result.roots.resize(tensors);
  for (std::size_t i = 0; i < tensors; ++i) {
    // A view is made after what it shows, so the root of that is known.
    const TensorId storage = region.tensors[i].storage;
    TCAST_CHECK(storage <= i, "a view comes after the tensor that it shows");
    result.roots[i] = storage == i ? storage : result.roots[storage];
  }
  result.lifetimes.assign(tensors, {});
  for (std::size_t i = 0; i < region.ops.size(); ++i) {
    for (const IdList* ids : {&region.ops[i].inputs, &region.ops[i].outputs}) {
      for (const TensorId id : *ids) {
        result.lifetimes[result.roots[id]].use(static_cast<std::int32_t>(i));
      }
    }
  }
  for (const TensorId id : region.outputs) {
    result.lifetimes[result.roots[id]].last = Lifetime::end;
  }
}

void find_liveness(const Graph& graph, GraphLiveness& result) {
  if (result.regions.size() < graph.region_count) result.regions.resize(graph.region_count);
  for (std::uint32_t i = 0; i < graph.region_count; ++i) {
    find_liveness(graph.regions[i], result.regions[i]);
  }
  ValueFollower(graph, result).follow();
}

}  // namespace tcast
