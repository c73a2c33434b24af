#pragma once

#include <cstdint>

#include "tcast/base/export.h"

namespace tcast {

/// How the tokens of a pass come to the experts of a layer. Every token chooses `top_k` different
/// ones of `num_experts`, whatever the other tokens choose: expert e with probability p_e, where
/// the p_e sum to `top_k`. Even routing: p_e = top_k / num_experts, also where a router first
/// chooses groups of experts. With a skew, p_e = min(1, c * i^-skew) for the expert that is number
/// i = 1, 2,
/// ... in popularity, c such that the sum is right. Experts are dealt to the ranks in the order of
/// their popularity, so that rank 0 has the most of both rows and distinct experts.
struct ExpertRouting {
  double tokens = 0;             ///< of one pass, on all ranks that share the experts
  std::int64_t num_experts = 0;  ///< that a token chooses from; 0: nothing is known of the routing
  std::int64_t top_k = 0;        ///< at most num_experts
  double skew = 0;               ///< Zipf exponent, 0: even
  std::int64_t ranks = 1;        ///< that the experts are dealt to

  bool operator==(const ExpertRouting&) const = default;
};

/// Expected work of the experts of one rank in one pass: real numbers, not rounded.
struct ExpertLoad {
  double rows = 0;              ///< choices of tokens that fall on them
  double distinct_experts = 0;  ///< how many of them are chosen by at least one token
  ExpertRouting routing{};      ///< that the numbers follow from

  /// That of a part of the experts; which of them are popular is not known.
  ExpertLoad part(double share) const { return {rows * share, distinct_experts * share, routing}; }
};

/// Expected load of a rank, 0 being the busiest: rows are the sum over its experts of tokens * p_e,
/// distinct experts the sum of 1 - (1 - p_e)^tokens. Over all ranks, rows sum to tokens * top_k.
/// For one token both are the same.
TCAST_API ExpertLoad expert_load(const ExpertRouting& routing, std::int64_t rank = 0);

/// Probability that one token chooses the expert that is number `popularity` (0: the most popular).
TCAST_API double expert_probability(const ExpertRouting& routing, std::int64_t popularity);

}  // namespace tcast
