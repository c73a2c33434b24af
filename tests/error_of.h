#pragma once

#include <string>

#include "tcast/base/error.h"

/// What a call complains about, "message" or "message | hint"; "" when it does not.
template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const tcast::Error& error) {
    return error.hint().empty() ? error.what() : error.what() + (" | " + error.hint());
  }
  return {};
}
