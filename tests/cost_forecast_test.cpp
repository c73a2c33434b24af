#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/cost/forecast.h"

namespace tcast {
namespace {

/// Layers of one kind of attention.
struct LayerKind {
  std::int64_t count = 0;
  AttentionSpan span{};
};

/// A small decoder: embedding, layers of some kinds, head on the last token of each request.
class Decoder final : public GraphSource {
 public:
  explicit Decoder(std::vector<LayerKind> kinds, std::int64_t hidden = 512)
      : kinds_(std::move(kinds)), hidden_(hidden) {}

  void trace(const Workload& workload, Graph& graph) const override {
    ++traces;
    graph.clear();
    graph.workload = workload;
    graph.constant_bytes = 64 * workload.sequence_length();
    const std::int64_t tokens = workload.tokens();
    ValueId x = add_value(graph, Shape{tokens, hidden_});
    {
      Region& region = open(graph);
      emit(region, Gather{.rows = tokens, .width = hidden_, .table_rows = 32000}, {},
           Shape{tokens, hidden_});
      region.outputs.push_back(0);
      call(graph, {}, {x});
    }
    std::int32_t member = 0;
    for (const LayerKind& kind : kinds_) {
      Region& region = open(graph);
      const TensorId in = input(region, Shape{tokens, hidden_});
      const TensorId q = emit(region, MatMul{.m = tokens, .n = hidden_, .k = hidden_}, {in},
                              Shape{tokens, hidden_});
      const TensorId a = emit(region,
                              Attention{.batch = workload.batch,
                                        .query_length = workload.query_length,
                                        .context_length = workload.context_length,
                                        .heads = hidden_ / 64,
                                        .kv_heads = hidden_ / 64,
                                        .qk_head_dim = 64,
                                        .v_head_dim = 64,
                                        .span = kind.span},
                              {q}, Shape{tokens, hidden_});
      const TensorId up = emit(region, MatMul{.m = tokens, .n = 4 * hidden_, .k = hidden_}, {a},
                               Shape{tokens, 4 * hidden_});
      const TensorId down = emit(region, MatMul{.m = tokens, .n = hidden_, .k = 4 * hidden_}, {up},
                                 Shape{tokens, hidden_});
      region.outputs.push_back(emit(
          region, Elementwise{.elements = tokens * hidden_, .second_elements = tokens * hidden_},
          {in, down}, Shape{tokens, hidden_}));
      region.caches.push_back(
          {.elements_per_token = 2 * hidden_, .span = kind.span, .block_size = 16});
      for (std::int64_t i = 0; i < kind.count; ++i) {
        const ValueId next = add_value(graph, Shape{tokens, hidden_});
        call(graph, {x}, {next});
        graph.calls.back().member = member++;
        x = next;
      }
    }
    Region& region = open(graph);
    const TensorId in = input(region, Shape{tokens, hidden_});
    region.outputs.push_back(emit(region, MatMul{.m = workload.batch, .n = 32000, .k = hidden_},
                                  {in}, Shape{workload.batch, 32000}));
    call(graph, {x}, {add_value(graph, Shape{workload.batch, 32000})});
  }

  std::int64_t weight_bytes() const override { return 1'000'000; }

  mutable int traces = 0;

