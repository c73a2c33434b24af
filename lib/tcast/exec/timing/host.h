#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tcast/base/units.h"
#include "tcast/exec/kernels/isa.h"
#include "tcast/exec/timing/measurement.h"

namespace tcast {

/// The machine that tcast runs on, as the system describes it. 0: unknown.
struct HostFeatures {
  std::string cpu;  ///< "Intel(R) Xeon(R) Processor"
  Isa isa = Isa::baseline;
  int threads = 1;  ///< available_threads()
  std::int64_t l1_bytes = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t last_level_bytes = 0;  ///< shared by whoever is on the socket
  std::int64_t memory_bytes = 0;      ///< installed, or the limit of the control groups
  /// Of memory, now; cut by the limits of the control groups and of the address space. Nothing:
  /// unknown.
  std::optional<std::int64_t> available_bytes;
};
HostFeatures host_features();

/// What this host does at this moment: a canary, taken with every session of timings, so that a
/// slower or busier machine shows.
struct HostSpeed {
  double read_bytes_per_s = 0;  ///< all threads reading more than the last-level cache holds
  double f32_flops_per_s = 0;   ///< a product of 256 x 1024 x 1024 through oneDNN
  double bf16_flops_per_s = 0;  ///< the same in bf16; 0 where there is none
  std::string f32_implementation{};
  std::string bf16_implementation{};
  double took_s = 0;
};

/// What the processors of this machine did since it was started, in seconds of one processor; zeros
/// where the system does not tell.
struct CpuTimes {
  double all = 0;
  double busy = 0;
  double stolen = 0;  ///< of busy: taken by other virtual machines
  double own = 0;     ///< of busy: of this process
};
CpuTimes cpu_times();
/// The last of them alone.
double cpu_time_of_process();

/// A product of zeros through oneDNN, again and again: how fast is the machine at it just now?
class ProductProbe {
 public:
  /// For the threads that current_threads() says.
  ProductProbe(DType dtype, std::int64_t m, std::int64_t n, std::int64_t k);
  ProductProbe(ProductProbe&&) noexcept;
  ~ProductProbe();

  /// Best of at most `runs`, after `limit_s` no further one, in operations per second; 0 where
  /// there is no kernel.
  double flops_per_s(int runs, double limit_s);
  /// Empty where there is no kernel.
  std::string implementation() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Whether timings begun now would be undisturbed, as far as 0.1 s can tell: `threads` processors
/// are free, and products are about as fast as in the best pace that is known.
bool is_quiet(const Pace& best, int threads);

/// Takes the canary on current_threads() threads: about 0.2 s, up to 256 MiB for that time.
HostSpeed measure_host_speed();

/// How far two canaries differ: the largest relative change of their figures, 0.1 = 10 %.
double drift(const HostSpeed& before, const HostSpeed& after);

}  // namespace tcast
