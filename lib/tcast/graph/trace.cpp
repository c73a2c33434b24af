#include "tcast/graph/trace.h"

#include <algorithm>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

constexpr std::uint32_t graph_frame = 0;  // Value::frame of values that are graph values already
constexpr std::uint32_t not_made = 0xffffffffU;

/// Adds `more` to a size of the graph, before anything of that size is made. Throws TooLarge
/// above `limit`.
void grow(std::size_t& size, std::uint64_t more, std::size_t limit, const char* what) {
  if (more > limit - size) {
    throw TooLarge(
        fmt::format("one forward pass of this model has more than {} {}",
                    format_grouped(static_cast<std::int64_t>(limit)), what),
        "let equal layers be traced once (no --no-reuse-layers) and experts be fused (no "
        "--skip-step patch_moe), or build fewer layers with --num-hidden-layers");
  }
  size += more;
}

/// Gives back what a finished region of a graph of many has too much memory for. Small graphs keep
/// it, so that tracing again allocates nothing.
void shrink(const Graph& graph, Region& region) {
  constexpr std::uint32_t few_regions = 256;
  if (graph.region_count <= few_regions) return;
  region.tensors.shrink_to_fit();
  region.ops.shrink_to_fit();
  region.scopes.shrink_to_fit();
}

}  // namespace

Trace::Trace(Graph& graph, const Workload& workload) : graph_(graph) {
  graph_.clear();
  graph_.workload = workload;
  frames_.reserve(8);
  captures_.reserve(8);
  scopes_.reserve(8);
  frames_.emplace_back();  // graph_frame
}

void Trace::finish() {
  close_region();
  for (const NamedResult& result : results_) {
    graph_.outputs.push_back({result.name, result.depth, {}, export_value(result.value)});
  }
  for (const Call& call : graph_.calls) {
    graph_.constant_bytes += graph_.regions[call.region].constant_bytes;
  }
}

bool Trace::has_output(std::string_view name, std::int64_t depth) const {
  return std::any_of(results_.begin(), results_.end(), [&](const NamedResult& result) {
    return result.name == name && result.depth == depth;
  });
}

// --- regions -------------------------------------------------------------------------------------

void Trace::open_region(std::int32_t member) {
  grow(size_.calls, 1, max_graph_calls, "calls of regions");
  if (graph_.region_count == graph_.regions.size()) graph_.regions.emplace_back();
  const std::uint32_t id = graph_.region_count++;
  graph_.regions[id].clear();
  Frame frame;
  frame.region = id;
  frame.call = static_cast<std::uint32_t>(graph_.calls.size());
  frame.open = true;
  Call call;
  call.region = id;
  call.member = member;
  graph_.calls.push_back(call);
  current_ = static_cast<std::uint32_t>(frames_.size());
  frames_.push_back(frame);
  captures_.clear();
  quantized_.clear();
  for (PendingScope& scope : scopes_) scope.id = not_made;
}

void Trace::close_region() {
  if (current_ == 0) return;
  frames_[current_].open = false;
  shrink(graph_, region());
  // An auto region in which nothing happened would be an empty call.
  if (region().ops.empty() && frames_[current_].call + 1 == graph_.calls.size() &&
      region().outputs.empty() && region().tensors.empty()) {
    graph_.calls.pop_back();
    --graph_.region_count;
  }
  current_ = 0;
}

void Trace::begin_member(std::int64_t first) {
  TCAST_CHECK(current_ == 0 || graph_.calls[frames_[current_].call].member < 0,
              "list members do not nest regions");
  close_region();
  open_region(static_cast<std::int32_t>(first));
}

