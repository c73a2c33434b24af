#include "tcast/model/layers.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/model/requirements.h"
#include "tcast/model/sharding.h"

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

Value softcapped(Trace& trace, Value x, double cap) {
  if (cap <= 0) return x;
  x = trace.unary(ElementwiseKind::scale, x, 1 / cap);
  return trace.unary(ElementwiseKind::scale, trace.unary(ElementwiseKind::tanh, x), cap);
}

// --- Linear --------------------------------------------------------------------------------------

Linear::Linear(std::int64_t in_features, std::int64_t out_features, bool bias, DType dtype,
               InitRole role)
    : ModuleOf("Linear"), config_{.in_features = in_features, .out_features = out_features} {
  add_parameter(make_parameter("weight", {out_features, in_features}, dtype, role));
  if (bias) add_parameter(make_parameter("bias", {out_features}, dtype, InitRole::bias));
}

const Parameter& Linear::weight() const {
  if (parameters().empty() || parameters()[0].name != "weight") {
    throw Error(fmt::format("{} '{}' has no weight", class_name(), name()));
  }
  return parameters()[0];
}

std::string Linear::fault() const {
  Requirements needs(*this);
  needs.parameter("weight", {config_.out_features, config_.in_features})
      .that(!parameters().empty() && parameters()[0].name == "weight",
            [] { return std::string("its weight is not its first parameter"); })
      .parameter_if_any("bias", {config_.out_features});
  if (!needs.fault().empty()) return needs.fault();
  const Parameter& w = weight();
  const int cut = w.shard.dim;
  needs.that(!is_sharded() || (cut == (config_.sharding == Sharding::columns ? 0 : 1) &&
                               w.shard.ranks == config_.group.size),
             [&] {
               return fmt::format("its weight is cut over {} rank(s), the module itself over {}",
                                  cut < 0 ? 1 : w.shard.ranks, config_.group.size);
             });
  if (const Parameter* const bias = find_parameter("bias")) {
    needs.that(bias->local_shape()[0] == (cut == 0 ? w.local_shape()[0] : w.shape[0]), [&] {
      return fmt::format("a rank's bias is {}, its weight {}", to_string(bias->local_shape()),
                         to_string(w.local_shape()));
    });
  }
  std::int64_t scales = 0;
  for (const Parameter& part : parameters()) {
    if (!part.is_quantization_part()) continue;
    if (part.part == QuantizationPart::scales) ++scales;
    needs.parameter(part.name, {part.grid.rows(w.shape[0]), part.grid.columns(w.shape[1])});
    if (!needs.fault().empty()) break;
    const bool whole = cut < 0 || part.shape[cut] == 1;
    needs.that(
        whole ? part.shard.dim < 0 : part.shard.dim == cut && part.shard.ranks == w.shard.ranks,
        [&] { return fmt::format("its {} is not cut as its weight is", part.name); });
  }
  needs.that((scales > 0) == config_.quantization.has_value(), [&] {
    return std::string(scales > 0 ? "it has scales, and is not quantized"
                                  : "it is quantized, and has no scales");
  });
  return needs.fault();
}

Value Linear::prepare_input(Trace& trace, Value x) const {
  const std::optional<LinearQuantization>& quantization = config_.quantization;
  if (!quantization || !quantization->activation) return x;
  return trace.quantize(x, *quantization->activation, quantization->activation_group);
}

Value Linear::forward(Trace& trace, Value input) const {
  const Parameter& w = weight();
  const Shape local = w.local_shape();
  const DType activation = trace.dtype(input);
  const Value x = prepare_input(trace, input);
  const std::optional<LinearQuantization>& quantization = config_.quantization;
  const RankGroup group = config_.group;

  MatMul op;
  op.n = local[0];
  op.k = local[1];
  op.m = trace.shape(input).elements() / op.k;
  op.input = trace.dtype(x);
  op.weight = w.dtype;
  op.output = config_.output_dtype.value_or(activation);
  op.compute = op.input;
  // Partial sums of ranks get their bias once, when they have been added up.
  const bool late_bias = config_.sharding == Sharding::rows && has_bias();
  TCAST_CHECK(!late_bias || config_.communicate, "a bias needs the sum that it is added to");
  op.bias = has_bias() && !late_bias;
  Operands operands{x, trace.parameter(w)};
  if (quantization) {
    op.weight_scales = quantization->scales;
    op.activation_scales = quantization->activation_scales();
  }
  for (const Parameter& parameter : parameters()) {
    if (parameter.is_quantization_part()) operands.push(trace.parameter(parameter));
  }
  if (op.bias) operands.push(trace.parameter(*find_parameter("bias")));
  if (op.activation_scales) operands.push(trace.scales_of(x));
  const Shape shape{op.m, op.n};
  const Value result = trace.emit(op, operands, shape, op.output);
  if (!config_.communicate) return result;
  if (config_.sharding == Sharding::rows) {
    const Value sum =
        trace.collective(CollectiveKind::all_reduce, result, bytes_of(shape.elements(), op.output),
                         group.size, group.stride, shape);
    return late_bias ? trace.add(sum, trace.parameter(*find_parameter("bias"))) : sum;
  }
  const Shape whole{op.m, checked_mul(op.n, group.size, "columns")};
  return trace.collective(CollectiveKind::all_gather, result, bytes_of(whole.elements(), op.output),
                          group.size, group.stride, whole);
}

