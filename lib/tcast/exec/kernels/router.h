#pragma once

#include <vector>

#include "tcast/exec/kernels/kernel.h"

namespace tcast {

/// What the experts of one token are chosen by.
struct RouterChoice {
  std::vector<float> experts;  ///< score of each, with the correction bias
  std::vector<float> groups;   ///< sum of the best Route::group_best experts of each group
};

/// As the kernel of Route computes it. `logits` of one token; `bias` without data: there is none.
RouterChoice router_choice(const Route& op, const Buffer& logits, const Buffer& bias);

}  // namespace tcast
