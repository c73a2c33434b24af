#include "tcast/exec/run/op_preparer.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"

namespace tcast {
namespace {

[[noreturn]] void fail(const Region& region, const Op& op, const std::string& reason) {
  throw Error(
      fmt::format("{} in {} cannot be executed on this processor: {} ({})", name_of(op.record),
                  path_of(region, op.scope), reason, describe(op.record)),
      "choose another --dtype or quantization, or simulate instead");
}

/// True for operands of less than 32 bit.
bool has_narrow_operands(const Region& region, const Op& op) {
  const auto is_short = [&](TensorId id) {
    const Tensor& tensor = region.tensors[id];
    const DType dtype = tensor.kind == TensorKind::cache
                            ? region.caches[static_cast<std::size_t>(tensor.index)].dtype
                            : tensor.dtype;
    return bits_of(dtype) < 32;
  };
  return std::any_of(op.inputs.begin(), op.inputs.end(), is_short) ||
         std::any_of(op.outputs.begin(), op.outputs.end(), is_short);
}

bool takes_parameters(const Region& region, const Op& op) {
  return std::any_of(op.inputs.begin(), op.inputs.end(),
                     [&](TensorId id) { return region.tensors[id].kind == TensorKind::parameter; });
}

bool has_bias(const MatMul& op) { return op.bias; }
bool has_bias(const GroupedMatMul& op) { return op.bias; }

}  // namespace

OpPreparer::OpPreparer(const ExecutorOptions& options, const HostDTypes& host)
    : context_(options.context),
      arithmetic_(options.arithmetic),
      max_sequence_length_(options.max_sequence_length),
      host_(host) {}

bool OpPreparer::prepare(const Region& region, PreparedRegion& prepared) {
  prepared.ops.resize(region.ops.size());
  bool rebind = false;
  for (std::size_t i = 0; i < region.ops.size(); ++i) {
    const Op& op = region.ops[i];
    PreparedOp& ready = prepared.ops[i];
    if (ready.kernel != nullptr && ready.original == op.record) continue;
    ready.original = op.record;
    if (std::holds_alternative<Collective>(op.record)) {
      ready.record = op.record;
      continue;
    }
    const std::string layout = ready.packed_layout;
    prepare_op(region, op, ready);
    rebind = rebind || ready.packed_layout != layout || takes_parameters(region, op);
    scratch_bytes_ = std::max(scratch_bytes_, ready.kernel->scratch_bytes());
  }
  return rebind;
}

void OpPreparer::prepare_op(const Region& region, const Op& op, PreparedOp& ready) {
  std::string note;
  ready.record = host_substitute(op.record, host_, &note);
  add_note(note);
  const auto caches = std::count_if(op.inputs.begin(), op.inputs.end(), [&](TensorId id) {
    return region.tensors[id].kind == TensorKind::cache;
  });
  if (caches > 1) fail(region, op, fmt::format("it takes {} caches, not one", caches));
  ready.dequantized = false;
  ready.static_scale = false;
  ready.inputs.clear();
  for (int i = 0; i < op.inputs.count; ++i) ready.inputs.push_back(i);
  if (auto* table = std::get_if<RotaryTable>(&ready.record); table != nullptr && table->cached) {
    table->table_positions = max_sequence_length_;
  }
  if (const auto* product = std::get_if<MatMul>(&op.record)) {
    prepare_product(region, op, *product, std::get<MatMul>(ready.record), 2, ready);
  } else if (const auto* grouped = std::get_if<GroupedMatMul>(&op.record)) {
    prepare_product(region, op, *grouped, std::get<GroupedMatMul>(ready.record), 3, ready);
  } else {
    KernelResult result = make_kernel(ready.record, context_);
    if (result.kernel == nullptr) fail(region, op, result.unsupported);
    ready.kernel = std::move(result.kernel);
  }
  ready.packed_layout = ready.kernel->packed_bytes() > 0 ? ready.kernel->packed_layout() : "";
  ready.checked = arithmetic_ == Arithmetic::checked &&
                  !std::holds_alternative<CustomOp>(op.record) && has_narrow_operands(region, op);
}

/// Products: operands that the substitution made superfluous go; a weight that no kernel reads as
/// it is stored is converted when it is loaded.
template <class Product>
void OpPreparer::prepare_product(const Region& region, const Op& op, const Product& original,
                                 Product& product, int first_optional, PreparedOp& ready) {
  // A fixed scale of the input is known to the executor only.
  if (product.input == DType::i8 && !original.activation_scales) {
    ready.static_scale = true;
    product.activation_scales = scale_per_tensor;
  }
  const Tensor& weight = region.tensors[op.inputs[1]];
  const bool is_parameter = weight.kind == TensorKind::parameter;
  ready.dequantized = is_parameter && is_narrow(original.weight) && !is_narrow(product.weight);
  KernelResult result = make_kernel(product, context_);
  if (result.kernel == nullptr && is_parameter && product.weight == DType::i8 &&
      product.compute != DType::i8) {
    product.weight = product.compute;
    product.weight_scales.reset();
    ready.dequantized = true;
    add_note(fmt::format("{} weights of {} converted to {}", short_name_of(original.weight),
                         path_of(region, op.scope), short_name_of(product.compute)));
    result = make_kernel(product, context_);
  }
  if (result.kernel == nullptr) fail(region, op, result.unsupported);
  ready.kernel = std::move(result.kernel);
  // The order of operands: [weight scales], [weight zero points], [bias], [activation scales].
  int place = first_optional;
  const auto drop = [&ready](int input) {
    ready.inputs.erase(std::find(ready.inputs.begin(), ready.inputs.end(), input));
  };
  if (original.weight_scales) {
    if (!product.weight_scales) drop(place);
    ++place;
    // Loaded values have their zero points taken off.
    if (original.weight_scales->zero_points) drop(place++);
  }
  if (op.inputs.count > place && has_bias(original)) ++place;
  if (original.activation_scales && !product.activation_scales) drop(place);
}

void OpPreparer::add_note(const std::string& note) {
  if (note.empty() || std::find(notes_.begin(), notes_.end(), note) != notes_.end()) return;
  notes_.push_back(note);
}

}  // namespace tcast
