#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tcast/graph/liveness.h"

namespace tcast {

/// Places of tensors in an arena, such that those alive at the same time do not overlap: the
/// largest first, each at the lowest free place.
class ArenaPlan {
 public:
  /// Returns the number of the item, for offset().
  std::size_t add(std::int64_t bytes, const Lifetime& lifetime);
  /// Gives every item its place. Returns the bytes of the arena.
  std::int64_t place();
  /// In bytes from the begin of the arena, a multiple of 64.
  std::int64_t offset(std::size_t item) const { return items_[item].offset; }

 private:
  struct Item {
    std::int64_t bytes = 0;
    Lifetime lifetime;
    std::int64_t offset = 0;
  };
  std::vector<Item> items_;
};

}  // namespace tcast
