#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/graph/graph.h"
#include "tcast/graph/op.h"
#include "tcast/graph/tensor.h"
#include "tcast/graph/workload.h"

namespace tcast {

/// A value while tracing: a tensor of the region being traced, or of one traced before (which then
/// becomes an output of its call, captured as an input where it is used).
struct Value {
  static constexpr std::uint32_t nowhere = 0xffffffffU;
  std::uint32_t frame = nowhere;
  TensorId tensor = 0;
};

/// Operands of an op, in the order that its record documents.
class Operands {
 public:
  Operands(std::initializer_list<Value> list) {
    for (const Value value : list) push(value);
  }
  void push(Value value) {
    if (count_ == values_.size()) fail_operand_count();
    values_[count_++] = value;
  }
  std::size_t size() const { return count_; }
  Value& operator[](std::size_t i) { return values_[checked(i)]; }
  const Value& operator[](std::size_t i) const { return values_[checked(i)]; }
  const Value* begin() const { return values_.data(); }
  const Value* end() const { return values_.data() + count_; }

 private:
  std::size_t checked(std::size_t i) const {
    if (i >= count_) fail_operand_index(static_cast<int>(i), count_);
    return i;
  }

  std::array<Value, max_operands> values_{};
  std::uint8_t count_ = 0;
};

/// A list member's region and how its calls are bound.
struct MemberRegion {
  std::uint32_t call = 0;         ///< one of its calls
  std::uint32_t chain_input = 0;  ///< which of the call's inputs is handed from member to member
};

/// cos and sin of the positions of a forward pass, as an attention module uses them.
struct RotaryValues {
  Value cos;
  Value sin;
};

/// Builds a Graph: modules call its operators, regions follow from the calls to list members.
///
/// Code outside list members is collected into regions of its own, called once. `repeat` traces one
/// list member and calls its region for several members. A value may be used anywhere later; the
/// trace turns it into inputs and outputs of calls. What traces more than max_graph_ops operators,
/// max_graph_tensors tensors or max_graph_calls calls is stopped by an Error before it has filled
/// the memory.
class TCAST_API Trace {
 public:
  /// Clears `graph` (keeping its memory) and traces into it.
  Trace(Graph& graph, const Workload& workload);
  Trace(const Trace&) = delete;
  Trace& operator=(const Trace&) = delete;

  const Workload& workload() const { return graph_.workload; }
  Graph& graph() { return graph_; }

  /// Closes the last region. Call once, when the model's forward has returned.
  void finish();

  /// Names a value that leaves the model, such as "logits". The name must outlive the graph.
  void output(std::string_view name, Value value, std::int64_t depth = 0) {
    results_.push_back({name, depth, value});
  }
  bool has_output(std::string_view name, std::int64_t depth = 0) const;

  // --- structure ---------------------------------------------------------------------------------

  /// Traces `body` (a callable Value -> Value) once as a region and calls it for list members
  /// `first` .. `first + count - 1`, each taking the previous one's result.
  template <class Body>
  Value repeat(std::int64_t first, std::int64_t count, Value input, Body&& body) {
    begin_member(first);
    const Value inner = capture(input);
    const Value result = std::forward<Body>(body)(inner);
    return end_member(first, count, inner, result);
  }

  /// The region that repeat() traced last, for replay().
  MemberRegion last_member() const { return last_member_; }

  /// Gives the call of the last repeat(), of one member, caches of its own: those that `member`
  /// would have.
  void set_cache_member(std::int64_t member);

  /// What follows outside list members begins a region of its own, so that whoever executes the
  /// graph can look at what was computed and set inputs that depend on it.
  void end_region() { close_region(); }

  /// Calls a region again for further members, without tracing: for layers that are equal but not
  /// neighbours.
  Value replay(const MemberRegion& member, std::int64_t first, std::int64_t count, Value input);

  /// The entry of a list inside the region (an expert) that parameters belong to from now on; -1:
  /// none.
  void set_member(std::int64_t index) { member_ = static_cast<std::int32_t>(index); }

  /// How often each of the ops that follow is expected to run in a call (Op::runs).
  void set_runs(double runs) { runs_ = runs; }

  /// Names the module that the following ops belong to; used through ScopeGuard.
  void enter(const std::string& name, const std::string& class_name, bool in_list);
  void leave();
  /// Dotted path of the module at hand, list indices as '*'; "the root" at the top.
  std::string path() const;

