// What `tcast simulate` predicts for this host beside what executing the same model then takes.
//
//   accuracy_bench [--full] [--pairs N] [--calibrate] [--only TEXT] [--json FILE]
//
// Each cell is one forward pass of one model: predicted from ops timed in that moment, measured by
// executing it, again and again in turns, in one process. `noise` is how far one run differs from
// the next. With --calibrate, a round of `tcast calibrate` goes before each pair, and what the
// profile fitted to these rounds predicts alone stands beside them. Prints the table of the README;
// the exit status is 3 when a figure misses its limit.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/threads.h"
#include "tcast/exec/timing/host.h"
#include "tcast/study/expert_counts.h"
#include "tcast/study/generation.h"
#include "tcast/study/host_calibration.h"
#include "tcast/study/simulation.h"
#include "tcast/study/single_pass.h"
#include "tcast/transform/pipeline.h"

#include "app/options.h"
#include "app/token_ids.h"

namespace {

using namespace tcast;

struct BenchModel {
  std::string name;
  std::string config;  ///< in configs/models
  ConfigSizes sizes;
};

/// The models of the table. Large ones keep their widths and lose layers, and one its experts.
std::vector<BenchModel> bench_models() {
  return {
      {"Qwen3-0.6B", "qwen3-0.6b", {}},
      {"Llama-3.2-1B", "llama-3.2-1b", {}},
      {"Qwen2.5-0.5B", "qwen2.5-0.5b", {}},
      {"Mixtral-8x7B, 4 layers", "mixtral-8x7b", {{"num_hidden_layers", 4}}},
      {"Qwen3-30B-A3B, 4 layers", "qwen3-30b-a3b", {{"num_hidden_layers", 4}}},
      {"DeepSeek-V3, 2 layers, 32 experts",
       "deepseek-v3",
       {{"num_hidden_layers", 2},
        {"first_k_dense_replace", 1},
        {"n_routed_experts", 32},
        {"n_group", 4},
        {"topk_group", 2}}},
  };
}

enum class Numbers { bf16, f32, int8 };
const char* text_of(Numbers numbers) {
  constexpr const char* texts[] = {"bf16", "f32", "int8"};
  return texts[static_cast<int>(numbers)];
}

struct Cell {
  std::size_t model = 0;
  Numbers numbers = Numbers::bf16;
  int threads = 1;
  Workload work;
};

Workload pass(Phase phase, std::int64_t tokens, std::int64_t batch) {
  Workload work;
  work.phase = phase;
  work.batch = batch;
  work.query_length = phase == Phase::prefill ? tokens : 1;
  work.context_length = phase == Phase::prefill ? 0 : tokens;
  return work;
}

/// Cells of one model, dtype and number of threads stand together: its weights are made once.
std::vector<Cell> cells(bool full) {
  constexpr std::int64_t prompts[] = {32, 128, 512};
  constexpr std::int64_t contexts[] = {128, 512, 2048};
  std::vector<Cell> list;
  const std::size_t models = bench_models().size();
  for (std::size_t model = 0; model < models; ++model) {
    for (const Numbers numbers : {Numbers::bf16, Numbers::f32, Numbers::int8}) {
      for (const int threads : {2, 1}) {
        for (std::size_t i = 0; i < 3; ++i) {
          for (const std::int64_t batch : {1, 4}) {
            // The quick table: every model with every dtype, and each of the other choices as often
            // as its alternatives.
            const auto turn = model + static_cast<std::size_t>(numbers);
            const bool chosen = threads == (turn % 2 == 0 ? 2 : 1) && i == turn % 3 &&
                                batch == (model % 2 == 0 ? 1 : 4);
            if (!full && !chosen) continue;
            list.push_back({model, numbers, threads, pass(Phase::prefill, prompts[i], batch)});
            list.push_back({model, numbers, threads, pass(Phase::decode, contexts[i], batch)});
          }
        }
      }
    }
  }
  return list;
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - std::floor(place));
}
double median(const std::vector<double>& values) { return quantile(values, 0.5); }

TransformerModel model_of(const BenchModel& entry, Numbers numbers) {
  ModelInputs inputs;
  inputs.sizes = entry.sizes;
  inputs.options.dtype = numbers == Numbers::f32 ? DType::f32 : DType::bf16;
  inputs.options.quantize_linear =
      numbers == Numbers::int8 ? LinearScheme::w8a8_dynamic : LinearScheme::none;
  TransformerModel model = load_model(
      std::string(TCAST_SOURCE_DIR) + "/configs/models/" + entry.config + ".json", inputs);
  transform(model);
  return model;
}

