#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcast/base/error.h"

#include "app/output.h"

namespace {

namespace fs = std::filesystem;

/// An empty folder that is removed at the end.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "tcast-output-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string at(const std::string& name) const { return (path_ / name).string(); }
  std::ptrdiff_t entries() const {
    return std::distance(fs::directory_iterator(path_), fs::directory_iterator());
  }

 private:
  fs::path path_;
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

TEST_CASE("output: a new file has the mode that any program would give it") {
  const Folder folder;
  const mode_t old = umask(027);
  tcast::write_atomically(folder.at("new.txt"), "text\n");
  umask(old);
  CHECK(read_file(folder.at("new.txt")) == "text\n");
  CHECK(mode_of(folder.at("new.txt")) == 0640);
  CHECK(folder.entries() == 1);
}

TEST_CASE("output: an existing file is replaced and keeps its mode") {
  const Folder folder;
  const std::string path = folder.at("old.txt");
  std::ofstream(path) << "old and longer";
  REQUIRE(chmod(path.c_str(), 0606) == 0);
  tcast::write_atomically(path, std::string("with\0zero", 9));
  CHECK(read_file(path) == std::string("with\0zero", 9));
  CHECK(mode_of(path) == 0606);
  CHECK(folder.entries() == 1);
}

TEST_CASE("output: a symbolic link stays one") {
  const Folder folder;
  std::ofstream(folder.at("target.txt")) << "old";
  fs::create_symlink("target.txt", folder.at("link.txt"));
  fs::create_symlink("missing.txt", folder.at("dangling.txt"));
  tcast::write_atomically(folder.at("link.txt"), "new");
  tcast::write_atomically(folder.at("dangling.txt"), "made");
  CHECK(fs::is_symlink(folder.at("link.txt")));
  CHECK(read_file(folder.at("target.txt")) == "new");
  CHECK(read_file(folder.at("missing.txt")) == "made");
  CHECK(folder.entries() == 4);
}

TEST_CASE("output: what cannot be written says why and leaves nothing behind") {
  const Folder folder;
  fs::create_directory(folder.at("dir"));
  CHECK_THROWS_WITH_AS(tcast::write_atomically(folder.at("dir"), "x"),
                       ("cannot write '" + folder.at("dir") + "': Is a directory").c_str(),
                       tcast::Error);
  CHECK_THROWS_WITH_AS(
      tcast::write_atomically(folder.at("no/file"), "x"),
      ("cannot write '" + folder.at("no/file") + "': No such file or directory").c_str(),
      tcast::Error);
  CHECK_THROWS_WITH_AS(tcast::write_atomically("", "x"),
                       "cannot write '': No such file or directory", tcast::Error);
  fs::create_symlink("loop", folder.at("loop"));
  CHECK_THROWS_WITH_AS(
      tcast::write_atomically(folder.at("loop"), "x"),
      ("cannot write '" + folder.at("loop") + "': Too many levels of symbolic links").c_str(),
      tcast::Error);
  CHECK(folder.entries() == 2);
  if (fs::exists("/dev/full")) {
    CHECK_THROWS_WITH_AS(tcast::write_atomically("/dev/full", "x"),
                         "cannot write '/dev/full': No space left on device", tcast::Error);
  }
}

TEST_CASE("output: a device is written, not replaced") {
  tcast::write_atomically("/dev/null", "text");
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("output: without a file the result goes to the stream") {
  std::ostringstream out;
  tcast::write_result("", "text", out);
  CHECK(out.str() == "text");
}

}  // namespace
