#pragma once

#include <functional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/report/report.h"

namespace tcast {

/// Writes a report in a form of its own. Registered under what `simulate --format` calls it.
using ReportWriter = std::function<std::string(const Report& report)>;
TCAST_API const Registry<ReportWriter>& report_writers();

}  // namespace tcast
