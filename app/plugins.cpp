#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/plugin.h"
#include "tcast/base/text.h"
#include "tcast/report/json_text.h"
#include "tcast/report/text_table.h"

#include "app/command.h"
#include "app/options.h"
#include "app/output.h"

namespace tcast {
namespace {

using nlohmann::ordered_json;

/// "architecture llama, llama_*; custom model llama".
std::string items_text(const Plugin& plugin) {
  std::string text;
  const std::string* group = nullptr;
  for (const PluginItem& item : plugin.items) {
    if (group == nullptr || *group != item.group) {
      text += fmt::format("{}{} ", text.empty() ? "" : "; ", internal::noun_of(item.group));
      group = &item.group;
    } else {
      text += ", ";
    }
    text += join(item.names, ", ");
  }
  return printable(text, 2000);
}

ordered_json json_of(const Plugin& plugin) {
  ordered_json json = {{"name", plugin.name},
                       {"origin", name_of(plugin.origin)},
                       {"file", plugin.file},
                       {"line", plugin.line},
                       {"interface_version", plugin.interface_version},
                       {"state", name_of(plugin.state)}};
  if (!plugin.reason.empty()) json["reason"] = plugin.reason;
  if (!plugin.trace.empty()) json["trace"] = plugin.trace;
  json["registers"] = ordered_json::array();
  for (const PluginItem& item : plugin.items) {
    json["registers"].push_back(
        {{"group", item.group}, {"names", item.names}, {"file", item.file}, {"line", item.line}});
  }
  return json;
}

class PluginsCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.set_example(
        "  $ tcast plugins --plugins=-gemma\n"
        "  $ TCAST_PLUGINS=builtin,my_plugin tcast simulate my_model/config.json\n");
  }

  int run(Streams streams) override {
    // Whether a plugin fails shows only when it is set up.
    run_setups("");
    const std::vector<Plugin> list = plugins();
    write_result(output_, output_.format == OutputFormat::json ? json_text(list) : table(list),
                 streams);
    return 0;
  }

 private:
  static std::string table(const std::vector<Plugin>& list) {
    std::vector<std::vector<std::string>> rows = {
        {"plugin", "origin", "state", "place", "registers"}};
    std::string reasons;
    for (const Plugin& plugin : list) {
      rows.push_back({printable(plugin.name), std::string(name_of(plugin.origin)),
                      std::string(name_of(plugin.state)), plugin.place(), items_text(plugin)});
      if (plugin.state != PluginState::failed) continue;
      reasons +=
          fmt::format("\n{} failed: {}", printable(plugin.name), printable(plugin.reason, 1000));
      for (const std::string& line : plugin.trace) reasons += "\n  " + printable(line, 1000);
    }
    return table_text(rows) + (reasons.empty() ? "" : reasons + "\n");
  }

  static std::string json_text(const std::vector<Plugin>& list) {
    ordered_json json = {{"schema", 1}, {"interface_version", plugin_interface}};
    json["plugins"] = ordered_json::array();
    for (const Plugin& plugin : list) json["plugins"].push_back(json_of(plugin));
    return json_document(json, 1);
  }

  OutputInputs output_;
};

}  // namespace

constinit const CommandInfo plugins_command = {
    "plugins", "every plugin with its state and what it registers", make_command<PluginsCommand>};

}  // namespace tcast