 private:
  static ValueId add_value(Graph& graph, const Shape& shape) {
    graph.values.push_back({shape, DType::bf16});
    return static_cast<ValueId>(graph.values.size() - 1);
  }
  static Region& open(Graph& graph) {
    if (graph.region_count == graph.regions.size()) graph.regions.emplace_back();
    return graph.regions[graph.region_count++];
  }
  static TensorId tensor(Region& region, const Shape& shape, TensorKind kind) {
    const auto id = static_cast<TensorId>(region.tensors.size());
    Tensor& made = region.tensors.emplace_back();
    made.shape = shape;
    made.kind = kind;
    made.storage = id;
    return id;
  }
  static TensorId input(Region& region, const Shape& shape) {
    region.inputs.push_back(tensor(region, shape, TensorKind::input));
    return region.inputs.back();
  }
  static TensorId emit(Region& region, const OpRecord& record,
                       std::initializer_list<TensorId> inputs, const Shape& result) {
    const TensorId id = tensor(region, result, TensorKind::activation);
    Op& op = region.ops.emplace_back();
    op.record = record;
    for (const TensorId in : inputs) op.inputs.push(in);
    op.outputs.push(id);
    return id;
  }
  static void call(Graph& graph, std::initializer_list<ValueId> inputs,
                   std::initializer_list<ValueId> outputs) {
    Call& made = graph.calls.emplace_back();
    made.region = graph.region_count - 1;
    for (const ValueId id : inputs) made.inputs.push(id);
    for (const ValueId id : outputs) made.outputs.push(id);
  }

  std::vector<LayerKind> kinds_;
  std::int64_t hidden_;
};

DeviceProfile device_with(double exponent) {
  DeviceProfile device;
  device.name = "small";
  device.matrix[DType::bf16] = 1e12;
  device.vector[DType::f32] = 1e11;
  device.memory_bytes = 2'000'000'000;
  device.memory_bandwidth_bytes_per_s = 1e11;
  for (ClassEfficiency& efficiency : device.efficiency) {
    efficiency = {.compute = 0.7,
                  .memory = 0.8,
                  .overhead_s = 1e-6,
                  .smooth_max = exponent,
                  .basis = Source::calibrated,
                  .source = "test"};
  }
  return device;
}

/// The sum that the quadrature stands for.
double brute_force_mean(const Decoder& decoder, const CostModel& cost, const DeviceProfile& device,
                        const ForecastRequest& request) {
  Forecaster forecaster(decoder, cost, device);
  PhaseForecast step;
  double sum = 0;
  for (std::int64_t i = 1; i < request.output_length; ++i) {
    forecaster.price({.phase = Phase::decode,
                      .batch = request.batch,
                      .query_length = 1,
                      .context_length = request.input_length + i - 1},
                     step);
    sum += step.total_s;
  }
  return sum / static_cast<double>(request.output_length - 1);
}

TEST_CASE("the mean over whole numbers is exact for polynomials of the second degree") {
  for (std::int64_t begin : {0, 1, 7, 1000}) {
    for (std::int64_t count = 1; count < 70; ++count) {
      const auto f = [](std::int64_t x) {
        const auto t = static_cast<double>(x);
        return 3 + 0.5 * t + 0.01 * t * t;
      };
      double sum = 0;
      for (std::int64_t x = begin; x < begin + count; ++x) sum += f(x);
      int evaluations = 0;
      const double mean = mean_over_integers(begin, begin + count, [&](std::int64_t x) {
        REQUIRE(x >= begin);
        REQUIRE(x < begin + count);
        ++evaluations;
        return f(x);
      });
      REQUIRE(mean == doctest::Approx(sum / static_cast<double>(count)).epsilon(1e-9));
      REQUIRE(evaluations <= 3);
    }
  }
}

TEST_CASE("the time per output token equals the mean over every step") {
  const AttentionSpan full;
  const AttentionSpan window{.causal = true, .window = 300, .chunk = 0};
  const AttentionSpan chunk{.causal = true, .window = 0, .chunk = 128};
  struct Row {
    std::string what;
    std::vector<LayerKind> kinds;
    ForecastRequest request;
  };
  const Row rows[] = {
      {"full attention", {{8, full}}, {.batch = 4, .input_length = 512, .output_length = 700}},
      {"many requests, attention dominates",
       {{8, full}},
       {.batch = 64, .input_length = 16, .output_length = 2000}},
      {"one step", {{8, full}}, {.batch = 1, .input_length = 100, .output_length = 2}},
      {"three steps", {{8, full}}, {.batch = 1, .input_length = 100, .output_length = 4}},
      {"a window that fills on the way",
       {{4, full}, {20, window}},
       {.batch = 64, .input_length = 100, .output_length = 900}},
      {"a window that is full from the start",
       {{24, window}},
       {.batch = 64, .input_length = 300, .output_length = 900}},
      {"a window that fills with the last step",
       {{24, window}},
       {.batch = 64, .input_length = 100, .output_length = 201}},
      {"chunks: the cost jumps down at each boundary",
       {{4, full}, {20, chunk}},
       {.batch = 64, .input_length = 100, .output_length = 900}},
      {"more chunks than intervals that are evaluated",
       {{4, full}, {20, {.causal = true, .window = 0, .chunk = 16}}},
       {.batch = 64, .input_length = 100, .output_length = 3000}},
      {"window and chunks",
       {{4, full}, {4, window}, {4, chunk}},
       {.batch = 32, .input_length = 1, .output_length = 1500}},
  };
  for (const double exponent : {1.5, 2.0, std::numeric_limits<double>::infinity()}) {
    const DeviceProfile device = device_with(exponent);
    const RooflineModel cost(device);
    for (const Row& row : rows) {
      CAPTURE(row.what);
      CAPTURE(exponent);
      const Decoder decoder(row.kinds);
      Forecaster forecaster(decoder, cost, device);
      const Forecast& forecast = forecaster.run(row.request);
      const double exact = brute_force_mean(decoder, cost, device, row.request);
      CHECK(std::abs(forecast.tpot_s / exact - 1) < 1e-3);
    }
  }
}

TEST_CASE("times belong together") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{8}});
  Forecaster forecaster(decoder, cost, device);
  const Forecast& forecast =
      forecaster.run({.batch = 4, .input_length = 512, .output_length = 128});
  CHECK(forecast.ttft_s == forecast.prefill_s);
  CHECK(forecast.end_to_end_s == doctest::Approx(forecast.ttft_s + 127 * forecast.tpot_s));
  CHECK(forecast.output_tokens_per_s == doctest::Approx(4 * 128 / forecast.end_to_end_s));
  CHECK(forecast.decode.graph.workload.context_length == 512 + 64);
  CHECK(forecast.decode.graph.workload.query_length == 1);
  CHECK(forecast.prefill.graph.workload.query_length == 512);
  CHECK(forecast.decode_step_s == forecast.decode.total_s);
  // prefill, last step (memory), decode step, and two more nodes of the mean.
  CHECK(decoder.traces == 5);
}

