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
        one.pattern = std::string_view(one.pattern).substr(0, at);
        for_device_.add(std::move(one));
      }
    }
  }

  OpEstimate estimate(const OpRecord& record) const override {
    const OpEstimate fallback = below_.estimate(record);
    const auto* const entry = find(record);
    if (entry == nullptr) return fallback;
    return entry->call(record, OperatorCostContext{device_, fallback});
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

/// A plugin's cost model.
class GuardedCostModel final : public CostModel {
 public:
  GuardedCostModel(const Registered& by, std::unique_ptr<CostModel> model)
      : by_(by), model_(std::move(model)) {}

  OpEstimate estimate(const OpRecord& record) const override {
    return guarded(by_, "estimate",
                   [&] { return Checked<OpEstimate>::of(by_, model_->estimate(record)); });
  }

  std::string explain(const OpRecord& record) const override {
    return guarded(by_, "explain", [&] { return model_->explain(record); });
  }

 private:
  Registered by_;
  std::unique_ptr<CostModel> model_;
};

}  // namespace

OpEstimate Checked<OpEstimate>::of(const Registered& by, OpEstimate estimate) {
  constexpr double most_s = 1e18;
  const auto sensible = [](double seconds) { return seconds >= 0 && seconds <= most_s; };
  // Once for each operator: what is wrong is looked for when something is.
  if (!(sensible(estimate.total_s) && sensible(estimate.compute_s) && sensible(estimate.memory_s) &&
        sensible(estimate.network_s) && sensible(estimate.overhead_s))) {
    const std::pair<const char*, double> times[] = {
        {"total_s", estimate.total_s},       {"compute_s", estimate.compute_s},
        {"memory_s", estimate.memory_s},     {"network_s", estimate.network_s},
        {"overhead_s", estimate.overhead_s},
    };
    for (const auto& [name, seconds] : times) {
      if (sensible(seconds)) continue;
      by.refuse(fmt::format("its estimate has {} = {}", name, seconds), "a time is a number >= 0");
    }
  }
  if (estimate.bound > Bound::launch || estimate.source > Source::assumed) {
    by.refuse("its estimate has a bound or a source that there is none of");
  }
  Checked<OpWork>::require(by, estimate.work);
  return estimate;
}

std::unique_ptr<CostModel> Checked<std::unique_ptr<CostModel>>::of(
    const Registered& by, std::unique_ptr<CostModel> model) {
  if (model == nullptr) by.refuse("it made nothing", "return a CostModel");
  return std::make_unique<GuardedCostModel>(by, std::move(model));
}

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
    runner_ = entry->call(device, *top_);
    runner_provenance_ = cost_models().provenance(*entry);
    top_ = runner_.get();
  }
  if (operator_costs().empty()) return;
  operators_ = std::make_unique<OperatorCosts>(device, *top_);
  top_ = operators_.get();
}

}  // namespace tcast
