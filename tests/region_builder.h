#pragma once

#include <initializer_list>

#include "tcast/graph/graph.h"

namespace tcast {

/// Builds regions of byte-sized tensors.
class RegionBuilder {
 public:
  explicit RegionBuilder(Region& region) : region_(region) {}

  TensorId tensor(std::int64_t bytes, TensorKind kind) {
    const auto id = static_cast<TensorId>(region_.tensors.size());
    Tensor tensor;
    tensor.shape = Shape{bytes};
    tensor.dtype = DType::u8;
    tensor.kind = kind;
    tensor.storage = id;
    region_.tensors.push_back(tensor);
    if (kind == TensorKind::input) region_.inputs.push_back(id);
    return id;
  }

  TensorId input(std::int64_t bytes) { return tensor(bytes, TensorKind::input); }

  TensorId view(TensorId of) {
    const auto id = static_cast<TensorId>(region_.tensors.size());
    Tensor tensor = region_.tensors[of];
    tensor.storage = of;
    tensor.shape = Shape{1};
    region_.tensors.push_back(tensor);
    return id;
  }

  TensorId op(std::initializer_list<TensorId> inputs, std::int64_t result_bytes) {
    Op op;
    for (const TensorId id : inputs) op.inputs.push(id);
    const TensorId result = tensor(result_bytes, TensorKind::activation);
    op.outputs.push(result);
    region_.ops.push_back(op);
    return result;
  }

  void output(TensorId id) { region_.outputs.push_back(id); }

 private:
  Region& region_;
};

inline Call make_call(std::uint32_t region, std::initializer_list<ValueId> inputs,
                      std::initializer_list<ValueId> outputs) {
  Call call;
  call.region = region;
  for (const ValueId id : inputs) call.inputs.push(id);
  for (const ValueId id : outputs) call.outputs.push(id);
  return call;
}

inline GraphValue value(std::int64_t bytes) { return {Shape{bytes}, DType::u8}; }

inline Graph with_regions(std::uint32_t count) {
  Graph graph;
  graph.regions.resize(count);
  graph.region_count = count;
  return graph;
}

}  // namespace tcast
