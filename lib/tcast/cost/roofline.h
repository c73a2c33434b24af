#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "tcast/base/export.h"
#include "tcast/device/device_profile.h"
#include "tcast/graph/op.h"

namespace tcast {

/// What an operator's time is mostly spent on.
enum class Bound : std::uint8_t { compute, memory, network, launch };
TCAST_API std::string_view name_of(Bound bound);

/// Time of one call of an operator. The parts are each resource's own time; because they overlap,
/// total_s is less than their sum, and at least the largest of them.
struct OpEstimate {
  double total_s = 0;
  double compute_s = 0;
  double memory_s = 0;
  double network_s = 0;
  double overhead_s = 0;  ///< launching it: not overlapped, part of total_s
  OpWork work{};
  Bound bound = Bound::launch;
  Source source = Source::assumed;
};

/// What a plugin says of an operator: times of 0 to 1e18 s. Throws Error.
template <>
struct TCAST_API Checked<OpEstimate> {
  static OpEstimate of(const Registered& by, OpEstimate estimate);
};

/// Says what an operator costs. Implementations are immutable and may be shared by threads.
class TCAST_API CostModel {
 public:
  CostModel() = default;
  CostModel(const CostModel&) = delete;
  CostModel& operator=(const CostModel&) = delete;
  virtual ~CostModel() = default;

  /// Time of one call on one rank; 0 for an op without work. Throws Error for a collective that the
  /// interconnect cannot carry.
  virtual OpEstimate estimate(const OpRecord& record) const = 0;

  /// How estimate() comes to its number, several lines, for people.
  virtual std::string explain(const OpRecord& record) const = 0;
};

struct RooflineOptions {
  /// Datasheet peaks, plain maximum, no overhead, no latency: a bound that nothing can beat.
  bool ideal = false;
};

/// The roofline of a device profile (device/device_profile.h):
/// t = (matrix^q + vector^q + memory^q + network^q)^(1/q) + overhead, where
/// matrix = flops / (efficiency * peak), vector = flops / (efficiency * vector peak),
/// memory = bytes / (efficiency * bandwidth), network as in cost/collectives.h. Of a device with a
/// cache, activations that fit into it come from there, at its bandwidth; of more than fit, the
/// part that fits. Matrix and vector units work at the same time, so their times are not added up.
class TCAST_API RooflineModel final : public CostModel {
 public:
  explicit RooflineModel(const DeviceProfile& device, RooflineOptions options = {});

  OpEstimate estimate(const OpRecord& record) const override;
  std::string explain(const OpRecord& record) const override;

 private:
  /// The profile's numbers of one class, as the formula needs them.
  struct Rates {
    std::array<double, dtype_count> seconds_per_matrix_flop{};
    std::array<double, dtype_count> seconds_per_vector_flop{};
    std::array<double, dtype_count> seconds_per_product_byte{};
    double seconds_per_byte = 0;  ///< of operators that are no products
    double overhead_s = 0;
    double exponent = 0;  ///< q; infinity is the plain maximum
    Source source = Source::assumed;
  };

  double priced_bytes(const OpWork& work) const;

  DeviceProfile device_;
  RooflineOptions options_;
  std::array<Rates, op_class_count> rates_{};
};

}  // namespace tcast
