#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/timing/timer.h"

using namespace tcast;

namespace {

/// A clock that only moves when something is run.
struct FakeMachine {
  double time = 100;
  int runs = 0;
  std::vector<double> costs;  // of each run in turn; the last one repeats
  double before = 0;

  std::int64_t preemptions = 0;
  int preempted_every = 0;  // run; 0: never

  std::vector<double> sample(double limit_s, int most) {
    std::vector<double> seconds;
    for (const Sample& sample : samples(limit_s, most)) seconds.push_back(sample.seconds);
    return seconds;
  }
  std::vector<Sample> samples(double limit_s, int most) {
    return take_samples(
        [this] { time += before; },
        [this] {
          time += costs[std::min(static_cast<std::size_t>(runs), costs.size() - 1)];
          ++runs;
          if (preempted_every > 0 && runs % preempted_every == 0) {
            ++preemptions;
            time += 1;
          }
        },
        [this] { return Moment{.time_s = time, .cpu_s = 0, .preemptions = preemptions}; }, limit_s,
        most);
  }
};

}  // namespace

TEST_CASE("a budget goes to what costs little first and the rest in equal parts") {
  struct Row {
    std::vector<double> wishes;
    double budget;
    std::vector<double> expected;
  };
  const std::vector<Row> rows = {
      {{1, 2, 3}, 10, {1, 2, 3}},
      {{1, 2, 3}, 6, {1, 2, 3}},
      {{10, 1, 10}, 11, {5, 1, 5}},
      {{10, 10}, 4, {2, 2}},
      {{100, 1, 4, 8}, 12, {4, 1, 3.5, 3.5}},
      {{5, 5}, 0, {0, 0}},
      {{5, 5}, -1, {0, 0}},
      {{0, 5}, 3, {0, 3}},
      {{}, 3, {}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.budget);
    const std::vector<double> parts = share_budget(row.wishes, row.budget);
    REQUIRE(parts.size() == row.expected.size());
    double sum = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      CHECK(parts[i] <= row.wishes[i]);
      sum += parts[i];
    }
    CHECK(sum <= std::max(0.0, row.budget) + 1e-12);
    if (row.wishes.size() == 4) continue;  // below
    for (std::size_t i = 0; i < parts.size(); ++i) {
      CHECK(parts[i] == doctest::Approx(row.expected[i]));
    }
  }
  // 1 is paid in full; 11 over three are 3.67 each, which is less than any of them wants.
  const std::vector<double> parts = share_budget(std::vector<double>{100, 1, 4, 8}, 12);
  CHECK(parts[0] == doctest::Approx(11.0 / 3));
  CHECK(parts[2] == doctest::Approx(11.0 / 3));
}

TEST_CASE("median, mean without outliers, spread") {
  struct Row {
    std::vector<double> samples;
    double median;
    double mean;
    double spread;
  };
  const std::vector<Row> rows = {
      {{2}, 2, 2, 0},
      {{3, 1, 2}, 2, 2, 0.5},
      {{4, 1, 3, 2}, 2.5, 2.5, 0.6},
      {{1, 1, 1, 1, 100}, 1, 1, 0},
      {{0, 0}, 0, 0, 0},
      // Now fast, now slow: both count.
      {{1, 2, 1, 2, 1}, 1, 1.4, 1},
      {{10, 11, 10, 12, 11, 40}, 11, 10.8, 0.143},
  };
  for (const Row& row : rows) {
    const SampleSummary summary = summarize(row.samples);
    CHECK(summary.median == doctest::Approx(row.median));
    CHECK(summary.mean == doctest::Approx(row.mean));
    CHECK(summary.spread == doctest::Approx(row.spread).epsilon(0.01));
    CHECK(summary.samples == static_cast<int>(row.samples.size()));
  }
  CHECK_THROWS_AS(summarize({}), InternalError);
}

