#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/config/node.h"
#include "tcast/cost/calibration.h"
#include "tcast/cost/op_cost.h"
#include "tcast/cost/roofline.h"

namespace tcast {
namespace {

/// A machine of which everything is known.
DeviceProfile known_device() {
  DeviceProfile device;
  device.name = "known";
  device.memory_bytes = 1 << 30;
  device.memory_bandwidth_bytes_per_s = 20e9;
  device.cache_bytes = 64 << 20;
  device.cache_bandwidth_bytes_per_s = 80e9;
  device.matrix[DType::f32] = 200e9;
  device.matrix[DType::bf16] = 1.5e12;
  device.matrix[DType::i8] = 2.5e12;
  device.vector[DType::f32] = 200e9;
  for (ClassEfficiency& efficiency : device.efficiency) {
    efficiency = {.compute = 0.1, .memory = 0.5, .overhead_s = 1e-6, .smooth_max = 2};
  }
  const auto products = [&](OpClass op_class, double f32, double bf16, double i8, double memory,
                            double exponent) {
    ClassEfficiency& efficiency = device.efficiency[static_cast<std::size_t>(op_class)];
    efficiency.smooth_max = exponent;
    efficiency.memory = memory;
    efficiency.products[static_cast<std::size_t>(DType::f32)] = DTypeEfficiency{f32, memory};
    efficiency.products[static_cast<std::size_t>(DType::bf16)] = DTypeEfficiency{bf16, memory};
    efficiency.products[static_cast<std::size_t>(DType::i8)] = DTypeEfficiency{i8, 0.7 * memory};
  };
  products(OpClass::matmul, 1, 1, 1, 0.9, 1.3);
  products(OpClass::matvec, 0.2, 0.02, 0.04, 1, 6);
  products(OpClass::grouped_matmul, 0.7, 0.6, 0.5, 0.8, 1.5);
  products(OpClass::grouped_matvec, 0.2, 0.02, 0.04, 0.9, 6);
  products(OpClass::attention, 0.5, 0.2, 0.2, 0.6, 1.2);
  return device;
}

/// Uniform in -1 .. 1, the same numbers in every run.
class Noise {
 public:
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) / static_cast<double>(std::uint64_t{1} << 52) - 1;
  }

 private:
  std::uint64_t state_ = 7;
};

/// What timing on that machine gives: every time off by up to `noise`, and one of `outlier_every`
/// ten times too long.
std::vector<CalibrationPoint> points_of(const DeviceProfile& device, double noise,
                                        int outlier_every, bool thorough = false) {
  const RooflineModel model(device);
  Noise random;
  std::vector<CalibrationPoint> points;
  int count = 0;
  for (const OpRecord& record : calibration_ops({.bf16 = true, .thorough = thorough})) {
    double seconds = model.estimate(record).total_s * (1 + noise * random.next());
    if (outlier_every > 0 && ++count % outlier_every == 0) seconds *= 10;
    points.push_back({record, seconds});
  }
  return points;
}

/// What is known of a machine before it is calibrated.
CalibrationFrame frame_of(const DeviceProfile& device) {
  CalibrationFrame frame;
  frame.device.name = device.name;
  frame.device.memory_bytes = device.memory_bytes;
  frame.device.memory_bandwidth_bytes_per_s = 0.9 * device.memory_bandwidth_bytes_per_s;
  frame.device.cache_bytes = device.cache_bytes;
  frame.device.vector[DType::f32] = 0.5 * device.vector[DType::f32];
  frame.source = "test";
  return frame;
}

