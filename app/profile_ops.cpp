#include <algorithm>
#include <cmath>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/report/json_text.h"
#include "tcast/report/text_table.h"
#include "tcast/study/scenario.h"
#include "tcast/study/simulation.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/environment.h"
#include "app/options.h"
#include "app/output.h"
#include "app/progress.h"

namespace tcast {
namespace {

nlohmann::ordered_json whole_or_real(double number) {
  if (number == std::floor(number)) return static_cast<std::int64_t>(number);
  return number;
}

/// What an op reaches, and that as a part of what this host was measured to be able to.
struct Achieved {
  explicit Achieved(const DistinctOp& op, const DeviceProfile& host)
      : seconds(op.measurement != nullptr ? op.measurement->seconds : op.estimate.total_s),
        total_s(op.calls * seconds),
        flops_per_s(op.estimate.work.flops() / seconds),
        bytes_per_s(op.estimate.work.bytes() / seconds) {
    const OpWork& work = op.estimate.work;
    // No peak was measured for some dtypes (int8); that of another one says nothing.
    const double peak =
        work.matrix_flops > 0 ? host.matrix[work.matrix_dtype] : host.vector[work.vector_dtype];
    const double flops = work.matrix_flops > 0 ? work.matrix_flops : work.vector_flops;
    if (peak > 0 && flops > 0) compute_share = flops / seconds / peak;
    memory_share = bytes_per_s / host.memory_bandwidth_bytes_per_s;
  }

  double seconds;  ///< of the kernel: without what the executor spends on the op
  double total_s;
  double flops_per_s;
  double bytes_per_s;
  std::optional<double> compute_share;
  double memory_share = 0;
};

std::string_view phase_name(Phase phase) { return phase == Phase::prefill ? "prefill" : "decode"; }

class ProfileOpsCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional({"CONFIG", FileUse::config}, to_text(config_),
                        "config.json, or the directory that holds one");
    add_request_options(line, workload_);
    add_phase_options(line, workload_);
    line.begin_group("Timing");
    line.add_option("--threads", "N", to_size(threads_, 1, 4096),
                    "threads to time with; default all that this process may use");
    line.add_option("--time-budget", "SECONDS", to_number(time_budget_s_, 0.001, 86400),
                    "limit of the time spent on timing (default 10)");
    add_store_options(line, store_);
    add_deployment_options(line, model_.options);
    add_model_options(line, model_);
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.set_example(
        "  $ tcast profile-ops configs/models/qwen3-0.6b.json --phase decode\n"
        "  $ tcast profile-ops configs/models/qwen3-0.6b.json --phase prefill --query-length 128 "
        "\\\n"
        "      --dtype float32 --format json\n");
  }

  int run(Streams streams) override {
    TransformerModel model = load_model(config_, model_);
    return model.guard_modules("profile-ops", [&] { return profile(model, streams); });
  }

 private:
  int profile(TransformerModel& model, Streams streams) {
    transform(model);
    workload_ = workload_for(model, workload_);
    Simulation simulation(model, make_scenario(workload_, deployment_of(model)));
    HostTimingOptions timing;
    timing.timer.time_budget_s = time_budget_s_;
    timing.timer.threads = static_cast<int>(threads_);
    timing.store = store_;
    timing.progress = progress_on(streams.progress);
    timing.thread_settings = thread_settings();
    simulation.run_on_host(timing, false);
    Report report;
    report.warnings = model.warnings();
    simulation.fill(report);
    note_warnings(report.warnings.size());
    for (const std::string& warning : report.warnings) {
      say(streams.err, "warning", warning);
    }
    write_result(output_,
                 output_.format == OutputFormat::json ? json_of(model, simulation, report)
                                                      : table_of(model, simulation, report),
                 streams);
    return 0;
  }

  /// The pass in words: "decode, 1 request(s), 1 new token(s) each on 512 in the cache".
  static std::string describe_pass(const ScenarioPass& pass) {
    const Workload& work = *pass.workload;
    return fmt::format("{}, {} request(s), {} new token(s) each, {} in the cache", pass.name,
                       work.batch, work.query_length, work.context_length);
  }

  /// Two lines per op of the pass: its figures, then its sizes and where it is called.
  static std::string pass_table(const std::vector<DistinctOp>& ops, std::size_t pass,
                                const Simulation& simulation) {
    const DeviceProfile& host = simulation.device();
    double total_s = 0;
    double flops = 0;
    double bytes = 0;
    double calls = 0;
    for (const DistinctOp& op : ops) {
      if (op.pass != pass) continue;
      total_s += Achieved(op, host).total_s;
      flops += op.calls * op.estimate.work.flops();
      bytes += op.calls * op.estimate.work.bytes();
      calls += op.calls;
    }
    if (calls == 0) return {};
    TextTable table({{"op"},
                     {"calls", true},
                     {"each", true},
                     {"spread", true},
                     {"total", true},
                     {"share", true},
                     {"GFLOP/s", true},
                     {"peak", true},
                     {"GB/s", true},
                     {"peak", true},
                     {"kernel"}});
    const auto percent = [](double share) { return fmt::format("{:.0f} %", 100 * share); };
    std::vector<std::string> details;
    for (const DistinctOp& op : ops) {
      if (op.pass != pass) continue;
      const Achieved achieved(op, host);
      const Measurement* timed = op.measurement;
      std::string kernel = "estimated";
      if (timed != nullptr) kernel = timed->implementation + (timed->scaled ? ", scaled" : "");
      table.add_row({std::string(name_of(op.record)), fmt::format("{:.0f}", op.calls),
                     format_seconds(achieved.seconds),
                     timed != nullptr && timed->samples > 1 ? percent(timed->spread) : "-",
                     format_seconds(achieved.total_s), percent(achieved.total_s / total_s),
                     fmt::format("{:.1f}", 1e-9 * achieved.flops_per_s),
                     achieved.compute_share ? percent(*achieved.compute_share) : "-",
                     fmt::format("{:.1f}", 1e-9 * achieved.bytes_per_s),
                     percent(achieved.memory_share), kernel});
      std::string detail = describe(op.record) + "  " + op.modules.front();
      if (op.modules.size() > 1) detail += fmt::format(" and {} more", op.modules.size() - 1);
      details.push_back(wrap("    ", detail));
    }
    table.add_row({"total", fmt::format("{:.0f}", calls), "", "", format_seconds(total_s), "100 %",
                   fmt::format("{:.1f}", 1e-9 * flops / total_s), "",
                   fmt::format("{:.1f}", 1e-9 * bytes / total_s),
                   percent(bytes / total_s / host.memory_bandwidth_bytes_per_s)});
    std::istringstream lines(table.text());
    std::string text;
    std::string line;
    std::getline(lines, line);
    text += line + "\n";
    for (std::size_t i = 0; std::getline(lines, line); ++i) {
      text += line + "\n";
      if (i < details.size()) text += details[i];
    }
    return describe_pass(simulation.scenario().passes()[pass]) + "\n" + text + "\n";
  }

