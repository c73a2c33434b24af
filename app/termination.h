#pragma once

namespace tcast {

/// While one lives, what C++ ends the program for (an exception that leaves a function declared
/// noexcept or a thread of a plugin's own) ends it with a message on the standard error that names
/// the plugin, and exit status 1; without a plugin at work with 70.
class TerminationGuard {
 public:
  TerminationGuard();
  TerminationGuard(const TerminationGuard&) = delete;
  TerminationGuard& operator=(const TerminationGuard&) = delete;
  ~TerminationGuard();

 private:
  void (*before_)();
};

}  // namespace tcast