void Linear::quantize(const LinearQuantization& quantization) {
  config_.quantization = quantization;
  for (Parameter& part : quantize_weight(parameters()[0], quantization)) {
    add_parameter(std::move(part));
  }
  cut_parameters();
  name_class();
}

void Linear::shard_columns(RankGroup group, std::vector<ShardSegment> segments, bool gather) {
  config_.sharding = Sharding::columns;
  config_.group = group;
  config_.segments = std::move(segments);
  if (config_.segments.empty()) config_.segments.push_back({out_features(), group.size});
  config_.communicate = gather;
  cut_parameters();
  name_class();
}

void Linear::shard_rows(RankGroup group, bool reduce) {
  config_.sharding = Sharding::rows;
  config_.group = group;
  config_.segments.clear();
  config_.communicate = reduce;
  cut_parameters();
  name_class();
}

void Linear::shard(const Layout& layout, ShardReport& report) {
  const RankGroup group = layout.group(ParallelAxis::tp);
  if (group.size == 1 || name() != "lm_head") return;
  shard_columns(group, {}, true);
  report.cut(class_name());
}

/// Cuts every parameter as the config says, whatever was added after it was said.
void Linear::cut_parameters() {
  if (config_.sharding == Sharding::none) return;
  const bool columns = config_.sharding == Sharding::columns;
  for (Parameter& parameter : parameters()) {
    parameter.shard = {};
    if (parameter.buffer) continue;
    if (parameter.is_quantization_part()) {
      cut_with_weight(parameter, parameters()[0]);
    } else if (columns) {
      shard_parameter(parameter, 0, config_.group, config_.segments);
    } else if (parameter.shape.rank() >= 2 && parameter.shape[1] > 1) {
      // A bias is added once, to the sum: every rank keeps it.
      shard_parameter(parameter, 1, config_.group, {});
    }
  }
}

void Linear::name_class() {
  std::string name;
  if (config_.quantization) name += "Quantized";
  if (config_.sharding == Sharding::columns) name += "ColumnParallel";
  if (config_.sharding == Sharding::rows) name += "RowParallel";
  set_class_name(name + "Linear");
}

void Linear::list_attributes(std::vector<Attribute>& list) const {
  if (config_.quantization) list.push_back({"quantization", config_.quantization->describe()});
  if (config_.sharding == Sharding::columns) {
    list.push_back({"parallel", fmt::format("columns/{}{}", config_.group.size,
                                            config_.communicate ? " gathered" : "")});
  }
  if (config_.sharding == Sharding::rows) {
    list.push_back({"parallel", fmt::format("rows/{}{}", config_.group.size,
                                            config_.communicate ? "" : " unreduced")});
  }
}

// --- Embedding -----------------------------------------------------------------------------------

Embedding::Embedding(std::int64_t rows, std::int64_t width, DType dtype, double multiplier)
    : ModuleOf("Embedding"), config_{.rows = rows, .width = width, .multiplier = multiplier} {
  add_parameter(make_parameter("weight", {rows, width}, dtype, InitRole::embedding));
}

std::string Embedding::fault() const {
  return Requirements(*this).parameter("weight", {config_.rows, config_.width}).fault();
}

Value Embedding::forward(Trace& trace, Value ids) const {
  const Parameter& table = parameters()[0];
  const std::int64_t width = table.shape[1];
  const std::int64_t rows = trace.shape(ids).elements();
  const RankGroup group = config_.group;
  Value result = trace.gather(trace.parameter(table), ids, rows, width, group.size > 1);
  const Shape shape{rows, width};
  result =
      trace.collective(CollectiveKind::all_reduce, result, bytes_of(shape.elements(), table.dtype),
                       group.size, group.stride, shape);
  return config_.multiplier == 1 ? result
                                 : trace.unary(ElementwiseKind::scale, result, config_.multiplier);
}

void Embedding::shard_rows(RankGroup group) {
  config_.group = group;
  shard_parameter(parameters()[0], 0, group, {});
  set_class_name("VocabParallelEmbedding");
}

void Embedding::shard(const Layout& layout, ShardReport& report) {
  const RankGroup group = layout.group(ParallelAxis::tp);
  if (group.size == 1) return;
  shard_rows(group);
  report.cut(class_name());
}

