#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "tcast/exec/kernels/kernel.h"

namespace tcast {

/// Compares what a kernel computes with run_reference() on the same operands. Made in front of the
/// kernel's run, which may overwrite its inputs.
class OpCheck {
 public:
  OpCheck(const OpRecord& record, const KernelArgs& args);

  /// After the kernel's run: max |a - b| / max |b| over its results (and the cache, for
  /// CacheAppend). What lies on the border between two numbers of a narrow dtype may be rounded to
  /// either: integers may differ by 1, bf16 by its last bit. Attention in bf16 rounds each weight
  /// to bf16 (by up to 2^-9 of it) before the product with the values, in which such errors add up
  /// as the values do: results may differ by as much of the largest. 0 for an op that adds to its
  /// input in place.
  double error() const;

 private:
  /// Memory that the kernel changes, as the reference changed it.
  struct Result {
    Buffer kernels;
    std::vector<std::byte> before;
    std::vector<std::byte> expected;
  };
  Buffer expect(const Buffer& of_kernel);

  std::vector<Result> results_;
  double weight_rounding_ = 0;  ///< of attention, relative
};

}  // namespace tcast