/// One pass of a model, executed as often as wanted.
class Measured {
 public:
  Measured(const TransformerModel& model, const Workload& work, Executor& executor)
      : executor_(executor) {
    Workload executed = work;
    executed.executes = true;
    model.trace(executed, graph_);
    const std::int64_t vocabulary = model.config().get_size("vocab_size");
    for (const auto& ids : random_token_ids(work.batch, work.query_length, vocabulary, 1)) {
      ids_[0].insert(ids_[0].end(), ids.begin(), ids.end());
    }
    executor_.run(graph_, ids_);
  }

  /// Median of a few passes; of one, when that takes seconds.
  double seconds() {
    std::vector<double> samples;
    const double start = now_s();
    const auto wanted = [&](double passed_s) {
      return samples.empty() || (samples.size() < 3 && passed_s < 2) ||
             (samples.size() < 25 && passed_s < 0.3);
    };
    while (wanted(now_s() - start)) {
      const double before = now_s();
      executor_.run(graph_, ids_);
      samples.push_back(now_s() - before);
    }
    return median(samples);
  }

 private:
  Executor& executor_;
  Graph graph_;
  std::vector<std::vector<std::int64_t>> ids_{1};
};

struct Result {
  std::vector<double> predicted;
  std::vector<double> measured;
  double profile = 0;  ///< of the device profile; 0: there is none

  double error() const {
    std::vector<double> errors;
    for (std::size_t i = 0; i < predicted.size(); ++i)
      errors.push_back(predicted[i] / measured[i] - 1);
    return median(errors);
  }
  double noise() const {
    std::vector<double> steps;
    for (std::size_t i = 1; i < measured.size(); ++i) {
      steps.push_back(std::abs(measured[i] / measured[i - 1] - 1));
    }
    return steps.empty() ? 0 : median(steps);
  }
  /// Of the first prediction, kept, against the runs after it.
  double warm_error() const {
    std::vector<double> errors;
    for (std::size_t i = 1; i < measured.size(); ++i)
      errors.push_back(predicted[0] / measured[i] - 1);
    return errors.empty() ? error() : median(errors);
  }
  double profile_error() const { return profile / median(measured) - 1; }
};

struct Arguments {
  bool full = false;
  int pairs = 5;
  bool calibrate = false;
  std::string only;
  std::string json;
};

Arguments arguments(int argc, char** argv) {
  Arguments args;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw Error(name + " takes a value");
      return argv[++i];
    };
    if (name == "--full") {
      args.full = true;
    } else if (name == "--pairs") {
      args.pairs = std::max(1, std::atoi(value().c_str()));
    } else if (name == "--calibrate") {
      args.calibrate = true;
    } else if (name == "--only") {
      args.only = value();
    } else if (name == "--json") {
      args.json = value();
    } else {
      throw Error("unknown argument " + name);
    }
  }
  return args;
}

/// The time of the only pass.
double pass_s(const Simulation& simulation) {
  double sum = 0;
  for (const PricedPass& pass : simulation.passes()) sum += pass.total_s;
  return sum;
}

std::string name_of_cell(const Cell& cell) {
  return fmt::format(
      "{} | {} | {} | {} | {} | {}", bench_models()[cell.model].name, text_of(cell.numbers),
      cell.threads, cell.work.phase == Phase::prefill ? "prefill" : "decode",
      cell.work.phase == Phase::prefill ? cell.work.query_length : cell.work.context_length,
      cell.work.batch);
}

std::string percent(double part) { return fmt::format("{:+.1f} %", 100 * part); }

/// "median 2.1 %, 95th percentile 7.0 %" of the errors' sizes; false when above the limits.
struct Summary {
  double median_error = 0;
  double high_error = 0;
};
Summary summary(std::vector<double> errors) {
  for (double& error : errors) error = std::abs(error);
  return {median(errors), quantile(errors, 0.95)};
}

