#include "tcast/graph/tensor.h"

#include <fmt/format.h>

namespace tcast {

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) {
    text += fmt::format("{}{}", i > 0 ? ", " : "", shape[i]);
  }
  return text + "]";
}

Shape Parameter::local_shape() const {
  if (shard.dim < 0 || shard.ranks <= 1) return shape;
  TCAST_CHECK(shard.dim < shape.rank(), "a parameter is cut along one of its dimensions");
  std::int64_t size = 0;
  for (const ShardSegment& segment : shard.segments) size += segment.local_size();
  if (shard.segments.empty()) size = ceil_div(shape[shard.dim], shard.ranks);
  Shape local = shape;
  local.set(shard.dim, size);
  return local;
}

std::int64_t Parameter::local_bytes() const {
  return tied_to.empty() ? bytes_of(local_shape().elements(), dtype) : 0;
}

}  // namespace tcast
