#pragma once

#include <cstdint>

#include "tcast/base/export.h"

namespace tcast {

/// Which keys a query may look at. Positions are 0-based within the request; a query at position p
/// sees keys k <= p (causal), with p - k < window (if window > 0) and, with chunked attention,
/// k / chunk == p / chunk (if chunk > 0). Not causal: every key.
struct AttentionSpan {
  bool causal = true;
  std::int64_t window = 0;
  std::int64_t chunk = 0;

  bool operator==(const AttentionSpan&) const = default;
};

/// Number of (query, key) pairs that `query_length` new tokens after `context_length` cached ones
/// really attend to: the triangle of causal attention, not the square. Exact, in closed form.
TCAST_API double attended_pairs(const AttentionSpan& span, std::int64_t query_length,
                                std::int64_t context_length);

/// Number of different keys that at least one of the queries looks at: rows of K and V to read.
TCAST_API std::int64_t attended_keys(const AttentionSpan& span, std::int64_t query_length,
                                     std::int64_t context_length);

/// Most tokens of a request that a cache for this span has to keep, of `sequence_length`.
TCAST_API std::int64_t kept_tokens(const AttentionSpan& span, std::int64_t sequence_length);

}  // namespace tcast
