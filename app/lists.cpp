#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/text.h"
#include "tcast/device/device_profile.h"
#include "tcast/report/json_text.h"
#include "tcast/report/text_table.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/options.h"
#include "app/output.h"

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

/// All entries, the builtin ones first, by name.
template <class T>
std::vector<const RegistryEntry<T>*> by_name(const Registry<T>& registry) {
  std::vector<const RegistryEntry<T>*> list = registry.entries();
  std::stable_sort(list.begin(), list.end(), [](const auto* a, const auto* b) {
    return std::make_pair(a->origin == Origin::custom, a->pattern) <
           std::make_pair(b->origin == Origin::custom, b->pattern);
  });
  return list;
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

  static std::string origin_of(const RegistryEntry<StepFunction>& entry) {
    return to_string(registered_steps().provenance(entry));
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
      list.push_back({std::string(entry->pattern), origin_of(*entry)});
    return list;
  }

  ordered_json json() const override {
    ordered_json list = ordered_json::array();
    for (const StepInfo& step : standard_steps()) {
      list.push_back({{"name", step.name}, {"description", step.description}});
    }
    for (const auto* entry : plugin_steps()) {
      list.push_back({{"name", entry->pattern}, {"description", origin_of(*entry)}});
    }
    return {{"schema", 1}, {"steps", list}};
  }
};

/// "4.80 TB/s", "23.4 GFLOP/s".
std::string rate_text(double per_s, const char* unit) {
  return per_s >= 1e12 ? fmt::format("{:.2f} T{}/s", per_s / 1e12, unit)
                       : fmt::format("{:.1f} G{}/s", per_s / 1e9, unit);
}

/// Every device under the name that it is found by: one that a plugin's takes the place of with its
/// scope.
std::vector<std::pair<std::string, DeviceProfile>> all_devices() {
  std::vector<std::pair<std::string, DeviceProfile>> list;
  const auto entries = by_name(devices());
  for (const auto* entry : entries) {
    if (!is_literal_pattern(entry->pattern) || !entry->failure.empty()) continue;
    const bool hidden = std::any_of(entries.begin(), entries.end(), [&](const auto* other) {
      return entry->origin == Origin::builtin && other->origin == Origin::custom &&
             other->scope.empty() && same_device(other->pattern, entry->pattern);
    });
    std::string name(entry->pattern);
    if (hidden || !entry->scope.empty()) name = fmt::format("{}::{}", entry->scope_name(), name);
    list.emplace_back(std::move(name), make_device(*entry));
  }
  return list;
}

/// Where a device's efficiencies come from, best first: what rows of a report say of their source.
std::vector<std::string> efficiency_bases(const DeviceProfile& device) {
  std::set<Source> bases;
  for (const ClassEfficiency& efficiency : device.efficiency) bases.insert(efficiency.basis);
  std::vector<std::string> names;
  names.reserve(bases.size());
  for (const Source basis : bases) names.emplace_back(name_of(basis));
  return names;
}

class DevicesCommand final : public ListCommand {
  std::string example() const override {
    return "  $ tcast devices\n"
           "  $ tcast simulate --device h200 configs/models/qwen3-0.6b.json\n";
  }

  std::vector<std::vector<std::string>> rows() const override {
    std::vector<std::vector<std::string>> list = {{"device", "origin", "memory", "bandwidth",
                                                   "bf16 peak", "peaks", "efficiencies",
                                                   "description"}};
    for (const auto& [name, device] : all_devices()) {
      list.push_back({name, to_string(device.provenance),
                      format_bytes(static_cast<double>(device.memory_bytes)),
                      rate_text(device.memory_bandwidth_bytes_per_s, "B"),
                      rate_text(device.matrix_peak(DType::bf16).flops_per_s, "FLOP"),
                      std::string(name_of(device.matrix.basis)),
                      join(efficiency_bases(device), ", "), device.description});
    }
    return list;
  }

  ordered_json json() const override {
    ordered_json list = ordered_json::array();
    for (const auto& [name, device] : all_devices()) {
      const Provenance& from = device.provenance;
      list.push_back({{"name", name},
                      {"origin", name_of(from.from)},
                      {"description", device.description},
                      {"memory_bytes", device.memory_bytes},
                      {"memory_bandwidth_bytes_per_s", device.memory_bandwidth_bytes_per_s},
                      {"bf16_flops_per_s", device.matrix_peak(DType::bf16).flops_per_s},
                      {"basis", name_of(device.matrix.basis)},
                      {"efficiency_bases", efficiency_bases(device)},
                      {"source", device.matrix.source},
                      {"file", from.file}});
      if (from.from != Provenance::From::plugin) continue;
      list.back()["line"] = from.line;
      list.back()["plugin"] = from.plugin;
      if (from.replaces_builtin) list.back()["in_place_of"] = "builtin";
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
    for (const auto* entry : by_name(profiles())) {
      const std::string origin = to_string(profiles().provenance(*entry));
      list.push_back(
          {std::string(entry->pattern), entry->origin == Origin::builtin
                                            ? fmt::format("{} ({})", entry->place(), origin)
                                            : origin});
    }
    return list;
  }

  ordered_json json() const override {
    ordered_json list = ordered_json::array();
    for (const auto* entry : by_name(profiles())) {
      list.push_back({{"model_type", entry->pattern},
                      {"origin", name_of(entry->origin)},
                      {"file", entry->file}});
      if (entry->line > 0) list.back()["line"] = entry->line;
      if (!entry->plugin.empty()) list.back()["plugin"] = entry->plugin;
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
