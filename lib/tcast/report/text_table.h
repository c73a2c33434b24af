#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"

namespace tcast {

/// No line of what a person reads is longer.
inline constexpr std::size_t report_width = 100;

struct TextColumn {
  std::string header{};
  bool right = false;  ///< numbers
};

/// Rows of cells under headers, aligned, two blanks between columns, no blanks at line ends.
class TCAST_API TextTable {
 public:
  explicit TextTable(std::vector<TextColumn> columns) : columns_(std::move(columns)) {}

  /// Cells from the left; missing ones are empty. Cells are made printable; leading blanks indent.
  void add_row(std::vector<std::string> cells);

  /// The table with each line behind `indent` blanks. Where a line would exceed report_width, the
  /// widest columns lose the front of their longest cells ("...attn.q_proj").
  std::string text(std::size_t indent = 0) const;

 private:
  std::vector<TextColumn> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// Rows of cells in aligned columns, two blanks between them; the first row is the heading. Cells
/// are made printable; lines are as long as they are.
TCAST_API std::string table_text(std::vector<std::vector<std::string>> rows);

/// `prefix` and then the words of `text`, in lines of report_width of which the second and later
/// are indented like the end of the prefix. Words that are too long are cut. Made printable.
TCAST_API std::string wrap(std::string_view prefix, std::string_view text);

/// Warnings as lines of a text result: "  warning   ...", wrapped; empty when there are none.
TCAST_API std::string warning_lines(const std::vector<std::string>& warnings);

}  // namespace tcast
