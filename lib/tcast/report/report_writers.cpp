#include "tcast/report/report_writers.h"

namespace tcast {

const Registry<ReportWriter>& report_writers() {
  return registry_of<ReportWriter>("report_writer");
}

}  // namespace tcast
