#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/exec/timing/measurement.h"

using namespace tcast;

namespace {

Measurement quiet(double seconds) {
  Measurement m;
  m.seconds = seconds;
  m.spread = 0.02;
  m.samples = 20;
  m.pace = {10e9, 100e9, 400e9};
  return m;
}

constexpr Pace best = {10e9, 100e9, 400e9};

}  // namespace

TEST_CASE("a pace is compared probe by probe, and only where both know it") {
  CHECK(slowdown(best, best) == 1);
  CHECK(slowdown({5e9, 100e9, 400e9}, best) == 2);
  CHECK(slowdown({10e9, 100e9, 100e9}, best) == 4);
  CHECK(slowdown({20e9, 200e9, 800e9}, best) == 1);
  CHECK(slowdown({0, 0, 0}, best) == 1);
  CHECK(slowdown({1, 1, 1}, {}) == 1);
  const Pace both = faster({1, 5, 0}, {3, 2, 4});
  CHECK(both.read_bytes_per_s == 3);
  CHECK(both.f32_flops_per_s == 5);
  CHECK(both.bf16_flops_per_s == 4);
}

TEST_CASE("the usual pace is what a machine reaches often, not once") {
  const std::vector<Pace> paces = {{4, 0, 1}, {5, 0, 2}, {6, 9, 0}, {7, 0, 0}, {100, 0, 0}};
  const Pace usual = usual_pace(paces);
  CHECK(usual.read_bytes_per_s == 7);
  CHECK(usual.f32_flops_per_s == 0);
  CHECK(usual.bf16_flops_per_s == 0);
}

// S20
TEST_CASE("a measurement tells whether the machine was disturbed, and its range how far") {
  struct Row {
    const char* what;
    void (*change)(Measurement&);
    const char* why;
    double low_s;
    double high_s;
  };
  const Row rows[] = {
      {"quiet", [](Measurement&) {}, "", 1 / 1.05, 1.05},
      {"other processes", [](Measurement& m) { m.stalled_share = 0.4; }, "up to 40 % of the time",
       0.6, 1.05},
      {"slow memory", [](Measurement& m) { m.pace.read_bytes_per_s = 5e9; },
       "2.0 times slower than at its best", 0.5, 1.05},
      {"a little slower", [](Measurement& m) { m.pace.f32_flops_per_s = 90e9; }, "", 0.9, 1.05},
      {"samples far apart", [](Measurement& m) { m.spread = 0.5; }, "differ by 50 %", 0.8, 1.25},
      {"few samples", [](Measurement& m) { m.samples = 1; }, "", 1 / 1.1, 1.1},
      {"extrapolated", [](Measurement& m) { m.error = 0.15; }, "", 1 / 1.2, 1.2},
      {"slower than its like", [](Measurement& m) { m.expected_s = 0.02; }, "would make it", 0.02,
       1.05},
      {"faster than its like", [](Measurement& m) { m.expected_s = 4; }, "would make it", 1 / 1.05,
       4},
      {"all the time", [](Measurement& m) { m.stalled_share = 1; }, "up to 100 %", 0, 1.05},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    Measurement m = quiet(1);
    row.change(m);
    const std::string why = disturbance(m, best);
    CHECK(why.empty() == std::string(row.why).empty());
    CHECK(why.find(row.why) != std::string::npos);
    const TimeRange range = range_of(m, best);
    CHECK(range.low_s == doctest::Approx(row.low_s));
    CHECK(range.high_s == doctest::Approx(row.high_s));
  }
}

// S20: a later quiet session shows that an earlier one was slow
TEST_CASE("what looked quiet is disturbed when the machine turns out to be faster") {
  const Measurement m = quiet(1);
  CHECK(disturbance(m, best).empty());
  CHECK(!disturbance(m, {20e9, 100e9, 400e9}).empty());
  CHECK(range_of(m, {20e9, 100e9, 400e9}).low_s == doctest::Approx(0.5));
  Measurement brief = quiet(50e-6);
  brief.spread = 0.5;
  CHECK(disturbance(brief, best).empty());
  CHECK(range_of(brief, best).low_s == doctest::Approx(40e-6));
  // A single short sample that was stalled tells nothing of the low end.
  Measurement stalled = quiet(0.05);
  stalled.samples = 1;
  stalled.stalled_share = 0.5;
  CHECK(range_of(stalled, best).low_s == 0);
  Measurement none;
  none.unsupported = "no kernel";
  none.stalled_share = 1;
  CHECK(disturbance(none, best).empty());
}

// S20: k_proj took 49 times as long as q_proj
TEST_CASE("times that do not fit to each other are found") {
  const auto product = [](std::int64_t m, std::int64_t n, std::int64_t k) {
    return OpRecord(MatMul{.m = m, .n = n, .k = k});
  };
  // q, k, v, o, gate, down of qwen3-8b at one token, and one product of a whole prompt.
  const std::vector<OpRecord> records = {product(1, 4096, 4096),  product(1, 1024, 4096),
                                         product(1, 1025, 4096),  product(1, 4096, 4097),
                                         product(1, 12288, 4096), product(1, 4096, 12288),
                                         product(512, 1024, 4096)};
  const std::vector<double> usual = {4e-3, 1e-3, 1e-3, 4e-3, 12e-3, 12e-3, 20e-3};
  const auto expected = [&](const std::vector<double>& seconds) {
    std::vector<TimedOp> ops;
    for (std::size_t i = 0; i < records.size(); ++i) {
      ops.push_back({&records[i], seconds[i], usual[i] / 2});
    }
    return expected_by_others(ops);
  };
  CHECK(expected(usual) == std::vector<double>(records.size(), 0));
  {
    std::vector<double> seconds = usual;
    seconds[1] = 49 * seconds[0];
    const std::vector<double> found = expected(seconds);
    CHECK(found[1] == 1e-3);  // v_proj, of the same size, shows what it should be
    for (const std::size_t i : {0U, 2U, 3U, 4U, 5U, 6U}) CHECK(found[i] == 0);
  }
  {
    // No larger one is faster, but all others have another rate.
    std::vector<double> seconds = usual;
    seconds[5] = 60e-3;
    CHECK(expected(seconds)[5] == doctest::Approx(12e-3));
    seconds[5] = 1e-3;
    CHECK(expected(seconds)[5] == doctest::Approx(12e-3));
  }
  {
    // Too short to be told from what every operator takes.
    const OpRecord a = product(1, 16, 16);
    const OpRecord b = product(1, 32, 32);
    const TimedOp ops[] = {{&a, 50e-6, 1e-6}, {&b, 5e-6, 2e-6}};
    CHECK(expected_by_others(ops) == std::vector<double>{0, 0});
  }
  CHECK(expected_by_others({}).empty());
}
