#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/embedded.h"
#include "tcast/base/error.h"
#include "tcast/device/device_profile.h"

namespace tcast {
namespace {

const std::string example = R"(name: Example
description: Two of these make a pair
peak_flops:
  matrix:
    f32: 1e12
    bf16: 4e12
    i8: 8e12
    basis: datasheet
    source: sheet 1
  vector:
    f32: 5e11
    bf16: 1e12
    basis: measured
    source: sheet 2
memory:
  size_bytes: 1000000000
  bandwidth_bytes_per_s: 1e11
  basis: datasheet
  source: sheet 3
efficiency:
  default:
    compute: 0.5
    memory: 0.6
    overhead_s: 3e-6
    smooth_max: .inf
    basis: assumed
    source: guess
  matmul:
    compute: 0.75
    smooth_max: 1.5
    basis: calibrated
    source: fit
interconnect:
  - name: pair
    kind: full_mesh
    devices: 2
    bandwidth_bytes_per_s: 1e10
    efficiency: 0.7
    latency_s: 1e-6
    basis: assumed
    source: guess
  - name: rack
    kind: switch
    devices: 8
    bandwidth_bytes_per_s: 1e9
    efficiency: 0.8
    latency_s: 2e-6
    basis: measured
    source: timed
)";

/// The example with one piece of text replaced.
std::string with(const std::string& from, const std::string& to) {
  std::string text = example;
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

DeviceProfile read(const std::string& text) {
  return read_device(Node::parse_yaml(text, "device.yaml"));
}

TEST_CASE("a device is read with all its fields") {
  const DeviceProfile device = read(example);
  CHECK(device.name == "Example");
  CHECK(device.description == "Two of these make a pair");
  CHECK(device.matrix[DType::bf16] == 4e12);
  CHECK(device.matrix[DType::f16] == 0);
  CHECK(device.matrix.source == "sheet 1");
  CHECK(device.vector.basis == Source::measured);
  CHECK(device.memory_bytes == 1'000'000'000);
  CHECK(device.memory_bandwidth_bytes_per_s == 1e11);
  CHECK(device.memory_source == "sheet 3");

  const ClassEfficiency& matmul = device.efficiency_of(OpClass::matmul);
  CHECK(matmul.compute == 0.75);
  CHECK(matmul.memory == 0.6);  // the default's
  CHECK(matmul.overhead_s == 3e-6);
  CHECK(matmul.smooth_max == 1.5);
  CHECK(matmul.basis == Source::calibrated);
  CHECK(matmul.source == "fit");
  CHECK(std::isinf(device.efficiency_of(OpClass::norm).smooth_max));
  CHECK(device.efficiency_of(OpClass::custom).basis == Source::assumed);

  REQUIRE(device.interconnect.levels.size() == 2);
  CHECK(device.interconnect.levels[0].kind == LinkKind::full_mesh);
  CHECK(device.interconnect.levels[1].kind == LinkKind::crossbar);
  CHECK(device.interconnect.levels[1].latency_s == 2e-6);
  CHECK(device.interconnect.devices() == 8);
}

TEST_CASE("a dtype without a mode of its own falls to the next wider one") {
  DeviceProfile device = read(example);
  struct Row {
    DType asked;
    double flops_per_s;
    DType used;
  };
  const Row rows[] = {
      {DType::bf16, 4e12, DType::bf16},    {DType::f16, 4e12, DType::bf16},
      {DType::f8_e4m3, 4e12, DType::bf16}, {DType::f8_e5m2, 4e12, DType::bf16},
      {DType::i8, 8e12, DType::i8},        {DType::u8, 8e12, DType::i8},
      {DType::i4, 8e12, DType::i8},        {DType::f32, 1e12, DType::f32},
      {DType::i32, 1e12, DType::f32},      {DType::i64, 1e12, DType::f32},
      {DType::boolean, 1e12, DType::f32},
  };
  for (const Row& row : rows) {
    CAPTURE(short_name_of(row.asked));
    CHECK(device.matrix_peak(row.asked).flops_per_s == row.flops_per_s);
    CHECK(device.matrix_peak(row.asked).dtype == row.used);
  }
  CHECK(device.vector_peak(DType::bf16).flops_per_s == 1e12);
  CHECK(device.vector_peak(DType::i8).flops_per_s == 5e11);
  CHECK(device.vector_peak(DType::i8).dtype == DType::f32);

  device.matrix[DType::f8_e4m3] = 16e12;
  CHECK(device.matrix_peak(DType::f8_e5m2).flops_per_s == 16e12);
  device.matrix[DType::i8] = 0;
  CHECK(device.matrix_peak(DType::i4).dtype == DType::bf16);
  device.matrix[DType::bf16] = 0;
  CHECK(device.matrix_peak(DType::i8).dtype == DType::f32);
  device.matrix = {};
  for (int i = 0; i < dtype_count; ++i) {
    CHECK(device.matrix_peak(static_cast<DType>(i)).flops_per_s == 5e11);
  }
}

TEST_CASE("what is wrong with a device is said with its place") {
  struct Row {
    std::string text;
    std::string message;
    std::string hint;
  };
  const Row rows[] = {
      {with("memory:\n  size", "memroy:\n  size"), "device.yaml:16:3: memroy: unknown key",
       "did you mean 'memory'?"},
      {with("name: Example\n", ""), "device.yaml:1:1: expected the key 'name'", ""},
      {with("name: Example", "name: ' - '"),
       "device.yaml:1:7: name: expected a name, got the string \" - \"", ""},
      {with("    bf16: 4e12", "    bfloat: 4e12"),
       "device.yaml:6:13: peak_flops.matrix.bfloat: unknown key",
       "known here: f32, f16, bf16, f8_e4m3, f8_e5m2, i8, u8, i4, i32, i64, bool, basis, source"},
      {with("bf16: 4e12", "bf16: -4e12"),
       "device.yaml:6:11: peak_flops.matrix.bf16: expected a rate above 0, got the number -4e12",
       ""},
      {with("bf16: 4e12", "bf16: .nan"),
       "device.yaml:6:11: peak_flops.matrix.bf16: expected a rate above 0, got the number NaN", ""},
      {with("bf16: 4e12", "bf16: .inf"),
       "device.yaml:6:11: peak_flops.matrix.bf16: expected a rate above 0, got the number Infinity",
       ""},
      {with("    source: sheet 1\n", ""),
       "device.yaml:5:5: peak_flops.matrix: numbers without a source",
       "add 'source:' with the document or the measurement that they come from"},
      {with("source: sheet 3", "source: ''"),
       "device.yaml:19:11: memory.source: expected where the numbers come from, got the string "
       "\"\"",
       ""},
      {with("    basis: calibrated", "    basis: calibrate"),
       "device.yaml:31:12: efficiency.matmul.basis: expected one of measured, calibrated, "
       "datasheet, assumed, got the string \"calibrate\"",
       "did you mean 'calibrated'?"},
      {with("    f32: 5e11\n", ""), "device.yaml:11:5: peak_flops.vector: expected the key 'f32'",
       "the peak that every other dtype can fall back to"},
      {with("size_bytes: 1000000000", "size_bytes: 0"),
       "device.yaml:16:15: memory.size_bytes: expected a size above 0, got the number 0", ""},
      {with("compute: 0.75", "compute: 1.5"),
       "device.yaml:29:14: efficiency.matmul.compute: expected a share above 0 and at most 1, got "
       "the number 1.5",
       ""},
      {with("compute: 0.75", "compute: 0"),
       "device.yaml:29:14: efficiency.matmul.compute: expected a share above 0 and at most 1, got "
       "the number 0",
       ""},
      {with("overhead_s: 3e-6", "overhead_s: 3"),
       "device.yaml:24:17: efficiency.default.overhead_s: expected a time of 0 to 1 seconds, got "
       "the number 3",
       ""},
      {with("smooth_max: 1.5", "smooth_max: 0.5"),
       "device.yaml:30:17: efficiency.matmul.smooth_max: expected an exponent of at least 1 (.inf: "
       "plain maximum), got the number 0.5",
       ""},
      {with("    memory: 0.6\n", ""),
       "device.yaml:22:5: efficiency.default: expected the key 'memory'", ""},
      {with("  matmul:", "  matmull:"), "device.yaml:29:5: efficiency.matmull: unknown key",
       "did you mean 'matmul'?"},
      {with("kind: full_mesh", "kind: mesh"),
       "device.yaml:35:11: interconnect[0].kind: expected one of clos, full_mesh, ring, switch, "
       "got the string \"mesh\"",
       ""},
      {with("devices: 2", "devices: 1"),
       "device.yaml:36:14: interconnect[0].devices: expected 2 to 1000000000 devices, got the "
       "number 1",
       ""},
      {with("devices: 8", "devices: 3"),
       "device.yaml:44:14: interconnect[1].devices: expected a multiple of the 2 devices of the "
       "level inside it, at most 1000000000, got the number 3",
       ""},
      {with("devices: 8", "devices: 9223372036854775806"),
       "device.yaml:44:14: interconnect[1].devices: expected a multiple of the 2 devices of the "
       "level inside it, at most 1000000000, got the number 9223372036854775806",
       ""},
      {"[]", "device.yaml:1:1: expected a map, got an empty list", ""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.message);
    try {
      static_cast<void>(read(row.text));
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      const std::string message = error.what();
      CHECK(message == row.message);
      CHECK(error.hint() == row.hint);
    }
  }
}

void check_equal(const DeviceProfile& a, const DeviceProfile& b) {
  CHECK(a.name == b.name);
  CHECK(a.description == b.description);
  CHECK(a.matrix.flops_per_s == b.matrix.flops_per_s);
  CHECK(a.vector.flops_per_s == b.vector.flops_per_s);
  CHECK(a.matrix.source == b.matrix.source);
  CHECK(a.memory_bytes == b.memory_bytes);
  CHECK(a.memory_bandwidth_bytes_per_s == b.memory_bandwidth_bytes_per_s);
  CHECK(a.memory_basis == b.memory_basis);
  CHECK(a.cache_bytes == b.cache_bytes);
  CHECK(a.cache_bandwidth_bytes_per_s == b.cache_bandwidth_bytes_per_s);
  CHECK(a.cache_basis == b.cache_basis);
  CHECK(a.cache_source == b.cache_source);
  for (int i = 0; i < op_class_count; ++i) {
    const ClassEfficiency& x = a.efficiency_of(static_cast<OpClass>(i));
    const ClassEfficiency& y = b.efficiency_of(static_cast<OpClass>(i));
    CHECK(x.compute == y.compute);
    CHECK(x.memory == y.memory);
    CHECK(x.overhead_s == y.overhead_s);
    CHECK(x.smooth_max == y.smooth_max);
    CHECK(x.products == y.products);
    CHECK(x.basis == y.basis);
    CHECK(x.source == y.source);
  }
  REQUIRE(a.interconnect.levels.size() == b.interconnect.levels.size());
  for (std::size_t i = 0; i < a.interconnect.levels.size(); ++i) {
    CHECK(a.interconnect.levels[i].name == b.interconnect.levels[i].name);
    CHECK(a.interconnect.levels[i].kind == b.interconnect.levels[i].kind);
    CHECK(a.interconnect.levels[i].devices == b.interconnect.levels[i].devices);
    CHECK(a.interconnect.levels[i].bandwidth_bytes_per_s ==
          b.interconnect.levels[i].bandwidth_bytes_per_s);
    CHECK(a.interconnect.levels[i].latency_s == b.interconnect.levels[i].latency_s);
    CHECK(a.interconnect.levels[i].source == b.interconnect.levels[i].source);
  }
}

TEST_CASE("a profile written as YAML is read back the same") {
  DeviceProfile odd = read(example);
  odd.description = "says \"hello\", has a \\ and a line\nbreak: # all of it";
  odd.matrix = {};
  odd.interconnect = {};
  odd.cache_bytes = 1 << 20;
  odd.cache_bandwidth_bytes_per_s = 4 * odd.memory_bandwidth_bytes_per_s;
  odd.cache_basis = Source::calibrated;
  odd.cache_source = "a cache";
  odd.efficiency[0].products[static_cast<std::size_t>(DType::i8)] = DTypeEfficiency{0.25, 0.125};
  check_equal(odd, read(to_yaml(odd)));
  for (const std::string& name : device_names()) {
    CAPTURE(name);
    const DeviceProfile device = load_device(name);
    check_equal(device, read(to_yaml(device)));
  }
}

TEST_CASE("products of few rows are like others unless the profile tells them apart") {
  const DeviceProfile same = read(example);
  CHECK(same.efficiency_of(OpClass::matvec).compute == same.efficiency_of(OpClass::matmul).compute);
  CHECK(same.efficiency_of(OpClass::matvec).source == same.efficiency_of(OpClass::matmul).source);
  CHECK(same.efficiency_of(OpClass::grouped_matvec).source ==
        same.efficiency_of(OpClass::grouped_matmul).source);
  CHECK(same.efficiency_of(OpClass::decode_attention).source ==
        same.efficiency_of(OpClass::attention).source);
  const DeviceProfile other = read(
      with("  matmul:\n", "  matvec: {memory: 0.125, basis: assumed, source: guess}\n  matmul:\n"));
  CHECK(other.efficiency_of(OpClass::matvec).memory == 0.125);
  CHECK(other.efficiency_of(OpClass::matmul).memory == same.efficiency_of(OpClass::matmul).memory);
}

TEST_CASE("a cache and products by dtype are read, and refused when they make no sense") {
  const std::string memory = "memory:\n";
  const auto with_cache = [&](const std::string& text) {
    return with(memory, memory + "  cache: {" + text + ", basis: measured, source: s}\n");
  };
  const DeviceProfile device = read(with_cache("size_bytes: 1000, bandwidth_bytes_per_s: 9e12"));
  CHECK(device.cache_bytes == 1000);
  CHECK(device.cache_bandwidth_bytes_per_s == 9e12);
  CHECK(read(example).cache_bytes == 0);
  for (const char* wrong : {"size_bytes: 0, bandwidth_bytes_per_s: 9e12", "size_bytes: 1000",
                            "size_bytes: 1000, bandwidth_bytes_per_s: 1", "bandwidth: 3",
                            "size_bytes: -1, bandwidth_bytes_per_s: 9e12"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(static_cast<void>(read(with_cache(wrong))), Error);
  }
  const auto with_products = [&](const std::string& text) {
    return with("  matmul:\n", "  matmul:\n    products: {" + text + "}\n");
  };
  const ClassEfficiency matmul =
      read(with_products("i8: {compute: 0.5, memory: 0.25}")).efficiency_of(OpClass::matmul);
  CHECK(matmul.of_products(DType::i8) == DTypeEfficiency{0.5, 0.25});
  CHECK(matmul.of_products(DType::bf16) == DTypeEfficiency{matmul.compute, matmul.memory});
  for (const char* wrong : {"i9: {compute: 0.5, memory: 0.25}", "i8: {compute: 0.5}",
                            "i8: {compute: 1.5, memory: 0.25}", "i8: {compute: 0, memory: 0.25}",
                            "i8: 3", "i8: {compute: 0.5, memory: 0.25, overhead_s: 1}"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(static_cast<void>(read(with_products(wrong))), Error);
  }
}

TEST_CASE("every device that ships is complete and found by its name") {
  REQUIRE(device_names().size() >= 8);
  for (const EmbeddedFile& file : embedded_devices()) {
    CAPTURE(file.name);
    const DeviceProfile device = load_device(file.key);
    CHECK(device.name == file.key);
    CHECK(device.provenance.file == file.name);
    CHECK(to_string(device.provenance) == "builtin");
    CHECK_FALSE(device.description.empty());
    CHECK(device.matrix_peak(DType::bf16).flops_per_s >=
          device.vector_peak(DType::f32).flops_per_s);
    CHECK(device.memory_bytes > 1e9);
    // A datasheet's GB/s written as B/s, or a TB/s as GB/s, would fall out of this range.
    CHECK(device.memory_bandwidth_bytes_per_s > 5e9);
    CHECK(device.memory_bandwidth_bytes_per_s < 2e13);
    CHECK(device.matrix_peak(DType::bf16).flops_per_s > 1e11);
    CHECK(device.matrix_peak(DType::bf16).flops_per_s < 1e16);
  }
}

TEST_CASE("names are compared without case and separators") {
  for (const char* name : {"h200", "H200", "H-200", " h_200 "}) {
    CHECK(load_device(name).name == "H200");
  }
  CHECK(load_device("A100_80G").name == "A100-80G");
  CHECK(load_device("atlas-800-a2-376t-64g").name == "ATLAS_800_A2_376T_64G");
  CHECK(load_device("TEST_DEVICE").memory_bandwidth_bytes_per_s ==
        doctest::Approx(1.6 * 1099511627776.0).epsilon(1e-12));  // TiB/s
}

TEST_CASE("an unknown device is answered with the closest and with all") {
  for (const char* name : {"h20O", "zzzzzzzzz", "", "\x1b[31m"}) {
    CAPTURE(name);
    try {
      static_cast<void>(load_device(name));
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      const std::string hint = error.hint();
      CHECK(hint.find("known devices: A100-80G, ATLAS_800_A2_376T_64G") != std::string::npos);
      CHECK((hint.find("did you mean 'H200'?") == 0) == (std::string(name) == "h20O"));
      CHECK(std::string(error.what()).find('\x1b') == std::string::npos);
    }
  }
  CHECK_THROWS_WITH_AS(static_cast<void>(load_device("h20O")), "unknown device 'h20O'", Error);
}

TEST_CASE("a path is read as a file, even one that is named like a device") {
  const std::string path = "device_profile_test_h200.yaml";
  std::ofstream(path) << example;
  const DeviceProfile device = load_device(path);
  CHECK(device.name == "Example");
  CHECK(to_string(device.provenance) == "the file " + path);
  CHECK(load_device("./" + path).name == "Example");
  std::remove(path.c_str());
  CHECK_THROWS_AS(static_cast<void>(load_device(path)), Error);
}

}  // namespace
}  // namespace tcast