TEST_CASE("samples: one warm-up, then until time or number is up") {
  {
    FakeMachine machine{.costs = {5, 1}};  // the warm-up takes longer
    const std::vector<double> samples = machine.sample(100, 4);
    CHECK(samples == std::vector<double>{1, 1, 1, 1});
    CHECK(machine.runs == 5);
  }
  {
    FakeMachine machine{.costs = {1}};
    const std::vector<double> samples = machine.sample(4.5, 15);
    // 1 s of warm-up and three samples; a fourth would end after 5 s.
    CHECK(samples.size() == 3);
  }
  {
    FakeMachine machine{.costs = {0.001}};
    CHECK(machine.sample(0, 15).size() == 1);
    CHECK(machine.runs == 2);
  }
  {
    FakeMachine machine{.costs = {0.001}};
    CHECK(machine.sample(-3, 15).size() == 1);
  }
  {
    // Far slower than there was time for: the warm-up has to do.
    FakeMachine machine{.costs = {7, 1}};
    CHECK(machine.sample(2, 15) == std::vector<double>{7});
    CHECK(machine.runs == 1);
  }
}

TEST_CASE("samples: what is done before a run is not part of it") {
  FakeMachine machine{.costs = {1e-6}, .before = 0.25};
  const std::vector<double> samples = machine.sample(1.1, 5);
  CHECK(samples.size() == 3);  // a fifth run would end after 1.25 s
  for (const double sample : samples) CHECK(sample == doctest::Approx(1e-6));
}

TEST_CASE("samples: no more than it takes to know the median well") {
  FakeMachine machine{.costs = {0.1}};
  CHECK(machine.sample(100, 51).size() == 7);
  // Short ones may all have seen the same moment of the machine.
  FakeMachine quick{.costs = {0.0005}};
  CHECK(quick.sample(100, 51).size() == 51);
  // Not even a run that takes no time at all makes it loop for ever.
  FakeMachine still{.costs = {0}};
  CHECK(still.sample(1, 3).size() == 3);
}

// S20
TEST_CASE("samples: those in which a thread lost its processor do not count while others do") {
  FakeMachine machine{.costs = {0.1}, .preempted_every = 2};
  const std::vector<Sample> samples = machine.samples(100, 51);
  CHECK(samples.size() == 14);
  for (const double seconds : undisturbed(samples)) CHECK(seconds == doctest::Approx(0.1));
  CHECK(undisturbed(samples).size() == 7);
  CHECK(stalled_share(samples, 2) == 0);
  // Never left alone: all count, and how long threads waited is known.
  FakeMachine busy{.costs = {1}, .preempted_every = 1};
  CHECK(undisturbed(busy.samples(20, 5)).size() == 5);
}

// S20
TEST_CASE(
    "the share of stalls: lost time of preempted samples, without what threads sleep anyway") {
  const auto sample = [](double cpu_s, std::int64_t preemptions) {
    return Sample{.seconds = 1, .cpu_s = cpu_s, .preemptions = preemptions};
  };
  CHECK(stalled_share({}, 2) == 0);
  CHECK(stalled_share(std::vector{sample(2, 0), sample(2, 0), sample(2, 0)}, 2) == 0);
  // One of two threads waits for 0.4 s in one of two samples.
  CHECK(stalled_share(std::vector{sample(1.6, 30), sample(2, 0)}, 2) == doctest::Approx(0.2));
  // A single one tells as well.
  CHECK(stalled_share(std::vector{sample(1.6, 30)}, 2) == doctest::Approx(0.4));
  CHECK(stalled_share(std::vector{sample(0, 90)}, 2) == doctest::Approx(1));
  // Who sleeps for 0.2 s in every sample does so in this one, too.
  const std::vector<Sample> sleepy = {sample(1.6, 30), sample(1.8, 0), sample(1.8, 0)};
  CHECK(stalled_share(sleepy, 2) == doctest::Approx(0.2 / 3));
  // One thread works, the other sleeps: nobody waits.
  const std::vector<Sample> alone = {sample(1, 30), sample(1, 0), sample(1, 0)};
  CHECK(stalled_share(alone, 2) == doctest::Approx(0));
  // One preemption of a long run is no reason to think that it waited for most of it.
  CHECK(stalled_share(std::vector{sample(1, 1)}, 2) == doctest::Approx(0.1));
}

