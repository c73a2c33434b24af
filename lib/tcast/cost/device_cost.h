#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/cost/roofline.h"

namespace tcast {

/// What a plugin's cost of an operator has at hand.
struct OperatorCostContext {
  const DeviceProfile& device;
  const OpEstimate& fallback;  ///< what it would cost without the plugin
};

/// Time of one call of an operator. Registered under the operator's name in op tables, for all
/// devices ("matmul") or for one ("matmul@h200", which comes first); patterns are fine.
using OperatorCost =
    std::function<OpEstimate(const OpRecord& record, const OperatorCostContext& context)>;
TCAST_API const Registry<OperatorCost>& operator_costs();

/// A cost model whose functions are called guarded.
template <>
struct TCAST_API Checked<std::unique_ptr<CostModel>> {
  static std::unique_ptr<CostModel> of(const Registered& by, std::unique_ptr<CostModel> model);
};

/// Makes a cost model in place of the roofline, which is handed to it and outlives it. Registered
/// under what --runner calls it.
using CostModelFunction = std::function<std::unique_ptr<CostModel>(const DeviceProfile& device,
                                                                   const CostModel& roofline)>;
TCAST_API const Registry<CostModelFunction>& cost_models();

/// The cost model of a device: the roofline, or what the plugin named `runner` puts in its place,
/// and above it what plugins say of single operators. Throws Error for an unknown runner and for
/// costs that contradict each other.
class TCAST_API DeviceCost {
 public:
  explicit DeviceCost(const DeviceProfile& device, RooflineOptions options = {},
                      const std::string& runner = {});

  /// The uppermost of them. No plugins: the roofline itself, so that nobody pays for them.
  const CostModel& model() const { return *top_; }

  /// Where the cost model in place of the roofline comes from; nothing: there is none.
  const std::optional<Provenance>& runner() const { return runner_provenance_; }

 private:
  std::unique_ptr<RooflineModel> roofline_;
  std::unique_ptr<CostModel> runner_;
  std::optional<Provenance> runner_provenance_;
  std::unique_ptr<CostModel> operators_;
  const CostModel* top_ = nullptr;
};

}  // namespace tcast
