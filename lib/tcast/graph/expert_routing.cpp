#include "tcast/graph/expert_routing.h"

#include <algorithm>
#include <cmath>

#include "tcast/base/error.h"

namespace tcast {
namespace {

double real(std::int64_t value) { return static_cast<double>(value); }

/// Probabilities that one token chooses an expert, by its place in popularity.
class Popularity {
 public:
  explicit Popularity(const ExpertRouting& routing) : skew_(routing.skew) {
    // The most popular experts are certain to be chosen as soon as their share of top_k exceeds 1;
    // the others then share what is left. Whether the experts from number i on can share `top_k -
    // i` without exceeding 1 is decided from the least popular expert on, where sums are exact.
    double tail = 0;
    certain_ = std::min(routing.top_k, routing.num_experts);
    for (std::int64_t i = routing.num_experts - 1; i >= 0; --i) {
      tail += weight(i);
      const double left = real(routing.top_k - i);
      if (left <= 0) continue;
      if (left * weight(i) > tail) break;
      certain_ = i;
      scale_ = left / tail;
    }
  }

  double of(std::int64_t i) const { return i < certain_ ? 1 : scale_ * weight(i); }

 private:
  double weight(std::int64_t i) const { return skew_ > 0 ? std::pow(real(i + 1), -skew_) : 1; }

  double skew_;
  std::int64_t certain_ = 0;  ///< so many are chosen by every token
  double scale_ = 0;
};

/// Probability that at least one of `tokens` tokens chooses an expert.
double chosen_by_any(double probability, double tokens) {
  if (probability >= 1) return 1;
  // 1 - (1 - p)^tokens, exact for small p too.
  return -std::expm1(tokens * std::log1p(-probability));
}

}  // namespace

double expert_probability(const ExpertRouting& routing, std::int64_t popularity) {
  return Popularity(routing).of(popularity);
}

ExpertLoad expert_load(const ExpertRouting& routing, std::int64_t rank) {
  TCAST_CHECK(routing.ranks >= 1 && rank >= 0 && rank < routing.ranks, "rank of an expert group");
  ExpertLoad load;
  load.routing = routing;
  if (routing.tokens <= 0 || routing.num_experts <= 0) return load;
  const double choices = routing.tokens * real(std::min(routing.top_k, routing.num_experts));
  if (routing.skew <= 0) {
    const double held = real((routing.num_experts - rank + routing.ranks - 1) / routing.ranks);
    load.rows = choices * held / real(routing.num_experts);
    load.distinct_experts =
        held * chosen_by_any(choices / routing.tokens / real(routing.num_experts), routing.tokens);
  } else {
    const Popularity popularity(routing);
    double all = 0;
    double own = 0;
    for (std::int64_t i = 0; i < routing.num_experts; ++i) {
      const double probability = popularity.of(i);
      all += probability;
      if (i % routing.ranks != rank) continue;
      own += probability;
      load.distinct_experts += chosen_by_any(probability, routing.tokens);
    }
    load.rows = choices * (own / all);
  }
  // A single token chooses no expert twice: every row is one of another expert.
  if (routing.tokens <= 1) load.distinct_experts = load.rows;
  return load;
}

}  // namespace tcast
