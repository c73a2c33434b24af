#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/graph/graph.h"
#include "tcast/graph/liveness.h"

namespace tcast {

/// The instant of a forward pass at which most memory is taken by activations.
struct ActivationPeak {
  std::int64_t bytes = 0;
  std::uint32_t call = 0;    ///< index into Graph::calls
  std::uint32_t region = 0;  ///< its region
  std::uint32_t op = 0;      ///< index into Region::ops; inputs and outputs of this op coexist
};

/// Memory of one device, in bytes.
struct MemoryBudget {
  std::int64_t capacity_bytes = 0;
  std::int64_t reserved_bytes = 0;  ///< of it, for others
};

/// Where the device's memory goes, in bytes on one rank.
struct TCAST_API MemoryForecast {
  std::int64_t weight_bytes = 0;
  std::int64_t kv_cache_bytes = 0;   ///< with all requests at full length, in whole blocks
  std::int64_t workspace_bytes = 0;  ///< computed once and kept: rotary tables
  std::int64_t reserved_bytes = 0;
  std::int64_t capacity_bytes = 0;

  /// The pass with the activation peak, by its place among those that were asked about, and where
  /// in its graph.
  std::size_t activation_pass = 0;
  ActivationPeak activation{};

  /// Sum of the parts. Throws Error beyond 64 bits.
  std::int64_t total_bytes() const;
  bool fits() const { return total_bytes() <= capacity_bytes; }
};

/// Bytes of the caches of all calls for `batch` requests of `sequence_length` tokens each.
TCAST_API std::int64_t cache_bytes(const Graph& graph, std::int64_t batch,
                                   std::int64_t sequence_length);

/// Finds the activation peak of graphs. Keeps its working memory from graph to graph; one per
/// thread.
class TCAST_API MemoryPlanner {
 public:
  /// Peak of the bytes that are alive at once when the graph is executed as it stands, op by op:
  /// tensors and values between calls as long as find_liveness() says. Parameters and caches are
  /// not activations.
  ActivationPeak peak_of(const Graph& graph);

 private:
  /// An input of a region that no later call needs: its memory is free after its last use.
  struct DyingInput {
    std::int64_t bytes = 0;
    std::int32_t last_use = Lifetime::before;
    bool operator==(const DyingInput&) const = default;
  };
  using DyingInputs = std::array<DyingInput, max_operands>;

  /// What does not depend on the call: memory taken at each op by the region's own activations.
  /// And the last answer, for calls that look the same.
  struct RegionPlan {
    std::vector<std::int64_t> own_bytes;  // per op
    bool has_answer = false;
    DyingInputs dying{};
    std::int64_t peak_bytes = 0;
    std::uint32_t peak_op = 0;
  };

  void plan_region(const Region& region, const RegionLiveness& liveness, RegionPlan& plan);
  DyingInputs dying_inputs(const Graph& graph, std::int32_t index) const;

  GraphLiveness liveness_;
  std::vector<RegionPlan> plans_;
  std::vector<std::int64_t> change_;
};

}  // namespace tcast