Value Trace::end_member(std::int64_t first, std::int64_t count, Value inner, Value result) {
  const Frame frame = frames_[current_];
  const TensorId result_tensor = local(result);
  Region& traced = region();
  traced.outputs.push_back(result_tensor);
  const GraphValue value{traced.tensors[result_tensor].shape, traced.tensors[result_tensor].dtype};
  std::uint32_t chain_input = 0;
  while (traced.inputs.at(chain_input) != inner.tensor) ++chain_input;
  shrink(graph_, traced);
  frames_[current_].open = false;
  current_ = 0;

  const Call call = graph_.calls[frame.call];
  last_member_ = {frame.call, chain_input};
  graph_.calls.pop_back();
  return append_calls(call, chain_input, first, count, value);
}

Value Trace::append_calls(Call call, std::uint32_t chain_input, std::int64_t first,
                          std::int64_t count, const GraphValue& result) {
  if (count < 1) {
    throw Error(fmt::format("a list member is called {} times, expected at least once", count));
  }
  grow(size_.calls, static_cast<std::uint64_t>(count), max_graph_calls, "calls of regions");
  ValueId last = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    last = static_cast<ValueId>(graph_.values.size());
    graph_.values.push_back(result);
    call.outputs = IdList{};
    call.outputs.push(last);
    call.member = static_cast<std::int32_t>(first + i);
    graph_.calls.push_back(call);
    call.inputs.set(static_cast<int>(chain_input), last);
  }
  return Value{graph_frame, last};
}

Value Trace::replay(const MemberRegion& member, std::int64_t first, std::int64_t count,
                    Value input) {
  close_region();
  Call call = graph_.calls[member.call];
  const GraphValue result = graph_.values[call.outputs[0]];
  call.inputs.set(static_cast<int>(member.chain_input), export_value(input));
  return append_calls(call, member.chain_input, first, count, result);
}

void Trace::set_cache_member(std::int64_t member) {
  graph_.calls.back().cache_member = static_cast<std::int32_t>(member);
}

ValueId Trace::export_value(Value value) {
  if (value.frame == graph_frame) return value.tensor;
  const Frame& frame = frames_[value.frame];
  TCAST_CHECK(!frame.open, "a value is exported after its region is closed");
  Region& source = graph_.regions[frame.region];
  Call& call = graph_.calls[frame.call];
  for (std::size_t i = 0; i < source.outputs.size(); ++i) {
    if (source.outputs[i] == value.tensor) return call.outputs[static_cast<int>(i)];
  }
  const auto id = static_cast<ValueId>(graph_.values.size());
  graph_.values.push_back({source.tensors[value.tensor].shape, source.tensors[value.tensor].dtype});
  source.outputs.push_back(value.tensor);
  call.outputs.push(id);
  return id;
}

Value Trace::capture(Value value) {
  require(value);
  if (current_ == 0) open_region(-1);
  if (value.frame == current_) return value;
  for (const Capture& known : captures_) {
    if (known.outer.frame == value.frame && known.outer.tensor == value.tensor) {
      return Value{current_, known.inner};
    }
  }
  const ValueId id = export_value(value);
  const GraphValue& source = graph_.values[id];
  const TensorId inner = new_tensor(source.shape, source.dtype, TensorKind::input);
  region().inputs.push_back(inner);
  graph_.calls[frames_[current_].call].inputs.push(id);
  captures_.push_back({value, inner});
  return Value{current_, inner};
}

// --- scopes --------------------------------------------------------------------------------------

void Trace::enter(const std::string& name, const std::string& class_name, bool in_list) {
  constexpr std::size_t most_levels = 1000;
  if (scopes_.size() >= most_levels) {
    throw Error(fmt::format("more than {} modules call one another", most_levels),
                "a module whose forward calls itself never ends");
  }
  scopes_.push_back({&name, &class_name, in_list, not_made});
}

void Trace::note_failure() {
  if (!failed_at_.empty()) return;
  for (const PendingScope& scope : scopes_) {
    if (scope.name->empty()) continue;
    if (!failed_at_.empty()) failed_at_ += '.';
    failed_at_ += *scope.name;
  }
}

void Trace::leave() { scopes_.pop_back(); }

