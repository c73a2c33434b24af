#include "app/environment.h"

#include <cstdlib>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/text.h"

namespace tcast {
namespace {

/// Variables of the environment that libgomp reads, and on which it depends where threads run and
/// how long they take to begin: https://gcc.gnu.org/onlinedocs/libgomp/Environment-Variables.html
constexpr const char* thread_variables[] = {"GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "OMP_DYNAMIC",
                                            "OMP_PLACES",        "OMP_PROC_BIND",  "OMP_STACKSIZE",
                                            "OMP_THREAD_LIMIT",  "OMP_WAIT_POLICY"};

}  // namespace

std::string thread_settings() {
  std::string settings;
  for (const char* name : thread_variables) {
    const char* const value = std::getenv(name);
    if (value != nullptr) settings += fmt::format("; {}={}", name, printable(value));
  }
  return settings;
}

std::string default_store_file() {
  for (const auto& [name, below] :
       {std::pair{"XDG_CACHE_HOME", "/tcast/"}, std::pair{"HOME", "/.cache/tcast/"}}) {
    const char* value = std::getenv(name);
    // A relative path is to be ignored, says the standard of the XDG directories.
    if (value != nullptr && value[0] == '/')
      return value + std::string(below) + "measurements.sqlite";
  }
  return {};
}

}  // namespace tcast
