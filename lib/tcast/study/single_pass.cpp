#include "tcast/study/single_pass.h"

namespace tcast {

SinglePass::SinglePass(const Workload& pass, const Deployment& deployment)
    : tokens_per_step_(deployment.tokens_per_step) {
  memory_pass_ = {pass.phase == Phase::prefill ? prefill_pass : decode_pass, pass};
  memory_pass_.workload.requests = pass.batch;
  memory_pass_.workload.batch = deployment.batch_per_rank(pass.batch);
  passes_[memory_pass_.pass].workload = memory_pass_.workload;
}

std::vector<ReportMetric> SinglePass::metrics() const {
  return text_generation_metrics({}, tokens_per_step_);
}

std::vector<ReportMetric> SinglePass::metrics(PassPricer& /*pricer*/,
                                              std::span<const PricedPass> priced) const {
  TextGenerationMetrics values;
  if (passes_[prefill_pass].workload) values.prefill_s = priced[prefill_pass].total_s;
  if (passes_[decode_pass].workload) values.decode_step_s = priced[decode_pass].total_s;
  return text_generation_metrics(values, tokens_per_step_);
}

std::string_view SinglePass::absent_hint() const {
  return "a run with --phase has numbers of that phase only";
}

ScenarioMemory SinglePass::memory() const {
  return {.passes = {&memory_pass_, 1},
          .batch = memory_pass_.workload.batch,
          .cached_length = memory_pass_.workload.sequence_length()};
}

}  // namespace tcast
