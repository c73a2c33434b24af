#include "tcast/exec/run/executor.h"

#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <utility>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/exec/kernels/buffer_values.h"
#include "tcast/exec/kernels/op_check.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/run/activation_memory.h"
#include "tcast/exec/run/collectives.h"
#include "tcast/exec/run/input_filler.h"
#include "tcast/exec/run/op_preparer.h"
#include "tcast/exec/run/pass_values.h"
#include "tcast/exec/run/program.h"
#include "tcast/exec/run/rotary_tables.h"
#include "tcast/exec/run/state_pool.h"
#include "tcast/exec/run/weight_bank.h"
#include "tcast/exec/run/weights.h"

namespace tcast {
namespace {

HostDTypes host_for(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::unrounded ? HostDTypes{.bf16 = false, .int8 = false}
                                             : HostDTypes{};
}

std::int64_t parameter_bytes(const Region& region, const Op& op, const CallBuffers& buffers) {
  std::int64_t bytes = 0;
  for (const TensorId id : op.inputs) {
    if (region.tensors[id].kind == TensorKind::parameter) bytes += buffers[id].bytes;
  }
  return bytes;
}

/// Bytes of the experts to which tokens went.
double expert_bytes(const Region& region, const Op& op, const GroupedMatMul& product,
                    const CallBuffers& buffers) {
  std::int64_t chosen = 0;
  for (std::int64_t i = 0; i < product.experts; ++i) {
    chosen += index_at(buffers[op.inputs[2]], product.first_expert + i) > 0 ? 1 : 0;
  }
  return static_cast<double>(parameter_bytes(region, op, buffers)) * static_cast<double>(chosen) /
         static_cast<double>(product.experts);
}

/// Where the rows of a router begin among the tokens of its rank: ranks that have the same tokens
/// may have shared them out before.
std::int64_t first_token(const Region& region, const Op& op, std::int64_t tokens,
                         std::int64_t rank) {
  for (auto i = static_cast<std::size_t>(&op - region.ops.data()); i-- > 0;) {
    const auto* shared = std::get_if<Collective>(&region.ops[i].record);
    if (shared == nullptr || shared->kind != CollectiveKind::slice) continue;
    if (region.tensors[region.ops[i].outputs[0]].shape[0] != tokens) continue;
    return rank / shared->stride % shared->group_size * tokens;
  }
  return 0;
}

/// An op's operands, and the scales that are known when it runs only.
struct RunOperands {
  std::array<Buffer, max_operands + 2> inputs;
  std::size_t used = 0;
  std::array<Buffer, max_operands> outputs;
  std::size_t results = 0;
  Cache* cache = nullptr;
  float fixed_scale = 0;

  void add(const Buffer& buffer) { inputs[used++] = buffer; }
  /// Of an activation; `known` 0: all zeros, so there is nothing to learn from, and nothing to
  /// scale.
  void add_scale(float known) {
    fixed_scale = known > 0 ? known : 1.0f;
    add({static_cast<std::byte*>(static_cast<void*>(&fixed_scale)), 4, DType::f32, {}});
  }
};

}  // namespace

class Executor::Impl {
 public:
  Impl(ParameterPath path, ExecutorOptions options)
      : options_(checked(std::move(options))),
        host_(host_for(options_.arithmetic)),
        preparer_(options_, host_),
        activations_(options_.ranks, host_),
        weights_(std::move(path), options_.arithmetic, host_, long_lived_),
        states_(options_.max_sequence_length, host_, long_lived_),
        rotary_(options_.context),
        logits_(options_.ranks) {}

  void prepare(const Graph& graph) {
    Program& program = plan_memory(graph);
    make_kernels(graph, program);
    activations_.allocate();
    grow(scratch_, preparer_.scratch_bytes());
    bind(graph, program, !program.bound);
    program.bound = true;
    last_ = &program;
  }

