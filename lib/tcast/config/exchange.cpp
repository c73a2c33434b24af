#include "tcast/config/exchange.h"

#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {

const Registry<NameResolver>& name_resolvers() {
  return registry_of<NameResolver>("name_resolver");
}

const Registry<TokenLoader>& token_loaders() { return registry_of<TokenLoader>("token_loader"); }

const Registry<LogitsDumper>& logits_dumpers() {
  return registry_of<LogitsDumper>("logits_dumper");
}

std::string resolve_name(const std::string& text) {
  const std::size_t at = text.rfind('@');
  std::error_code failure;
  if (at == std::string::npos || std::filesystem::exists(text, failure)) return text;
  const std::string place = text.substr(at + 1);
  const auto* const resolver = name_resolvers().find(place);
  if (resolver == nullptr) {
    const std::vector<std::string> known = name_resolvers().names();
    const std::string plugin = missing_plugin_hint("name_resolver", place);
    throw Error(fmt::format("{}: no such file, and no name resolver '{}' is registered",
                            printable(text), printable(place)),
                plugin.empty() ? did_you_mean(place, known,
                                              known.empty() ? "name a config.json"
                                                            : "known are " + join(known, ", "))
                               : plugin);
  }
  std::string path = resolver->call(text.substr(0, at));
  if (path.empty()) {
    resolver->refuse(fmt::format("it returned no path for '{}'", printable(text.substr(0, at))));
  }
  return path;
}

std::string file_name_of(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

}  // namespace tcast
