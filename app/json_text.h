#pragma once

#include <string>
#include <string_view>

namespace tcast {

/// A text as a JSON string, with its quotes, in pure ASCII.
std::string json_text(std::string_view text);

}  // namespace tcast
