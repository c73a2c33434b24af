#pragma once

#include <string>

#include "tcast/base/export.h"
#include "tcast/report/report.h"

namespace tcast {

/// The op table as CSV (RFC 4180: lines end in CR LF, quotes where needed), a row for each
/// operator: the config file and the fields of "ops" in the JSON. `header`: with a line of column
/// names, which only the first of several reports in one file has. Bytes that are not UTF-8 are
/// written as the text \xff. A text that a spreadsheet would take for a formula (it begins with = +
/// -
/// @, a tab or a line end) begins with an apostrophe and stands in quotes; numbers are never
/// changed. Throws InternalError for NaN and infinity.
TCAST_API std::string write_csv(const Report& report, bool header = true);

}  // namespace tcast
