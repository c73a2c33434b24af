// The line at the bottom of a terminal while operators are timed: seen on a pseudo-terminal of a
// given width, absent when the standard error is anything else.
#include <iostream>
#include <sstream>
#include <string>

#include <doctest/doctest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/progress.h"

using namespace tcast;

namespace {

/// What a child process writes to the terminal, or pipe, that its standard error is.
template <class Show>
std::string written(bool on_terminal, Show show) {
  int from = -1;
  int to = -1;
  winsize size{};
  size.ws_row = 24;
  size.ws_col = 60;
  if (on_terminal) {
    REQUIRE(openpty(&from, &to, nullptr, nullptr, &size) == 0);
  } else {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    from = ends[0];
    to = ends[1];
  }
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    dup2(to, STDERR_FILENO);
    {
      Progress progress(std::cerr);
      show(progress);
    }
    std::cerr.flush();
    _exit(0);
  }
  close(to);
  std::string text;
  char block[256];
  // A terminal whose last user is gone gives an error, a pipe gives 0.
  for (ssize_t got = read(from, block, sizeof block); got > 0;
       got = read(from, block, sizeof block)) {
    text.append(block, static_cast<std::size_t>(got));
  }
  close(from);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  return text;
}

void show_two(Progress& progress) {
  progress.show(3, 12, "matmul m=1 n=3072 k=1024 bf16*bf16->bf16", 7.6);
  progress.show("waiting for another tcast that is timing");
}

}  // namespace

TEST_CASE("progress: what is timed and the time left, on a terminal, gone at the end") {
  CHECK(written(true, show_two) ==
        "\r\033[K[#####...............] 3/12, 8 s left, timing matmul m=1 n="
        "\r\033[Kwaiting for another tcast that is timing"
        "\r\033[K");
  CHECK(written(true, [](Progress& progress) { progress.show(0, 0, "nothing", 0); }) ==
        "\r\033[K[....................] 0/0, 0 s left, timing nothing\r\033[K");
  CHECK(written(true, [](Progress&) {}).empty());
}

TEST_CASE("progress: nothing in a pipe, nor in another stream") {
  CHECK(written(false, show_two).empty());
  std::ostringstream other;
  {
    Progress progress(other);
    show_two(progress);
  }
  CHECK(other.str().empty());
}
