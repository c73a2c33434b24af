#include "tcast/report/report_writers.h"

#include <utility>

#include "tcast/report/csv_writer.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/table_writer.h"

namespace tcast {
std::vector<RegistryEntry<ReportWriter>> core_report_writers() {
  const std::pair<std::string_view, ReportWriter> writers[] = {
      {"table", [](const Report& report) { return write_table(report); }},
      {"json", [](const Report& report) { return write_json(report, false); }},
      {"jsonl", [](const Report& report) { return write_json(report, true); }},
      {"csv", [](const Report& report) { return write_csv(report); }}};
  std::vector<RegistryEntry<ReportWriter>> entries;
  for (const auto& [name, write] : writers) {
    entries.push_back(
        {{name, Origin::builtin, false, 0, "lib/tcast/report/report_writers.cpp"}, write});
  }
  return entries;
}

const Registry<ReportWriter>& report_writers() {
  return registry_of<ReportWriter>("report_writer", core_report_writers);
}

}  // namespace tcast