std::string Trace::path() const {
  std::string path;
  for (const PendingScope& scope : scopes_) {
    if (scope.name->empty()) continue;
    if (!path.empty()) path += '.';
    path += scope.in_list ? "*" : *scope.name;
  }
  return path.empty() ? "the root" : path;
}

std::uint32_t Trace::current_scope() {
  Region& open = region();
  std::uint32_t parent = 0;
  for (PendingScope& scope : scopes_) {
    if (scope.id == not_made) {
      scope.id = static_cast<std::uint32_t>(open.scopes.size());
      open.scopes.push_back({scope.name, scope.class_name,
                             &scope == scopes_.data() ? scope.id : parent, scope.in_list});
    }
    parent = scope.id;
  }
  return parent;
}

// --- side values ---------------------------------------------------------------------------------

void Trace::set_rotary(std::string_view set, RotaryValues values) {
  for (RotarySet& known : rotary_) {
    if (known.name == set) {
      known.values = values;
      return;
    }
  }
  rotary_.push_back({set, values});
}

RotaryValues Trace::rotary(std::string_view set) const {
  for (const RotarySet& known : rotary_) {
    if (known.name == set) return known.values;
  }
  throw Error(
      fmt::format("an attention needs the rotary values '{}', which no rotary embedding of "
                  "the model provided",
                  set));
}

// --- tensors -------------------------------------------------------------------------------------

TensorId Trace::new_tensor(const Shape& shape, DType dtype, TensorKind kind) {
  TCAST_CHECK(is_dtype(dtype), "a tensor has a dtype that there is");
  for (int i = 0; i < shape.rank(); ++i) {
    TCAST_CHECK(shape[i] >= 0, "the sizes of a tensor are at least 0, not " + to_string(shape));
  }
  bytes_of(shape.elements(), dtype);  // throws when nothing can hold it
  grow(size_.tensors, 1, max_graph_tensors, "tensors");
  Region& open = region();
  const auto id = static_cast<TensorId>(open.tensors.size());
  Tensor& made = open.tensors.emplace_back();
  made.shape = shape;
  made.dtype = dtype;
  made.kind = kind;
  made.storage = id;
  return id;
}

void Trace::require(Value value) const {
  const bool known =
      value.frame == graph_frame
          ? value.tensor < graph_.values.size()
          : value.frame < frames_.size() &&
                value.tensor < graph_.regions[frames_[value.frame].region].tensors.size();
  TCAST_CHECK(known, "a value belongs to the pass that is traced");
}

Shape Trace::shape(Value value) const {
  require(value);
  if (value.frame == graph_frame) return graph_.values[value.tensor].shape;
  return graph_.regions[frames_[value.frame].region].tensors[value.tensor].shape;
}

DType Trace::dtype(Value value) const {
  require(value);
  if (value.frame == graph_frame) return graph_.values[value.tensor].dtype;
  return graph_.regions[frames_[value.frame].region].tensors[value.tensor].dtype;
}

Value Trace::input(std::string_view name, const Shape& shape, DType dtype,
                   const AttentionSpan& span, std::int64_t depth) {
  for (const NamedValue& known : graph_.inputs) {
    if (known.name == name && known.span == span && known.depth == depth) {
      TCAST_CHECK(
          graph_.values[known.value].shape == shape && graph_.values[known.value].dtype == dtype,
          "an input has one shape and one dtype, whoever asks for it");
      return capture(Value{graph_frame, known.value});
    }
  }
  const auto id = static_cast<ValueId>(graph_.values.size());
  graph_.values.push_back({shape, dtype});
  graph_.inputs.push_back({name, depth, span, id});
  return capture(Value{graph_frame, id});
}

Value Trace::parameter(const Parameter& parameter) {
  if (current_ == 0) open_region(-1);
  const TensorId id = new_tensor(parameter.local_shape(), parameter.dtype, TensorKind::parameter);
  Tensor& made = region().tensors[id];
  made.parameter = &parameter;
  made.member = member_;
  return Value{current_, id};
}

