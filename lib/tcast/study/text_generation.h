#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tcast/graph/op.h"
#include "tcast/study/scenario.h"

namespace tcast {

/// `batch_size` requests of the whole deployment, all at once, each with the same lengths.
struct TextGenerationRequest {
  std::int64_t batch_size = 1;
  std::int64_t input_length = 512;
  std::int64_t output_length = 128;
};

/// Latencies of a text generation.
struct TextGenerationTimes {
  double prefill_s = 0;      ///< one pass over all inputs
  double decode_step_s = 0;  ///< one step at context input_length + output_length / 2
  double mean_step_s = 0;    ///< of the output_length - 1 decode steps
  double sampling_s = 0;     ///< choosing the tokens of a pass
  double ttft_s = 0;         ///< time to first token: prefill and sampling
  double tpot_s = 0;         ///< time per output token: mean step and sampling
  double end_to_end_s = 0;   ///< ttft_s + (output_length - 1) * tpot_s
};

/// What reports say of a text generation, as far as it is known.
struct TextGenerationMetrics {
  std::optional<double> prefill_s{};
  std::optional<double> ttft_s{};
  std::optional<double> decode_step_s{};
  std::optional<double> tpot_s{};
  std::optional<double> end_to_end_s{};
  std::optional<double> output_tokens_per_s{};
  std::optional<double> output_tokens_per_s_per_device{};
};
/// As a list, in the order of reports.
std::vector<ReportMetric> text_generation_metrics(const TextGenerationMetrics& values,
                                                  std::int64_t tokens_per_step);

/// The passes of a text generation, without workloads.
using TextGenerationPasses = std::array<ScenarioPass, 2>;
inline constexpr std::size_t prefill_pass = 0;
inline constexpr std::size_t decode_pass = 1;
inline constexpr TextGenerationPasses text_generation_passes = {
    ScenarioPass{"prefill", "prefill", std::nullopt},
    ScenarioPass{"decode", "decode step", std::nullopt}};

/// Whole requests: a prefill pass over all inputs, then decode steps over a growing context, each
/// of which takes one token of every request and the drafts of multi-token prediction, and the
/// choice of tokens behind each pass. The decode pass that is shown is the step in the middle of
/// the output; with a single output token there is none.
class TextGeneration final : public Scenario {
 public:
  /// Throws Error for a batch or lengths below 1, and for more tokens than most_tokens.
  TextGeneration(const TextGenerationRequest& request, const Deployment& deployment);

  Workload prefill() const;
  /// The decode step behind `context_length` tokens.
  Workload step(std::int64_t context_length) const;
  /// Context of the step in the middle of the output.
  std::int64_t middle() const { return request_.input_length + request_.output_length / 2; }

  /// The latencies, made from the passes as priced by `pricer` and from the steps in between that
  /// it prices. Allocates nothing for models with up to 64 windows and chunks on the way.
  TextGenerationTimes times(PassPricer& pricer, std::span<const PricedPass> priced) const;

  std::span<const ScenarioPass> passes() const override { return passes_; }
  std::vector<OtherOp> other_ops(std::span<const PricedPass> priced) const override;
  std::vector<ReportMetric> metrics() const override;
  std::vector<ReportMetric> metrics(PassPricer& pricer,
                                    std::span<const PricedPass> priced) const override;
  ScenarioMemory memory() const override;
  std::optional<ScenarioLimits> limits(PassTracer& tracer,
                                       const MemoryBudget& budget) const override;

  /// Requests of one rank, at most, that fit with these lengths; as in ScenarioLimits.
  std::optional<std::int64_t> largest_batch(PassTracer& tracer, const MemoryBudget& budget) const;
  /// The largest input_length + output_length that fits, with this output_length; 0 when not even
  /// an input of one token does, nothing when neither memory nor the model limits it.
  std::optional<std::int64_t> largest_context(PassTracer& tracer, const MemoryBudget& budget) const;

 private:
  void lay_out();
  TextGeneration with_batch_of_each_rank(std::int64_t batch) const;
  TextGeneration with_input_length(std::int64_t input_length) const;
  TopK sampling(const PricedPass& prefill) const;
  double mean_step_s(PassPricer& pricer, const PricedPass& middle_step) const;

  TextGenerationRequest request_;
  Deployment deployment_;
  std::int64_t batch_ = 1;     ///< of one rank
  std::int64_t requests_ = 0;  ///< of all replicas; 0: `batch_` on each
  TextGenerationPasses passes_ = text_generation_passes;
  std::array<MemoryPass, 2> memory_passes_{};
};

/// Mean of f over the whole numbers begin <= x < end, from its values at a few of them: exact for
/// polynomials up to the second degree. f takes and returns what step costs do: a context length,
/// seconds.
template <class Function>
double mean_over_integers(std::int64_t begin, std::int64_t end, Function&& f) {
  const std::int64_t count = end - begin;
  if (count <= 3) {
    double sum = 0;
    for (std::int64_t x = begin; x < end; ++x) sum += f(x);
    return sum / static_cast<double>(count);
  }
  // The three nodes of Gauss and Legendre, moved to the nearest whole numbers; weights such that
  // polynomials of the second degree stay exact on those. t = x - center; the mean of t over the
  // whole numbers is 0, that of t^2 is (count^2 - 1) / 12.
  const double center = static_cast<double>(begin) + static_cast<double>(count - 1) / 2;
  constexpr double outer_node = 0.774596669241483377;  // sqrt(3/5)
  const std::int64_t reach = std::llround(outer_node * static_cast<double>(count) / 2);
  const std::int64_t middle = begin + (count + 1) / 2;
  const std::int64_t nodes[3] = {std::max(begin, middle - reach), middle,
                                 std::min(end - 1, middle + reach)};
  const double spread = (static_cast<double>(count) * static_cast<double>(count) - 1) / 12;
  double mean = 0;
  for (int i = 0; i < 3; ++i) {
    const double a = static_cast<double>(nodes[(i + 1) % 3]) - center;
    const double b = static_cast<double>(nodes[(i + 2) % 3]) - center;
    const double t = static_cast<double>(nodes[i]) - center;
    // Mean of (x - a)(x - b) / ((t - a)(t - b)), Lagrange's polynomial of this node.
    mean += (spread + a * b) / ((t - a) * (t - b)) * f(nodes[i]);
  }
  return mean;
}

}  // namespace tcast