TEST_CASE("rows count the calls of their region and add up to the phase") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{3}, LayerKind{5, {.causal = true, .window = 64, .chunk = 0}}});
  Forecaster forecaster(decoder, cost, device);
  const Forecast& forecast = forecaster.run({.input_length = 100, .output_length = 10});
  for (const PhaseForecast* phase : {&forecast.prefill, &forecast.decode}) {
    REQUIRE(phase->ops.size() == 1 + 2 * 5 + 1);
    double sum = 0;
    for (const OpRow& row : phase->ops) {
      sum += static_cast<double>(row.calls) * row.estimate.total_s;
      const std::int64_t calls[] = {1, 3, 5, 1};
      CHECK(row.calls == calls[row.region]);
      CHECK(row.estimate.total_s ==
            cost.estimate(phase->graph.regions[row.region].ops[row.op].record).total_s);
    }
    CHECK(sum == doctest::Approx(phase->total_s).epsilon(1e-12));
  }
}

TEST_CASE("a single output token needs no decode step") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{8}});
  Forecaster forecaster(decoder, cost, device);
  static_cast<void>(forecaster.run({.input_length = 64, .output_length = 9}));
  const Forecast& forecast = forecaster.run({.batch = 2, .input_length = 64, .output_length = 1});
  CHECK(forecast.tpot_s == 0);
  CHECK(forecast.decode_step_s == 0);
  CHECK(forecast.decode.ops.empty());
  CHECK(forecast.end_to_end_s == forecast.ttft_s);
  CHECK(forecast.output_tokens_per_s == doctest::Approx(2 / forecast.ttft_s));
}

