// Times of this host: taken once, kept, and taken again only where that makes them better.
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/mount.h>

#include "tcast/exec/run/executor_overhead.h"
#include "tcast/exec/timing/host_key.h"
#include "tcast/exec/timing/measurement_store.h"
#include "tcast/study/host_timing.h"

#include "error_of.h"
#include "scratch.h"

namespace {

using namespace tcast;
namespace fs = std::filesystem;

/// A file that is gone with its object, with what stands beside it.
class File {
 public:
  File() : folder_(fs::temp_directory_path() / ("tcast-timing-" + std::to_string(++count))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { fs::remove_all(folder_); }
  std::string name() const { return (folder_ / "kept.sqlite").string(); }

 private:
  static inline int count = 0;
  fs::path folder_;
};

HostTimingOptions options(const std::string& store, double budget_s,
                          const std::string& default_file = {}) {
  HostTimingOptions options;
  options.timer.time_budget_s = budget_s;
  options.timer.threads = 1;
  options.store = {.file = store, .enabled = true, .default_file = default_file};
  // Whatever else runs beside the tests: what is kept stays.
  options.quiet = [](const Pace&, int) { return false; };
  return options;
}

}  // namespace

TEST_CASE("host timing: what was timed once is kept") {
  const File file;
  const MatMul product{.m = 4, .n = 64, .k = 32};
  const std::vector<OpRecord> records = {product, Norm{.rows = 4, .width = 64}, product,
                                         Collective{.bytes = 100, .group_size = 2}};
  const HostTimings first = time_on_host(records, options(file.name(), 0.5));
  REQUIRE(first.measurements.size() == 4);
  CHECK(first.kept == 0);
  CHECK(first.threads == 1);
  CHECK(first.op_overhead_s > 0);
  CHECK(first.op_overhead_s < 1e-3);
  CHECK(first.speed.read_bytes_per_s > 0);
  CHECK(first.conditions);
  CHECK(first.measurements[0].seconds > 0);
  CHECK(first.measurements[2].seconds == first.measurements[0].seconds);
  CHECK_FALSE(first.measurements[3].supported());

  const HostTimings second = time_on_host(records, options(file.name(), 0.5));
  CHECK(second.kept == 3);
  CHECK(second.memory_used_bytes == 0);
  CHECK(second.op_overhead_s == first.op_overhead_s);
  CHECK(second.speed.read_bytes_per_s == first.speed.read_bytes_per_s);
  for (std::size_t i = 0; i < records.size(); ++i) {
    CHECK(second.measurements[i].seconds == first.measurements[i].seconds);
    CHECK(second.measurements[i].implementation == first.measurements[i].implementation);
    CHECK(second.measurements[i].unsupported == first.measurements[i].unsupported);
  }
  // Another number of threads is another machine.
  HostTimingOptions more = options(file.name(), 0.5);
  more.timer.threads = 2;
  CHECK(time_on_host(records, more).kept == 0);
  // S21: neither do times of threads that are bound in another way stand for these.
  HostTimingOptions bound = options(file.name(), 0.5);
  bound.thread_settings = "; OMP_PROC_BIND=spread";
  CHECK(time_on_host(records, bound).kept == 0);
  // Without a store nothing is looked up.
  HostTimingOptions none = options(file.name(), 0.5);
  none.store.enabled = false;
  CHECK(time_on_host(records, none).kept == 0);
}

TEST_CASE("host timing: a larger budget takes poor measurements again") {
  struct Row {
    const char* what;
    double share;
    int samples;
    double budget_s;
    double asked_s;
    bool kept;
  };
  const Row rows[] = {
      {"good", 1, 3, 0.1, 1, true},
      {"few samples", 1, 2, 0.1, 0.5, false},
      {"scaled", 0.5, 9, 0.1, 0.5, false},
      {"scaled, as much time", 0.5, 9, 0.5, 0.5, true},
      {"scaled, less time", 0.5, 9, 1, 0.5, true},
  };
  const Norm norm{.rows = 4, .width = 64};
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const File file;
    {
      MeasurementStore store(file.name());
      Measurement m;
      m.seconds = 123;
      m.samples = row.samples;
      m.share = row.share;
      m.budget_s = row.budget_s;
      store.put(host_key(1), signature_of(norm), m);
    }
    const HostTimings timings = time_on_host({norm}, options(file.name(), row.asked_s));
    CHECK(timings.kept == (row.kept ? 1u : 0u));
    CHECK((timings.measurements[0].seconds == 123) == row.kept);
  }
}