  ExecutorMemory needed(const Graph& graph, std::int64_t limit_bytes) {
    Program& program = plan_memory(graph);
    ExecutorMemory memory;
    memory.activation_bytes = activations_.planned_bytes();
    if (memory.activation_bytes > limit_bytes) return memory;
    make_kernels(graph, program);
    rotary_.begin_graph();
    for (std::size_t call = 0; call < graph.calls.size(); ++call) {
      const PreparedRegion& prepared = program.regions[graph.calls[call].region];
      for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
        foresee(graph, call, prepared, rank);
      }
    }
    logits_bytes_ = std::max(logits_bytes_, logits_bytes(graph));
    memory.weight_bytes = weights_.foreseen_bytes() + rotary_.foreseen_bytes();
    memory.cache_bytes = states_.foreseen_bytes();
    memory.activation_bytes +=
        logits_bytes_ * options_.ranks + preparer_.scratch_bytes() + kernel_bytes() + check_bytes_;
    return memory;
  }

  void run(const Graph& graph, const std::vector<std::vector<std::int64_t>>& token_ids,
           const FollowingIds& following) {
    prepare(graph);
    Program& program = *last_;
    set_token_ids(graph, program, activations_, 0, token_ids);
    for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
      set_inputs(graph, program, activations_, rank);
    }
    graph_ = &graph;
    ++program.passes;
    logits_.begin(graph);
    std::int64_t depth = 0;
    for (std::size_t call = 0; call < graph.calls.size(); ++call) {
      // Depths are executed in their order.
      if (takes_token_ids(graph, graph.calls[call], depth + 1)) {
        ++depth;
        set_token_ids(graph, program, activations_, depth, following(depth));
      }
      run_call(program, call);
      logits_.keep(graph, program, activations_, graph.calls[call]);
    }
    graph_ = nullptr;
  }

  const LogitsStore& logits() const { return logits_; }

  std::vector<OpTime> times() const {
    std::vector<OpTime> list;
    for (const auto& [key, time] : times_) list.push_back(time);
    return list;
  }
  void reset_times() {
    times_.clear();
    for (Program& program : programs_) {
      program.expert_bytes = 0;
      program.passes = 0;
    }
  }
  const WorstOp& worst_op() const { return worst_; }

  ExecutorMemory memory() const {
    ExecutorMemory memory;
    memory.weight_bytes = weights_.held_bytes() + rotary_.held_bytes();
    memory.cache_bytes = states_.held_bytes();
    memory.activation_bytes =
        activations_.held_bytes() + logits_.held_bytes() + scratch_.bytes() + kernel_bytes();
    return memory;
  }

  const std::vector<std::string>& notes() const { return preparer_.notes(); }
  double weight_bytes_per_pass() const {
    if (last_ == nullptr) return 0;
    const double experts =
        last_->passes > 0 ? last_->expert_bytes / static_cast<double>(last_->passes) : 0;
    return static_cast<double>(last_->weight_bytes_per_pass) + experts;
  }

 private:
  static ExecutorOptions checked(ExecutorOptions options) {
    TCAST_CHECK(options.ranks >= 1 && options.max_sequence_length >= 1,
                "ranks and longest sequence of an executor");
    return options;
  }

  /// Places for the values of a graph. No memory yet: only `bound` programs have it.
  Program& plan_memory(const Graph& graph) {
    TCAST_CHECK(graph.workload.executes, "a graph that is executed was traced for that");
    require_fillers(graph);
    require_logits(graph);
    Program& program = programs_[static_cast<std::size_t>(graph.workload.phase)];
    bool same = program.regions.size() == graph.region_count &&
                program.value_offsets.size() == graph.values.size();
    for (std::size_t i = 0; same && i < graph.region_count; ++i) {
      same = program.regions[i].ops.size() == graph.regions[i].ops.size();
    }
    if (!same) program = Program{};
    program.regions.resize(graph.region_count);
    activations_.plan(graph, program);
    return program;
  }

  void make_kernels(const Graph& graph, Program& program) {
    for (std::uint32_t i = 0; i < graph.region_count; ++i) {
      if (preparer_.prepare(graph.regions[i], program.regions[i])) program.bound = false;
    }
  }

  /// Of their own, beside the scratch memory.
  std::int64_t kernel_bytes() const {
    std::int64_t bytes = 0;
    for (const Program& program : programs_) {
      for (const PreparedRegion& region : program.regions) {
        for (const PreparedOp& op : region.ops) {
          if (op.kernel != nullptr) bytes += op.kernel->held_bytes();
        }
      }
    }
    return bytes;
  }

  /// Notes what one rank will hold for a call.
  void foresee(const Graph& graph, std::size_t call, const PreparedRegion& prepared,
               std::int64_t rank) {
    const Region& region = graph.regions[graph.calls[call].region];
    const std::int64_t layer = graph.calls[call].member;
    for (std::size_t index = 0; index < region.ops.size(); ++index) {
      const Op& op = region.ops[index];
      const PreparedOp& ready = prepared.ops[index];
      std::int64_t changed_bytes = 0;  // by the op
      for (const TensorId id : op.outputs) changed_bytes += host_bytes(region.tensors[id], host_);
      for (const int i : ready.inputs) {
        const Tensor& tensor = region.tensors[op.inputs[i]];
        if (tensor.kind == TensorKind::cache) {
          changed_bytes += states_.foresee(graph, call, tensor, rank);
        } else if (tensor.kind == TensorKind::parameter) {
          weights_.foresee(tensor, ready, i, layer, rank);
        }
      }
      if (const auto* table = std::get_if<RotaryTable>(&ready.record);
          table != nullptr && table->cached) {
        const Tensor& frequencies = region.tensors[op.inputs[1]];
        rotary_.foresee(*table, graph.constants.at(static_cast<std::size_t>(frequencies.index)));
      }
      // What it was, and what the plain loops make of it.
      if (ready.checked) check_bytes_ = std::max(check_bytes_, 2 * changed_bytes);
    }
  }

  // --- binding -----------------------------------------------------------------------------------

  void bind(const Graph& graph, Program& program, bool weights) {
    program.calls.resize(graph.calls.size());
    program.scales.resize(graph.calls.size());
    if (weights) program.weight_bytes_per_pass = 0;
    for (std::size_t c = 0; c < graph.calls.size(); ++c) {
      program.calls[c].resize(static_cast<std::size_t>(options_.ranks));
      program.scales[c].resize(static_cast<std::size_t>(options_.ranks));
      for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
        CallBuffers& buffers = program.calls[c][static_cast<std::size_t>(rank)];
        activations_.bind(graph, program, graph.calls[c], rank, buffers);
        if (weights) bind_weights(graph, program, c, rank, buffers);
      }
    }
  }

  /// And makes the caches of the call.
  void bind_weights(const Graph& graph, Program& program, std::size_t call, std::int64_t rank,
                    CallBuffers& buffers) {
    const Region& region = graph.regions[graph.calls[call].region];
    const PreparedRegion& prepared = program.regions[graph.calls[call].region];
    const std::int64_t layer = graph.calls[call].member;
    for (std::size_t index = 0; index < region.ops.size(); ++index) {
      const Op& op = region.ops[index];
      const PreparedOp& ready = prepared.ops[index];
      for (const TensorId id : op.inputs) {
        if (region.tensors[id].kind != TensorKind::cache) continue;
        states_.cache(graph, call, region.tensors[id], rank);
      }
      for (int i = 0; i < op.inputs.count; ++i) {
        const TensorId id = op.inputs[i];
        if (region.tensors[id].kind != TensorKind::parameter) continue;
        if (std::find(ready.inputs.begin(), ready.inputs.end(), i) == ready.inputs.end()) continue;
        buffers[id] = weights_.weight(region, op, ready, i, layer, rank, ready.packs(i));
      }
      if (std::holds_alternative<Gather>(op.record) ||
          std::holds_alternative<GroupedMatMul>(op.record)) {
        continue;  // do not read all of their weights
      }
      program.weight_bytes_per_pass += parameter_bytes(region, op, buffers);
    }
  }

  // --- execution ---------------------------------------------------------------------------------

  void run_call(Program& program, std::size_t index) {
    const Call& call = graph_->calls[index];
    const Region& region = graph_->regions[call.region];
    PreparedRegion& prepared = program.regions[call.region];
    for (std::size_t i = 0; i < region.ops.size(); ++i) {
      const Op& op = region.ops[i];
      PreparedOp& ready = prepared.ops[i];
      const double start = now_s();
      if (const auto* collective = std::get_if<Collective>(&op.record)) {
        run_collective(*collective, op, program.calls[index]);
      } else {
        for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
          run_op(program, index, region, op, ready, rank);
        }
      }
      note_time(region, call.region, i, op, ready, now_s() - start);
      if (const auto* product = std::get_if<GroupedMatMul>(&op.record)) {
        for (const CallBuffers& buffers : program.calls[index]) {
          program.expert_bytes += expert_bytes(region, op, *product, buffers);
        }
      }
    }
    for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
      activations_.hand_on(*graph_, program, call, rank,
                           program.calls[index][static_cast<std::size_t>(rank)]);
    }
  }

  void run_op(Program& program, std::size_t call, const Region& region, const Op& op,
              PreparedOp& ready, std::int64_t rank) {
    const auto r = static_cast<std::size_t>(rank);
    const CallBuffers& buffers = program.calls[call][r];
    RunOperands operands;
    for (const int i : ready.inputs) {
      const Tensor& tensor = region.tensors[op.inputs[i]];
      if (tensor.kind == TensorKind::cache) {
        operands.cache = &states_.cache(*graph_, call, tensor, rank);
        const CacheView& view = operands.cache->view;
        operands.add({view.data, operands.cache->bytes, view.layout.dtype, {}});
      } else {
        operands.add(buffers[op.inputs[i]]);
      }
    }
    for (const TensorId id : op.outputs) operands.outputs[operands.results++] = buffers[id];
    complete(operands, program.scales[call][r], graph_->calls[call].member, region, op, ready,
             rank);
    const KernelArgs args{{operands.inputs.data(), operands.used},
                          {operands.outputs.data(), operands.results},
                          scratch_.span(),
                          operands.cache != nullptr ? &operands.cache->view : nullptr};
    if (ready.checked) {
      check(region, op, ready, args, graph_->calls[call].member, rank);
    } else {
      ready.kernel->run(args);
    }
    if (const auto* route = std::get_if<Route>(&ready.record); route && options_.on_route) {
      options_.on_route({*route, path_of(region, op.scope), graph_->calls[call].member, rank,
                         first_token(region, op, route->tokens, rank), route->tokens,
                         args.inputs[0], route->correction_bias ? args.inputs[1] : Buffer{},
                         args.outputs[0], args.outputs[1], graph_->workload.phase});
    }
  }

  /// Operands that are not in the graph: scales, tables, ids of this rank's part of a table.
  void complete(RunOperands& operands, std::map<TensorId, float>& scales, std::int64_t layer,
                const Region& region, const Op& op, const PreparedOp& ready, std::int64_t rank) {
    if (const auto* quantize = std::get_if<Quantize>(&ready.record)) {
      if (quantize->group >= 0) return;
      float& known = scales[op.outputs[0]];
      if (known == 0) {
        known = states_.activation_scale(region, op, layer, rank, operands.inputs[0]);
      }
      operands.add_scale(known);
    } else if (ready.static_scale) {
      operands.add_scale(scales.at(op.inputs[0]));
    } else if (const auto* append = std::get_if<CacheAppend>(&ready.record)) {
      if (append->cache != DType::i8 || operands.cache->has_scale) return;
      StatePool::set_scale(*operands.cache, {operands.inputs.data(), operands.used});
    } else if (const auto* table = std::get_if<RotaryTable>(&ready.record)) {
      if (!table->cached) return;
      const RotaryTables::Rows rows = rotary_.rows(*table, operands.inputs[1], scratch_.span());
      operands.inputs[1] = rows.cos;
      operands.inputs[2] = rows.sin;
      operands.used = 3;
    } else if (const auto* gather = std::get_if<Gather>(&ready.record); gather && gather->partial) {
      operands.inputs[1] =
          shifted_ids(operands.inputs[1], *region.tensors[op.inputs[0]].parameter, rank);
    }
  }

  void check(const Region& region, const Op& op, const PreparedOp& ready, const KernelArgs& args,
             std::int64_t layer, std::int64_t rank) {
    std::vector<Buffer> plain(args.inputs.begin(), args.inputs.end());
    if (!ready.packed_layout.empty()) {
      plain[1] = weights_.weight(region, op, ready, 1, layer, rank, false);
    }
    const OpCheck checked(ready.record, {plain, args.outputs, {}, args.cache});
    ready.kernel->run(args);
    const double error = checked.error();
    if (error <= worst_.error) return;
    worst_ = {error, std::string(name_of(op.record)), path_of(region, op.scope)};
  }

  /// Ids as indices into a rank's part of the vocabulary.
  Buffer shifted_ids(const Buffer& ids, const Parameter& table, std::int64_t rank) {
    const std::int64_t first = shard_begin(table.shard, 0, rank);
    const std::int64_t count = ids.bytes / bytes_of(1, ids.dtype);
    ids_.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      ids_[static_cast<std::size_t>(i)] = index_at(ids, i) - first;
    }
    return {static_cast<std::byte*>(static_cast<void*>(ids_.data())), count * 8, DType::i64, {}};
  }

  void note_time(const Region& region, std::uint32_t region_index, std::size_t index, const Op& op,
                 const PreparedOp& ready, double seconds) {
    const Phase phase = graph_->workload.phase;
    auto [found, is_new] = times_.try_emplace({phase, region_index, index});
    OpTime& time = found->second;
    if (is_new) {
      time.phase = phase;
      time.name = std::string(name_of(op.record));
      time.op_class = class_of(op.record);
      time.module = path_of(region, op.scope);
      if (ready.kernel != nullptr) time.implementation = ready.kernel->implementation();
    }
    ++time.calls;
    time.total_s += seconds;
  }

  ExecutorOptions options_;
  HostDTypes host_;
  MemoryPool long_lived_;  ///< weights and caches
  OpPreparer preparer_;
  ActivationMemory activations_;
  WeightBank weights_;
  StatePool states_;
  RotaryTables rotary_;
  LogitsStore logits_;
  AlignedMemory scratch_;
  std::vector<std::int64_t> ids_;  ///< of shifted_ids()
  Program programs_[2];            ///< by phase
  Program* last_ = nullptr;
  const Graph* graph_ = nullptr;  ///< during a run
  /// Bytes that needed() has been asked about.
  std::int64_t logits_bytes_ = 0;
  std::int64_t check_bytes_ = 0;
  WorstOp worst_;
  std::map<std::tuple<Phase, std::uint32_t, std::size_t>, OpTime> times_;
};

