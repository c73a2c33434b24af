#include "tcast/plugin_context.h"

#include <algorithm>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/file.h"

namespace tcast {

bool PluginContext::is_taken(std::string_view group, std::string_view name) const {
  if (setup_.is_taken(group, name)) return true;
  const auto has = [name](const auto& entries) {
    return std::any_of(entries.begin(), entries.end(),
                       [name](const auto& entry) { return entry.pattern == name; });
  };
  if (group == "device") {
    const auto devices = core_devices();
    return std::any_of(devices.begin(), devices.end(),
                       [name](const auto& entry) { return same_device(entry.pattern, name); });
  }
  if (group == "profile") return has(core_profiles());
  if (group == "step") return has(core_steps());
  if (group == "activation") return has(core_activations());
  if (group == "report_writer") return has(core_report_writers());
  if (group == "quantization_format") return has(core_quantization_formats());
  return group == "input_filler" && has(core_input_fillers());
}

void PluginContext::add_profile(const std::string& pattern, std::string yaml, const char* file,
                                int line) {
  ProfileText text{std::move(yaml), fmt::format("{}:{}", file, line)};
  add("profile", {pattern}, ProfileFunction([text = std::move(text)] { return text; }), false, file,
      line);
}

void PluginContext::add_profiles(const std::string& folder, const char* file, int line) {
  std::vector<std::string> paths;
  try {
    paths = list_files(folder, ".yaml");
  } catch (const Error& error) {
    throw Error(fmt::format("{}:{}: the folder {}", file, line, error.what()));
  }
  for (const std::string& path : paths) {
    const Node model_type = Node::load_yaml(path).at("model_type");
    const std::string pattern = model_type.as_string();
    add("profile", {pattern}, ProfileFunction([path] {
          return ProfileText{read_file(path, max_yaml_bytes), path};
        }),
        false, path.c_str(), model_type.line());
  }
}

}  // namespace tcast
