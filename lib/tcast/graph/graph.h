#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/graph/op.h"
#include "tcast/graph/tensor.h"
#include "tcast/graph/workload.h"

namespace tcast {

/// A module on the way from the region's root to an op: its name in the parent, its HF class.
struct Scope {
  const std::string* name = nullptr;
  const std::string* class_name = nullptr;
  std::uint32_t parent = 0;  ///< index of the enclosing scope; the first scope is its own parent
  bool in_list = false;      ///< a member of a ModuleList: its name is an index, shown as '*'
};

/// What one layer keeps between forward passes, on one rank: `elements_per_token` for each token
/// that its span lets it keep.
struct TCAST_API CacheSpec {
  std::int64_t elements_per_token = 0;
  /// Of them: keys of `key_dim` elements for each of `kv_heads` heads, the rest values.
  std::int64_t kv_heads = 1;
  std::int64_t key_dim = 0;
  DType dtype = DType::bf16;
  AttentionSpan span{};
  std::int64_t block_size = 1;  ///< tokens per block: a request's tokens are rounded up to it

  /// Bytes for `batch` requests of `sequence_length` tokens each, whole blocks per request.
  std::int64_t bytes(std::int64_t batch, std::int64_t sequence_length) const;
};

/// A list of operators that is traced once and called once or more.
struct TCAST_API Region {
  std::vector<Tensor> tensors;
  std::vector<Op> ops;
  std::vector<Scope> scopes;
  std::vector<CacheSpec> caches;
  /// Bytes that each call computes once and keeps beside weights and caches (rotary tables).
  std::int64_t constant_bytes = 0;
  /// Tensors of kind input, in the order of Call::inputs; and what it hands out.
  std::vector<TensorId> inputs;
  std::vector<TensorId> outputs;

  void clear();
};

using ValueId = std::uint32_t;

/// A value that passes between calls.
struct GraphValue {
  Shape shape{};
  DType dtype = DType::bf16;

  std::int64_t bytes() const { return bytes_of(shape.elements(), dtype); }
};

/// A value that comes from outside the model or leaves it: "token ids", "positions", "logits".
struct NamedValue {
  std::string_view name;
  /// Of several with that name: token ids and logits of multi-token-prediction depth 1, 2, ... when
  /// executing; 0 is the model itself.
  std::int64_t depth = 0;
  AttentionSpan span;  ///< of a mask; else without meaning
  ValueId value = 0;
};

/// One execution of a region, bound to the parameters and caches of one list member.
struct Call {
  std::uint32_t region = 0;
  /// Index of the member (layer) whose parameters and caches are bound; -1 outside lists.
  std::int32_t member = -1;
  /// The member whose caches are bound, if that is another: a layer that is applied again keeps the
  /// tokens of each application apart; -1: `member`.
  std::int32_t cache_member = -1;
  IdList inputs{};   ///< values for Region::inputs, in their order
  IdList outputs{};  ///< values that Region::outputs become, in their order
};

/// Most of a graph that is traced; a pass that would have more is refused. The largest graph of a
/// published model is that of Kimi-K2 with quantized experts, every layer and every expert traced
/// on its own: 186,395 operators. A forecast, which keeps three graphs with prices and lifetimes,
/// takes up to 4.6 KB of memory for each operator (measured: 10,000 layers of two kinds, each
/// traced).
inline constexpr std::size_t max_graph_ops = 200'000;
inline constexpr std::size_t max_graph_tensors = 4 * max_graph_ops;
inline constexpr std::size_t max_graph_calls = 4 * max_graph_ops;

/// One forward pass of a model on one rank: regions and, in execution order, their calls
/// (decision D4). A graph's price is the sum over its calls.
struct TCAST_API Graph {
  Workload workload;
  std::vector<Region> regions;  ///< the first `region_count` are in use; the rest is spare memory
  std::uint32_t region_count = 0;
  std::vector<Call> calls;
  std::vector<GraphValue> values;
  std::vector<NamedValue> inputs;
  std::vector<NamedValue> outputs;
  /// Numbers behind tensors of kind constant, if the workload executes.
  std::vector<std::vector<float>> constants;

  /// Bytes that are computed once and kept beside weights and caches (rotary tables).
  std::int64_t constant_bytes = 0;

  /// Forgets everything but keeps the memory, so that tracing again allocates nothing.
  void clear();

  /// Calls of each region.
  std::vector<std::int64_t> calls_per_region() const;
};

/// Dotted path of a scope with list indices as '*': "model.layers.*.self_attn.q_proj".
TCAST_API std::string path_of(const Region& region, std::uint32_t scope);

}  // namespace tcast
