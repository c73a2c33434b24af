#include "tcast/report/report.h"

#include <algorithm>

namespace tcast {

bool has_ideal(const Report& report) {
  return report.ideal || std::any_of(report.ops.begin(), report.ops.end(),
                                     [](const ReportOp& op) { return op.ideal_s != 0; });
}

bool has_phase(const Report& report, std::string_view phase) {
  return !report.single_phase || std::any_of(report.ops.begin(), report.ops.end(),
                                             [&](const ReportOp& op) { return op.phase == phase; });
}

}  // namespace tcast
