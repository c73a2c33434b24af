#include <algorithm>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/cost/memory.h"

#include "region_builder.h"

namespace tcast {
namespace {

TEST_CASE("the peak is where the inputs and the output of an op coexist") {
  // 100 -> 300 -> 50: both ends of the first op are alive at once, then 350.
  Graph graph = with_regions(1);
  RegionBuilder region(graph.regions[0]);
  const TensorId in = region.input(100);
  const TensorId middle = region.op({in}, 300);
  region.output(region.op({middle}, 50));
  graph.values = {value(100), value(50)};
  graph.calls = {make_call(0, {0}, {1})};
  MemoryPlanner planner;
  const ActivationPeak peak = planner.peak_of(graph);
  CHECK(peak.bytes == 400);
  CHECK(peak.op == 0);
  CHECK(peak.call == 0);
}

TEST_CASE("a residual input stays to its last use, and to the end if a later call needs it") {
  Graph graph = with_regions(2);
  {
    RegionBuilder region(graph.regions[0]);
    const TensorId in = region.input(100);
    const TensorId up = region.op({in}, 400);
    const TensorId down = region.op({up}, 100);
    region.output(region.op({in, down}, 100));
  }
  {
    RegionBuilder region(graph.regions[1]);
    const TensorId a = region.input(100);
    const TensorId b = region.input(100);
    region.output(region.op({a, b}, 7));
  }
  graph.values = {value(100), value(100), value(100), value(7)};
  MemoryPlanner planner;

  // Two layers, then a head that only takes the last value.
  graph.regions[1].inputs.pop_back();
  graph.regions[1].ops[0].inputs.count = 1;
  graph.calls = {make_call(0, {0}, {1}), make_call(0, {1}, {2}), make_call(1, {2}, {3})};
  CHECK(planner.peak_of(graph).bytes == 600);  // in + up + down
  CHECK(planner.peak_of(graph).call == 0);
  CHECK(planner.peak_of(graph).op == 1);

  // Now the head also takes what the first layer got: 100 more while the second layer runs.
  graph.regions[1].inputs.push_back(1);
  graph.regions[1].ops[0].inputs.count = 2;
  graph.calls = {make_call(0, {0}, {1}), make_call(0, {1}, {2}), make_call(1, {2, 0}, {3})};
  const ActivationPeak peak = planner.peak_of(graph);
  CHECK(peak.bytes == 700);
  CHECK(peak.call == 1);
  CHECK(peak.region == 0);
  CHECK(peak.op == 1);
}

TEST_CASE("views keep the memory that they show, inside a region and between calls") {
  Graph graph = with_regions(2);
  {
    RegionBuilder region(graph.regions[0]);
    const TensorId big = region.op({region.input(1)}, 1000);
    region.output(region.view(big));  // one byte of a thousand
  }
  {
    RegionBuilder region(graph.regions[1]);
    const TensorId x = region.op({region.input(1)}, 5);
    region.output(region.op({x}, 5));
  }
  graph.values = {value(1), value(1), value(5)};
  graph.calls = {make_call(0, {0}, {1}), make_call(1, {1}, {2})};
  MemoryPlanner planner;
  const ActivationPeak peak = planner.peak_of(graph);
  CHECK(peak.bytes == 1005);
  CHECK(peak.call == 1);
  CHECK(peak.op == 0);
}

TEST_CASE("parameters and caches are no activations, and a pass-through makes nothing new") {
  Graph graph = with_regions(1);
  RegionBuilder region(graph.regions[0]);
  const TensorId in = region.input(10);
  const TensorId weight = region.tensor(1'000'000, TensorKind::parameter);
  const TensorId cache = region.tensor(1'000'000, TensorKind::cache);
  region.output(region.view(in));
  region.output(region.op({in, weight, cache}, 20));
  region.output(weight);
  graph.values = {value(10), value(10), value(20), value(1'000'000)};
  graph.calls = {make_call(0, {0}, {1, 2, 3})};
  CHECK(MemoryPlanner().peak_of(graph).bytes == 30);
}

TEST_CASE("results that nobody consumes stay to the end") {
  Graph graph = with_regions(2);
  RegionBuilder(graph.regions[0]).output(RegionBuilder(graph.regions[0]).op({}, 500));
  RegionBuilder(graph.regions[1]).output(RegionBuilder(graph.regions[1]).op({}, 20));
  graph.values = {value(500), value(20)};
  graph.calls = {make_call(0, {}, {0}), make_call(1, {}, {1})};
  CHECK(MemoryPlanner().peak_of(graph).bytes == 520);
}

TEST_CASE("empty graphs and regions without ops") {
  CHECK(MemoryPlanner().peak_of(Graph{}).bytes == 0);
  Graph graph = with_regions(1);
  RegionBuilder region(graph.regions[0]);
  region.output(region.input(9));
  graph.values = {value(9), value(9)};
  graph.calls = {make_call(0, {0}, {1})};
  CHECK(MemoryPlanner().peak_of(graph).bytes == 9);
}

// --- against a simulation ------------------------------------------------------------------------

/// Executes op by op with one piece of memory per tensor and call, and watches every moment.
std::int64_t simulated_peak(const Graph& graph) {
  struct Piece {
    std::int64_t bytes;
    int from;
    int to;
  };
  std::vector<Piece> pieces;
  std::map<ValueId, std::size_t> piece_of_value;
  std::map<ValueId, bool> consumed;
  int now = 0;
  for (const Call& call : graph.calls) {
    const Region& region = graph.regions[call.region];
    std::map<TensorId, std::size_t> piece_of_tensor;
    for (int i = 0; i < call.inputs.count; ++i) {
      const ValueId id = call.inputs[i];
      consumed[id] = true;
      if (piece_of_value.count(id) == 0) {
        pieces.push_back({graph.values[id].bytes(), 0, now});
        piece_of_value[id] = pieces.size() - 1;
      }
      piece_of_tensor[region.inputs[static_cast<std::size_t>(i)]] = piece_of_value[id];
    }
    const auto piece_of = [&](TensorId id) -> Piece* {
      while (region.tensors[id].storage != id) id = region.tensors[id].storage;
      const Tensor& tensor = region.tensors[id];
      if (tensor.kind == TensorKind::parameter || tensor.kind == TensorKind::cache) return nullptr;
      if (piece_of_tensor.count(id) == 0) {
        pieces.push_back({tensor.bytes(), now, now});
        piece_of_tensor[id] = pieces.size() - 1;
      }
      return &pieces[piece_of_tensor[id]];
    };
    for (const Op& op : region.ops) {
      for (const IdList* ids : {&op.inputs, &op.outputs}) {
        for (const TensorId id : *ids) {
          if (Piece* piece = piece_of(id)) piece->to = std::max(piece->to, now);
        }
      }
      ++now;
    }
    for (int i = 0; i < call.outputs.count; ++i) {
      const TensorId id = region.outputs[static_cast<std::size_t>(i)];
      if (Piece* piece = piece_of(id)) {
        piece->to = std::max(piece->to, now - 1);
        piece_of_value[call.outputs[i]] = static_cast<std::size_t>(piece - pieces.data());
      }
    }
  }
  for (const auto& [id, piece] : piece_of_value) {
    if (!consumed[id]) pieces[piece].to = now;
  }
  std::int64_t peak = 0;
  for (int t = 0; t < now; ++t) {
    std::int64_t bytes = 0;
    for (const Piece& piece : pieces) {
      if (piece.from <= t && t <= piece.to) bytes += piece.bytes;
    }
    peak = std::max(peak, bytes);
  }
  return peak;
}

/// A value's whole memory may be larger than what it shows, so values get sizes by simulation of
/// shapes only: each region is made for inputs of the sizes that its first call has.
Graph random_graph(std::mt19937& random) {
  const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  constexpr std::int64_t sizes[] = {1, 3, 10, 40, 200};
  Graph graph;
  std::vector<ValueId> known;
  for (std::size_t i = 0; i < 1 + below(3); ++i) {
    graph.values.push_back(value(sizes[below(5)]));
    known.push_back(static_cast<ValueId>(i));
  }
  graph.region_count = static_cast<std::uint32_t>(1 + below(3));
  graph.regions.resize(graph.region_count);
  for (Region& region : graph.regions) {
    RegionBuilder builder(region);
    std::vector<TensorId> tensors;
    const std::size_t inputs = 1 + below(3);
    for (std::size_t i = 0; i < inputs; ++i) tensors.push_back(builder.input(sizes[below(5)]));
    if (below(2) == 0) builder.tensor(100'000, TensorKind::parameter);
    // Every input is used by some op.
    const std::size_t ops = inputs + below(6);
    for (std::size_t i = 0; i < ops; ++i) {
      if (below(3) == 0) tensors.push_back(builder.view(tensors[below(tensors.size())]));
      const TensorId a = i < inputs ? region.inputs[i] : tensors[below(tensors.size())];
      const TensorId b = tensors[below(tensors.size())];
      tensors.push_back(builder.op({a, b}, sizes[below(5)]));
    }
    for (std::size_t i = 0; i < 1 + below(3); ++i) {
      builder.output(tensors[below(tensors.size())]);
    }
  }
  for (std::size_t i = 0; i < 1 + below(8); ++i) {
    const auto r = static_cast<std::uint32_t>(below(graph.region_count));
    Call call;
    call.region = r;
    for (std::size_t j = 0; j < graph.regions[r].inputs.size(); ++j) {
      call.inputs.push(known[below(known.size())]);
    }
    for (const TensorId id : graph.regions[r].outputs) {
      const auto made = static_cast<ValueId>(graph.values.size());
      graph.values.push_back(value(graph.regions[r].tensors[id].bytes()));
      call.outputs.push(made);
      known.push_back(made);
    }
    graph.calls.push_back(call);
  }
  return graph;
}

TEST_CASE("the peak of random graphs equals a simulation of every moment") {
  std::mt19937 random(7);
  MemoryPlanner planner;  // one for all: what it keeps must not matter
  int views_between_calls = 0;
  for (int i = 0; i < 5000; ++i) {
    const Graph graph = random_graph(random);
    CAPTURE(i);
    const ActivationPeak peak = planner.peak_of(graph);
    REQUIRE(peak.bytes == simulated_peak(graph));
    REQUIRE(peak.call < graph.calls.size());
    REQUIRE(graph.calls[peak.call].region == peak.region);
    REQUIRE(peak.op < graph.regions[peak.region].ops.size());
    for (std::uint32_t r = 0; r < graph.region_count; ++r) {
      for (const TensorId id : graph.regions[r].outputs) {
        views_between_calls += graph.regions[r].tensors[id].storage != id ? 1 : 0;
      }
    }
  }
  CHECK(views_between_calls > 100);
}

TEST_CASE("cache bytes add up over the calls") {
  Graph graph = with_regions(2);
  graph.regions[0].caches = {{.elements_per_token = 4, .dtype = DType::bf16, .block_size = 16}};
  graph.regions[1].caches = {{.elements_per_token = 4,
                              .dtype = DType::i8,
                              .span = {.causal = true, .window = 8, .chunk = 0},
                              .block_size = 1},
                             {.elements_per_token = 1, .dtype = DType::i8, .block_size = 1}};
  graph.calls = {make_call(0, {}, {}), make_call(1, {}, {}), make_call(0, {}, {})};
  CHECK(cache_bytes(graph, 2, 20) == 2 * (2 * 32 * 4 * 2) + 2 * (8 * 4) + 2 * 20);
  CHECK(cache_bytes(graph, 0, 20) == 0);
  CHECK_THROWS_AS(static_cast<void>(cache_bytes(graph, 1 << 30, std::int64_t{1} << 40)), Error);
}

}  // namespace
}  // namespace tcast
