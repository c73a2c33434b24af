#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/study/text_generation.h"

#include "decoder_source.h"

namespace tcast {
namespace {

using doctest::Approx;

/// One rank of a decoder on a small device.
class Rank {
 public:
  explicit Rank(const GraphSource& source, const DeviceProfile& device)
      : cost_(device), pricer_(source, cost_), capacity_bytes_(device.memory_bytes) {}

  TextGenerationTimes times(const TextGenerationRequest& request,
                            const Deployment& deployment = {}) {
    const TextGeneration generation(request, deployment);
    price_passes(generation, pricer_, priced_);
    return generation.times(pricer_, priced_);
  }
  MemoryForecast memory(const TextGenerationRequest& request, std::int64_t reserved_bytes = 0) {
    return forecast_memory(TextGeneration(request, {}), pricer_, {}, budget(reserved_bytes));
  }
  std::optional<std::int64_t> largest_batch(const TextGenerationRequest& request) {
    return TextGeneration(request, {}).largest_batch(pricer_, budget(0));
  }
  std::optional<std::int64_t> largest_context(const TextGenerationRequest& request) {
    return TextGeneration(request, {}).largest_context(pricer_, budget(0));
  }

  const CostModel& cost() const { return cost_; }
  PassPricer& pricer() { return pricer_; }
  std::span<const PricedPass> priced() const { return priced_; }

 private:
  MemoryBudget budget(std::int64_t reserved_bytes) const {
    return {capacity_bytes_, reserved_bytes};
  }

