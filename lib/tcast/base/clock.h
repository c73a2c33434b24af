#pragma once

#include <chrono>

namespace tcast {

/// Seconds on a clock that only goes forward, since some moment of the past.
inline double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace tcast
