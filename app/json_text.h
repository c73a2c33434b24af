#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace tcast {

/// A text as a JSON string, with its quotes, in pure ASCII.
std::string json_text(std::string_view text);

/// A whole JSON document as a result of a command: each level indented by `indent` blanks, a line
/// feed at the end, in pure ASCII, so that a terminal that is shown it has nothing to obey. Bytes
/// that are no UTF-8 become U+FFFD.
std::string json_document(const nlohmann::ordered_json& json, int indent);

}  // namespace tcast
