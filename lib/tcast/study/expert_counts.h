#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "tcast/exec/run/executor.h"
#include "tcast/graph/graph.h"

namespace tcast {

/// Counts to how many different experts the tokens of an execution went, pass by pass and layer by
/// layer.
class ExpertCounts {
 public:
  /// A router's choice for the tokens of one rank that has all experts.
  void add(const RoutingCall& call);
  void clear() { counts_.clear(); }

  /// Distinct experts of a layer, on average over the passes of a phase and over the layers (all
  /// that were counted, or those of `layers`); nothing when none was counted.
  std::optional<double> mean(Phase phase) const;
  std::optional<double> mean(Phase phase, const std::vector<std::int64_t>& layers) const;

  /// Puts what was counted in the place of the expected distinct experts of a graph that was traced
  /// for pricing on one rank: each region gets the mean of the layers that call it.
  void put_into(Graph& graph) const;

 private:
  struct Count {
    std::int64_t distinct = 0;  ///< sum over the passes
    std::int64_t passes = 0;
  };
  std::map<std::pair<Phase, std::int64_t>, Count> counts_;  ///< by layer
  std::vector<bool> chosen_;
};

/// Deals the experts to the tokens in turn, in the place of the router's choice, so that every
/// expert gets as many rows as the others.
void choose_evenly(const RoutingCall& call);

}  // namespace tcast
