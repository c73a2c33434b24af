#include "tcast/study/simulation.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/transform/pipeline.h"

namespace tcast {
namespace {

/// What is known of how one of a row's operators was timed, if it was.
void add_measurement(ReportOp& row, const OpRecord& record, const MeasuredCostModel* measured,
                     const Pace& best_pace) {
  const Measurement* const found = measured == nullptr ? nullptr : measured->find(record);
  if (found == nullptr) return;
  row.scaled = row.scaled || found->scaled;
  row.disturbed = row.disturbed || !disturbance(*found, best_pace).empty();
  // One sample is no reason to believe that all would be the same.
  if (found->samples > 1) row.spread = std::max(row.spread.value_or(0), found->spread);
}

/// Rows of the op table of one pass, merged by op, module and what bounds them.
void add_rows(Report& report, std::string_view pass_name, const PricedPass& pass,
              const CostModel* ideal, const MeasuredCostModel* measured, const Pace& best_pace) {
  // Paths are made once per scope of a region, not once per op.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::string> paths;
  std::map<std::tuple<std::string_view, std::string_view, Bound, Source>, std::size_t> row_of;
  for (const OpRow& row : pass.ops) {
    const Region& region = pass.graph.regions[row.region];
    const Op& op = region.ops[row.op];
    if (row.estimate.total_s == 0 && row.estimate.work.bytes() == 0) continue;
    const auto [path, is_new_path] = paths.try_emplace({row.region, op.scope});
    if (is_new_path) path->second = path_of(region, op.scope);
    const auto key = std::make_tuple(name_of(op.record), std::string_view(path->second),
                                     row.estimate.bound, row.estimate.source);
    const auto [at, is_new] = row_of.try_emplace(key, report.ops.size());
    if (is_new) {
      ReportOp& fresh = report.ops.emplace_back();
      fresh.phase = pass_name;
      fresh.name = name_of(op.record);
      fresh.module = path->second;
      fresh.bound = name_of(row.estimate.bound);
      fresh.source = name_of(row.estimate.source);
    }
    ReportOp& target = report.ops[at->second];
    target.calls += row.calls;
    target.total_s += row.calls * row.estimate.total_s;
    target.flops += row.calls * row.estimate.work.flops();
    target.bytes += row.calls * row.estimate.work.bytes();
    if (ideal != nullptr) target.ideal_s += row.calls * ideal->estimate(op.record).total_s;
    add_measurement(target, op.record, measured, best_pace);
  }
}

/// The calls of a pass one behind the other.
void append_events(std::vector<TraceEvent>& events, std::string_view title,
                   const PricedPass& pass) {
  double start_s = 0;
  // Estimates by region and op: rows are in that order.
  std::vector<std::vector<const OpEstimate*>> estimates(pass.graph.region_count);
  for (std::uint32_t r = 0; r < pass.graph.region_count; ++r) {
    estimates[r].assign(pass.graph.regions[r].ops.size(), nullptr);
  }
  for (const OpRow& row : pass.ops) estimates[row.region][row.op] = &row.estimate;
  for (const Call& call : pass.graph.calls) {
    const Region& region = pass.graph.regions[call.region];
    for (std::size_t i = 0; i < region.ops.size(); ++i) {
      const OpEstimate* estimate = estimates[call.region][i];
      if (estimate == nullptr || estimate->total_s == 0) continue;
      TraceEvent& event = events.emplace_back();
      event.process = title;
      event.name = name_of(region.ops[i].record);
      event.category = name_of(estimate->bound);
      event.start_s = start_s;
      const double runs = region.ops[i].runs;
      event.duration_s = runs * estimate->total_s;
      std::string module = path_of(region, region.ops[i].scope);
      const std::size_t star = module.find('*');
      if (call.member >= 0 && star != std::string::npos) {
        module.replace(star, 1, std::to_string(call.member));
      }
      event.thread = "one rank";
      event.texts = {{"module", std::move(module)},
                     {"shape", describe(region.ops[i].record)},
                     {"source", std::string(name_of(estimate->source))}};
      event.numbers = {{"flops", runs * estimate->work.flops()},
                       {"bytes", runs * estimate->work.bytes()}};
      start_s += event.duration_s;
    }
  }
}

/// Throws Error when a time line of the passes would have too many events.
void require_traceable(std::span<const PricedPass> passes) {
  std::int64_t events = 0;
  for (const PricedPass& pass : passes) {
    const std::vector<std::int64_t> calls = pass.graph.calls_per_region();
    for (std::uint32_t r = 0; r < pass.graph.region_count; ++r) {
      events += calls[r] * static_cast<std::int64_t>(pass.graph.regions[r].ops.size());
    }
  }
  if (events <= max_trace_events) return;
  throw Error(fmt::format("--trace: the time line would have {} events, more than {}",
                          format_grouped(events), format_grouped(max_trace_events)),
              "build fewer layers with --num-hidden-layers, or leave out --trace");
}

}  // namespace

std::vector<std::string> timing_warnings(const ReportTiming& timing) {
  constexpr double most_others = 0.1;
  constexpr double most_drift = 0.1;
  constexpr double most_spread = 0.2;
  constexpr std::string_view cure = "repeat the run on a quiet machine";
  std::vector<std::string> warnings;
  if (timing.others_cpu_share > most_others) {
    warnings.push_back(
        fmt::format("other processes took {:.0f} % of the processors while ops were timed, so that "
                    "the times are too long; {}",
                    100 * timing.others_cpu_share, cure));
  }
  if (timing.canary_drift > most_drift) {
    warnings.push_back(
        fmt::format("the machine's speed changed by {:.0f} % while ops were timed (the same canary "
                    "before and after); {}",
                    100 * timing.canary_drift, cure));
  }
  if (timing.mean_spread.value_or(0) > most_spread) {
    warnings.push_back(
        fmt::format("the samples of an op differ by {:.0f} % (interquartile range over median, "
                    "weighted by time); {}",
                    100 * *timing.mean_spread, cure));
  }
  return warnings;
}

Simulation::Simulation(const TransformerModel& model, std::unique_ptr<Scenario> scenario,
                       const SimulationOptions& options)
    : model_(model), scenario_(std::move(scenario)), options_(options), source_(model) {}

void Simulation::price(const CostModel& cost) {
  pricer_ = std::make_unique<PassPricer>(source_, cost);
  passes_.resize(scenario_->passes().size());
  price_passes(*scenario_, *pricer_, passes_);
  metrics_ = scenario_->metrics(*pricer_, passes_);
}

/// The scenario's metrics by another cost model.
std::vector<ReportMetric> Simulation::metrics_by(const CostModel& cost) const {
  PassPricer pricer(source_, cost);
  std::vector<PricedPass> priced(passes_.size());
  price_passes(*scenario_, pricer, priced);
  return scenario_->metrics(pricer, priced);
}

/// Says which products the device has no units for, and what they are priced as instead.
void Simulation::note_substitutes() {
  std::set<std::pair<DType, DType>> substitutes;
  for (const PricedPass& pass : passes_) {
    for (const OpRow& row : pass.ops) {
      if (row.estimate.work.matrix_flops == 0) continue;
      const DType wanted = row.estimate.work.matrix_dtype;
      const DType used = device_.matrix_peak(wanted).dtype;
      if (used != wanted) substitutes.emplace(wanted, used);
    }
  }
  for (const auto& [wanted, used] : substitutes) {
    notes_.push_back(fmt::format("{} has no matrix units for {}: such products are priced as {}",
                                 device_.name, short_name_of(wanted), short_name_of(used)));
  }
}

void Simulation::run(const DeviceProfile& device, bool ideal, const std::string& runner) {
  device_ = device;
  estimates_ = std::make_unique<DeviceCost>(device_, RooflineOptions{}, runner);
  if (ideal) ideal_ = std::make_unique<RooflineModel>(device_, RooflineOptions{.ideal = true});
  cost_ = &estimates_->model();
  price(*cost_);
  if (options_.traced_events) require_traceable(passes_);
  note_substitutes();
}

void Simulation::run_on_host(const HostTimingOptions& options, bool ideal) {
  if (model_.options().parallel.devices() > 1) {
    throw Error(
        fmt::format("this host is one device, {} were asked for",
                    model_.options().parallel.devices()),
        "leave out --num-devices, --tp and --ep here; 'tcast simulate --device NAME' has as "
        "many as wanted");
  }
  if (measured_ != nullptr) return time_further_experts(options);
  // Pricing itself says which ops it needs, whatever they take; then they are timed, and priced
  // again.
  const HostSpeed any_speed = {1e10, 1e11, 1e11, {}, {}, 0};
  device_ = host_device(host_features(), any_speed);
  estimates_ = std::make_unique<DeviceCost>(device_);
  const RecordingCostModel recording(estimates_->model());
  price(recording);
  if (options_.traced_events) require_traceable(passes_);
  for (const OtherOp& other : scenario_->other_ops(passes_)) recording.estimate(other.record);
  const std::vector<OpRecord>& records = recording.records();
  const HostTimings timings = time_on_host(records, options);

  device_ = host_device(timings.host, timings.speed);
  estimates_ = std::make_unique<DeviceCost>(device_);
  if (ideal) ideal_ = std::make_unique<RooflineModel>(device_, RooflineOptions{.ideal = true});
  measured_ = std::make_unique<MeasuredCostModel>(estimates_->model(), records,
                                                  timings.measurements, timings.op_overhead_s);
  cost_ = measured_.get();
  price(*cost_);
  threads_ = timings.threads;
  best_pace_ = timings.best_pace;
  note_timing(records, timings);
}

void Simulation::time_further_experts(const HostTimingOptions& options) {
  const RecordingCostModel recording(*measured_);
  price(recording);
  std::vector<OpRecord> missing;
  for (const OpRecord& record : recording.records()) {
    // What could not be timed before cannot be timed for other numbers of experts either.
    if (std::holds_alternative<GroupedMatMul>(record) && measured_->find(record) == nullptr) {
      missing.push_back(record);
    }
  }
  if (!missing.empty()) measured_->add(missing, time_on_host(missing, options).measurements);
  price(*measured_);
}

void Simulation::note_timing(const std::vector<OpRecord>& records, const HostTimings& timings) {
  std::set<std::string> substituted;
  std::map<std::string, std::set<std::string>> unsupported;
  ReportTiming& timing = timing_.emplace();
  timing.memory_used_bytes = timings.memory_used_bytes;
  timing.timed_ops = static_cast<std::int64_t>(timings.timed);
  timing.kept_ops = static_cast<std::int64_t>(timings.kept);
  timing.op_overhead_s = timings.op_overhead_s;
  timing.store = timings.store_file;
  warnings_ = timings.warnings;
  if (timings.conditions) {
    timing.took_s = timings.conditions->took_s;
    timing.canary_drift = timings.conditions->canary_drift;
    timing.others_cpu_share = timings.conditions->others_cpu_share;
  }
  double least_share = 1;
  double largest_error = 0;
  std::string disturbed;
  double all_s = 0;
  double stalled_s = 0;
  double slower_s = 0;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Measurement& measurement = timings.measurements[i];
    if (!measurement.supported()) {
      unsupported[measurement.unsupported].insert(std::string(name_of(records[i])));
      continue;
    }
    if (!measurement.substituted.empty()) substituted.insert(measurement.substituted);
    all_s += measurement.seconds;
    stalled_s += measurement.seconds * measurement.stalled_share;
    slower_s += measurement.seconds * (slowdown(measurement.pace, timings.best_pace) - 1);
    if (const std::string why = disturbance(measurement, timings.best_pace); !why.empty()) {
      ++timing.disturbed_ops;
      if (disturbed.empty()) disturbed = fmt::format("{}: {}", name_of(records[i]), why);
    }
    if (!measurement.scaled) continue;
    ++timing.scaled_ops;
    least_share = std::min(least_share, measurement.share);
    largest_error = std::max(largest_error, measurement.error);
  }
  if (!timings.conditions && all_s > 0) {
    // All were kept: each says itself how the machine was.
    timing.others_cpu_share = stalled_s / all_s;
    timing.canary_drift = slower_s / all_s;
  }
  if (timing.disturbed_ops > 0) {
    warnings_.push_back(fmt::format(
        "the machine was disturbed while {} of {} ops were timed ({}); the range says by how much, "
        "{}",
        timing.disturbed_ops, timing.timed_ops, disturbed,
        timing.store.empty() ? "a quiet machine gives a better answer"
                             : "a run on a quiet machine times them again"));
  }
  notes_.push_back(
      timing.kept_ops == 0
          ? fmt::format("{} distinct ops were timed on this host, with at most {} of memory",
                        timing.timed_ops,
                        format_bytes(static_cast<double>(timing.memory_used_bytes)))
          : fmt::format(
                "{} distinct ops timed on this host, {} of them kept from earlier runs ({})",
                timing.timed_ops, timing.kept_ops, printable(timing.store)));
  notes_.push_back(fmt::format("the executor's own time for each op, {}, is part of the op's",
                               format_seconds(timing.op_overhead_s)));
  if (timing.scaled_ops > 0) {
    notes_.push_back(fmt::format(
        "{} of them were timed at two smaller sizes and extrapolated to stay within the time "
        "budget, the least from {:.1f} % of its work, with up to {:.1f} % of error (rows marked "
        "'scaled')",
        timing.scaled_ops, 100 * least_share, 100 * largest_error));
  }
  for (const std::string& text : substituted) {
    notes_.push_back("this host lacks a dtype: " + text);
  }
  for (const auto& [reason, names] : unsupported) {
    const std::vector<std::string> list(names.begin(), names.end());
    notes_.push_back(fmt::format("estimated, not timed: {} ({})", join(list, ", "), reason));
  }
}

