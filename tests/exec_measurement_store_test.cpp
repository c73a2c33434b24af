// Measurements outlive the process, whatever happens to it or to the file.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/base/error.h"
#include "tcast/exec/timing/host_key.h"
#include "tcast/exec/timing/measurement_store.h"

#include "error_of.h"
#include "measurements.h"

namespace {

using namespace tcast;
namespace fs = std::filesystem;

/// A folder that is gone with its object.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "tcast-store-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  std::string file(const std::string& name = "kept.sqlite") const { return path_ + "/" + name; }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(path_), fs::directory_iterator()));
  }

 private:
  std::string path_;
};

void write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("store: what was put is found again, by host and op") {
  const Folder folder;
  {
    MeasurementStore store(folder.file("new/folder/kept.sqlite"));
    CHECK(store.warning() == "");
    CHECK_FALSE(store.find("host", "matmul m=1"));
    store.put("host", "matmul m=1", measured(1));
    // Not written yet, but known.
    REQUIRE(store.find("host", "matmul m=1"));
    store.put("host", "matmul m=2", measured(2));
    store.put("other", "matmul m=1", measured(3));
    store.put("host", "matmul m=1", measured(4));
    store.put_session("host", {{1e10, 2e11, 3e11, {}, {}, 0}, 0.125, 0.25, {5, 6, 7}});
    // The last session counts, but the best pace stays.
    store.put_session("host", {{1e10, 2e11, 3e11, {}, {}, 0}, 0.25, 0.5, {4, 8, 0}});
  }
  MeasurementStore store(folder.file("new/folder/kept.sqlite"));
  CHECK(store.warning() == "");
  CHECK(store.check() == "");
  const std::optional<Measurement> found = store.find("host", "matmul m=1");
  REQUIRE(found);
  CHECK(found->seconds == 4);
  CHECK(found->spread == 0.125);
  CHECK(found->samples == 7);
  CHECK(found->threads == 2);
  CHECK(found->implementation == "tcast:avx2");
  CHECK(found->onednn_version == "2.6.3");
  CHECK(found->share == 0.25);
  CHECK(found->scaled);
  CHECK(found->error == 0.03);
  CHECK(found->budget_s == 10);
  CHECK(found->substituted == "f8_e4m3 -> bf16");
  CHECK(found->stalled_share == 0.5);
  CHECK(found->pace.read_bytes_per_s == 1e9);
  CHECK(found->pace.f32_flops_per_s == 2e9);
  CHECK(found->pace.bf16_flops_per_s == 3e9);
  CHECK(found->expected_s == 7);
  const std::optional<StoredSession> session = store.session("host");
  REQUIRE(session);
  CHECK(session->others_cpu_share == 0.5);
  CHECK(session->best_pace.read_bytes_per_s == 5);
  CHECK(session->best_pace.f32_flops_per_s == 8);
  CHECK(session->best_pace.bf16_flops_per_s == 7);
  CHECK(found->unsupported == "");
  CHECK(store.find("other", "matmul m=1")->seconds == 3);
  CHECK_FALSE(store.find("other", "matmul m=2"));
  const std::vector<StoredHost> hosts = store.hosts();
  REQUIRE(hosts.size() == 2);
  CHECK(hosts[0].host == "host");
  CHECK(hosts[0].measurements == 2);
  CHECK(hosts[0].newest > 1'700'000'000);
  REQUIRE(hosts[0].session);
  CHECK(hosts[0].session->speed.f32_flops_per_s == 2e11);
  CHECK(store.session("host")->others_cpu_share == 0.5);
  CHECK_FALSE(store.session("other"));
  CHECK(store.clear() == 3);
  CHECK(store.hosts().empty());
  CHECK_FALSE(store.find("host", "matmul m=1"));
}

TEST_CASE("store: the latest of pending measurements counts") {
  const Folder folder;
  MeasurementStore store(folder.file());
  store.put("host", "op", measured(1));
  store.put("host", "op", measured(2));
  CHECK(store.find("host", "op")->seconds == 2);
  store.flush();
  CHECK(store.find("host", "op")->seconds == 2);
}

namespace {

/// A store of many pages.
void make_store(const std::string& file) {
  MeasurementStore store(file);
  for (int i = 0; i < 500; ++i) store.put("host", "op " + std::to_string(i), measured(1));
}

void overwrite(const std::string& file, std::streamoff at, const std::string& text) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(at);
  stream << text;
}

/// Runs SQL on a file, whatever it is.
void run_sql(const std::string& file, const char* sql) {
  sqlite3* db = nullptr;
  REQUIRE(sqlite3_open(file.c_str(), &db) == SQLITE_OK);
  CHECK(sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK);
  sqlite3_close(db);
}

std::string content(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

TEST_CASE("store: a damaged store is set aside by who writes, and nothing of it is lost") {
  const Folder folder;
  const std::string file = folder.file();
  struct Case {
    const char* what;
    std::function<void()> damage;
  };
  const Case cases[] = {
      {"cut short", [&] { fs::resize_file(file, 5000); }},
      {"a page of garbage", [&] { overwrite(file, 4096, std::string(3 * 4096, '\x5a')); }},
      {"garbage behind the header", [&] { overwrite(file, 100, std::string(3000, '\x5a')); }},
      {"an impossible page size", [&] { overwrite(file, 16, "\x01\x01"); }},
      {"a version lost", [&] { run_sql(file, "PRAGMA user_version = 0"); }},
      // S20: its measurements do not say how the machine was
      {"an older version", [&] { run_sql(file, "PRAGMA user_version = 1"); }},
      {"tables lost", [&] { run_sql(file, "DROP TABLE measurement; DROP TABLE host"); }},
  };
  int aside = 0;
  for (const Case& c : cases) {
    CAPTURE(c.what);
    make_store(file);
    c.damage();
    const std::string damaged = content(file);
    // Looking changes nothing.
    CHECK(error_of([&] {
            MeasurementStore store(file, MeasurementStore::Use::look);
            store.require_sound();
            for (int i = 0; i < 500; ++i) store.find("host", "op " + std::to_string(i));
          }) != "");
    CHECK(content(file) == damaged);
    {
      MeasurementStore store(file);
      // Some damage shows only when it is met.
      for (int i = 0; i < 500; ++i) store.find("host", "op " + std::to_string(i));
      store.put("host", "fresh", measured(1));
      store.flush();
      const std::string name = file + ".set-aside-" + std::to_string(++aside);
      CHECK(store.warning().find("is no sound measurement store of this version (") !=
            std::string::npos);
      CHECK(store.warning().find("it was renamed to " + name) != std::string::npos);
      CHECK(content(name) == damaged);
      CHECK(store.find("host", "fresh"));
      CHECK(store.check() == "");
    }
    fs::remove(file);
  }
  // An empty file is what a kill right after the creation leaves.
  write(file, "");
  CHECK(MeasurementStore(file).warning() == "");
  CHECK(folder.files() == 2 + std::size(cases));  // with the file that processes lock
}

// R02: what is no store of tcast is neither renamed nor changed, whatever is wanted of it.
TEST_CASE("store: what is no store is left as it is") {
  const Folder folder;
  const std::string file = folder.file();
  struct Case {
    const char* what;
    std::function<void()> make;
    std::string message;
  };
  const std::string foreign =
      file +
      " is no measurement store of tcast, and is left as it is | choose another file with "
      "--store, or --no-store";
  const std::string newer =
      file +
      ": it was written by a newer tcast, whose stores this one (layout 2) cannot read | "
      "choose another file with --store, or --no-store";
  const Case cases[] = {
      {"a text", [&] { write(file, std::string(5000, 'x')); }, foreign},
      {"a letter", [&] { write(file, "x"); }, foreign},
      {"zeros", [&] { write(file, std::string(8192, '\0')); }, foreign},
      {"the beginning of a database",
       [&] { write(file, std::string("SQLite format 3\0", 16) + "oh"); }, foreign},
      {"another program's database",
       [&] { run_sql(file, "CREATE TABLE users(id); INSERT INTO users VALUES(7)"); }, foreign},
      {"another program's database with a name of its own",
       [&] { run_sql(file, "CREATE TABLE users(id); PRAGMA application_id = 7"); }, foreign},
      {"another program's write-ahead log",
       [&] { run_sql(file, "PRAGMA journal_mode = WAL; CREATE TABLE users(id)"); }, foreign},
      {"a newer store",
       [&] {
         make_store(file);
         run_sql(file, "PRAGMA user_version = 3");
       },
       newer},
  };
  for (const Case& c : cases) {
    CAPTURE(c.what);
    c.make();
    const std::string before = content(file);
    const std::size_t files = folder.files();
    for (const auto use : {MeasurementStore::Use::look, MeasurementStore::Use::keep}) {
      CHECK(error_of([&] { MeasurementStore store(file, use); }) == c.message);
      CHECK(content(file) == before);
      CHECK(folder.files() == files);
    }
    fs::remove(file);
  }
  fs::create_directory(file);
  CHECK(error_of([&] { MeasurementStore store(file); }) == foreign);
  fs::remove(file);
  REQUIRE(mkfifo(file.c_str(), 0600) == 0);
  CHECK(error_of([&] { MeasurementStore store(file); }) == foreign);
  CHECK(error_of([] { MeasurementStore store("/dev/null"); }).find("/dev/null is no measurement") ==
        0);
}

TEST_CASE("store: a damaged store behind a link is set aside where it is, and the link stays") {
  const Folder folder;
  fs::create_directory(folder.file("disk"));
  const std::string file = folder.file("disk/real.sqlite");
  const std::string link = folder.file("link");
  fs::create_symlink("disk/real.sqlite", link);
  make_store(link);
  overwrite(file, 4096, std::string(3 * 4096, '\x5a'));
  MeasurementStore early(link);
  {
    MeasurementStore store(link);
    for (int i = 0; i < 500; ++i) store.find("host", "op " + std::to_string(i));
    CHECK(store.warning().find("it was renamed to " + file + ".set-aside-1") != std::string::npos);
    store.put("host", "fresh", measured(1));
  }
  // Who had the old one open finds the new one, and does not rename it.
  for (int i = 0; i < 500; ++i) early.find("host", "op " + std::to_string(i));
  CHECK(early.find("host", "fresh"));
  CHECK(early.warning() == "");
  CHECK(fs::is_symlink(link));
  CHECK_FALSE(fs::exists(file + ".set-aside-2"));
}

TEST_CASE("store: looking makes no store") {
  const Folder folder;
  CHECK(state_of_store(folder.file()) == StoreState::absent);
  CHECK(error_of([&] {
          MeasurementStore(folder.file(), MeasurementStore::Use::look);
        }).find(": no such store") != std::string::npos);
  CHECK(folder.files() == 0);
  make_store(folder.file());
  CHECK(state_of_store(folder.file()) == StoreState::usable);
  const std::string before = content(folder.file());
  const MeasurementStore store(folder.file(), MeasurementStore::Use::look);
  CHECK(store.find("host", "op 3")->seconds == 1);
  CHECK(store.hosts().size() == 1);
  CHECK(store.check() == "");
  CHECK(content(folder.file()) == before);
  CHECK(folder.files() == 2);
}

// R03
TEST_CASE("store: it goes on when its folder is removed or the file is renamed meanwhile") {
  const Folder folder;
  const std::string file = folder.file("cache/kept.sqlite");
  MeasurementStore store(file);
  store.put("host", "op", measured(1));
  store.flush();
  fs::remove_all(folder.file("cache"));
  store.put("host", "op 2", measured(2));
  store.flush();
  CHECK(store.warning() == "");
  CHECK(MeasurementStore(file).find("host", "op 2")->seconds == 2);
  fs::rename(file, folder.file("elsewhere"));
  store.put("host", "op 3", measured(3));
  store.flush();
  CHECK(MeasurementStore(file).find("host", "op 3")->seconds == 3);
  CHECK(MeasurementStore(folder.file("elsewhere")).find("host", "op 2")->seconds == 2);
  CHECK_FALSE(MeasurementStore(folder.file("elsewhere")).find("host", "op 3"));
}

TEST_CASE("store: whether it can be written shows before anything is measured") {
  const Folder folder;
  MeasurementStore store(folder.file());
  store.require_writable();
  CHECK(MeasurementStore(folder.file()).warning() == "");
  const std::string small = folder.file("small");
  fs::create_directory(small);
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=1m") != 0) return;
  {
    MeasurementStore kept(small + "/kept.sqlite");
    kept.put("host", "op", measured(1));
  }
  REQUIRE(mount("tmpfs", small.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m") == 0);
  {
    // What is kept there can still be read.
    MeasurementStore kept(small + "/kept.sqlite");
    CHECK(kept.find("host", "op")->seconds == 1);
    CHECK(error_of([&] { kept.require_writable(); }) ==
          small +
              "/kept.sqlite: attempt to write a readonly database | choose another file with "
              "--store, or --no-store");
    CHECK(error_of([&] { kept.take_turn({}); }) ==
          small +
              "/kept.sqlite.lock: Read-only file system | choose another file with --store, or "
              "--no-store");
  }
  CHECK(umount(small.c_str()) == 0);
}

// R16: numbers that are no times never come out as times.
TEST_CASE("store: what is unsound in a file is as if it were not there") {
  const Folder folder;
  make_store(folder.file());
  run_sql(folder.file(),
          "UPDATE measurement SET seconds = -1 WHERE op = 'op 1';"
          "UPDATE measurement SET seconds = 9e999 WHERE op = 'op 2';"
          "UPDATE measurement SET share = 0 WHERE op = 'op 3';"
          "UPDATE measurement SET seconds = 'soon' WHERE op = 'op 4';"
          "UPDATE measurement SET samples = 4294967295 WHERE op = 'op 5';"
          "UPDATE host SET read_bytes_per_s = -1, f32_flops_per_s = 1, bf16_flops_per_s = 1, "
          "canary_drift = 0, others_cpu_share = 0");
  const MeasurementStore store(folder.file());
  CHECK(store.find("host", "op 0"));
  for (int i = 1; i <= 5; ++i) CHECK_FALSE(store.find("host", "op " + std::to_string(i)));
  CHECK_FALSE(store.session("host"));
}

namespace {

/// Lets several processes use one file at the same time; returns how many of them failed.
template <class Work>
int run_processes(int count, const Work& work) {
  int gate[2];
  REQUIRE(pipe(gate) == 0);
  std::vector<pid_t> children;
  for (int i = 0; i < count; ++i) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      close(gate[1]);
      char byte = 0;
      if (read(gate[0], &byte, 1) < 0) _exit(2);  // until all are there
      try {
        work(i);
      } catch (const Error& error) {
        std::fprintf(stderr, "process %d: %s\n", i, error.what());
        _exit(1);
      }
      _exit(0);
    }
    children.push_back(child);
  }
  close(gate[0]);
  close(gate[1]);
  int failed = 0;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) ++failed;
  }
  return failed;
}

/// R05: processes that meet a damaged store at the same time all do their work, one of them sets it
/// aside, and no good store is renamed.
void check_race(int rounds) {
  constexpr int processes = 8;
  for (int round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const Folder folder;
    const std::string file = folder.file();
    make_store(file);
    // Damage that shows at once, when it is read, and when it is written.
    if (round % 3 == 0) overwrite(file, 16, "\x01\x01");
    if (round % 3 == 1) overwrite(file, 4096, std::string(8 * 4096, '\x5a'));
    if (round % 3 == 2) fs::resize_file(file, 20'000);
    const std::string damaged = content(file);
    const int failed = run_processes(processes, [&](int process) {
      MeasurementStore store(file);
      for (int i = 0; i < 500; i += 7) store.find("host", "op " + std::to_string(i));
      for (int i = 0; i < 5; ++i) {
        store.put("host", std::to_string(process) + " " + std::to_string(i), measured(1 + i));
        store.flush();
      }
    });
    CHECK(failed == 0);
    CHECK(fs::exists(file + ".set-aside-1"));
    CHECK_FALSE(fs::exists(file + ".set-aside-2"));
    MeasurementStore store(file, MeasurementStore::Use::look);
    CHECK(store.check() == "");
    // Nothing that was kept behind the damage is lost.
    CHECK(store.hosts().at(0).measurements == processes * 5);
  }
}

}  // namespace

TEST_CASE("store: many processes meet a damaged store") { check_race(3); }

TEST_CASE("store: many processes meet a damaged store (heavy)" * doctest::skip()) {
  check_race(60);
}

TEST_CASE("store: files that cannot be one") {
  const Folder folder;
  CHECK(error_of([&] {
          MeasurementStore store(folder.file(""));
        }).find("is no measurement store of tcast") != std::string::npos);
  write(folder.file("plain"), "");
  CHECK(error_of([&] {
          MeasurementStore store(folder.file("plain/kept.sqlite"));
        }).find("Not a directory") != std::string::npos);
  CHECK(error_of([] { MeasurementStore store("/proc/kept.sqlite"); }) != "");
}

TEST_CASE("store: killed at any moment, it stays sound") {
  const Folder folder;
  const std::string file = folder.file();
  for (int round = 0; round < 20; ++round) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      // Writes without end; the parent kills it somewhere in between.
      MeasurementStore store(file);
      for (int i = 0;; ++i) {
        store.put("host", "op " + std::to_string(i % 300), measured(1 + i));
        if (i % 5 == 0) store.flush();
      }
    }
    usleep(static_cast<useconds_t>(1000 + 1700 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    MeasurementStore store(file);
    CHECK(store.warning() == "");
    CHECK(store.check() == "");
  }
  CHECK(MeasurementStore(file).find("host", "op 0"));
}

TEST_CASE("store: one process times at a time") {
  const Folder folder;
  const std::string file = folder.file();
  MeasurementStore store(file);
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    MeasurementStore own(file);
    [[maybe_unused]] const MeasurementStore::Turn turn = own.take_turn({});
    own.put("host", "op", measured(5));
    own.flush();
    if (write(ready[1], "x", 1) != 1) _exit(1);
    usleep(300'000);
    _exit(0);  // the turn ends with its process
  }
  char byte = 0;
  REQUIRE(read(ready[0], &byte, 1) == 1);
  int waits = 0;
  const MeasurementStore::Turn turn = store.take_turn([&waits] { ++waits; });
  CHECK(waits >= 1);
  CHECK(store.find("host", "op")->seconds == 5);
  waitpid(child, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST_CASE("the key of a host names what times depend on") {
  const std::string key = host_key(3);
  for (const char* part :
       {"; 3 thread(s); cpus ", "; quota ", "; huge pages ", "; oneDNN ", "; kernels "}) {
    CHECK_MESSAGE(key.find(part) != std::string::npos, key);
  }
  CHECK(host_key(3) == key);
  CHECK(host_key(4) != key);
}