TEST_CASE("calibration operators cover rows, dtypes and classes, each once") {
  for (const bool bf16 : {true, false}) {
    for (const bool thorough : {true, false}) {
      CAPTURE(bf16);
      CAPTURE(thorough);
      std::set<std::string> seen;
      std::set<OpClass> classes;
      std::set<DType> dtypes;
      std::int64_t most_rows = 0;
      for (const OpRecord& record : calibration_ops({bf16, thorough})) {
        const std::string text = fmt::format("{} {}", name_of(record), describe(record));
        CAPTURE(text);
        CHECK(seen.insert(text).second);
        classes.insert(class_of(record));
        const OpWork work = work_of(record);
        CHECK(work.bytes() > 0);
        if (const auto* product = std::get_if<MatMul>(&record)) {
          dtypes.insert(product->compute);
          most_rows = std::max(most_rows, product->m);
        }
      }
      // All but collectives and what others register.
      CHECK(classes.size() == op_class_count - 2);
      CHECK(dtypes == (bf16 ? std::set{DType::f32, DType::bf16, DType::i8}
                            : std::set{DType::f32, DType::i8}));
      CHECK(most_rows >= 512);
    }
  }
}

TEST_CASE("a fit gives the times of the machine that the points come from") {
  struct Row {
    double noise;
    int outlier_every;
    double median;       // of the errors of a class, at most
    double model_error;  // of a model's products, at most
  };
  const DeviceProfile truth = known_device();
  for (const Row& row :
       {Row{0, 0, 0.04, 0.02}, Row{0.05, 0, 0.07, 0.06}, Row{0.05, 12, 0.08, 0.07}}) {
    CAPTURE(row.noise);
    CAPTURE(row.outlier_every);
    const std::vector<CalibrationPoint> points = points_of(truth, row.noise, row.outlier_every);
    const Calibration found = calibrate(frame_of(truth), points);
    CHECK(found.device.matrix[DType::bf16] == doctest::Approx(1.5e12).epsilon(0.15));
    CHECK(found.device.matrix[DType::f32] == doctest::Approx(200e9).epsilon(0.15));
    CHECK(found.device.matrix[DType::i8] == doctest::Approx(2.5e12).epsilon(0.15));
    CHECK(found.device.memory_bandwidth_bytes_per_s == doctest::Approx(20e9).epsilon(0.1));
    CHECK(found.residuals.size() == op_class_count - 2);
    for (const CalibrationResidual& residual : found.residuals) {
      CAPTURE(name_of(residual.op_class));
      CHECK(residual.held_out > 0);
      CHECK(residual.fitted >= 2 * residual.held_out);
      // Of very few, half may be outliers.
      if (row.outlier_every == 0 || residual.held_out >= 5) CHECK(residual.median <= row.median);
      CHECK(residual.percentile_95 >= residual.median);
    }
    // Operators that are not among the points.
    const RooflineModel real(truth);
    const RooflineModel fitted(found.device);
    for (const std::int64_t m : {1, 3, 8, 40, 300}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        CAPTURE(m);
        CAPTURE(short_name_of(dtype));
        const MatMul op{.m = m,
                        .n = 2560,
                        .k = 1536,
                        .input = dtype,
                        .weight = dtype,
                        .output = dtype,
                        .compute = dtype};
        CHECK(fitted.estimate(op).total_s ==
              doctest::Approx(real.estimate(op).total_s).epsilon(row.model_error));
      }
    }
  }
}

TEST_CASE("points that are held out have no influence on the fit") {
  const DeviceProfile truth = known_device();
  std::vector<CalibrationPoint> points = points_of(truth, 0.02, 0);
  const Calibration before = calibrate(frame_of(truth), points);
  int held_out = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (!before.held_out[i]) continue;
    ++held_out;
    points[i].seconds *= 1.5;
  }
  CHECK(held_out > static_cast<int>(points.size()) / 6);
  const Calibration after = calibrate(frame_of(truth), points);
  CHECK(after.held_out == before.held_out);
  for (int i = 0; i < op_class_count; ++i) {
    const auto op_class = static_cast<OpClass>(i);
    CHECK(after.device.efficiency_of(op_class).overhead_s ==
          before.device.efficiency_of(op_class).overhead_s);
    CHECK(after.device.efficiency_of(op_class).products ==
          before.device.efficiency_of(op_class).products);
  }
  // They judge it: what was right is now a third too low.
  for (const CalibrationResidual& residual : after.residuals) {
    CAPTURE(name_of(residual.op_class));
    CHECK(residual.median == doctest::Approx(1.0 / 3).epsilon(0.1));
  }
}

