#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/cost/op_cost.h"
#include "tcast/cost/roofline.h"

namespace tcast {
namespace {

/// Round numbers: 1 Tflop/s matrix, 0.1 Tflop/s vector, 100 GB/s.
DeviceProfile round_device(double exponent, double compute = 1, double memory = 1,
                           double overhead_s = 0) {
  DeviceProfile device;
  device.name = "round";
  device.matrix[DType::bf16] = 1e12;
  device.vector[DType::f32] = 1e11;
  device.memory_bytes = 1'000'000'000;
  device.memory_bandwidth_bytes_per_s = 1e11;
  for (ClassEfficiency& efficiency : device.efficiency) {
    efficiency = {.compute = compute,
                  .memory = memory,
                  .overhead_s = overhead_s,
                  .smooth_max = exponent,
                  .basis = Source::calibrated,
                  .source = "test"};
  }
  device.interconnect.levels.push_back({.name = "node",
                                        .kind = LinkKind::crossbar,
                                        .devices = 8,
                                        .bandwidth_bytes_per_s = 1e10,
                                        .efficiency = 0.5,
                                        .latency_s = 1e-6,
                                        .source = "test"});
  return device;
}

constexpr double hard = std::numeric_limits<double>::infinity();

TEST_CASE("time of a matmul for every kind of maximum") {
  const MatMul op{.m = 1000, .n = 1000, .k = 1000};
  const double matrix = 2e9 / (0.8 * 1e12);
  const double memory = 6e6 / (0.5 * 1e11);
  for (const double q : {1.0, 1.5, 2.0, 3.0, 7.5, hard}) {
    CAPTURE(q);
    const RooflineModel model(round_device(q, 0.8, 0.5, 1e-5));
    const OpEstimate result = model.estimate(op);
    const double expected =
        std::isinf(q) ? matrix : std::pow(std::pow(matrix, q) + std::pow(memory, q), 1 / q);
    CHECK(result.compute_s == doctest::Approx(matrix).epsilon(1e-12));
    CHECK(result.memory_s == doctest::Approx(memory).epsilon(1e-12));
    CHECK(result.overhead_s == 1e-5);
    CHECK(result.network_s == 0);
    CHECK(result.total_s == doctest::Approx(expected + 1e-5).epsilon(1e-9));
    CHECK(result.bound == Bound::compute);
    CHECK(result.source == Source::calibrated);
    CHECK(result.work.matrix_flops == 2e9);
  }
}

TEST_CASE("what an op is bound by") {
  const RooflineModel model(round_device(2, 1, 1, 1e-6));
  CHECK(model.estimate(MatMul{.m = 4096, .n = 4096, .k = 4096}).bound == Bound::compute);
  CHECK(model.estimate(MatMul{.m = 1, .n = 4096, .k = 4096}).bound == Bound::memory);
  CHECK(model.estimate(Elementwise{.elements = 16}).bound == Bound::launch);
  CHECK(model.estimate(Collective{.bytes = 1 << 30, .group_size = 8}).bound == Bound::network);
  // Vector work that outweighs the rest counts as compute.
  CHECK(model.estimate(Softmax{.rows = 1, .columns = 1 << 20}).bound == Bound::compute);
  CHECK(name_of(Bound::launch) == "launch");
  CHECK(name_of(Bound::network) == "network");
}

TEST_CASE("matrix and vector units work side by side") {
  const RooflineModel model(round_device(hard));
  const Attention op{
      .query_length = 512, .heads = 8, .kv_heads = 8, .qk_head_dim = 128, .v_head_dim = 128};
  const OpEstimate result = model.estimate(op);
  CHECK(result.compute_s ==
        std::max(result.work.matrix_flops / 1e12, result.work.vector_flops / 1e11));
  CHECK(result.total_s == result.compute_s);
}

TEST_CASE("an op without work takes no time, not even the overhead") {
  const RooflineModel model(round_device(2, 1, 1, 1e-3));
  for (const OpRecord& record :
       {OpRecord(MatMul{.m = 0, .n = 8, .k = 8}), OpRecord(GroupedMatMul{.n = 8, .k = 8}),
        OpRecord(Elementwise{}), OpRecord(Collective{.bytes = 8, .group_size = 1})}) {
    const OpEstimate result = model.estimate(record);
    CHECK(result.total_s == 0);
    CHECK(result.overhead_s == 0);
  }
}

TEST_CASE("ideal: datasheet peaks and nothing in the way") {
  const RooflineModel model(round_device(1.5, 0.5, 0.5, 1e-3), {.ideal = true});
  const OpEstimate result = model.estimate(MatMul{.m = 1000, .n = 1000, .k = 1000});
  CHECK(result.total_s == doctest::Approx(2e9 / 1e12).epsilon(1e-12));
  CHECK(result.overhead_s == 0);
  CHECK(result.source == Source::datasheet);
  const OpEstimate network = model.estimate(Collective{.bytes = 8'000'000, .group_size = 8});
  CHECK(network.total_s == doctest::Approx(1.75 * 8e6 / 1e10).epsilon(1e-12));
}

TEST_CASE("a dtype that the device lacks is converted, never free") {
  const RooflineModel model(round_device(hard));
  const MatMul fp8{.m = 1000,
                   .n = 1000,
                   .k = 1000,
                   .input = DType::f8_e4m3,
                   .weight = DType::f8_e4m3,
                   .compute = DType::f8_e4m3};
  CHECK(model.estimate(fp8).compute_s == doctest::Approx(2e9 / 1e12));
  MatMul f32 = fp8;
  f32.compute = DType::f32;
  CHECK(model.estimate(f32).compute_s == doctest::Approx(2e9 / 1e11));
  CHECK(model.explain(fp8).find("(no f8_e4m3 mode: runs as bf16)") != std::string::npos);
}

TEST_CASE("no estimate beats the peaks, and the ideal one is the smallest") {
  std::mt19937_64 random(20261121);
  const auto size = [&random](int most_bits) {
    const int bits = static_cast<int>(random() % static_cast<std::uint64_t>(most_bits));
    return static_cast<std::int64_t>(random() % (std::uint64_t{1} << (bits + 1)));
  };
  std::vector<std::string> names = device_names();
  REQUIRE_FALSE(names.empty());
  for (const std::string& name : names) {
    const DeviceProfile device = load_device(name);
    const RooflineModel model(device);
    const RooflineModel ideal(device, {.ideal = true});
    for (int i = 0; i < 500; ++i) {
      const std::int64_t tokens = size(16);
      const std::int64_t ranks = 1 + size(2);
      const OpRecord records[] = {
          MatMul{.m = tokens, .n = size(14), .k = size(14)},
          MatMul{.m = tokens,
                 .n = size(14),
                 .k = size(14),
                 .weight = DType::i4,
                 .weight_scales = ScaleGrid{1, 128}},
          GroupedMatMul{.experts = 64,
                        .distinct_experts = static_cast<double>(size(6)) / 3,
                        .rows = static_cast<double>(tokens) / 3,
                        .n = size(12),
                        .k = size(12)},
          Attention{.batch = size(5),
                    .query_length = size(12),
                    .context_length = size(16),
                    .heads = 8,
                    .kv_heads = 2,
                    .qk_head_dim = 128,
                    .v_head_dim = 128},
          Norm{.rows = tokens, .width = size(13)},
          Gather{.rows = tokens, .width = size(13)},
          Collective{.kind = static_cast<CollectiveKind>(i % 4),
                     .bytes = size(30),
                     .group_size = std::min(ranks, device.interconnect.devices())},
      };
      for (const OpRecord& record : records) {
        const OpEstimate estimate = model.estimate(record);
        const OpWork work = work_of(record);
        const double matrix = work.matrix_flops / device.matrix_peak(work.matrix_dtype).flops_per_s;
        const double vector = work.vector_flops / device.vector_peak(work.vector_dtype).flops_per_s;
        const double memory = work.bytes() / device.memory_bandwidth_bytes_per_s;
        CAPTURE(describe(record));
        constexpr double rounding = 1 - 1e-12;
        REQUIRE(estimate.total_s >= matrix * rounding);
        REQUIRE(estimate.total_s >= vector * rounding);
        REQUIRE(estimate.total_s >= memory * rounding);
        REQUIRE(estimate.total_s >= estimate.network_s * rounding);
        REQUIRE(estimate.total_s >= ideal.estimate(record).total_s * rounding);
        REQUIRE(std::isfinite(estimate.total_s));
      }
    }
  }
}

TEST_CASE("the quantized linears of Qwen3-32B take what another simulator publishes") {
  // 2 x 3500 tokens, W8A8, TEST_DEVICE: 448 linears in 884.004 ms (user guide of
  // Ascend/msmodeling, sample output of text-generate).
  const RooflineModel model(load_device("TEST_DEVICE"));
  const std::int64_t hidden = 5120;
  const std::int64_t shapes[][2] = {{hidden, 8192}, {hidden, 1024},  {hidden, 1024},
                                    {8192, hidden}, {hidden, 25600}, {hidden, 25600},
                                    {25600, hidden}};
  double seconds = 0;
  for (const auto& [k, n] : shapes) {
    seconds += 64 * model
                        .estimate(MatMul{.m = 7000,
                                         .n = n,
                                         .k = k,
                                         .input = DType::i8,
                                         .weight = DType::i8,
                                         .output = DType::f16,
                                         .compute = DType::i8})
                        .total_s;
  }
  CHECK(seconds == doctest::Approx(0.884004).epsilon(2e-6));
}

TEST_CASE("an explanation goes from the formula to the seconds") {
  CHECK(RooflineModel(round_device(1.5, 0.8, 0.5, 1e-5))
            .explain(MatMul{.m = 1000, .n = 1000, .k = 1000}) ==
        "matmul: m=1000 n=1000 k=1000 bf16*bf16->bf16\n"
        "  multiply-adds (bf16 flops)  2 * batch * m * n * k = 2 * 1 * 1,000 * 1,000 * 1,000 = "
        "2,000,000,000\n"
        "  read x                      batch * m * k * bytes(bf16) = 1 * 1,000 * 1,000 * 2 = "
        "2,000,000 B\n"
        "  read weight                 batch * n * k * bytes(bf16) = 1 * 1,000 * 1,000 * 2 = "
        "2,000,000 B\n"
        "  write y                     batch * m * n * bytes(bf16) = 1 * 1,000 * 1,000 * 2 = "
        "2,000,000 B\n"
        "  total                       2,000,000,000 matrix flops, 0 vector flops, 4,000,000 B "
        "read, 2,000,000 B written\n"
        "  matrix units: 2e+09 / (0.8 * 1e+12 bf16) = 2.50 ms\n"
        "  memory: 6e+06 B / (0.5 * 1e+11 B/s) = 120 us\n"
        "  time: (sum of these ^ 1.5) ^ (1 / 1.5) + 10.0 us overhead = 2.53 ms, bound by compute\n"
        "  figures of class matmul on round: calibrated (test)\n");
  const std::string collective = RooflineModel(round_device(hard), {.ideal = true})
                                     .explain(Collective{.bytes = 1000, .group_size = 2});
  CHECK(collective.find("  network: all_reduce over node, ring: ") != std::string::npos);
  CHECK(collective.find("  time: the largest of these + ") != std::string::npos);
  CHECK(collective.find("  figures of class collective on round: datasheet (peaks of the "
                        "datasheet, nothing in the way)\n") != std::string::npos);
}

TEST_CASE("activations come from the cache as far as they fit, weights never") {
  DeviceProfile device = round_device(hard);
  device.cache_bytes = 1'000'000;
  device.cache_bandwidth_bytes_per_s = 4e11;
  const RooflineModel model(device);
  struct Row {
    OpRecord record;
    double seconds;
  };
  const Row rows[] = {
      // 600 KB of activations, all in the cache.
      {Copy{.read_elements = 150'000, .written_elements = 150'000}, 6e5 / 4e11},
      // 6 MB, of which 1 MB.
      {Copy{.read_elements = 1'500'000, .written_elements = 1'500'000}, 1e6 / 4e11 + 5e6 / 1e11},
      // A weight of 2 MB, 4 KB of activations.
      {MatMul{.m = 1, .n = 1000, .k = 1000}, 2e6 / 1e11 + 4e3 / 4e11},
      // The same size, computed a moment ago.
      {MatMul{.m = 1, .n = 1000, .k = 1000, .weight_is_parameter = false},
       1e6 / 4e11 + 1.004e6 / 1e11},
      // 512 keys and values of 128 each, 2 bytes; a query and a result.
      {Attention{.context_length = 511, .qk_head_dim = 128, .v_head_dim = 128},
       512 * 512 / 1e11 + 512 / 4e11},
      {Gather{.rows = 100, .width = 500}, 1e5 / 1e11 + (1e5 + 800) / 4e11},
  };
  for (const Row& row : rows) {
    CAPTURE(describe(row.record));
    CHECK(model.estimate(row.record).memory_s == doctest::Approx(row.seconds).epsilon(1e-9));
    CHECK(RooflineModel(device, {.ideal = true}).estimate(row.record).total_s <=
          model.estimate(row.record).total_s);
  }
  CHECK(model.explain(rows[1].record)
            .find("  cache: of 6e+06 B of activations, up to 977 KiB at 4e+11 B/s take as long as "
                  "5.25e+06 B from memory\n") != std::string::npos);
}

TEST_CASE("products have the efficiencies of their dtype, other operators those of the class") {
  DeviceProfile device = round_device(hard, 0.5, 0.25);
  device.matrix[DType::i8] = 2e12;
  ClassEfficiency& matmul = device.efficiency[static_cast<std::size_t>(OpClass::matmul)];
  matmul.products[static_cast<std::size_t>(DType::bf16)] = DTypeEfficiency{0.75, 0.125};
  const RooflineModel model(device);
  const MatMul bf16{.m = 100, .n = 1000, .k = 1000};
  CHECK(model.estimate(bf16).compute_s == doctest::Approx(2e8 / 0.75e12));
  CHECK(model.estimate(bf16).memory_s == doctest::Approx(2.4e6 / 0.125e11));
  // f16 has no units of its own here: what holds for bf16 holds for it.
  const MatMul f16{.m = 100, .n = 1000, .k = 1000, .compute = DType::f16};
  CHECK(model.estimate(f16).compute_s == doctest::Approx(2e8 / 0.75e12));
  const MatMul i8{.m = 100, .n = 1000, .k = 1000, .compute = DType::i8};
  CHECK(model.estimate(i8).compute_s == doctest::Approx(2e8 / 1e12));
  CHECK(model.estimate(i8).memory_s == doctest::Approx(2.4e6 / 0.25e11));
  CHECK(model.explain(bf16).find("  matrix units: 2e+08 / (0.75 * 1e+12 bf16) = 267 us\n"
                                 "  memory: 2.4e+06 B / (0.125 * 1e+11 B/s) = 192 us\n") !=
        std::string::npos);
}

TEST_CASE("a collective beyond the interconnect is an error") {
  const RooflineModel model(round_device(2));
  CHECK_THROWS_WITH_AS(static_cast<void>(model.estimate(Collective{.bytes = 8, .group_size = 16})),
                       "all_reduce over 16 ranks, 1 apart, needs 16 connected devices, but the "
                       "interconnect of the device joins 8",
                       Error);
}

}  // namespace
}  // namespace tcast
