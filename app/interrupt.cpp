#include "app/interrupt.h"

#include <csignal>

namespace tcast {
namespace {

volatile std::sig_atomic_t interrupted = 0;
struct sigaction before = {};

}  // namespace

InterruptGuard::InterruptGuard() {
  interrupted = 0;
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigemptyset(&action.sa_mask);
  // The second time, what was there before: usually the end.
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, &before);
}

InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &before, nullptr); }

void throw_if_interrupted() {
  if (interrupted != 0) throw Interrupted();
}

}  // namespace tcast