  RooflineModel cost_;
  PassPricer pricer_;
  std::int64_t capacity_bytes_;
  std::array<PricedPass, 2> priced_;
};

/// The sum that the quadrature stands for.
double brute_force_mean_s(const Decoder& decoder, const DeviceProfile& device,
                          const TextGenerationRequest& request) {
  const RooflineModel cost(device);
  PassPricer pricer(decoder, cost);
  PricedPass step;
  double sum = 0;
  for (std::int64_t i = 1; i < request.output_length; ++i) {
    pricer.price({.phase = Phase::decode,
                  .batch = request.batch_size,
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
      REQUIRE(mean == Approx(sum / static_cast<double>(count)).epsilon(1e-9));
      REQUIRE(evaluations <= 3);
    }
  }
}

TEST_CASE("the mean step equals the mean over every step") {
  const AttentionSpan full;
  const AttentionSpan window{.causal = true, .window = 300, .chunk = 0};
  const AttentionSpan chunk{.causal = true, .window = 0, .chunk = 128};
  struct Row {
    std::string what;
    std::vector<LayerKind> kinds;
    TextGenerationRequest request;
  };
  const Row rows[] = {
      {"full attention", {{8, full}}, {.batch_size = 4, .input_length = 512, .output_length = 700}},
      {"many requests, attention dominates",
       {{8, full}},
       {.batch_size = 64, .input_length = 16, .output_length = 2000}},
      {"one step", {{8, full}}, {.batch_size = 1, .input_length = 100, .output_length = 2}},
      {"three steps", {{8, full}}, {.batch_size = 1, .input_length = 100, .output_length = 4}},
      {"a window that fills on the way",
       {{4, full}, {20, window}},
       {.batch_size = 64, .input_length = 100, .output_length = 900}},
      {"a window that is full from the start",
       {{24, window}},
       {.batch_size = 64, .input_length = 300, .output_length = 900}},
      {"a window that fills with the last step",
       {{24, window}},
       {.batch_size = 64, .input_length = 100, .output_length = 201}},
      {"chunks: the cost jumps down at each boundary",
       {{4, full}, {20, chunk}},
       {.batch_size = 64, .input_length = 100, .output_length = 900}},
      {"more chunks than intervals that are evaluated",
       {{4, full}, {20, {.causal = true, .window = 0, .chunk = 16}}},
       {.batch_size = 64, .input_length = 100, .output_length = 3000}},
      {"window and chunks",
       {{4, full}, {4, window}, {4, chunk}},
       {.batch_size = 32, .input_length = 1, .output_length = 1500}},
  };
  for (const double exponent : {1.5, 2.0, std::numeric_limits<double>::infinity()}) {
    const DeviceProfile device = device_with(exponent);
    for (const Row& row : rows) {
      CAPTURE(row.what);
      CAPTURE(exponent);
      const Decoder decoder(row.kinds);
      Rank rank(decoder, device);
      const double exact_s = brute_force_mean_s(decoder, device, row.request);
      CHECK(std::abs(rank.times(row.request).mean_step_s / exact_s - 1) < 1e-3);
    }
  }
}

TEST_CASE("times belong together") {
  const DeviceProfile device = device_with(2);
  const Decoder decoder({LayerKind{8}});
  Rank rank(decoder, device);
  const TextGenerationTimes times =
      rank.times({.batch_size = 4, .input_length = 512, .output_length = 128});
  CHECK(rank.priced()[prefill_pass].workload.query_length == 512);
  CHECK(rank.priced()[decode_pass].workload.context_length == 512 + 64);
  CHECK(rank.priced()[decode_pass].workload.query_length == 1);
  CHECK(times.prefill_s == rank.priced()[prefill_pass].total_s);
  CHECK(times.decode_step_s == rank.priced()[decode_pass].total_s);
  // One pass over the logits that the head makes last.
  const OpRecord choice = TopK{.rows = 4, .columns = 32000, .k = 1, .dtype = DType::bf16};
  CHECK(times.sampling_s == rank.cost().estimate(choice).total_s);
  CHECK(times.sampling_s > 0);
  CHECK(times.ttft_s == times.prefill_s + times.sampling_s);
  CHECK(times.tpot_s == times.mean_step_s + times.sampling_s);
  CHECK(times.end_to_end_s == Approx(times.ttft_s + 127 * times.tpot_s).epsilon(1e-12));
  // Prefill, decode step, and two more nodes of the mean.
  CHECK(decoder.traces == 4);
}

TEST_CASE("the metrics are the times, and tokens per second of all replicas") {
  const DeviceProfile device = device_with(2);
  const Decoder decoder({LayerKind{8}});
  const RooflineModel cost(device);
  PassPricer pricer(decoder, cost);
  const Deployment deployment{.replicas = 4, .devices = 8, .tokens_per_step = 1};
  const TextGeneration generation({.batch_size = 13, .input_length = 512, .output_length = 128},
                                  deployment);
  std::array<PricedPass, 2> priced;
  price_passes(generation, pricer, priced);
  // The busiest of four replicas has four of 13 requests.
  CHECK(priced[prefill_pass].workload.batch == 4);
  CHECK(priced[prefill_pass].workload.requests == 13);
  const TextGenerationTimes times = generation.times(pricer, priced);
  const std::vector<ReportMetric> metrics = generation.metrics(pricer, priced);
  REQUIRE(metrics.size() == 7);
  const double rate = 13 * 128 / times.end_to_end_s;
  struct Row {
    const char* name;
    double value;
  };
  const Row rows[] = {{"prefill_s", times.prefill_s},
                      {"ttft_s", times.ttft_s},
                      {"decode_step_s", times.decode_step_s},
                      {"tpot_s", times.tpot_s},
                      {"end_to_end_s", times.end_to_end_s},
                      {"output_tokens_per_s", rate},
                      {"output_tokens_per_s_per_device", rate / 8}};
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    CHECK(metrics[i].name == rows[i].name);
    CHECK(metrics[i].value == Approx(rows[i].value).epsilon(1e-12));
    CHECK(metrics[i].group == (i < 5 ? "latency" : "throughput"));
    CHECK(metrics[i].is_time() == (i < 5));
  }
}

TEST_CASE("with multi-token prediction a step takes the drafts along, and all are chosen") {
  const DeviceProfile device = device_with(2);
  const Decoder decoder({LayerKind{8}});
  Rank rank(decoder, device);
  const TextGenerationRequest request{.batch_size = 2, .input_length = 100, .output_length = 50};
  const Deployment drafts{.replicas = 1, .devices = 1, .tokens_per_step = 4};
  const TextGenerationTimes times = rank.times(request, drafts);
  CHECK(rank.priced()[prefill_pass].workload.query_length == 100);
  CHECK(rank.priced()[decode_pass].workload.query_length == 4);
  const OpRecord choice = TopK{.rows = 8, .columns = 32000, .k = 1, .dtype = DType::bf16};
  CHECK(times.sampling_s == rank.cost().estimate(choice).total_s);
  const std::vector<ReportMetric> metrics = TextGeneration(request, drafts).metrics();
  CHECK(metrics[2].label == "decode step of 1+3 tokens");
  CHECK(metrics[3].label == "time per output token (TPOT), per step of 1+3 tokens");
  CHECK(TextGeneration(request, {}).metrics()[2].label == "decode step");
}

TEST_CASE("a single output token needs no decode step") {
  const DeviceProfile device = device_with(2);
  const Decoder decoder({LayerKind{8}});
  Rank rank(decoder, device);
  static_cast<void>(rank.times({.input_length = 64, .output_length = 9}));
  const TextGenerationRequest request{.batch_size = 2, .input_length = 64, .output_length = 1};
  const TextGenerationTimes times = rank.times(request);
  CHECK(times.tpot_s == 0);
  CHECK(times.decode_step_s == 0);
  CHECK(rank.priced()[decode_pass].ops.empty());
  CHECK(times.end_to_end_s == times.ttft_s);
  const TextGeneration generation(request, {});
  CHECK_FALSE(generation.passes()[decode_pass].workload);
  CHECK(generation.memory().passes.size() == 1);
  const std::vector<ReportMetric> metrics = generation.metrics(rank.pricer(), rank.priced());
  CHECK_FALSE(metrics[3].value);  // tpot_s
  CHECK(metrics[5].value == Approx(2 / times.ttft_s));
}

TEST_CASE("parts of memory") {
  const DeviceProfile device = device_with(2);
  const Decoder decoder({LayerKind{3}, LayerKind{5, {.causal = true, .window = 100, .chunk = 0}}});
  Rank rank(decoder, device);
  const TextGenerationRequest request{.batch_size = 2, .input_length = 1000, .output_length = 30};
  const MemoryForecast memory = rank.memory(request, 5'000'000);
  CHECK(memory.weight_bytes == 1'000'000);
  // 1030 tokens in 65 blocks of 16; a window of 100 in 7.
  CHECK(memory.kv_cache_bytes == 2 * 1024 * 2 * (3 * 65 * 16 + 5 * 7 * 16));
  // In the second kind's layers: the residual, the wide activation and what it is made of.
  CHECK(memory.activation.bytes == 2000 * 512 * 2 * 6);
  CHECK(memory.activation_pass == prefill_pass);
  CHECK(memory.workspace_bytes == 64 * 1029);  // the last step's sequence
  CHECK(memory.reserved_bytes == 5'000'000);
  CHECK(memory.capacity_bytes == device.memory_bytes);
  CHECK(memory.total_bytes() == memory.weight_bytes + memory.kv_cache_bytes +
                                    memory.activation.bytes + memory.workspace_bytes + 5'000'000);
  CHECK(memory.fits());
  CHECK_FALSE(rank.memory(request, device.memory_bytes).fits());
}

TEST_CASE("of equal activation peaks the first pass has the place") {
  const DeviceProfile device = device_with(2);
  // The head's logits are the same in both passes; with an input of one token so is the rest.
  const Decoder decoder({LayerKind{1}});
  Rank rank(decoder, device);
  CHECK(rank.memory({.input_length = 1, .output_length = 5}).activation_pass == prefill_pass);
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
      Rank rank(decoder, device);

      TextGenerationRequest request{.input_length = other, .output_length = 20};
      const auto batch = rank.largest_batch(request);
      REQUIRE(batch.has_value());
      request.batch_size = *batch + 1;
      CHECK_FALSE(rank.memory(request).fits());
      request.batch_size = *batch;
      if (*batch > 0) CHECK(rank.memory(request).fits());

      request.batch_size = other;
      const auto context = rank.largest_context(request);
      REQUIRE(context.has_value());
      request.input_length = *context > 0 ? *context - request.output_length + 1 : 1;
      CHECK_FALSE(rank.memory(request).fits());
      request.input_length -= 1;
      if (*context > 0) CHECK(rank.memory(request).fits());
    }
  }
}

