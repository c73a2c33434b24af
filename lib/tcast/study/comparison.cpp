#include "tcast/study/comparison.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/threads.h"
#include "tcast/report/text_table.h"
#include "tcast/study/simulation.h"
#include "tcast/study/text_generation.h"

namespace tcast {
namespace {

constexpr Phase phases[] = {Phase::prefill, Phase::decode};

const char* name_of(Phase phase) { return phase == Phase::prefill ? "prefill" : "decode"; }

std::string error_text(double predicted_s, double measured_s) {
  return measured_s > 0 ? fmt::format("{:+.1f} %", 100 * (predicted_s / measured_s - 1)) : "-";
}

/// " (error -0.7 %)".
std::string error_of(double predicted_s, double measured_s) {
  return fmt::format(" (error {})", error_text(predicted_s, measured_s));
}

/// Of passes in which no thread lost its processor, or of all without the time of waiting.
double undisturbed_mean_s(const std::vector<Sample>& passes) {
  if (passes.empty()) return 0;
  const std::vector<double> calm = undisturbed(passes);
  const double sum_s = std::accumulate(calm.begin(), calm.end(), 0.0);
  return sum_s / static_cast<double>(calm.size()) * (1 - stalled_share(passes, current_threads()));
}

}  // namespace

bool Prediction::routes() const {
  return std::any_of(passes.begin(), passes.end(),
                     [](const ReportPass& pass) { return pass.distinct_experts.has_value(); });
}

RunPredictor::RunPredictor(const TransformerModel& model, std::int64_t batch_size,
                           std::int64_t input_length, std::int64_t output_length,
                           HostTimingOptions options)
    : options_(std::move(options)), steps_(output_length - 1) {
  simulation_ = std::make_unique<Simulation>(
      model,
      std::make_unique<TextGeneration>(
          TextGenerationRequest{batch_size, input_length, output_length}, deployment_of(model)));
  simulation_->run_on_host(options_, false);
  expected_ = prediction();
}

RunPredictor::~RunPredictor() = default;

Prediction RunPredictor::counted(const ExpertCounts& counts) {
  if (!expected_.routes()) return expected_;
  simulation_->use(counts);
  simulation_->run_on_host(options_, false);
  return prediction();
}

Prediction RunPredictor::prediction() const {
  Report report;
  simulation_->fill(report);
  Prediction prediction;
  prediction.prefill_s = simulation_->passes()[prefill_pass].total_s;
  prediction.decode_step_s = simulation_->passes()[decode_pass].total_s;
  prediction.steps = steps_;
  prediction.passes = std::move(report.passes);
  for (ReportOp& op : report.ops) {
    if (op.phase == "sampling") continue;  // choosing tokens is not part of a pass
    if (op.phase == name_of(Phase::decode)) op.total_s *= static_cast<double>(prediction.steps);
    prediction.ops.push_back(std::move(op));
  }
  prediction.notes = report.assumptions;
  prediction.notes.insert(prediction.notes.end(), report.warnings.begin(), report.warnings.end());
  return prediction;
}

Comparison::Comparison(Prediction expected, Prediction prediction, const ExpertCounts& counts,
                       const Sample& prefill, const std::vector<Sample>& decode_steps,
                       const std::vector<OpTime>& ops)
    : expected_(std::move(expected)),
      prediction_(std::move(prediction)),
      experts_(experts(counts)),
      prefill_s_(prefill.seconds),
      ops_(ops) {
  for (const Sample& step : decode_steps) decode_s_ += step.seconds;
  undisturbed_prefill_s_ = undisturbed_mean_s({prefill});
  undisturbed_step_s_ = undisturbed_mean_s(decode_steps);
}

std::vector<Comparison::Experts> Comparison::experts(const ExpertCounts& counts) const {
  std::vector<Experts> list;
  for (const ReportPass& pass : expected_.passes) {
    const Phase phase = pass.name == name_of(Phase::prefill) ? Phase::prefill : Phase::decode;
    const std::optional<double> counted = counts.mean(phase);
    if (!pass.distinct_experts || !counted) continue;
    list.push_back({phase, *pass.distinct_experts, *counted,
                    phase == Phase::prefill ? expected_.prefill_s : expected_.decode_step_s});
  }
  return list;
}

std::string Comparison::predicted_text(const Prediction& prediction) {
  std::string text = fmt::format("predicted: prefill {}", format_seconds(prediction.prefill_s));
  if (prediction.steps > 0) {
    text += fmt::format(", decode step {}, {} steps and prefill {}",
                        format_seconds(prediction.decode_step_s), prediction.steps,
                        format_seconds(prediction.total_s()));
  }
  text += "\n";
  for (const std::string& note : prediction.notes) text += "  " + note + "\n";
  return text;
}

template <class PredictedKey, class MeasuredKey>
std::vector<Comparison::Row> Comparison::sums(Phase phase, const PredictedKey& predicted_key,
                                              const MeasuredKey& measured_key) const {
  std::map<std::string, Row> rows;
  for (const ReportOp& op : prediction_.ops) {
    if (op.phase == name_of(phase)) rows[predicted_key(op)].predicted_s += op.total_s;
  }
  double inside_s = 0;
  for (const OpTime& op : ops_) {
    if (op.phase != phase) continue;
    rows[measured_key(op)].measured_s += op.total_s;
    inside_s += op.total_s;
  }
  const double whole_s = phase == Phase::prefill ? prefill_s_ : decode_s_;
  rows["(between ops)"].measured_s = std::max(0.0, whole_s - inside_s);
  std::vector<Row> list;
  for (auto& [name, row] : rows) {
    row.name = name;
    list.push_back(row);
  }
  std::stable_sort(list.begin(), list.end(),
                   [](const Row& a, const Row& b) { return a.measured_s > b.measured_s; });
  return list;
}

std::vector<Comparison::Row> Comparison::totals() const {
  std::vector<Row> rows = {{"prefill", prediction_.prefill_s, prefill_s_}};
  if (prediction_.steps > 0) {
    const auto steps = static_cast<double>(prediction_.steps);
    rows.push_back({"decode step", prediction_.decode_step_s, decode_s_ / steps});
    rows.push_back({"total", prediction_.total_s(), prefill_s_ + decode_s_});
  }
  return rows;
}

std::vector<Comparison::Row> Comparison::by_class(Phase phase) const {
  // Both sides have the same ops; the class of one of few rows is another than that of many.
  std::map<std::pair<std::string, std::string>, std::string> classes;
  for (const OpTime& op : ops_) {
    if (op.phase == phase) classes[{op.module, op.name}] = tcast::name_of(op.op_class);
  }
  return sums(
      phase,
      [&](const ReportOp& op) {
        const auto found = classes.find({op.module, op.name});
        return found == classes.end() ? op.name : found->second;
      },
      [](const OpTime& op) { return std::string(tcast::name_of(op.op_class)); });
}

std::vector<Comparison::Row> Comparison::by_module(Phase phase) const {
  return sums(
      phase, [](const ReportOp& op) { return op.module; },
      [](const OpTime& op) { return op.module; });
}

std::string Comparison::text() const {
  const auto table_of = [](const std::string& title, const std::vector<Row>& rows) {
    TextTable table({{title}, {"predicted", true}, {"measured", true}, {"error", true}});
    for (const Row& row : rows) {
      table.add_row({row.name, row.predicted_s > 0 ? format_seconds(row.predicted_s) : "-",
                     row.measured_s > 0 ? format_seconds(row.measured_s) : "-",
                     row.predicted_s > 0 ? error_text(row.predicted_s, row.measured_s) : "-"});
    }
    return table.text() + "\n";
  };
  std::string text = table_of("predicted and measured", totals());
  constexpr double noticeable = 0.97;
  const auto step_count = static_cast<double>(prediction_.steps);
  const bool slow_prefill = undisturbed_prefill_s_ < noticeable * prefill_s_;
  const bool slow_steps =
      step_count > 0 && undisturbed_step_s_ < noticeable * decode_s_ / step_count;
  if (slow_prefill || slow_steps) {
    const bool tells = undisturbed_prefill_s_ > 0 && (step_count == 0 || undisturbed_step_s_ > 0);
    std::string found = "other processes disturbed the run";
    if (tells) {
      found += fmt::format("; without them prefill takes {} or more{}",
                           format_seconds(undisturbed_prefill_s_),
                           error_of(prediction_.prefill_s, undisturbed_prefill_s_));
    } else {
      found += ", all of it: what it takes without them is unknown";
    }
    if (tells && step_count > 0) {
      found += fmt::format(", a decode step {}{}", format_seconds(undisturbed_step_s_),
                           error_of(prediction_.decode_step_s, undisturbed_step_s_));
    }
    text += wrap("", found) + "\n";
  }
  if (!experts_.empty()) {
    TextTable table({{"distinct experts of a layer"},
                     {"expected", true},
                     {"in the run", true},
                     {"predicted with the expected ones", true}});
    for (const Experts& row : experts_) {
      table.add_row({row.phase == Phase::prefill ? "prefill" : "decode step",
                     fmt::format("{:.4g}", row.expected), fmt::format("{:.4g}", row.counted),
                     format_seconds(row.expected_s)});
    }
    text += table.text() + "\n";
  }
  for (const Phase phase : phases) {
    if (phase == Phase::decode && prediction_.steps == 0) continue;
    const char* steps = phase == Phase::decode ? ", all steps" : "";
    text += table_of(fmt::format("{}{}: class", name_of(phase), steps), by_class(phase));
    text += table_of(fmt::format("{}{}: module", name_of(phase), steps), by_module(phase));
  }
  return text;
}

nlohmann::ordered_json Comparison::json() const {
  const auto list = [](const std::vector<Row>& rows) {
    auto json = nlohmann::ordered_json::array();
    for (const Row& row : rows) {
      json.push_back(
          {{"name", row.name}, {"predicted_s", row.predicted_s}, {"measured_s", row.measured_s}});
    }
    return json;
  };
  nlohmann::ordered_json json;
  json["totals"] = list(totals());
  json["undisturbed_prefill_s"] = undisturbed_prefill_s_;
  if (prediction_.steps > 0) json["undisturbed_decode_step_s"] = undisturbed_step_s_;
  for (const Experts& row : experts_) {
    json["experts"][name_of(row.phase)] = {{"expected_distinct", row.expected},
                                           {"distinct", row.counted},
                                           {"predicted_with_expected_s", row.expected_s}};
  }
  for (const Phase phase : phases) {
    if (phase == Phase::decode && prediction_.steps == 0) continue;
    json[name_of(phase)] = {{"classes", list(by_class(phase))},
                            {"modules", list(by_module(phase))}};
  }
  json["notes"] = prediction_.notes;
  return json;
}

}  // namespace tcast