TEST_CASE("parts of memory") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{3}, LayerKind{5, {.causal = true, .window = 100, .chunk = 0}}});
  Forecaster forecaster(decoder, cost, device);
  const ForecastRequest request{
      .batch = 2, .input_length = 1000, .output_length = 30, .reserved_bytes = 5'000'000};
  const MemoryForecast memory = forecaster.run(request).memory;
  CHECK(memory.weight_bytes == 1'000'000);
  // 1030 tokens in 65 blocks of 16; a window of 100 in 7.
  CHECK(memory.kv_cache_bytes == 2 * 1024 * 2 * (3 * 65 * 16 + 5 * 7 * 16));
  // In the second kind's layers: the residual, the wide activation and what it is made of.
  CHECK(memory.activation.bytes == 2000 * 512 * 2 * 6);
  CHECK(memory.activation_phase == Phase::prefill);
  CHECK(memory.workspace_bytes == 64 * 1029);  // the last step's sequence
  CHECK(memory.reserved_bytes == 5'000'000);
  CHECK(memory.capacity_bytes == device.memory_bytes);
  CHECK(memory.total_bytes() == memory.weight_bytes + memory.kv_cache_bytes +
                                    memory.activation.bytes + memory.workspace_bytes + 5'000'000);
  CHECK(memory.fits());
  CHECK(forecaster.memory_of(request).total_bytes() == memory.total_bytes());

  ForecastRequest too_much = request;
  too_much.reserved_bytes = device.memory_bytes;
  CHECK_FALSE(forecaster.memory_of(too_much).fits());
}

TEST_CASE("with short inputs the last decode step can be the peak") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  // The head's logits are the same in both phases; with an input of one token so is the rest.
  const Decoder decoder({LayerKind{1}});
  Forecaster forecaster(decoder, cost, device);
  CHECK(forecaster.memory_of({.input_length = 1, .output_length = 5}).activation_phase ==
        Phase::prefill);
}

TEST_CASE("the largest batch and context are those after which it no longer fits") {
  const Decoder decoder({LayerKind{8}});
  // From "not even one" over a few to many; with blocks of 16 tokens memory grows in stairs.
  for (const std::int64_t capacity : {3'000'000LL, 5'000'000LL, 9'000'000LL, 20'000'000LL,
                                      50'000'000LL, 123'456'789LL, 2'000'000'000LL}) {
    for (const std::int64_t other : {1, 3, 40, 700}) {
      CAPTURE(capacity);
      CAPTURE(other);
      DeviceProfile device = device_with(2);
      device.memory_bytes = capacity;
      const RooflineModel cost(device);
      Forecaster forecaster(decoder, cost, device);

      ForecastRequest request{.input_length = other, .output_length = 20};
      const auto batch = forecaster.largest_batch(request);
      REQUIRE(batch.has_value());
      request.batch = *batch + 1;
      CHECK_FALSE(forecaster.memory_of(request).fits());
      request.batch = *batch;
      if (*batch > 0) CHECK(forecaster.memory_of(request).fits());

      request.batch = other;
      const auto context = forecaster.largest_context(request);
      REQUIRE(context.has_value());
      request.input_length = *context > 0 ? *context - request.output_length + 1 : 1;
      CHECK_FALSE(forecaster.memory_of(request).fits());
      request.input_length -= 1;
      if (*context > 0) CHECK(forecaster.memory_of(request).fits());
    }
  }
}

TEST_CASE("the inverse questions need few passes") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{8}});
  Forecaster forecaster(decoder, cost, device);
  REQUIRE(forecaster.largest_batch({.input_length = 1000, .output_length = 100}).has_value());
  CHECK(decoder.traces <= 2 * 16);
  decoder.traces = 0;
  REQUIRE(*forecaster.largest_context({.input_length = 1000, .output_length = 100}) > 10'000);
  CHECK(decoder.traces <= 2 * 24);
}

