#include "app/plugin_options.h"

#include <cstdlib>
#include <optional>
#include <ostream>
#include <string_view>

#include <fmt/format.h>

#include "tcast/base/plugin.h"
#include "tcast/base/text.h"

#include "app/streams.h"

namespace tcast {
namespace {

std::optional<std::string> environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

}  // namespace

PluginScope::PluginScope(const std::vector<std::string>& arguments) {
  PluginSelection selection;
  selection.names = environment("TCAST_PLUGINS");
  selection.source = "TCAST_PLUGINS";
  constexpr std::string_view name = "--plugins";
  for (std::size_t i = 0; i < arguments.size() && arguments[i] != "--"; ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--strict") selection.strict = true;
    std::optional<std::string> names;
    if (argument == name && i + 1 < arguments.size()) names = arguments[i + 1];
    if (argument.substr(0, name.size() + 1) == "--plugins=") names = argument.substr(10);
    if (!names) continue;
    selection.names = names;
    selection.source = name;
  }
  if (!selection.names) selection.source.clear();
  strict_ = selection.strict;
  select_plugins(selection);
}

PluginScope::~PluginScope() {
  // Nothing of this command is left for the next one of the same process.
  try {
    select_plugins({});
  } catch (const Error&) {
    return;
  }
}

void PluginScope::declare(CommandLine& line) {
  line.begin_group("Plugins and warnings");
  // Read before all others, by the constructor.
  line.add_possibly_empty(
      "--plugins", "NAMES", [](const std::string&) {},
      "only these plugins (see 'tcast plugins'), separated by commas; '--plugins=-name' leaves one "
      "out; default TCAST_PLUGINS, else all");
  static bool strict = false;
  line.add_flag("--strict", strict,
                "a plugin that fails is an error; with warnings, the results are written and the "
                "exit status is 1");
}

void PluginScope::print_problems(std::ostream& err) {
  const bool trace = environment("TCAST_PLUGIN_TRACE").value_or("0") != "0";
  for (const PluginProblem& problem : plugin_problems()) {
    say(err, "warning", printable(problem.message, 1000));
    if (!trace) continue;
    for (const std::string& line : problem.trace) err << "  " << printable(line, 1000) << '\n';
  }
}

}  // namespace tcast
