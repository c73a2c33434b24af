// C10: work is counted before it is done.
#include <string>

#include <doctest/doctest.h>

#include "tcast/graph/trace.h"

#include "error_of.h"

using namespace tcast;

namespace {

constexpr const char* hint =
    " | let equal layers be traced once (no --no-reuse-layers) and experts be fused (no "
    "--skip-step patch_moe), or build fewer layers with --num-hidden-layers";

/// What a trace says that emits `ops` operators, in regions of 1,000.
std::string after_ops(std::size_t ops) {
  Graph graph;
  return error_of([&] {
    Trace trace(graph, {});
    Value x = trace.input("x", {4}, DType::f32);
    for (std::size_t i = 0; i < ops; i += 1000) {
      x = trace.repeat(static_cast<std::int64_t>(i / 1000), 1, x, [&](Value inner) {
        for (int k = 0; k < 1000; ++k) inner = trace.unary(ElementwiseKind::silu, inner);
        return inner;
      });
    }
    trace.finish();
  });
}

}  // namespace

TEST_CASE("trace: a graph of too many operators is stopped, with the number and the way out") {
  CHECK(after_ops(max_graph_ops) == "");
  CHECK(after_ops(max_graph_ops + 1000) ==
        std::string("one forward pass of this model has more than 200,000 operators") + hint);
}

TEST_CASE("trace: a region that is called too often is stopped before the calls are made") {
  Graph graph;
  Trace trace(graph, {});
  const Value x = trace.input("x", {4}, DType::f32);
  const auto body = [&](Value inner) { return trace.unary(ElementwiseKind::silu, inner); };
  CHECK(error_of([&] { trace.repeat(0, std::int64_t{1} << 40, x, body); }) ==
        std::string("one forward pass of this model has more than 800,000 calls of regions") +
            hint);
  CHECK(graph.calls.size() < 10);
  CHECK(error_of([&] { trace.repeat(0, 0, x, body); }) ==
        "a list member is called 0 times, expected at least once");
}

TEST_CASE("trace: a value is converted once for each precision and group") {
  Graph graph;
  Trace trace(graph, {});
  const Value x = trace.input("x", {4, 256}, DType::bf16);
  const Value y = trace.unary(ElementwiseKind::silu, x);
  const Value a = trace.quantize(y, DType::f8_e4m3, 128);
  const Value b = trace.quantize(x, DType::f8_e4m3, 128);  // a source that came before
  const Value c = trace.quantize(y, DType::i8, 0);
  const Value d = trace.quantize(y, DType::f8_e4m3, 0);
  const std::size_t ops = graph.regions[0].ops.size();
  CHECK(trace.quantize(y, DType::f8_e4m3, 128).tensor == a.tensor);
  CHECK(trace.quantize(x, DType::f8_e4m3, 128).tensor == b.tensor);
  CHECK(trace.quantize(y, DType::i8, 0).tensor == c.tensor);
  CHECK(trace.quantize(y, DType::f8_e4m3, 0).tensor == d.tensor);
  CHECK(graph.regions[0].ops.size() == ops);
}