TEST_CASE("the largest batch of a deployment is that of all replicas") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{8}});
  PassPricer pricer(decoder, cost);
  const MemoryBudget budget{device.memory_bytes, 0};
  const TextGenerationRequest request{.batch_size = 3, .input_length = 100, .output_length = 20};
  const auto one = TextGeneration(request, {}).limits(pricer, budget);
  const auto four = TextGeneration(request, {.replicas = 4}).limits(pricer, budget);
  REQUIRE(one);
  REQUIRE(four);
  CHECK(*four->batch_size == 4 * *one->batch_size);
  CHECK(*four->context_length > *one->context_length);  // one request on each, not three
}

TEST_CASE("the inverse questions need few passes") {
  const DeviceProfile device = device_with(2);
  const Decoder decoder({LayerKind{8}});
  Rank rank(decoder, device);
  REQUIRE(rank.largest_batch({.input_length = 1000, .output_length = 100}).has_value());
  CHECK(decoder.traces <= 2 * 16);
  decoder.traces = 0;
  REQUIRE(*rank.largest_context({.input_length = 1000, .output_length = 100}) > 10'000);
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
  const Constant source;
  Rank rank(source, device);
  CHECK_FALSE(rank.largest_batch({}).has_value());
  CHECK_FALSE(rank.largest_context({}).has_value());
  const TextGenerationTimes times = rank.times({});
  CHECK(times.prefill_s == 0);
  CHECK(times.mean_step_s == 0);
  CHECK(times.end_to_end_s == Approx(128 * times.sampling_s));
}

/// Everything takes no time at all.
class Free final : public CostModel {
 public:
  OpEstimate estimate(const OpRecord&) const override { return {}; }
  std::string explain(const OpRecord&) const override { return {}; }
};

TEST_CASE("tokens of no time have no rate") {
  const Decoder decoder({LayerKind{8}});
  const Free cost;
  PassPricer pricer(decoder, cost);
  const TextGeneration generation({}, {});
  std::array<PricedPass, 2> priced;
  price_passes(generation, pricer, priced);
  for (const ReportMetric& metric : generation.metrics(pricer, priced)) {
    CAPTURE(metric.name);
    if (metric.is_time()) {
      CHECK(metric.value == 0);
    } else {
      CHECK_FALSE(metric.value);
    }
  }
}

TEST_CASE("a repeated estimate gives the same numbers in the same memory") {
  const DeviceProfile device = device_with(1.5);
  const Decoder decoder({LayerKind{8}});
  Rank rank(decoder, device);
  const double end_to_end_s = rank.times({.batch_size = 2}).end_to_end_s;
  const Op* const ops = rank.priced()[decode_pass].graph.regions[1].ops.data();
  const OpRow* const rows = rank.priced()[prefill_pass].ops.data();
  static_cast<void>(rank.times({.batch_size = 7, .input_length = 99, .output_length = 3}));
  CHECK(rank.times({.batch_size = 2}).end_to_end_s == end_to_end_s);
  CHECK(rank.priced()[decode_pass].graph.regions[1].ops.data() == ops);
  CHECK(rank.priced()[prefill_pass].ops.data() == rows);
}

TEST_CASE("requests that make no sense are errors") {
  const std::int64_t huge = std::int64_t{1} << 40;
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  struct Row {
    TextGenerationRequest request;
    const char* message;
  };
  const Row rows[] = {
      {{.batch_size = 0}, "batch size: expected at least 1, got 0"},
      {{.input_length = -3}, "input length: expected at least 1, got -3"},
      {{.output_length = 0}, "output length: expected at least 1, got 0"},
      // Sizes beyond 64 bits are errors as well, not wrong numbers.
      {{.batch_size = huge, .input_length = huge},
       "1099511627776 requests of 1099511627904 tokens are more than the 1099511627776 tokens that "
       "tcast calculates with"},
      {{.input_length = most},
       "length of a request: 9223372036854775807 + 128 is larger than a 64-bit size can hold"},
  };
  for (const Row& row : rows) {
    CHECK_THROWS_WITH_AS(TextGeneration(row.request, {}), row.message, Error);
  }
  const DeviceProfile device = device_with(2);
  const Decoder decoder({LayerKind{8}});
  Rank rank(decoder, device);
  CHECK_THROWS_WITH_AS(static_cast<void>(rank.memory({}, -1)),
                       "reserved memory: expected at least 0 bytes, got -1", Error);
  CHECK_THROWS_WITH_AS(
      static_cast<void>(rank.memory({}, most).fits()),
      "memory in bytes: 14672384 + 9223372036854775807 is larger than a 64-bit size can hold",
      Error);
}

}  // namespace
}  // namespace tcast
