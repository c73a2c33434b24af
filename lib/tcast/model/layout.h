#pragma once

#include <cstdint>

#include "tcast/base/export.h"
#include "tcast/config/options.h"

namespace tcast {

/// Ranks that work together on one tensor: `size` of them, `stride` apart in device numbers.
struct RankGroup {
  std::int64_t size = 1;
  std::int64_t stride = 1;

  bool operator==(const RankGroup&) const = default;
};

/// A way in which the devices of a deployment share the work.
enum class ParallelAxis : std::uint8_t {
  // Of everything but routed experts, the fastest first.
  tp,  ///< tensor parallel: parts of every matrix
  cp,  ///< context parallel: parts of every sequence
  dp,  ///< data parallel: replicas that share the requests
  // Of routed experts, which the devices of one pipeline stage share in their own way.
  etp,  ///< expert-tensor parallel: parts of every expert's matrices
  ep,   ///< expert parallel: parts of the list of experts
  edp,  ///< replicas of the experts
  // Of both.
  pp,  ///< pipeline parallel: parts of the list of layers
};

/// How the devices of a deployment are numbered and grouped: every rank group comes from here. Made
/// once from the options, when the model is built, and handed to the steps.
///
/// Device numbers count tp fastest, then cp, dp and pp: their sizes multiply to the devices. Routed
/// experts see the devices of a pipeline stage as etp x ep x edp, the order of Megatron-LM: expert
/// parallelism takes g = gcd(ep, tp) parts of each tensor-parallel group, all ranks of a part cut
/// each expert together (etp = tp / g), and the ranks of an expert-parallel group are etp devices
/// apart, across tensor-parallel groups too. With tp 4 and ep 6 they are devices 0, 2 of the first
/// group, 4, 6 of the second, 8, 10 of the third. There are no context-parallel ranks and pipeline
/// stages yet: cp and pp are 1.
class TCAST_API Layout {
 public:
  /// One device.
  Layout() = default;
  /// Throws Error for sizes below 1 and those that do not divide the devices.
  explicit Layout(const ParallelOptions& parallel);

  std::int64_t devices() const { return devices_; }
  /// The group that a rank works in along an axis: it holds ranks base + i * stride.
  RankGroup group(ParallelAxis axis) const;
  std::int64_t size(ParallelAxis axis) const { return group(axis).size; }
  /// The ranks of a tensor-parallel group that route different tokens: one of each etp group.
  RankGroup token_slices() const { return {tp_ / etp_, etp_}; }

  bool operator==(const Layout&) const = default;

 private:
  std::int64_t devices_ = 1;
  std::int64_t tp_ = 1;
  std::int64_t etp_ = 1;
  std::int64_t ep_ = 1;
};

}  // namespace tcast
