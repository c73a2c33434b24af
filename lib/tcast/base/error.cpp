#include "tcast/base/error.h"

#include <fmt/format.h>

namespace tcast {

void check_failed(const char* file, int line, const char* condition, const std::string& message) {
  throw InternalError(fmt::format("{}:{}: {} ({})", file, line, message, condition));
}

}  // namespace tcast
