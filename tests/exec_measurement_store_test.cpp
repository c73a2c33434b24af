// Measurements outlive the process, whatever happens to it or to the file.
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/base/error.h"
#include "tcast/exec/host_key.h"
#include "tcast/exec/measurement_store.h"

#include "error_of.h"

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

Measurement measured(double seconds) {
  Measurement m;
  m.seconds = seconds;
  m.spread = 0.125;
  m.samples = 7;
  m.threads = 2;
  m.implementation = "tcast:avx2";
  m.onednn_version = "2.6.3";
  m.share = 0.25;
  m.scaled = true;
  m.error = 0.03;
  m.budget_s = 10;
  m.substituted = "f8_e4m3 -> bf16";
  return m;
}

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
    store.put_session("host", {{1e10, 2e11, 3e11, {}, {}, 0}, 0.25, 0.5});
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

TEST_CASE("store: lines out, and in again") {
  const Folder folder;
  MeasurementStore store(folder.file());
  store.put("a \"host\"\n", "op \xc3\xa9", measured(1e-7));
  Measurement none;
  none.unsupported = "no kernel";
  store.put("host", "op 2", none);
  const std::string text = store.export_text();
  MeasurementStore other(folder.file("other.sqlite"));
  CHECK(other.import_text(text + "\n  \n", "text") == 2);
  CHECK(other.export_text() == text);
  CHECK(other.find("host", "op 2")->unsupported == "no kernel");

  const std::string line = text.substr(0, text.find('\n'));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = line;
    const std::size_t at = changed.find(from);
    REQUIRE(at != std::string::npos);
    return changed.replace(at, from.size(), to);
  };
  const std::string seconds = "\"seconds\":1e-07";
  for (const std::string& bad :
       {std::string("{"), std::string("[]"), std::string("null"), with(seconds, "\"seconds\":0"),
        with(seconds, "\"seconds\":-1"), with(seconds, "\"seconds\":\"1\""),
        with(seconds, "\"second\":1"), with("\"share\":0.25", "\"share\":0"),
        with("\"share\":0.25", "\"share\":2"), std::string(100'000, '['), line + line}) {
    CAPTURE(bad.substr(0, 200));
    const std::string error = error_of([&] { other.import_text(line + "\n" + bad, "f.jsonl"); });
    CHECK(error.find("f.jsonl:2: expected a measurement as 'tcast store export' writes it: ") == 0);
  }
  other.clear();
  CHECK(error_of([&] { other.import_text(line + "\nx", "f"); }) != "");
  CHECK(other.export_text() == "");  // all or nothing
}

TEST_CASE("store: what is no sound store is set aside, and nothing of it is lost") {
  const Folder folder;
  const std::string file = folder.file();
  struct Case {
    const char* what;
    std::function<void()> make;
  };
  const Case cases[] = {
      {"a text", [&] { write(file, std::string(5000, 'x')); }},
      {"the beginning of a database",
       [&] { write(file, std::string("SQLite format 3\0", 16) + "oh"); }},
      {"a store cut short",
       [&] {
         {
           MeasurementStore store(file);
           for (int i = 0; i < 500; ++i) store.put("host", "op " + std::to_string(i), measured(1));
         }
         fs::resize_file(file, 5000);
       }},
      {"a store with a page of garbage",
       [&] {
         {
           MeasurementStore store(file);
           for (int i = 0; i < 500; ++i) store.put("host", "op " + std::to_string(i), measured(1));
         }
         std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
         stream.seekp(4096);
         stream << std::string(3 * 4096, '\x5a');
       }},
  };
  int aside = 0;
  for (const Case& c : cases) {
    CAPTURE(c.what);
    c.make();
    const auto size = fs::file_size(file);
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
      CHECK(fs::file_size(name) == size);
      CHECK(store.find("host", "fresh"));
      CHECK(store.check() == "");
    }
    fs::remove(file);
  }
  // An empty file is what a kill right after the creation leaves.
  write(file, "");
  CHECK(MeasurementStore(file).warning() == "");
  CHECK(folder.files() == 5);
}

TEST_CASE("store: files that cannot be one") {
  const Folder folder;
  CHECK(error_of([&] { MeasurementStore store(folder.file("")); }).find("unable to open") !=
        std::string::npos);
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
    const MeasurementStore::Turn turn = own.take_turn({});
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
