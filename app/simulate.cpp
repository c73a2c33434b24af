#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ostream.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/report/assertion.h"
#include "tcast/report/csv_writer.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/table_writer.h"
#include "tcast/report/trace_writer.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/host_cost.h"
#include "app/json_text.h"
#include "app/options.h"
#include "app/output.h"
#include "app/simulation.h"

namespace tcast {
namespace {

/// Configs that a directory stands for: its config.json, else all its *.json in order of name.
std::vector<std::string> expand(const std::vector<std::string>& paths) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!fs::is_directory(path, error) || fs::exists(fs::path(path) / "config.json", error)) {
      files.push_back(path);
      continue;
    }
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(path, error)) {
      if (entry.path().extension() == ".json") found.push_back(entry.path().string());
    }
    if (found.empty()) {
      files.push_back(path);  // reading it says what is missing
    }
    std::sort(found.begin(), found.end());
    files.insert(files.end(), found.begin(), found.end());
  }
  return files;
}

void add_input(Report& report, const char* name, std::int64_t value) {
  report.inputs.push_back({name, std::to_string(value)});
}
void add_input(Report& report, const char* name, std::string_view value) {
  report.inputs.push_back({name, json_text(std::string(value))});
}

class SimulateCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional("CONFIG", append_to(configs_),
                        "config.json, or a directory that holds one (or several *.json)", true,
                        true);
    add_request_options(line, workload_);
    add_phase_options(line, workload_);
    add_target_options(line, target_);
    add_deployment_options(line, model_.options);
    add_model_options(line, model_);
    add_output_options(
        line, output_,
        {OutputFormat::table, OutputFormat::json, OutputFormat::jsonl, OutputFormat::csv});
    add_report_options(line, output_);
    line.add_check([this] {
      for (const std::string& text : output_.assertions) {
        assertions_.push_back(parse_assertion(text));
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
    if (files.size() > 1 && output_.format != OutputFormat::jsonl) {
      throw Error(
          fmt::format("{} configs were given, which only --format jsonl can show", files.size()),
          "add --format jsonl, or name one config");
    }
    if (files.size() > 1 && (!output_.trace_file.empty() || !output_.explain.empty())) {
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
        fmt::print(streams.err, "tcast: error: {}: {}\n", printable(file), error.what());
        status = 1;
      }
    }
    write_result(output_.file, text, streams.out);
    return status;
  }

 private:
  std::string simulate(const std::string& file, const std::optional<DeviceProfile>& device,
                       Streams streams, int& status) {
    TransformerModel model = load_model(file, model_);
    const std::string pipeline = describe_pipeline(model);
    transform(model);

    Report report;
    report.config_file = file;
    report.model_type = model.config().model_type();
    const ParameterCounts counts = model.count_parameters();
    report.total_parameters = counts.total;
    report.active_parameters = counts.active;
    report.pipeline = pipeline;
    fill_inputs(report, model);

    Simulation simulation(model, request());
    if (device) {
      report.device = device->name;
      simulation.run(*device, target_.ideal);
    } else {
      report.device = "host";
      simulation.run_on_host({target_.time_budget_s, static_cast<int>(target_.threads), 0},
                             target_.ideal);
      report.device = simulation.device().description;
    }
    simulation.fill(report);
    report.memory.min_devices =
        least_devices(model, model_.assume_base, request(), simulation.device());
    fill_steps(report, model);

    if (!output_.trace_file.empty()) {
      write_atomically(output_.trace_file, write_trace(simulation.trace_events()));
    }
    for (const Assertion& assertion : assertions_) {
      const AssertionResult result = evaluate(assertion, report);
      if (result.passed) continue;
      fmt::print(streams.err, "tcast: {}: {}\n", printable(file), result.text);
      if (status == 0) status = 3;
    }
    if (!output_.explain.empty()) return simulation.explain(output_.explain);
    switch (output_.format) {
      case OutputFormat::table:
        return write_table(report);
      case OutputFormat::json:
        return write_json(report, false);
      case OutputFormat::jsonl:
        return write_json(report, true);
      case OutputFormat::csv:
        return write_csv(report);
    }
    throw InternalError("an output format without a writer");
  }

  SimulationRequest request() const {
    SimulationRequest asked;
    asked.batch_size = workload_.batch_size;
    asked.input_length = workload_.input_length;
    asked.output_length = workload_.output_length;
    asked.reserved_bytes = target_.reserved_memory_bytes;
    asked.phase = workload_.single_phase;
    return asked;
  }

  void fill_inputs(Report& report, const TransformerModel& model) const {
    const ModelOptions& options = model.options();
    add_input(report, "config", report.config_file);
    add_input(report, "device", target_.device.empty() ? "host" : target_.device);
    add_input(report, "num_devices", options.parallel.devices());
    add_input(report, "tp", options.parallel.tp);
    add_input(report, "ep", options.parallel.ep);
    add_input(report, "dp", options.parallel.dp());
    if (workload_.single_phase) {
      const Workload& phase = *workload_.single_phase;
      add_input(report, "phase", phase.phase == Phase::prefill ? "prefill" : "decode");
      add_input(report, "num_queries", phase.batch);
      add_input(report, "query_length", phase.query_length);
      add_input(report, "context_length", phase.context_length);
    } else {
      add_input(report, "batch_size", workload_.batch_size);
      add_input(report, "input_length", workload_.input_length);
      add_input(report, "output_length", workload_.output_length);
    }
    add_input(report, "quantize_linear", name_of(options.quantize_linear));
    add_input(report, "quantize_kv_cache", name_of(options.quantize_kv_cache));
    if (options.dtype) add_input(report, "dtype", name_of(*options.dtype));
    if (options.num_hidden_layers) {
      add_input(report, "num_hidden_layers", *options.num_hidden_layers);
    }
    add_input(report, "num_mtp_tokens", options.num_mtp_tokens);
    add_input(report, "kv_block_size", options.kv_block_size);
    report.inputs.push_back({"expert_skew", fmt::format("{}", options.expert_skew)});
    report.inputs.push_back({"reuse_layers", options.reuse_layers ? "true" : "false"});
    add_input(report, "skip_steps", join(options.skip_steps, ","));
    add_input(report, "profiles", join(model.profile().sources, ","));
    add_input(report, "reserved_memory_bytes", target_.reserved_memory_bytes);
  }

  void fill_steps(Report& report, const TransformerModel& model) const {
    for (const StepReport& step : model.reports()) {
      report.steps.push_back(to_report_step(step));
      for (const std::string& warning : step.warnings) {
        report.warnings.push_back(step.step + ": " + warning);
      }
    }
    report.assumptions.insert(report.assumptions.begin(), model.assumptions().begin(),
                              model.assumptions().end());
    const auto positions = model.config().find<std::int64_t>("max_position_embeddings");
    const std::int64_t longest = workload_.single_phase
                                     ? workload_.single_phase->sequence_length()
                                     : workload_.input_length + workload_.output_length;
    if (positions && longest > *positions) {
      report.warnings.push_back(
          fmt::format("{} tokens of context are more than the {} that the config is made for "
                      "(max_position_embeddings)",
                      longest, *positions));
    }
    const std::vector<std::string> unread = model.config().unread_keys();
    if (!unread.empty()) {
      report.assumptions.push_back("config keys that nothing read: " +
                                   printable(join(unread, ", "), 2000));
    }
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
