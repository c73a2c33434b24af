#include "tcast/study/scenario.h"

#include <algorithm>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/units.h"
#include "tcast/model/decoder.h"
#include "tcast/study/single_pass.h"
#include "tcast/study/text_generation.h"

namespace tcast {
namespace {

bool same(const Workload& a, const Workload& b) {
  return a.phase == b.phase && a.batch == b.batch && a.query_length == b.query_length &&
         a.context_length == b.context_length && a.executes == b.executes &&
         a.requests == b.requests;
}

}  // namespace

std::vector<OtherOp> Scenario::other_ops(std::span<const PricedPass> /*priced*/) const {
  return {};
}

std::optional<ScenarioLimits> Scenario::limits(PassTracer& /*tracer*/,
                                               const MemoryBudget& /*budget*/) const {
  return std::nullopt;
}

void price_passes(const Scenario& scenario, PassPricer& pricer, std::span<PricedPass> priced) {
  const std::span<const ScenarioPass> passes = scenario.passes();
  TCAST_CHECK(priced.size() == passes.size(), "a place for each pass of a scenario");
  for (std::size_t i = 0; i < passes.size(); ++i) {
    if (passes[i].workload) {
      pricer.price(*passes[i].workload, priced[i]);
    } else {
      priced[i].clear();
    }
  }
}

MemoryForecast forecast_memory(const Scenario& scenario, PassTracer& tracer,
                               std::span<const PricedPass> priced, const MemoryBudget& budget) {
  if (budget.reserved_bytes < 0) {
    throw Error(
        fmt::format("reserved memory: expected at least 0 bytes, got {}", budget.reserved_bytes));
  }
  const ScenarioMemory needs = scenario.memory();
  MemoryForecast memory;
  memory.weight_bytes = tracer.source().weight_bytes();
  memory.reserved_bytes = budget.reserved_bytes;
  memory.capacity_bytes = budget.capacity_bytes;
  bool first = true;
  for (const MemoryPass& pass : needs.passes) {
    const bool known = pass.pass < priced.size() && priced[pass.pass].graph.region_count > 0 &&
                       same(priced[pass.pass].workload, pass.workload);
    const Graph& graph = known ? priced[pass.pass].graph : tracer.trace(pass.workload);
    const ActivationPeak peak = known ? priced[pass.pass].activation : tracer.peak_of(graph);
    memory.kv_cache_bytes =
        std::max(memory.kv_cache_bytes, cache_bytes(graph, needs.batch, needs.cached_length));
    memory.workspace_bytes = std::max(memory.workspace_bytes, graph.constant_bytes);
    if (!first && peak.bytes <= memory.activation.bytes) continue;
    memory.activation = peak;
    memory.activation_pass = pass.pass;
    first = false;
  }
  return memory;
}

void add_scenario(Report& report, const Scenario& scenario) {
  report.passes.clear();
  for (const ScenarioPass& pass : scenario.passes()) {
    ReportPass& out = report.passes.emplace_back();
    out.name = pass.name;
    out.title = pass.title;
  }
  report.metrics = scenario.metrics();
  report.absent_hint = scenario.absent_hint();
}

std::int64_t Deployment::batch_per_rank(std::int64_t batch_size) const {
  return ceil_div(batch_size, std::max<std::int64_t>(1, replicas));
}

Deployment deployment_of(const TransformerModel& model) {
  const ParallelOptions& parallel = model.options().parallel;
  Deployment deployment;
  deployment.replicas = parallel.dp();
  deployment.devices = parallel.devices();
  const auto* const wrapper = dynamic_cast<const LanguageModelWrapper*>(&model.root());
  if (wrapper != nullptr) deployment.tokens_per_step = 1 + wrapper->mtp_tokens();
  return deployment;
}

std::unique_ptr<Scenario> make_scenario(const WorkloadInputs& asked, const Deployment& deployment) {
  if (asked.single_phase) return std::make_unique<SinglePass>(*asked.single_phase, deployment);
  return std::make_unique<TextGeneration>(
      TextGenerationRequest{asked.batch_size, asked.input_length, asked.output_length}, deployment);
}

}  // namespace tcast
