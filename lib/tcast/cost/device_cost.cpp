#include "tcast/cost/device_cost.h"

#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

/// What plugins say of single operators, above another cost model.
class OperatorCosts final : public CostModel {
 public:
  OperatorCosts(const DeviceProfile& device, const CostModel& below)
      : device_(device), below_(below) {
    for (const auto* entry : operator_costs().entries()) {
      const std::size_t at = entry->pattern.rfind('@');
      if (at == std::string::npos) {
        for_all_.add(*entry);
      } else if (same_device(entry->pattern.substr(at + 1), device.name)) {
        RegistryEntry<OperatorCost> one = *entry;
        one.pattern = one.pattern.substr(0, at);
        for_device_.add(std::move(one));
      }
    }
  }

  OpEstimate estimate(const OpRecord& record) const override {
    const OpEstimate fallback = below_.estimate(record);
    const auto* const entry = find(record);
    if (entry == nullptr) return fallback;
    OpEstimate estimate = entry->value(record, {device_, fallback});
    if (!(estimate.total_s >= 0) || estimate.total_s > 1e18) {
      throw Error(fmt::format("the cost of '{}' ({}) is {} s", name_of(record), entry->place(),
                              estimate.total_s),
                  "a time is a number >= 0");
    }
    return estimate;
  }

  std::string explain(const OpRecord& record) const override {
    const auto* const entry = find(record);
    if (entry == nullptr) return below_.explain(record);
    return fmt::format("{}  in place of that: {} by the cost of '{}' ({})\n",
                       below_.explain(record), format_seconds(estimate(record).total_s),
                       entry->pattern, entry->place());
  }

 private:
  const RegistryEntry<OperatorCost>* find(const OpRecord& record) const {
    const std::string_view name = name_of(record);
    const auto* const entry = for_device_.find(name);
    return entry != nullptr ? entry : for_all_.find(name);
  }

  const DeviceProfile device_;
  const CostModel& below_;
  Registry<OperatorCost> for_device_{"operator cost"};
  Registry<OperatorCost> for_all_{"operator cost"};
};

}  // namespace

const Registry<OperatorCost>& operator_costs() {
  return registry_of<OperatorCost>("operator_cost");
}

const Registry<CostModelFunction>& cost_models() {
  return registry_of<CostModelFunction>("cost_model");
}

DeviceCost::DeviceCost(const DeviceProfile& device, RooflineOptions options,
                       const std::string& runner)
    : roofline_(std::make_unique<RooflineModel>(device, options)), top_(roofline_.get()) {
  if (!runner.empty()) {
    const auto* const entry = cost_models().find(runner);
    if (entry == nullptr) {
      const std::vector<std::string> known = cost_models().names();
      const std::string plugin = missing_plugin_hint("cost_model", runner);
      throw Error(fmt::format("--runner: no cost model '{}' is registered", printable(runner)),
                  plugin.empty() ? did_you_mean(runner, known,
                                                known.empty() ? "no plugin has one"
                                                              : "known are " + join(known, ", "))
                                 : plugin);
    }
    runner_ = entry->value(device, *top_);
    if (runner_ == nullptr) {
      throw Error(
          fmt::format("the cost model '{}' ({}) made nothing", entry->pattern, entry->place()));
    }
    top_ = runner_.get();
  }
  if (operator_costs().empty()) return;
  operators_ = std::make_unique<OperatorCosts>(device, *top_);
  top_ = operators_.get();
}

}  // namespace tcast
