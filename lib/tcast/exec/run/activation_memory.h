#pragma once

#include <cstdint>
#include <vector>

#include "tcast/exec/memory.h"
#include "tcast/exec/run/program.h"
#include "tcast/graph/liveness.h"

// Private to this folder: the memory of what a pass computes.

namespace tcast {

/// Memory of each rank for the values inside of regions (one arena, used by call after call) and
/// for those between calls. Tensors that are not alive at the same time lie at the same place.
class ActivationMemory {
 public:
  ActivationMemory(std::int64_t ranks, const HostDTypes& host);

  /// Finds places for a graph, which must stay as it is until another one is planned, and notes
  /// them in its program. Allocates nothing.
  void plan(const Graph& graph, Program& program);
  /// Allocates what the graphs planned so far need.
  void allocate();

  /// Sets the buffers of a call on one rank, of all its tensors but parameters.
  void bind(const Graph& graph, const Program& program, const Call& call, std::int64_t rank,
            CallBuffers& buffers) const;
  /// What a call hands on and is no activation (a parameter, a constant) gets a place among the
  /// values: call it when the call has run.
  void hand_on(const Graph& graph, const Program& program, const Call& call, std::int64_t rank,
               const CallBuffers& buffers) const;
  /// A value of the graph planned last.
  Buffer value(const Graph& graph, const Program& program, ValueId id, std::int64_t rank) const;

  std::int64_t ranks() const { return static_cast<std::int64_t>(arenas_.size()); }
  /// Over all ranks: of the graphs planned so far, and as allocated.
  std::int64_t planned_bytes() const;
  std::int64_t held_bytes() const;

 private:
  std::int64_t plan_region(const Region& region, const RegionLiveness& liveness,
                           PreparedRegion& prepared) const;
  std::int64_t plan_values(const Graph& graph, Program& program) const;

  HostDTypes host_;
  GraphLiveness liveness_;  ///< of the graph planned last
  std::vector<AlignedMemory> arenas_;
  std::vector<AlignedMemory> values_;
  std::int64_t arena_bytes_ = 0;  ///< of each rank, as the next ones
  std::int64_t value_bytes_ = 0;
};

}  // namespace tcast