  /// Remembers the module at hand as the one whose forward failed; the innermost one counts.
  void note_failure();
  /// Dotted path of that module ("model.layers.[3-60].mlp"); empty when nothing failed.
  const std::string& failed_at() const { return failed_at_; }

  // --- side values -------------------------------------------------------------------------------

  /// Hands rotary values to the attention modules of this pass, under the name of their set.
  void set_rotary(std::string_view set, RotaryValues values);
  /// The rotary values of a set. Throws InternalError when nobody set them.
  RotaryValues rotary(std::string_view set) const;

  // --- tensors -----------------------------------------------------------------------------------

  /// Throws InternalError for a value that this pass does not have.
  void require(Value value) const;
  Shape shape(Value value) const;
  DType dtype(Value value) const;

  /// A value that comes from outside the model, by its name: token ids, positions, the attention
  /// mask of a span. Whoever asks for it again gets the same one. The name must outlive the graph.
  Value input(std::string_view name, const Shape& shape, DType dtype,
              const AttentionSpan& span = {}, std::int64_t depth = 0);
  /// A parameter of the module at hand.
  Value parameter(const Parameter& parameter);
  /// `count` list members' parameters side by side, of a list spread over `ranks` ranks whose
  /// device numbers are `stride` apart.
  Value stacked_parameter(const Parameter& parameter, std::int64_t count, std::int64_t ranks,
                          std::int64_t stride);
  /// Two parameters with rows of the same width as one: the rows of `second` follow.
  Value joined_parameters(const Parameter& first, const Parameter& second);
  /// Numbers that follow from the config; `make()` gives them and is called only when the graph is
  /// going to be executed.
  template <class Make>
  Value constant(const Shape& shape, Make&& make) {
    std::int32_t index = -1;
    if (workload().executes) {
      index = static_cast<std::int32_t>(graph_.constants.size());
      graph_.constants.push_back(std::forward<Make>(make)());
    }
    return constant_tensor(shape, index);
  }
  /// Notes bytes that this region computes once and keeps, such as tables.
  void keep_constant(std::int64_t bytes);
  /// This layer's cache.
  Value cache(const CacheSpec& spec);
  /// The same memory seen with another shape of at most as many elements.
  Value view(Value value, const Shape& shape);

  // --- operators ---------------------------------------------------------------------------------

  /// Appends an op; returns its first result. Shapes of results are the caller's business: the
  /// functions below know them.
  Value emit(const OpRecord& record, const Operands& inputs, const Shape& result, DType dtype);
  /// Adds a second (third) result to the op emitted last.
  Value add_result(const Shape& result, DType dtype);
  /// Appends an op without a result (it changes a cache).
  void emit_in_place(const OpRecord& record, const Operands& inputs);

  /// Elementwise function of one operand, or of two of which the second may be smaller (broadcast).
  Value unary(ElementwiseKind kind, Value x, double constant = 1);
  Value binary(ElementwiseKind kind, Value a, Value b);
  /// A kind of two operands whose rows lie in one tensor [..., 2 * width]; result [..., width].
  Value packed(ElementwiseKind kind, Packing packing, Value both, double constant = 1);
  Value add(Value a, Value b) { return binary(ElementwiseKind::add, a, b); }
  /// x[batch, m, k] * w[batch, n, k]^T of two activations, or w[batch, k, n] if `transposed`;
  /// result [batch, m, n].
  Value batch_matmul(Value x, Value w, std::int64_t batch, std::int64_t m, std::int64_t n,
                     std::int64_t k, bool transposed = false);
  Value softmax(Value x, std::int64_t rows, std::int64_t columns);
  /// The same with one more score for each head, rows being [batch, heads, rows_per_head].
  Value softmax_with_sinks(Value x, Value sinks, std::int64_t rows, std::int64_t columns,
                           std::int64_t heads, std::int64_t rows_per_head);

  // --- copies into memory of their own
  // ------------------------------------------------------------