TEST_CASE("operators are made smaller in proportion") {
  struct Row {
    const char* what;
    OpRecord record;
    double share;
    std::string expected;
    double actual;
  };
  const std::vector<Row> rows = {
      {"not at all", MatMul{.m = 4, .n = 4096, .k = 64}, 1, "m=4 n=4096 k=64 bf16*bf16->bf16", 1},
      {"columns", MatMul{.m = 512, .n = 4096, .k = 64}, 0.25, "m=512 n=1024 k=64 bf16*bf16->bf16",
       0.25},
      {"columns to whole blocks", MatMul{.m = 512, .n = 4096, .k = 64}, 0.3,
       "m=512 n=1280 k=64 bf16*bf16->bf16", 0.3125},
      {"then rows", MatMul{.m = 512, .n = 1024, .k = 64}, 1.0 / 16,
       "m=128 n=256 k=64 bf16*bf16->bf16", 1.0 / 16},
      {"batch first", MatMul{.batch = 8, .m = 512, .n = 1024, .k = 64}, 0.25,
       "batch=2 m=512 n=1024 k=64 bf16*bf16->bf16", 0.25},
      {"scales go along",
       MatMul{.m = 512,
              .n = 1024,
              .k = 64,
              .weight_scales = scale_per_row,
              .activation_scales = scale_per_row},
       1.0 / 16, "m=128 n=256 k=64 bf16*bf16->bf16 weight_scales=256 activation_scales=128",
       1.0 / 16},
      {"block scales go along",
       MatMul{.m = 1, .n = 1024, .k = 512, .weight_scales = ScaleGrid{64, 32}}, 0.5,
       "m=1 n=512 k=512 bf16*bf16->bf16 weight_scales=64x32", 0.5},
      {"experts",
       GroupedMatMul{.experts = 64, .distinct_experts = 8, .rows = 80, .n = 512, .k = 64}, 0.25,
       "experts=2/16 rows=20 n=512 k=64 bf16*bf16->bf16", 0.25},
      {"one expert's columns",
       GroupedMatMul{.experts = 2, .distinct_experts = 2, .rows = 4, .n = 512, .k = 64}, 0.25,
       "experts=1/1 rows=2 n=256 k=64 bf16*bf16->bf16", 0.25},
      {"requests", Attention{.batch = 8, .context_length = 9, .heads = 4, .kv_heads = 2}, 0.25,
       "batch=2 query=1 context=9 heads=4/2 dims=1/1 bf16 cache=bf16", 0.25},
      {"heads", Attention{.batch = 1, .context_length = 9, .heads = 16, .kv_heads = 4}, 0.5,
       "batch=1 query=1 context=9 heads=8/2 dims=1/1 bf16 cache=bf16", 0.5},
      {"the last queries", Attention{.query_length = 1024, .heads = 1, .kv_heads = 1}, 0.5,
       "batch=1 query=512 context=512 heads=1/1 dims=1/1 bf16 cache=bf16", 0.75},
      {"keys", Attention{.context_length = 1023, .heads = 1, .kv_heads = 1}, 0.25,
       "batch=1 query=1 context=256 heads=1/1 dims=1/1 bf16 cache=bf16", 257.0 / 1024},
      {"rows", Softmax{.rows = 100, .columns = 7}, 0.1, "rows=10 columns=7 bf16", 0.1},
      {"both operands", Elementwise{.elements = 1 << 20, .second_elements = 1 << 20}, 0.5,
       "elements=524288 second=524288 bf16", 0.5},
      {"repetitions of the second", Elementwise{.elements = 1000, .second_elements = 100}, 0.25,
       "elements=300 second=100 bf16", 0.3},
      {"tokens with their rows", Permute{.tokens = 100, .rows = 800, .width = 4}, 0.5,
       describe(Permute{.tokens = 50, .rows = 400, .width = 4}), 0.5},
      {"a collective stays", Collective{.bytes = 100, .group_size = 2}, 0.5,
       describe(Collective{.bytes = 100, .group_size = 2}), 1},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const ShrunkOp op = shrink(row.record, row.share);
    CHECK(describe(op.record) == row.expected);
    CHECK(op.share == doctest::Approx(row.actual).epsilon(0.01));
  }
  CHECK_THROWS_AS(shrink(Softmax{}, 0), InternalError);
}

