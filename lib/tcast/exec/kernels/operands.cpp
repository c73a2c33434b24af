#include <algorithm>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/kernels/plugin_kernel.h"

namespace tcast {
namespace {

Operand activation(Shape shape, DType dtype) { return {OperandRole::activation, shape, dtype, 0}; }
Operand weight(Shape shape, DType dtype) { return {OperandRole::weight, shape, dtype, 0}; }
Operand parameter(Shape shape, DType dtype) { return {OperandRole::parameter, shape, dtype, 0}; }
Operand index(std::int64_t count, std::int64_t limit) {
  return {OperandRole::index, {count}, DType::i64, limit};
}

struct Describe {
  KernelOperands operator()(const MatMul& op) const {
    KernelOperands result;
    const MatMulStrides at(op);
    const Shape w{at.weight_extent};
    result.inputs = {activation({at.x_extent}, op.input),
                     op.weight_is_parameter ? weight(w, op.weight) : activation(w, op.weight)};
    if (op.weight_scales) {
      result.inputs.push_back(parameter({op.weight_scale_count()}, DType::f32));
    }
    if (op.bias) result.inputs.push_back(parameter({op.bias_offset + op.n}, DType::f32));
    if (op.activation_scales) {
      result.inputs.push_back(activation({op.activation_scale_count()}, DType::f32));
    }
    result.outputs = {activation({at.y_extent}, op.output)};
    return result;
  }
  KernelOperands operator()(const GroupedMatMul& op) const {
    KernelOperands result;
    const std::int64_t rows = op.row_count();
    result.inputs = {activation({rows, op.k}, op.input),
                     weight({op.experts, op.n, op.k}, op.weight),
                     {OperandRole::counts, {op.first_expert + op.experts}, DType::i64, rows}};
    if (op.weight_scales) {
      result.inputs.push_back(parameter({op.experts, op.weight_scale_count()}, DType::f32));
    }
    if (op.bias) result.inputs.push_back(parameter({op.experts, op.n}, DType::f32));
    if (op.activation_scales) {
      result.inputs.push_back(activation({op.activation_scale_count()}, DType::f32));
    }
    result.outputs = {activation({rows, op.n}, op.output)};
    return result;
  }
  KernelOperands operator()(const Attention& op) const {
    KernelOperands result;
    const std::int64_t tokens = op.batch * op.query_length;
    const std::int64_t width =
        op.kv_heads * (op.qk_head_dim + (op.value_in_key ? 0 : op.v_head_dim));
    const std::int64_t keys = op.context_length + op.query_length;
    result.inputs = {activation({tokens, op.heads * op.qk_head_dim}, op.query)};
    if (op.paged) {
      result.inputs.push_back({OperandRole::cache, {op.batch, keys, width}, op.cache, 0});
    } else {
      result.inputs.push_back(
          activation({op.batch * keys, op.kv_heads * op.qk_head_dim}, op.cache));
      result.inputs.push_back(activation({op.batch * keys, op.kv_heads * op.v_head_dim}, op.cache));
    }
    if (op.sinks) result.inputs.push_back(parameter({op.heads}, op.query));
    result.outputs = {activation({tokens, op.heads * op.v_head_dim}, op.query)};
    return result;
  }
  KernelOperands operator()(const Softmax& op) const {
    KernelOperands result = same({activation({op.rows, op.columns}, op.dtype)});
    if (op.sink_heads > 0) result.inputs.push_back(parameter({op.sink_heads}, op.dtype));
    return result;
  }
  KernelOperands operator()(const Norm& op) const {
    KernelOperands result = same({activation({op.rows, op.width}, op.dtype)});
    if (op.stage == NormStage::sum_squares) {
      result.outputs = {activation({op.rows}, DType::f32)};
      return result;
    }
    if (op.weight) result.inputs.push_back(parameter({op.width}, op.dtype));
    if (op.bias) result.inputs.push_back(parameter({op.width}, op.dtype));
    if (op.stage == NormStage::scale) result.inputs.push_back(activation({op.rows}, DType::f32));
    return result;
  }
  KernelOperands operator()(const Elementwise& op) const {
    if (op.packing != Packing::none) {
      return {{activation({2 * op.elements}, op.dtype)}, {activation({op.elements}, op.dtype)}};
    }
    KernelOperands result = same({activation({op.elements}, op.dtype)});
    if (op.second_elements > 0) {
      // Two flat shapes of different sizes would not stretch; without a shape b is repeated.
      result.inputs.push_back(activation({op.second_elements}, op.dtype));
    }
    return result;
  }
  KernelOperands operator()(const Rotary& op) const {
    KernelOperands result = same({activation({op.tokens, op.heads, op.head_dim}, op.dtype)});
    result.inputs.push_back(activation({op.tokens, op.rotary_dim}, op.dtype));
    result.inputs.push_back(activation({op.tokens, op.rotary_dim}, op.dtype));
    return result;
  }
  KernelOperands operator()(const RotaryTable& op) const {
    KernelOperands result;
    result.inputs = {index(op.tokens, op.cached ? op.table_positions : 4096)};
    if (op.cached) {
      result.inputs.resize(3, activation({op.table_positions, op.dim}, op.dtype));
    } else {
      result.inputs.push_back(activation({op.dim / 2}, DType::f32));
    }
    result.outputs.assign(2, activation({op.tokens, op.dim}, op.dtype));
    return result;
  }
  KernelOperands operator()(const Gather& op) const {
    return {{weight({op.table_rows, op.width}, op.dtype), index(op.rows, op.table_rows)},
            {activation({op.rows, op.width}, op.dtype)}};
  }
  KernelOperands operator()(const CacheAppend& op) const {
    return {{activation({op.tokens, op.width}, op.input),
             {OperandRole::cache, {1, op.tokens, op.width}, op.cache, 0}},
            {}};
  }
  KernelOperands operator()(const CacheRead& op) const {
    return {
        {{OperandRole::cache, {op.batch, op.tokens, 2 * op.kv_heads * op.head_dim}, op.cache, 0}},
        {activation({op.batch, op.kv_heads, op.tokens, op.head_dim}, op.output)}};
  }
  KernelOperands operator()(const Copy& op) const {
    KernelOperands result;
    std::int64_t extent = op.written_elements;
    if (op.parts[0].run == 0) result.inputs = {activation({op.written_elements}, op.from)};
    for (const CopyPart& part : op.parts) {
      if (part.run == 0) continue;
      result.inputs.push_back(activation({part.source_extent()}, op.from));
      extent = std::max(extent, part.target_extent());
    }
    result.outputs = {activation({extent}, op.to)};
    return result;
  }
  KernelOperands operator()(const Route& op) const {
    KernelOperands result;
    result.inputs = {activation({op.tokens, op.experts}, op.dtype)};
    if (op.correction_bias) result.inputs.push_back(parameter({op.experts}, DType::f32));
    result.outputs = {activation({op.tokens, op.top_k}, op.dtype),
                      index(op.tokens * op.top_k, op.experts)};
    return result;
  }
  KernelOperands operator()(const TopK& op) const {
    return {{activation({op.rows, op.columns}, op.dtype)},
            {activation({op.rows, op.k}, op.dtype), index(op.rows * op.k, op.columns)}};
  }
  /// One expert's rows: `few_experts` times as many tokens choose one expert each, in turn.
  KernelOperands operator()(const Permute& op) const {
    if (op.expert >= 0) {
      const std::int64_t tokens = op.tokens * few_experts;
      return {{activation({tokens, op.width}, op.dtype), index(tokens, few_experts)},
              {activation({op.rows, op.width}, op.dtype)}};
    }
    return {{activation({op.tokens, op.width}, op.dtype), index(choices(op), assumed_experts)},
            {activation({op.rows, op.width}, op.dtype), index(assumed_experts, op.rows)}};
  }
  KernelOperands operator()(const Combine& op) const {
    if (op.expert >= 0) {
      const std::int64_t tokens = op.tokens * few_experts;
      return {{activation({op.rows, op.width}, op.dtype), activation({tokens}, DType::f32),
               index(tokens, few_experts), activation({tokens, op.width}, op.dtype)},
              {}};
    }
    return {{activation({op.rows, op.width}, op.dtype), activation({choices(op)}, DType::f32),
             index(choices(op), assumed_experts)},
            {activation({op.tokens, op.width}, op.dtype)}};
  }
  KernelOperands operator()(const Quantize& op) const {
    KernelOperands result;
    result.inputs = {activation({op.rows, op.columns}, op.from)};
    result.outputs = {activation({op.rows, op.columns}, op.to)};
    const std::int64_t group = op.group > 0 ? op.group : op.columns;
    const Operand scales = activation({op.rows, ceil_div(op.columns, group)}, DType::f32);
    if (op.group < 0) {
      result.inputs.push_back(activation({1}, DType::f32));
    } else {
      result.outputs.push_back(scales);
    }
    return result;
  }
  KernelOperands operator()(const Collective&) const { return none(); }
  KernelOperands operator()(const CustomOp& op) const {
    const auto* const entry = operator_operands().find(op.definition->name);
    return entry == nullptr ? none() : entry->call(op);
  }

 private:
  /// Records of Permute and Combine do not say how many experts there are.
  static constexpr std::int64_t assumed_experts = 64;
  static constexpr std::int64_t few_experts = 8;

  static KernelOperands same(Operand operand) { return {{operand}, {operand}}; }
  template <class Record>
  static std::int64_t choices(const Record& op) {
    return std::max<std::int64_t>(1, op.rows / op.tokens) * op.tokens;
  }
  static KernelOperands none() {
    TCAST_CHECK(false, "an operator without a kernel has no operands");
    return {};
  }
};

}  // namespace

KernelOperands operands_of(const OpRecord& record) { return std::visit(Describe{}, record); }

}  // namespace tcast
