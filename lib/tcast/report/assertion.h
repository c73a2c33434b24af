#pragma once

#include <string>
#include <string_view>

#include "tcast/base/export.h"
#include "tcast/report/report.h"

namespace tcast {

enum class Relation { less, less_equal, greater, greater_equal, equal, not_equal };

/// A claim about a report: "tpot_s<0.02".
struct Assertion {
  std::string field;  ///< as given: "tpot_s" or "latency.tpot_s"
  Relation relation = Relation::less;
  double value = 0;
  std::string text;  ///< the whole claim as given, for messages
};

/// Reads `<field> <relation> <number>`: relation is one of < <= > >= == !=, the number plain
/// (no unit) or true or false (1 or 0). Throws Error with the column for anything else.
TCAST_API Assertion parse_assertion(std::string_view text);

/// Throws Error, with the closest name, when `sample`, which has all fields that a report of the
/// run can have, has no number or flag of that name: known before the run.
TCAST_API void require_field(const Assertion& assertion, const Report& sample);

struct AssertionResult {
  bool passed = false;
  double actual = 0;
  /// "passed: latency.tpot_s < 0.02 (it is 0.0031)", or with device, workload and layout "failed:
  /// latency.tpot_s < 0.02 (it is 0.0251) on H200, batch_size 8, ..., tp 2, ep 1, dp 1".
  std::string text;
};

/// Compares exactly, without tolerance. The field is a number or flag of the report's JSON outside
/// its lists, by dotted path or, where only one has it, by its last name; the last names of "ideal"
/// are not looked up, so that `tpot_s` is the estimate whether or not --ideal is given. Throws
/// Error for a field that is unknown, ambiguous, a text, or null in this report.
TCAST_API AssertionResult evaluate(const Assertion& assertion, const Report& report);

}  // namespace tcast
