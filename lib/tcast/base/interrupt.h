#pragma once

#include "tcast/base/error.h"

namespace tcast {

/// The process was told to end while InterruptGuard was there to notice: by Ctrl-C (SIGINT), by a
/// supervisor (SIGTERM) or by a terminal that went away (SIGHUP).
class Interrupted final : public Interruption {
 public:
  explicit Interrupted(int signal) : signal_(signal) {}
  const char* what() const noexcept override { return "interrupted"; }
  /// 128 + the signal's number, as shells have it: 130 after Ctrl-C.
  int exit_status() const { return 128 + signal_; }

 private:
  int signal_;
};

/// While one lives, Ctrl-C and its like do not end the process but make throw_if_interrupted()
/// throw, so that what was found so far can be kept. A second one ends the process. A signal that
/// the parent process has us ignore (a shell does that for background jobs, nohup for SIGHUP) stays
/// ignored.
class InterruptGuard {
 public:
  InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  ~InterruptGuard();
};

/// Throws Interrupted after one of the signals.
void throw_if_interrupted();

}  // namespace tcast
