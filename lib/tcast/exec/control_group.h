#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace tcast {

/// What the control groups of this process grant: its own and all groups above it as far as they
/// are visible, of version 1 and 2. The tightest limit counts.
struct GroupLimits {
  /// Processors that the quota is worth; nothing where no group has a quota.
  std::optional<double> cpus;
  /// "150000/100000", microseconds of each period; "none" without a quota.
  std::string quota = "none";
  /// Least memory limit; nothing where no group has one.
  std::optional<std::int64_t> memory_bytes;
  /// What a limit still leaves, least over the groups. Pages of files that nobody has used of late
  /// are given back on demand and count as left.
  std::optional<std::int64_t> memory_left_bytes;
};

/// Reads /proc/self/cgroup (which group), /proc/self/mountinfo (where groups are) and the files of
/// the groups, all of them below `root`. What cannot be read sets no limit. Formats: cgroups(7),
/// proc(5).
GroupLimits group_limits(const std::string& root = {});

/// Bytes that RLIMIT_AS and RLIMIT_DATA leave to this process; nothing where there is no limit.
std::optional<std::int64_t> address_space_left();

}  // namespace tcast
