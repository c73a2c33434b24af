#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tcast/base/export.h"
#include "tcast/base/provenance.h"
#include "tcast/report/report.h"

namespace tcast {

/// The whole report as one JSON object and a line end; pretty-printed, or on one line (a line of
/// JSON Lines). Pure ASCII: other characters are escaped, bytes that are not UTF-8 are written as
/// the text \xff. Numbers that do not exist are null: metrics without a value, min_devices when it
/// is unknown, the largest batch and context when memory does not limit them. Absent are "timing",
/// "range" and "ideal" unless the report has them, and the figures of steps that nobody measured.
/// Throws InternalError for NaN and infinity, which no report may contain.
TCAST_API std::string write_json(const Report& report, bool one_line);

/// What the steps of a pipeline did to a model, pretty-printed: schema, inputs, model, device,
/// pipeline, steps, assumptions and warnings as in write_json().
TCAST_API std::string write_steps_json(const Report& report);

/// [{kind, name, origin, plugin, file, line, in_place_of}]: what there is of them.
TCAST_API nlohmann::ordered_json provenance_json(const std::vector<Provenance>& list);

/// A field of the JSON that is not inside a list.
struct ReportField {
  enum class Kind { number, flag, text, absent, other };

  std::string path;  ///< dotted: "latency.tpot_s"
  Kind kind = Kind::absent;
  double value = 0;  ///< of a number; 0 or 1 for a flag
};

/// Every such field, in the order of the JSON: what assertions and comparisons may name. Throws as
/// write_json() does.
TCAST_API std::vector<ReportField> report_fields(const Report& report);

}  // namespace tcast
