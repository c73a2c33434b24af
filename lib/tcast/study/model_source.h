#pragma once

#include <cstdint>
#include <utility>

#include "tcast/cost/pass.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/expert_counts.h"

namespace tcast {

/// A model's graphs for pricing.
class ModelSource final : public GraphSource {
 public:
  /// Keeps a reference to the model.
  explicit ModelSource(const TransformerModel& model)
      : model_(model), weight_bytes_(model.weight_bytes()) {}

  void trace(const Workload& workload, Graph& graph) const override {
    model_.trace(workload, graph);
    counts_.put_into(graph);
  }
  std::int64_t weight_bytes() const override { return weight_bytes_; }
  std::int64_t longest_sequence() const override { return model_.longest_sequence(); }

  /// From now on, graphs have the distinct experts that an execution has counted.
  void use(ExpertCounts counts) { counts_ = std::move(counts); }

 private:
  const TransformerModel& model_;
  std::int64_t weight_bytes_;
  ExpertCounts counts_;  ///< empty: what is expected
};

}  // namespace tcast
