#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/exchange.h"
#include "tcast/exec/kernels/plugin_kernel.h"
#include "tcast/exec/threads.h"
#include "tcast/exec/timing/host.h"
#include "tcast/exec/timing/timer.h"
#include "tcast/report/json_text.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/text_table.h"
#include "tcast/study/comparison.h"
#include "tcast/study/expert_counts.h"
#include "tcast/study/generation.h"
#include "tcast/study/report_model.h"
#include "tcast/study/speculation.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/environment.h"
#include "app/options.h"
#include "app/output.h"
#include "app/progress.h"
#include "app/token_ids.h"

namespace tcast {
namespace {

double mean(const std::vector<double>& values) {
  return values.empty() ? 0
                        : std::accumulate(values.begin(), values.end(), 0.0) /
                              static_cast<double>(values.size());
}

/// A NumPy file of version 1.0 with f32 numbers in C order.
std::string npy_text(const std::vector<std::int64_t>& shape, const std::vector<float>& values) {
  std::string dims;
  for (const std::int64_t dim : shape) dims += fmt::format("{}, ", dim);
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims);
  // Magic, version, length of the header and the header, ending at a multiple of 64.
  constexpr std::size_t before_header = 10;
  const std::size_t padded = (before_header + header.size() + 1 + 63) / 64 * 64 - before_header;
  header.resize(padded - 1, ' ');
  header += '\n';
  std::string text = "\x93NUMPY";
  text += '\x01';
  text += '\0';
  text += static_cast<char>(header.size() & 0xff);
  text += static_cast<char>(header.size() >> 8);
  text += header;
  const std::size_t begin = text.size();
  text.resize(begin + values.size() * sizeof(float));
  std::memcpy(text.data() + begin, values.data(), values.size() * sizeof(float));
  return text;
}

/// What one run found.
struct RunResult {
  std::vector<double> decode_s;
  Sample prefill;                    ///< of prefill_s
  std::vector<Sample> decode_steps;  ///< of decode_s
  std::int64_t decoded_tokens = 0;   ///< of each request, by all decode steps
  double prefill_s = 0;
  double prepare_s = 0;
  TokenIds tokens;          ///< generated ones of each request
  std::int64_t drafts = 0;  ///< predicted and checked, of all requests
  std::int64_t accepted = 0;
  std::vector<OpTime> ops;
  ExecutorMemory memory;
  double weight_bytes_per_pass = 0;
};

class RunCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional({"CONFIG", FileUse::config}, to_text(config_),
                        "config.json, or the directory that holds one");
    workload_.input_length = 128;
    workload_.output_length = 16;
    line.begin_group("Requests");
    line.add_option("--batch-size", "N", to_size(workload_.batch_size),
                    "requests at a time; default 1");
    line.add_option("--input-length", "TOKENS", to_size(workload_.input_length),
                    "prompt tokens of each request; default 128");
    line.add_option("--output-length", "TOKENS", to_size(workload_.output_length),
                    "tokens to generate, greedily; default 16");
    line.add_check([&line, this] { workload_.output_given = line.given("--output-length"); });
    line.add_option("--token-ids", {"FILE", FileUse::reads}, to_text(token_ids_file_),
                    "the prompts instead: a line of token ids for each request");
    line.add_option("--seed", "N", to_size(seed_, 0), "of the random prompts; default 0");
    refuse_with_token_ids(line, {"--batch-size", "--input-length", "--seed"});
    line.begin_group("Execution");
    line.add_option("--threads", "N", to_size(threads_, 1, 4096),
                    "threads to run on; default all that this process may use");
    line.add_option("--runner", "NAME", to_text(runner_),
                    "the executor that a plugin registered under this name makes the kernels");
    line.add_flag("--compare", compare_,
                  "predict the times first, as simulate does, and show both side by side; the "
                  "distinct experts that the run has counted are priced");
    line.add_flag("--even-routing", even_routing_,
                  "deal the experts to the tokens in turn, in place of what the model's routers "
                  "choose");
    line.add_option("--time-budget", "SECONDS",
                    to_number(timing_.timer.time_budget_s, 0.001, 86400),
                    "limit of the time spent on predicting (default 10)");
    timing_.store.default_file = default_store_file();
    line.add_option("--store", {"FILE", FileUse::updates, timing_.store.default_file},
                    to_text(timing_.store.file),
                    "where timings of this host are kept; default as in simulate");
    line.add_flag("--no-store", timing_.store.enabled, "time everything anew, and keep nothing",
                  false);
    timing_.store.enabled = true;
    line.add_check([&line] {
      for (const char* name : {"--time-budget", "--store", "--no-store"}) {
        if (!line.given(name) || line.given("--compare")) continue;
        throw Error(fmt::format("{} is for predicting, but --compare was not given", name),
                    "add --compare, or leave it out");
      }
      if (line.given("--store") && line.given("--no-store")) {
        throw Error("--store and --no-store contradict each other", "leave out one of them");
      }
      if (line.given("--compare") && line.given("--num-mtp-tokens")) {
        throw Error("--compare cannot know how many predicted tokens will be accepted",
                    "leave out --num-mtp-tokens");
      }
      if (line.given("--even-routing") && line.given("--dump-logits")) {
        throw Error(
            "--even-routing sends tokens to experts that the model has not chosen, so that "
            "the logits mean nothing",
            "leave out one of them");
      }
    });
    line.add_output("--dump-logits", logits_file_,
                    "write the logits after each step as NumPy file [step, request, vocabulary]");
    add_deployment_options(line, model_.options);
    add_model_options(line, model_);
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.set_example(
        "  $ tcast run configs/models/qwen3-0.6b.json --input-length 128 --output-length 16\n"
        "  $ tcast run configs/models/mixtral-8x7b.json --num-hidden-layers 1 --tp 2\n");
  }

  int run(Streams streams) override {
    set_threads(threads_ > 0 ? static_cast<int>(threads_) : available_threads());
    TransformerModel model = load_model(config_, model_);
    return model.guard_modules("run", [&] { return run(model, streams); });
  }

 private:
  int run(TransformerModel& model, Streams streams) {
    const std::string pipeline = describe_pipeline(model);
    transform(model);
    workload_ = workload_for(model, workload_);
    // What does not generate makes one pass over the prompts.
    if (!model.generates()) workload_.output_length = 1;
    const std::int64_t vocabulary = model.config().get_size("vocab_size");
    TokenIds prompts;
    if (!token_ids_file_.empty()) {
      prompts = load_token_ids(token_ids_file_, vocabulary);
      workload_.batch_size = static_cast<std::int64_t>(prompts.size());
      workload_.input_length = static_cast<std::int64_t>(prompts[0].size());
    }
    const std::int64_t requests = workload_.batch_size;
    const std::int64_t input_length = workload_.input_length;
    const std::int64_t output_length = workload_.output_length;
    ExecutorOptions execution;
    if (!runner_.empty()) execution.context.maker = find_executor(runner_);
    if (even_routing_ && !routes_tokens(model)) {
      throw Error("--even-routing: the model routes no tokens to experts", "leave it out");
    }
    if (compare_ || even_routing_) {
      execution.on_route = [this](const RoutingCall& call) {
        if (even_routing_) choose_evenly(call);
        if (compare_) counts_.add(call);
      };
    }
    // The last pass may check more tokens than are still wanted.
    const std::int64_t longest =
        checked_add(checked_add(input_length, output_length), model.options().num_mtp_tokens);
    Generation generation(model, requests, model.generates() ? longest : input_length,
                          std::move(execution));
    // Before anything of that size is made.
    generation.require_memory(input_length);
    if (prompts.empty()) prompts = random_token_ids(requests, input_length, vocabulary, seed_);

    const bool json = output_.format == OutputFormat::json;
    std::optional<RunPredictor> predictor;
    if (compare_) {
      timing_.timer.threads = current_threads();
      timing_.progress = progress_on(streams.progress);
      timing_.thread_settings = thread_settings();
      predictor.emplace(model, requests, input_length, output_length, timing_);
      // Before anything is executed.
      if (!json && !output_.file.is_given()) {
        streams.out << Comparison::predicted_text(predictor->expected()) << '\n' << std::flush;
      }
    }
    RunResult result = generate(generation, prompts, output_length);
    if (!model.generates()) result.tokens.assign(prompts.size(), {});
    std::optional<Comparison> comparison;
    if (predictor) {
      comparison.emplace(predictor->expected(), predictor->counted(counts_), counts_,
                         result.prefill, result.decode_steps, result.ops);
    }
    if (logits_file_.is_given()) {
      // Without a head for tokens, a row has hidden states or scores instead.
      const auto width =
          static_cast<std::int64_t>(logits_.size()) / checked_mul(output_length, requests);
      write_data(logits_file_, logits_text({output_length, requests, width}), streams);
    }
    std::string text;
    if (json) {
      text = json_text_of(model, generation, result, pipeline, input_length, comparison);
    } else {
      text = table_of(model, generation, result, pipeline, input_length);
      if (comparison) text += "\n" + comparison->text();
    }
    write_result(output_, text, streams);
    note_warnings(model.warnings().size());
    return 0;
  }

  /// Where the model's parts and the kernels come from.
  std::vector<Provenance> provenance(const TransformerModel& model) const {
    std::vector<Provenance> all = provenance_of(model);
    if (!runner_.empty()) all.push_back(executors().provenance(*executors().find(runner_)));
    return all;
  }

  static bool routes_tokens(const TransformerModel& model) {
    Graph graph;
    model.trace({.batch = 1, .query_length = 1, .executes = true}, graph);
    for (std::uint32_t i = 0; i < graph.region_count; ++i) {
      for (const Op& op : graph.regions[i].ops) {
        if (std::holds_alternative<Route>(op.record)) return true;
      }
    }
    return false;
  }

  static KernelMaker find_executor(const std::string& name) {
    const auto* const entry = executors().find(name);
    if (entry != nullptr) {
      return [entry](const OpRecord& record, const KernelContext& context) {
        return entry->call(record, context);
      };
    }
    const std::vector<std::string> known = executors().names();
    const std::string plugin = missing_plugin_hint("executor", name);
    throw Error(fmt::format("--runner: no executor '{}' is registered", printable(name)),
                plugin.empty() ? did_you_mean(name, known,
                                              known.empty() ? "no plugin has one"
                                                            : "known are " + join(known, ", "))
                               : plugin);
  }

  /// As NumPy file, or as the dumper that a plugin registered for files of this name writes it.
  std::string logits_text(const std::vector<std::int64_t>& shape) const {
    const auto* const dumper = logits_dumpers().find(file_name_of(logits_file_.path()));
    if (dumper == nullptr) return npy_text(shape, logits_);
    std::string text = dumper->call(shape, logits_);
    if (text.empty()) dumper->refuse("it returned nothing to write");
    return text;
  }

  RunResult generate(Generation& generation, const TokenIds& prompts, std::int64_t output_length) {
    RunResult result;
    const double start = now_s();
    generation.prepare(static_cast<std::int64_t>(prompts[0].size()));
    result.prepare_s = now_s() - start;
    // Once unmeasured: pages, clocks and the kernels' own code get warm.
    GreedyDecoding(generation).prompt(prompts);
    generation.restart();
    generation.executor().reset_times();
    counts_.clear();
    GreedyDecoding decoding(generation);
    result.tokens.resize(prompts.size());
    for (std::int64_t made = 0; made < output_length;) {
      const GreedyDecoding::Pass pass = made == 0 ? decoding.prompt(prompts) : decoding.decode();
      if (made == 0) {
        result.prefill_s = generation.last_step().seconds;
        result.prefill = generation.last_step();
      } else {
        result.decode_s.push_back(generation.last_step().seconds);
        result.decode_steps.push_back(generation.last_step());
      }
      result.decoded_tokens += made == 0 ? 0 : static_cast<std::int64_t>(pass.logits.size());
      for (std::size_t k = 0; k < pass.logits.size() && made < output_length; ++k, ++made) {
        for (std::size_t i = 0; i < prompts.size(); ++i) {
          result.tokens[i].push_back(pass.tokens[i][k]);
          const std::vector<float>& row = pass.logits[k][i];
          if (logits_file_.is_given()) logits_.insert(logits_.end(), row.begin(), row.end());
        }
      }
    }
    result.drafts = decoding.drafts();
    result.accepted = decoding.accepted();
    result.ops = generation.executor().times();
    std::stable_sort(result.ops.begin(), result.ops.end(), [](const OpTime& a, const OpTime& b) {
      return a.phase != b.phase ? a.phase < b.phase : a.total_s > b.total_s;
    });
    result.memory = generation.executor().memory();
    result.weight_bytes_per_pass = generation.executor().weight_bytes_per_pass();
    return result;
  }

  static double tokens_per_step(const RunResult& result) {
    return static_cast<double>(result.decoded_tokens) / static_cast<double>(result.decode_s.size());
  }

  static std::string_view phase_name(Phase phase) {
    return phase == Phase::prefill ? "prefill" : "decode";
  }

  /// Dtype that the weights of the model have.
  static std::string_view dtype_of(const TransformerModel& model) {
    for (const NamedParameter& named : model.parameters()) return name_of(named.parameter->dtype);
    return "";
  }

  std::string table_of(const TransformerModel& model, const Generation& generation,
                       const RunResult& result, const std::string& pipeline,
                       std::int64_t input_length) const {
    const auto requests = static_cast<double>(result.tokens.size());
    const double decode_s = mean(result.decode_s);
    std::string text = fmt::format(
        "tcast run: {} ({}), {}, executed on {}, {} thread(s), {} rank(s)\n",
        printable(config_, 4096), printable(model.config().model_type()), dtype_of(model),
        printable(host_features().cpu), current_threads(), generation.ranks());
    text += fmt::format("  transformed by {}; weights are generated, not those of the checkpoint\n",
                        printable(pipeline, 1000));
    text += wrap("  ", describe(report_dtypes(model)));
    for (const Provenance& one : provenance(model)) {
      if (one.from != Provenance::From::plugin || one.kind == "hook") continue;
      text += fmt::format("  {} '{}' {}\n", one.kind, printable(one.name), to_string(one));
    }
    for (const std::string& note : generation.executor().notes()) {
      text += fmt::format("  this host: {}\n", printable(note, 1000));
    }
    text += warning_lines(model.warnings());
    const double prompt_tokens = requests * static_cast<double>(input_length);
    text += fmt::format("\nprefill       {:>10}  {} request(s) of {} tokens, {:.0f} tokens/s\n",
                        format_seconds(result.prefill_s), result.tokens.size(), input_length,
                        prompt_tokens / result.prefill_s);
    if (decode_s > 0) {
      text +=
          fmt::format("decode step   {:>10}  mean of {}, {:.2f} tokens/s, weights read at {}/s\n",
                      format_seconds(decode_s), result.decode_s.size(),
                      requests * tokens_per_step(result) / decode_s,
                      format_bytes(result.weight_bytes_per_pass / decode_s));
    }
    if (result.drafts > 0) {
      text += fmt::format(
          "drafts        {:>10}  {} of {} accepted, {:.2f} tokens per step and request\n",
          fmt::format("{:.1f} %", 100.0 * static_cast<double>(result.accepted) /
                                      static_cast<double>(result.drafts)),
          result.accepted, result.drafts, tokens_per_step(result));
    }
    text += fmt::format("preparation   {:>10}  kernels, and {} of generated weights\n",
                        format_seconds(result.prepare_s),
                        format_bytes(static_cast<double>(result.memory.weight_bytes)));
    text += fmt::format(
        "memory        {:>10}  weights {}, KV cache {}, activations {}\n\n",
        format_bytes(static_cast<double>(result.memory.weight_bytes + result.memory.cache_bytes +
                                         result.memory.activation_bytes)),
        format_bytes(static_cast<double>(result.memory.weight_bytes)),
        format_bytes(static_cast<double>(result.memory.cache_bytes)),
        format_bytes(static_cast<double>(result.memory.activation_bytes)));
    for (const Phase phase : {Phase::prefill, Phase::decode}) {
      double total = 0;
      for (const OpTime& op : result.ops) total += op.phase == phase ? op.total_s : 0;
      if (total == 0) continue;
      TextTable table({{std::string(phase_name(phase))},
                       {"module"},
                       {"calls", true},
                       {"total", true},
                       {"share", true},
                       {"kernel"}});
      for (const OpTime& op : result.ops) {
        if (op.phase != phase) continue;
        table.add_row({op.name, op.module, std::to_string(op.calls), format_seconds(op.total_s),
                       fmt::format("{:.1f} %", 100 * op.total_s / total), op.implementation});
      }
      text += table.text() + "\n";
    }
    if (!model.generates()) return text;
    text += "generated tokens";
    for (const auto& tokens : result.tokens) text += fmt::format("\n  {}", fmt::join(tokens, " "));
    return text + "\n";
  }

  std::string json_text_of(const TransformerModel& model, const Generation& generation,
                           const RunResult& result, const std::string& pipeline,
                           std::int64_t input_length,
                           const std::optional<Comparison>& comparison) const {
    nlohmann::ordered_json json;
    json["schema"] = 1;
    json["inputs"] = {{"config", config_},
                      {"batch_size", result.tokens.size()},
                      {"input_length", input_length},
                      {"output_length", workload_.output_length},
                      {"threads", current_threads()},
                      {"ranks", generation.ranks()},
                      {"dtype", dtype_of(model)},
                      {"seed", seed_}};
    json["model"] = {{"model_type", model.config().model_type()},
                     {"total_parameters", model.count_parameters().total}};
    json["host"] = {{"cpu", host_features().cpu}, {"onednn", onednn_version()}};
    json["pipeline"] = pipeline;
    json["provenance"] = provenance_json(provenance(model));
    json["memory"] = {{"weights_bytes", result.memory.weight_bytes},
                      {"kv_cache_bytes", result.memory.cache_bytes},
                      {"activation_bytes", result.memory.activation_bytes}};
    json["latency"] = {{"prepare_s", result.prepare_s},
                       {"prefill_s", result.prefill_s},
                       {"decode_step_s", mean(result.decode_s)},
                       {"decode_steps_s", result.decode_s}};
    json["speculation"] = {{"mtp_tokens", generation.mtp_tokens()},
                           {"drafts", result.drafts},
                           {"accepted", result.accepted},
                           {"decoded_tokens", result.decoded_tokens}};
    json["weight_bytes_per_pass"] = std::llround(result.weight_bytes_per_pass);
    json["ops"] = nlohmann::ordered_json::array();
    for (const OpTime& op : result.ops) {
      json["ops"].push_back({{"phase", phase_name(op.phase)},
                             {"name", op.name},
                             {"module", op.module},
                             {"calls", op.calls},
                             {"total_s", op.total_s},
                             {"kernel", op.implementation}});
    }
    if (comparison) json["comparison"] = comparison->json();
    if (model.generates()) json["tokens"] = result.tokens;
    json["warnings"] = model.warnings();
    json["notes"] = generation.executor().notes();
    return json_document(json, 2);
  }

  std::string config_;
  ModelInputs model_;
  WorkloadInputs workload_;
  OutputInputs output_;
  std::string token_ids_file_;
  OutputFile logits_file_;
  std::string runner_;
  std::int64_t seed_ = 0;
  std::int64_t threads_ = 0;
  bool compare_ = false;
  bool even_routing_ = false;
  ExpertCounts counts_;
  HostTimingOptions timing_;
  std::vector<float> logits_;
};

}  // namespace

constinit const CommandInfo run_command_info = {
    "run", "execute a model on this CPU, with generated weights", make_command<RunCommand>};

}  // namespace tcast
