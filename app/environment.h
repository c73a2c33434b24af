#pragma once

#include <string>

namespace tcast {

/// measurements.sqlite under the user's cache directory; empty when the environment names none.
std::string default_store_file();

/// "; OMP_PROC_BIND=close": the variables that are set of those that libgomp reads and on which it
/// depends where threads run and how long they take to begin.
std::string thread_settings();

}  // namespace tcast