Executor::Executor(ParameterPath path, ExecutorOptions options)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(options))) {}
Executor::~Executor() = default;

ExecutorMemory Executor::needed(const Graph& graph, std::int64_t limit_bytes) {
  return impl_->needed(graph, limit_bytes);
}
void Executor::prepare(const Graph& graph) { impl_->prepare(graph); }
void Executor::run(const Graph& graph, const std::vector<std::vector<std::int64_t>>& token_ids,
                   const FollowingIds& following) {
  impl_->run(graph, token_ids, following);
}
std::vector<float> Executor::logits(std::int64_t rank, std::int64_t depth) const {
  return impl_->logits().of(depth).values.at(static_cast<std::size_t>(rank));
}
Shape Executor::logits_shape(std::int64_t depth) const { return impl_->logits().of(depth).shape; }
std::vector<OpTime> Executor::times() const { return impl_->times(); }
void Executor::reset_times() { impl_->reset_times(); }
const WorstOp& Executor::worst_op() const { return impl_->worst_op(); }
ExecutorMemory Executor::memory() const { return impl_->memory(); }
const std::vector<std::string>& Executor::notes() const { return impl_->notes(); }
double Executor::weight_bytes_per_pass() const { return impl_->weight_bytes_per_pass(); }

}  // namespace tcast
