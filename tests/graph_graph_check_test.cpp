// The operands of every operator have the sizes that its record says: true of all that tcast
// traces, and found when a tensor has another size.
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/graph/graph_check.h"
#include "tcast/graph/trace.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

namespace tcast {
namespace {

namespace fs = std::filesystem;

std::vector<ModelOptions> variants() {
  std::vector<ModelOptions> list(5);
  list[1].parallel = {4, 2, 4};
  list[1].quantize_linear = LinearScheme::fp8;
  list[2].parallel = {8, 4, 1};
  list[2].quantize_linear = LinearScheme::w8a8_static;
  list[2].quantize_kv_cache = KvScheme::int8;
  list[3].parallel = {2, 1, 2};
  list[3].num_mtp_tokens = 2;
  list[4].quantize_linear = LinearScheme::w8a16;
  list[4].reuse_layers = false;
  for (ModelOptions& options : list) options.num_hidden_layers = 4;
  return list;
}

std::vector<Workload> passes() {
  std::vector<Workload> list = {{Phase::prefill, 2, 5, 0},
                                {Phase::prefill, 1, 16, 7},
                                {Phase::decode, 3, 1, 11},
                                {Phase::decode, 2, 3, 1}};
  Workload executed = list[0];
  executed.executes = true;
  list.push_back(executed);
  return list;
}

/// Calls `look` with graphs of all shipped models, transformed in several ways.
template <class Look>
void for_all_graphs(Look look) {
  for (const auto& entry :
       fs::directory_iterator(std::string(TCAST_SOURCE_DIR) + "/configs/models")) {
    CAPTURE(entry.path().stem().string());
    for (const ModelOptions& options : variants()) {
      HfConfig config = HfConfig::load(entry.path().string());
      ModelProfile profile = load_profile(config.model_type(), {});
      TransformerModel model = build_model(std::move(config), std::move(profile), options);
      Graph graph;
      model.trace(passes()[0], graph);
      look(graph);
      try {
        transform(model);
      } catch (const Error&) {
        continue;  // no experts, no multi-token prediction
      }
      for (const Workload& pass : passes()) {
        model.trace(pass, graph);
        look(graph);
      }
    }
  }
}

TEST_CASE("what tcast traces has the operands that its records say") {  // C3
  int graphs = 0;
  for_all_graphs([&graphs](const Graph& graph) {
    const auto fault = find_fault(graph);
    if (fault) FAIL_CHECK(fmt::format("{}: {}", fault->path, fault->text));
    ++graphs;
  });
  CHECK(graphs > 300);
}

TEST_CASE("a tensor of another size is found, whichever it is") {  // C3
  // What an operator only looks things up in, or is told as long as it likes.
  const std::set<std::string> lenient = {"permute 1", "combine 1",    "combine 2",
                                         "combine 3", "all_to_all 0", "all_to_all 1"};
  std::set<std::string> kinds;
  std::set<std::string> missed;
  for_all_graphs([&](Graph& graph) {
    for (std::uint32_t r = 0; r < graph.region_count; ++r) {
      Region& region = graph.regions[r];
      for (std::size_t o = 0; o < region.ops.size(); ++o) {
        const Op& op = region.ops[o];
        for (int i = 0; i < op.inputs.count; ++i) {
          const std::string kind = fmt::format("{} {}", name_of(op.record), i);
          if (!kinds.insert(kind + describe(op.record).substr(0, 0)).second) continue;
          Tensor& tensor = region.tensors[op.inputs[i]];
          const Shape whole = tensor.shape;
          for (int dim = 0; dim < whole.rank(); ++dim) {
            tensor.shape.set(dim, whole[dim] + 1);
            const bool larger = find_fault(graph).has_value();
            tensor.shape.set(dim, whole[dim] - 1);
            const bool smaller = find_fault(graph).has_value();
            // Longer tables and lists may be used in part; caches are as long as they are.
            const bool may_vary = tensor.kind == TensorKind::cache && dim + 1 < whole.rank();
            if (!smaller && !may_vary) missed.insert(kind);
            static_cast<void>(larger);
            tensor.shape = whole;
          }
        }
      }
    }
  });
  for (const std::string& kind : missed) {
    CAPTURE(kind);
    CHECK(lenient.count(kind) == 1);
  }
  CHECK(kinds.size() > 40);
}

TEST_CASE("operands that do not fit are told with their module") {  // C3
  struct Row {
    const char* what;
    Value (*trace)(Trace& trace, Value x);
    const char* fault;
  };
  // x is [6, 8].
  const Row rows[] = {
      {"fits", [](Trace& t, Value x) { return t.add(x, x); }, ""},
      {"stretches",
       [](Trace& t, Value x) {
         return t.add(x, t.columns(x, 8, 0, 1, {6, 1}));
       },
       ""},
      {"narrower residual",
       [](Trace& t, Value x) {
         return t.add(x, t.columns(x, 8, 0, 4, {6, 4}));
       },
       "add elements=48 second=24 f32: [6, 4] does not stretch to [6, 8]"},
      {"rows of a product that divide",
       [](Trace& t, Value x) { return t.batch_matmul(x, x, 1, 12, 6, 4); },
       "matmul m=12 n=6 k=4 f32*f32->f32 activations: its input is [6, 8], expected rows of 4"},
      {"columns beyond the row",
       [](Trace& t, Value x) {
         return t.columns(x, 8, 4, 8, {6, 8});
       },
       "slice read=48 written=48 run=8 f32->f32: its source is [6, 8], expected 52 elements or "
       "more"},
      {"wrong softmax", [](Trace& t, Value x) { return t.softmax(x, 12, 4); },
       "softmax rows=12 columns=4 f32: its input is [6, 8], expected rows of 4"},
      {"too few operands",
       [](Trace& t, Value x) {
         return t.emit(Norm{.rows = 6, .width = 8, .dtype = DType::f32}, {x}, {6, 8}, DType::f32);
       },
       "rms_norm rows=6 width=8 f32: it has no weight"},
      {"one operand too many",
       [](Trace& t, Value x) {
         return t.emit(TopK{}, {x, x}, {6, 8}, DType::f32);
       },
       "top_k rows=0 columns=0 k=0 f32: its input is [6, 8], expected rows of 0"},
      {"a result of another size",
       [](Trace& t, Value x) {
         return t.emit(Softmax{6, 8, DType::f32}, {x}, {6, 7}, DType::f32);
       },
       "softmax rows=6 columns=8 f32: its result has 42 elements, expected 48"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    Graph graph;
    Trace trace(graph, {});
    const std::string name = "mlp";
    {
      const ScopeGuard scope(trace, name, name, false);
      const Value x = trace.input("token ids", {6, 8}, DType::f32);
      trace.output("logits", row.trace(trace, x));
    }
    trace.finish();
    const auto fault = find_fault(graph);
    CHECK((fault ? fault->text : "") == row.fault);
    if (fault) CHECK(fault->path == "mlp");
  }
}

TEST_CASE("a layer that hands on another shape than it takes is told") {  // C3
  Graph graph;
  Trace trace(graph, {});
  const std::string name = "3";
  const Value x = trace.input("token ids", {6, 8}, DType::f32);
  const Value out = trace.repeat(3, 2, x, [&](Value hidden) {
    const ScopeGuard scope(trace, name, name, true);
    return trace.columns(hidden, 8, 0, 4, {6, 4});
  });
  trace.output("logits", out);
  trace.finish();
  const auto fault = find_fault(graph);
  REQUIRE(fault);
  CHECK(fault->path == "4");
  CHECK(fault->text == "its input is [6, 4], expected [6, 8]");
}

}  // namespace
}  // namespace tcast
