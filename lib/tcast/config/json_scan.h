#pragma once

#include <string_view>

#include "tcast/config/document.h"

namespace tcast {

/// Reads strict JSON (decision D10) into the builder: the grammar of RFC 8259 plus Python's NaN,
/// Infinity and -Infinity, exactly one value, valid UTF-8, no surrogate without its partner. A byte
/// order mark at the start is skipped: editors on Windows write one and it cannot be mistaken.
/// Iterative, one pass. `first_line` is the number of the text's first line in messages. Throws
/// Error with place, what was found and what was expected.
void scan_json(std::string_view text, DocumentBuilder& builder, int first_line = 1);

}  // namespace tcast
