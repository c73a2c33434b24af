#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/report/report.h"

namespace tcast {

struct TableOptions {
  /// Rows of each op table; the rest is one row "[k others]", so that the total is always the sum.
  std::size_t max_op_rows = 20;
};

/// The lines that say what was run: model, parameters, device, dtypes, parallelism, quantization,
/// workload, other options, pipeline; those of which the report knows something.
TCAST_API std::string write_header(const Report& report);

/// The lists of assumptions and of warnings, each behind an empty line; what is empty is left out.
TCAST_API std::string write_notes(const Report& report);

/// The report for a person at a terminal: what was run, memory, latency, where the time goes by
/// operator and by module, assumptions and warnings; a model that does not fit is told to before
/// all else. At most 100 columns, no colours. Shown totals equal the sums of the shown parts to the
/// last digit. Throws InternalError for times that are not finite.
TCAST_API std::string write_table(const Report& report, const TableOptions& options = {});

}  // namespace tcast
