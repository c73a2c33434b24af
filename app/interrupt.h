#pragma once

#include "tcast/base/error.h"

namespace tcast {

/// The user pressed Ctrl-C while InterruptGuard was there to notice. Exit status 130.
class Interrupted final : public Interruption {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

/// While one lives, Ctrl-C does not end the process but makes throw_if_interrupted() throw, so that
/// what was found so far can be kept. A second Ctrl-C ends the process.
class InterruptGuard {
 public:
  InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  ~InterruptGuard();
};

/// Throws Interrupted after Ctrl-C.
void throw_if_interrupted();

}  // namespace tcast