  /// Columns first .. first + width of x seen as [rows, row_width].
  Value columns(Value x, std::int64_t row_width, std::int64_t first, std::int64_t width,
                const Shape& result);
  /// x seen as [outer, a, b, inner] becomes [outer, b, a, inner].
  Value swap(Value x, std::int64_t outer, std::int64_t a, std::int64_t b, std::int64_t inner,
             const Shape& result);
  /// x seen as [outer, inner] becomes [outer, times, inner].
  Value repeat_inner(Value x, std::int64_t outer, std::int64_t times, std::int64_t inner,
                     const Shape& result);
  /// Rows of a and b (of these widths) side by side; a row of b serves `b_times` rows of a.
  Value join_columns(Value a, std::int64_t a_width, Value b, std::int64_t b_width,
                     std::int64_t b_times, const Shape& result);
  /// Parts of up to two tensors put together as they say.
  Value rearrange(CopyKind kind, const Operands& sources, const std::array<CopyPart, 2>& parts,
                  const Shape& result);
  Value cast(Value x, DType to);
  /// Rows of `table` picked by `indices`: [rows, width].
  Value gather(Value table, Value indices, std::int64_t rows, std::int64_t width,
               bool partial = false);
  /// Converts activations for a quantized product, [rows, columns] -> the same with, unless the
  /// scale is fixed (group < 0), their scales; the same value is converted once per region.
  Value quantize(Value x, DType to, std::int64_t group);
  /// The scales that quantize() made beside `quantized`.
  Value scales_of(Value quantized) const { return {quantized.frame, quantized.tensor + 1}; }
  /// Does nothing for a group of one.
  Value collective(CollectiveKind kind, Value x, std::int64_t bytes, std::int64_t group_size,
                   std::int64_t stride, const Shape& result);

 private:
  struct Frame {
    std::uint32_t region = 0;
    std::uint32_t call = 0;  // index of its (first) call
    bool open = false;
  };
  struct Capture {
    Value outer;
    TensorId inner;
  };
  struct QuantizedValue {
    TensorId source;
    DType dtype;
    std::int64_t group;
    Value result;
  };
  /// Of the whole graph, against its limits.
  struct Size {
    std::size_t ops = 0;
    std::size_t tensors = 0;
    std::size_t calls = 0;
  };
  struct RotarySet {
    std::string_view name;
    RotaryValues values;
  };

  Region& region() { return graph_.regions[frames_[current_].region]; }
  Tensor& own(Value value) {
    require(value);
    return region().tensors[value.tensor];
  }
  void open_region(std::int32_t member);
  void close_region();
  void begin_member(std::int64_t first);
  Value end_member(std::int64_t first, std::int64_t count, Value inner, Value result);
  Value append_calls(Call call, std::uint32_t chain_input, std::int64_t first, std::int64_t count,
                     const GraphValue& result);
  Value capture(Value value);
  TensorId local(Value value) { return capture(value).tensor; }
  Value constant_tensor(const Shape& shape, std::int32_t index);
  TensorId new_tensor(const Shape& shape, DType dtype, TensorKind kind);
  ValueId export_value(Value value);
  std::uint32_t current_scope();

  struct PendingScope {
    const std::string* name;
    const std::string* class_name;
    bool in_list;
    std::uint32_t id;  // in the open region, or not_made
  };

  Graph& graph_;
  Size size_;
  std::vector<Frame> frames_;
  std::uint32_t current_ = 0;  // open frame; 0 = none
  MemberRegion last_member_;
  std::int32_t member_ = -1;
  double runs_ = 1;
  std::vector<Capture> captures_;
  std::vector<QuantizedValue> quantized_;
  struct NamedResult {
    std::string_view name;
    std::int64_t depth;
    Value value;
  };

  std::vector<RotarySet> rotary_;
  std::vector<NamedResult> results_;
  std::vector<PendingScope> scopes_;
  std::string failed_at_;
};

/// Parameters belong to entry `index` of a list for its lifetime.
class MemberGuard {
 public:
  MemberGuard(Trace& trace, std::int64_t index) : trace_(trace) { trace_.set_member(index); }
  ~MemberGuard() { trace_.set_member(-1); }
  MemberGuard(const MemberGuard&) = delete;
  MemberGuard& operator=(const MemberGuard&) = delete;

 private:
  Trace& trace_;
};

/// Ops are expected to run `runs` times in a call for its lifetime.
class RunsGuard {
 public:
  RunsGuard(Trace& trace, double runs) : trace_(trace) { trace_.set_runs(runs); }
  ~RunsGuard() { trace_.set_runs(1); }
  RunsGuard(const RunsGuard&) = delete;
  RunsGuard& operator=(const RunsGuard&) = delete;

 private:
  Trace& trace_;
};

/// Enters a module's scope for its lifetime.
class ScopeGuard {
 public:
  ScopeGuard(Trace& trace, const std::string& name, const std::string& class_name, bool in_list)
      : trace_(trace) {
    trace_.enter(name, class_name, in_list);
  }
  ~ScopeGuard() { trace_.leave(); }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;

 private:
  Trace& trace_;
};

}  // namespace tcast