int bench(const Arguments& args) {
  const std::vector<BenchModel> models = bench_models();
  fmt::print(
      "| model | dtype | threads | phase | tokens | batch | measured | noise | timed ops | kept "
      "timings |{}\n|---|---|---|---|---|---|---|---|---|---|{}\n",
      args.calibrate ? " profile |" : "", args.calibrate ? "---|" : "");
  std::vector<double> errors, warm, profile, noises;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  std::unique_ptr<TransformerModel> model;
  std::unique_ptr<Executor> executor;
  ExpertCounts counts;  // of the executed passes, which are what is predicted
  std::string held;
  for (const Cell& cell : cells(args.full)) {
    const std::string name = name_of_cell(cell);
    if (!args.only.empty() && name.find(args.only) == std::string::npos) continue;
    set_threads(cell.threads);
    // Caches serve one batch; weights of f32 models are large: what is not needed goes first.
    const std::string wanted = fmt::format("{} {} {} {}", cell.model, text_of(cell.numbers),
                                           cell.threads, cell.work.batch);
    if (held != wanted) {
      executor.reset();
      model = std::make_unique<TransformerModel>(model_of(models[cell.model], cell.numbers));
      const std::optional<std::int64_t> available = host_features().available_bytes;
      if (available && model->weight_bytes() > *available * 7 / 10) {
        fmt::print("| {} | weights of {} do not fit |\n", name,
                   format_bytes(static_cast<double>(model->weight_bytes())));
        held.clear();
        continue;
      }
      ExecutorOptions options;
      options.max_sequence_length = 2049;
      options.on_route = [&counts](const RoutingCall& call) { counts.add(call); };
      executor = std::make_unique<Executor>(ParameterPaths(model->root()), options);
      held = wanted;
    }
    counts.clear();
    Measured measured(*model, cell.work, *executor);
    const auto scenario = [&] {
      return std::make_unique<SinglePass>(cell.work, deployment_of(*model));
    };
    Result result;
    HostCalibrationOptions calibration;
    calibration.threads = cell.threads;
    HostCalibrator calibrator(calibration);
    for (int i = 0; i < args.pairs; ++i) {
      if (args.calibrate) calibrator.time_round();
      Simulation simulation(*model, scenario());
      simulation.use(counts);
      HostTimingOptions timing;
      timing.timer.threads = cell.threads;
      timing.timer.memory_limit_bytes = std::int64_t{2} << 30;
      simulation.run_on_host(timing, false);
      result.predicted.push_back(pass_s(simulation));
      result.measured.push_back(measured.seconds());
    }
    if (args.calibrate) {
      Simulation simulation(*model, scenario());
      simulation.use(counts);
      simulation.run(calibrator.fit().calibration.device, false);
      result.profile = pass_s(simulation);
      profile.push_back(result.profile_error());
    }
    errors.push_back(result.error());
    warm.push_back(result.warm_error());
    noises.push_back(result.noise());
    fmt::print("| {} | {:.1f} ms | {:.1f} % | {} | {} |{}\n", name, 1e3 * median(result.measured),
               100 * result.noise(), percent(result.error()), percent(result.warm_error()),
               args.calibrate ? fmt::format(" {} |", percent(result.profile_error())) : "");
    std::fflush(stdout);
    json.push_back({{"cell", name},
                    {"predicted_s", result.predicted},
                    {"measured_s", result.measured},
                    {"profile_s", result.profile}});
  }
  if (!args.json.empty()) std::ofstream(args.json) << json.dump(1) << "\n";
  if (errors.empty()) throw Error("no cell has '" + args.only + "' in its name");
  const double noise = median(noises);
  const double high_noise = quantile(noises, 0.95);
  char day[16];
  const std::time_t now = std::time(nullptr);
  std::strftime(day, sizeof day, "%Y-%m-%d", std::gmtime(&now));
  fmt::print(
      "\n{} cells, {} pairs each; {}, {}, oneDNN {}; noise: median {:.1f} %, 95th percentile "
      "{:.1f} %\n\n| prediction from | median | limit | 95th percentile | limit |\n"
      "|---|---|---|---|---|\n",
      errors.size(), args.pairs, day, host_features().cpu, onednn_version(), 100 * noise,
      100 * high_noise);
  bool met = true;
  const auto line = [&](const char* title, const std::vector<double>& list, double most,
                        double most_high) {
    const Summary found = summary(list);
    const auto limit = [](double value) {
      return value > 0 ? fmt::format("{:.1f} %", 100 * value) : std::string("none");
    };
    fmt::print("| {} | {:.1f} % | {} | {:.1f} % | {} |\n", title, 100 * found.median_error,
               limit(most), 100 * found.high_error, limit(most_high));
    met = met && (most == 0 || found.median_error <= most) &&
          (most_high == 0 || found.high_error <= most_high);
  };
  line("timed ops", errors, std::max(0.04, 1.5 * noise), std::max(0.12, 3 * high_noise));
  line("kept timings", warm, 0, 0);
  if (args.calibrate) line("calibrated profile", profile, 0.1, 0);
  return met ? 0 : 3;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return bench(arguments(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "accuracy_bench: %s\n", error.what());
    return 1;
  }
}
