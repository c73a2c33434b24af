#include "tcast/exec/timing/host.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <unistd.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/exec/control_group.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/kernels/vector_functions.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/threads.h"

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

/// The canary's product.
double product_speed(DType dtype, std::string& implementation) {
  ProductProbe probe(dtype, 256, 1024, 1024);
  implementation = probe.implementation();
  return probe.flops_per_s(5, 0.05);
}

}  // namespace

double cpu_time_of_process() {
  timespec own{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
  return static_cast<double>(own.tv_sec) + 1e-9 * static_cast<double>(own.tv_nsec);
}

CpuTimes cpu_times() {
  CpuTimes times;
  std::ifstream file("/proc/stat");
  std::string name;
  file >> name;
  const auto per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  // user, nice, system, idle, iowait, irq, softirq, steal (time taken by other virtual machines)
  for (int i = 0; i < 8 && file; ++i) {
    double ticks = 0;
    if (!(file >> ticks)) return {};
    times.all += ticks / per_second;
    if (i != 3 && i != 4) times.busy += ticks / per_second;
    if (i == 7) times.stolen = ticks / per_second;
  }
  times.own = cpu_time_of_process();
  return times;
}

struct ProductProbe::Impl {
  MatMul product;
  KernelResult made;
  AlignedMemory x, w, y, scratch;
};

ProductProbe::ProductProbe(DType dtype, std::int64_t m, std::int64_t n, std::int64_t k)
    : impl_(std::make_unique<Impl>()) {
  impl_->product = {
      .m = m, .n = n, .k = k, .input = dtype, .weight = dtype, .output = dtype, .compute = dtype};
  impl_->made = make_kernel(impl_->product);
  if (impl_->made.kernel == nullptr) return;
  // Zeros: integer units might be faster with them, these are not.
  impl_->x = AlignedMemory(bytes_of(m * k, dtype));
  impl_->w = AlignedMemory(impl_->made.kernel->packed_bytes());
  impl_->y = AlignedMemory(bytes_of(m * n, dtype));
  impl_->scratch = AlignedMemory(impl_->made.kernel->scratch_bytes());
  flops_per_s(1, 0);
}
ProductProbe::ProductProbe(ProductProbe&&) noexcept = default;
ProductProbe::~ProductProbe() = default;

std::string ProductProbe::implementation() const {
  return impl_->made.kernel != nullptr ? impl_->made.kernel->implementation() : std::string();
}

double ProductProbe::flops_per_s(int runs, double limit_s) {
  if (impl_->made.kernel == nullptr) return 0;
  const MatMul& product = impl_->product;
  const Buffer inputs[] = {{impl_->x.data(), impl_->x.bytes(), product.input, {}},
                           {impl_->w.data(), impl_->w.bytes(), product.weight, {}}};
  const Buffer output{impl_->y.data(), impl_->y.bytes(), product.output, {}};
  const KernelArgs args{inputs, {&output, 1}, impl_->scratch.span(), nullptr};
  double best = std::numeric_limits<double>::infinity();
  const double start = now_s();
  for (int i = 0; i < runs; ++i) {
    const double before = now_s();
    if (i > 0 && before - start > limit_s) break;
    impl_->made.kernel->run(args);
    best = std::min(best, now_s() - before);
  }
  return 2.0 * static_cast<double>(product.m * product.n * product.k) / best;
}

bool is_quiet(const Pace& best, int threads) {
  constexpr double look_s = 0.1;
  constexpr double taken_by_others = 0.1;
  constexpr double usual_slowdown = 1.25;
  set_threads(threads);
  const CpuTimes before = cpu_times();
  const double start = now_s();
  std::this_thread::sleep_for(std::chrono::duration<double>(look_s));
  const CpuTimes after = cpu_times();
  const double elapsed_s = now_s() - start;
  const double all_cpus = (after.all - before.all) / elapsed_s;
  const double busy_cpus =
      (after.busy - before.busy - (after.own - before.own)) / std::max(1e-3, elapsed_s);
  if (all_cpus > 0 && all_cpus - busy_cpus < (1 - taken_by_others) * threads) return false;
  Pace now;
  now.f32_flops_per_s = ProductProbe(DType::f32, 128, 512, 512).flops_per_s(3, 0.002);
  if (HostDTypes{}.bf16) {
    now.bf16_flops_per_s = ProductProbe(DType::bf16, 128, 512, 512).flops_per_s(3, 0.002);
  }
  return slowdown(now, best) < usual_slowdown;
}

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
