#pragma once

#include <string>
#include <vector>

namespace tcast {

/// Rows of cells in aligned columns, two blanks between them; the first row is the heading.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

}  // namespace tcast
