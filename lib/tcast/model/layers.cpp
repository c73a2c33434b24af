#include "tcast/model/layers.h"

#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"

namespace tcast {
namespace {

Parameter make_parameter(std::string name, Shape shape, DType dtype, InitRole role) {
  Parameter parameter;
  parameter.name = std::move(name);
  parameter.shape = shape;
  parameter.dtype = dtype;
  parameter.role = role;
  return parameter;
}

void shard_parameter(Parameter& parameter, int dim, RankGroup group,
                     const std::vector<ShardSegment>& segments) {
  parameter.shard.dim = dim;
  parameter.shard.ranks = group.size;
  parameter.shard.stride = group.stride;
  parameter.shard.segments = segments;
  if (segments.empty()) parameter.shard.segments.push_back({parameter.shape[dim], group.size});
}

}  // namespace

std::string LinearQuantization::describe() const {
  std::string text = fmt::format("{} {}", name_of(scheme), short_name_of(weight));
  if (scales.block_rows > 1) text += fmt::format(" {}x{}", scales.block_rows, scales.block_columns);
  return text;
}

std::int64_t local_scale_count(const LinearQuantization& quantization, const Parameter& weight) {
  const Shape local = weight.local_shape();
  return quantization.scales.count(local[0], local[1]);
}

Value softcapped(Trace& trace, Value x, double cap) {
  if (cap <= 0) return x;
  x = trace.unary(ElementwiseKind::scale, x, 1 / cap);
  return trace.unary(ElementwiseKind::scale, trace.unary(ElementwiseKind::tanh, x), cap);
}

// --- Linear --------------------------------------------------------------------------------------

Linear::Linear(std::int64_t in_features, std::int64_t out_features, bool bias, DType dtype,
               InitRole role)
    : ModuleOf("Linear") {
  add_parameter(make_parameter("weight", {out_features, in_features}, dtype, role));
  if (bias) add_parameter(make_parameter("bias", {out_features}, dtype, InitRole::bias));
}

Value Linear::prepare_input(Trace& trace, Value x) const {
  if (!quantization_ || !quantization_->activation) return x;
  return trace.quantize(x, *quantization_->activation, quantization_->activation_group);
}

Value Linear::forward(Trace& trace, Value input) const {
  const Parameter& w = weight();
  const Shape local = w.local_shape();
  const DType activation = trace.dtype(input);
  const Value x = prepare_input(trace, input);

  MatMul op;
  op.n = local[0];
  op.k = local[1];
  op.m = trace.shape(input).elements() / op.k;
  op.input = trace.dtype(x);
  op.weight = w.dtype;
  op.output = output_dtype_.value_or(activation);
  op.compute = op.input;
  // Partial sums of ranks get their bias once, when they have been added up.
  const bool late_bias = sharding_ == Sharding::rows && has_bias();
  TCAST_CHECK(!late_bias || communicate_, "a bias needs the sum that it is added to");
  op.bias = has_bias() && !late_bias;
  Operands operands{x, trace.parameter(w)};
  if (quantization_) {
    op.weight_scales = local_scale_count(*quantization_, w);
    const Parameter* scale = nullptr;
    for (const Parameter& parameter : parameters()) {
      if (parameter.scale) scale = &parameter;
    }
    TCAST_CHECK(scale != nullptr, "a quantized linear has scales");
    operands.push(trace.parameter(*scale));
  }
  if (op.bias) operands.push(trace.parameter(*find_parameter("bias")));
  if (quantization_ && quantization_->activation && quantization_->activation_group >= 0) {
    const std::int64_t group = quantization_->activation_group;
    op.activation_scales = checked_mul(op.m, group > 0 ? ceil_div(op.k, group) : 1, "scales");
    operands.push(trace.scales_of(x));
  }
  const Shape shape{op.m, op.n};
  const Value result = trace.emit(op, operands, shape, op.output);
  if (!communicate_) return result;
  if (sharding_ == Sharding::rows) {
    const Value sum =
        trace.collective(CollectiveKind::all_reduce, result, bytes_of(shape.elements(), op.output),
                         group_.size, group_.stride, shape);
    return late_bias ? trace.add(sum, trace.parameter(*find_parameter("bias"))) : sum;
  }
  const Shape whole{op.m, checked_mul(op.n, group_.size, "columns")};
  return trace.collective(CollectiveKind::all_gather, result, bytes_of(whole.elements(), op.output),
                          group_.size, group_.stride, whole);
}

void Linear::quantize(const LinearQuantization& quantization) {
  quantization_ = quantization;
  Parameter& w = parameters()[0];
  w.quantized_from = w.quantized_from.value_or(w.dtype);
  w.dtype = quantization.weight;
  const std::int64_t rows = quantization.scales.block_rows;
  const std::int64_t columns = quantization.scales.block_columns;
  const bool blocks = rows > 1 || columns > 0;
  Parameter scale = make_parameter(blocks ? "weight_scale_inv" : "weight_scale",
                                   {ceil_div(w.shape[0], rows > 0 ? rows : w.shape[0]),
                                    ceil_div(w.shape[1], columns > 0 ? columns : w.shape[1])},
                                   quantization.scales.dtype, InitRole::norm);
  scale.scale = true;
  scale.block_rows = rows > 0 ? rows : w.shape[0];
  scale.block_columns = columns > 0 ? columns : w.shape[1];
  add_parameter(std::move(scale));
  set_attribute("quantization", quantization.describe());
  name_class();
}

void Linear::shard_columns(RankGroup group, std::vector<ShardSegment> segments, bool gather) {
  sharding_ = Sharding::columns;
  group_ = group;
  communicate_ = gather;
  if (segments.empty()) segments.push_back({out_features(), group.size});
  for (Parameter& parameter : parameters()) {
    if (parameter.scale) {
      // Scales follow the rows of the weight that they belong to; one scale for all stays whole.
      if (parameter.shape[0] == 1) continue;
      const std::int64_t rows_per_scale = ceil_div(out_features(), parameter.shape[0]);
      std::vector<ShardSegment> scale_segments = segments;
      for (ShardSegment& segment : scale_segments) {
        segment.size = ceil_div(segment.size, rows_per_scale);
      }
      shard_parameter(parameter, 0, group, scale_segments);
    } else {
      shard_parameter(parameter, 0, group, segments);
    }
  }
  set_attribute("parallel", fmt::format("columns/{}{}", group.size, gather ? " gathered" : ""));
  name_class();
}

void Linear::shard_rows(RankGroup group, bool reduce) {
  sharding_ = Sharding::rows;
  group_ = group;
  communicate_ = reduce;
  for (Parameter& parameter : parameters()) {
    // A bias is added once, to the sum: every rank keeps it.
    if (parameter.shape.rank() < 2 || parameter.shape[1] == 1) continue;
    shard_parameter(parameter, 1, group, {});
  }
  set_attribute("parallel", fmt::format("rows/{}{}", group.size, reduce ? "" : " unreduced"));
  name_class();
}

void Linear::name_class() {
  std::string name;
  if (quantization_) name += "Quantized";
  if (sharding_ == Sharding::columns) name += "ColumnParallel";
  if (sharding_ == Sharding::rows) name += "RowParallel";
  set_class_name(name + "Linear");
}

// --- Embedding -----------------------------------------------------------------------------------

Embedding::Embedding(std::int64_t rows, std::int64_t width, DType dtype, double multiplier)
    : ModuleOf("Embedding"), multiplier_(multiplier) {
  if (multiplier_ != 1) set_attribute("multiplier", multiplier_);
  add_parameter(make_parameter("weight", {rows, width}, dtype, InitRole::embedding));
}

Value Embedding::forward(Trace& trace, Value ids) const {
  const Parameter& table = parameters()[0];
  const std::int64_t width = table.shape[1];
  const std::int64_t rows = trace.shape(ids).elements();
  Value result = trace.gather(trace.parameter(table), ids, rows, width, group_.size > 1);
  const Shape shape{rows, width};
  result =
      trace.collective(CollectiveKind::all_reduce, result, bytes_of(shape.elements(), table.dtype),
                       group_.size, group_.stride, shape);
  return multiplier_ == 1 ? result : trace.unary(ElementwiseKind::scale, result, multiplier_);
}

void Embedding::shard_rows(RankGroup group) {
  group_ = group;
  shard_parameter(parameters()[0], 0, group, {});
  set_attribute("parallel", fmt::format("vocabulary/{}", group.size));
  set_class_name("VocabParallelEmbedding");
}

PositionEmbedding::PositionEmbedding(std::int64_t positions, std::int64_t width, DType dtype)
    : ModuleOf("Embedding") {
  add_parameter(make_parameter("weight", {positions, width}, dtype, InitRole::embedding))
      .whole_because = "positions are few";
}

Value PositionEmbedding::forward(Trace& trace, Value positions) const {
  const Parameter& table = parameters()[0];
  const std::int64_t length = trace.workload().sequence_length();
  if (length > table.shape[0]) {
    throw Error(fmt::format("a sequence of {} tokens is longer than the model's {} positions",
                            length, table.shape[0]),
                "its position embeddings are learned: there are no more; shorten the input or the "
                "output");
  }
  return trace.gather(trace.parameter(table), positions, trace.shape(positions).elements(),
                      table.shape[1]);
}

// --- Normalization -------------------------------------------------------------------------------

Normalization::Normalization(std::string class_name, NormKind kind, std::int64_t width,
                             double epsilon, bool bias, double weight_offset, DType dtype)
    : ModuleOf(std::move(class_name)),
      kind_(kind),
      width_(width),
      epsilon_(epsilon),
      weight_offset_(weight_offset) {
  add_parameter(make_parameter("weight", {width}, dtype,
                               weight_offset == 0 ? InitRole::norm : InitRole::centered_norm));
  if (bias) add_parameter(make_parameter("bias", {width}, dtype, InitRole::bias));
  set_attribute("eps", epsilon);
  if (weight_offset != 0) set_attribute("weight_offset", weight_offset);
}

Value Normalization::forward(Trace& trace, Value input) const {
  const Shape shape = trace.shape(input);
  Norm op;
  op.kind = kind_;
  op.width = parameters()[0].local_shape()[0];
  op.rows = shape.elements() / op.width;
  op.dtype = trace.dtype(input);
  op.bias = find_parameter("bias") != nullptr;
  op.epsilon = epsilon_;
  op.weight_offset = weight_offset_;
  Operands operands{input, trace.parameter(parameters()[0])};
  if (op.bias) operands.push(trace.parameter(parameters()[1]));
  if (group_.size > 1) {
    Norm sums = op;
    sums.stage = NormStage::sum_squares;
    const Shape rows{op.rows, 1};
    const Value own = trace.emit(sums, {input}, rows, DType::f32);
    operands.push(trace.collective(CollectiveKind::all_reduce, own, bytes_of(op.rows, DType::f32),
                                   group_.size, group_.stride, rows));
    op.stage = NormStage::scale;
    op.ranks = group_.size;
  }
  return trace.emit(op, operands, shape, op.dtype);
}

void Normalization::shard_width(RankGroup group, std::vector<ShardSegment> segments) {
  TCAST_CHECK(kind_ == NormKind::rms, "only sums of squares are shared");
  group_ = group;
  for (Parameter& parameter : parameters()) shard_parameter(parameter, 0, group, segments);
  set_attribute("parallel", fmt::format("width/{}", group.size));
}

// --- RotaryEmbedding -----------------------------------------------------------------------------

RotaryEmbedding::RotaryEmbedding(std::string class_name, std::string set, std::int64_t rotary_dim,
                                 RopeParameters rope, DType dtype)
    : ModuleOf(std::move(class_name)),
      set_(std::move(set)),
      rotary_dim_(rotary_dim),
      rope_(std::move(rope)),
      dtype_(dtype) {
  set_attribute("rotary_dim", rotary_dim);
  for (Attribute& attribute : rope_.attributes()) {
    set_attribute(std::move(attribute.name), std::move(attribute.value));
  }
}

void RotaryEmbedding::provide(Trace& trace, Value positions) const {
  const ScopeGuard scope(trace, name(), class_name(), false);
  RotaryTable op;
  op.tokens = trace.workload().tokens();
  op.dim = rotary_dim_;
  op.dtype = dtype_;
  op.cached = cached_;
  if (cached_) {
    op.table_positions = trace.workload().sequence_length();
    const std::int64_t table = checked_mul(op.table_positions, op.dim, "rotary table");
    trace.keep_constant(checked_mul(2, bytes_of(table, dtype_), "rotary tables"));
  }
  const Value frequencies = trace.constant({rotary_dim_ / 2}, [&] {
    return inverse_frequencies(rope_, rotary_dim_, trace.workload().sequence_length(), op.scale);
  });
  const Shape shape{op.tokens, op.dim};
  RotaryValues values;
  values.cos = trace.emit(op, {positions, frequencies}, shape, dtype_);
  values.sin = trace.add_result(shape, dtype_);
  trace.set_rotary(set_, values);
}

void RotaryEmbedding::cache_tables() {
  cached_ = true;
  set_class_name("CachedRotaryEmbedding");
}

}  // namespace tcast
