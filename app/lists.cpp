#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/embedded.h"
#include "tcast/base/text.h"
#include "tcast/device/device_profile.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/json_text.h"
#include "app/options.h"
#include "app/output.h"
#include "app/table_text.h"

// The commands that list what is compiled in.

namespace tcast {
namespace {

using nlohmann::ordered_json;

/// A command without arguments that prints a list as a table or as JSON.
class ListCommand : public Command {
 public:
  void declare(CommandLine& line) override {
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.set_example(example());
  }

  int run(Streams streams) override {
    const std::string text =
        output_.format == OutputFormat::json ? json_document(json(), 1) : table_text(rows());
    write_result(output_, text, streams);
    return 0;
  }

 protected:
  virtual std::string example() const = 0;
  virtual std::vector<std::vector<std::string>> rows() const = 0;
  virtual ordered_json json() const = 0;

 private:
  OutputInputs output_;
};

/// "from the plugin 'mine' (custom_model/mine.cpp:12)".
template <class Entry>
std::string from(const Entry& entry) {
  return fmt::format("from the plugin '{}' ({})", entry.plugin, entry.place());
}

class StepsCommand final : public ListCommand {
  /// Those that a pipeline may name beside the standard ones.
  static std::vector<const RegistryEntry<StepFunction>*> plugin_steps() {
    std::vector<const RegistryEntry<StepFunction>*> list;
    for (const auto* entry : registered_steps().entries()) {
      if (!entry->plugin.empty()) list.push_back(entry);
    }
    return list;
  }

  std::string example() const override {
    return "  $ tcast steps\n"
           "  $ tcast simulate --skip-step patch_attention configs/models/qwen3-0.6b.json\n";
  }

  std::vector<std::vector<std::string>> rows() const override {
    std::vector<std::vector<std::string>> list = {{"step", "what it does"}};
    for (const StepInfo& step : standard_steps()) {
      list.push_back({std::string(step.name), std::string(step.description)});
    }
    for (const auto* entry : plugin_steps())
      list.push_back({std::string(entry->pattern), from(*entry)});
    return list;
  }

  ordered_json json() const override {
    ordered_json list = ordered_json::array();
    for (const StepInfo& step : standard_steps()) {
      list.push_back({{"name", step.name}, {"description", step.description}});
    }
    for (const auto* entry : plugin_steps()) {
      list.push_back({{"name", entry->pattern}, {"description", from(*entry)}});
    }
    return {{"schema", 1}, {"steps", list}};
  }
};

/// "4.80 TB/s", "23.4 GFLOP/s".
std::string rate_text(double per_s, const char* unit) {
  return per_s >= 1e12 ? fmt::format("{:.2f} T{}/s", per_s / 1e12, unit)
                       : fmt::format("{:.1f} G{}/s", per_s / 1e9, unit);
}

std::vector<DeviceProfile> all_devices() {
  std::vector<DeviceProfile> list;
  for (const std::string& name : device_names()) list.push_back(load_device(name));
  return list;
}

/// Where a device's efficiencies come from, best first: what rows of a report say of their source.
std::vector<std::string> efficiency_bases(const DeviceProfile& device) {
  std::set<Source> bases;
  for (const ClassEfficiency& efficiency : device.efficiency) bases.insert(efficiency.basis);
  std::vector<std::string> names;
  for (const Source basis : bases) names.emplace_back(name_of(basis));
  return names;
}

class DevicesCommand final : public ListCommand {
  std::string example() const override {
    return "  $ tcast devices\n"
           "  $ tcast simulate --device h200 configs/models/qwen3-0.6b.json\n";
  }

  std::vector<std::vector<std::string>> rows() const override {
    std::vector<std::vector<std::string>> list = {
        {"device", "memory", "bandwidth", "bf16 peak", "peaks", "efficiencies", "description"}};
    for (const DeviceProfile& device : all_devices()) {
      list.push_back({device.name, format_bytes(static_cast<double>(device.memory_bytes)),
                      rate_text(device.memory_bandwidth_bytes_per_s, "B"),
                      rate_text(device.matrix_peak(DType::bf16).flops_per_s, "FLOP"),
                      std::string(name_of(device.matrix.basis)),
                      join(efficiency_bases(device), ", "), device.description});
    }
    return list;
  }

  ordered_json json() const override {
    ordered_json list = ordered_json::array();
    for (const DeviceProfile& device : all_devices()) {
      list.push_back({{"name", device.name},
                      {"description", device.description},
                      {"memory_bytes", device.memory_bytes},
                      {"memory_bandwidth_bytes_per_s", device.memory_bandwidth_bytes_per_s},
                      {"bf16_flops_per_s", device.matrix_peak(DType::bf16).flops_per_s},
                      {"basis", name_of(device.matrix.basis)},
                      {"efficiency_bases", efficiency_bases(device)},
                      {"source", device.matrix.source},
                      {"file", device.file}});
    }
    return {{"schema", 1}, {"devices", list}};
  }
};

class ProfilesCommand final : public ListCommand {
  std::string example() const override {
    return "  $ tcast profiles\n"
           "  $ tcast inspect --profile my_model.yaml my_model/config.json\n";
  }

  std::vector<std::vector<std::string>> rows() const override {
    std::vector<std::vector<std::string>> list = {{"model type", "file"}};
    for (const EmbeddedFile& file : embedded_profiles()) {
      list.push_back({file.key, fmt::format("{} (builtin)", file.name)});
    }
    for (const auto* entry : profiles().entries())
      list.push_back({std::string(entry->pattern), from(*entry)});
    return list;
  }

  ordered_json json() const override {
    ordered_json list = ordered_json::array();
    for (const EmbeddedFile& file : embedded_profiles()) {
      list.push_back({{"model_type", file.key}, {"origin", "builtin"}, {"file", file.name}});
    }
    for (const auto* entry : profiles().entries()) {
      list.push_back({{"model_type", entry->pattern},
                      {"origin", name_of(entry->origin)},
                      {"file", entry->file},
                      {"line", entry->line},
                      {"plugin", entry->plugin}});
    }
    return {{"schema", 1}, {"profiles", list}};
  }
};

}  // namespace

constinit const CommandInfo steps_command = {"steps", "the nine standard steps, in their order",
                                             make_command<StepsCommand>};
constinit const CommandInfo devices_command = {"devices", "the devices that are compiled in",
                                               make_command<DevicesCommand>};
constinit const CommandInfo profiles_command = {
    "profiles", "the model profiles that are compiled in", make_command<ProfilesCommand>};

}  // namespace tcast
