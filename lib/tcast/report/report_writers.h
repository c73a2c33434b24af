#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/report/report.h"

namespace tcast {

/// Writes a report in a form of its own. Registered under what `simulate --format` calls it;
/// tcast's own ("table", "json", "jsonl", "csv") are, too.
using ReportWriter = std::function<std::string(const Report& report)>;
TCAST_API const Registry<ReportWriter>& report_writers();
/// What tcast itself has there.
TCAST_API std::vector<RegistryEntry<ReportWriter>> core_report_writers();

}  // namespace tcast
