#include <doctest/doctest.h>

#include "tcast/exec/control_group.h"
#include "tcast/exec/threads.h"
#include "tcast/exec/timing/host_key.h"

#include "scratch.h"

using namespace tcast;

namespace {

constexpr std::int64_t mib = std::int64_t{1} << 20;

/// A made-up /proc and /sys, as a process would find them.
struct System {
  Scratch folder;

  void memberships(const std::string& text) { folder.write("proc/self/cgroup", text); }
  void mounts(const std::string& text) {
    folder.write("proc/self/mountinfo",
                 "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"
                 "not a line of a mount\n" +
                     text);
  }
  GroupLimits limits() const { return group_limits(folder.path()); }
};

const std::string unified =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const std::string cpu_and_memory =
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";

}  // namespace

// S21
TEST_CASE("control groups: the tightest limit of the own group and all above it counts") {
  System system;
  system.memberships("0::/user.slice/user-0.slice/run-1.scope\n");
  system.mounts(unified);
  const std::string top = "sys/fs/cgroup/";
  SUBCASE("no limits") {
    system.folder.write(top + "user.slice/cpu.max", "max 100000\n");
    system.folder.write(top + "user.slice/memory.max", "max\n");
    CHECK(!system.limits().cpus);
    CHECK(system.limits().quota == "none");
    CHECK(!system.limits().memory_bytes);
    CHECK(!system.limits().memory_left_bytes);
  }
  SUBCASE("of the own group") {
    system.folder.write(top + "user.slice/user-0.slice/run-1.scope/cpu.max", "150000 100000\n");
    system.folder.write(top + "user.slice/cpu.max", "400000 100000\n");
    CHECK(system.limits().cpus == 1.5);
    CHECK(system.limits().quota == "150000/100000");
  }
  SUBCASE("of one above it") {
    system.folder.write(top + "user.slice/user-0.slice/run-1.scope/cpu.max", "400000 100000\n");
    system.folder.write(top + "user.slice/cpu.max", "50000 50000\n");
    CHECK(system.limits().cpus == 1.0);
    CHECK(system.limits().quota == "50000/50000");
  }
  SUBCASE("of the mounted one, as in a container with a namespace of its own") {
    system.memberships("0::/\n");
    system.folder.write(top + "cpu.max", "200000 100000\n");
    system.folder.write(top + "memory.max", "1073741824\n");
    CHECK(system.limits().cpus == 2.0);
    CHECK(system.limits().memory_bytes == 1024 * mib);
  }
  SUBCASE("memory: limits, what is used, and pages of files that can be given back") {
    const std::string own = top + "user.slice/user-0.slice/run-1.scope/";
    system.folder.write(own + "memory.max", std::to_string(800 * mib));
    system.folder.write(own + "memory.current", std::to_string(300 * mib));
    system.folder.write(own + "memory.stat",
                        "anon 5\ninactive_file " + std::to_string(100 * mib) + "\nslab 1\n");
    system.folder.write(top + "user.slice/memory.high", std::to_string(1000 * mib));
    system.folder.write(top + "user.slice/memory.current", std::to_string(700 * mib));
    CHECK(system.limits().memory_bytes == 800 * mib);
    CHECK(system.limits().memory_left_bytes == 300 * mib);
  }
  SUBCASE("memory: more in use than allowed leaves nothing") {
    system.folder.write(top + "user.slice/memory.max", std::to_string(10 * mib));
    system.folder.write(top + "user.slice/memory.current", std::to_string(12 * mib));
    CHECK(system.limits().memory_left_bytes == 0);
  }
}

// S21, case 12, finding 08
TEST_CASE("control groups: version 1, hybrids and containers") {
  System system;
  SUBCASE("each controller has its own hierarchy") {
    system.memberships("4:memory:/job/a\n2:cpuacct,cpu:/job\n1:name=systemd:/x\n0::/\n");
    system.mounts(cpu_and_memory);
    system.folder.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "100000\n");
    system.folder.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    system.folder.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    system.folder.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    system.folder.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    system.folder.write("sys/fs/cgroup/memory/job/a/memory.limit_in_bytes",
                        std::to_string(400 * mib));
    system.folder.write("sys/fs/cgroup/memory/job/a/memory.usage_in_bytes",
                        std::to_string(100 * mib));
    system.folder.write("sys/fs/cgroup/memory/job/a/memory.stat",
                        "inactive_file 1\ntotal_inactive_file " + std::to_string(20 * mib) + "\n");
    CHECK(system.limits().cpus == 1.0);
    CHECK(system.limits().memory_bytes == 400 * mib);
    CHECK(system.limits().memory_left_bytes == 320 * mib);
  }
  SUBCASE("a container sees its own group mounted, and the host's name of it") {
    system.memberships("2:cpu,cpuacct:/docker/abc\n");
    system.mounts("32 31 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
    system.folder.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n");
    system.folder.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(system.limits().cpus == 2.5);
  }
  SUBCASE("what is mounted is not known to hold the own group: it bounds all the same") {
    for (const char* group : {"/", "/../other", "/docker/abcdef", "/docker"}) {
      CAPTURE(group);
      system.memberships(std::string("2:cpu:") + group + "\n");
      system.mounts("32 31 0:29 /docker/abc /mnt/cpu\\040groups rw - cgroup cgroup rw,cpu\n");
      system.folder.write("mnt/cpu groups/cpu.cfs_quota_us", "300000\n");
      system.folder.write("mnt/cpu groups/cpu.cfs_period_us", "100000\n");
      CHECK(system.limits().cpus == 3.0);
    }
  }
  SUBCASE("nothing to read, or nonsense, sets no limit") {
    CHECK(!system.limits().cpus);
    system.memberships("0:/\n::\n0::\n2:cpu:/a\n");
    system.mounts(cpu_and_memory + "1 2 - cgroup2\n3 4 0:1 / /x rw - cgroup\n");
    system.folder.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "many\n");
    system.folder.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "0\n");
    CHECK(!system.limits().cpus);
    CHECK(!system.limits().memory_bytes);
  }
}

// S21
TEST_CASE("a quota is rounded down, to one thread at least") {
  CHECK(threads_within(4, std::nullopt) == 4);
  CHECK(threads_within(4, 0.01) == 1);
  CHECK(threads_within(4, 1.0) == 1);
  CHECK(threads_within(4, 1.9) == 1);
  CHECK(threads_within(4, 2.0) == 2);
  CHECK(threads_within(4, 16.5) == 4);
}

// S21, finding 07
TEST_CASE("the key of kept timings names what the environment sets for oneDNN") {
  const std::string plain = host_key(1);
  CHECK(plain.find("oneDNN ") != std::string::npos);
  CHECK(plain.find("isa 0x") != std::string::npos);
  CHECK(plain.find("hints 0x") != std::string::npos);
  CHECK(plain.find("fpmath ") != std::string::npos);
}
