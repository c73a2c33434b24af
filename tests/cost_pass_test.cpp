#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/cost/pass.h"

#include "decoder_source.h"

namespace tcast {
namespace {

TEST_CASE("rows count the calls of their region and add up to the pass") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{3}, LayerKind{5, {.causal = true, .window = 64, .chunk = 0}}});
  PassPricer pricer(decoder, cost);
  PricedPass pass;
  for (const Workload& workload :
       {Workload{Phase::prefill, 1, 100, 0}, Workload{Phase::decode, 3, 1, 105},
        Workload{Phase::decode, 2, 3, 60}}) {
    pricer.price(workload, pass);
    CHECK(pass.workload.query_length == workload.query_length);
    REQUIRE(pass.ops.size() == 1 + 2 * 5 + 1);
    double sum = 0;
    for (const OpRow& row : pass.ops) {
      sum += row.calls * row.estimate.total_s;
      const double calls[] = {1, 3, 5, 1};
      CHECK(row.calls == calls[row.region]);
      CHECK(row.estimate.total_s ==
            cost.estimate(pass.graph.regions[row.region].ops[row.op].record).total_s);
    }
    CHECK(sum == doctest::Approx(pass.total_s).epsilon(1e-12));
    // Without rows, the same time.
    CHECK(pricer.seconds_of(workload) == doctest::Approx(pass.total_s).epsilon(1e-12));
    CHECK(pass.activation.bytes == pricer.peak_of(pricer.trace(workload)).bytes);
  }
  pass.clear();
  CHECK(pass.ops.empty());
  CHECK(pass.total_s == 0);
  CHECK(pass.graph.region_count == 0);
}

TEST_CASE("pricing again takes no new memory") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{8}});
  PassPricer pricer(decoder, cost);
  PricedPass pass;
  const Workload workload{Phase::prefill, 2, 512, 0};
  pricer.price(workload, pass);
  const double total_s = pass.total_s;
  const Op* const ops = pass.graph.regions[1].ops.data();
  const OpRow* const rows = pass.ops.data();
  pricer.price({Phase::decode, 7, 1, 99}, pass);
  pass.clear();
  pricer.price(workload, pass);
  CHECK(pass.total_s == total_s);
  CHECK(pass.graph.regions[1].ops.data() == ops);
  CHECK(pass.ops.data() == rows);
}

TEST_CASE("a pass of no or of too many tokens is an error") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{1}});
  PassPricer pricer(decoder, cost);
  PricedPass pass;
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const Workload& workload :
       {Workload{Phase::prefill, 0, 1, 0}, Workload{Phase::prefill, 1, 0, 7},
        Workload{Phase::prefill, -1, 5, 0}, Workload{Phase::decode, 1, 1, most},
        Workload{Phase::prefill, 1024, most_tokens / 1024 + 1, 0},
        Workload{Phase::decode, 2, 1, most_tokens / 2}}) {
    CAPTURE(workload.batch);
    CAPTURE(workload.query_length);
    CHECK_THROWS_AS(pricer.price(workload, pass), Error);
  }
  CHECK_THROWS_WITH_AS(require_tokens(most_tokens, 2),
                       "1099511627776 requests of 2 tokens are more than the 1099511627776 tokens "
                       "that tcast calculates with",
                       Error);
  require_tokens(most_tokens, 1);
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
  const Decoder source(std::vector<LayerKind>{{1, {}}});
  for (const double seconds :
       {-1e-9, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    CAPTURE(seconds);
    const Says cost(seconds);
    PassPricer pricer(source, cost);
    PricedPass pass;
    CHECK_THROWS_AS(pricer.price({Phase::prefill, 1, 4, 0}, pass), InternalError);
    CHECK_THROWS_AS(static_cast<void>(pricer.estimate(TopK{.rows = 1, .columns = 8, .k = 1})),
                    InternalError);
  }
}

TEST_CASE("parts of memory beyond 64 bits are an error") {
  MemoryForecast memory;
  memory.weight_bytes = 5;
  memory.reserved_bytes = std::numeric_limits<std::int64_t>::max();
  CHECK_THROWS_WITH_AS(
      static_cast<void>(memory.fits()),
      "memory in bytes: 5 + 9223372036854775807 is larger than a 64-bit size can hold", Error);
}

}  // namespace
}  // namespace tcast