/// Takes no memory that grows.
class Constant final : public GraphSource {
 public:
  void trace(const Workload& workload, Graph& graph) const override {
    graph.clear();
    graph.workload = workload;
  }
  std::int64_t weight_bytes() const override { return 1; }
};

TEST_CASE("when memory does not grow there is no largest size") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Constant source;
  Forecaster forecaster(source, cost, device);
  CHECK_FALSE(forecaster.largest_batch({}).has_value());
  CHECK_FALSE(forecaster.largest_context({}).has_value());
  const Forecast& forecast = forecaster.run({});
  CHECK(forecast.end_to_end_s == 0);
  CHECK(forecast.output_tokens_per_s == 0);
}

TEST_CASE("a repeated forecast gives the same numbers in the same memory") {
  const DeviceProfile device = device_with(1.5);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{8}});
  Forecaster forecaster(decoder, cost, device);
  const Forecast& first = forecaster.run({.batch = 2});
  const double end_to_end_s = first.end_to_end_s;
  const Op* const ops = first.decode.graph.regions[1].ops.data();
  const OpRow* const rows = first.prefill.ops.data();
  static_cast<void>(forecaster.run({.batch = 7, .input_length = 99, .output_length = 3}));
  const Forecast& again = forecaster.run({.batch = 2});
  CHECK(again.end_to_end_s == end_to_end_s);
  CHECK(again.decode.graph.regions[1].ops.data() == ops);
  CHECK(again.prefill.ops.data() == rows);
}

TEST_CASE("requests that make no sense are errors") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{8}});
  Forecaster forecaster(decoder, cost, device);
  struct Row {
    ForecastRequest request;
    const char* message;
  };
  const Row rows[] = {
      {{.batch = 0}, "batch size: expected at least 1, got 0"},
      {{.input_length = -3}, "input length: expected at least 1, got -3"},
      {{.output_length = 0}, "output length: expected at least 1, got 0"},
      {{.reserved_bytes = -1}, "reserved memory: expected at least 0 bytes, got -1"},
  };
  for (const Row& row : rows) {
    CHECK_THROWS_WITH_AS(static_cast<void>(forecaster.run(row.request)), row.message, Error);
    CHECK_THROWS_WITH_AS(static_cast<void>(forecaster.memory_of(row.request)), row.message, Error);
  }
  // Sizes beyond 64 bits are errors as well, not wrong numbers.
  const std::int64_t huge = std::int64_t{1} << 40;
  CHECK_THROWS_WITH_AS(
      static_cast<void>(forecaster.run({.batch = huge, .input_length = huge})),
      "1099511627776 requests of 1099511627904 tokens are more than the 1099511627776 tokens that "
      "tcast calculates with",
      Error);
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS_WITH_AS(static_cast<void>(forecaster.run({.input_length = most})),
                       "length of a request: 9223372036854775807 + 128 is larger than a 64-bit "
                       "size can hold",
                       Error);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(forecaster.memory_of({.reserved_bytes = most}).fits()),
      "memory in bytes: 14672384 + 9223372036854775807 is larger than a 64-bit size can hold",
      Error);
}

/// Says of everything that it takes so long.
class Says final : public CostModel {
 public:
  explicit Says(double seconds) : seconds_(seconds) {}
  OpEstimate estimate(const OpRecord&) const override { return {.total_s = seconds_}; }
  std::string explain(const OpRecord&) const override { return {}; }

 private:
  double seconds_;
};

TEST_CASE("a time that is no number >= 0 is never summed up") {
  const DeviceProfile device = device_with(2);
  const Decoder source(std::vector<LayerKind>{{1, {}}});
  for (const double seconds :
       {-1e-9, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    CAPTURE(seconds);
    const Says cost(seconds);
    Forecaster forecaster(source, cost, device);
    PhaseForecast phase;
    CHECK_THROWS_AS(forecaster.price({Phase::prefill, 1, 4, 0}, phase), InternalError);
  }
}

}  // namespace
}  // namespace tcast
