#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "tcast/exec/run/executor.h"

namespace tcast {

/// A token for which a router did not choose the experts that it was known to go to.
struct RoutingChange {
  std::size_t pass = 0;    ///< 0: the prompt, then the decode steps
  std::int64_t token = 0;  ///< of that pass, counted over all requests
  std::int64_t layer = -1;
  std::string module;  ///< path with '*' for list members
  std::vector<std::int64_t> expected;
  std::vector<std::int64_t> chosen;
  /// By how much the chosen ones were ahead of the expected ones, relative to the largest score.
  double gap = 0;
};

/// Remembers which experts every token goes to, and makes later executions of the same tokens
/// follow (decision D7), so that a choice that turns over by a rounding error changes no logits.
class RoutingLog {
 public:
  /// What follows belongs to this pass of an execution.
  void begin_pass(std::size_t pass);

  /// A router's choice: remembered when it is the first one for its token, else compared with what
  /// is remembered and, where it differs, replaced by that.
  void follow(const RoutingCall& call);

  /// What differed since the last call; each token of each router once.
  std::vector<RoutingChange> take_changes();

 private:
  /// Pass, layer, how many routers of the layer came before it in the pass, token.
  using Key = std::tuple<std::size_t, std::int64_t, std::int64_t, std::int64_t>;

  std::size_t pass_ = 0;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> uses_;  ///< by layer and rank
  std::map<Key, std::vector<std::int64_t>> choices_;
  std::map<Key, RoutingChange> changes_;
};

}  // namespace tcast
