#pragma once

#include <string>
#include <string_view>

#include "tcast/base/export.h"

namespace tcast {

/// The text itself where it is valid UTF-8, else with control characters and the offending bytes
/// written as \x1b: what machine-readable formats may contain. Nothing is cut.
TCAST_API std::string valid_text(std::string_view text);

}  // namespace tcast