Value Trace::stacked_parameter(const Parameter& parameter, std::int64_t count, std::int64_t ranks,
                               std::int64_t stride) {
  const Value value = this->parameter(parameter);
  Tensor& made = own(value);
  made.stacked = count;
  made.list_ranks = ranks;
  made.list_stride = stride;
  return value;
}

Value Trace::joined_parameters(const Parameter& first, const Parameter& second) {
  Shape shape = first.local_shape();
  const Shape other = second.local_shape();
  TCAST_CHECK(shape.rank() == other.rank() && (shape.rank() < 2 || shape[1] == other[1]),
              "parameters are joined by their rows");
  shape.set(0, shape[0] + other[0]);
  const Value both = parameter(first);
  Tensor& made = own(both);
  made.shape = shape;
  made.joined = &second;
  return both;
}

Value Trace::constant_tensor(const Shape& shape, std::int32_t index) {
  if (current_ == 0) open_region(-1);
  const TensorId id = new_tensor(shape, DType::f32, TensorKind::constant);
  region().tensors[id].index = index;
  return Value{current_, id};
}

void Trace::keep_constant(std::int64_t bytes) {
  if (current_ == 0) open_region(-1);
  region().constant_bytes += bytes;
}

Value Trace::cache(const CacheSpec& spec) {
  TCAST_CHECK(spec.elements_per_token >= 1 && spec.kv_heads >= 1 && spec.key_dim >= 0 &&
                  spec.elements_per_token % spec.kv_heads == 0 &&
                  spec.key_dim <= spec.elements_per_token / spec.kv_heads && spec.block_size >= 1 &&
                  is_dtype(spec.dtype),
              "a cache keeps keys and values of at least one head for each token, in blocks of at "
              "least one");
  if (current_ == 0) open_region(-1);
  region().caches.push_back(spec);
  const TensorId id =
      new_tensor(Shape{workload().batch, kept_tokens(spec.span, workload().sequence_length()),
                       spec.elements_per_token},
                 spec.dtype, TensorKind::cache);
  region().tensors[id].index = static_cast<std::int32_t>(region().caches.size()) - 1;
  return Value{current_, id};
}

Value Trace::view(Value value, const Shape& shape) {
  const TensorId source = local(value);
  const Tensor viewed = region().tensors[source];
  const TensorId id = new_tensor(shape, viewed.dtype, viewed.kind);
  Tensor& made = region().tensors[id];
  made.storage = viewed.storage;
  made.parameter = viewed.parameter;
  made.stacked = viewed.stacked;
  made.list_ranks = viewed.list_ranks;
  made.list_stride = viewed.list_stride;
  made.joined = viewed.joined;
  made.member = viewed.member;
  made.index = viewed.index;
  return Value{current_, id};
}

// --- operators -----------------------------------------------------------------------------------

Value Trace::emit(const OpRecord& record, const Operands& inputs, const Shape& result,
                  DType dtype) {
  emit_in_place(record, inputs);
  return add_result(result, dtype);
}

Value Trace::add_result(const Shape& result, DType dtype) {
  if (current_ == 0 || region().ops.empty()) {
    throw Error("a further result was added before any operator was traced");
  }
  const TensorId id = new_tensor(result, dtype, TensorKind::activation);
  region().ops.back().outputs.push(id);
  return Value{current_, id};
}

void Trace::emit_in_place(const OpRecord& record, const Operands& inputs) {
  if (const auto* custom = std::get_if<CustomOp>(&record)) {
    TCAST_CHECK(custom->definition != nullptr && is_dtype(custom->dtype),
                "a registered operator is used with the definition that find_operator() gives");
  } else if (const auto* one = std::get_if<Elementwise>(&record)) {
    TCAST_CHECK(one->kind <= ElementwiseKind::clamped_swiglu, "an elementwise kind that there is");
  }
  if (current_ == 0) open_region(-1);
  grow(size_.ops, 1, max_graph_ops, "operators");
  IdList ids;
  for (const Value input : inputs) ids.push(local(input));
  Op& op = region().ops.emplace_back();
  op.record = record;
  op.inputs = ids;
  op.scope = current_scope();
  op.runs = runs_;
}

