#include "app/generation.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/cost/memory.h"
#include "tcast/exec/kernel.h"

namespace tcast {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// True when the model has been spread over the devices of its options.
bool is_sharded(const TransformerModel& model) {
  return std::any_of(model.reports().begin(), model.reports().end(), [](const StepReport& report) {
    return report.step == "shard_model" && !report.disabled;
  });
}

}  // namespace

Generation::Generation(const TransformerModel& model, std::int64_t requests,
                       std::int64_t max_sequence_length, ExecutorOptions options)
    : model_(model), requests_(requests), max_sequence_length_(max_sequence_length) {
  if (is_sharded(model)) {
    ranks_ = model.options().parallel.devices();
    replicas_ = model.options().parallel.dp();
  }
  if (requests % replicas_ != 0) {
    throw Error(fmt::format("{} requests cannot be spread evenly over {} data-parallel replicas",
                            requests, replicas_),
                fmt::format("choose --batch-size as a multiple of {}", replicas_));
  }
  vocabulary_ = model.config().get_size("vocab_size");
  options.ranks = ranks_;
  options.max_sequence_length = max_sequence_length;
  if (options.arithmetic == Arithmetic::unrounded) host_ = {.bf16 = false, .int8 = false};
  if (options.on_route) {
    options.on_route = [this, report = std::move(options.on_route)](const RoutingCall& call) {
      RoutingCall of_all = call;
      of_all.tokens =
          std::clamp<std::int64_t>(tokens_per_replica_ - call.first_token, 0, call.tokens);
      of_all.first_token += call.rank * replicas_ / ranks_ * tokens_per_replica_;
      report(of_all);
    };
  }
  ParameterPath path = ParameterPaths(model.root());
  if (model.names() != nullptr) {
    path = [names = model.names(), paths = std::move(path)](
               const Parameter& parameter, std::int64_t layer, std::int64_t member) {
      return names->checkpoint_name(paths(parameter, layer, member));
    };
  }
  executor_ = std::make_unique<Executor>(std::move(path), std::move(options));
}

Workload Generation::workload(std::int64_t query_length, std::int64_t context_length) const {
  Workload work;
  // More than one token at a time is (a part of) a prompt, whatever is in the caches already.
  work.phase = context_length == 0 || query_length > 1 ? Phase::prefill : Phase::decode;
  work.batch = requests_ / replicas_;
  work.query_length = query_length;
  work.context_length = context_length;
  work.executes = true;
  return work;
}

ExecutionMemory Generation::memory_needed(std::int64_t input_length) const {
  ExecutionMemory need;
  Graph graph;
  model_.trace(workload(input_length, 0), graph);
  // Ranks hold what is not cut only once; cut parameters together make up the whole.
  for (const NamedParameter& named : model_.parameters()) {
    const Parameter& parameter = *named.parameter;
    // A tied head is packed for its product, beside the embedding's plain rows.
    need.weight_bytes =
        checked_add(need.weight_bytes,
                    bytes_of(parameter.shape.elements(), substitute_dtype(parameter.dtype, host_)));
  }
  const double widened = 8.0 *
                         static_cast<double>(bytes_of(1, substitute_dtype(DType::bf16, host_))) /
                         bits_of(DType::bf16);
  need.cache_bytes = checked_mul(
      static_cast<std::int64_t>(widened * static_cast<double>(cache_bytes(
                                              graph, graph.workload.batch, max_sequence_length_))),
      ranks_);
  MemoryPlanner planner;
  need.activation_bytes = checked_mul(
      static_cast<std::int64_t>(widened * static_cast<double>(planner.peak_of(graph).bytes)),
      ranks_);
  return need;
}

void Generation::prepare(std::int64_t input_length) {
  model_.trace(workload(input_length, 0), prefill_);
  executor_->prepare(prefill_);
  if (input_length < max_sequence_length_) {
    model_.trace(workload(1, input_length), decode_);
    executor_->prepare(decode_);
  }
}

LogitRows Generation::step(const TokenIds& tokens) {
  TCAST_CHECK(static_cast<std::int64_t>(tokens.size()) == requests_, "tokens of every request");
  const auto count = static_cast<std::int64_t>(tokens[0].size());
  TCAST_CHECK(length_ + count <= max_sequence_length_, "room for the tokens");
  const Workload work = workload(count, length_);
  Graph& graph = work.phase == Phase::prefill ? prefill_ : decode_;
  model_.trace(work, graph);
  const std::int64_t per_replica = requests_ / replicas_;
  const std::int64_t ranks_per_replica = ranks_ / replicas_;
  TokenIds ids(static_cast<std::size_t>(ranks_));
  for (std::int64_t rank = 0; rank < ranks_; ++rank) {
    for (std::int64_t i = 0; i < per_replica; ++i) {
      const auto& list =
          tokens[static_cast<std::size_t>(rank / ranks_per_replica * per_replica + i)];
      TCAST_CHECK(static_cast<std::int64_t>(list.size()) == count, "equally many tokens");
      auto& all = ids[static_cast<std::size_t>(rank)];
      all.insert(all.end(), list.begin(), list.end());
    }
  }
  tokens_per_replica_ = per_replica * count;
  const double start = now_s();
  executor_->run(graph, ids);
  last_step_s_ = now_s() - start;
  length_ += count;

  return rows_of("logits");
}

LogitRows Generation::rows_of(std::string_view name) const {
  LogitRows rows;
  if (!executor_->has_output(name)) return rows;
  const std::int64_t per_replica = requests_ / replicas_;
  // Rows of a head are padded to divide over the ranks; untransformed models give all rows.
  const Shape shape = executor_->output_shape(name);
  const std::int64_t width = shape[shape.rank() - 1];
  const std::int64_t rows_per_request = shape.elements() / width / per_replica;
  for (std::int64_t replica = 0; replica < replicas_; ++replica) {
    const std::vector<float> logits = executor_->output(name, replica * ranks_ / replicas_);
    for (std::int64_t i = 0; i < per_replica; ++i) {
      const float* row = logits.data() + ((i + 1) * rows_per_request - 1) * width;
      rows.emplace_back(row, row + std::min(vocabulary_, width));
    }
  }
  return rows;
}

}  // namespace tcast
