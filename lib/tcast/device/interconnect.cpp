#include "tcast/device/interconnect.h"

namespace tcast {

std::string_view name_of(Source source) {
  switch (source) {
    case Source::measured:
      return "measured";
    case Source::calibrated:
      return "calibrated";
    case Source::datasheet:
      return "datasheet";
    case Source::assumed:
      return "assumed";
  }
  return "assumed";
}

std::string_view name_of(LinkKind kind) {
  switch (kind) {
    case LinkKind::clos:
      return "clos";
    case LinkKind::full_mesh:
      return "full_mesh";
    case LinkKind::ring:
      return "ring";
    case LinkKind::crossbar:
      return "switch";
  }
  return "switch";
}

}  // namespace tcast
