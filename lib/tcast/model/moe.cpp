#include "tcast/model/moe.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/requirements.h"
#include "tcast/model/sharding.h"

namespace tcast {
namespace {

/// Scores and selection: weights (the result) and indices (the tensor after it).
Value route(Trace& trace, const MoeConfig& config, Value logits, const Module& gate) {
  Route op;
  op.tokens = trace.shape(logits)[0];
  op.experts = config.num_experts;
  op.top_k = config.top_k;
  op.score = config.score;
  op.groups = config.groups;
  op.topk_groups = config.topk_groups;
  op.group_best = config.group_best;
  op.correction_bias = config.correction_bias;
  op.normalize = config.normalize;
  op.scale = config.scale;
  op.dtype = trace.dtype(logits);
  Operands operands{logits};
  for (const Parameter& parameter : gate.parameters()) {
    if (config.correction_bias && parameter.buffer) operands.push(trace.parameter(parameter));
  }
  const Shape shape{op.tokens, op.top_k};
  const Value weights = trace.emit(op, operands, shape, DType::f32);
  trace.add_result(shape, DType::i32);
  return weights;
}

Value indices_of(Value weights) { return {weights.frame, weights.tensor + 1}; }
Value counts_of(Value permuted) { return {permuted.frame, permuted.tensor + 1}; }

/// `routed` plus the shared experts of `block`, if it has any, weighted by their gate if they have
/// one.
Value add_shared_experts(Trace& trace, const Module& block, const MoeFieldNames& names, Value input,
                         Value routed) {
  const Module* experts = block.find_child(names.shared_experts);
  if (experts == nullptr) return routed;
  Value shared = (*experts)(trace, input);
  if (const Module* gate = block.find_child(names.shared_experts_gate)) {
    const Value logit = (*gate)(trace, input);
    shared = trace.binary(ElementwiseKind::multiply, shared,
                          trace.unary(ElementwiseKind::sigmoid, logit));
  }
  return trace.add(routed, shared);
}

const Linear& linear_of(const Module& mlp, const std::string& name) {
  return mlp.child_as<Linear>(name);
}
Linear& linear_of(Module& mlp, const std::string& name) { return mlp.child_as<Linear>(name); }

/// What a block lacks to route tokens to experts, eager or fused.
std::string moe_fault(const Module& block, const MoeConfig& config, const MoeFieldNames& names) {
  Requirements needs(block);
  needs.child(names.gate).child(names.experts).outputs_if_linear(names.gate, config.num_experts);
  if (!needs.fault().empty()) return needs.fault();
  const std::int64_t listed = block.child(names.experts).list_size();
  return needs
      .that(
          listed == 0 || listed == config.num_experts,
          [&] { return fmt::format("it has {} experts, expected {}", listed, config.num_experts); })
      .that(config.top_k >= 1 && config.top_k <= config.num_experts,
            [&] {
              return fmt::format("it chooses {} of {} experts", config.top_k, config.num_experts);
            })
      .fault();
}

}  // namespace

ElementwiseKind gated(ElementwiseKind activation) {
  const std::optional<ElementwiseKind> form = gated_form(activation);
  if (!form) throw InternalError("an activation has a gated form");
  return *form;
}

// --- Mlp -----------------------------------------------------------------------------------------

Mlp::Mlp(std::string class_name, MlpNames names, ElementwiseKind activation)
    : ModuleOf(std::move(class_name)), config_{std::move(names), activation} {}

void Mlp::list_attributes(std::vector<Attribute>& list) const {
  list.push_back({"activation", std::string(name_of(config_.activation))});
}

std::string Mlp::fault() const {
  const MlpNames& names = config_.names;
  Requirements needs(*this);
  needs.child(names.down);
  if (names.gate_up.empty()) {
    needs.child(names.gate).child(names.up);
  } else {
    needs.child(names.gate_up);
  }
  const auto* const down = dynamic_cast<const Linear*>(find_child(names.down));
  if (down == nullptr) return needs.fault();
  const std::int64_t width = down->in_features();
  if (!names.gate_up.empty()) return needs.outputs_if_linear(names.gate_up, 2 * width).fault();
  return needs.outputs_if_linear(names.gate, width).outputs_if_linear(names.up, width).fault();
}

Value Mlp::forward(Trace& trace, Value input) const {
  if (!config_.names.gate_up.empty()) {
    const Value both = call(trace, config_.names.gate_up, input);
    return call(trace, config_.names.down,
                trace.packed(gated(config_.activation), Packing::halves, both));
  }
  if (config_.names.gate.empty()) {
    return call(trace, config_.names.down,
                trace.unary(config_.activation, call(trace, config_.names.up, input)));
  }
  const Value gate = call(trace, config_.names.gate, input);
  const Value up = call(trace, config_.names.up, input);
  return call(trace, config_.names.down, trace.binary(gated(config_.activation), gate, up));
}

void Mlp::shard(const Layout& layout, ShardReport& report) {
  const RankGroup group = layout.group(ParallelAxis::tp);
  if (group.size == 1) return;
  shard_width(group, true, report.path());
  report.cut(fmt::format("width over tp {}", group.size));
}

void Mlp::shard_width(RankGroup group, bool reduce, const std::string& path) {
  const std::int64_t width = linear_of(*this, config_.names.down).in_features();
  if (width % group.size != 0) {
    refuse_layout(fmt::format("{}: an intermediate size of {} cannot be divided over {} ranks",
                              path, width, group.size),
                  fmt::format("choose a number of ranks that divides {}", width));
  }
  if (!config_.names.gate_up.empty()) {
    const ShardSegment half{width, group.size};
    linear_of(*this, config_.names.gate_up).shard_columns(group, {half, half});
  } else {
    if (!config_.names.gate.empty()) linear_of(*this, config_.names.gate).shard_columns(group);
    linear_of(*this, config_.names.up).shard_columns(group);
  }
  linear_of(*this, config_.names.down).shard_rows(group, reduce);
}

// --- eager ---------------------------------------------------------------------------------------

EagerMoe::EagerMoe(std::string class_name, MoeConfig config, MoeFieldNames names)
    : ModuleOf(std::move(class_name)), config_{config, std::move(names)} {}

void EagerMoe::list_attributes(std::vector<Attribute>& list) const {
  list_moe_attributes(list, config_, config_.names);
}

std::string EagerMoe::fault() const { return moe_fault(*this, config_, config_.names); }

namespace {

/// How the routed rows fall on a loop over the experts: those that run have `rows` or `rows` + 1
/// rows, such that the expected numbers of rows and of distinct experts come out exactly.
class EagerRows {
 public:
  EagerRows(const ExpertLoad& load, std::int64_t experts) {
    if (load.distinct_experts <= 0) return;
    constexpr double rounding = 1e-9;
    rows_ = static_cast<std::int64_t>(std::floor(load.rows / load.distinct_experts + rounding));
    // a runs with `rows_` rows and b with one more: a + b distinct experts, all rows together.
    const double b = load.rows - static_cast<double>(rows_) * load.distinct_experts;
    if (b > rounding * load.rows) {
      const auto part = static_cast<std::int64_t>(
          std::llround(static_cast<double>(experts) * b / load.distinct_experts));
      with_more_ = std::clamp<std::int64_t>(part, 1, std::max<std::int64_t>(1, experts - 1));
      more_runs_ = b / static_cast<double>(with_more_);
    }
    if (experts > with_more_) {
      runs_ = (load.distinct_experts - more_runs_ * static_cast<double>(with_more_)) /
              static_cast<double>(experts - with_more_);
    }
  }

