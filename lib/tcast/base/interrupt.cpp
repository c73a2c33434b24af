#include "tcast/base/interrupt.h"

#include <array>
#include <csignal>
#include <cstddef>

namespace tcast {
namespace {

constexpr std::array signals = {SIGINT, SIGTERM, SIGHUP};

volatile std::sig_atomic_t interrupted_by = 0;
std::array<struct sigaction, signals.size()> before = {};

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupted_by = 0;
  struct sigaction action = {};
  action.sa_handler = [](int signal) { interrupted_by = signal; };
  sigemptyset(&action.sa_mask);
  // The second time, what was there before: usually the end.
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (std::size_t i = 0; i < signals.size(); ++i) {
    sigaction(signals[i], nullptr, &before[i]);
    if (before[i].sa_handler != SIG_IGN) sigaction(signals[i], &action, nullptr);
  }
}

InterruptGuard::~InterruptGuard() {
  for (std::size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &before[i], nullptr);
}

void throw_if_interrupted() {
  if (interrupted_by != 0) throw Interrupted(interrupted_by);
}

}  // namespace tcast
