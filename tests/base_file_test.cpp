// How files are read: bounded and never waiting; and which file a path names.
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcast/base/file.h"

#include "error_of.h"
#include "scratch.h"

namespace fs = std::filesystem;
using tcast::identify;
using tcast::read_file;

TEST_CASE("a file is read whole, up to its limit") {
  const Scratch folder;
  const std::string text("with\0zero\n", 10);
  const std::string path = folder.write("a", text);
  CHECK(read_file(path, 10) == text);
  CHECK(read_file(folder.write("empty", ""), 0) == "");
  CHECK(error_of([&] { read_file(path, 9, "cut it"); }) ==
        path + ": expected at most 9 bytes, got 10 | cut it");
  const std::string long_text(300'000, 'y');
  CHECK(read_file(folder.write("long", long_text), 1 << 20) == long_text);
}

// R11: what never ends, or whose size the system does not tell.
TEST_CASE("what is no regular file is refused, and nothing is waited for") {
  const Scratch folder;
  const std::string pipe = folder.file("pipe");
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  const std::string expected =
      ": expected a regular file, got a device, pipe or socket | save its contents to a file first";
  for (const std::string& path : {pipe, std::string("/dev/zero"), std::string("/dev/tty0")}) {
    if (!fs::exists(path)) continue;
    CHECK(error_of([&] { read_file(path, 1 << 20); }) == path + expected);
  }
  CHECK(error_of([&] { read_file(folder.path(), 1 << 20); }) ==
        folder.path() + ": expected a file, got a directory");
  // A sparse file is as large as it says, and not read.
  const std::string sparse = folder.write("sparse", "");
  fs::resize_file(sparse, std::uintmax_t{700} << 20);
  CHECK(error_of([&] { read_file(sparse, 1 << 20); }) ==
        sparse + ": expected at most 1,048,576 bytes, got 734,003,200");
  // The size of what the system makes up is 0; the limit holds for what comes.
  if (fs::exists("/proc/self/maps")) {
    CHECK(read_file("/proc/self/maps", 1 << 24).size() > 100);
    CHECK(error_of([] {
            read_file("/proc/self/maps", 10);
          }).find("/proc/self/maps: expected at most 10 bytes, got ") == 0);
  }
}

// C4: every failure of the file system is an error with its reason.
TEST_CASE("what cannot be read says why") {
  const Scratch folder;
  fs::create_symlink("b", folder.file("a"));
  fs::create_symlink("a", folder.file("b"));
  CHECK(error_of([&] { read_file(folder.file("a"), 10); }) ==
        folder.file("a") + ": cannot be read: Too many levels of symbolic links");
  CHECK(error_of([&] { read_file(folder.file("none"), 10); }) ==
        folder.file("none") + ": no such file");
  CHECK(error_of([&] { read_file(folder.write("f", "") + "/below", 10); }) ==
        folder.file("f") + "/below: no such file");
  CHECK(error_of([] { read_file(std::string(300, 'a'), 10); }) ==
        std::string(300, 'a') + ": cannot be read: File name too long");
  CHECK(error_of([] { read_file("\x1b[31m", 10); }) == "\\x1b[31m: no such file");
  CHECK(error_of([&] { tcast::list_files(folder.file("none"), ".json"); }) ==
        folder.file("none") + ": cannot be read: No such file or directory");
}

TEST_CASE("files of a folder come in the order of their names") {
  const Scratch folder;
  for (const char* name : {"b.json", "a.json", ".json", "c.jsonl", "json"}) folder.write(name, "");
  CHECK(tcast::list_files(folder.path(), ".json") ==
        std::vector<std::string>{folder.file("a.json"), folder.file("b.json")});
}

// R01: the same file under other names.
TEST_CASE("identity: one file under many names") {
  const Scratch folder;
  fs::create_directory(folder.file("sub"));
  folder.write("file", "x");
  fs::create_symlink("file", folder.file("link"));
  fs::create_symlink("new", folder.file("dangling"));
  fs::create_symlink("sub", folder.file("way"));
  fs::create_hard_link(folder.file("file"), folder.file("hard"));
  struct Row {
    std::string a;
    std::string b;
    bool same;
  };
  const Row rows[] = {
      {"file", "file", true},
      {"file", "./file", true},
      {"file", ".//sub/../file", true},
      {"file", "link", true},
      {"file", "hard", true},
      {"file", "way/../file", true},
      {"file", "new", false},
      {"new", "./new", true},
      {"new", "dangling", true},
      {"new", "sub/../new", true},
      {"new", "New", false},
      {"new", "new2", false},
      {"sub/new", "way/new", true},
      {"sub/new", "new", false},
      {"no/way/new", "no/./way/new", true},
      {"no/way/new", "no/new", false},
      {"sub", "way", true},
      {"sub/", "sub", true},
  };
  for (const Row& row : rows) {
    CAPTURE(row.a);
    CAPTURE(row.b);
    CHECK((identify(folder.file(row.a)) == identify(folder.file(row.b))) == row.same);
  }
  const fs::path old = fs::current_path();
  fs::current_path(folder.path());
  CHECK(identify("new") == identify(folder.file("new")));
  CHECK(identify("file") == identify(folder.file("file")));
  CHECK(identify("") == identify("."));
  fs::current_path(old);
}
