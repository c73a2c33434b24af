#include "tcast/report/text_table.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

constexpr std::size_t gap = 2;

bool starts_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

/// Characters of a printable text; each is taken to be one column wide.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), starts_character));
}

/// Bytes of the first `characters` characters.
std::size_t bytes_of_front(std::string_view text, std::size_t characters) {
  std::size_t at = 0;
  while (at < text.size() && (characters > 0 || !starts_character(text[at]))) {
    if (starts_character(text[at])) --characters;
    ++at;
  }
  return at;
}

/// The end of a text that is too wide: of a path, that is what tells it from others.
std::string cut_front(const std::string& text, std::size_t width) {
  const std::size_t full = width_of(text);
  if (full <= width) return text;
  constexpr std::size_t dots = 3;
  if (width <= dots) return std::string(width, '.');
  return "..." + text.substr(bytes_of_front(text, full - (width - dots)));
}

std::string whole_printable(std::string_view text) { return printable(text, std::string::npos); }

}  // namespace

void TextTable::add_row(std::vector<std::string> cells) {
  TCAST_CHECK(cells.size() <= columns_.size(), "more cells than columns");
  for (std::string& cell : cells) cell = whole_printable(cell);
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::text(std::size_t indent) const {
  std::vector<std::string> header;
  bool has_header = false;
  for (const TextColumn& column : columns_) {
    header.push_back(column.header);
    has_header = has_header || !column.header.empty();
  }
  std::vector<const std::vector<std::string>*> lines;
  if (has_header) lines.push_back(&header);
  for (const std::vector<std::string>& row : rows_) lines.push_back(&row);

  std::vector<std::size_t> widths(columns_.size());
  for (const std::vector<std::string>* line : lines) {
    for (std::size_t i = 0; i < widths.size(); ++i) {
      widths[i] = std::max(widths[i], width_of((*line)[i]));
    }
  }
  const std::size_t room = report_width - indent - gap * (widths.size() - 1);
  for (std::size_t total = std::accumulate(widths.begin(), widths.end(), std::size_t{0});
       total > room;) {
    // The widest goes down to the second widest in one stride: cells may be megabytes long.
    const auto widest = std::max_element(widths.begin(), widths.end());
    std::size_t next = 0;
    for (auto width = widths.begin(); width != widths.end(); ++width) {
      if (width != widest) next = std::max(next, *width);
    }
    const std::size_t stride = std::min(total - room, std::max<std::size_t>(*widest - next, 1));
    *widest -= stride;
    total -= stride;
  }

  std::string result;
  for (const std::vector<std::string>* line : lines) {
    result.append(indent, ' ');
    for (std::size_t i = 0; i < widths.size(); ++i) {
      if (i > 0) result.append(gap, ' ');
      const std::string cell = cut_front((*line)[i], widths[i]);
      const std::size_t blanks = widths[i] - width_of(cell);
      if (columns_[i].right) result.append(blanks, ' ');
      result += cell;
      if (!columns_[i].right) result.append(blanks, ' ');
    }
    result.erase(result.find_last_not_of(' ') + 1);
    result += '\n';
  }
  return result;
}

std::string wrap(std::string_view prefix, std::string_view text) {
  std::string result = whole_printable(prefix);
  const std::size_t indent = width_of(result);
  const std::size_t room = indent < report_width ? report_width - indent : 1;
  std::size_t used = 0;  // of the room in this line
  const std::string clean = whole_printable(text);
  for (std::string_view word_left : split(clean, ' ')) {
    while (!word_left.empty()) {
      const std::size_t width = width_of(word_left);
      const std::size_t blank = used > 0 ? 1 : 0;
      if (used > 0 && used + blank + width > room) {
        result += "\n" + std::string(indent, ' ');
        used = 0;
        continue;
      }
      const std::size_t bytes = bytes_of_front(word_left, room);
      result.append(blank, ' ');
      result += word_left.substr(0, bytes);
      used += blank + std::min(width, room);
      word_left.remove_prefix(bytes);
    }
  }
  return result + "\n";
}

std::string table_text(std::vector<std::vector<std::string>> rows) {
  for (std::vector<std::string>& row : rows) {
    for (std::string& cell : row) cell = printable(cell, std::string::npos);
  }
  std::vector<std::size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const std::vector<std::string>& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const bool last = i + 1 == row.size();
      text += last ? row[i] + "\n" : fmt::format("{:<{}}  ", row[i], widths[i]);
    }
  }
  return text;
}

std::string warning_lines(const std::vector<std::string>& warnings) {
  std::string text;
  for (const std::string& warning : warnings)
    text += wrap("  warning   ", printable(warning, 2000));
  return text;
}

}  // namespace tcast
