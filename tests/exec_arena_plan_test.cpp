#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/exec/run/arena_plan.h"

namespace tcast {
namespace {

TEST_CASE("an empty arena has no bytes") { CHECK(ArenaPlan().place() == 0); }

TEST_CASE("items that are not alive together share memory, others lie side by side") {
  ArenaPlan plan;
  const std::size_t a = plan.add(100, {0, 1});
  const std::size_t b = plan.add(50, {1, 2});  // both moments included
  const std::size_t c = plan.add(90, {2, 3});
  CHECK(plan.place() == 192);
  CHECK(plan.offset(a) == 0);
  CHECK(plan.offset(b) == 128);
  CHECK(plan.offset(c) == 0);
}

TEST_CASE("what is there before and what outlives all take memory the whole time") {
  ArenaPlan plan;
  const std::size_t input = plan.add(64, {Lifetime::before, 1});
  const std::size_t result = plan.add(64, {2, Lifetime::end});
  const std::size_t whole = plan.add(64, {Lifetime::before, Lifetime::end});
  CHECK(plan.place() == 128);
  CHECK(plan.offset(input) == plan.offset(result));
  CHECK(plan.offset(whole) == 64);
}

TEST_CASE("random items that are alive together never overlap") {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    CAPTURE(round);
    ArenaPlan plan;
    struct Item {
      std::int64_t bytes;
      Lifetime lifetime;
    };
    std::vector<Item> items;
    const int moments = 1 + static_cast<int>(random() % 20);
    for (unsigned i = 0; i < 1 + random() % 40; ++i) {
      const auto first = static_cast<std::int32_t>(random() % static_cast<unsigned>(moments));
      const auto last = static_cast<std::int32_t>(
          first + static_cast<int>(random() % static_cast<unsigned>(moments - first)));
      items.push_back({static_cast<std::int64_t>(random() % 1000), {first, last}});
      REQUIRE(plan.add(items.back().bytes, items.back().lifetime) == i);
    }
    const std::int64_t total = plan.place();
    std::int64_t most = 0;  // that is alive at once: no arena is smaller
    for (int moment = 0; moment < moments; ++moment) {
      std::int64_t alive = 0;
      for (const Item& item : items) {
        if (item.lifetime.overlaps({moment, moment})) alive += item.bytes;
      }
      most = std::max(most, alive);
    }
    CHECK(total >= most);
    for (std::size_t i = 0; i < items.size(); ++i) {
      REQUIRE(plan.offset(i) % 64 == 0);
      REQUIRE(plan.offset(i) + items[i].bytes <= total);
      for (std::size_t k = 0; k < i; ++k) {
        if (!items[i].lifetime.overlaps(items[k].lifetime)) continue;
        REQUIRE((plan.offset(i) + items[i].bytes <= plan.offset(k) ||
                 plan.offset(k) + items[k].bytes <= plan.offset(i)));
      }
    }
  }
}

TEST_CASE("an arena that no machine can address is an error") {
  ArenaPlan plan;
  const std::int64_t half = std::numeric_limits<std::int64_t>::max() / 2;
  for (int i = 0; i < 3; ++i) plan.add(half, {0, 0});
  CHECK_THROWS_AS(static_cast<void>(plan.place()), Error);
}

}  // namespace
}  // namespace tcast
