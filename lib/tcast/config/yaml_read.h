#pragma once

#include <string_view>

#include "tcast/config/document.h"

namespace tcast {

/// Reads one YAML document into the builder: the JSON-like core of YAML 1.2 (null, true, false,
/// decimal numbers, strings, lists, maps with scalar keys), without anchors, aliases and tags.
/// Throws Error with place and reason.
void read_yaml(std::string_view text, DocumentBuilder& builder);

}  // namespace tcast
