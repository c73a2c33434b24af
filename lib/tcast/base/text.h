#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"

namespace tcast {

/// The candidate with the smallest edit distance to `name`, or "" when none is near enough to be
/// what the user meant (more than a third of the letters differ).
TCAST_API std::string closest(std::string_view name, std::span<const std::string> candidates);

/// "did you mean 'x'?", or `otherwise` when nothing is near.
TCAST_API std::string did_you_mean(std::string_view name, std::span<const std::string> candidates,
                                   std::string_view otherwise = {});

/// Python's fnmatchcase: '*', '?', '[seq]', '[!seq]', no escapes, independent of the locale.
TCAST_API bool matches_pattern(std::string_view name, std::string_view pattern);

/// True when the text has no wildcard, so that it can only match itself.
TCAST_API bool is_literal_pattern(std::string_view pattern);

/// Letters of a pattern that are not part of a wildcard: how specific it is.
TCAST_API int literal_length(std::string_view pattern);

/// "1.50 GiB", "312 KiB", "17 B".
TCAST_API std::string format_bytes(double bytes);

/// "12.3 ms", "4.56 us", "1.20 s".
TCAST_API std::string format_seconds(double seconds);

/// "671.03 B" (billions), "596.05 M", "37.55 B"; for parameters, tokens, operations.
TCAST_API std::string format_count(double count);

/// "671,026,404,352".
TCAST_API std::string format_grouped(std::int64_t value);

/// Elements with `separator` between them.
TCAST_API std::string join(std::span<const std::string> parts, std::string_view separator);

/// Pieces between separators; an empty text gives one empty piece.
TCAST_API std::vector<std::string> split(std::string_view text, char separator);

/// Control characters, invalid UTF-8 and what reorders or hides text on a terminal made visible
/// (\x1b), cut with "..." where the result would exceed `max_bytes`: what is safe to print of
/// hostile input.
TCAST_API std::string printable(std::string_view text, std::size_t max_bytes = 80);

/// The same for a text of several lines: line feeds stay, and nothing is cut.
TCAST_API std::string printable_lines(std::string_view text);

/// Bytes (1 to 4) of the well-formed UTF-8 sequence that the text begins with; 0 when it is empty
/// or malformed (truncated, overlong, a surrogate, beyond U+10FFFF).
TCAST_API std::size_t utf8_length(std::string_view text);

/// Finds equal texts among thousands, when a program starts: of a known size, and without memory of
/// its own for each.
class TCAST_API TextIndex {
 public:
  explicit TextIndex(std::size_t most_texts);

  /// The position with which this text came first: `position`, when it is new. The text must stay.
  std::size_t insert(std::string_view text, std::size_t position);

 private:
  struct Slot {
    const char* text = nullptr;
    std::uint32_t size = 0;
    std::uint32_t position = 0;
  };
  std::vector<Slot> slots_;  // a power of two, at most two thirds of them taken
};

}  // namespace tcast
