#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/base/text.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/report/assertion.h"
#include "tcast/report/json_text.h"
#include "tcast/report/report_writers.h"
#include "tcast/report/trace_writer.h"
#include "tcast/study/host_cost.h"
#include "tcast/study/least_devices.h"
#include "tcast/study/report_model.h"
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

/// Configs that a directory stands for: its config.json, else all its *.json in order of name.
std::vector<std::string> expand(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    std::vector<std::string> found;
    if (fs::is_directory(path, error) && !fs::exists(fs::path(path) / "config.json", error)) {
      found = list_files(path, ".json");
    }
    if (found.empty()) found = {path};  // reading it says what is missing
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

class SimulateCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional({"CONFIG", FileUse::config}, append_to(configs_),
                        "config.json, or a directory that holds one (or several *.json)", true,
                        true);
    add_request_options(line, workload_);
    add_phase_options(line, workload_);
    add_target_options(line, target_);
    add_deployment_options(line, model_.options);
    add_model_options(line, model_);
    add_report_output_options(line, output_);
    add_report_options(line, output_);
    line.add_check([this] {
      const Report sample = sample_report();
      for (const std::string& text : output_.assertions) {
        assertions_.push_back(parse_assertion(text));
        require_field(assertions_.back(), sample);
      }
    });
    line.set_example(
        "  $ tcast simulate configs/models/qwen3-8b.json --device h200\n"
        "  $ tcast simulate configs/models/deepseek-v3.json --device h200 --num-devices 64 --tp 4 "
        "\\\n"
        "      --ep 64 --batch-size 128 --format json\n"
        "  $ tcast simulate configs/models --device a100-80g --format jsonl --assert 'fits==1'\n");
  }

  int run(Streams streams) override {
    const std::vector<std::string> files = expand(configs_);
    const bool lines = split_scope(output_.writer).second == "jsonl";
    if (files.size() > 1 && !lines) {
      throw Error(
          fmt::format("{} configs were given, which only --format jsonl can show", files.size()),
          "add --format jsonl, or name one config");
    }
    if (files.size() > 1 && (output_.trace.is_given() || !output_.explain.empty())) {
      throw Error("--trace and --explain take one config", "name one config");
    }
    const std::optional<DeviceProfile> device =
        target_.device.empty() ? std::nullopt
                               : std::optional<DeviceProfile>(load_device(target_.device));
    std::string text;
    int status = 0;
    for (const std::string& file : files) {
      try {
        text += simulate(file, device, streams, status);
      } catch (const Error& error) {
        // One bad config of a batch must not take the others' answers away.
        if (files.size() == 1) throw;
        text += fmt::format("{{\"schema\":{},\"config\":{},\"error\":{},\"hint\":{}}}\n",
                            Report::schema, json_text(file), json_text(error.what()),
                            json_text(error.hint()));
        // Most errors begin with the file that they are about.
        const std::string_view what = error.what();
        const bool named = what.substr(0, file.size()) == file;
        say(streams.err, "error",
            fmt::format("{}{}", named ? "" : printable(file, 4096) + ": ", what));
        status = 1;
      }
    }
    write_result(output_, text, streams);
    return status;
  }

 private:
  std::string simulate(const std::string& file, const std::optional<DeviceProfile>& device,
                       Streams streams, int& status) {
    TransformerModel model = load_model(file, model_);
    return model.guard_modules("simulate",
                               [&] { return simulate(model, file, device, streams, status); });
  }

  std::string simulate(TransformerModel& model, const std::string& file,
                       const std::optional<DeviceProfile>& device, Streams streams, int& status) {
    transform(model);
    Report report;
    report.config_file = file;
    add_model(report, model);

    const WorkloadInputs workload = workload_for(model, workload_);
    SimulationOptions options;
    options.reserved_bytes = target_.reserved_memory_bytes;
    options.traced_events = output_.trace.is_given();
    Simulation simulation(model, make_scenario(workload, deployment_of(model)), options);
    if (device) {
      report.device = device->name;
      simulation.run(*device, target_.ideal, target_.runner);
    } else {
      HostTimingOptions timing;
      timing.timer.time_budget_s = target_.time_budget_s;
      timing.timer.threads = static_cast<int>(target_.threads);
      timing.store = target_.store;
      timing.progress = progress_on(streams.progress);
      timing.thread_settings = thread_settings();
      simulation.run_on_host(timing, target_.ideal);
      report.device = simulation.device().description;
    }
    simulation.fill(report);
    const LeastDevices least = least_devices(
        model, workload, {simulation.device().memory_bytes, target_.reserved_memory_bytes});
    report.memory.min_devices = least.devices;
    report.memory.min_devices_tp = least.tp;
    report.memory.min_devices_ep = least.ep;
    TargetInputs target = target_;
    if (!device) target.threads = simulation.threads();
    add_inputs(report, model, model_, workload, target);
    for (const StepReport& step : model.reports()) report.steps.push_back(to_report_step(step));
    check_length(report, simulation.scenario().memory().cached_length);
    note_warnings(report.warnings.size());

    if (output_.trace.is_given()) {
      write_data(output_.trace, write_trace(simulation.trace_events()), streams);
    }
    for (const Assertion& assertion : assertions_) {
      const AssertionResult result = evaluate(assertion, report);
      if (result.passed) continue;
      say(streams.err, printable(file, 4096), result.text);
      if (status == 0) status = 3;
    }
    if (!output_.explain.empty()) return simulation.explain(output_.explain);
    const auto* const writer = report_writers().find(output_.writer);
    TCAST_CHECK(writer != nullptr, "a writer that was found while the line was read");
    report.provenance.push_back(report_writers().provenance(*writer));
    std::string text = writer->call(report);
    if (text.empty()) writer->refuse("it wrote nothing", "return the text of the report");
    return text;
  }

  /// A report with all fields that one of this command line can have.
  Report sample_report() const {
    // Names do not depend on sizes.
    WorkloadInputs kind;
    if (workload_.single_phase)
      kind.single_phase = Workload{.phase = workload_.single_phase->phase};
    const std::unique_ptr<Scenario> scenario = make_scenario(kind, {});
    Report report;
    add_scenario(report, *scenario);
    if (target_.device.empty()) report.timing.emplace();
    report.with_range = target_.device.empty();
    report.with_ideal = target_.ideal;
    report.experts.emplace();
    add_inputs(report, model_.options, {}, model_, workload_, target_);
    return report;
  }

  /// A context longer than the model was trained for.
  static void check_length(Report& report, std::int64_t longest) {
    const std::optional<std::int64_t> limit = report.memory.context_limit;
    if (!limit || longest <= *limit) return;
    report.warnings.push_back(fmt::format(
        "{} tokens of context are more than the {} that the config is made for ({})", longest,
        *limit,
        limit == report.memory.max_position_embeddings ? "max_position_embeddings"
                                                       : "with its scaling of positions"));
  }

  std::vector<std::string> configs_;
  WorkloadInputs workload_;
  TargetInputs target_;
  ModelInputs model_;
  OutputInputs output_;
  std::vector<Assertion> assertions_;
};

}  // namespace

constinit const CommandInfo simulate_command = {
    "simulate", "memory and latency of a model on a device: the main job",
    make_command<SimulateCommand>};

}  // namespace tcast
