#pragma once

#include <string>
#include <vector>

namespace tcast {

/// Rows of cells in aligned columns, two blanks between them; the first row is the heading. Cells
/// are made printable.
std::string table_text(std::vector<std::vector<std::string>> rows);

}  // namespace tcast
