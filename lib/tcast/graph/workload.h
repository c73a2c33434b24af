#pragma once

#include <cstdint>

#include "tcast/base/units.h"

namespace tcast {

enum class Phase : std::uint8_t { prefill, decode };

/// One forward pass as a rank sees it: `batch` requests, each with `query_length` new tokens that
/// follow `context_length` tokens already in the cache.
struct Workload {
  Phase phase = Phase::prefill;
  std::int64_t batch = 1;
  std::int64_t query_length = 512;
  std::int64_t context_length = 0;
  /// The graph is going to be executed: sizes that depend on the routing of tokens to experts are
  /// what can happen, not what is expected (decision D7), and constants have their numbers.
  bool executes = false;
  /// Requests of all data-parallel replicas together, dealt to them in turn, where experts are
  /// shared by replicas; `batch` is that of the busiest one. 0: every replica has `batch` requests.
  std::int64_t requests = 0;

  /// Throw Error on overflow.
  std::int64_t tokens() const { return checked_mul(batch, query_length, "tokens of a pass"); }
  std::int64_t sequence_length() const {
    return checked_add(context_length, query_length, "length of a request");
  }
};

}  // namespace tcast
