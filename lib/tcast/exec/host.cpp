#include "tcast/exec/host.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/exec/control_group.h"
#include "tcast/exec/kernel.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/threads.h"
#include "tcast/exec/vector_functions.h"

namespace tcast {
namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || colon + 2 > line.size()) continue;
    return line.substr(colon + 2);
  }
  return {};
}

/// Value of a line of /proc/meminfo, in bytes; nothing without such a line.
std::optional<std::int64_t> memory_line(const std::string& name) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(name + ":", 0) == 0) {
      return std::strtoll(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
    }
  }
  return std::nullopt;
}

/// Of those that are known.
std::optional<std::int64_t> least(std::initializer_list<std::optional<std::int64_t>> values) {
  std::optional<std::int64_t> result;
  for (const std::optional<std::int64_t>& value : values) {
    if (value) result = std::min(*value, result.value_or(*value));
  }
  return result;
}

std::int64_t cache_bytes(int name) { return std::max<std::int64_t>(0, sysconf(name)); }

/// Best of a few products, in operations per second.
double product_speed(DType dtype, std::string& implementation) {
  const MatMul product{.m = 256,
                       .n = 1024,
                       .k = 1024,
                       .input = dtype,
                       .weight = dtype,
                       .output = dtype,
                       .compute = dtype};
  const KernelResult result = make_kernel(product);
  if (result.kernel == nullptr) return 0;
  Kernel& kernel = *result.kernel;
  implementation = kernel.implementation();
  const std::int64_t x_bytes = bytes_of(product.m * product.k, dtype);
  const std::int64_t y_bytes = bytes_of(product.m * product.n, dtype);
  const AlignedMemory x(x_bytes);
  const AlignedMemory w(kernel.packed_bytes());
  const AlignedMemory y(y_bytes);
  const AlignedMemory scratch(kernel.scratch_bytes());
  // Zeros: integer units might be faster with them, these are not.
  const Buffer inputs[] = {{x.data(), x_bytes, dtype, {}}, {w.data(), w.bytes(), dtype, {}}};
  const Buffer output{y.data(), y_bytes, dtype, {}};
  const KernelArgs args{inputs, {&output, 1}, scratch.span(), nullptr};
  kernel.run(args);
  double best = std::numeric_limits<double>::infinity();
  const double start = now_s();
  for (int i = 0; i < 5 && now_s() - start < 0.05; ++i) {
    const double before = now_s();
    kernel.run(args);
    best = std::min(best, now_s() - before);
  }
  return 2.0 * static_cast<double>(product.m * product.n * product.k) / best;
}

/// Best of a few passes over memory that the last-level cache does not hold, in bytes per second.
double read_speed(const HostFeatures& host) {
  constexpr std::int64_t mib = std::int64_t{1} << 20;
  std::int64_t bytes = std::clamp(2 * host.last_level_bytes, 64 * mib, 256 * mib);
  if (host.available_bytes) bytes = std::min(bytes, *host.available_bytes / 8);
  bytes = std::max(round_up(bytes, mib), mib);
  const AlignedMemory memory(bytes);
  // Pages that were never written all share one page of zeros.
  parallel_ranges(bytes / 4096, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t page = begin; page < end; ++page) memory.data()[page * 4096] = std::byte{1};
  });
  const auto& functions = vector_functions(host.isa);
  const auto* values = static_cast<const float*>(static_cast<const void*>(memory.data()));
  std::vector<float> sums(static_cast<std::size_t>(current_threads()));
  double best = std::numeric_limits<double>::infinity();
  for (int pass = 0; pass < 3; ++pass) {
    const double before = now_s();
    parallel_ranges(bytes / 4, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
      sums[static_cast<std::size_t>(thread)] += functions.total(values + begin, end - begin);
    });
    best = std::min(best, now_s() - before);
  }
  return static_cast<double>(bytes) / best;
}

}  // namespace

HostFeatures host_features() {
  HostFeatures host;
  host.cpu = cpu_name();
  host.isa = host_isa();
  host.threads = available_threads();
  host.l1_bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE);
  host.l2_bytes = cache_bytes(_SC_LEVEL2_CACHE_SIZE);
  host.last_level_bytes = std::max(
      {cache_bytes(_SC_LEVEL3_CACHE_SIZE), cache_bytes(_SC_LEVEL4_CACHE_SIZE), host.l2_bytes});
  const GroupLimits group = group_limits();
  const std::optional<std::int64_t> installed_bytes = memory_line("MemTotal");
  host.memory_bytes = least({installed_bytes, group.memory_bytes}).value_or(0);
  host.available_bytes =
      least({memory_line("MemAvailable"), group.memory_left_bytes, address_space_left()});
  return host;
}

HostSpeed measure_host_speed() {
  const double start = now_s();
  HostSpeed speed;
  speed.read_bytes_per_s = read_speed(host_features());
  speed.f32_flops_per_s = product_speed(DType::f32, speed.f32_implementation);
  if (HostDTypes{}.bf16) {
    speed.bf16_flops_per_s = product_speed(DType::bf16, speed.bf16_implementation);
  }
  speed.took_s = now_s() - start;
  return speed;
}

double drift(const HostSpeed& before, const HostSpeed& after) {
  const auto change = [](double a, double b) {
    return a > 0 && b > 0 ? std::max(a, b) / std::min(a, b) - 1 : 0.0;
  };
  return std::max({change(before.read_bytes_per_s, after.read_bytes_per_s),
                   change(before.f32_flops_per_s, after.f32_flops_per_s),
                   change(before.bf16_flops_per_s, after.bf16_flops_per_s)});
}

}  // namespace tcast
