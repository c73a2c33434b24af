#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/base/units.h"
#include "tcast/config/node.h"
#include "tcast/device/interconnect.h"
#include "tcast/graph/op.h"

namespace tcast {

/// Peak rates of one kind of arithmetic unit per dtype, in operations per second (a multiply-add
/// counts two); 0 where the unit has no such mode.
struct PeakFlops {
  std::array<double, dtype_count> flops_per_s{};
  Source basis = Source::datasheet;
  std::string source{};

  double operator[](DType dtype) const { return flops_per_s[static_cast<std::size_t>(dtype)]; }
  double& operator[](DType dtype) { return flops_per_s[static_cast<std::size_t>(dtype)]; }
};

/// A peak and the dtype that it belongs to, which is not always the one asked for.
struct EffectivePeak {
  double flops_per_s = 0;
  DType dtype = DType::f32;
};

/// Shares of the peaks that products in one dtype reach.
struct DTypeEfficiency {
  double compute = 1;
  double memory = 1;

  bool operator==(const DTypeEfficiency&) const = default;
};

/// How operators of one class perform on a device:
/// t = ((flops / (compute * peak))^q + (bytes / (memory * bandwidth))^q)^(1/q) + overhead_s
/// with q = smooth_max; q = infinity is the plain maximum. All in (0, 1], q >= 1.
struct ClassEfficiency {
  double compute = 1;
  double memory = 1;
  double overhead_s = 0;
  double smooth_max = 2;
  /// Of products (matrix products, attention) in this dtype, where that differs from the above.
  std::array<std::optional<DTypeEfficiency>, dtype_count> products{};
  Source basis = Source::assumed;
  std::string source{};

  DTypeEfficiency of_products(DType dtype) const {
    return products[static_cast<std::size_t>(dtype)].value_or(DTypeEfficiency{compute, memory});
  }
};

/// Everything that a cost model knows about a device. Plain data, read from YAML
/// (configs/devices/*.yaml); every number belongs to a group that names its source.
struct TCAST_API DeviceProfile {
  std::string name{};
  std::string description{};
  Provenance provenance{};  ///< who described it

  PeakFlops matrix{};
  PeakFlops vector{};

  std::int64_t memory_bytes = 0;  ///< that programs can use
  double memory_bandwidth_bytes_per_s = 0;
  Source memory_basis = Source::datasheet;
  std::string memory_source{};

  /// The cache in which activations stay between operators. 0: every byte is priced as one from
  /// memory, as is right where the peaks of datasheets are used and caches are small.
  std::int64_t cache_bytes = 0;
  double cache_bandwidth_bytes_per_s = 0;
  Source cache_basis = Source::datasheet;
  std::string cache_source{};

  std::array<ClassEfficiency, op_class_count> efficiency{};
  Interconnect interconnect{};

  const ClassEfficiency& efficiency_of(OpClass op_class) const {
    return efficiency[static_cast<std::size_t>(op_class)];
  }

  /// Peak of the matrix units for a product in `dtype`. Without such a mode operands are converted
  /// to the next wider one that exists: i4 -> i8 -> bf16, f8 -> bf16, f16 <-> bf16 -> f32, and f32
  /// without matrix units runs on the vector units. Never 0: work is never dropped.
  EffectivePeak matrix_peak(DType dtype) const;

  /// Peak of the vector units; types without a mode of their own run as f32.
  EffectivePeak vector_peak(DType dtype) const;
};

/// Reads a profile. Throws Error for missing, misspelt (with the closest known), negative or
/// contradictory fields, and for numbers without a source.
TCAST_API DeviceProfile read_device(const Node& root);

/// The profile as YAML that read_device() reads back to the same profile.
TCAST_API std::string to_yaml(const DeviceProfile& device);

/// A device that can be computed with: it has a name, and every number is in the range that
/// read_device() asks for. Throws Error.
template <>
struct TCAST_API Checked<DeviceProfile> {
  static DeviceProfile of(const Registered& by, DeviceProfile device);
};

/// Makes a device. Registered under its name; the ones that are compiled in are, too.
using DeviceFunction = std::function<DeviceProfile()>;
TCAST_API const Registry<DeviceFunction>& devices();
/// What tcast itself has there.
TCAST_API std::vector<RegistryEntry<DeviceFunction>> core_devices();

/// Whether two names mean the same device: compared without regard to case, '-', '_' and blanks.
TCAST_API bool same_device(std::string_view a, std::string_view b);

/// Names of all registered devices, sorted.
TCAST_API std::vector<std::string> device_names();

/// A registered device with where it comes from.
TCAST_API DeviceProfile make_device(const RegistryEntry<DeviceFunction>& entry);

/// Whether load_device() takes a text for the path of a file: it has a '/', or ends in .yaml or
/// .yml.
TCAST_API bool is_device_path(std::string_view text);

/// The device of that name (see same_device(); a plugin's comes before a builtin one, which
/// "builtin::a100-80g" means all the same; "plugin:name" that of one plugin), or of the file with
/// that path. Throws Error that names the closest device and all of them.
TCAST_API DeviceProfile load_device(std::string_view name_or_path);

}  // namespace tcast
