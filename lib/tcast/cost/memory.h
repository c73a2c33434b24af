#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/graph/graph.h"

namespace tcast {

/// The instant of a forward pass at which most memory is taken by activations.
struct ActivationPeak {
  std::int64_t bytes = 0;
  std::uint32_t call = 0;    ///< index into Graph::calls
  std::uint32_t region = 0;  ///< its region
  std::uint32_t op = 0;      ///< index into Region::ops; inputs and outputs of this op coexist
};

/// Bytes of the caches of all calls for `batch` requests of `sequence_length` tokens each.
TCAST_API std::int64_t cache_bytes(const Graph& graph, std::int64_t batch,
                                   std::int64_t sequence_length);

/// Finds the activation peak of graphs. Keeps its working memory from graph to graph; one per
/// thread.
class TCAST_API MemoryPlanner {
 public:
  /// Peak of the bytes that are alive at once when the graph is executed as it stands, op by op:
  /// a tensor from the op that makes it to its last use, a value between calls from the call that
  /// makes it to the last one that needs it, views with the memory they show. What the model is
  /// given (token ids) is alive from the start, what nobody consumes (logits) to the end.
  /// Parameters and caches are not activations.
  ActivationPeak peak_of(const Graph& graph);

 private:
  static constexpr std::int32_t never = -1;
  static constexpr std::int32_t always = 0x7fffffff;

  /// First and last op at which a tensor's memory is taken.
  struct Lifetime {
    std::int32_t first = always;
    std::int32_t last = never;
  };

  /// An input of a region that no later call needs: its memory is free after its last use.
  struct DyingInput {
    std::int64_t bytes = 0;
    std::int32_t last_use = never;
    bool operator==(const DyingInput&) const = default;
  };
  using DyingInputs = std::array<DyingInput, max_operands>;

  /// What does not depend on the call: memory taken at each op by the region's own activations,
  /// and how long each input is needed. And the last answer, for calls that look the same.
  struct RegionPlan {
    std::vector<std::int64_t> own_bytes;        // per op
    std::vector<std::int32_t> input_last_use;   // per region input
    std::vector<std::uint32_t> output_storage;  // per region output: the tensor that has the memory
    bool has_answer = false;
    DyingInputs dying{};
    std::int64_t peak_bytes = 0;
    std::uint32_t peak_op = 0;
  };

  /// A piece of memory that passes between calls; several values may show it.
  struct Storage {
    std::int64_t bytes = 0;
    std::int32_t made_by = never;  // call
    std::int32_t last_use = never;
  };

  void plan_region(const Region& region, RegionPlan& plan);
  void connect_calls(const Graph& graph);
  std::uint32_t new_storage(std::int64_t bytes, std::int32_t made_by);
  DyingInputs dying_inputs(const Call& call, std::int32_t index, const RegionPlan& plan) const;

  std::vector<RegionPlan> plans_;
  std::vector<std::uint32_t> root_;  // per tensor of a region: the one that has the memory
  std::vector<Lifetime> lifetime_;   // per tensor of a region
  std::vector<std::int64_t> change_;
  std::vector<std::uint32_t> storage_of_value_;
  std::vector<bool> consumed_;  // per value
  std::vector<Storage> storages_;
};

}  // namespace tcast
