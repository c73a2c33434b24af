#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "tcast/base/export.h"

namespace tcast {

/// Something that the user can mend: what was found, what was expected, where (`message`, lower
/// case, no full stop), and what to type next (`hint`, may be empty). Thrown anywhere in lib/,
/// caught once in app/.
class TCAST_API Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, std::string hint = {})
      : std::runtime_error(message), hint_(std::move(hint)) {}

  /// What the user can do about it; empty when the message says it all.
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

/// What was asked for needs more room or time than any answer is worth.
class TCAST_API TooLarge : public Error {
 public:
  using Error::Error;
};

/// No failure: somebody asked for the end of the work. It goes through everything, unchanged.
class TCAST_API Interruption : public std::exception {};

/// A broken promise inside tcast itself: never reachable from input, reported with exit status 70.
class TCAST_API InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Throws InternalError that names the place and the condition.
[[noreturn]] TCAST_API void check_failed(const char* file, int line, const char* condition,
                                         const std::string& message);

}  // namespace tcast

/// States what must hold if tcast has no bug.
#define TCAST_CHECK(condition, message)                                 \
  do {                                                                  \
    if (!(condition)) {                                                 \
      ::tcast::check_failed(__FILE__, __LINE__, #condition, (message)); \
    }                                                                   \
  } while (false)
