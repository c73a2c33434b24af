#include "tcast/exec/run/executor_overhead.h"

#include <algorithm>
#include <array>
#include <vector>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/run/executor.h"
#include "tcast/graph/trace.h"

namespace tcast {
namespace {

constexpr std::int64_t layers = 24;
constexpr std::int64_t ops_per_layer = 16;
constexpr std::int64_t elements = 16;
constexpr int passes = 15;

template <class Body>
double median_s(const Body& body) {
  std::array<double, passes> samples{};
  body();
  for (double& sample : samples) {
    const double start = now_s();
    body();
    sample = now_s() - start;
  }
  std::nth_element(samples.begin(), samples.begin() + passes / 2, samples.end());
  return samples[passes / 2];
}

}  // namespace

double measure_executor_overhead_s() {
  Workload work;
  work.phase = Phase::decode;
  work.query_length = 1;
  work.executes = true;
  Graph graph;
  Trace trace(graph, work);
  const Shape shape{1, elements};
  Value value = trace.cast(trace.constant(shape, [] { return std::vector<float>(elements, 1.0f); }),
                           DType::f32);
  value = trace.repeat(0, layers, value, [&](Value x) {
    for (std::int64_t i = 0; i < ops_per_layer; ++i) x = trace.unary(ElementwiseKind::scale, x);
    return x;
  });
  trace.output("logits", value);
  trace.finish();
  ExecutorOptions options;
  options.max_sequence_length = 1;
  Executor executor([](const Parameter&, std::int64_t, std::int64_t) { return std::string(); },
                    options);
  const double pass_s = median_s([&] { executor.run(graph, {{0}}); });

  const KernelResult made = make_kernel(
      Elementwise{.kind = ElementwiseKind::scale, .elements = elements, .dtype = DType::f32});
  TCAST_CHECK(made.kernel != nullptr, made.unsupported);
  const AlignedMemory memory(4096);
  const Buffer operand{memory.data(), elements * 4, DType::f32, shape};
  const KernelArgs args{{&operand, 1}, {&operand, 1}, {}, nullptr};
  constexpr std::int64_t count = layers * ops_per_layer;
  const double kernels_s = median_s([&] {
    for (std::int64_t i = 0; i < count; ++i) made.kernel->run(args);
  });
  return std::max(0.0, pass_s - kernels_s) / static_cast<double>(count);
}

}  // namespace tcast