namespace {

/// How tokens come to the routed experts of a graph's layers, of those of which there are most;
/// nothing when there are none.
std::optional<ExpertRouting> routing_of(const Graph& graph) {
  std::optional<ExpertRouting> most;
  std::int64_t most_calls = 0;
  const std::vector<std::int64_t> calls = graph.calls_per_region();
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    std::optional<ExpertRouting> found;
    for (const Op& op : graph.regions[r].ops) {
      if (const auto* product = std::get_if<GroupedMatMul>(&op.record)) {
        if (product->routing.num_experts > 0) found = product->routing;
      } else if (const auto* route = std::get_if<Route>(&op.record); route && !found) {
        // A loop over the experts has no product of all of them.
        found = {static_cast<double>(route->tokens), route->experts, route->top_k};
      }
    }
    if (!found || calls[r] <= most_calls) continue;
    most = found;
    most_calls = calls[r];
  }
  return most;
}

}  // namespace

void Simulation::fill_experts(Report& report) const {
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    const std::optional<ExpertRouting> routing = routing_of(passes_[i].graph);
    if (!routing) continue;
    report.experts = ReportExperts{routing->num_experts, routing->top_k,
                                   ceil_div(routing->num_experts, routing->ranks)};
    report.passes[i].distinct_experts = expert_load(*routing).distinct_experts;
  }
}

