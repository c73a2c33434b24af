#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/base/units.h"
#include "tcast/exec/threads.h"
#include "tcast/exec/timing/host.h"
#include "tcast/report/json_text.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/text_table.h"
#include "tcast/study/generation.h"
#include "tcast/study/report_model.h"
#include "tcast/study/shrink.h"
#include "tcast/study/verification.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/options.h"
#include "app/output.h"
#include "app/token_ids.h"

namespace tcast {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t most_listed = 5;
constexpr std::size_t most_in_json = 100;  // changes of routing, after each step

std::string text_of(double error) { return error == 0 ? "0" : fmt::format("{:.1e}", error); }

/// "token 3 of the prompt of 140 tokens of request 0, layer 5".
std::string place_of(const RoutingChange& change, const std::vector<VerifiedPass>& passes) {
  const VerifiedPass& pass = passes[change.pass];
  return fmt::format("token {} of {} of request {}, layer {}", change.token % pass.count,
                     to_string(pass), change.token / pass.count, change.layer);
}

/// "128", "129 instead of 4096"
std::string place_of(const Boundary& boundary) {
  return boundary.at == boundary.deployed
             ? std::to_string(boundary.at)
             : fmt::format("{} instead of {}", boundary.at, boundary.deployed);
}

/// "KV block (128), window (129 instead of 4096)": what prompts or decode steps have crossed.
std::string crossed_text(const std::vector<Crossing>& crossings) {
  std::vector<std::string> list;
  for (const Crossing& crossing : crossings) {
    const bool by_prompt = crossing.prompt_gap.empty();
    const bool by_decode = crossing.decode_gap.empty();
    if (!by_prompt && !by_decode) continue;
    list.push_back(fmt::format("{} ({}{})", crossing.boundary.name, place_of(crossing.boundary),
                               by_prompt && by_decode ? ""
                               : by_prompt            ? ", within a prompt"
                                                      : ", in decode"));
  }
  return list.empty() ? "nothing" : join(list, ", ");
}

/// "KV block (128) in decode: there are no decode steps"; empty: there is nothing to say.
std::string not_crossed_text(const std::vector<Crossing>& crossings) {
  std::vector<std::string> list;
  for (const Crossing& crossing : crossings) {
    const auto add = [&](const char* where, const std::string& gap) {
      if (gap.empty()) return;
      list.push_back(fmt::format("{} ({}) {}: {}", crossing.boundary.name,
                                 crossing.boundary.deployed, where, gap));
    };
    add("within a prompt", crossing.prompt_gap);
    add("in decode", crossing.decode_gap);
  }
  return join(list, "; ");
}

/// "126 tokens and 5 decode step(s), and of 138 tokens and 2 decode step(s)"
std::string lengths_text(const std::vector<RequestLengths>& lengths) {
  std::vector<std::string> list;
  list.reserve(lengths.size());
  for (const RequestLengths& one : lengths) {
    list.push_back(
        fmt::format("{} tokens and {} decode step(s)", one.input_length, one.decode_steps));
  }
  return join(list, ", of ");
}

RequestLengths most_of(const std::vector<RequestLengths>& lengths) {
  RequestLengths most;
  for (const RequestLengths& one : lengths) {
    most.input_length = std::max(most.input_length, one.input_length);
    most.decode_steps = std::max(most.decode_steps, one.decode_steps);
  }
  return most;
}

class VerifyCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional({"CONFIG", FileUse::config}, to_text(config_),
                        "config.json, or the directory that holds one");
    line.begin_group("Requests");
    line.add_option("--batch-size", "N", to_size(requests_, 1, 4096),
                    "requests at a time; default 2, or a multiple of the data-parallel replicas");
    line.add_option("--input-length", "TOKENS", to_size(input_length_, 1, 1 << 20),
                    "prompt tokens of each request; default: as many as it takes to cross the "
                    "boundaries of the model");
    line.add_option("--decode-steps", "N", to_size(decode_steps_, 0, 4096),
                    "further tokens of each request, through the cache, with --num-mtp-tokens N "
                    "1 + N of them at a time; default: as for prompts, or 2 behind a given "
                    "one");
    line.add_option("--token-ids", {"FILE", FileUse::reads}, to_text(token_ids_file_),
                    "the prompts instead: a line of token ids for each request");
    line.add_option("--seed", "N", to_size(seed_, 0), "of the random tokens; default 0");
    refuse_with_token_ids(line, {"--batch-size", "--input-length"});
    line.begin_group("Comparison");
    line.add_option("--tolerance", "X", to_number(tolerance_, 1e-9, 1),
                    "largest difference of logits, relative to the largest logit; default 1e-4");
    line.add_option("--threads", "N", to_size(threads_, 1, 4096),
                    "threads to run on; default all that this process may use");
    add_deployment_options(line, model_.options);
    add_model_options(line, model_);
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.set_example(
        "  $ tcast verify configs/models/qwen3-8b.json --tp 2 --quantize-linear w8a8_dynamic\n"
        "\n"
        "Exit status 3: a step changes the function of the model. Models are executed in float32\n"
        "unless --dtype says otherwise.\n");
  }

  int run(Streams streams) override {
    set_threads(threads_ > 0 ? static_cast<int>(threads_) : available_threads());
    if (!model_.options.dtype) model_.options.dtype = DType::f32;
    const HfConfig config = HfConfig::load(config_);
    ShrinkRequest size;
    size.lengths = lengths_asked(config);
    VerificationRequest request;
    request.tolerance = tolerance_;
    // Fewer devices than ranks are refused by shard_model.
    const std::int64_t replicas = std::max<std::int64_t>(1, model_.options.parallel.dp());
    size.keeps_vocabulary = !token_ids_file_.empty();
    if (size.keeps_vocabulary) {
      const TransformerModel whole = load_model(config, model_);
      request.tokens = load_token_ids(token_ids_file_, whole.config().get_size("vocab_size"));
      requests_ = static_cast<std::int64_t>(request.tokens.size());
      size.lengths.input_length = static_cast<std::int64_t>(request.tokens[0].size());
    } else if (requests_ == 0) {
      requests_ = ceil_div(std::max<std::int64_t>(2, replicas), replicas) * replicas;
    }
    if (requests_ % replicas != 0) {
      throw Error(fmt::format("{} requests cannot be spread evenly over {} data-parallel replicas",
                              requests_, replicas),
                  fmt::format("choose --batch-size as a multiple of {}", replicas));
    }
    size.requests = requests_;
    const std::optional<std::int64_t> available = host_features().available_bytes;
    size.most_bytes = available ? *available / 4 : std::int64_t{1} << 30;
    const Shrunk small = shrink(config, model_, size);
    request.lengths = lengths_across(small.boundaries, size.lengths);
    request.tokens_per_step = size.lengths.tokens_per_step;
    crossings_ = crossings_of(small.boundaries, request.lengths, size.lengths);

    TransformerModel model = load_model(config, small.inputs);
    return model.guard_modules("verify", [&] { return verify(model, request, small, streams); });
  }

 private:
  /// The lengths that the user wants. Throws Error for decode steps of a model that has none.
  LengthRequest lengths_asked(const HfConfig& config) const {
    LengthRequest lengths;
    lengths.decodes = load_model(config, model_).generates();
    // A decode step checks the tokens that multi-token prediction has drafted.
    lengths.tokens_per_step = 1 + model_.options.num_mtp_tokens;
    lengths.input_length = input_length_;
    lengths.decode_steps = decode_steps_;
    if (!lengths.decodes && lengths.decode_steps.value_or(0) > 0) {
      throw Error(fmt::format("{}: a model of this class predicts no tokens, so that there are "
                              "no decode steps",
                              config.file()),
                  "leave out --decode-steps");
    }
    return lengths;
  }

  int verify(TransformerModel& model, VerificationRequest& request, const Shrunk& small,
             Streams streams) {
    const std::int64_t vocabulary = model.config().get_size("vocab_size");
    const std::int64_t longest = longest_of(request.lengths, request.tokens_per_step);
    if (request.tokens.empty()) {
      request.tokens = random_token_ids(requests_, longest, vocabulary, seed_);
    } else {
      const auto given = static_cast<std::int64_t>(request.tokens[0].size());
      const TokenIds more = random_token_ids(requests_, longest - given, vocabulary, seed_ + 1);
      for (std::size_t i = 0; i < more.size(); ++i) {
        request.tokens[i].insert(request.tokens[i].end(), more[i].begin(), more[i].end());
      }
    }
    const auto* hook = custom_model_of(model);
    Verification verification(model, request, hook != nullptr ? describe_pipeline(model) : "");
    model.set_observer(&verification);
    transform(model);
    model.set_observer(nullptr);
    verification.finish(model);

    note_warnings(small.warnings.size());
    write_result(output_,
                 output_.format == OutputFormat::json
                     ? json_text_of(model, verification, request, small)
                     : table_of(model, verification, request, small),
                 streams);
    return verification.keeps_function() ? 0 : 3;
  }

  /// "f32, weights in bf16"
  std::string precision() const {
    return *model_.options.dtype == DType::f32
               ? "float32"
               : fmt::format("float32, on weights in {}", name_of(*model_.options.dtype));
  }

  /// What was shown, and for what it was not.
  std::string sentence_of(const VerificationRequest& request) const {
    const RequestLengths most = most_of(request.lengths);
    std::string text = fmt::format(
        "the transformed model has the function of the untransformed one for prompts of up to {} "
        "tokens and {} decode step(s); crossed: {}",
        most.input_length, most.decode_steps, crossed_text(crossings_));
    const std::string missing = not_crossed_text(crossings_);
    if (!missing.empty()) text += "; not crossed: " + missing;
    return wrap("", text);
  }

  std::string table_of(const TransformerModel& model, const Verification& verification,
                       const VerificationRequest& request, const Shrunk& small) const {
    const std::vector<std::string>& changes = small.changes;
    const bool precise = std::none_of(verification.steps().begin(), verification.steps().end(),
                                      [](const VerifiedStep& step) { return step.deployed; });
    std::string text = fmt::format("tcast verify: {} ({}), transformed by {}\n",
                                   printable(config_, 4096), printable(model.config().model_type()),
                                   printable(describe_pipeline(model), 1000));
    text += wrap("  model     ",
                 changes.empty() ? "as the config has it" : "made smaller: " + join(changes, "; "));
    text +=
        wrap("  executed  ",
             fmt::format("{} request(s) of {}, in {}, on {} rank(s) and {} thread(s); weights are "
                         "generated, not those of the checkpoint",
                         requests_, lengths_text(request.lengths), precision(),
                         verification.ranks(), current_threads()));
    text +=
        wrap("  compared  ",
             fmt::format("logits of each request after the prompt and after each decode step: max "
                         "|a - b| / max |b|, at most {:.0e}",
                         request.tolerance));
    if (!precise) {
      text += wrap("  precision ", precision_text(request));
    }
    for (const std::string& note : verification.notes()) text += wrap("  note      ", note);
    text += warning_lines(small.warnings);
    text += '\n';

    std::vector<TextColumn> columns = {
        {"after step"}, {"changed", true}, {"to untransformed", true}, {"to previous", true}};
    if (!precise) {
      columns.push_back({"kernels", true});
      columns.push_back({"precision moves", true});
    }
    columns.push_back({"verdict"});
    TextTable table(std::move(columns));
    for (const VerifiedStep& step : verification.steps()) {
      std::vector<std::string> row = {
          step.name, step.disabled ? "skipped" : std::to_string(step.changed_modules),
          text_of(step.error), text_of(step.error_to_previous)};
      if (!precise) {
        row.push_back(step.deployed ? text_of(step.deployed->worst.error) : "");
        row.push_back(step.deployed ? text_of(step.deployed->moved) : "");
      }
      row.emplace_back(step.faults.empty() ? "same function" : "DIFFERENT");
      table.add_row(std::move(row));
    }
    text += table.text() + "\n";
    for (const VerifiedStep& step : verification.steps()) {
      append_routes(text, step.name, "near-tie", step.near_ties, request);
      append_routes(text, step.name, "other experts", step.wrong_routes, request);
    }
    for (const VerifiedStep& step : verification.steps()) {
      for (const std::string& fault : step.faults) {
        text +=
            wrap("", fmt::format("'{}' changes the function of the model: {}", step.name, fault));
      }
    }
    if (verification.keeps_function()) text += sentence_of(request);
    return text;
  }

  static std::string precision_text(const VerificationRequest& request) {
    return fmt::format(
        "steps are compared without rounding: weights as in the checkpoint, activations and caches "
        "in float32, so that the scales which every rank finds for its own part of a row do not "
        "matter. Then the model is executed in its own precision: 'kernels' is the largest "
        "distance "
        "of one of them to plain loops over the same operands, at most {:.0e}; 'precision moves' "
        "is "
        "how far rounding alone moves the logits",
        request.kernel_tolerance);
  }

  static void append_routes(std::string& text, const std::string& step, const char* kind,
                            const std::vector<RoutingChange>& list,
                            const VerificationRequest& request) {
    for (std::size_t i = 0; i < std::min(list.size(), most_listed); ++i) {
      const RoutingChange& change = list[i];
      text += wrap(fmt::format("  {}: ", kind),
                   fmt::format("after {}, {}: experts {} instead of {}, ahead by {:.1e}", step,
                               place_of(change, request.passes()), fmt::join(change.chosen, ", "),
                               fmt::join(change.expected, ", "), change.gap));
    }
    if (list.size() > most_listed) {
      text += fmt::format("  and {} more after {}\n", list.size() - most_listed, step);
    }
  }

  /// The first of them: a router that is wrong is so for every token.
  static ordered_json json_of(const std::vector<RoutingChange>& list,
                              const std::vector<VerifiedPass>& passes) {
    ordered_json json = ordered_json::array();
    for (std::size_t i = 0; i < std::min(list.size(), most_in_json); ++i) {
      const RoutingChange& change = list[i];
      const VerifiedPass& pass = passes[change.pass];
      json.push_back({{"pass", change.pass},
                      {"input_length", pass.input_length},
                      {"decode_step", pass.decode_step},
                      {"request", change.token / pass.count},
                      {"token", change.token % pass.count},
                      {"layer", change.layer},
                      {"module", change.module},
                      {"expected", change.expected},
                      {"chosen", change.chosen},
                      {"gap", change.gap}});
    }
    return json;
  }

  /// What was crossed and what was not, in which phases.
  void add_crossings(ordered_json& json) const {
    json["crossed"] = ordered_json::array();
    json["not_crossed"] = ordered_json::array();
    for (const Crossing& crossing : crossings_) {
      const Boundary& boundary = crossing.boundary;
      ordered_json phases = ordered_json::array();
      for (const auto& [phase, gap] : {std::pair{"prefill", &crossing.prompt_gap},
                                       std::pair{"decode", &crossing.decode_gap}}) {
        if (!crossing.decodes && gap == &crossing.decode_gap) continue;
        if (gap->empty()) {
          phases.push_back(phase);
        } else {
          json["not_crossed"].push_back({{"boundary", boundary.name},
                                         {"deployed", boundary.deployed},
                                         {"phase", phase},
                                         {"reason", *gap}});
        }
      }
      if (phases.empty()) continue;
      json["crossed"].push_back({{"boundary", boundary.name},
                                 {"at", boundary.at},
                                 {"deployed", boundary.deployed},
                                 {"phases", phases}});
    }
  }

  /// JSON has no infinity, which stands for logits that cannot be compared.
  static ordered_json json_of(double error) {
    return std::isfinite(error) ? ordered_json(error) : ordered_json(nullptr);
  }

  std::string json_text_of(const TransformerModel& model, const Verification& verification,
                           const VerificationRequest& request, const Shrunk& small) const {
    const std::vector<VerifiedPass> passes = request.passes();
    const RequestLengths most = most_of(request.lengths);
    ordered_json lengths = ordered_json::array();
    for (const RequestLengths& one : request.lengths) {
      lengths.push_back({{"input_length", one.input_length}, {"decode_steps", one.decode_steps}});
    }
    ordered_json json;
    json["schema"] = 1;
    json["inputs"] = {{"config", config_},
                      {"batch_size", requests_},
                      {"input_length", most.input_length},
                      {"decode_steps", most.decode_steps},
                      {"requests", lengths},
                      {"seed", seed_},
                      {"dtype", name_of(*model_.options.dtype)},
                      {"tolerance", request.tolerance},
                      {"kernel_tolerance", request.kernel_tolerance},
                      {"kv_block_size", model_.options.kv_block_size},
                      {"threads", current_threads()},
                      {"ranks", verification.ranks()}};
    json["model"] = {{"model_type", model.config().model_type()}, {"made_smaller", small.changes}};
    json["pipeline"] = describe_pipeline(model);
    json["provenance"] = provenance_json(provenance_of(model));
    json["steps"] = ordered_json::array();
    for (const VerifiedStep& step : verification.steps()) {
      ordered_json one = {{"step", step.name},
                          {"disabled", step.disabled},
                          {"changed_modules", step.changed_modules},
                          {"error", json_of(step.error)},
                          {"error_to_previous", json_of(step.error_to_previous)},
                          {"num_near_ties", step.near_ties.size()},
                          {"near_ties", json_of(step.near_ties, passes)},
                          {"num_other_experts", step.wrong_routes.size()},
                          {"other_experts", json_of(step.wrong_routes, passes)}};
      if (step.deployed) {
        one["precision"] = {{"kernel_error", json_of(step.deployed->worst.error)},
                            {"worst_kernel", step.deployed->worst.name},
                            {"worst_module", step.deployed->worst.module},
                            {"moved", json_of(step.deployed->moved)}};
      }
      one["faults"] = step.faults;
      json["steps"].push_back(std::move(one));
    }
    json["notes"] = verification.notes();
    json["warnings"] = small.warnings;
    add_crossings(json);
    json["keeps_function"] = verification.keeps_function();
    return json_document(json, 2);
  }

  std::string config_;
  ModelInputs model_;
  OutputInputs output_;
  std::string token_ids_file_;
  std::int64_t requests_ = 0;  ///< 0: as few as will do
  std::optional<std::int64_t> input_length_;
  std::optional<std::int64_t> decode_steps_;
  std::int64_t seed_ = 0;
  std::int64_t threads_ = 0;
  double tolerance_ = 1e-4;
  std::vector<Crossing> crossings_;
};

}  // namespace

constinit const CommandInfo verify_command = {
    "verify", "execute a model before and after each step: is it still the same function?",
    make_command<VerifyCommand>};

}  // namespace tcast
