#include "tcast/exec/timing/host_key.h"

#include <fstream>
#include <string>

#include <fmt/format.h>
#include <sched.h>

#include "tcast/exec/control_group.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/timing/host.h"

namespace tcast {

// Made by the build from the sources of the kernels and how they are compiled.
extern const char* const kernel_version;

namespace {

/// "0-3,8" of the affinity mask.
std::string allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return "unknown";
  std::string text;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    int last = cpu;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set)) ++last;
    if (!text.empty()) text += ',';
    text += last > cpu ? fmt::format("{}-{}", cpu, last) : std::to_string(cpu);
    cpu = last;
  }
  return text;
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// "madvise" out of "always [madvise] never".
std::string page_policy() {
  const std::string line = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const std::size_t begin = line.find('[');
  const std::size_t end = line.find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return "unknown";
  return line.substr(begin + 1, end - begin - 1);
}

}  // namespace

std::string host_key(int threads) {
  return fmt::format(
      "{}; {}; {} thread(s); cpus {}; quota {}; huge pages {}; oneDNN {}, {}; kernels {}",
      host_features().cpu, name_of(host_isa()), threads, allowed_cpus(), group_limits().quota,
      page_policy(), onednn_version(), onednn_settings(), kernel_version);
}

}  // namespace tcast
