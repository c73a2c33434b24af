#include "tcast/graph/graph.h"

#include <string>

#include <doctest/doctest.h>

#include "tcast/base/error.h"

namespace tcast {
namespace {

TEST_CASE("a cache rounds each request up to whole blocks") {
  struct Row {
    CacheSpec spec;
    std::int64_t batch;
    std::int64_t length;
    std::int64_t bytes;
  };
  const Row rows[] = {
      {{.elements_per_token = 2048, .block_size = 128}, 1, 128, 128 * 2048 * 2},
      {{.elements_per_token = 2048, .block_size = 128}, 1, 129, 256 * 2048 * 2},
      // Not one block for the rest of both requests, but one for each.
      {{.elements_per_token = 2048, .block_size = 128}, 2, 129, 2 * 256 * 2048 * 2},
      {{.elements_per_token = 2048, .block_size = 1}, 3, 7, 21 * 2048 * 2},
      {{.elements_per_token = 576, .dtype = DType::i8, .block_size = 64}, 2, 100, 2 * 128 * 576},
      {{.elements_per_token = 3, .dtype = DType::i4, .block_size = 1}, 1, 1, 2},
      {{.elements_per_token = 16, .span = {.window = 1000}, .block_size = 128},
       1,
       5000,
       1024 * 16 * 2},
      {{.elements_per_token = 16, .span = {.chunk = 64}, .block_size = 16},
       4,
       5000,
       4 * 64 * 16 * 2},
      {{.elements_per_token = 16, .block_size = 128}, 0, 5000, 0},
      {{.elements_per_token = 16, .block_size = 128}, 8, 0, 0},
  };
  for (const Row& row : rows) CHECK(row.spec.bytes(row.batch, row.length) == row.bytes);
}

TEST_CASE("a cache larger than 64 bits is an error") {
  const CacheSpec spec{.elements_per_token = 1'000'000, .block_size = 1};
  CHECK_THROWS_WITH_AS(
      static_cast<void>(spec.bytes(1'000'000, 1'000'000'000)),
      "elements of the cache: 1000000000000000 x 1000000 is larger than a 64-bit size can hold",
      Error);
}

TEST_CASE("paths of scopes show list members as a star") {
  const std::string names[] = {"model", "layers", "17", "self_attn", "q_proj"};
  Region region;
  region.scopes.push_back({});
  for (std::uint32_t i = 0; i < 5; ++i) {
    region.scopes.push_back({.name = &names[i], .parent = i, .in_list = i == 2});
  }
  CHECK(path_of(region, 5) == "model.layers.*.self_attn.q_proj");
  CHECK(path_of(region, 1) == "model");
  CHECK(path_of(region, 0).empty());
  CHECK(path_of(region, 99).empty());
  CHECK(path_of(Region{}, 0).empty());
}

TEST_CASE("clearing a graph forgets its content and keeps its memory") {
  Graph graph;
  graph.regions.resize(2);
  graph.region_count = 2;
  graph.regions[0].ops.resize(100);
  graph.regions[0].tensors.resize(100);
  graph.regions[1].outputs.resize(3);
  graph.calls.resize(61);
  graph.values.resize(62);
  graph.constant_bytes = 7;
  graph.workload.batch = 9;
  graph.calls[60].region = 1;
  CHECK(graph.calls_per_region() == std::vector<std::int64_t>{60, 1});

  const Op* const ops = graph.regions[0].ops.data();
  graph.clear();
  CHECK(graph.region_count == 0);
  CHECK(graph.calls.empty());
  CHECK(graph.values.empty());
  CHECK(graph.constant_bytes == 0);
  CHECK(graph.workload.batch == 1);
  CHECK(graph.calls_per_region().empty());
  REQUIRE(graph.regions.size() == 2);
  CHECK(graph.regions[0].ops.empty());
  CHECK(graph.regions[1].outputs.empty());
  CHECK(graph.calls.capacity() >= 61);
  graph.regions[0].ops.resize(100);
  CHECK(graph.regions[0].ops.data() == ops);
}

}  // namespace
}  // namespace tcast
