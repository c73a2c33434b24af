#include "tcast/cost/pass.h"

#include <cmath>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/units.h"

namespace tcast {
namespace {

/// An operator whose sizes mean nothing (a negative number of rows) has work and time that do not.
void require_sensible(const OpEstimate& estimate, const OpRecord& record) {
  const auto sensible = [](double value) { return value >= 0 && std::isfinite(value); };
  TCAST_CHECK(
      sensible(estimate.total_s) && sensible(estimate.work.flops()) &&
          sensible(estimate.work.bytes()),
      fmt::format("the work of {} ({}) is a number >= 0", name_of(record), describe(record)));
}

}  // namespace

void require_tokens(std::int64_t batch, std::int64_t length) {
  if (batch >= 1 && length >= 1 && length <= most_tokens / batch) return;
  throw Error(
      fmt::format("{} requests of {} tokens are more than the {} tokens that tcast calculates with",
                  batch, length, most_tokens));
}

void PricedPass::clear() {
  workload = {};
  graph.clear();
  ops.clear();
  total_s = 0;
  activation = {};
}

void PassPricer::count_calls(const Graph& graph) {
  calls_of_region_.assign(graph.region_count, 0);
  for (const Call& call : graph.calls) ++calls_of_region_[call.region];
}

OpEstimate PassPricer::estimate(const OpRecord& record) const {
  OpEstimate found = cost_.estimate(record);
  require_sensible(found, record);
  return found;
}

void PassPricer::price(const Workload& workload, PricedPass& pass) {
  require_tokens(workload.batch, workload.query_length);
  require_tokens(workload.batch, workload.sequence_length());
  source().trace(workload, pass.graph);
  pass.workload = workload;
  const Graph& graph = pass.graph;
  count_calls(graph);
  pass.ops.clear();
  pass.total_s = 0;
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    const std::vector<Op>& ops = graph.regions[r].ops;
    for (std::uint32_t i = 0; i < ops.size(); ++i) {
      OpRow& row = pass.ops.emplace_back();
      row.region = r;
      row.op = i;
      row.calls = static_cast<double>(calls_of_region_[r]) * ops[i].runs;
      row.estimate = cost_.estimate(ops[i].record);
      require_sensible(row.estimate, ops[i].record);
      pass.total_s += row.calls * row.estimate.total_s;
    }
  }
  pass.activation = peak_of(graph);
}

double PassPricer::seconds_of(const Workload& workload) {
  const Graph& graph = trace(workload);
  count_calls(graph);
  double seconds = 0;
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    double region_s = 0;
    for (const Op& op : graph.regions[r].ops) {
      region_s += op.runs * cost_.estimate(op.record).total_s;
    }
    seconds += static_cast<double>(calls_of_region_[r]) * region_s;
  }
  return seconds;
}

const Graph& PassTracer::trace(const Workload& workload) {
  source_.trace(workload, scratch_);
  return scratch_;
}

}  // namespace tcast
