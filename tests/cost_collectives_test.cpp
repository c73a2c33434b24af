#include <cmath>
#include <string>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/cost/collectives.h"

namespace tcast {
namespace {

constexpr double gb = 1e9;
constexpr double us = 1e-6;

InterconnectLevel level(LinkKind kind, std::int64_t devices, double bandwidth, double latency,
                        double efficiency = 1) {
  return {.name = devices <= 8 ? "node" : "cluster",
          .kind = kind,
          .devices = devices,
          .bandwidth_bytes_per_s = bandwidth,
          .efficiency = efficiency,
          .latency_s = latency};
}

/// Nodes of eight at 100 GB/s and 1 us, 64 devices in all at 10 GB/s and 5 us.
Interconnect two_levels() {
  return {
      {level(LinkKind::crossbar, 8, 100 * gb, 1 * us), level(LinkKind::clos, 64, 10 * gb, 5 * us)}};
}

Collective make(CollectiveKind kind, std::int64_t bytes, std::int64_t ranks,
                std::int64_t stride = 1) {
  return {.kind = kind, .bytes = bytes, .group_size = ranks, .stride = stride};
}

TEST_CASE("one level: the cheaper of ring and log") {
  const double m = 1e9;
  const auto large = static_cast<std::int64_t>(m);
  struct Row {
    std::string what;
    Collective op;
    double seconds;
  };
  const Row rows[] = {
      {"large all-reduce: ring", make(CollectiveKind::all_reduce, large, 8),
       14 * us + 2 * 7.0 / 8 * m / (100 * gb)},
      {"small all-reduce: log", make(CollectiveKind::all_reduce, 8, 8),
       6 * us + 2 * 8 / (100 * gb)},
      {"all-reduce of five: log2 rounded up", make(CollectiveKind::all_reduce, 8, 5),
       6 * us + 2 * 8 / (100 * gb)},
      {"all-gather", make(CollectiveKind::all_gather, large, 4), 2 * us + 0.75 * m / (100 * gb)},
      {"reduce-scatter", make(CollectiveKind::reduce_scatter, large, 4),
       2 * us + 0.75 * m / (100 * gb)},
      {"large all-to-all: pairwise", make(CollectiveKind::all_to_all, large, 8),
       7 * us + 7.0 / 8 * m / (100 * gb)},
      {"small all-to-all: Bruck", make(CollectiveKind::all_to_all, 8, 8),
       3 * us + 3 * 8 / 2.0 / (100 * gb)},
      {"two ranks", make(CollectiveKind::all_reduce, large, 2), 2 * us + m / (100 * gb)},
      {"one rank", make(CollectiveKind::all_reduce, large, 1), 0},
      {"nothing to send", make(CollectiveKind::all_to_all, 0, 8), 0},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CHECK(collective_seconds(two_levels(), row.op) == doctest::Approx(row.seconds).epsilon(1e-12));
  }
}

TEST_CASE("two levels: inside the node first, then across") {
  const double m = 1e9;
  const auto large = static_cast<std::int64_t>(m);
  const double inside = 3 * us + 7.0 / 8 * m / (100 * gb);
  struct Row {
    std::string what;
    Collective op;
    double seconds;
  };
  const Row rows[] = {
      {"all-reduce: only an eighth of the tensor crosses nodes",
       make(CollectiveKind::all_reduce, large, 64),
       2 * inside + 14 * 5 * us + 2 * 7.0 / 8 * (m / 8) / (10 * gb)},
      {"all-gather", make(CollectiveKind::all_gather, large, 64),
       inside + 3 * 5 * us + 7.0 / 8 * (m / 8) / (10 * gb)},
      {"reduce-scatter", make(CollectiveKind::reduce_scatter, large, 64),
       inside + 3 * 5 * us + 7.0 / 8 * (m / 8) / (10 * gb)},
      {"all-to-all: directly, every pair over its own level",
       make(CollectiveKind::all_to_all, large, 64),
       7 * us + 7.0 / 64 * m / (100 * gb) + 56 * 5 * us + 56.0 / 64 * m / (10 * gb)},
      {"small all-to-all: hierarchically", make(CollectiveKind::all_to_all, 64, 64),
       3 * us + 3 * 32 / (100 * gb) + 3 * 5 * us + 3 * 32 / (10 * gb)},
      {"stride 8: one of each node, all traffic between nodes",
       make(CollectiveKind::all_reduce, large, 8, 8), 14 * 5 * us + 2 * 7.0 / 8 * m / (10 * gb)},
      {"stride 4: two of each node", make(CollectiveKind::all_reduce, large, 4, 4),
       2 * (1 * us + 0.5 * m / (100 * gb)) + 2 * 5 * us + 2 * 0.5 * (m / 2) / (10 * gb)},
      {"stride 2 within a node", make(CollectiveKind::all_gather, large, 4, 2),
       2 * us + 0.75 * m / (100 * gb)},
      {"twelve devices: eight and four", make(CollectiveKind::all_gather, large, 12),
       inside + 5 * us + 0.5 * (m / 8) / (10 * gb)},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CHECK(collective_seconds(two_levels(), row.op) == doctest::Approx(row.seconds).epsilon(1e-12));
  }
}

TEST_CASE("a part of a full mesh uses a part of its links") {
  // Ascend 910B node: 196 GB/s at 0.7 over seven links; two ranks have one of them.
  const Interconnect mesh{{level(LinkKind::full_mesh, 8, 196 * gb, 0.5 * us, 0.7)}};
  CHECK(collective_seconds(mesh, make(CollectiveKind::all_reduce, 262144, 2)) ==
        doctest::Approx(1 * us + 262144 / (19.6 * gb)).epsilon(1e-12));
  CHECK(collective_seconds(mesh, make(CollectiveKind::all_gather, 1 << 20, 8)) ==
        doctest::Approx(1.5 * us + 0.875 * (1 << 20) / (137.2 * gb)).epsilon(1e-12));
}

TEST_CASE("on a ring of links distant messages pass through the ones between") {
  const Interconnect ring{{level(LinkKind::ring, 16, 100 * gb, 1 * us)}};
  const double m = 1e9;
  CHECK(collective_seconds(ring, make(CollectiveKind::all_to_all, 1'000'000'000, 16)) ==
        doctest::Approx(15 * us + 15.0 / 16 * m / (100 * gb) * 4).epsilon(1e-12));
  // Neighbours only: as fast as on a switch.
  CHECK(collective_seconds(ring, make(CollectiveKind::all_reduce, 1'000'000'000, 16)) ==
        doctest::Approx(30 * us + 2 * 15.0 / 16 * m / (100 * gb)).epsilon(1e-12));
}

TEST_CASE("ideal: full bandwidth and no latency, and never slower") {
  const Interconnect lossy{{level(LinkKind::crossbar, 8, 100 * gb, 1 * us, 0.5)}};
  CHECK(collective_seconds(lossy, make(CollectiveKind::all_reduce, 1'000'000, 8), true) ==
        doctest::Approx(1.75 * 1e6 / (100 * gb)).epsilon(1e-12));
  for (const auto kind : {CollectiveKind::all_reduce, CollectiveKind::all_gather,
                          CollectiveKind::reduce_scatter, CollectiveKind::all_to_all}) {
    for (std::int64_t ranks = 2; ranks <= 64; ++ranks) {
      double before = 0;
      for (std::int64_t bytes = 1; bytes < (std::int64_t{1} << 40); bytes *= 8) {
        const Collective op = make(kind, bytes, ranks);
        const double seconds = collective_seconds(two_levels(), op);
        const double ideal = collective_seconds(two_levels(), op, true);
        REQUIRE(seconds >= ideal);
        REQUIRE(seconds >= before);  // more bytes never take less time
        // What every rank has to send or receive at least, at the speed of the fastest level.
        const double least = static_cast<double>(bytes) * (1 - 1.0 / static_cast<double>(ranks));
        REQUIRE(ideal >= least / (100 * gb) * 0.999);
        before = seconds;
      }
    }
  }
}

TEST_CASE("a group that the interconnect cannot join is an error that names both") {
  CHECK_THROWS_WITH_AS(
      static_cast<void>(collective_seconds(two_levels(), make(CollectiveKind::all_reduce, 1, 128))),
      "all_reduce over 128 ranks, 1 apart, needs 128 connected devices, but the interconnect of "
      "the device joins 64",
      Error);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(
          collective_seconds(two_levels(), make(CollectiveKind::all_to_all, 1, 16, 8))),
      "all_to_all over 16 ranks, 8 apart, needs 121 connected devices, but the interconnect of the "
      "device joins 64",
      Error);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(collective_seconds({}, make(CollectiveKind::all_gather, 1, 2))),
      "all_gather over 2 ranks, 1 apart, needs 2 connected devices, but the interconnect of the "
      "device joins 1",
      Error);
  CHECK_THROWS_AS(static_cast<void>(collective_seconds(
                      two_levels(), make(CollectiveKind::all_reduce, 1, std::int64_t{1} << 62, 8))),
                  Error);
  CHECK(collective_seconds({}, make(CollectiveKind::all_gather, 1, 1)) == 0);
}

TEST_CASE("odd sizes: the last member sits in an incomplete unit") {
  const Interconnect odd{{level(LinkKind::crossbar, 7, 100 * gb, 1 * us)}};
  CHECK(collective_seconds(odd, make(CollectiveKind::all_gather, 1'000'000, 2, 4)) ==
        doctest::Approx(1 * us + 0.5e6 / (100 * gb)).epsilon(1e-12));
}

TEST_CASE("explanations show every step with its numbers") {
  CHECK(explain_collective(two_levels(), make(CollectiveKind::all_reduce, 1'000'000'000, 64)) ==
        "  network: reduce_scatter over node, log: log2 N latency + (N-1)/N bytes / bandwidth with "
        "N = 8, latency = 1.00 us, bytes = 1e+09, bandwidth = 1e+11 B/s = 8.75 ms\n"
        "  network: all_reduce over cluster, ring: 2 (N-1) latency + 2 (N-1)/N bytes / bandwidth "
        "with N = 8, latency = 5.00 us, bytes = 1.25e+08, bandwidth = 1e+10 B/s = 21.9 ms\n"
        "  network: all_gather over node, log: log2 N latency + (N-1)/N bytes / bandwidth with N = "
        "8, latency = 1.00 us, bytes = 1e+09, bandwidth = 1e+11 B/s = 8.75 ms\n");
  CHECK(explain_collective(two_levels(), make(CollectiveKind::all_to_all, 1'000'000'000, 64)) ==
        "  network: node, 8 units, 100.00 B B/s per device, 1.00 us per message\n"
        "  network: cluster, 8 units, 10.00 B B/s per device, 5.00 us per message\n"
        "  network: all_to_all, every pair over the level that joins it: 88.9 ms (hierarchical: "
        "96.3 ms)\n");
  CHECK(explain_collective(two_levels(), make(CollectiveKind::all_to_all, 8, 1)) ==
        "  network: nothing to exchange\n");
}

}  // namespace
}  // namespace tcast
