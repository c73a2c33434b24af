#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tcast/exec/isa.h"

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

/// Takes the canary on current_threads() threads: about 0.2 s, up to 256 MiB for that time.
HostSpeed measure_host_speed();

/// How far two canaries differ: the largest relative change of their figures, 0.1 = 10 %.
double drift(const HostSpeed& before, const HostSpeed& after);

}  // namespace tcast
