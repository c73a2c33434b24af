// Expected rows and distinct experts of a rank, against formulas, properties and random routing
// (S6).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/graph/expert_routing.h"

namespace tcast {
namespace {

using doctest::Approx;

double distinct(double tokens, std::int64_t experts, std::int64_t top_k, double skew = 0,
                std::int64_t ranks = 1, std::int64_t rank = 0) {
  return expert_load({tokens, experts, top_k, skew, ranks}, rank).distinct_experts;
}

/// Mean number of distinct experts over many passes in which every token chooses `topk_groups`
/// groups and then `top_k` different experts of these at random.
double drawn(std::int64_t tokens, std::int64_t experts, std::int64_t top_k, std::int64_t groups,
             std::int64_t topk_groups) {
  std::mt19937_64 random(20261122);
  constexpr int passes = 4000;
  std::int64_t sum = 0;
  std::vector<std::int64_t> order(static_cast<std::size_t>(experts));
  for (int pass = 0; pass < passes; ++pass) {
    std::vector<bool> chosen(static_cast<std::size_t>(experts), false);
    for (std::int64_t token = 0; token < tokens; ++token) {
      // Scores are random, so groups and experts inside them are a random choice.
      std::vector<std::int64_t> group(static_cast<std::size_t>(groups));
      for (std::int64_t g = 0; g < groups; ++g) group[static_cast<std::size_t>(g)] = g;
      std::shuffle(group.begin(), group.end(), random);
      order.clear();
      const std::int64_t size = experts / groups;
      for (std::int64_t g = 0; g < topk_groups; ++g) {
        for (std::int64_t e = 0; e < size; ++e) {
          order.push_back(group[static_cast<std::size_t>(g)] * size + e);
        }
      }
      std::shuffle(order.begin(), order.end(), random);
      for (std::int64_t k = 0; k < top_k; ++k) {
        chosen[static_cast<std::size_t>(order[static_cast<std::size_t>(k)])] = true;
      }
    }
    sum += std::count(chosen.begin(), chosen.end(), true);
  }
  return static_cast<double>(sum) / passes;
}

TEST_CASE("distinct experts of even routing are E * (1 - (1 - k / E)^T)") {  // S6, case 11
  struct Row {
    double tokens;
    std::int64_t experts, top_k;
    double expected;
  };
  for (const Row& row :
       {Row{8, 64, 4, 25.80995}, Row{16, 64, 4, 41.21126}, Row{16, 128, 8, 82.42251},
        Row{1, 64, 4, 4}, Row{1, 60, 4, 4}, Row{1, 49, 1, 1}, Row{3, 8, 8, 8}, Row{2, 4, 1, 1.75},
        Row{128, 256, 8, 251.60115}, Row{0, 64, 4, 0}, Row{1e9, 512, 10, 512}}) {
    CAPTURE(row.tokens);
    CAPTURE(row.experts);
    CHECK(distinct(row.tokens, row.experts, row.top_k) == Approx(row.expected).epsilon(1e-6));
  }
}

TEST_CASE("one token chooses exactly top_k experts, however they are spread") {  // S6
  for (const std::int64_t experts : {1, 7, 49, 60, 64, 128, 256, 512}) {
    for (const std::int64_t top_k : {1, 2, 4, 6, 8}) {
      if (top_k > experts) continue;
      for (const double skew : {0.0, 0.3, 1.0, 2.5, 10.0}) {
        CAPTURE(experts);
        CAPTURE(top_k);
        CAPTURE(skew);
        const ExpertLoad load = expert_load({1, experts, top_k, skew, 1});
        CHECK(load.distinct_experts == static_cast<double>(top_k));  // without any rounding error
        CHECK(load.rows == static_cast<double>(top_k));
      }
    }
  }
  CHECK(distinct(1, 256, 8, 0, 64) == 0.125);
}

TEST_CASE("distinct experts grow with the tokens up to all of them") {  // S6
  for (const double skew : {0.0, 0.5, 1.0, 2.0}) {
    CAPTURE(skew);
    double before = 0;
    for (const double tokens : {1.0, 2.0, 3.0, 7.0, 8.0, 16.0, 64.0, 512.0, 4096.0}) {
      const ExpertLoad load = expert_load({tokens, 128, 8, skew, 4});
      CHECK(load.distinct_experts > before);
      CHECK(load.distinct_experts <= 32);
      CHECK(load.distinct_experts <= load.rows + 1e-12);
      before = load.distinct_experts;
    }
    CHECK(distinct(1e12, 128, 8, skew, 4) == Approx(32));
  }
}

TEST_CASE("ranks together have the rows and distinct experts of the whole") {  // S6, decision D17
  for (const double skew : {0.0, 0.2, 1.0, 3.0, 10.0}) {
    for (const std::int64_t ranks : {2, 3, 8, 64}) {
      for (const double tokens : {1.0, 5.0, 33.0, 4096.0}) {
        CAPTURE(skew);
        CAPTURE(ranks);
        CAPTURE(tokens);
        const ExpertRouting whole{tokens, 192, 6, skew, 1};
        ExpertRouting spread = whole;
        spread.ranks = ranks;
        ExpertLoad sum;
        ExpertLoad before = expert_load(spread, 0);
        for (std::int64_t rank = 0; rank < ranks; ++rank) {
          const ExpertLoad load = expert_load(spread, rank);
          sum.rows += load.rows;
          sum.distinct_experts += load.distinct_experts;
          // Rank 0 is the busiest in both.
          CHECK(load.rows <= before.rows * (1 + 1e-12));
          CHECK(load.distinct_experts <= before.distinct_experts * (1 + 1e-12));
          before = load;
        }
        CHECK(sum.rows == Approx(tokens * 6).epsilon(1e-12));
        CHECK(sum.distinct_experts == Approx(expert_load(whole).distinct_experts).epsilon(1e-12));
      }
    }
  }
  // Uneven shares: the first ranks have one expert more.
  CHECK(expert_load({4, 10, 2, 0, 4}, 0).rows == Approx(2.4));
  CHECK(expert_load({4, 10, 2, 0, 4}, 3).rows == Approx(1.6));
}

TEST_CASE("a part of the experts has its part of the load") {  // S6
  const ExpertLoad whole = expert_load({8, 64, 4, 0, 2});
  const ExpertLoad part = whole.part(0.25);
  CHECK(part.rows == Approx(whole.rows / 4));
  CHECK(part.distinct_experts == Approx(whole.distinct_experts / 4));
  CHECK(part.routing == whole.routing);
}

TEST_CASE("a skew makes some experts certain and leaves the sum of the probabilities") {  // S6
  for (const double skew : {1e-6, 0.1, 0.7, 1.0, 2.0, 5.0, 10.0}) {
    for (const std::int64_t experts : {2, 8, 60, 512}) {
      for (const std::int64_t top_k : {1, 2, 8, 10}) {
        if (top_k > experts) continue;
        CAPTURE(skew);
        CAPTURE(experts);
        CAPTURE(top_k);
        const ExpertRouting routing{1, experts, top_k, skew, 1};
        double sum = 0;
        double before = 1;
        bool proportional = true;
        double ratio = 0;
        for (std::int64_t i = 0; i < experts; ++i) {
          const double p = expert_probability(routing, i);
          CHECK(p > 0);
          CHECK(p <= before * (1 + 1e-12));
          sum += p;
          before = p;
          if (p >= 1 - 1e-12) continue;  // certain
          const double r = p * std::pow(static_cast<double>(i + 1), skew);
          if (ratio > 0) proportional = proportional && std::abs(r / ratio - 1) < 1e-9;
          ratio = r;
        }
        CHECK(sum == Approx(static_cast<double>(top_k)).epsilon(1e-12));
        CHECK(proportional);
      }
    }
  }
  // By hand: weights 1, 1/2, 1/3, 1/4 and two choices. 2 * 12/25 < 1, so nothing is certain; at
  // skew 2 the first expert is (2 * 144/205 > 1), and the others share one choice: 36, 16, 9 of 61.
  CHECK(expert_probability({1, 4, 2, 1, 1}, 0) == Approx(24.0 / 25));
  CHECK(expert_probability({1, 4, 2, 2, 1}, 0) == 1);
  CHECK(expert_probability({1, 4, 2, 2, 1}, 1) == Approx(36.0 / 61));
  CHECK(expert_probability({1, 4, 2, 2, 1}, 3) == Approx(9.0 / 61));
  // Skewed routing reads fewer experts than even routing, and no skew is even routing.
  CHECK(distinct(16, 128, 8, 1) < distinct(16, 128, 8));
  CHECK(distinct(16, 128, 8, 1e-9) == Approx(distinct(16, 128, 8)).epsilon(1e-6));
  CHECK(distinct(16, 128, 8, 10) >= 8);
}

TEST_CASE("random routing of independent tokens reads as many experts as expected") {  // S6
  struct Row {
    std::int64_t tokens, experts, top_k, groups, topk_groups;
  };
  // The last two choose groups first, as DeepSeek-V3 does: expectations are the same.
  for (const Row& row : {Row{8, 64, 4, 1, 1}, Row{16, 64, 4, 1, 1}, Row{3, 60, 4, 1, 1},
                         Row{16, 128, 8, 1, 1}, Row{4, 64, 8, 8, 4}, Row{16, 64, 8, 8, 4}}) {
    CAPTURE(row.tokens);
    CAPTURE(row.experts);
    const double expected = distinct(static_cast<double>(row.tokens), row.experts, row.top_k);
    CHECK(drawn(row.tokens, row.experts, row.top_k, row.groups, row.topk_groups) ==
          Approx(expected).epsilon(0.01));
  }
}

}  // namespace
}  // namespace tcast