  std::string table_of(const TransformerModel& model, const Simulation& simulation,
                       const Report& report) const {
    const DeviceProfile& host = simulation.device();
    std::string text = wrap("tcast profile-ops: ", fmt::format("{} ({}), timed on {}, oneDNN {}",
                                                               config_, model.config().model_type(),
                                                               host.description, onednn_version()));
    text += "  peaks measured beside it:";
    for (int i = 0; i < dtype_count; ++i) {
      const auto dtype = static_cast<DType>(i);
      if (host.matrix[dtype] > 0) {
        text += fmt::format(" {} {:.0f} GFLOP/s,", short_name_of(dtype), 1e-9 * host.matrix[dtype]);
      }
    }
    text += fmt::format(" reading memory {:.1f} GB/s\n", 1e-9 * host.memory_bandwidth_bytes_per_s);
    text +=
        wrap("  ",
             "weights and KV cache come from memory, activations from caches, so that bytes per "
             "second may exceed what memory gives");
    for (const std::string& note : report.assumptions) text += wrap("  ", note);
    text += "\n";
    const std::vector<DistinctOp> ops = simulation.distinct_ops();
    for (std::size_t pass = 0; pass < simulation.passes().size(); ++pass) {
      text += pass_table(ops, pass, simulation);
    }
    return text;
  }

  std::string json_of(const TransformerModel& model, const Simulation& simulation,
                      const Report& report) const {
    const DeviceProfile& host = simulation.device();
    nlohmann::ordered_json json;
    json["schema"] = 1;
    json["inputs"] = {
        {"config", config_}, {"threads", simulation.threads()}, {"time_budget_s", time_budget_s_}};
    nlohmann::ordered_json& inputs = json["inputs"];
    if (workload_.single_phase) {
      const Workload& pass = *workload_.single_phase;
      inputs["phase"] = phase_name(pass.phase);
      inputs["num_queries"] = pass.batch;
      inputs["query_length"] = pass.query_length;
      inputs["context_length"] = pass.context_length;
    } else {
      inputs["batch_size"] = workload_.batch_size;
      inputs["input_length"] = workload_.input_length;
    }
    json["model"] = {{"model_type", model.config().model_type()}};
    json["host"] = {{"description", host.description},
                    {"onednn", onednn_version()},
                    {"read_bytes_per_s", host.memory_bandwidth_bytes_per_s},
                    {"matrix_flops_per_s", nlohmann::ordered_json::object()}};
    for (int i = 0; i < dtype_count; ++i) {
      const auto dtype = static_cast<DType>(i);
      if (host.matrix[dtype] <= 0) continue;
      json["host"]["matrix_flops_per_s"][std::string(short_name_of(dtype))] = host.matrix[dtype];
    }
    json["ops"] = nlohmann::ordered_json::array();
    for (const DistinctOp& op : simulation.distinct_ops()) {
      const Achieved achieved(op, host);
      nlohmann::ordered_json& row = json["ops"].emplace_back();
      row = {{"phase", simulation.scenario().passes()[op.pass].name},
             {"name", name_of(op.record)},
             {"class", name_of(class_of(op.record))},
             {"sizes", describe(op.record)},
             {"modules", op.modules},
             {"calls", whole_or_real(op.calls)},
             {"seconds", achieved.seconds},
             {"total_s", achieved.total_s},
             {"flops_per_s", achieved.flops_per_s},
             {"bytes_per_s", achieved.bytes_per_s},
             {"memory_share", achieved.memory_share}};
      if (achieved.compute_share) row["compute_share"] = *achieved.compute_share;
      row["source"] = name_of(op.estimate.source);
      if (const Measurement* timed = op.measurement) {
        row["kernel"] = timed->implementation;
        row["samples"] = timed->samples;
        row["spread"] = timed->spread;
        row["timed_share"] = timed->share;
      }
    }
    json["notes"] = report.assumptions;
    json["warnings"] = report.warnings;
    return json_document(json, 2);
  }

  std::string config_;
  ModelInputs model_;
  WorkloadInputs workload_;
  OutputInputs output_;
  std::int64_t threads_ = 0;
  double time_budget_s_ = 10;
  StoreInputs store_;
};

}  // namespace

constinit const CommandInfo profile_ops_command = {
    "profile-ops", "each distinct op of a pass timed on this host, beside what the host can do",
    make_command<ProfileOpsCommand>};

}  // namespace tcast
