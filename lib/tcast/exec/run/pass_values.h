#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "tcast/exec/run/activation_memory.h"

// Private to this folder: what goes into a pass from outside, and what comes out of it.

namespace tcast {

/// True when a call takes the token ids of a multi-token-prediction depth (0: of the model).
bool takes_token_ids(const Graph& graph, const Call& call, std::int64_t depth);

/// Puts the ids of each rank where the graph takes them; a graph may take none.
void set_token_ids(const Graph& graph, const Program& program, const ActivationMemory& memory,
                   std::int64_t depth, const std::vector<std::vector<std::int64_t>>& ids);

/// Lets the registered fillers fill all other inputs of one rank.
void set_inputs(const Graph& graph, const Program& program, const ActivationMemory& memory,
                std::int64_t rank);

/// Throws Error when the graph has results but no logits, or none of a floating-point dtype.
void require_logits(const Graph& graph);

/// Bytes of all logits of a graph on one rank, as f32.
std::int64_t logits_bytes(const Graph& graph);

/// Logits of the last pass, by multi-token-prediction depth.
class LogitsStore {
 public:
  struct Logits {
    Shape shape;
    std::vector<std::vector<float>> values;  ///< per rank
  };

  explicit LogitsStore(std::int64_t ranks) : ranks_(ranks) {}

  /// Forgets depths that a graph does not have; the memory of the others is used again.
  void begin(const Graph& graph);
  /// Keeps what a call has made.
  void keep(const Graph& graph, const Program& program, const ActivationMemory& memory,
            const Call& call);
  /// Throws Error when the last pass had no such depth.
  const Logits& of(std::int64_t depth) const;
  /// Over all ranks.
  std::int64_t held_bytes() const;

 private:
  std::int64_t ranks_;
  std::map<std::int64_t, Logits> by_depth_;
};

}  // namespace tcast
