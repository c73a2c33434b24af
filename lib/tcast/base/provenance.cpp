#include "tcast/base/provenance.h"

#include <fmt/format.h>

#include "tcast/base/text.h"

namespace tcast {

std::string_view name_of(Provenance::From from) {
  constexpr std::string_view names[] = {"builtin", "plugin", "file", "host"};
  return names[static_cast<std::size_t>(from)];
}

std::string to_string(const Provenance& provenance) {
  switch (provenance.from) {
    case Provenance::From::builtin:
      return "builtin";
    case Provenance::From::plugin:
      return fmt::format("of plugin '{}' ({}:{}){}", printable(provenance.plugin),
                         printable(provenance.file, 4096), provenance.line,
                         provenance.replaces_builtin ? ", in place of the builtin one" : "");
    case Provenance::From::file:
      return fmt::format("the file {}", printable(provenance.file, 4096));
    case Provenance::From::host:
      break;
  }
  return "this host";
}

}  // namespace tcast
