#include "tcast/model/linear_quantization.h"

#include <utility>

#include <fmt/format.h>

namespace tcast {
namespace {

/// "gate_up_proj" and "weight_scale" -> "gate_up_proj_scale"; of a linear's weight, as it is.
std::string name_beside(const std::string& weight, const std::string& name) {
  constexpr std::string_view usual = "weight";
  if (weight == usual) return name;
  return weight + (name.rfind(usual, 0) == 0 ? name.substr(usual.size()) : "_" + name);
}

}  // namespace

std::string LinearQuantization::scheme() const {
  if (!activation) return fmt::format("w{}a16", bits_of(weight));
  if (*activation == DType::f8_e4m3 || *activation == DType::f8_e5m2) return "fp8";
  return fmt::format("w{}a{}_{}", bits_of(weight), bits_of(*activation),
                     activation_group < 0 ? "static" : "dynamic");
}

std::string LinearQuantization::describe() const {
  std::string text = fmt::format("{} {}", scheme(), short_name_of(weight));
  if (scales.block_rows > 1 || scales.block_columns > 0) {
    text += fmt::format(" {}x{}", scales.block_rows, scales.block_columns);
  }
  return text;
}

std::optional<ScaleGrid> LinearQuantization::activation_scales() const {
  if (!activation || activation_group < 0) return std::nullopt;
  return ScaleGrid{1, activation_group};
}

std::string LinearQuantization::obstacle(const Parameter& matrix) const {
  const int rank = matrix.shape.rank();
  const auto fault = [](std::int64_t size, std::int64_t multiple, const char* what) {
    if (multiple <= 1 || size % multiple == 0) return std::string();
    return fmt::format("its format needs {} in multiples of {}, it has {}", what, multiple, size);
  };
  std::string found = fault(matrix.shape[rank - 2], output_multiple, "outputs");
  if (found.empty()) found = fault(matrix.shape[rank - 1], input_multiple, "inputs");
  return found;
}

std::vector<Parameter> quantize_weight(Parameter& weight, const LinearQuantization& quantization) {
  const int rank = weight.shape.rank();
  weight.quantized_from = weight.quantized_from.value_or(weight.dtype);
  weight.dtype = quantization.weight;
  const LinearQuantization::Names& names = quantization.names;
  weight.stored_name = name_beside(weight.name, names.weight);
  if (weight.stored_name == weight.name) weight.stored_name.clear();
  std::vector<Parameter> beside;
  const auto add = [&](QuantizationPart part, const std::string& name, DType dtype) {
    Parameter& fresh = beside.emplace_back();
    fresh.name = name_beside(weight.name, name);
    fresh.shape = weight.shape;
    fresh.shape.set(rank - 2, quantization.scales.rows(weight.shape[rank - 2]));
    fresh.shape.set(rank - 1, quantization.scales.columns(weight.shape[rank - 1]));
    fresh.dtype = dtype;
    fresh.role = InitRole::norm;
    fresh.part = part;
    fresh.grid = quantization.scales;
  };
  add(QuantizationPart::scales, names.scales, quantization.scales.dtype);
  if (quantization.scales.zero_points) {
    add(QuantizationPart::zero_points, names.zero_points, *quantization.scales.zero_points);
  }
  if (!names.shape.empty()) {
    // One for each matrix of a stack, as the checkpoint has them.
    Parameter& shape = beside.emplace_back();
    shape.name = name_beside(weight.name, names.shape);
    shape.shape = {weight.shape.elements() / (weight.shape[rank - 2] * weight.shape[rank - 1]), 2};
    if (rank == 2) shape.shape = {2};
    shape.dtype = DType::i64;
    shape.role = InitRole::norm;
    shape.buffer = true;
  }
  return beside;
}

void cut_with_weight(Parameter& part, const Parameter& weight) {
  part.stack = weight.stack;
  part.shard = {};
  const int dim = weight.shard.dim;
  if (dim < 0 || weight.shard.ranks <= 1 || part.shape[dim] == 1) return;
  part.shard = weight.shard;
  const bool rows = dim == weight.shape.rank() - 2;
  const std::int64_t block = rows ? part.grid.block_rows : part.grid.block_columns;
  for (ShardSegment& segment : part.shard.segments) segment.size = ceil_div(segment.size, block);
}

}  // namespace tcast
