#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/graph/liveness.h"

#include "region_builder.h"

namespace tcast {
namespace {

constexpr std::int32_t before = Lifetime::before;
constexpr std::int32_t end = Lifetime::end;

RegionLiveness liveness_of(const Region& region) {
  RegionLiveness result;
  find_liveness(region, result);
  return result;
}

GraphLiveness liveness_of(const Graph& graph) {
  GraphLiveness result;
  find_liveness(graph, result);
  return result;
}

void check_lifetime(const Lifetime& lifetime, std::int32_t first, std::int32_t last) {
  CHECK(lifetime.first == first);
  CHECK(lifetime.last == last);
}

TEST_CASE("a tensor lives from the op that makes it to its last use") {
  Region region;
  RegionBuilder builder(region);
  const TensorId in = builder.input(8);
  const TensorId a = builder.op({in}, 8);    // op 0
  const TensorId b = builder.op({a}, 8);     // op 1
  const TensorId c = builder.op({b, a}, 8);  // op 2
  const TensorId unused = builder.tensor(8, TensorKind::activation);
  const TensorId weight = builder.tensor(8, TensorKind::parameter);
  const TensorId d = builder.op({c, weight}, 8);  // op 3
  const RegionLiveness liveness = liveness_of(region);
  CHECK(liveness.lifetime_of(in).last == 0);
  check_lifetime(liveness.lifetime_of(a), 0, 2);
  check_lifetime(liveness.lifetime_of(b), 1, 2);
  check_lifetime(liveness.lifetime_of(c), 2, 3);
  check_lifetime(liveness.lifetime_of(weight), 3, 3);
  // A result that nobody reads is there while it is made.
  check_lifetime(liveness.lifetime_of(d), 3, 3);
  CHECK_FALSE(liveness.lifetime_of(unused).is_used());
  CHECK_FALSE(liveness.lifetime_of(d).outlives());
}

TEST_CASE("a use of a view is a use of what it shows, through views of views") {
  Region region;
  RegionBuilder builder(region);
  const TensorId in = builder.input(8);
  const TensorId a = builder.op({in}, 8);  // op 0
  const TensorId view = builder.view(a);
  const TensorId view_of_view = builder.view(view);
  const TensorId b = builder.op({in}, 8);  // op 1
  builder.op({b, view_of_view}, 8);        // op 2
  const TensorId view_of_input = builder.view(in);
  builder.op({view_of_input}, 8);  // op 3
  const RegionLiveness liveness = liveness_of(region);
  CHECK(liveness.roots[view] == a);
  CHECK(liveness.roots[view_of_view] == a);
  CHECK(liveness.roots[view_of_input] == in);
  check_lifetime(liveness.lifetime_of(view_of_view), 0, 2);
  check_lifetime(liveness.lifetime_of(a), 0, 2);
  CHECK(liveness.lifetime_of(in).last == 3);
}

TEST_CASE("what a region hands out outlives it, also when it hands out a view") {
  Region region;
  RegionBuilder builder(region);
  const TensorId in = builder.input(8);
  const TensorId a = builder.op({in}, 8);
  const TensorId b = builder.op({a}, 8);
  const TensorId c = builder.op({b}, 8);
  const TensorId untouched = builder.tensor(8, TensorKind::activation);
  builder.output(builder.view(a));
  builder.output(c);
  builder.output(untouched);
  const RegionLiveness liveness = liveness_of(region);
  check_lifetime(liveness.lifetime_of(a), 0, end);
  check_lifetime(liveness.lifetime_of(b), 1, 2);
  check_lifetime(liveness.lifetime_of(c), 2, end);
  check_lifetime(liveness.lifetime_of(untouched), end, end);
  CHECK_FALSE(liveness.lifetime_of(in).outlives());
}

TEST_CASE("a view of what comes later is refused") {
  Region region;
  RegionBuilder builder(region);
  const TensorId first = builder.tensor(8, TensorKind::activation);
  const TensorId second = builder.tensor(8, TensorKind::activation);
  region.tensors[first].storage = second;
  RegionLiveness result;
  CHECK_THROWS_AS(find_liveness(region, result), InternalError);
}

/// One region for each way in which a result gets its memory: input 0 and 1; results: made by op 0,
/// a view of it, a view of input 0, a parameter.
Graph graph_of_handed_on() {
  Graph graph = with_regions(2);
  {
    RegionBuilder builder(graph.regions[0]);
    const TensorId in = builder.input(10);
    builder.input(20);
    const TensorId made = builder.op({in}, 30);
    builder.output(made);
    builder.output(builder.view(made));
    builder.output(builder.view(in));
    builder.output(builder.tensor(1000, TensorKind::parameter));
  }
  {
    RegionBuilder builder(graph.regions[1]);
    builder.output(builder.op({builder.input(30)}, 7));
  }
  // 0, 1: from outside; 2 to 5: of the first call; 6, 7, 8: of the others.
  graph.values = {value(10),   value(20), value(30), value(1), value(1),
                  value(1000), value(7),  value(7),  value(7)};
  graph.calls = {make_call(0, {0, 1}, {2, 3, 4, 5}), make_call(1, {2}, {6}), make_call(1, {3}, {7}),
                 make_call(1, {7}, {8})};
  return graph;
}

TEST_CASE("values share the memory that they show") {
  const GraphLiveness liveness = liveness_of(graph_of_handed_on());
  const std::vector<std::uint32_t>& of = liveness.storage_of;
  CHECK(of[2] == of[3]);  // a result and a view of it
  CHECK(of[0] == of[4]);  // an input and a view of it
  CHECK(of[0] != of[1]);
  CHECK(of[2] != of[0]);
  CHECK(liveness.storages.size() == 7);
  struct Expected {
    ValueId value;
    std::int64_t bytes;
    std::int32_t first, last;
  };
  const Expected expected[] = {
      {0, 10, before, end},                 // shown by 4, which nobody consumes
      {1, 20, before, 0},   {2, 30, 0, 2},  // through its view
      {5, 0, 0, end},                       // a parameter is no activation
      {6, 7, 1, end},                       // consumed by nobody
      {7, 7, 2, 3},         {8, 7, 3, end},
  };
  for (const Expected& row : expected) {
    CAPTURE(row.value);
    const ValueStorage& storage = liveness.storages[of[row.value]];
    CHECK(storage.bytes == row.bytes);
    check_lifetime(storage.lifetime, row.first, row.last);
  }
}

TEST_CASE("an output of the graph lives to the end, whoever consumes it before") {
  Graph graph = graph_of_handed_on();
  CHECK(liveness_of(graph).storages[liveness_of(graph).storage_of[7]].lifetime.last == 3);
  graph.outputs.push_back({"logits", 0, {}, 7});
  const GraphLiveness liveness = liveness_of(graph);
  check_lifetime(liveness.storages[liveness.storage_of[7]].lifetime, 2, end);
}

TEST_CASE("an input of the graph that no call takes has memory before the first call") {
  Graph graph = graph_of_handed_on();
  graph.values.push_back(value(5));
  const GraphLiveness liveness = liveness_of(graph);
  const ValueStorage& storage = liveness.storages[liveness.storage_of[9]];
  CHECK(storage.bytes == 5);
  check_lifetime(storage.lifetime, before, before);
}

TEST_CASE("a value that is handed on from call to call keeps one piece of memory") {
  // Ten layers that hand on what the first one got, and a head that needs it.
  Graph graph = with_regions(2);
  RegionBuilder layer(graph.regions[0]);
  const TensorId carried = layer.input(10);
  const TensorId x = layer.input(10);
  layer.output(layer.view(carried));
  layer.output(layer.op({x}, 10));
  RegionBuilder head(graph.regions[1]);
  const TensorId a = head.input(10);
  const TensorId b = head.input(10);
  head.output(head.op({a, b}, 10));
  graph.values = {value(10), value(10)};
  for (ValueId i = 0; i < 10; ++i) {
    graph.values.push_back(value(10));
    graph.values.push_back(value(10));
    graph.calls.push_back(make_call(0, {2 * i, 2 * i + 1}, {2 * i + 2, 2 * i + 3}));
  }
  graph.values.push_back(value(10));
  graph.calls.push_back(make_call(1, {20, 21}, {22}));
  const GraphLiveness liveness = liveness_of(graph);
  for (ValueId i = 0; i <= 20; i += 2) CHECK(liveness.storage_of[i] == liveness.storage_of[0]);
  check_lifetime(liveness.storages[liveness.storage_of[0]].lifetime, before, 10);
  check_lifetime(liveness.storages[liveness.storage_of[3]].lifetime, 0, 1);
  CHECK(liveness.storages.size() == 13);
}

TEST_CASE("memory that is used again says nothing of the graph before") {
  GraphLiveness kept;
  find_liveness(graph_of_handed_on(), kept);
  Graph small = with_regions(1);
  RegionBuilder builder(small.regions[0]);
  builder.output(builder.op({builder.input(1)}, 2));
  small.values = {value(1), value(2)};
  small.calls = {make_call(0, {0}, {1})};
  find_liveness(small, kept);
  REQUIRE(kept.storages.size() == 2);
  REQUIRE(kept.storage_of.size() == 2);
  check_lifetime(kept.storages[kept.storage_of[0]].lifetime, before, 0);
  check_lifetime(kept.storages[kept.storage_of[1]].lifetime, 0, end);
  REQUIRE(kept.regions[0].roots.size() == 2);
  check_lifetime(kept.regions[0].lifetimes[1], 0, end);
  find_liveness(Graph{}, kept);
  CHECK(kept.storages.empty());
}

}  // namespace
}  // namespace tcast
