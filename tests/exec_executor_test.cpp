#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/exec/run/executor.h"
#include "tcast/graph/trace.h"

namespace tcast {
namespace {

Workload one_token() {
  Workload work;
  work.query_length = 1;
  work.executes = true;
  return work;
}

Value numbers(Trace& trace, const std::vector<float>& values) {
  const Shape shape{1, static_cast<std::int64_t>(values.size())};
  return trace.cast(trace.constant(shape, [&] { return values; }), DType::f32);
}

Value times(Trace& trace, Value x, double factor) {
  return trace.unary(ElementwiseKind::scale, x, factor);
}

/// Logits of a graph without parameters, which is executed twice: nothing that is left of the first
/// pass may matter.
std::vector<float> logits_of(const Graph& graph) {
  Executor executor([](const Parameter&, std::int64_t, std::int64_t) { return std::string(); },
                    {.ranks = 1, .max_sequence_length = 1, .context = {}});
  executor.run(graph, {{0}});
  const std::vector<float> first = executor.logits(0);
  executor.run(graph, {{0}});
  CHECK(executor.logits(0) == first);
  return first;
}

TEST_CASE("a region may hand out a tensor and a view of it") {
  Graph graph;
  Trace trace(graph, one_token());
  const Value x = times(trace, numbers(trace, {1, 2, 3, 4}), 2);
  // The layers get the view, what follows them the tensor.
  const Value y =
      trace.repeat(0, 2, trace.view(x, Shape{4}), [&](Value v) { return times(trace, v, 3); });
  trace.output("logits", trace.add(trace.view(y, Shape{1, 4}), x));
  trace.finish();
  REQUIRE(graph.regions[0].outputs.size() == 2);
  CHECK(logits_of(graph) == std::vector<float>{20, 40, 60, 80});
}

TEST_CASE("layers may hand on what they got") {
  Graph graph;
  Trace trace(graph, one_token());
  const Value x = times(trace, numbers(trace, {1, 2, 3, 4}), 2);
  const Value same = trace.repeat(0, 3, x, [](Value v) { return v; });
  const Value view = trace.repeat(0, 3, same, [&](Value v) { return trace.view(v, Shape{1, 4}); });
  const Value y = trace.repeat(0, 3, view, [&](Value v) { return times(trace, v, 10); });
  trace.output("logits", trace.add(y, view));
  trace.finish();
  CHECK(logits_of(graph) == std::vector<float>{2002, 4004, 6006, 8008});
}

TEST_CASE("a region may hand on numbers that the config gives") {
  Graph graph;
  Trace trace(graph, one_token());
  const Value c = trace.constant(Shape{1, 4}, [] { return std::vector<float>{1, 2, 3, 4}; });
  const Value x = times(trace, c, 2);
  const Value y = trace.repeat(0, 2, x, [&](Value v) { return trace.add(v, c); });
  trace.output("logits", y);
  trace.finish();
  CHECK(logits_of(graph) == std::vector<float>{4, 8, 12, 16});
}

TEST_CASE("a result that is consumed later is kept as it was made") {
  Graph graph;
  Trace trace(graph, one_token());
  const Value x = times(trace, numbers(trace, {1, 2, 3, 4}), 2);
  trace.output("logits", x);
  const Value y = trace.repeat(0, 4, x, [&](Value v) { return times(trace, v, 3); });
  trace.output("logits", y, 1);
  trace.finish();
  CHECK(logits_of(graph) == std::vector<float>{2, 4, 6, 8});
}

}  // namespace
}  // namespace tcast