Value Trace::unary(ElementwiseKind kind, Value x, double constant) {
  x = capture(x);
  const Tensor source = own(x);
  return emit(Elementwise{.kind = kind,
                          .elements = source.shape.elements(),
                          .second_elements = 0,
                          .dtype = source.dtype,
                          .constant = constant},
              {x}, source.shape, source.dtype);
}

Value Trace::binary(ElementwiseKind kind, Value a, Value b) {
  a = capture(a);
  b = capture(b);
  const Tensor first = own(a);
  return emit(Elementwise{.kind = kind,
                          .elements = first.shape.elements(),
                          .second_elements = own(b).shape.elements(),
                          .dtype = first.dtype,
                          .constant = 1},
              {a, b}, first.shape, first.dtype);
}

Value Trace::packed(ElementwiseKind kind, Packing packing, Value both, double constant) {
  both = capture(both);
  const Tensor source = own(both);
  Shape result = source.shape;
  const int last = result.rank() - 1;
  result.set(last, result[last] / 2);
  return emit(Elementwise{.kind = kind,
                          .elements = result.elements(),
                          .second_elements = 0,
                          .dtype = source.dtype,
                          .constant = constant,
                          .packing = packing,
                          .width = result[last]},
              {both}, result, source.dtype);
}

Value Trace::batch_matmul(Value x, Value w, std::int64_t batch, std::int64_t m, std::int64_t n,
                          std::int64_t k, bool transposed) {
  x = capture(x);
  w = capture(w);
  MatMul op;
  op.batch = batch;
  op.m = m;
  op.n = n;
  op.k = k;
  op.input = dtype(x);
  op.weight = dtype(w);
  op.output = op.input;
  op.compute = op.input;
  op.weight_is_parameter = false;
  op.weight_transposed = transposed;
  return emit(op, {x, w}, Shape{batch, m, n}, op.output);
}

Value Trace::softmax(Value x, std::int64_t rows, std::int64_t columns) {
  x = capture(x);
  const Tensor source = own(x);
  return emit(Softmax{rows, columns, source.dtype}, {x}, source.shape, source.dtype);
}

Value Trace::softmax_with_sinks(Value x, Value sinks, std::int64_t rows, std::int64_t columns,
                                std::int64_t heads, std::int64_t rows_per_head) {
  const DType type = dtype(x);
  return emit(Softmax{.rows = rows,
                      .columns = columns,
                      .dtype = type,
                      .sink_heads = heads,
                      .rows_per_head = rows_per_head},
              {x, sinks}, shape(x), type);
}

Value Trace::rearrange(CopyKind kind, const Operands& sources, const std::array<CopyPart, 2>& parts,
                       const Shape& result) {
  Copy op;
  op.kind = kind;
  if (sources.size() > parts.size())
    fail_operand_index(static_cast<int>(parts.size()), parts.size());
  op.from = dtype(sources[0]);
  op.to = op.from;
  op.parts = parts;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    // What is repeated is read once.
    op.read_elements += std::min(parts[i].elements(), shape(sources[i]).elements());
    op.written_elements += parts[i].elements();
  }
  return emit(op, sources, result, op.to);
}

Value Trace::columns(Value x, std::int64_t row_width, std::int64_t first, std::int64_t width,
                     const Shape& result) {
  CopyPart part;
  part.sizes = {1, 1, result.elements() / width};
  part.run = width;
  part.source_offset = first;
  part.source_strides = {0, 0, row_width};
  part.target_strides = {0, 0, width};
  return rearrange(CopyKind::slice, {x}, {part}, result);
}

