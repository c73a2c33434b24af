#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tcast/exec/kernels/kernel.h"
#include "tcast/graph/graph.h"

namespace tcast {

/// The checkpoint's name of a parameter that a region uses: of layer `layer` (-1: outside layers)
/// and, inside it, list entry `member` (an expert; -1: none).
using ParameterPath =
    std::function<std::string(const Parameter& parameter, std::int64_t layer, std::int64_t member)>;

/// Token ids for multi-token-prediction depth `depth` of each rank, as Executor::run takes them.
using FollowingIds = std::function<std::vector<std::vector<std::int64_t>>(std::int64_t depth)>;

/// How the operators of a graph are computed.
enum class Arithmetic : std::uint8_t {
  kernels,    ///< by the kernels, in the dtypes that the graph has
  checked,    ///< the same; what has 8-bit or 16-bit operands is compared with run_reference()
  unrounded,  ///< as if nothing had been quantized: f32 everywhere, weights as in the checkpoint
};

/// A router's choice for the tokens of one rank. `weights` and `experts` [tokens, top_k] may be
/// changed: the pass goes on with what they hold then.
struct RoutingCall {
  const Route& op;
  std::string module;       ///< path with '*' for list members
  std::int64_t layer = -1;  ///< list member that the region was called for
  std::int64_t rank = 0;
  std::int64_t first_token = 0;  ///< row 0 among the tokens that this rank was given
  std::int64_t tokens = 0;       ///< rows that are tokens
  Buffer logits;
  Buffer bias;  ///< without data when there is none
  Buffer weights;
  Buffer experts;
  Phase phase = Phase::prefill;  ///< of the pass
};

struct ExecutorOptions {
  /// Ranks that run in lock step, op by op; each has its own weights, caches and values.
  std::int64_t ranks = 1;
  /// Tokens that a request may have at the end, for caches and rotary tables.
  std::int64_t max_sequence_length = 0;
  /// Weights that a kernel cannot read in their storage dtype are converted (decision D9).
  KernelContext context{};
  Arithmetic arithmetic = Arithmetic::kernels;
  /// Called after every Route, if set.
  std::function<void(const RoutingCall& call)> on_route{};
};

/// Time that one operator of a graph took, over all its calls and passes.
struct OpTime {
  Phase phase = Phase::prefill;
  std::string name;
  OpClass op_class = OpClass::custom;
  std::string module;  ///< path with '*' for list members
  std::string implementation;
  std::int64_t calls = 0;
  double total_s = 0;
};

/// The operator of a graph whose kernel was farthest from plain loops over the same operands.
struct WorstOp {
  double error = 0;  ///< max |a - b| / max |b|
  std::string name;
  std::string module;  ///< path with '*' for list members
};

/// What the executor holds, in bytes, over all ranks.
struct ExecutorMemory {
  std::int64_t weight_bytes = 0;  ///< as packed for the kernels, tables of rotary positions
  std::int64_t cache_bytes = 0;
  std::int64_t activation_bytes = 0;  ///< values between and inside regions, scratch, logits

  std::int64_t total_bytes() const { return weight_bytes + cache_bytes + activation_bytes; }
};

/// Executes graphs of one model: forward pass after forward pass, with weights that are generated
/// (decision D6) when they are first needed and caches that live on. Graphs must be traced with
/// Workload::executes.
class Executor {
 public:
  Executor(ParameterPath path, ExecutorOptions options);
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  ~Executor();

  /// What memory() will be at most when this graph and those asked about before are executed, and
  /// what is held only for a moment: the plain copy of a weight that is packed, what a checked op
  /// is compared with. Makes kernels, and allocates nothing; but when values alone take more than
  /// `limit_bytes`, it says only that. Throws Error as run() does.
  ExecutorMemory needed(const Graph& graph, std::int64_t limit_bytes);

  /// Makes kernels and weights for a graph without executing it; run() does so by itself.
  void prepare(const Graph& graph);

  /// One forward pass. `token_ids[rank]`: batch * query_length ids of the rank, request after
  /// request. `following` is asked for the ids of each multi-token-prediction depth right before it
  /// is executed, when output() already has the logits of the depths before. Throws Error naming op
  /// and module path for what cannot be executed.
  void run(const Graph& graph, const std::vector<std::vector<std::int64_t>>& token_ids,
           const FollowingIds& following = {});

  /// Logits of the last run on one rank, as f32, in the shape that logits_shape() gives; of the
  /// model (depth 0) or of a multi-token-prediction depth.
  std::vector<float> logits(std::int64_t rank, std::int64_t depth = 0) const;
  Shape logits_shape(std::int64_t depth = 0) const;

  std::vector<OpTime> times() const;
  /// Forgets times(), and what weight_bytes_per_pass() has counted.
  void reset_times();
  /// With Arithmetic::checked, over all runs.
  const WorstOp& worst_op() const;
  ExecutorMemory memory() const;
  /// Dtypes that were replaced, such as "f8_e4m3 -> bf16"; each once.
  const std::vector<std::string>& notes() const;

  /// Bytes of weights that one pass of the last graph's phase reads, which bound a decode step: of
  /// experts those to which tokens went, on average over the passes.
  double weight_bytes_per_pass() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tcast
