#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/exec/executor.h"
#include "tcast/graph/graph.h"
#include "tcast/model/parameter_paths.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// Token ids, one list per request.
using TokenIds = std::vector<std::vector<std::int64_t>>;
/// Logits of the last token of each request: [request][vocabulary].
using LogitRows = std::vector<std::vector<float>>;

/// What executing will take on this host, in bytes over all ranks that share it.
struct ExecutionMemory {
  std::int64_t weight_bytes = 0;
  std::int64_t cache_bytes = 0;
  std::int64_t activation_bytes = 0;

  std::int64_t total_bytes() const { return weight_bytes + cache_bytes + activation_bytes; }
};

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

  /// What executing a prompt of `input_length` tokens and the rest will take.
  ExecutionMemory memory_needed(std::int64_t input_length) const;

  /// Makes kernels and weights for a prompt of `input_length` tokens, so that step() only executes.
  void prepare(std::int64_t input_length);

  /// Adds tokens, equally many to every request, and returns the logits after the last of them.
  LogitRows step(const TokenIds& tokens);
  /// Forgets the tokens, so that the next step() is a prompt again. Weights stay.
  void restart() { length_ = 0; }
  /// The last row of each request of another result of the last step(); nothing if there is none.
  LogitRows rows_of(std::string_view name) const;
  /// Seconds that the forward pass of the last step() took.
  double last_step_s() const { return last_step_s_; }

  std::int64_t ranks() const { return ranks_; }
  std::int64_t vocabulary() const { return vocabulary_; }
  const Executor& executor() const { return *executor_; }
  Executor& executor() { return *executor_; }

 private:
  Workload workload(std::int64_t query_length, std::int64_t context_length) const;

  const TransformerModel& model_;
  std::int64_t requests_;
  std::int64_t max_sequence_length_;
  std::int64_t ranks_ = 1;
  std::int64_t replicas_ = 1;
  std::int64_t vocabulary_ = 0;
  std::int64_t length_ = 0;              ///< tokens in the caches
  std::int64_t tokens_per_replica_ = 0;  ///< of the current step
  HostDTypes host_;
  Graph prefill_;
  Graph decode_;
  std::unique_ptr<Executor> executor_;
  double last_step_s_ = 0;
};

}  // namespace tcast
