#include "tcast/graph/tensor.h"

#include <fmt/format.h>

namespace tcast {

void Shape::fail_rank(std::size_t rank) {
  throw Error(fmt::format("a tensor of rank {}, but at most {} are supported", rank, max_rank),
              "flatten neighbouring dimensions");
}

void Shape::fail_dimension(int i) const {
  throw Error(fmt::format("a tensor of shape {} has no dimension {}", to_string(*this), i));
}

void fail_operand_count() {
  throw Error(fmt::format("an operator, or a call of a layer, has more than {} operands on a side",
                          max_operands),
              "join tensors, or compute in several operators");
}

void fail_operand_index(int index, std::size_t count) {
  throw Error(fmt::format("there is no operand {} among {}", index, count));
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.rank(); ++i) {
    text += fmt::format("{}{}", i > 0 ? ", " : "", shape[i]);
  }
  return text + "]";
}

Shape Parameter::checkpoint_shape() const {
  Shape stored = shape;
  if (transposed) {
    const int rank = shape.rank();
    stored.set(rank - 1, shape[rank - 2]);
    stored.set(rank - 2, shape[rank - 1]);
  }
  return stored;
}

Shape Parameter::local_shape() const {
  Shape local = shape;
  for (const Shard& cut : {shard, stack}) {
    if (cut.dim < 0 || cut.ranks <= 1) continue;
    TCAST_CHECK(cut.dim < shape.rank(), "a parameter is cut along one of its dimensions");
    std::int64_t size = 0;
    for (const ShardSegment& segment : cut.segments) size += segment.local_size();
    if (cut.segments.empty()) size = ceil_div(shape[cut.dim], cut.ranks);
    local.set(cut.dim, size);
  }
  return local;
}

std::int64_t Parameter::local_bytes() const {
  return tied_to.empty() ? bytes_of(local_shape().elements(), dtype) : 0;
}

}  // namespace tcast
