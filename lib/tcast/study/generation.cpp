#include "tcast/study/generation.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/timing/host.h"
#include "tcast/model/decoder.h"

namespace tcast {

Generation::Generation(const TransformerModel& model, std::int64_t requests,
                       std::int64_t max_sequence_length, ExecutorOptions options)
    : model_(model), requests_(requests), max_sequence_length_(max_sequence_length) {
  if (model.is_sharded()) {
    ranks_ = model.layout().devices();
    replicas_ = model.layout().size(ParallelAxis::dp);
  }
  if (requests % replicas_ != 0) {
    throw Error(fmt::format("{} requests cannot be spread evenly over {} data-parallel replicas",
                            requests, replicas_),
                fmt::format("choose --batch-size as a multiple of {}", replicas_));
  }
  vocabulary_ = model.config().get_size("vocab_size");
  // Other results than logits have no vocabulary that could be padded.
  if (model.generates()) row_width_ = vocabulary_;
  options.ranks = ranks_;
  options.max_sequence_length = max_sequence_length;
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
  // More tokens at a time are (a part of) a prompt, whatever is in the caches already.
  const std::int64_t most = 1 + model_.options().num_mtp_tokens;
  work.phase = context_length == 0 || query_length > most ? Phase::prefill : Phase::decode;
  work.batch = requests_ / replicas_;
  work.query_length = query_length;
  work.context_length = context_length;
  work.executes = true;
  return work;
}

ExecutorMemory Generation::memory_needed(std::int64_t input_length, std::int64_t limit_bytes) {
  model_.trace(workload(input_length, 0), prefill_);
  ExecutorMemory need = executor_->needed(prefill_, limit_bytes);
  if (input_length < max_sequence_length_ && need.total_bytes() <= limit_bytes) {
    // The last step sees most tokens.
    const std::int64_t tokens = std::min(1 + mtp_tokens(), max_sequence_length_ - input_length);
    model_.trace(workload(tokens, max_sequence_length_ - tokens), decode_);
    need = executor_->needed(decode_, limit_bytes);
  }
  return need;
}

void Generation::require_memory(std::int64_t input_length) {
  const std::optional<std::int64_t> known = host_features().available_bytes;
  if (!known) return;
  // Code of kernels, stacks and what the system keeps of the pages count for limits as well.
  constexpr std::int64_t process_bytes = std::int64_t{32} << 20;
  const std::int64_t available = std::max<std::int64_t>(0, *known - *known / 128 - process_bytes);
  const ExecutorMemory need = memory_needed(input_length, available);
  if (need.total_bytes() <= available) return;
  const char* const hint =
      "choose fewer layers (--num-hidden-layers N), a smaller batch or shorter requests";
  if (need.weight_bytes == 0) {
    throw Error(fmt::format("executing takes {} for activations alone; this host has {} available",
                            format_bytes(static_cast<double>(need.activation_bytes)),
                            format_bytes(static_cast<double>(available))),
                hint);
  }
  throw Error(
      fmt::format("executing takes {}: weights {}, KV cache {}, activations {}; this host has {} "
                  "available",
                  format_bytes(static_cast<double>(need.total_bytes())),
                  format_bytes(static_cast<double>(need.weight_bytes)),
                  format_bytes(static_cast<double>(need.cache_bytes)),
                  format_bytes(static_cast<double>(need.activation_bytes)),
                  format_bytes(static_cast<double>(available))),
      hint);
}

void Generation::prepare(std::int64_t input_length) {
  model_.trace(workload(input_length, 0), prefill_);
  executor_->prepare(prefill_);
  if (input_length < max_sequence_length_) {
    model_.trace(workload(1 + mtp_tokens(), input_length), decode_);
    executor_->prepare(decode_);
  }
}

std::int64_t Generation::mtp_tokens() const {
  const auto* wrapper = dynamic_cast<const LanguageModelWrapper*>(&model_.root());
  return wrapper == nullptr ? 0 : wrapper->mtp_tokens();
}

TokenIds Generation::ids_of_ranks(const TokenIds& tokens) const {
  TCAST_CHECK(static_cast<std::int64_t>(tokens.size()) == requests_, "tokens of every request");
  const std::int64_t per_replica = requests_ / replicas_;
  const std::int64_t ranks_per_replica = ranks_ / replicas_;
  TokenIds ids(static_cast<std::size_t>(ranks_));
  for (std::int64_t rank = 0; rank < ranks_; ++rank) {
    for (std::int64_t i = 0; i < per_replica; ++i) {
      const auto& list =
          tokens[static_cast<std::size_t>(rank / ranks_per_replica * per_replica + i)];
      TCAST_CHECK(list.size() == tokens[0].size(), "equally many tokens");
      auto& all = ids[static_cast<std::size_t>(rank)];
      all.insert(all.end(), list.begin(), list.end());
    }
  }
  return ids;
}

LogitRows Generation::step(const TokenIds& tokens, const FollowingTokens& following) {
  const auto count = static_cast<std::int64_t>(tokens.at(0).size());
  TCAST_CHECK(length_ + count <= max_sequence_length_, "room for the tokens");
  const Workload work = workload(count, length_);
  Graph& graph = work.phase == Phase::prefill ? prefill_ : decode_;
  model_.trace(work, graph);
  tokens_per_replica_ = requests_ / replicas_ * count;
  const Moment start = process_moment();
  executor_->run(graph, ids_of_ranks(tokens),
                 [&](std::int64_t depth) { return ids_of_ranks(following(depth)); });
  last_step_ = between(start, process_moment());
  length_ += count;

  LogitRows last;
  for (LogitRows& rows : logits()) last.push_back(std::move(rows.back()));
  return last;
}

void Generation::take_back(std::int64_t tokens) {
  TCAST_CHECK(tokens <= length_, "there are as many tokens");
  length_ -= tokens;
}

std::vector<LogitRows> Generation::logits(std::int64_t depth) const {
  std::vector<LogitRows> all;
  const std::int64_t per_replica = requests_ / replicas_;
  // Rows of a head are padded to divide over the ranks.
  const Shape shape = executor_->logits_shape(depth);
  const std::int64_t width = shape[shape.rank() - 1];
  const std::int64_t rows_per_request = shape.elements() / width / per_replica;
  for (std::int64_t replica = 0; replica < replicas_; ++replica) {
    const std::vector<float> values = executor_->logits(replica * ranks_ / replicas_, depth);
    const float* row = values.data();
    for (std::int64_t i = 0; i < per_replica; ++i) {
      LogitRows& rows = all.emplace_back();
      for (std::int64_t k = 0; k < rows_per_request; ++k, row += width) {
        rows.emplace_back(row, row + std::min(row_width_, width));
      }
    }
  }
  return all;
}

}  // namespace tcast