void Simulation::fill(Report& report) {
  report.provenance.push_back(device_.provenance);
  if (estimates_->runner()) report.provenance.push_back(*estimates_->runner());
  add_scenario(report, *scenario_);
  fill_metrics(report);
  fill_ops(report);
  fill_experts(report);
  fill_memory(report);
  if (timing_) fill_timing(report);
  report.assumptions.insert(report.assumptions.end(), notes_.begin(), notes_.end());
}

/// The figures of the session of timings, and warnings when they say that it was a bad one.
void Simulation::fill_timing(Report& report) const {
  ReportTiming& timing = report.timing.emplace(*timing_);
  double known_s = 0;
  double weighted = 0;
  for (const ReportOp& op : report.ops) {
    if (!op.spread) continue;
    known_s += op.total_s;
    weighted += op.total_s * *op.spread;
  }
  if (known_s > 0) timing.mean_spread = weighted / known_s;
  report.warnings.insert(report.warnings.end(), warnings_.begin(), warnings_.end());
  for (std::string& warning : timing_warnings(timing)) {
    report.warnings.push_back(std::move(warning));
  }
}

void Simulation::fill_metrics(Report& report) const {
  report.metrics = metrics_;
  const auto add = [&](std::optional<double> ReportMetric::*bound, const CostModel& cost) {
    const std::vector<ReportMetric> metrics = metrics_by(cost);
    for (std::size_t i = 0; i < metrics.size(); ++i) {
      if (report.metrics[i].is_time()) report.metrics[i].*bound = metrics[i].value;
    }
  };
  // Every measured time at the low, and at the high end of its range: what disturbs a machine
  // disturbs all ops alike.
  report.with_range = measured_ != nullptr;
  if (report.with_range) {
    add(&ReportMetric::low, RangeCostModel(*measured_, &TimeRange::low_s, best_pace_));
    add(&ReportMetric::high, RangeCostModel(*measured_, &TimeRange::high_s, best_pace_));
  }
  report.with_ideal = ideal_ != nullptr;
  if (report.with_ideal) add(&ReportMetric::ideal, *ideal_);
}

