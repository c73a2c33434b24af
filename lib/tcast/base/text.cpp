#include "tcast/base/text.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <iterator>

#include <fmt/format.h>

namespace tcast {
namespace {

/// Edits that turn `a` into `b`: insert, remove or replace a letter, or swap two neighbours
/// (the optimal string alignment distance).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  const std::size_t width = b.size() + 1;
  std::vector<std::size_t> distance((a.size() + 1) * width);
  const auto at = [&](std::size_t i, std::size_t j) -> std::size_t& {
    return distance[i * width + j];
  };
  for (std::size_t i = 0; i <= a.size(); ++i) at(i, 0) = i;
  for (std::size_t j = 0; j <= b.size(); ++j) at(0, j) = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      at(i, j) = std::min(
          {at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        at(i, j) = std::min(at(i, j), at(i - 2, j - 2) + 1);
      }
    }
  }
  return at(a.size(), b.size());
}

std::uint32_t byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

/// Takes one code point off the front of a text that is not empty. A byte that is no UTF-8 stands
/// for itself, above all code points, as Python's surrogateescape does for file names.
std::uint32_t take_code_point(std::string_view& text) {
  const std::size_t length = utf8_length(text);
  const std::uint32_t lead = byte_at(text, 0);
  std::uint32_t point = 0;
  if (length == 0) {
    point = 0x110000 + lead;
  } else if (length == 1) {
    point = lead;
  } else {
    point = lead & (0x7Fu >> length);
    for (std::size_t i = 1; i < length; ++i) point = point << 6 | (byte_at(text, i) & 0x3F);
  }
  text.remove_prefix(std::max<std::size_t>(length, 1));
  return point;
}

/// Where the ']' of the set stands that begins at pattern[0] == '[', or npos: then '[' is a letter.
/// A ']' directly after the '[' or '[!' belongs to the set.
std::size_t end_of_set(std::string_view pattern) {
  std::size_t at = 1;
  if (at < pattern.size() && pattern[at] == '!') ++at;
  return pattern.find(']', at + 1);
}

/// Whether a code point is in the set written as `body` between '[' and ']'.
bool in_set(std::uint32_t point, std::string_view body) {
  const bool negated = body.front() == '!';
  if (negated) body.remove_prefix(1);
  bool found = false;
  while (!body.empty()) {
    const std::uint32_t low = take_code_point(body);
    std::uint32_t high = low;
    if (body.size() > 1 && body.front() == '-') {
      body.remove_prefix(1);
      high = take_code_point(body);
    }
    found = found || (low <= point && point <= high);
  }
  return found != negated;
}

/// Matches the front of `name` against the front of `pattern`, which is no '*', and takes both off.
bool take_one(std::string_view& name, std::string_view& pattern) {
  const std::uint32_t point = take_code_point(name);
  if (pattern.front() == '?') {
    pattern.remove_prefix(1);
    return true;
  }
  const std::size_t end = pattern.front() == '[' ? end_of_set(pattern) : std::string_view::npos;
  if (end != std::string_view::npos) {
    const std::string_view body = pattern.substr(1, end - 1);
    pattern.remove_prefix(end + 1);
    return in_set(point, body);
  }
  return point == take_code_point(pattern);
}

/// Three significant digits, all digits of larger numbers.
std::string three_digits(double value) {
  const double magnitude = std::abs(value);
  // The bounds are where rounding would add a digit.
  const int decimals = magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}", value, decimals);
}

/// Whether a terminal would not simply show the character: control characters, and what Unicode
/// calls format characters, which reorder, join or hide text (general categories Cc, Cf, Zl, Zp of
/// Unicode 15, without the marks of scripts that nobody names models in). `sequence` is well-formed
/// UTF-8 of one character.
bool hidden(std::string_view sequence) {
  struct Range {
    std::uint32_t first;
    std::uint32_t last;
  };
  constexpr Range ranges[] = {
      {0x00, 0x1F},        // C0: escape, bell, carriage return, ...
      {0x7F, 0x9F},        // delete, C1: the one-byte forms of escape sequences
      {0xAD, 0xAD},        // soft hyphen
      {0x61C, 0x61C},      // Arabic letter mark
      {0x180E, 0x180E},    // Mongolian vowel separator
      {0x200B, 0x200F},    // zero width, left-to-right and right-to-left marks
      {0x2028, 0x202E},    // line and paragraph separator, embeddings and overrides
      {0x2060, 0x206F},    // word joiner, invisible operators, isolates
      {0xFEFF, 0xFEFF},    // byte order mark
      {0xFFF9, 0xFFFB},    // interlinear annotations
      {0xE0000, 0xE007F},  // tags
  };
  const std::uint32_t point = take_code_point(sequence);
  return std::any_of(std::begin(ranges), std::end(ranges), [point](const Range& range) {
    return range.first <= point && point <= range.last;
  });
}

/// Appends the character (or the byte that begins no character) at the front of a text that is not
/// empty, as printable() shows it; returns how many bytes of the text that was.
std::size_t append_printable(std::string& out, std::string_view text) {
  const std::size_t length = utf8_length(text);
  const std::string_view sequence = text.substr(0, std::max<std::size_t>(length, 1));
  if (length > 0 && !hidden(sequence)) {
    out += sequence;
  } else {
    for (std::size_t i = 0; i < sequence.size(); ++i) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte_at(sequence, i));
    }
  }
  return sequence.size();
}

}  // namespace

