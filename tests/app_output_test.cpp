#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include <doctest/doctest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/base/error.h"

#include "app/output.h"
#include "error_of.h"
#include "scratch.h"

namespace {

namespace fs = std::filesystem;

void write_file(const std::string& path, std::string_view text) {
  tcast::OutputFile(path).write(text);
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

TEST_CASE("output: a new file has the mode that any program would give it") {
  const Scratch folder;
  const mode_t old = umask(027);
  write_file(folder.file("new.txt"), "text\n");
  umask(old);
  CHECK(folder.read("new.txt") == "text\n");
  CHECK(mode_of(folder.file("new.txt")) == 0640);
  CHECK(folder.entries() == 1);
}

TEST_CASE("output: an existing file is replaced and keeps its mode") {
  const Scratch folder;
  const std::string path = folder.file("old.txt");
  std::ofstream(path) << "old and longer";
  REQUIRE(chmod(path.c_str(), 0606) == 0);
  write_file(path, std::string("with\0zero", 9));
  CHECK(folder.read("old.txt") == std::string("with\0zero", 9));
  CHECK(mode_of(path) == 0606);
  CHECK(folder.entries() == 1);
}

TEST_CASE("output: a symbolic link stays one") {
  const Scratch folder;
  std::ofstream(folder.file("target.txt")) << "old";
  fs::create_symlink("target.txt", folder.file("link.txt"));
  fs::create_symlink("missing.txt", folder.file("dangling.txt"));
  write_file(folder.file("link.txt"), "new");
  write_file(folder.file("dangling.txt"), "made");
  CHECK(fs::is_symlink(folder.file("link.txt")));
  CHECK(folder.read("target.txt") == "new");
  CHECK(folder.read("missing.txt") == "made");
  CHECK(folder.entries() == 4);
}

TEST_CASE("output: what cannot be written says why and leaves nothing behind") {
  const Scratch folder;
  fs::create_directory(folder.file("dir"));
  CHECK_THROWS_WITH_AS(write_file(folder.file("dir"), "x"),
                       ("cannot write '" + folder.file("dir") + "': Is a directory").c_str(),
                       tcast::Error);
  CHECK_THROWS_WITH_AS(
      write_file(folder.file("no/file"), "x"),
      ("cannot write '" + folder.file("no/file") + "': No such file or directory").c_str(),
      tcast::Error);
  CHECK_THROWS_WITH_AS(write_file("", "x"), "cannot write '': No such file or directory",
                       tcast::Error);
  fs::create_symlink("loop", folder.file("loop"));
  CHECK_THROWS_WITH_AS(
      write_file(folder.file("loop"), "x"),
      ("cannot write '" + folder.file("loop") + "': Too many levels of symbolic links").c_str(),
      tcast::Error);
  CHECK(folder.entries() == 2);
  if (fs::exists("/dev/full")) {
    CHECK_THROWS_WITH_AS(write_file("/dev/full", "x"),
                         "cannot write '/dev/full': No space left on device", tcast::Error);
  }
}

TEST_CASE("output: a device is written, not replaced") {
  write_file("/dev/null", "text");
  CHECK(fs::is_character_file("/dev/null"));
}

struct TestStreams {
  std::ostringstream standard_output;
  std::ostringstream standard_error;
  tcast::PrintableStream text{standard_output};
  tcast::PrintableStream messages{standard_error};
  tcast::Streams streams{text, messages, standard_output, standard_error};
};

TEST_CASE("output: without a file the result goes to the stream, safe for a terminal or as it is") {
  for (const char* path : {"", "/dev/stdout"}) {
    TestStreams test;
    tcast::OutputFile file{path};
    tcast::write_text(file, "a\x1b[31m\n", test.streams);
    tcast::write_data(file, "b\x1b[31m\n", test.streams);
    CHECK(test.standard_output.str() == "a\\x1b[31m\nb\x1b[31m\n");
  }
  const Scratch folder;
  TestStreams test;
  tcast::OutputFile text(folder.file("text"));
  tcast::OutputFile data(folder.file("data"));
  tcast::write_text(text, "a\x1b[31m\n", test.streams);
  tcast::write_data(data, "a\x1b[31m\n", test.streams);
  CHECK(folder.read("text") == "a\\x1b[31m\n");
  CHECK(folder.read("data") == "a\x1b[31m\n");
  CHECK(test.standard_output.str() == "");
}

// R06: names of temporaries of a killed process with the same number.
TEST_CASE("output: what a killed process left is no obstacle, and nothing stays of an open file") {
  const Scratch folder;
  const std::string path = folder.file("out.json");
  for (const std::string& stale :
       {path + ".1.tmp", path + "." + std::to_string(getpid()) + ".tmp"}) {
    std::ofstream(stale) << "";
  }
  write_file(path, "new");
  CHECK(folder.read("out.json") == "new");
  CHECK(folder.entries() == 3);
  // Killed between opening and writing, as in minutes of work.
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    tcast::OutputFile file(path);
    file.open();
    kill(getpid(), SIGKILL);
  }
  waitpid(child, nullptr, 0);
  CHECK(folder.read("out.json") == "new");
  CHECK(folder.entries() == 3);
}

TEST_CASE(
    "output: where files without a name cannot be given one, it is written beside the target") {
  const Scratch folder;
  folder.write("old", "old");
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // A process that sees no /proc.
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        umount2("/proc", MNT_DETACH) != 0) {
      _exit(2);
    }
    write_file(folder.file("old"), "replaced");
    write_file(folder.file("new"), "made");
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 2) return;  // no right to do that
  CHECK(status == 0);
  CHECK(folder.read("old") == "replaced");
  CHECK(folder.read("new") == "made");
  CHECK(folder.entries() == 2);
}

TEST_CASE("output: what cannot be written shows when it is opened") {
  const Scratch folder;
  const auto open = [](const std::string& path) {
    return error_of([&path] { tcast::OutputFile(path).open(); });
  };
  CHECK(open(folder.file("new")) == "");
  CHECK(open(folder.file("no/new")).find("No such file or directory | the directory must") !=
        std::string::npos);
  CHECK(open(folder.file("new/")).find("No such file or directory") != std::string::npos);
  CHECK(open(folder.path()).find("Is a directory") != std::string::npos);
  CHECK(open(folder.file(std::string(255, 'n'))) == "");
  CHECK(open(folder.file(std::string(256, 'n'))).find("File name too long") != std::string::npos);
  // Root may write anywhere but here.
  CHECK(open("/proc/self/new").find("cannot write '/proc/self/new': ") == 0);
  CHECK(open("/proc/new").find("cannot write '/proc/new': ") == 0);
  CHECK(folder.entries() == 0);
}

TEST_CASE("output: a name of the greatest length is written") {
  const Scratch folder;
  const std::string name(255, 'n');
  write_file(folder.file(name), "1");
  write_file(folder.file(name), "2");
  CHECK(folder.read(name) == "2");
  CHECK(folder.entries() == 1);
}

TEST_CASE("output: a file that cannot be replaced is written in place") {
  const Scratch folder;
  const std::string path = folder.write("mounted", "old and longer");
  folder.write("source", "what is mounted over it");
  if (mount(folder.file("source").c_str(), path.c_str(), nullptr, MS_BIND, nullptr) != 0) return;
  write_file(path, "new");
  CHECK(folder.read("mounted") == "new");
  CHECK(folder.read("source") == "new");
  CHECK(umount(path.c_str()) == 0);
  CHECK(folder.read("mounted") == "old and longer");
  CHECK(folder.entries() == 2);
}

}  // namespace
