#include "tcast/exec/run/weight_bank.h"

#include <algorithm>

#include "tcast/base/error.h"
#include "tcast/exec/run/weights.h"

namespace tcast {
namespace {

DType weight_dtype(const OpRecord& record) {
  if (const auto* product = std::get_if<MatMul>(&record)) return product->weight;
  return std::get<GroupedMatMul>(record).weight;
}

/// The scales that belong to a quantized weight, input 1 of a product.
const Parameter* scale_of(const Region& region, const Op& op, int i) {
  if (i != 1) return nullptr;
  for (const TensorId id : op.inputs) {
    const Tensor& tensor = region.tensors[id];
    if (tensor.kind == TensorKind::parameter &&
        tensor.parameter->part == QuantizationPart::scales) {
      return tensor.parameter;
    }
  }
  return nullptr;
}

/// Ranks with equal places hold the same part of a tensor, and share its memory.
std::int64_t place_of(const Tensor& tensor, std::int64_t rank) {
  std::int64_t place = rank / tensor.list_stride % tensor.list_ranks;
  for (const Parameter* parameter : {tensor.parameter, tensor.joined}) {
    if (parameter == nullptr) continue;
    for (const Shard* shard : {&parameter->shard, &parameter->stack}) {
      if (shard->dim >= 0) place = place * shard->ranks + rank / shard->stride % shard->ranks;
    }
  }
  return place;
}

/// Elements of one list entry of a parameter on one rank.
std::int64_t elements_of(const Tensor& tensor) {
  const std::int64_t joined =
      tensor.joined == nullptr ? 0 : tensor.joined->local_shape().elements();
  return tensor.parameter->local_shape().elements() + joined;
}

/// Entries of a list that a rank holds of a stacked tensor: the first, and how many.
std::pair<std::int64_t, std::int64_t> entries(const Tensor& tensor, std::int64_t rank) {
  if (tensor.stacked == 0) return {tensor.member, 1};
  const std::int64_t place = rank / tensor.list_stride % tensor.list_ranks;
  return {tensor.member + place * tensor.stacked, tensor.stacked};
}

}  // namespace

WeightBank::WeightBank(ParameterPath path, Arithmetic arithmetic, const HostDTypes& host,
                       MemoryPool& memory)
    : path_(std::move(path)), arithmetic_(arithmetic), host_(host), memory_(memory) {}

Buffer WeightBank::weight(const Region& region, const Op& op, const PreparedOp& ready, int i,
                          std::int64_t layer, std::int64_t rank, bool packs) {
  const Tensor& tensor = region.tensors[op.inputs[i]];
  // Scales belong to the weight of the same product.
  const Tensor& weight = region.tensors[op.inputs[1]];
  Key key = key_of(tensor, ready, i, layer, rank, packs);
  auto found = weights_.find(key);
  if (found == weights_.end()) {
    const Buffer made =
        tensor.parameter->is_quantization_part()
            ? make_scales(tensor, weight, layer, rank)
            : make_weight(tensor, scale_of(region, op, i), layer, rank,
                          made_dtype(tensor, ready, i), packs ? ready.kernel.get() : nullptr);
    found = weights_.emplace(std::move(key), made).first;
  }
  Buffer buffer = found->second;
  buffer.shape = tensor.shape;
  return buffer;
}

void WeightBank::foresee(const Tensor& tensor, const PreparedOp& ready, int i, std::int64_t layer,
                         std::int64_t rank) {
  const bool packs = ready.packs(i);
  const std::int64_t plain = plain_bytes(tensor, ready, i);
  foreseen_[key_of(tensor, ready, i, layer, rank, packs)] =
      packs ? ready.kernel->packed_bytes() : plain;
  if (packs) packing_bytes_ = std::max(packing_bytes_, plain);
  if (packs && ready.checked) foreseen_[key_of(tensor, ready, i, layer, rank, false)] = plain;
}

std::int64_t WeightBank::foreseen_bytes() const {
  std::int64_t total = packing_bytes_;
  for (const auto& [key, bytes] : foreseen_) total += bytes;
  return total;
}

std::int64_t WeightBank::held_bytes() const {
  std::int64_t total = 0;
  for (const auto& [key, weight] : weights_) total += weight.bytes;
  return total;
}

WeightBank::Key WeightBank::key_of(const Tensor& tensor, const PreparedOp& ready, int i,
                                   std::int64_t layer, std::int64_t rank, bool packs) {
  Key key;
  key.parameter = tensor.parameter;
  key.joined = tensor.joined;
  key.layer = layer;
  key.member = tensor.stacked > 0 ? -2 : tensor.member;
  key.rank = place_of(tensor, rank);
  if (packs) key.layout = ready.packed_layout;
  key.dequantized = i == 1 && ready.dequantized;
  return key;
}

/// Dtype in which input `i` is generated.
DType WeightBank::made_dtype(const Tensor& tensor, const PreparedOp& ready, int i) const {
  if (tensor.parameter->is_quantization_part()) return DType::f32;
  return i == 1 && ready.dequantized ? weight_dtype(ready.record)
                                     : substitute_dtype(tensor.dtype, host_);
}

/// Bytes of input `i`, a parameter, before it is packed.
std::int64_t WeightBank::plain_bytes(const Tensor& tensor, const PreparedOp& ready, int i) const {
  return bytes_of(checked_mul(elements_of(tensor), std::max<std::int64_t>(1, tensor.stacked)),
                  made_dtype(tensor, ready, i));
}

std::string WeightBank::path_of_parameter(const Parameter& parameter, std::int64_t layer,
                                          std::int64_t member) const {
  return parameter.tied_to.empty() ? path_(parameter, layer, member) : parameter.tied_to;
}

Buffer WeightBank::make_weight(const Tensor& tensor, const Parameter* scale, std::int64_t layer,
                               std::int64_t rank, DType dtype, Kernel* kernel) {
  const auto [first, count] = entries(tensor, rank);
  const std::int64_t each_bytes = bytes_of(elements_of(tensor), dtype);
  const std::int64_t bytes = each_bytes * count;
  const AlignedMemory until_packed(kernel != nullptr ? bytes : 0);
  const std::span<std::byte> plain = kernel != nullptr ? until_packed.span() : memory_.take(bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t member = first < 0 ? -1 : first + i;
    std::byte* place = plain.data() + i * each_bytes;
    for (const Parameter* part : {tensor.parameter, tensor.joined}) {
      if (part == nullptr) continue;
      const std::int64_t part_bytes = bytes_of(part->local_shape().elements(), dtype);
      fill(*part, scale, path_of_parameter(*part, layer, member), rank,
           {place, part_bytes, dtype, {}});
      place += part_bytes;
    }
  }
  const Buffer whole{plain.data(), bytes, dtype, {}};
  if (kernel == nullptr) return whole;
  const Buffer packed{
      memory_.take(kernel->packed_bytes()).data(), kernel->packed_bytes(), dtype, {}};
  kernel->pack_weight(whole, packed);
  return packed;
}

void WeightBank::fill(const Parameter& parameter, const Parameter* scale, const std::string& path,
                      std::int64_t rank, const Buffer& target) const {
  if (is_narrow(parameter.dtype) && arithmetic_ == Arithmetic::unrounded) {
    Parameter original = parameter;
    original.dtype = parameter.quantized_from.value_or(DType::bf16);
    generate_parameter(original, path, rank, target);
  } else if (is_narrow(parameter.dtype)) {
    TCAST_CHECK(scale != nullptr, "a quantized weight has scales");
    generate_quantized(parameter, *scale, path, rank, target, {});
  } else {
    generate_parameter(parameter, path, rank, target);
  }
}

Buffer WeightBank::make_scales(const Tensor& tensor, const Tensor& weight, std::int64_t layer,
                               std::int64_t rank) {
  const auto [first, count] = entries(weight, rank);
  const std::int64_t each = tensor.parameter->local_shape().elements();
  const std::int64_t bytes = bytes_of(each * count, DType::f32);
  const Buffer scales{memory_.take(bytes).data(), bytes, DType::f32, {}};
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t member = first < 0 ? -1 : first + i;
    generate_quantized(
        *weight.parameter, *tensor.parameter, path_of_parameter(*weight.parameter, layer, member),
        rank, {},
        {scales.data + bytes_of(i * each, DType::f32), bytes_of(each, DType::f32), DType::f32, {}});
  }
  return scales;
}

}  // namespace tcast
