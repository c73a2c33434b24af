#pragma once

#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "tcast/cost/pass.h"
#include "tcast/device/device_profile.h"
#include "tcast/graph/graph.h"

namespace tcast {

/// Layers of one kind of attention.
struct LayerKind {
  std::int64_t count = 0;
  AttentionSpan span{};
};

/// A small decoder: embedding, layers of some kinds, head on the last token of each request.
class Decoder final : public GraphSource {
 public:
  explicit Decoder(std::vector<LayerKind> kinds, std::int64_t hidden = 512)
      : kinds_(std::move(kinds)), hidden_(hidden) {}

  void trace(const Workload& workload, Graph& graph) const override {
    ++traces;
    graph.clear();
    graph.workload = workload;
    graph.constant_bytes = 64 * workload.sequence_length();
    const std::int64_t tokens = workload.tokens();
    ValueId x = add_value(graph, Shape{tokens, hidden_});
    {
      Region& region = open(graph);
      emit(region, Gather{.rows = tokens, .width = hidden_, .table_rows = 32000}, {},
           Shape{tokens, hidden_});
      region.outputs.push_back(0);
      call(graph, {}, {x});
    }
    std::int32_t member = 0;
    for (const LayerKind& kind : kinds_) {
      Region& region = open(graph);
      const TensorId in = input(region, Shape{tokens, hidden_});
      const TensorId q = emit(region, MatMul{.m = tokens, .n = hidden_, .k = hidden_}, {in},
                              Shape{tokens, hidden_});
      const TensorId a = emit(region,
                              Attention{.batch = workload.batch,
                                        .query_length = workload.query_length,
                                        .context_length = workload.context_length,
                                        .heads = hidden_ / 64,
                                        .kv_heads = hidden_ / 64,
                                        .qk_head_dim = 64,
                                        .v_head_dim = 64,
                                        .span = kind.span},
                              {q}, Shape{tokens, hidden_});
      const TensorId up = emit(region, MatMul{.m = tokens, .n = 4 * hidden_, .k = hidden_}, {a},
                               Shape{tokens, 4 * hidden_});
      const TensorId down = emit(region, MatMul{.m = tokens, .n = hidden_, .k = 4 * hidden_}, {up},
                                 Shape{tokens, hidden_});
      region.outputs.push_back(emit(
          region, Elementwise{.elements = tokens * hidden_, .second_elements = tokens * hidden_},
          {in, down}, Shape{tokens, hidden_}));
      region.caches.push_back(
          {.elements_per_token = 2 * hidden_, .span = kind.span, .block_size = 16});
      for (std::int64_t i = 0; i < kind.count; ++i) {
        const ValueId next = add_value(graph, Shape{tokens, hidden_});
        call(graph, {x}, {next});
        graph.calls.back().member = member++;
        x = next;
      }
    }
    Region& region = open(graph);
    const TensorId in = input(region, Shape{tokens, hidden_});
    region.outputs.push_back(emit(region, MatMul{.m = workload.batch, .n = 32000, .k = hidden_},
                                  {in}, Shape{workload.batch, 32000}));
    call(graph, {x}, {add_value(graph, Shape{workload.batch, 32000})});
  }

  std::int64_t weight_bytes() const override { return 1'000'000; }

  mutable int traces = 0;

 private:
  static ValueId add_value(Graph& graph, const Shape& shape) {
    graph.values.push_back({shape, DType::bf16});
    return static_cast<ValueId>(graph.values.size() - 1);
  }
  static Region& open(Graph& graph) {
    if (graph.region_count == graph.regions.size()) graph.regions.emplace_back();
    return graph.regions[graph.region_count++];
  }
  static TensorId tensor(Region& region, const Shape& shape, TensorKind kind) {
    const auto id = static_cast<TensorId>(region.tensors.size());
    Tensor& made = region.tensors.emplace_back();
    made.shape = shape;
    made.kind = kind;
    made.storage = id;
    return id;
  }
  static TensorId input(Region& region, const Shape& shape) {
    region.inputs.push_back(tensor(region, shape, TensorKind::input));
    return region.inputs.back();
  }
  static TensorId emit(Region& region, const OpRecord& record,
                       std::initializer_list<TensorId> inputs, const Shape& result) {
    const TensorId id = tensor(region, result, TensorKind::activation);
    Op& op = region.ops.emplace_back();
    op.record = record;
    for (const TensorId in : inputs) op.inputs.push(in);
    op.outputs.push(id);
    return id;
  }
  static void call(Graph& graph, std::initializer_list<ValueId> inputs,
                   std::initializer_list<ValueId> outputs) {
    Call& made = graph.calls.emplace_back();
    made.region = graph.region_count - 1;
    for (const ValueId id : inputs) made.inputs.push(id);
    for (const ValueId id : outputs) made.outputs.push(id);
  }

  std::vector<LayerKind> kinds_;
  std::int64_t hidden_;
};

/// A small device whose parts of an operator's time are joined by this norm.
inline DeviceProfile device_with(double exponent) {
  DeviceProfile device;
  device.name = "small";
  device.matrix[DType::bf16] = 1e12;
  device.vector[DType::f32] = 1e11;
  device.memory_bytes = 2'000'000'000;
  device.memory_bandwidth_bytes_per_s = 1e11;
  for (ClassEfficiency& efficiency : device.efficiency) {
    efficiency = {.compute = 0.7,
                  .memory = 0.8,
                  .overhead_s = 1e-6,
                  .smooth_max = exponent,
                  .basis = Source::calibrated,
                  .source = "test"};
  }
  return device;
}

}  // namespace tcast