  std::int64_t rows(std::int64_t expert) const { return rows_ + (expert < with_more_ ? 1 : 0); }
  /// Expected number of times that an expert is computed in a pass.
  double runs(std::int64_t expert) const { return expert < with_more_ ? more_runs_ : runs_; }

 private:
  std::int64_t rows_ = 0;
  std::int64_t with_more_ = 0;  ///< experts with one row more
  double runs_ = 0;
  double more_runs_ = 0;
};

}  // namespace

Value EagerMoe::forward(Trace& trace, Value input) const {
  const Shape shape = trace.shape(input);
  const std::int64_t tokens = shape[0];
  const std::int64_t hidden = shape[1];
  const DType dtype = trace.dtype(input);
  const Module& gate = child(config_.names.gate);
  const Value weights = route(trace, config_, gate(trace, input), gate);

  // Executed, every expert is computed and has room for every token.
  const Module& list = child(config_.names.experts);
  const bool executes = trace.workload().executes;
  checked_mul(tokens, config_.top_k, "routed rows");
  const EagerRows expected(
      expert_load({static_cast<double>(tokens), config_.num_experts, config_.top_k}),
      config_.num_experts);
  Value sum = trace.unary(ElementwiseKind::scale, input, 0);
  auto add_expert = [&](std::int64_t expert, auto&& run) {
    const std::int64_t rows = executes ? tokens : expected.rows(expert);
    const RunsGuard runs(trace, executes ? 1 : expected.runs(expert));
    Permute pick;
    pick.tokens = rows;
    pick.rows = rows;
    pick.width = hidden;
    pick.expert = expert;
    pick.dtype = dtype;
    const Value own = trace.emit(pick, {input, indices_of(weights)}, {rows, hidden}, dtype);
    const Value out = run(own);
    Combine add;
    add.tokens = rows;
    add.rows = rows;
    add.width = hidden;
    add.expert = expert;
    add.dtype = dtype;
    // In place: the sum's memory is read and written where the expert's tokens stand.
    trace.emit_in_place(add, {out, weights, indices_of(weights), sum});
  };
  {
    const ScopeGuard in_list(trace, list.name(), list.class_name(), false);
    if (const auto* fused = dynamic_cast<const FusedExperts*>(&list)) {
      for (std::int64_t expert = 0; expert < config_.num_experts; ++expert) {
        add_expert(expert, [&](Value own) { return fused->run_one(trace, own, expert); });
      }
    }
    for (const auto& node : list.children()) {
      for (std::int64_t i = 0; i < node->members().count; ++i) {
        const std::int64_t expert = node->members().first + i;
        const MemberGuard member(trace, expert);
        add_expert(expert, [&](Value own) { return (*node)(trace, own); });
      }
    }
  }
  return add_shared_experts(trace, *this, config_.names, input, sum);
}

// --- grouped experts -----------------------------------------------------------------------------

GroupedExperts::GroupedExperts(Module& list) : ModuleOf("GroupedExperts") { take_over(list); }

void GroupedExperts::list_attributes(std::vector<Attribute>& list) const {
  if (config_.group.size > 1) list.push_back({"expert_parallel", config_.group.size});
}

std::string GroupedExperts::fault() const {
  Requirements needs(*this);
  needs.that(!children().empty(), [] { return std::string("it has no experts"); });
  for (const auto& node : children()) {
    const auto* const mlp = dynamic_cast<const Mlp*>(node.get());
    needs.that(mlp != nullptr, [&] {
      return fmt::format("its expert '{}' is a {}", node->name(), node->class_name());
    });
    if (mlp == nullptr) break;
    const MlpNames& names = mlp->names();
    for (const std::string& name : {names.gate, names.up, names.down}) {
      needs.that(
          name.empty() || dynamic_cast<const Linear*>(mlp->find_child(name)) != nullptr,
          [&] { return fmt::format("its expert '{}' has no Linear '{}'", node->name(), name); });
    }
  }
  return needs.fault();
}

namespace {

/// `first_expert` is that of the product among those that the counts are of.
Value grouped_matmul(Trace& trace, const Linear& linear, Value x, Value counts,
                     std::int64_t first_expert, std::int64_t experts, RankGroup group,
                     const ExpertLoad& load) {
  const ScopeGuard scope(trace, linear.name(), linear.class_name(), false);
  const Parameter& weight = linear.weight();
  const Shape local = weight.local_shape();
  const DType activation = trace.dtype(x);
  const std::int64_t rows = trace.shape(x)[0];
  const Value input = linear.prepare_input(trace, x);
  GroupedMatMul op;
  op.experts = experts;
  op.first_expert = first_expert;
  op.distinct_experts = load.distinct_experts;
  op.rows = load.rows;
  op.routing = load.routing;
  op.n = local[0];
  op.k = local[1];
  op.input = trace.dtype(input);
  op.weight = weight.dtype;
  op.output = activation;
  op.compute = op.input;
  Operands operands{input, trace.stacked_parameter(weight, experts, group.size, group.stride),
                    counts};
  if (const auto& quantization = linear.quantization()) {
    op.weight_scales = quantization->scales;
    op.activation_scales = quantization->activation_scales();
  }
  for (const Parameter& parameter : linear.parameters()) {
    if (!parameter.is_quantization_part()) continue;
    operands.push(trace.stacked_parameter(parameter, experts, group.size, group.stride));
  }
  if (op.activation_scales) operands.push(trace.scales_of(input));
  return trace.emit(op, operands, {rows, op.n}, op.output);
}

/// The rows of `second` below those of `first`.
Value join_rows(Trace& trace, Value first, Value second, const Shape& result) {
  std::array<CopyPart, 2> parts;
  parts[0].run = trace.shape(first).elements();
  parts[1].run = trace.shape(second).elements();
  parts[1].target_offset = parts[0].run;
  return trace.rearrange(CopyKind::concat, {first, second}, parts, result);
}

}  // namespace

Value GroupedExperts::run(Trace& trace, Value rows, Value counts, const ExpertLoad& load) const {
  const ScopeGuard scope(trace, name(), class_name(), false);
  // Experts that are stored in different ways take a product each. Which rows are whose is known
  // when they have been routed: executed, every product is given all rows and leaves zeros in those
  // of others.
  const bool apart = trace.workload().executes && children().size() > 1;
  if (apart && config_.group.size > 1) {
    throw Error(
        fmt::format("the experts of {} are stored in different ways, which cannot be executed on "
                    "several expert-parallel ranks",
                    name()),
        "leave out patterns of --quantize-ignore that name single experts, or --ep");
  }
  const std::int64_t all_rows = trace.shape(rows)[0];
  const std::int64_t hidden = trace.shape(rows)[1];
  std::int64_t local = 0;
  for (const auto& node : children()) local += node->members().local_count;
  Value joined;
  std::int64_t done = 0;
  std::int64_t rows_before = 0;
  for (const auto& node : children()) {
    const std::int64_t experts = node->members().local_count;
    if (experts == 0) continue;
    const std::int64_t first = apart ? done : 0;
    done += experts;
    ExpertLoad share = load.part(static_cast<double>(experts) / static_cast<double>(local));
    if (apart) share.rows = load.rows;
    // Rows in memory are whole: there may be a few more of them than all rows.
    const std::int64_t own_rows =
        apart ? all_rows : static_cast<std::int64_t>(std::ceil(share.rows));
    rows_before += own_rows;
    const auto& mlp = dynamic_cast<const Mlp&>(*node);
    const ScopeGuard scope_of_member(trace, node->name(), node->class_name(), true);
    const MemberGuard member(trace, node->members().first);
    const Value own = experts == local || apart ? rows : trace.view(rows, {own_rows, hidden});
    const MlpNames& names = mlp.names();
    Value activated;
    if (names.gate.empty()) {
      activated =
          trace.unary(mlp.activation(), grouped_matmul(trace, linear_of(mlp, names.up), own, counts,
                                                       first, experts, config_.group, share));
    } else {
      const Value gate = grouped_matmul(trace, linear_of(mlp, names.gate), own, counts, first,
                                        experts, config_.group, share);
      const Value up = grouped_matmul(trace, linear_of(mlp, names.up), own, counts, first, experts,
                                      config_.group, share);
      activated = trace.binary(gated(mlp.activation()), gate, up);
    }
    const Value out = grouped_matmul(trace, linear_of(mlp, names.down), activated, counts, first,
                                     experts, config_.group, share);
    joined = done == experts ? out
             : apart         ? trace.add(joined, out)
                             : join_rows(trace, joined, out, {rows_before, hidden});
  }
  if (!apart && rows_before > all_rows) return trace.view(joined, {all_rows, hidden});
  return joined;
}

void GroupedExperts::shard_tensor(RankGroup group, const std::string& path) {
  if (group.size == 1) return;
  for (const auto& node : children()) {
    dynamic_cast<Mlp&>(*node).shard_width(group, false, path + ".*");
  }
}

void GroupedExperts::shard_experts(RankGroup group, const std::string& path) {
  if (group.size == 1) return;
  config_.group = group;
  const std::int64_t experts = list_size();
  if (experts % group.size != 0) {
    refuse_layout(
        fmt::format("{}: {} experts cannot be divided over ep {}", path, experts, group.size),
        fmt::format("choose --ep so that it divides {}", experts));
  }
  const std::int64_t own = experts / group.size;
  // The rank with the most bytes stands for all: experts may be stored differently.
  std::int64_t best_rank = 0;
  std::int64_t best_bytes = -1;
  auto overlap = [own](const Module& node, std::int64_t rank) {
    const std::int64_t begin = std::max(node.members().first, rank * own);
    const std::int64_t end =
        std::min(node.members().first + node.members().count, (rank + 1) * own);
    return std::max<std::int64_t>(0, end - begin);
  };
  for (std::int64_t rank = 0; rank < group.size; ++rank) {
    std::int64_t bytes = 0;
    for (const auto& node : children()) {
      const std::int64_t held = overlap(*node, rank);
      if (held == 0) continue;
      walk(*node, [&bytes, held](const Module& module, const ModulePath&) {
        for (const Parameter& parameter : module.parameters()) {
          bytes += held * parameter.local_bytes();
        }
      });
    }
    if (bytes > best_bytes) {
      best_bytes = bytes;
      best_rank = rank;
    }
    if (children().size() == 1) break;  // all ranks are alike
  }
  for (const auto& node : children()) node->set_local_count(overlap(*node, best_rank));
}

// --- fused ---------------------------------------------------------------------------------------

FusedMoe::FusedMoe(Module& original, MoeConfig config, MoeFieldNames names, bool route_in_block,
                   double skew)
    : ModuleOf("FusedMoe"), config_{config, std::move(names), route_in_block, skew, {}, {}} {
  take_over(original);
}

ExpertRouting FusedMoe::routing(const Workload& workload, std::int64_t tokens) const {
  ExpertRouting routing;
  routing.tokens = static_cast<double>(tokens);
  routing.num_experts = config_.num_experts;
  routing.top_k = config_.top_k;
  routing.skew = config_.skew;
  routing.ranks = config_.parallel.expert_group.size;
  // Replicas that share the experts route their tokens together; the slices of a tensor-parallel
  // group are slices of the same tokens.
  const std::int64_t sharing =
      config_.parallel.expert_group.size / config_.parallel.token_slices.size;
  if (sharing == 1) return routing;
  const std::int64_t all = workload.requests > 0
                               ? workload.requests
                               : checked_mul(workload.batch, config_.parallel.replicas, "requests");
  const std::int64_t requests = sharing * (all / config_.parallel.replicas) +
                                std::min(sharing, all % config_.parallel.replicas);
  routing.tokens *= static_cast<double>(requests) / static_cast<double>(workload.batch);
  return routing;
}

void FusedMoe::list_attributes(std::vector<Attribute>& list) const {
  list_moe_attributes(list, config_, config_.names);
  const ExpertParallel& parallel = config_.parallel;
  if (parallel != ExpertParallel{}) {
    list.push_back({"parallel", fmt::format("ep {} x tp {}", parallel.expert_group.size,
                                            parallel.tensor_group.size)});
  }
}

std::string FusedMoe::fault() const {
  return Requirements(*this, moe_fault(*this, config_, config_.names))
      .child_of_class<ExpertsModule>(config_.names.experts)
      .fault();
}

Value FusedMoe::forward(Trace& trace, Value input) const {
  const Shape shape = trace.shape(input);
  const std::int64_t hidden = shape[1];
  const std::int64_t ranks = config_.parallel.expert_group.size;
  const std::int64_t tokens = ceil_div(shape[0], config_.parallel.token_slices.size);
  const DType dtype = trace.dtype(input);

  const RankGroup slices = config_.parallel.token_slices;
  const Value x = trace.collective(CollectiveKind::slice, input,
                                   bytes_of(checked_mul(tokens, hidden, "rows"), dtype),
                                   slices.size, slices.stride, {tokens, hidden});
  const Module& gate = child(config_.names.gate);
  const Value logits = gate(trace, x);
  Value weights;
  if (config_.route_in_block) {
    weights = route(trace, config_, logits, gate);
  } else {
    const ScopeGuard scope(trace, gate.name(), gate.class_name(), false);
    weights = route(trace, config_, logits, gate);
  }

  const std::int64_t sent = checked_mul(tokens, config_.top_k, "routed rows");
  Permute permute;
  permute.tokens = tokens;
  permute.rows = sent;
  permute.width = hidden;
  permute.dtype = dtype;
  Value rows = trace.emit(permute, {x, indices_of(weights)}, {sent, hidden}, dtype);
  trace.add_result({config_.num_experts}, DType::i32);
  const Value sent_counts = counts_of(rows);
  Value counts = sent_counts;

  // What pads the last slice of the tokens is not priced; executed it goes to experts too, and
  // there is room for it.
  checked_mul(checked_mul(shape[0], config_.top_k, "routed rows"), ranks, "routed rows");
  ExpertLoad load = expert_load(routing(trace.workload(), shape[0]));
  auto received = static_cast<std::int64_t>(std::ceil(load.rows));
  // Executed, the experts of one rank may be chosen by every token of the group.
  if (trace.workload().executes) {
    const std::int64_t local = ceil_div(config_.num_experts, ranks);
    received = checked_mul(checked_mul(tokens, ranks, "routed rows"),
                           std::min(config_.top_k, local), "routed rows");
    load.rows = static_cast<double>(received);
  }
  const std::int64_t sent_bytes =
      bytes_of(checked_mul(std::max(sent, received), hidden, "rows"), dtype);
  Collective exchange;
  exchange.kind = CollectiveKind::all_to_all;
  exchange.bytes = sent_bytes;
  exchange.group_size = ranks;
  exchange.stride = config_.parallel.expert_group.stride;
  exchange.dtype = dtype;
  if (ranks > 1) {
    rows = trace.emit(exchange, {rows, sent_counts}, {received, hidden}, dtype);
    counts = trace.add_result({ceil_div(config_.num_experts, ranks)}, DType::i32);
  }
  const auto& experts = child_as<ExpertsModule>(config_.names.experts);
  rows = experts.run(trace, rows, counts, load);
  exchange.returns = true;
  if (ranks > 1) rows = trace.emit(exchange, {rows, sent_counts}, {sent, hidden}, dtype);

  Combine combine;
  combine.tokens = tokens;
  combine.rows = sent;
  combine.width = hidden;
  combine.dtype = dtype;
  Value out = trace.emit(combine, {rows, weights, indices_of(weights)}, {tokens, hidden}, dtype);
  const bool reduce_together = config_.reduce_group.size > 1;
  if (!reduce_together) {
    out = trace.collective(
        CollectiveKind::all_reduce, out, bytes_of(checked_mul(tokens, hidden, "rows"), dtype),
        config_.parallel.tensor_group.size, config_.parallel.tensor_group.stride, {tokens, hidden});
  }
  out = trace.collective(CollectiveKind::all_gather, out, bytes_of(shape.elements(), dtype),
                         slices.size, slices.stride, shape);

  out = add_shared_experts(trace, *this, config_.names, input, out);
  if (!reduce_together) return out;
  return trace.collective(CollectiveKind::all_reduce, out, bytes_of(shape.elements(), dtype),
                          config_.reduce_group.size, config_.reduce_group.stride, shape);
}

void FusedMoe::shard(const Layout& layout, ShardReport& report) {
  const RankGroup tensor_parallel = layout.group(ParallelAxis::tp);
  const ExpertParallel parallel{layout.group(ParallelAxis::ep), layout.group(ParallelAxis::etp),
                                layout.token_slices(), layout.size(ParallelAxis::dp)};
  const std::string path = report.path();
  config_.parallel = parallel;
  auto& experts = child_as<ExpertsModule>(config_.names.experts);
  const std::string experts_path = path + "." + config_.names.experts;
  experts.shard_tensor(parallel.tensor_group, experts_path);
  experts.shard_experts(parallel.expert_group, experts_path);
  // When routed and shared experts are cut over the same ranks, their partial sums are added first
  // and reduced once.
  if (parallel.tensor_group.size > 1 && parallel.tensor_group == tensor_parallel &&
      parallel.token_slices.size == 1) {
    config_.reduce_group = tensor_parallel;
  }
  if (auto* shared = find_child(config_.names.shared_experts)) {
    auto* mlp = dynamic_cast<Mlp*>(shared);
    if (mlp != nullptr && tensor_parallel.size > 1) {
      mlp->shard_width(tensor_parallel, config_.reduce_group.size == 1,
                       path + "." + config_.names.shared_experts);
    }
  }
  if (parallel == ExpertParallel{}) return;
  report.cut(fmt::format("experts over ep {} x tp {}", parallel.expert_group.size,
                         parallel.tensor_group.size));
}

// --- attributes ----------------------------------------------------------------------------------

void list_moe_attributes(std::vector<Attribute>& list, const MoeConfig& config,
                         const MoeFieldNames& names) {
  list.push_back({"num_experts", config.num_experts});
  list.push_back({names.top_k, config.top_k});
  list.push_back({names.norm_topk_prob, config.normalize});
  list.push_back({"scoring_func", std::string(name_of(config.score))});
  if (config.groups > 1) {
    list.push_back({"n_group", config.groups});
    list.push_back({"topk_group", config.topk_groups});
    if (config.group_best != 2) list.push_back({"group_best", config.group_best});
  }
  if (config.correction_bias) list.push_back({"correction_bias", true});
  if (config.scale != 1) list.push_back({"routed_scaling_factor", config.scale});
}

std::optional<MoeConfig> moe_config_of(const Module& block, const MoeFieldNames& names,
                                       std::string& missing) {
  MoeConfig config;
  const std::optional<std::int64_t> top_k = block.int_attribute(names.top_k);
  if (!top_k) {
    std::vector<std::string> present;
    for (const Attribute& attribute : block.attributes()) present.push_back(attribute.name);
    missing = fmt::format("no attribute '{}' (it has {})", names.top_k, join(present, ", "));
    return std::nullopt;
  }
  for (const std::string& required : {names.gate, names.experts}) {
    if (block.find_child(required) == nullptr) {
      missing = fmt::format("no child '{}' (it has {})", required, join(block.child_names(), ", "));
      return std::nullopt;
    }
  }
  config.top_k = *top_k;
  config.num_experts =
      block.int_attribute("num_experts").value_or(block.child(names.experts).list_size());
  config.normalize = block.bool_attribute(names.norm_topk_prob).value_or(false);
  const std::string score = block.string_attribute("scoring_func").value_or("softmax");
  const std::optional<RouterScore> known = parse_router_score(score);
  if (!known) {
    throw Error(
        fmt::format("'{}' has the scoring_func '{}'", printable(block.class_name()),
                    printable(score)),
        did_you_mean(score, router_score_names(), "known are " + join(router_score_names(), ", ")));
  }
  config.score = *known;
  config.groups = block.int_attribute("n_group").value_or(1);
  config.topk_groups = block.int_attribute("topk_group").value_or(1);
  config.group_best = block.int_attribute("group_best").value_or(2);
  config.correction_bias = block.bool_attribute("correction_bias").value_or(false);
  config.scale = block.number_attribute("routed_scaling_factor").value_or(1);
  return config;
}

}  // namespace tcast