void Simulation::fill_ops(Report& report) const {
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    add_rows(report, scenario_->passes()[i].name, passes_[i], ideal_.get(), measured_.get(),
             best_pace_);
  }
  for (const OtherOp& other : scenario_->other_ops(passes_)) {
    const OpEstimate estimate = pricer_->estimate(other.record);
    ReportOp& row = report.ops.emplace_back();
    row.phase = other.phase;
    row.name = name_of(other.record);
    row.module = other.module;
    row.calls = 1;
    row.total_s = estimate.total_s;
    row.flops = estimate.work.flops();
    row.bytes = estimate.work.bytes();
    row.bound = name_of(estimate.bound);
    row.source = name_of(estimate.source);
    if (ideal_ != nullptr) row.ideal_s = ideal_->estimate(other.record).total_s;
    add_measurement(row, other.record, measured_.get(), best_pace_);
  }
}

void Simulation::fill_memory(Report& report) {
  const MemoryBudget budget = {device_.memory_bytes, options_.reserved_bytes};
  const MemoryForecast memory = forecast_memory(*scenario_, *pricer_, passes_, budget);
  ReportMemory& out = report.memory;
  out.weights_bytes = memory.weight_bytes;
  out.kv_cache_bytes = memory.kv_cache_bytes;
  out.activation_peak_bytes = memory.activation.bytes;
  out.workspace_bytes = memory.workspace_bytes;
  out.reserved_bytes = memory.reserved_bytes;
  out.total_bytes = memory.total_bytes();
  out.capacity_bytes = memory.capacity_bytes;
  out.fits = memory.fits();
  const Graph& graph = passes_.at(memory.activation_pass).graph;
  const Region& region = graph.regions.at(memory.activation.region);
  const Op& op = region.ops.at(memory.activation.op);
  out.activation_peak_at = fmt::format("{} {} {}", scenario_->passes()[memory.activation_pass].name,
                                       name_of(op.record), path_of(region, op.scope));
  if (const auto limits = scenario_->limits(*pricer_, budget)) {
    out.with_limits = true;
    out.max_batch_size = limits->batch_size;
    out.max_context_length = limits->context_length;
  }
}

