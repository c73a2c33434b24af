#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "tcast/exec/memory.h"
#include "tcast/exec/run/program.h"

// Private to this folder: what an executor keeps from pass to pass beside weights.

namespace tcast {

/// A cache of one layer on one rank.
struct Cache {
  std::int64_t bytes = 0;
  std::vector<std::int32_t> block_table;
  CacheView view;
  bool has_scale = false;
};

/// The caches of all layers, and the scales that the first pass fixed.
class StatePool {
 public:
  /// `memory` holds the caches and must outlive the pool.
  StatePool(std::int64_t max_sequence_length, const HostDTypes& host, MemoryPool& memory);

  /// The cache that a tensor of a call shows, set to the context of the graph's pass; made when it
  /// is first asked for.
  Cache& cache(const Graph& graph, std::size_t call, const Tensor& tensor, std::int64_t rank);
  /// Integers of a cache mean multiples of a scale that leaves the first tokens some headroom:
  /// those in `inputs`, the last of which is the cache.
  static void set_scale(Cache& cache, std::span<const Buffer> inputs);

  /// The fixed scale of an activation, input `x` of the conversion `op`: that of the first pass
  /// (the prompt) that saw it, for every pass after. 0 when all of it is zero.
  float activation_scale(const Region& region, const Op& op, std::int64_t layer, std::int64_t rank,
                         const Buffer& x);

  /// Notes that cache() is going to be asked for it; returns its bytes.
  std::int64_t foresee(const Graph& graph, std::size_t call, const Tensor& tensor,
                       std::int64_t rank);
  std::int64_t foreseen_bytes() const;
  std::int64_t held_bytes() const;

 private:
  /// Layer, which of its caches, rank.
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

  static Key key_of(const Graph& graph, std::size_t call, const Tensor& tensor, std::int64_t rank);
  CacheLayout layout_of(const CacheSpec& spec) const;
  std::int64_t blocks_of(const Graph& graph, const CacheLayout& layout) const;

  std::int64_t max_sequence_length_;
  HostDTypes host_;
  MemoryPool& memory_;
  std::map<Key, Cache> caches_;
  std::map<Key, std::int64_t> foreseen_;  ///< bytes
  /// By layer, module, conversion inside it, rank.
  std::map<std::tuple<std::int64_t, std::string, std::int64_t, std::int64_t>, float> scales_;
};

}  // namespace tcast
