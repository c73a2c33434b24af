// R14: which signals end a long work tidily, and which are none of our business.
#include <csignal>
#include <initializer_list>

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/base/interrupt.h"

using namespace tcast;

namespace {

constexpr int finished = 7;

/// How a process ends that works under an InterruptGuard and gets `signal` `times` times: its exit
/// status, or minus the signal that killed it. `ignored`: its parent had it ignore the signal.
int ending(int signal, bool ignored, int times = 1) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(signal, ignored ? SIG_IGN : SIG_DFL);
    int status = finished;
    try {
      const InterruptGuard guard;
      for (int i = 0; i < times; ++i) raise(signal);
      throw_if_interrupted();
    } catch (const Interrupted& interrupted) {
      status = interrupted.exit_status();
    }
    // The guard leaves the signal as it found it.
    struct sigaction after = {};
    sigaction(signal, nullptr, &after);
    if ((after.sa_handler == SIG_IGN) != ignored) status = 99;
    _exit(status);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

TEST_CASE("interrupt: signals that ask for the end are noticed, and told by the exit status") {
  CHECK(ending(SIGINT, false) == 130);
  CHECK(ending(SIGTERM, false) == 143);
  CHECK(ending(SIGHUP, false) == 129);
}

TEST_CASE("interrupt: the second time, the process ends at once") {
  CHECK(ending(SIGINT, false, 2) == -SIGINT);
  CHECK(ending(SIGTERM, false, 2) == -SIGTERM);
}

TEST_CASE("interrupt: what the parent had ignored stays ignored") {
  // As a shell does for background jobs, and nohup for SIGHUP.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    CHECK(ending(signal, true) == finished);
    CHECK(ending(signal, true, 3) == finished);
  }
}

TEST_CASE("interrupt: without a signal, and with others, nothing happens") {
  const InterruptGuard guard;
  throw_if_interrupted();
  std::signal(SIGUSR1, SIG_IGN);
  raise(SIGUSR1);
  throw_if_interrupted();
  std::signal(SIGUSR1, SIG_DFL);
}