void Embedding::list_attributes(std::vector<Attribute>& list) const {
  if (config_.multiplier != 1) list.push_back({"multiplier", config_.multiplier});
  if (config_.group.size > 1) {
    list.push_back({"parallel", fmt::format("vocabulary/{}", config_.group.size)});
  }
}

PositionEmbedding::PositionEmbedding(std::int64_t positions, std::int64_t width, DType dtype)
    : ModuleOf("Embedding"), config_{positions, width} {
  add_parameter(make_parameter("weight", {positions, width}, dtype, InitRole::embedding))
      .whole_because = "positions are few";
}

std::string PositionEmbedding::fault() const {
  return Requirements(*this).parameter("weight", {config_.positions, config_.width}).fault();
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
    : ModuleOf(std::move(class_name)), config_{kind, width, epsilon, weight_offset, {}} {
  add_parameter(make_parameter("weight", {width}, dtype,
                               weight_offset == 0 ? InitRole::norm : InitRole::centered_norm));
  if (bias) add_parameter(make_parameter("bias", {width}, dtype, InitRole::bias));
}

std::string Normalization::fault() const {
  return Requirements(*this)
      .parameter("weight", {config_.width})
      .parameter_if_any("bias", {config_.width})
      .fault();
}

Value Normalization::forward(Trace& trace, Value input) const {
  const Shape shape = trace.shape(input);
  const Parameter* const bias = find_parameter("bias");
  const RankGroup group = config_.group;
  Norm op;
  op.kind = config_.kind;
  op.width = parameters()[0].local_shape()[0];
  op.rows = shape.elements() / op.width;
  op.dtype = trace.dtype(input);
  op.bias = bias != nullptr;
  op.epsilon = config_.epsilon;
  op.weight_offset = config_.weight_offset;
  Operands operands{input, trace.parameter(parameters()[0])};
  if (op.bias) operands.push(trace.parameter(*bias));
  if (group.size > 1) {
    Norm sums = op;
    sums.stage = NormStage::sum_squares;
    const Shape rows{op.rows, 1};
    const Value own = trace.emit(sums, {input}, rows, DType::f32);
    operands.push(trace.collective(CollectiveKind::all_reduce, own, bytes_of(op.rows, DType::f32),
                                   group.size, group.stride, rows));
    op.stage = NormStage::scale;
    op.ranks = group.size;
  }
  return trace.emit(op, operands, shape, op.dtype);
}

void Normalization::shard_width(RankGroup group, const std::vector<ShardSegment>& segments) {
  TCAST_CHECK(config_.kind == NormKind::rms, "only sums of squares are shared");
  config_.group = group;
  for (Parameter& parameter : parameters()) shard_parameter(parameter, 0, group, segments);
}

void Normalization::list_attributes(std::vector<Attribute>& list) const {
  list.push_back({"eps", config_.epsilon});
  if (config_.weight_offset != 0) list.push_back({"weight_offset", config_.weight_offset});
  if (config_.group.size > 1) {
    list.push_back({"parallel", fmt::format("width/{}", config_.group.size)});
  }
}

// --- RotaryEmbedding -----------------------------------------------------------------------------

RotaryEmbedding::RotaryEmbedding(std::string class_name, std::string set, std::int64_t rotary_dim,
                                 RopeParameters rope, DType dtype)
    : ModuleOf(std::move(class_name)),
      config_{std::move(set), rotary_dim, std::move(rope), dtype, false} {}

void RotaryEmbedding::provide(Trace& trace, Value positions) const {
  const ScopeGuard scope(trace, name(), class_name(), false);
  const std::int64_t length = trace.workload().sequence_length();
  RotaryTable op;
  op.tokens = trace.workload().tokens();
  op.dim = config_.rotary_dim;
  op.dtype = config_.dtype;
  op.cached = config_.cached;
  if (op.cached) {
    op.table_positions = length;
    const std::int64_t table = checked_mul(op.table_positions, op.dim, "rotary table");
    trace.keep_constant(checked_mul(2, bytes_of(table, op.dtype), "rotary tables"));
  }
  const Value frequencies = trace.constant({op.dim / 2}, [&] {
    return inverse_frequencies(config_.rope, config_.rotary_dim, length, op.scale);
  });
  const Shape shape{op.tokens, op.dim};
  RotaryValues values;
  values.cos = trace.emit(op, {positions, frequencies}, shape, op.dtype);
  values.sin = trace.add_result(shape, op.dtype);
  trace.set_rotary(config_.set, values);
}

void RotaryEmbedding::cache_tables() {
  config_.cached = true;
  set_class_name("CachedRotaryEmbedding");
}

void RotaryEmbedding::list_attributes(std::vector<Attribute>& list) const {
  list.push_back({"rotary_dim", config_.rotary_dim});
  for (Attribute& attribute : config_.rope.attributes()) list.push_back(std::move(attribute));
}

}  // namespace tcast
