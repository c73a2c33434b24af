#include "tcast/model/fused_experts.h"

#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/model/requirements.h"
#include "tcast/model/sharding.h"

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

std::string parameters_fault(const Module& module, const FusedExperts::Config& config) {
  const std::int64_t both = 2 * config.intermediate_size;
  return Requirements(module)
      .parameter("gate_up_proj", {config.experts, both, config.hidden_size})
      .parameter("gate_up_proj_bias", {config.experts, both})
      .parameter("down_proj", {config.experts, config.hidden_size, config.intermediate_size})
      .parameter("down_proj_bias", {config.experts, config.hidden_size})
      .fault();
}

/// Whether a parameter's name says that it belongs to a weight.
bool is_beside(const Parameter& parameter, const std::string& weight) {
  return parameter.name.rfind(weight + "_", 0) == 0;
}

/// Scales and zero points of a weight, in the order of a product's operands.
std::vector<const Parameter*> parts_of(const Module& experts, const Parameter& weight) {
  std::vector<const Parameter*> parts;
  for (const Parameter& parameter : experts.parameters()) {
    if (parameter.is_quantization_part() && is_beside(parameter, weight.name)) {
      parts.push_back(&parameter);
    }
  }
  return parts;
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
    : ModuleOf(std::move(class_name)),
      config_{experts, hidden_size, intermediate_size, activation_limit} {
  const std::int64_t both = 2 * intermediate_size;
  add_parameter(stacked("gate_up_proj", {experts, both, hidden_size}, dtype, InitRole::matrix));
  add_parameter(stacked("gate_up_proj_bias", {experts, both}, dtype, InitRole::bias));
  add_parameter(
      stacked("down_proj", {experts, hidden_size, intermediate_size}, dtype, InitRole::matrix));
  add_parameter(stacked("down_proj_bias", {experts, hidden_size}, dtype, InitRole::bias));
}

std::string FusedExperts::fault() const { return parameters_fault(*this, config_); }

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
      trace.packed(ElementwiseKind::clamped_swiglu, Packing::pairs, both, config_.activation_limit);
  return product({*this, "down_proj"}, activated);
}

GroupedFusedExperts::GroupedFusedExperts(FusedExperts& original)
    : ModuleOf("GroupedFusedExperts"), config_{original.config(), {}, {}, {}} {
  take_over(original);
}

std::string GroupedFusedExperts::fault() const {
  Requirements needs(*this, parameters_fault(*this, config_));
  if (!needs.fault().empty()) return needs.fault();
  for (const char* name : {"gate_up_proj", "down_proj"}) {
    const Parameter& weight = *find_parameter(name);
    const std::vector<const Parameter*> parts = parts_of(*this, weight);
    needs.that(parts.empty() == !config_.quantization.has_value(), [&] {
      return fmt::format("the scales of its {} do not fit its quantization", name);
    });
    for (const Parameter* const part : parts) {
      const Shape local = weight.local_shape();
      const Shape expected{local[0], part->grid.rows(local[1]), part->grid.columns(local[2])};
      needs.that(part->local_shape() == expected, [&] {
        return fmt::format("a rank's {} is {}, expected {}", part->name,
                           to_string(part->local_shape()), to_string(expected));
      });
    }
  }
  return needs.fault();
}

void GroupedFusedExperts::list_attributes(std::vector<Attribute>& list) const {
  if (config_.quantization) list.push_back({"quantization", config_.quantization->describe()});
  if (config_.expert_group.size > 1) {
    list.push_back({"expert_parallel", config_.expert_group.size});
  }
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
  if (config_.quantization && config_.quantization->activation) {
    x = trace.quantize(x, *config_.quantization->activation,
                       config_.quantization->activation_group);
  }
  op.input = trace.dtype(x);
  op.weight = projection.weight.dtype;
  op.compute = op.input;
  op.bias = true;
  op.bias_scale = bias_scale;
  Operands operands{x, trace.parameter(projection.weight), counts};
  if (config_.quantization) {
    op.weight_scales = config_.quantization->scales;
    op.activation_scales = config_.quantization->activation_scales();
  }
  for (const Parameter* const part : parts_of(*this, projection.weight)) {
    operands.push(trace.parameter(*part));
  }
  operands.push(trace.parameter(projection.bias));
  if (op.activation_scales) operands.push(trace.scales_of(x));
  return trace.emit(op, operands, {op.row_count(), op.n}, op.output);
}

Value GroupedFusedExperts::run(Trace& trace, Value rows, Value counts,
                               const ExpertLoad& load) const {
  const ScopeGuard scope(trace, name(), class_name(), false);
  const Value both = product(trace, "gate_up_proj", rows, counts, load, 1);
  const Value activated =
      trace.packed(ElementwiseKind::clamped_swiglu, Packing::pairs, both, config_.activation_limit);
  // The parts of an expert are added up later, each with its share of the bias.
  return product(trace, "down_proj", activated, counts, load,
                 1 / static_cast<double>(config_.tensor_group.size));
}

void GroupedFusedExperts::quantize(const LinearQuantization& quantization) {
  config_.quantization = quantization;
  for (const char* name : {"gate_up_proj", "down_proj"}) {
    for (Parameter& part : quantize_weight(*find_parameter(name), quantization)) {
      add_parameter(std::move(part));
    }
  }
  cut_parameters();
  set_class_name("QuantizedGroupedFusedExperts");
}

void GroupedFusedExperts::shard_tensor(RankGroup group, const std::string& path) {
  if (group.size == 1) return;
  const std::int64_t width = config_.intermediate_size;
  if (width % group.size != 0) {
    refuse_layout(fmt::format("{}: an intermediate size of {} cannot be divided over {} ranks",
                              path, width, group.size),
                  fmt::format("choose a number of ranks that divides {}", width));
  }
  config_.tensor_group = group;
  cut_parameters();
}

void GroupedFusedExperts::shard_experts(RankGroup group, const std::string& path) {
  if (group.size == 1) return;
  const std::int64_t experts = config_.experts;
  if (experts % group.size != 0) {
    refuse_layout(
        fmt::format("{}: {} experts cannot be divided over ep {}", path, experts, group.size),
        fmt::format("choose --ep so that it divides {}", experts));
  }
  config_.expert_group = group;
  cut_parameters();
}

/// Cuts every parameter as the config says, whatever was added after it was said.
void GroupedFusedExperts::cut_parameters() {
  const RankGroup tensor = config_.tensor_group;
  const RankGroup spread = config_.expert_group;
  const std::int64_t width = config_.intermediate_size;
  for (Parameter& parameter : parameters()) {
    if (spread.size > 1) {
      parameter.stack = {0, spread.size, spread.stride, {{config_.experts, spread.size}}};
    }
    if (tensor.size == 1 || parameter.is_quantization_part() || parameter.buffer) continue;
    if (parameter.name.rfind("gate_up_proj", 0) == 0) {
      // Gate and up take turns: a run of neighbours holds whole pairs.
      parameter.shard = {1, tensor.size, tensor.stride, {{2 * width, tensor.size}}};
    } else if (parameter.name == "down_proj") {
      parameter.shard = {2, tensor.size, tensor.stride, {{width, tensor.size}}};
    }
  }
  for (Parameter& parameter : parameters()) {
    if (!parameter.is_quantization_part()) continue;
    const bool down = is_beside(parameter, "down_proj");
    cut_with_weight(parameter, *find_parameter(down ? "down_proj" : "gate_up_proj"));
  }
}

}  // namespace tcast
