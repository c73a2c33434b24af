#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "tcast/model/sharding.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/scale_blocks.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

/// Whether ranks hold different entries of a list, or of a stack of weights.
bool spreads_experts(const Module& root) {
  bool spreads = false;
  walk(root, [&spreads](const Module& module, const ModulePath&) {
    const auto in_stack = [](const Parameter& parameter) { return parameter.stack.ranks > 1; };
    spreads = spreads || module.members().local_count < module.members().count ||
              std::any_of(module.parameters().begin(), module.parameters().end(), in_stack);
  });
  return spreads;
}

}  // namespace

TransformerModel& shard_model(TransformerModel& model) {
  return run_step(model, "shard_model", [](TransformerModel& m, StepReport& report) {
    const Layout& layout = m.layout();
    const bool again = m.is_sharded();
    m.set_replicas(layout.size(ParallelAxis::dp));
    const bool tensor_parallel = layout.size(ParallelAxis::tp) > 1;
    const bool expert_parallel = layout.size(ParallelAxis::ep) > 1;
    if (!tensor_parallel && !expert_parallel) {
      report.skipped.push_back({"", "one rank holds the whole model (--tp 1 --ep 1)"});
      return;
    }
    ShardReport shards(tensor_parallel, again);
    shard_module(m.root(), layout, shards);
    for (const ShardReport::Cut& cut : shards.cuts()) {
      report.changed.push_back({cut.path, cut.from, cut.what});
      report.changed_modules += cut.modules;
    }
    for (const ShardReport::Kept& kept : shards.kept()) {
      report.skipped.push_back({kept.path, kept.reason});
    }
    refuse_cut_blocks(m);
    if (!expert_parallel || spreads_experts(m.root())) return;
    report.skipped.push_back({"", "the model has no routed experts that could be spread", true});
  });
}

}  // namespace tcast