TEST_CASE("shrinking never leaves an operator that has no kernel") {
  const std::vector<OpRecord> records = {
      MatMul{.m = 70,
             .n = 1000,
             .k = 65,
             .input = DType::i8,
             .weight = DType::i8,
             .compute = DType::i8,
             .weight_scales = scale_per_row,
             .activation_scales = scale_per_row},
      MatMul{.m = 70,
             .n = 1000,
             .k = 640,
             .input = DType::f32,
             .weight = DType::i8,
             .output = DType::f32,
             .compute = DType::f32,
             .weight_scales = ScaleGrid{1, 32}},
      GroupedMatMul{.experts = 7,
                    .distinct_experts = 5,
                    .rows = 33,
                    .n = 300,
                    .k = 32,
                    .input = DType::f32,
                    .weight = DType::i8,
                    .output = DType::f32,
                    .compute = DType::f32,
                    .weight_scales = scale_per_row},
      Attention{.batch = 3,
                .query_length = 50,
                .context_length = 9,
                .heads = 6,
                .kv_heads = 3,
                .qk_head_dim = 8,
                .v_head_dim = 8,
                .span = {.window = 5}},
      Elementwise{.kind = ElementwiseKind::add, .elements = 999, .second_elements = 333},
      Copy{.kind = CopyKind::cast, .read_elements = 50000, .written_elements = 50000},
      Copy{.kind = CopyKind::slice,
           .read_elements = 50000,
           .written_elements = 50000,
           .parts = {{{.sizes = {1, 1, 1000},
                       .run = 50,
                       .source_strides = {0, 0, 150},
                       .target_strides = {0, 0, 50}}}}},
      Route{.tokens = 9, .experts = 8, .top_k = 2},
      Combine{.tokens = 9, .rows = 18, .width = 8},
      Permute{.tokens = 9, .rows = 9, .width = 8, .expert = 3},
  };
  for (const OpRecord& record : records) {
    for (const double share : {0.7, 0.3, 0.01, 1e-9}) {
      CAPTURE(describe(record));
      CAPTURE(share);
      const ShrunkOp op = shrink(record, share);
      CHECK(op.share > 0);
      CHECK(op.share <= 1);
      const KernelResult result = make_kernel(op.record);
      CHECK_MESSAGE(result.kernel != nullptr, result.unsupported);
    }
  }
}

TEST_CASE("an expected number of experts stands between the whole numbers that are timed") {  // S6
  struct Row {
    double distinct, rows;
    std::vector<std::pair<double, double>> timed;  ///< distinct experts and weight
  };
  const Row rows[] = {
      {8, 8, {{8, 1}}},
      {25.75, 32, {{25, 0.25}, {26, 0.75}}},
      {1.5, 2, {{1, 0.5}, {2, 0.5}}},
      {0.25, 0.25, {{1, 0.25}}},  // no experts take no time
      {63.99, 512, {{64, 1}}},    // the difference is less than a thousandth
      {60.01, 512, {{60, 1}}},
      {60.1, 512, {{60, 0.9}, {61, 0.1}}},
      {1e-4, 1e-4, {{1, 1e-4}}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.distinct);
    const GroupedMatMul op{.experts = 64,
                           .distinct_experts = row.distinct,
                           .rows = row.rows,
                           .n = 8,
                           .k = 8,
                           .routing = {.tokens = 8, .num_experts = 64, .top_k = 4}};
    const std::vector<WeightedOp> timed = timed_in_place_of(op);
    REQUIRE(timed.size() == row.timed.size());
    for (std::size_t i = 0; i < timed.size(); ++i) {
      const auto& part = std::get<GroupedMatMul>(timed[i].record);
      CHECK(part.distinct_experts == row.timed[i].first);
      CHECK(timed[i].weight == doctest::Approx(row.timed[i].second));
      CHECK(part.rows == std::ceil(row.rows));
      CHECK(part.rows >= part.distinct_experts);
      // What is kept of it serves every routing with these numbers.
      CHECK(signature_of(part) == signature_of(GroupedMatMul{.experts = 64,
                                                             .distinct_experts = row.timed[i].first,
                                                             .rows = std::ceil(row.rows),
                                                             .n = 8,
                                                             .k = 8}));
    }
  }
  const Norm norm{.rows = 4, .width = 64};
  REQUIRE(timed_in_place_of(norm).size() == 1);
  CHECK(signature_of(timed_in_place_of(norm)[0].record) == signature_of(norm));
}