Value Trace::swap(Value x, std::int64_t outer, std::int64_t a, std::int64_t b, std::int64_t inner,
                  const Shape& result) {
  CopyPart part;
  part.sizes = {outer, b, a};
  part.run = inner;
  part.source_strides = {a * b * inner, inner, b * inner};
  part.target_strides = {a * b * inner, a * inner, inner};
  return rearrange(CopyKind::transpose, {x}, {part}, result);
}

Value Trace::repeat_inner(Value x, std::int64_t outer, std::int64_t times, std::int64_t inner,
                          const Shape& result) {
  CopyPart part;
  part.sizes = {1, outer, times};
  part.run = inner;
  part.source_strides = {0, inner, 0};
  part.target_strides = {0, times * inner, inner};
  return rearrange(CopyKind::repeat, {x}, {part}, result);
}

Value Trace::join_columns(Value a, std::int64_t a_width, Value b, std::int64_t b_width,
                          std::int64_t b_times, const Shape& result) {
  const std::int64_t width = a_width + b_width;
  const std::int64_t rows = result.elements() / width;
  CopyPart first;
  first.sizes = {1, 1, rows};
  first.run = a_width;
  first.source_strides = {0, 0, a_width};
  first.target_strides = {0, 0, width};
  CopyPart second;
  second.sizes = {1, rows / b_times, b_times};
  second.run = b_width;
  second.source_strides = {0, b_width, 0};
  second.target_offset = a_width;
  second.target_strides = {0, b_times * width, width};
  return rearrange(CopyKind::concat, {a, b}, {first, second}, result);
}

Value Trace::cast(Value x, DType to) {
  x = capture(x);
  const Tensor source = own(x);
  if (source.dtype == to) return x;
  Copy op;
  op.kind = CopyKind::cast;
  op.read_elements = source.shape.elements();
  op.written_elements = op.read_elements;
  op.from = source.dtype;
  op.to = to;
  return emit(op, {x}, source.shape, to);
}

Value Trace::gather(Value table, Value indices, std::int64_t rows, std::int64_t width,
                    bool partial) {
  table = capture(table);
  Gather op;
  op.rows = rows;
  op.width = width;
  op.table_rows = own(table).shape[0];
  op.dtype = dtype(table);
  op.partial = partial;
  return emit(op, {table, indices}, Shape{rows, width}, op.dtype);
}

Value Trace::quantize(Value x, DType to, std::int64_t group) {
  x = capture(x);
  // In the order of their sources, which is mostly that of their making: an eager mixture of
  // experts converts a value for each expert.
  const auto is_before = [&x](const QuantizedValue& other) { return other.source < x.tensor; };
  auto known = std::partition_point(quantized_.begin(), quantized_.end(), is_before);
  for (; known != quantized_.end() && known->source == x.tensor; ++known) {
    if (known->dtype == to && known->group == group) return known->result;
  }
  const Tensor source = own(x);
  const std::int64_t columns = source.shape[source.shape.rank() - 1];
  Quantize op;
  op.columns = columns;
  op.rows = columns > 0 ? source.shape.elements() / columns : 0;
  op.group = group;
  op.from = source.dtype;
  op.to = to;
  const Value result = emit(op, {x}, source.shape, to);
  if (group >= 0) {
    add_result(Shape{op.rows, group > 0 ? ceil_div(columns, group) : 1}, DType::f32);
  }
  quantized_.insert(known, {x.tensor, to, group, result});
  return result;
}

Value Trace::collective(CollectiveKind kind, Value x, std::int64_t bytes, std::int64_t group_size,
                        std::int64_t stride, const Shape& result) {
  x = capture(x);
  if (group_size <= 1) return x;
  const DType element = dtype(x);
  return emit(Collective{kind, bytes, group_size, stride, element}, {x}, result, element);
}

}  // namespace tcast