std::string closest(std::string_view name, std::span<const std::string> candidates) {
  // Nobody mistypes a name this long; the bound keeps hostile input cheap.
  constexpr std::size_t max_length = 256;
  if (name.size() > max_length) return {};
  const std::string* best = nullptr;
  std::size_t best_distance = 0;
  for (const std::string& candidate : candidates) {
    const std::size_t longer = std::max(name.size(), candidate.size());
    const std::size_t shorter = std::min(name.size(), candidate.size());
    if (candidate.size() > max_length || (longer - shorter) * 3 > longer) continue;
    const std::size_t distance = edit_distance(name, candidate);
    if (distance * 3 <= longer && (best == nullptr || distance < best_distance)) {
      best = &candidate;
      best_distance = distance;
    }
  }
  return best == nullptr ? std::string() : *best;
}

std::string did_you_mean(std::string_view name, std::span<const std::string> candidates,
                         std::string_view otherwise) {
  const std::string near = closest(name, candidates);
  if (near.empty()) return std::string(otherwise);
  return fmt::format("did you mean '{}'?", printable(near));
}

TextIndex::TextIndex(std::size_t most_texts)
    : slots_(std::bit_ceil(most_texts + most_texts / 2 + 1)) {}

std::size_t TextIndex::insert(std::string_view text, std::size_t position) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t at = std::hash<std::string_view>()(text) & mask;
  while (slots_[at].text != nullptr && std::string_view(slots_[at].text, slots_[at].size) != text) {
    at = (at + 1) & mask;
  }
  if (slots_[at].text == nullptr) {
    slots_[at] = {text.data(), static_cast<std::uint32_t>(text.size()),
                  static_cast<std::uint32_t>(position)};
  }
  return slots_[at].position;
}

bool matches_pattern(std::string_view name, std::string_view pattern) {
  // Greedy: on a mismatch only the latest '*' need take one more character, since whatever an
  // earlier one could take, the latest can take too. At most |name| * |pattern| steps.
  bool starred = false;
  std::string_view pattern_after_star;
  std::string_view name_at_star;
  while (true) {
    if (!pattern.empty() && pattern.front() == '*') {
      pattern.remove_prefix(1);
      starred = true;
      pattern_after_star = pattern;
      name_at_star = name;
      continue;
    }
    if (name.empty()) return pattern.empty();
    if (!pattern.empty() && take_one(name, pattern)) continue;
    if (!starred || name_at_star.empty()) return false;
    take_code_point(name_at_star);
    name = name_at_star;
    pattern = pattern_after_star;
  }
}

bool is_literal_pattern(std::string_view pattern) {
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '*' || pattern[i] == '?') return false;
    if (pattern[i] == '[' && end_of_set(pattern.substr(i)) != std::string_view::npos) return false;
  }
  return true;
}

int literal_length(std::string_view pattern) {
  int length = 0;
  while (!pattern.empty()) {
    std::size_t end = std::string_view::npos;
    if (pattern.front() == '[') end = end_of_set(pattern);
    if (end != std::string_view::npos) {
      pattern.remove_prefix(end + 1);
    } else {
      const std::uint32_t point = take_code_point(pattern);
      if (point != '*' && point != '?') ++length;
    }
  }
  return length;
}

std::string format_bytes(double bytes) {
  constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t unit = 0;
  // 1023.5 would be rounded to 1024 of the smaller unit.
  while (std::abs(bytes) >= 1023.5 && unit + 1 < std::size(units)) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes)
                   : fmt::format("{} {}", three_digits(bytes), units[unit]);
}

std::string format_seconds(double seconds) {
  if (seconds == 0) return "0 s";
  constexpr const char* units[] = {"s", "ms", "us", "ns"};
  std::size_t unit = 0;
  // 0.9995 of a unit would be rounded to 1000 of the smaller one.
  while (std::abs(seconds) < 0.9995 && unit + 1 < std::size(units)) {
    seconds *= 1000;
    ++unit;
  }
  return fmt::format("{} {}", three_digits(seconds), units[unit]);
}

std::string format_count(double count) {
  constexpr const char* units[] = {"", "K", "M", "B", "T"};
  if (std::abs(count) < 999.5) return fmt::format("{:.0f}", count);
  std::size_t unit = 0;
  do {
    count /= 1000;
    ++unit;
    // 999.995 would be rounded to 1000.00 of the smaller unit.
  } while (std::abs(count) >= 999.995 && unit + 1 < std::size(units));
  return fmt::format("{:.2f} {}", count, units[unit]);
}

std::string format_grouped(std::int64_t value) {
  std::string text = fmt::format("{}", value);
  const std::size_t first_digit = value < 0 ? 1 : 0;
  for (std::size_t at = text.size(); at > first_digit + 3;) {
    at -= 3;
    text.insert(at, 1, ',');
  }
  return text;
}

std::string join(std::span<const std::string> parts, std::string_view separator) {
  std::string result;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) result += separator;
    result += parts[i];
  }
  return result;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> pieces;
  while (true) {
    const std::size_t end = text.find(separator);
    pieces.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return pieces;
    text.remove_prefix(end + 1);
  }
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string result;
  while (!text.empty()) {
    const std::size_t before = result.size();
    const std::size_t taken = append_printable(result, text);
    if (result.size() > max_bytes) {
      result.resize(before);
      return result + "...";
    }
    text.remove_prefix(taken);
  }
  return result;
}

std::string printable_lines(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    if (text.front() == '\n') {
      result += '\n';
      text.remove_prefix(1);
    } else {
      text.remove_prefix(append_printable(result, text));
    }
  }
  return result;
}

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const std::uint32_t lead = byte_at(text, 0);
  if (lead < 0x80) return 1;
  // Unicode 15, table 3-7: the second byte's range depends on the first.
  std::size_t length = 0;
  std::uint32_t low = 0x80;
  std::uint32_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  }
  if (length == 0 || text.size() < length) return 0;
  if (byte_at(text, 1) < low || byte_at(text, 1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if ((byte_at(text, i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace tcast
