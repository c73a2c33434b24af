#pragma once

#include <cstdint>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/graph/graph.h"

namespace tcast {

/// First and last moment at which memory is taken, both included. Moments are the ops of a region,
/// or the calls of a graph.
struct Lifetime {
  /// As `first`: it is there before the first moment. As `last`: nothing uses it.
  static constexpr std::int32_t before = -1;
  /// As `last`: it is still needed after the last moment.
  static constexpr std::int32_t end = 0x7fffffff;

  std::int32_t first = end;
  std::int32_t last = before;

  void use(std::int32_t moment) {
    if (moment < first) first = moment;
    if (moment > last) last = moment;
  }
  bool is_used() const { return last != before; }
  bool outlives() const { return last == end; }
  bool overlaps(const Lifetime& other) const { return first <= other.last && other.first <= last; }
  bool operator==(const Lifetime&) const = default;
};

/// Memory of the tensors of a region, in ops of the region.
struct RegionLiveness {
  /// Per tensor: the one whose memory it shows, through all views.
  std::vector<TensorId> roots;
  /// Per tensor that is its own root: from the first op that touches it or a view of it to the last
  /// one, to the end when the region hands it or a view of it out. Of other tensors without
  /// meaning. What comes into the region is there earlier: of it only `last` has a meaning.
  std::vector<Lifetime> lifetimes;

  const Lifetime& lifetime_of(TensorId tensor) const { return lifetimes[roots[tensor]]; }
};

/// A piece of memory that passes between calls; several values may show it.
struct ValueStorage {
  /// Of the tensor that a call makes, or of the value that comes from outside of the model; 0 for
  /// what a region hands on and is no activation (a parameter, a constant).
  std::int64_t bytes = 0;
  /// In calls. `first`: the call that makes it, Lifetime::before if it comes from outside. `last`:
  /// the last call that needs one of the values that show it; Lifetime::end when one of them is an
  /// output of the graph or nobody consumes it.
  Lifetime lifetime{Lifetime::before, Lifetime::before};
};

/// Memory of a graph's tensors and values.
struct GraphLiveness {
  std::vector<RegionLiveness> regions;    ///< those of Graph::regions that are in use, or more
  std::vector<std::uint32_t> storage_of;  ///< per value: index into `storages`
  std::vector<ValueStorage> storages;
};

/// Finds the lifetimes in a region. Keeps the memory that `result` has.
TCAST_API void find_liveness(const Region& region, RegionLiveness& result);

/// Finds the lifetimes in a graph: which memory values show, which call makes it, which one needs
/// it last. Keeps the memory that `result` has.
TCAST_API void find_liveness(const Graph& graph, GraphLiveness& result);

}  // namespace tcast
