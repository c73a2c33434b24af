#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "tcast/study/scenario.h"
#include "tcast/study/text_generation.h"

namespace tcast {

/// One forward pass exactly (--phase; all that a model without a head for tokens does): one of the
/// passes of a text generation, without what is around it.
class SinglePass final : public Scenario {
 public:
  /// `pass` is that of the whole deployment: its batch are the requests of all replicas.
  SinglePass(const Workload& pass, const Deployment& deployment);

  std::span<const ScenarioPass> passes() const override { return passes_; }
  /// Those of a text generation, of which one has a value.
  std::vector<ReportMetric> metrics() const override;
  std::vector<ReportMetric> metrics(PassPricer& pricer,
                                    std::span<const PricedPass> priced) const override;
  std::string_view absent_hint() const override;
  ScenarioMemory memory() const override;

 private:
  std::int64_t tokens_per_step_;
  MemoryPass memory_pass_{};
  TextGenerationPasses passes_ = text_generation_passes;
};

}  // namespace tcast
