// Rank groups of a layout: what must hold for any sizes, and the figures of single ones.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/model/layout.h"

#include "error_of.h"

namespace {

using tcast::Layout;
using tcast::ParallelAxis;
using tcast::ParallelOptions;
using tcast::RankGroup;

/// What routed experts do not see, and what only they see.
const std::vector<ParallelAxis> of_dense = {ParallelAxis::tp, ParallelAxis::cp, ParallelAxis::dp,
                                            ParallelAxis::pp};
const std::vector<ParallelAxis> of_experts = {ParallelAxis::etp, ParallelAxis::ep,
                                              ParallelAxis::edp, ParallelAxis::pp};

/// The ranks that work with `rank`.
std::set<std::int64_t> members(RankGroup group, std::int64_t rank) {
  const std::int64_t own = rank / group.stride % group.size;
  std::set<std::int64_t> ranks;
  for (std::int64_t i = 0; i < group.size; ++i) ranks.insert(rank + (i - own) * group.stride);
  return ranks;
}

std::size_t common(const std::set<std::int64_t>& a, const std::set<std::int64_t>& b) {
  std::vector<std::int64_t> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return both.size();
}

/// Every combination of up to 48 devices that is one.
std::vector<ParallelOptions> all_options() {
  std::vector<ParallelOptions> all;
  for (std::int64_t devices = 1; devices <= 48; ++devices) {
    for (std::int64_t tp = 1; tp <= devices; ++tp) {
      for (std::int64_t ep = 1; ep <= devices; ++ep) {
        if (devices % tp == 0 && devices % ep == 0) all.push_back({devices, tp, ep});
      }
    }
  }
  return all;
}

TEST_CASE("layout: the sizes of the axes multiply to the devices, for experts and for the rest") {
  for (const ParallelOptions& options : all_options()) {
    const Layout layout(options);
    REQUIRE(layout.devices() == options.num_devices);
    REQUIRE(layout.size(ParallelAxis::tp) == options.tp);
    REQUIRE(layout.size(ParallelAxis::ep) == options.ep);
    for (const auto* axes : {&of_dense, &of_experts}) {
      std::int64_t product = 1;
      for (const ParallelAxis axis : *axes) product *= layout.size(axis);
      REQUIRE(product == options.num_devices);
    }
  }
}

TEST_CASE("layout: the groups of an axis part the ranks, and two axes meet in one rank") {
  for (const ParallelOptions& options : all_options()) {
    CAPTURE(options.num_devices);
    CAPTURE(options.tp);
    CAPTURE(options.ep);
    const Layout layout(options);
    for (const auto* axes : {&of_dense, &of_experts}) {
      for (std::int64_t rank = 0; rank < layout.devices(); ++rank) {
        std::vector<std::set<std::int64_t>> groups;
        for (const ParallelAxis axis : *axes) {
          const RankGroup group = layout.group(axis);
          groups.push_back(members(group, rank));
          REQUIRE(groups.back().size() == static_cast<std::size_t>(group.size));
          for (const std::int64_t other : groups.back()) {
            REQUIRE(other >= 0);
            REQUIRE(other < layout.devices());
            // Whoever belongs to a rank's group has the same group: they part the ranks.
            REQUIRE(members(group, other) == groups.back());
          }
        }
        for (std::size_t i = 0; i < groups.size(); ++i) {
          for (std::size_t k = i + 1; k < groups.size(); ++k) {
            REQUIRE(common(groups[i], groups[k]) == 1);
          }
        }
      }
    }
  }
}

TEST_CASE("layout: the experts of a tensor-parallel group share it, token slices by parts") {
  for (const ParallelOptions& options : all_options()) {
    const Layout layout(options);
    for (std::int64_t rank = 0; rank < layout.devices(); ++rank) {
      const auto tensor = members(layout.group(ParallelAxis::tp), rank);
      const auto expert_tensor = members(layout.group(ParallelAxis::etp), rank);
      const auto experts = members(layout.group(ParallelAxis::ep), rank);
      const auto slices = members(layout.token_slices(), rank);
      // The ranks that cut an expert stand in one tensor-parallel group.
      REQUIRE(common(expert_tensor, tensor) == expert_tensor.size());
      REQUIRE(expert_tensor.size() * slices.size() == tensor.size());
      REQUIRE(common(expert_tensor, slices) == 1);
      // Those that route other tokens of the group are those that it exchanges rows with.
      std::set<std::int64_t> both;
      std::set_intersection(experts.begin(), experts.end(), tensor.begin(), tensor.end(),
                            std::inserter(both, both.end()));
      REQUIRE(both == slices);
    }
  }
}

TEST_CASE("layout: one device, and sizes that are no layout") {
  CHECK(Layout() == Layout(ParallelOptions{}));
  CHECK(Layout().group(ParallelAxis::tp) == RankGroup{1, 1});
  const Layout layout({24, 4, 6});
  CHECK(layout.group(ParallelAxis::dp) == RankGroup{6, 4});
  CHECK(layout.group(ParallelAxis::etp) == RankGroup{2, 1});
  CHECK(layout.group(ParallelAxis::ep) == RankGroup{6, 2});
  CHECK(layout.group(ParallelAxis::edp) == RankGroup{2, 12});
  CHECK(layout.token_slices() == RankGroup{2, 2});
  struct Row {
    ParallelOptions options;
    const char* error;
  };
  for (const Row& row : {
           Row{{0, 0, 1}, "--tp: expected a whole number >= 1, got 0"},
           Row{{4, 1, -2}, "--ep: expected a whole number >= 1, got -2"},
           Row{{3, 2, 1}, "--num-devices 3 cannot be divided into groups of --tp 2"},
           Row{{8, 4, 6}, "--ep 6 does not divide tp x dp = 4 x 2 = 8"},
       }) {
    const std::string error = error_of([&] { static_cast<void>(Layout(row.options)); });
    CHECK(error.substr(0, std::string(row.error).size()) == row.error);
  }
}

}  // namespace