// S20: conditions are kept with each measurement; no later session launders them
TEST_CASE("host timing: what was disturbed is taken again on a quiet machine, and only that") {
  const Norm calm{.rows = 4, .width = 64};
  const Norm stalled{.rows = 4, .width = 128};
  const Norm slow{.rows = 4, .width = 256};
  const Norm odd{.rows = 4, .width = 512};
  const File file;
  {
    MeasurementStore store(file.name());
    Measurement m;
    m.seconds = 123;
    m.samples = 9;
    m.budget_s = 10;
    m.pace.read_bytes_per_s = 10;
    store.put(host_key(1), signature_of(calm), m);
    m.stalled_share = 0.5;
    store.put(host_key(1), signature_of(stalled), m);
    m.stalled_share = 0;
    m.pace.read_bytes_per_s = 5;
    store.put(host_key(1), signature_of(slow), m);
    m.pace.read_bytes_per_s = 10;
    m.expected_s = 1;
    store.put(host_key(1), signature_of(odd), m);
    m.expected_s = 0;
    m.seconds = 1e-6;
    store.put(host_key(1), "executor overhead per op", m);
    store.put_session(host_key(1), {{1e10, 1e11, 1e11, {}, {}, 0}, 0, 0, {.read_bytes_per_s = 10}});
  }
  const std::vector<OpRecord> records = {calm, stalled, slow, odd};
  HostTimingOptions settings = options(file.name(), 0.5);
  const HostTimings busy = time_on_host(records, settings);
  CHECK(busy.kept == 4);
  CHECK(busy.best_pace.read_bytes_per_s == 10);
  CHECK(disturbance(busy.measurements[0], busy.best_pace).empty());
  for (const std::size_t i : {1U, 2U, 3U}) {
    CHECK(busy.measurements[i].seconds == 123);
    CHECK(!disturbance(busy.measurements[i], busy.best_pace).empty());
  }
  settings.quiet = [](const Pace& best, int threads) {
    CHECK(best.read_bytes_per_s == 10);
    CHECK(threads == 1);
    return true;
  };
  const HostTimings quiet = time_on_host(records, settings);
  CHECK(quiet.kept == 1);
  CHECK(quiet.measurements[0].seconds == 123);
  for (const std::size_t i : {1U, 2U, 3U}) CHECK(quiet.measurements[i].seconds < 1);
  // The best pace that is known never gets worse.
  CHECK(quiet.best_pace.read_bytes_per_s >= 10);
  MeasurementStore store(file.name());
  CHECK(store.session(host_key(1))->best_pace.read_bytes_per_s >= 10);
}

TEST_CASE("host timing: an expected number of experts is timed between whole ones") {  // S6
  const auto product = [](double distinct) {
    return GroupedMatMul{.experts = 8, .distinct_experts = distinct, .rows = 12, .n = 64, .k = 32};
  };
  const File file;
  const auto keep = [&](double distinct, double seconds) {
    MeasurementStore store(file.name());
    Measurement m;
    m.seconds = seconds;
    m.spread = 0.01 * distinct;
    m.samples = 10;
    store.put(host_key(1), signature_of(product(distinct)), m);
  };
  keep(5, 100);
  keep(6, 140);
  const HostTimings timings =
      time_on_host({product(5.25), product(6), product(5.75)}, options(file.name(), 0.5));
  CHECK(timings.kept == 2);
  CHECK(timings.timed == 2);
  CHECK(timings.measurements[0].seconds == doctest::Approx(110));
  CHECK(timings.measurements[0].between == "5 and 6 distinct experts");
  CHECK(timings.measurements[0].spread == doctest::Approx(0.06));
  CHECK(timings.measurements[1].seconds == 140);
  CHECK(timings.measurements[1].between.empty());
  CHECK(timings.measurements[2].seconds == doctest::Approx(130));
  // Only the upper number is new.
  const HostTimings next = time_on_host({product(6.5)}, options(file.name(), 0.5));
  CHECK(next.kept == 1);
  CHECK(next.timed == 2);
  CHECK(next.measurements[0].seconds > 70);
  CHECK(next.measurements[0].seconds < 71);
}