TEST_CASE("a session of timings") {
  OpTimer timer({.time_budget_s = 1, .memory_limit_bytes = 96 << 20});
  CHECK(timer.host().threads >= 1);
  CHECK(timer.host().memory_bytes > 0);
  CHECK(timer.speed().read_bytes_per_s > 1e8);
  CHECK(timer.speed().f32_flops_per_s > 1e8);
  CHECK(timer.speed().f32_implementation.substr(0, 3) != "ref");

  const DType f = DType::f32;
  const std::vector<OpRecord> records = {
      MatMul{.m = 4, .n = 256, .k = 128, .input = f, .weight = f, .output = f, .compute = f},
      Softmax{.rows = 10, .columns = 100},
      Collective{.bytes = 10, .group_size = 2},
      MatMul{.m = 4, .n = 256, .k = 128, .input = f, .weight = f, .output = f, .compute = f},
      // Weights of 2 GiB do not fit in 96 MiB.
      MatMul{.m = 1, .n = 131072, .k = 4096, .input = f, .weight = f, .output = f, .compute = f},
      Attention{.context_length = 100,
                .heads = 4,
                .kv_heads = 2,
                .qk_head_dim = 32,
                .v_head_dim = 32,
                .cache = DType::f8_e4m3},
      CacheAppend{.tokens = 3, .width = 64},
      GroupedMatMul{.experts = 4,
                    .distinct_experts = 2,
                    .rows = 5,
                    .n = 64,
                    .k = 32,
                    .input = f,
                    .weight = f,
                    .output = f,
                    .compute = f},
      Permute{.tokens = 5, .rows = 5, .width = 8, .expert = 60},
      Combine{.tokens = 5, .rows = 5, .width = 8, .expert = 60},
      Gather{.rows = 5, .width = 1024, .table_rows = std::int64_t{1} << 40},
  };
  std::vector<std::size_t> progress;
  std::vector<std::size_t> measured;
  TimerObserver observer;
  observer.progress = [&](std::size_t done, std::size_t total, std::string_view what, double left) {
    CHECK(done < total);
    CHECK_FALSE(what.empty());
    CHECK(left >= 0);
    // Two of the eleven are equal; later turns are those of disturbed times.
    if (total == 10) progress.push_back(done);
  };
  observer.measured = [&](std::size_t index, const Measurement& measurement) {
    CHECK((measurement.seconds > 0) == measurement.supported());
    measured.push_back(index);
  };
  const std::vector<Measurement> results = timer.measure_all(records, observer);
  CHECK(progress.size() == 9);  // one cannot be timed
  std::sort(measured.begin(), measured.end());
  measured.erase(std::unique(measured.begin(), measured.end()), measured.end());
  CHECK(measured.size() == 10);
  REQUIRE(results.size() == records.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    CAPTURE(i);
    const Measurement& result = results[i];
    CHECK(result.onednn_version == onednn_version());
    CHECK(result.threads == timer.host().threads);
    if (i == 2) {
      CHECK(result.unsupported == "communication between devices cannot be timed in one process");
      CHECK(result.samples == 0);
      continue;
    }
    CHECK_MESSAGE(result.supported(), result.unsupported);
    CHECK(result.seconds > 0);
    CHECK(result.samples > 0);
    CHECK(result.spread >= 0);
    CHECK_FALSE(result.implementation.empty());
    CHECK(result.scaled == (result.share < 1));
  }
  CHECK(results[0].seconds == results[3].seconds);
  CHECK(results[4].scaled);
  CHECK(results[4].share < 0.05);
  CHECK(results[5].substituted.find("f8_e4m3 -> ") != std::string::npos);
  CHECK(timer.memory_used_bytes() > 0);
  CHECK(timer.memory_used_bytes() <= timer.memory_limit_bytes() + (8 << 20));
}

TEST_CASE("an operator that fits no memory limit says so") {
  OpTimer timer({.time_budget_s = 0.1, .memory_limit_bytes = 1 << 20});
  const Measurement result = timer.measure(Softmax{.rows = 1, .columns = 10'000'000});
  CHECK(result.unsupported == "its operands take more than 1 MiB of memory");
}

TEST_CASE("the conditions of a session of timings") {
  TimerOptions options;
  options.time_budget_s = 0.2;
  options.memory_limit_bytes = std::int64_t{64} << 20;
  OpTimer timer(options);
  CHECK(timer.threads() >= 1);
  timer.measure(Norm{.rows = 16, .width = 256});
  const TimingConditions conditions = timer.conditions();
  CHECK(conditions.took_s > 0);
  CHECK(conditions.canary_drift >= 0);
  CHECK(conditions.others_cpu_share >= 0);
  CHECK(conditions.others_cpu_share <= 1);
}
