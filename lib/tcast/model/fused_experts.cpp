#include "tcast/model/fused_experts.h"

#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"

namespace tcast {
namespace {

Parameter stacked(const char* name, const Shape& shape, DType dtype, InitRole role) {
  Parameter parameter;
  parameter.name = name;
  parameter.shape = shape;
  parameter.dtype = dtype;
  parameter.role = role;
  parameter.transposed = role == InitRole::matrix;
  return parameter;
}

/// A weight of a fused module and its bias.
struct Projection {
  const Parameter& weight;
  const Parameter& bias;

  Projection(const Module& experts, const std::string& name)
      : weight(*experts.find_parameter(name)), bias(*experts.find_parameter(name + "_bias")) {}
};

}  // namespace

FusedExperts::FusedExperts(std::string class_name, std::int64_t experts, std::int64_t hidden_size,
                           std::int64_t intermediate_size, double activation_limit, DType dtype)
    : ModuleOf(std::move(class_name)), activation_limit_(activation_limit) {
  const std::int64_t both = 2 * intermediate_size;
  add_parameter(stacked("gate_up_proj", {experts, both, hidden_size}, dtype, InitRole::matrix));
  add_parameter(stacked("gate_up_proj_bias", {experts, both}, dtype, InitRole::bias));
  add_parameter(
      stacked("down_proj", {experts, hidden_size, intermediate_size}, dtype, InitRole::matrix));
  add_parameter(stacked("down_proj_bias", {experts, hidden_size}, dtype, InitRole::bias));
}

Value FusedExperts::run_one(Trace& trace, Value rows, std::int64_t expert) const {
  auto product = [&](const Projection& projection, Value x) {
    const Shape shape = projection.weight.shape;
    MatMul op;
    op.m = trace.shape(x)[0];
    op.n = shape[1];
    op.k = shape[2];
    op.input = trace.dtype(x);
    op.weight = projection.weight.dtype;
    op.output = op.input;
    op.compute = op.input;
    op.bias = true;
    op.weight_offset = expert * op.n * op.k;
    op.weight_batch_stride = op.n * op.k;  // one of several matrices, the first one too
    op.bias_offset = expert * op.n;
    return trace.emit(op, {x, trace.parameter(projection.weight), trace.parameter(projection.bias)},
                      {op.m, op.n}, op.output);
  };
  const Value both = product({*this, "gate_up_proj"}, rows);
  const Value activated =
      trace.packed(ElementwiseKind::clamped_swiglu, Packing::pairs, both, activation_limit_);
  return product({*this, "down_proj"}, activated);
}

GroupedFusedExperts::GroupedFusedExperts(FusedExperts& original)
    : ModuleOf("GroupedFusedExperts"), activation_limit_(original.activation_limit()) {
  take_over(original);
}

Value GroupedFusedExperts::product(Trace& trace, const std::string& weight_name, Value x,
                                   Value counts, const ExpertLoad& load, double bias_scale) const {
  const Projection projection(*this, weight_name);
  const Shape local = projection.weight.local_shape();
  GroupedMatMul op;
  op.experts = local[0];
  op.distinct_experts = load.distinct_experts;
  op.rows = load.rows;
  op.routing = load.routing;
  op.n = local[1];
  op.k = local[2];
  op.output = trace.dtype(x);
  if (quantization_ && quantization_->activation) {
    x = trace.quantize(x, *quantization_->activation, quantization_->activation_group);
  }
  op.input = trace.dtype(x);
  op.weight = projection.weight.dtype;
  op.compute = op.input;
  op.bias = true;
  op.bias_scale = bias_scale;
  Operands operands{x, trace.parameter(projection.weight), counts};
  if (quantization_) {
    op.weight_scales = op.n;
    operands.push(trace.parameter(*find_parameter(weight_name + "_scale")));
  }
  operands.push(trace.parameter(projection.bias));
  if (quantization_ && quantization_->activation && quantization_->activation_group >= 0) {
    const std::int64_t group = quantization_->activation_group;
    op.activation_scales = op.row_count() * (group > 0 ? ceil_div(op.k, group) : 1);
    operands.push(trace.scales_of(x));
  }
  return trace.emit(op, operands, {op.row_count(), op.n}, op.output);
}

Value GroupedFusedExperts::run(Trace& trace, Value rows, Value counts,
                               const ExpertLoad& load) const {
  const ScopeGuard scope(trace, name(), class_name(), false);
  const Value both = product(trace, "gate_up_proj", rows, counts, load, 1);
  const Value activated =
      trace.packed(ElementwiseKind::clamped_swiglu, Packing::pairs, both, activation_limit_);
  // The parts of an expert are added up later, each with its share of the bias.
  return product(trace, "down_proj", activated, counts, load,
                 1 / static_cast<double>(tensor_ranks_));
}

bool GroupedFusedExperts::quantize(const LinearQuantization& quantization) {
  if (quantization.scales.block_rows != 1 || quantization.scales.block_columns != 0) return false;
  quantization_ = quantization;
  for (const char* name : {"gate_up_proj", "down_proj"}) {
    Parameter& weight = *find_parameter(name);
    Parameter scale;
    scale.name = weight.name + "_scale";
    scale.shape = {weight.shape[0], weight.shape[1], 1};
    scale.dtype = quantization.scales.dtype;
    scale.role = InitRole::norm;
    scale.scale = true;
    scale.block_rows = 1;
    scale.block_columns = weight.shape[2];
    weight.quantized_from = weight.quantized_from.value_or(weight.dtype);
    weight.dtype = quantization.weight;
    add_parameter(std::move(scale));
  }
  set_attribute("quantization", quantization.describe());
  set_class_name("QuantizedGroupedFusedExperts");
  return true;
}

void GroupedFusedExperts::shard_tensor(RankGroup group, const std::string& path) {
  if (group.size == 1) return;
  const std::int64_t width = find_parameter("down_proj")->shape[2];
  if (width % group.size != 0) {
    throw Error(fmt::format("{}: an intermediate size of {} cannot be divided over {} ranks", path,
                            width, group.size),
                fmt::format("choose a number of ranks that divides {}", width));
  }
  tensor_ranks_ = group.size;
  // Gate and up take turns: a run of neighbours holds whole pairs.
  const Shard pairs{1, group.size, group.stride, {{2 * width, group.size}}};
  find_parameter("gate_up_proj")->shard = pairs;
  find_parameter("gate_up_proj_bias")->shard = pairs;
  if (quantization_) find_parameter("gate_up_proj_scale")->shard = pairs;
  find_parameter("down_proj")->shard = {2, group.size, group.stride, {{width, group.size}}};
}

void GroupedFusedExperts::shard_experts(RankGroup group, const std::string& path) {
  if (group.size == 1) return;
  const std::int64_t experts = parameters()[0].shape[0];
  if (experts % group.size != 0) {
    throw Error(
        fmt::format("{}: {} experts cannot be divided over ep {}", path, experts, group.size),
        fmt::format("choose --ep so that it divides {}", experts));
  }
  for (Parameter& parameter : parameters()) {
    parameter.stack = {0, group.size, group.stride, {{experts, group.size}}};
  }
  set_attribute("expert_parallel", group.size);
}

}  // namespace tcast