TEST_CASE("host timing: the executor's own time is small and not nothing") {
  const double overhead_s = measure_executor_overhead_s();
  CHECK(overhead_s > 1e-9);
  CHECK(overhead_s < 1e-3);
}

// R03: the default store is a convenience; a store that the user named is not.
TEST_CASE("host timing: a default store that cannot be used is one warning, a named one an error") {
  const Scratch folder;
  const std::vector<OpRecord> records = {MatMul{.m = 4, .n = 64, .k = 32},
                                         Norm{.rows = 4, .width = 64}};
  const auto timed = [&](const std::string& named, const std::string& default_file = {}) {
    const HostTimings timings = time_on_host(records, options(named, 0.1, default_file));
    CHECK(timings.measurements[0].seconds > 0);
    CHECK(timings.measurements[1].seconds > 0);
    return timings;
  };
  const auto check = [&](const std::string& cache, const std::string& reason) {
    CAPTURE(cache);
    const HostTimings timings = timed("", cache + "/tcast/measurements.sqlite");
    REQUIRE(timings.warnings.size() == 1);
    CHECK(timings.warnings[0].find("measurements are not kept: " + cache) == 0);
    CHECK(timings.warnings[0].find(reason) != std::string::npos);
    CHECK(error_of([&] { timed(cache + "/tcast/measurements.sqlite"); }).find(reason) !=
          std::string::npos);
  };
  check(folder.write("file", ""), "Not a directory");
  fs::create_directories(folder.file("foreign/tcast"));
  folder.write("foreign/tcast/measurements.sqlite", "somebody's notes");
  check(folder.file("foreign"), "is no measurement store of tcast, and is left as it is");
  CHECK(folder.read("foreign/tcast/measurements.sqlite") == "somebody's notes");
  {
    const HostTimings timings = timed("", "");
    REQUIRE(timings.warnings.size() == 1);
    CHECK(timings.warnings[0] ==
          "measurements are not kept: neither XDG_CACHE_HOME nor HOME names a directory");
  }
  fs::create_directory(folder.file("small"));
  const std::string small = folder.file("small");
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=64k") != 0) return;
  std::ofstream(small + "/filler") << std::string(36 << 10, 'x');
  check(small, "database or disk is full");
  REQUIRE(mount("tmpfs", small.c_str(), "tmpfs", MS_REMOUNT, "size=1m") == 0);
  fs::remove_all(small + "/tcast");
  {
    const std::string file = small + "/tcast/measurements.sqlite";
    CHECK(timed("", file).warnings.empty());
    REQUIRE(mount("tmpfs", small.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m") == 0);
    // What is kept there is still good.
    const HostTimings kept = timed("", file);
    CHECK(kept.warnings.empty());
    CHECK(kept.kept == 2);
    HostTimingOptions other = options("", 0.1, file);
    other.timer.threads = 2;
    const HostTimings timings = time_on_host(records, other);
    REQUIRE(timings.warnings.size() == 1);
    CHECK(timings.warnings[0].find("attempt to write a readonly database") != std::string::npos);
    other.store.file = file;
    CHECK(error_of([&] {
            time_on_host(records, other);
          }).find("attempt to write a readonly database") != std::string::npos);
  }
  CHECK(umount(small.c_str()) == 0);
}