TEST_CASE("what the executor adds is part of every overhead, and of no residual") {
  const DeviceProfile truth = known_device();
  const std::vector<CalibrationPoint> points = points_of(truth, 0, 0);
  CalibrationFrame frame = frame_of(truth);
  const Calibration without = calibrate(frame, points);
  frame.overhead_s = 5e-4;
  const Calibration with = calibrate(frame, points);
  for (int i = 0; i < op_class_count; ++i) {
    CAPTURE(name_of(static_cast<OpClass>(i)));
    const auto at = static_cast<std::size_t>(i);
    CHECK(with.device.efficiency[at].overhead_s ==
          doctest::Approx(without.device.efficiency[at].overhead_s + 5e-4).epsilon(1e-3));
  }
  for (std::size_t i = 0; i < with.residuals.size(); ++i) {
    CHECK(with.residuals[i].median == doctest::Approx(without.residuals[i].median).epsilon(1e-2));
  }
}

TEST_CASE("a fitted profile survives its YAML, with a source for every number") {
  const DeviceProfile truth = known_device();
  const Calibration found = calibrate(frame_of(truth), points_of(truth, 0.03, 20));
  const std::string yaml = to_yaml(found.device);
  const DeviceProfile read = read_device(Node::parse_yaml(yaml, "fitted.yaml"));
  CHECK(to_yaml(read) == yaml);
  const RooflineModel a(found.device);
  const RooflineModel b(read);
  for (const OpRecord& record : calibration_ops({})) {
    CHECK(a.estimate(record).total_s == b.estimate(record).total_s);
  }
  CHECK(read.matrix.basis == Source::calibrated);
  CHECK(read.matrix.source == "what products of many rows tend to in the fit; test");
  const ClassEfficiency& matmul = read.efficiency_of(OpClass::matmul);
  CHECK(matmul.basis == Source::calibrated);
  CHECK(matmul.source.find("; |error| of 12 others: median ") != std::string::npos);
  CHECK(read.efficiency_of(OpClass::custom).basis == Source::assumed);
}

TEST_CASE("few, equal, extreme and useless points") {
  const DeviceProfile truth = known_device();
  const RooflineModel model(truth);
  const OpRecord f32 = MatMul{.m = 64,
                              .n = 512,
                              .k = 512,
                              .input = DType::f32,
                              .weight = DType::f32,
                              .output = DType::f32,
                              .compute = DType::f32};
  const auto valid = [](const Calibration& found) {
    const DeviceProfile read = read_device(Node::parse_yaml(to_yaml(found.device), "x"));
    return read.matrix[DType::f32] > 0;
  };
  const CalibrationFrame frame = frame_of(truth);
  const double seconds = model.estimate(f32).total_s;
  CHECK(valid(calibrate(frame, std::vector<CalibrationPoint>{{f32, seconds}})));
  CHECK(valid(calibrate(frame, std::vector<CalibrationPoint>(20, {f32, seconds}))));
  for (const double odd : {1e-15, 1e-9, 1.0, 1e6}) {
    CAPTURE(odd);
    CHECK(valid(calibrate(frame, std::vector<CalibrationPoint>(5, {f32, odd}))));
  }
  // Operators without any work take their time, too.
  CHECK(valid(calibrate(
      frame, std::vector<CalibrationPoint>{{f32, seconds}, {Norm{.rows = 0, .width = 8}, 1e-6}})));
  for (const double wrong : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_WITH_AS(
        static_cast<void>(calibrate(frame, std::vector<CalibrationPoint>{{f32, wrong}})),
        fmt::format("matmul m=64 n=512 k=512 f32*f32->f32: a time of {} s is none", wrong).c_str(),
        Error);
  }
  CHECK_THROWS_WITH_AS(static_cast<void>(calibrate(frame, std::vector<CalibrationPoint>{})),
                       "there is no product in f32 among the timed operators", Error);
}

}  // namespace
}  // namespace tcast
