#include "tcast/exec/control_group.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

namespace tcast {
namespace {

/// A mounted hierarchy of groups, or a part of one.
struct Mount {
  std::string root;                   ///< the group that is mounted
  std::string point;                  ///< where
  std::set<std::string> controllers;  ///< of version 1; empty: version 2
};

/// The group of this process in a hierarchy.
struct Membership {
  std::string group;
  std::set<std::string> controllers;  ///< of version 1; empty: version 2
};

std::set<std::string> comma_separated(const std::string& text) {
  std::set<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.insert(part);
  return parts;
}

/// mountinfo writes blanks, line ends and backslashes in names as three octal digits.
std::string unescaped(const std::string& text) {
  std::string result;
  const auto is_digit = [&](std::size_t i) {
    return i < text.size() && text[i] >= '0' && text[i] <= '7';
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && is_digit(i + 1) && is_digit(i + 2) && is_digit(i + 3)) {
      const int code = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
      result += static_cast<char>(code);
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

std::vector<Mount> mounts_of(const std::string& root) {
  std::vector<Mount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    // id, parent, device, root, mount point, options, optional fields, "-", type, source, options
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream front(line.substr(0, dash));
    std::istringstream back(line.substr(dash + 3));
    std::string skipped, type, source, options;
    Mount mount;
    front >> skipped >> skipped >> skipped >> mount.root >> mount.point;
    back >> type >> source >> options;
    if (type != "cgroup" && type != "cgroup2") continue;
    if (type == "cgroup") {
      mount.controllers = comma_separated(options);
      if (mount.controllers.empty()) continue;
    }
    mount.root = unescaped(mount.root);
    mount.point = unescaped(mount.point);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

std::vector<Membership> memberships_of(const std::string& root) {
  std::vector<Membership> list;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // number, controllers of version 1, group
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    list.push_back(
        {line.substr(second + 1), comma_separated(line.substr(first + 1, second - first - 1))});
  }
  return list;
}

/// The folder of a group below a mount point, "" for the mounted group itself; nothing when the
/// group is not part of what is mounted.
std::optional<std::string> below(const std::string& group, const std::string& mounted) {
  const std::string_view top = mounted == "/" ? std::string_view() : std::string_view(mounted);
  if (group == mounted) return std::string();
  if (group.compare(0, top.size(), top) != 0 || group.size() <= top.size() ||
      group[top.size()] != '/' || group.find("/..") != std::string::npos) {
    return std::nullopt;
  }
  return group.substr(top.size());
}

/// The groups of a hierarchy that bound this process, from its own to the topmost visible one. In a
/// container its own may be mounted under a name that the process does not know: then what is
/// mounted bounds it.
std::vector<std::string> folders_of(const Membership& member, const std::vector<Mount>& mounts,
                                    const std::string& controller) {
  std::vector<std::string> folders;
  std::vector<std::string> others;
  for (const Mount& mount : mounts) {
    const bool wanted = member.controllers.empty() ? mount.controllers.empty()
                                                   : mount.controllers.count(controller) > 0;
    if (!wanted) continue;
    std::optional<std::string> name = below(member.group, mount.root);
    if (!name) {
      others.push_back(mount.point);
      continue;
    }
    for (; !name->empty(); name->resize(name->rfind('/'))) folders.push_back(mount.point + *name);
    folders.push_back(mount.point);
  }
  return folders.empty() ? others : folders;
}

/// A number at the begin of a file, or nothing ("max", or no such file).
std::optional<std::int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

/// The value of "name value" in a file of such lines.
std::optional<std::int64_t> named_number(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string key;
  for (std::int64_t value = 0; file >> key >> value;) {
    if (key == name) return value;
  }
  return std::nullopt;
}

void keep_least(std::optional<std::int64_t>& least, std::int64_t value) {
  value = std::max<std::int64_t>(0, value);
  least = std::min(least.value_or(value), value);
}

void add_quota(const std::string& folder, bool is_version_2, GroupLimits& limits) {
  std::int64_t quota = 0;
  std::int64_t period = 0;
  if (is_version_2) {
    std::ifstream file(folder + "/cpu.max");
    if (!(file >> quota >> period)) return;  // "max 100000"
  } else {
    quota = number_in(folder + "/cpu.cfs_quota_us").value_or(-1);
    period = number_in(folder + "/cpu.cfs_period_us").value_or(0);
  }
  if (quota <= 0 || period <= 0) return;
  const double cpus = static_cast<double>(quota) / static_cast<double>(period);
  if (limits.cpus && *limits.cpus <= cpus) return;
  limits.cpus = cpus;
  limits.quota = std::to_string(quota) + "/" + std::to_string(period);
}

void add_memory(const std::string& folder, bool is_version_2, GroupLimits& limits) {
  // Version 1 writes "no limit" as the largest whole number of pages.
  constexpr std::int64_t unlimited = std::int64_t{1} << 62;
  std::vector<const char*> names;
  if (is_version_2) {
    // Above memory.high a process is not killed, but slowed until it makes no progress.
    names = {"/memory.max", "/memory.high"};
  } else {
    names = {"/memory.limit_in_bytes"};
  }
  const std::int64_t used =
      number_in(folder + (is_version_2 ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
  const std::int64_t spare =
      named_number(folder + "/memory.stat", is_version_2 ? "inactive_file" : "total_inactive_file")
          .value_or(0);
  for (const char* name : names) {
    const std::optional<std::int64_t> limit = number_in(folder + name);
    if (!limit || *limit < 0 || *limit >= unlimited) continue;
    keep_least(limits.memory_bytes, *limit);
    keep_least(limits.memory_left_bytes,
               std::min(*limit, *limit - used + std::clamp<std::int64_t>(spare, 0, used)));
  }
}

}  // namespace

GroupLimits group_limits(const std::string& root) {
  GroupLimits limits;
  const std::vector<Mount> mounts = mounts_of(root);
  for (const Membership& member : memberships_of(root)) {
    const bool is_version_2 = member.controllers.empty();
    if (is_version_2 || member.controllers.count("cpu") > 0) {
      for (const std::string& folder : folders_of(member, mounts, "cpu")) {
        add_quota(root + folder, is_version_2, limits);
      }
    }
    if (is_version_2 || member.controllers.count("memory") > 0) {
      for (const std::string& folder : folders_of(member, mounts, "memory")) {
        add_memory(root + folder, is_version_2, limits);
      }
    }
  }
  return limits;
}

std::optional<std::int64_t> address_space_left() {
  // Pages: size, resident, shared, code, libraries, data and stack.
  std::ifstream file("/proc/self/statm");
  std::int64_t size = 0, skipped = 0, data = 0;
  file >> size >> skipped >> skipped >> skipped >> skipped >> data;
  const std::int64_t page = sysconf(_SC_PAGESIZE);
  std::optional<std::int64_t> left;
  for (const auto& [resource, used] :
       {std::pair{RLIMIT_AS, size * page}, std::pair{RLIMIT_DATA, data * page}}) {
    rlimit limit{};
    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) continue;
    const auto most = static_cast<std::int64_t>(
        std::min<rlim_t>(limit.rlim_cur, static_cast<rlim_t>(std::int64_t{1} << 62)));
    keep_least(left, most - used);
  }
  return left;
}

}  // namespace tcast
