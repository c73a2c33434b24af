#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "tcast/exec/run/executor.h"
#include "tcast/exec/timing/timer.h"
#include "tcast/graph/graph.h"
#include "tcast/model/parameter_paths.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// Token ids, one list per request.
using TokenIds = std::vector<std::vector<std::int64_t>>;
/// Logits of the last token of each request: [request][vocabulary].
using LogitRows = std::vector<std::vector<float>>;

/// What multi-token-prediction depth `depth` (1, 2, ...) embeds: for each request the tokens that
/// lie `depth` behind those that Generation::step() was given. Called when the logits of the depths
/// before are known.
using FollowingTokens = std::function<TokenIds(std::int64_t depth)>;

/// Executes requests on a model as it stands, transformed or not: a prompt, then token after token
/// through the caches. The ranks of a sharded model run in this process. Keeps a reference to the
/// model, which must not change meanwhile.
class Generation {
 public:
  /// `requests` of at most `max_sequence_length` tokens each. Of `options`, the arithmetic and the
  /// routing function count; the latter is told the first token among those of all requests, and no
  /// tokens that only pad a rank's share. Throws Error when the requests cannot be spread evenly
  /// over the data-parallel replicas, and when the model has no vocabulary.
  Generation(const TransformerModel& model, std::int64_t requests, std::int64_t max_sequence_length,
             ExecutorOptions options = {});
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  /// What executing a prompt of `input_length` tokens and the rest will take at most, on all ranks
  /// together; of what takes more than `limit_bytes`, at least that (see Executor::needed).
  ExecutorMemory memory_needed(std::int64_t input_length, std::int64_t limit_bytes);
  /// Throws Error with the figures when this host has not that much.
  void require_memory(std::int64_t input_length);

  /// Makes kernels and weights for a prompt of `input_length` tokens, so that step() only executes.
  void prepare(std::int64_t input_length);

  /// Adds tokens, equally many to every request, and returns the logits after the last of them.
  /// With multi-token prediction, a step of up to 1 + --num-mtp-tokens tokens is a decode step.
  LogitRows step(const TokenIds& tokens, const FollowingTokens& following = {});
  /// Forgets the last `tokens` tokens of each request.
  void take_back(std::int64_t tokens);
  /// Forgets all tokens, so that the next step() is a prompt again. Weights stay.
  void restart() { length_ = 0; }
  /// Logits of the last step() by the model (depth 0) or a depth of multi-token prediction, for
  /// each request: of the last token of a prompt, of every token of a decode step and of an
  /// untransformed model.
  std::vector<LogitRows> logits(std::int64_t depth = 0) const;
  /// Tokens that the model as it stands predicts beyond the next one: depths that have logits.
  std::int64_t mtp_tokens() const;
  /// Seconds that the forward pass of the last step() took.
  const Sample& last_step() const { return last_step_; }

  std::int64_t ranks() const { return ranks_; }
  std::int64_t vocabulary() const { return vocabulary_; }
  const Executor& executor() const { return *executor_; }
  Executor& executor() { return *executor_; }

 private:
  Workload workload(std::int64_t query_length, std::int64_t context_length) const;
  /// Tokens of every request as ids of each rank.
  TokenIds ids_of_ranks(const TokenIds& tokens) const;

  const TransformerModel& model_;
  std::int64_t requests_;
  std::int64_t max_sequence_length_;
  std::int64_t ranks_ = 1;
  std::int64_t replicas_ = 1;
  std::int64_t vocabulary_ = 0;
  std::int64_t row_width_ = std::numeric_limits<std::int64_t>::max();  ///< of a result, at most
  std::int64_t length_ = 0;                                            ///< tokens in the caches
  std::int64_t tokens_per_replica_ = 0;                                ///< of the current step
  Graph prefill_;
  Graph decode_;
  std::unique_ptr<Executor> executor_;
  Sample last_step_{};
};

}  // namespace tcast
