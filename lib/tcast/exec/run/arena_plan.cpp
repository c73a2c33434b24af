#include "tcast/exec/run/arena_plan.h"

#include <algorithm>

#include "tcast/base/units.h"

namespace tcast {

std::size_t ArenaPlan::add(std::int64_t bytes, const Lifetime& lifetime) {
  constexpr std::int64_t alignment = 64;
  items_.push_back({round_up(bytes, alignment), lifetime, 0});
  return items_.size() - 1;
}

std::int64_t ArenaPlan::place() {
  std::vector<std::size_t> order(items_.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) {
    return items_[a].bytes > items_[b].bytes;
  });
  std::int64_t total = 0;
  std::vector<std::size_t> placed;  // by offset
  for (const std::size_t i : order) {
    Item& item = items_[i];
    item.offset = 0;
    for (const std::size_t k : placed) {
      const Item& other = items_[k];
      if (!item.lifetime.overlaps(other.lifetime)) continue;
      if (checked_add(item.offset, item.bytes) <= other.offset) continue;
      item.offset = std::max(item.offset, other.offset + other.bytes);
    }
    const auto where = std::upper_bound(
        placed.begin(), placed.end(), i,
        [this](std::size_t a, std::size_t b) { return items_[a].offset < items_[b].offset; });
    placed.insert(where, i);
    total = std::max(total, checked_add(item.offset, item.bytes));
  }
  return total;
}

}  // namespace tcast