std::vector<TraceEvent> Simulation::trace_events() const {
  std::vector<TraceEvent> events;
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    append_events(events, scenario_->passes()[i].title, passes_[i]);
  }
  return events;
}

std::vector<DistinctOp> Simulation::distinct_ops() const {
  std::vector<DistinctOp> ops;
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    std::map<std::string, std::size_t> known;
    for (const OpRow& row : passes_[i].ops) {
      if (row.estimate.total_s == 0) continue;
      const Region& region = passes_[i].graph.regions[row.region];
      const Op& op = region.ops[row.op];
      const auto [at, is_new] = known.try_emplace(
          fmt::format("{} {}", name_of(op.record), describe(op.record)), ops.size());
      if (is_new) {
        DistinctOp& fresh = ops.emplace_back();
        fresh.pass = i;
        fresh.record = op.record;
        fresh.estimate = row.estimate;
        if (measured_ != nullptr) fresh.measurement = measured_->find(op.record);
      }
      DistinctOp& target = ops[at->second];
      target.calls += row.calls;
      std::string path = path_of(region, op.scope);
      if (std::find(target.modules.begin(), target.modules.end(), path) == target.modules.end()) {
        target.modules.push_back(std::move(path));
      }
    }
  }
  const auto total_s = [](const DistinctOp& op) {
    return op.calls * (op.measurement != nullptr ? op.measurement->seconds : op.estimate.total_s);
  };
  std::stable_sort(ops.begin(), ops.end(), [&](const DistinctOp& a, const DistinctOp& b) {
    return a.pass != b.pass ? a.pass < b.pass : total_s(a) > total_s(b);
  });
  return ops;
}

std::string Simulation::explain(std::string_view op_name) const {
  std::string text;
  std::set<std::string> known;
  std::set<std::string> shown;
  const auto add = [&](std::string_view phase, const std::string& module, const OpRecord& record,
                       double calls) {
    known.insert(std::string(name_of(record)));
    if (name_of(record) != op_name) return;
    // Equal ops of other modules are priced alike: one explanation does.
    if (!shown.insert(describe(record)).second) return;
    text += fmt::format("{} {}, called {:.6g} times\n{}\n", phase, module, calls,
                        cost_->explain(record));
  };
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    for (const OpRow& row : passes_[i].ops) {
      const Region& region = passes_[i].graph.regions[row.region];
      const Op& op = region.ops[row.op];
      add(scenario_->passes()[i].name, path_of(region, op.scope), op.record, row.calls);
    }
  }
  for (const OtherOp& other : scenario_->other_ops(passes_)) {
    add(other.phase, std::string(other.module), other.record, 1);
  }
  if (!text.empty()) return text;
  const std::vector<std::string> names(known.begin(), known.end());
  throw Error(fmt::format("--explain: the model has no op '{}'", printable(op_name)),
              did_you_mean(op_name, names, "it has " + join(names, ", ")));
}

ReportStep to_report_step(const StepReport& step) {
  ReportStep out;
  out.step = step.step;
  out.milliseconds = step.milliseconds;
  out.expected = step.expected;
  out.changed_modules = step.changed_modules;
  for (const StepReport::Change& change : step.changed) {
    out.changed.push_back({change.path, change.from, change.to});
  }
  for (const StepReport::Skip& skip : step.skipped) {
    out.skipped.push_back({skip.path, skip.reason});
  }
  out.warnings = step.warnings;
  return out;
}

}  // namespace tcast
