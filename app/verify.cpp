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
#include "tcast/exec/host.h"
#include "tcast/exec/threads.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/text_table.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/generation.h"
#include "app/json_text.h"
#include "app/options.h"
#include "app/output.h"
#include "app/report_model.h"
#include "app/shrink.h"
#include "app/token_ids.h"
#include "app/verification.h"

namespace tcast {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t most_listed = 5;

std::string text_of(double error) { return error == 0 ? "0" : fmt::format("{:.1e}", error); }

/// Tokens of each request in a pass.
std::int64_t tokens_of_pass(std::size_t pass, const VerificationRequest& request) {
  return static_cast<std::int64_t>(
      (pass == 0 ? request.prompts : request.decode[pass - 1])[0].size());
}

/// "token 3 of the prompt of request 0, layer 5".
std::string place_of(const RoutingChange& change, const VerificationRequest& request) {
  const std::int64_t length = tokens_of_pass(change.pass, request);
  std::string place =
      change.pass == 0 ? fmt::format("token {} of the prompt", change.token % length)
      : length == 1    ? fmt::format("the token of decode step {}", change.pass)
                    : fmt::format("token {} of decode step {}", change.token % length, change.pass);
  return fmt::format("{} of request {}, layer {}", place, change.token / length, change.layer);
}

class VerifyCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line_ = &line;
    line.add_positional({"CONFIG", FileUse::config}, to_text(config_),
                        "config.json, or the directory that holds one");
    line.begin_group("Requests");
    line.add_option("--batch-size", "N", to_size(requests_, 1, 4096),
                    "requests at a time; default 2, or a multiple of the data-parallel replicas");
    line.add_option("--input-length", "TOKENS", to_size(input_length_, 1, 1 << 20),
                    "prompt tokens of each request; default 12");
    line.add_option("--decode-steps", "N", to_size(decode_steps_, 0, 4096),
                    "further tokens of each request, through the cache, with --num-mtp-tokens N "
                    "1 + N of them at a time; default 2");
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
    // Several blocks for each request, so that the way they are found matters.
    if (!line_->given("--kv-block-size")) model_.options.kv_block_size = 4;
    const HfConfig config = HfConfig::load(config_);
    if (!load_model(config, model_).generates()) {
      if (line_->given("--decode-steps") && decode_steps_ > 0) {
        throw Error(fmt::format("{}: a model of this class predicts no tokens, so that there are "
                                "no decode steps",
                                config.file()),
                    "leave out --decode-steps");
      }
      decode_steps_ = 0;
    }
    VerificationRequest request;
    request.tolerance = tolerance_;
    // Fewer devices than ranks are refused by shard_model.
    const std::int64_t replicas = std::max<std::int64_t>(1, model_.options.parallel.dp());
    ShrinkRequest size;
    size.decode_tokens = decode_steps_ * tokens_per_step();
    size.keeps_vocabulary = !token_ids_file_.empty();
    if (size.keeps_vocabulary) {
      const TransformerModel whole = load_model(config, model_);
      request.prompts = load_token_ids(token_ids_file_, whole.config().get_size("vocab_size"));
      requests_ = static_cast<std::int64_t>(request.prompts.size());
      input_length_ = static_cast<std::int64_t>(request.prompts[0].size());
    } else if (requests_ == 0) {
      requests_ = ceil_div(std::max<std::int64_t>(2, replicas), replicas) * replicas;
    }
    if (requests_ % replicas != 0) {
      throw Error(fmt::format("{} requests cannot be spread evenly over {} data-parallel replicas",
                              requests_, replicas),
                  fmt::format("choose --batch-size as a multiple of {}", replicas));
    }
    size.requests = requests_;
    size.input_length = input_length_;
    const std::optional<std::int64_t> available = host_features().available_bytes;
    size.most_weight_bytes = available ? *available / 4 : std::int64_t{1} << 30;
    const Shrunk small = shrink(config, model_, size);

    TransformerModel model = load_model(config, small.inputs);
    return model.guard_modules("verify", [&] { return verify(model, request, small, streams); });
  }

 private:
  int verify(TransformerModel& model, VerificationRequest& request, const Shrunk& small,
             Streams streams) {
    const std::int64_t vocabulary = model.config().get_size("vocab_size");
    if (request.prompts.empty()) {
      request.prompts = random_token_ids(requests_, input_length_, vocabulary, seed_);
    }
    for (std::int64_t step = 0; step < decode_steps_; ++step) {
      request.decode.push_back(
          random_token_ids(requests_, tokens_per_step(), vocabulary, seed_ + 1 + step));
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

  /// A decode step checks the tokens that multi-token prediction has drafted.
  std::int64_t tokens_per_step() const { return 1 + model_.options.num_mtp_tokens; }

  /// "f32, weights in bf16"
  std::string precision() const {
    return *model_.options.dtype == DType::f32
               ? "float32"
               : fmt::format("float32, on weights in {}", name_of(*model_.options.dtype));
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
             fmt::format("{} request(s) of {} tokens and {} decode step(s), in {}, on {} rank(s) "
                         "and {} thread(s); weights are generated, not those of the checkpoint",
                         requests_, input_length_, decode_steps_, precision(), verification.ranks(),
                         current_threads()));
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
    if (verification.keeps_function()) {
      text += "the transformed model has the function of the untransformed one\n";
    }
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
                               place_of(change, request), fmt::join(change.chosen, ", "),
                               fmt::join(change.expected, ", "), change.gap));
    }
    if (list.size() > most_listed) {
      text += fmt::format("  and {} more after {}\n", list.size() - most_listed, step);
    }
  }

  static ordered_json json_of(const std::vector<RoutingChange>& list,
                              const VerificationRequest& request) {
    ordered_json json = ordered_json::array();
    for (const RoutingChange& change : list) {
      const std::int64_t length = tokens_of_pass(change.pass, request);
      json.push_back({{"pass", change.pass},
                      {"request", change.token / length},
                      {"token", change.token % length},
                      {"layer", change.layer},
                      {"module", change.module},
                      {"expected", change.expected},
                      {"chosen", change.chosen},
                      {"gap", change.gap}});
    }
    return json;
  }

  /// JSON has no infinity, which stands for logits that cannot be compared.
  static ordered_json json_of(double error) {
    return std::isfinite(error) ? ordered_json(error) : ordered_json(nullptr);
  }

  std::string json_text_of(const TransformerModel& model, const Verification& verification,
                           const VerificationRequest& request, const Shrunk& small) const {
    ordered_json json;
    json["schema"] = 1;
    json["inputs"] = {{"config", config_},
                      {"batch_size", requests_},
                      {"input_length", input_length_},
                      {"decode_steps", decode_steps_},
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
                          {"near_ties", json_of(step.near_ties, request)},
                          {"other_experts", json_of(step.wrong_routes, request)}};
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
    json["keeps_function"] = verification.keeps_function();
    return json_document(json, 2);
  }

  CommandLine* line_ = nullptr;
  std::string config_;
  ModelInputs model_;
  OutputInputs output_;
  std::string token_ids_file_;
  std::int64_t requests_ = 0;  ///< 0: as few as will do
  std::int64_t input_length_ = 12;
  std::int64_t decode_steps_ = 2;
  std::int64_t seed_ = 0;
  std::int64_t threads_ = 0;
  double tolerance_ = 1e-4;
};

}  // namespace

constinit const CommandInfo verify_command = {
    "verify", "execute a model before and after each step: is it still the same function?",
    make_command<VerifyCommand>};

}  // namespace tcast
