#pragma once

#include <iosfwd>
#include <string>
#include <string_view>

namespace tcast {

/// Throws Error with the system's reason when write_atomically() could not write this file, which
/// is better known before minutes of work than after them. An empty path is fine.
void require_writable(const std::string& path);

/// Writes a file that is either complete or not there: the text goes to a temporary file beside it,
/// which takes its name in the end. What is no regular file (a pipe, /dev/null) is written
/// directly. Throws Error with the system's reason; nothing is left behind then.
void write_atomically(const std::string& path, std::string_view text);

/// Writes a result to the file `path`, or to `out` when `path` is empty. Throws Error.
void write_result(const std::string& path, std::string_view text, std::ostream& out);

}  // namespace tcast
