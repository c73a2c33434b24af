#include <initializer_list>
#include <iterator>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/base/units.h"
#include "tcast/model/module.h"
#include "tcast/report/json_text.h"
#include "tcast/report/tree_text.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/inspect_steps.h"
#include "app/options.h"
#include "app/output.h"

namespace tcast {
namespace {

constexpr int schema = 1;

std::string summary_text(const TransformerModel& model) {
  const ParameterCounts counts = model.count_parameters();
  std::string text = fmt::format("model type         {}\n", printable(model.config().model_type()));
  text += fmt::format("parameters         {} ({})\n", format_grouped(counts.total),
                      format_count(static_cast<double>(counts.total)));
  text += fmt::format("active parameters  {} ({})\n", format_grouped(counts.active),
                      format_count(static_cast<double>(counts.active)));
  text += fmt::format("dtype              {}\n", name_of(usual_dtype(model.root())));
  return text;
}

/// What a reader of the numbers has to know.
std::vector<std::string> remarks(const TransformerModel& model) {
  std::vector<std::string> list;
  for (const std::string& assumption : model.assumptions())
    list.push_back("assumed: " + assumption);
  // All of it is read by the steps, of which none ran.
  if (model.reports().empty() && model.config().node("quantization_config")) {
    list.emplace_back(
        "note: the model is shown before its quantization (quantization_config); --transformed "
        "shows it after that");
  }
  for (const std::string& warning : model.warnings()) list.push_back("warning: " + warning);
  return list;
}

std::string text_of(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += printable(line, std::string::npos) + "\n";
  return text;
}

/// ,"<key>":[{name, shape, dtype}, ...] of the parameters, or of the buffers.
void add_list(std::string& text, std::string_view key, bool buffers,
              const std::vector<NamedParameter>& parameters, const ModelNames* names) {
  text += fmt::format(",\n\"{}\":[", key);
  std::string_view separator = "\n";
  for (const NamedParameter& named : parameters) {
    const Parameter& parameter = *named.parameter;
    if (parameter.buffer != buffers || parameter.is_quantization_part() ||
        !parameter.tied_to.empty())
      continue;
    fmt::format_to(std::back_inserter(text), R"({}{{"name":{},"shape":{},"dtype":"{}")", separator,
                   json_text(named.name), to_string(parameter.checkpoint_shape()),
                   name_of(parameter.dtype));
    if (names != nullptr) {
      // What the model's hook calls it.
      const std::string known_as = names->parameter_name(named.name);
      const std::string stored_as = names->checkpoint_name(named.name);
      if (known_as != named.name) text += fmt::format(",\"known_as\":{}", json_text(known_as));
      if (stored_as != named.name) text += fmt::format(",\"stored_as\":{}", json_text(stored_as));
    }
    text += '}';
    separator = ",\n";
  }
  text += separator == "\n" ? "]" : "\n]";
}

/// Nobody has a model of that many, and a list of them would fill the memory.
constexpr std::int64_t max_listed = 10'000'000;

void refuse_endless_list(const TransformerModel& model) {
  std::int64_t listed = 0;
  walk(model.root(), [&listed](const Module& module, const ModulePath& path) {
    const auto own = static_cast<std::int64_t>(module.parameters().size());
    listed = checked_add(listed, checked_mul(own, path.count(), "list of parameters"),
                         "list of parameters");
  });
  if (listed > max_listed) {
    throw Error(
        fmt::format("{} parameters are too many to list one by one", format_grouped(listed)),
        "leave out --format json: the tree shows equal ones once");
  }
}

/// Written by hand, a parameter a line: DeepSeek-V3 has 90,000 of them.
std::string json_of(const TransformerModel& model) {
  refuse_endless_list(model);
  const ParameterCounts counts = model.count_parameters();
  std::string text = fmt::format(
      "{{\"schema\":{},\n\"model_type\":{},\n\"total_parameters\":{},\n\"active_parameters\":{}",
      schema, json_text(model.config().model_type()), counts.total, counts.active);
  const std::vector<NamedParameter> parameters = model.parameters();
  add_list(text, "parameters", false, parameters, model.names().get());
  add_list(text, "buffers", true, parameters, model.names().get());
  text += "}\n";
  return text;
}

class InspectCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional({"CONFIG", FileUse::config}, to_text(config_),
                        "config.json, or a directory that holds one");
    line.begin_group("View");
    line.add_flag("--transformed", transformed_, "the tree as the steps or the hook leave it");
    line.add_flag("--diff", diff_, "the tree before and after, line by line");
    line.add_flag("--steps", steps_, "what each step changed and what that bought");
    add_model_options(line, model_);
    add_deployment_options(line, model_.options);
    add_request_options(line, workload_);
    line.begin_group("Target");
    line.add_option("--device", {"NAME|FILE", FileUse::device}, to_text(device_),
                    "what --steps prices the model on; default TEST_DEVICE");
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.add_check([this, &line] { check(line); });
    line.set_example(
        "  $ tcast inspect configs/models/mixtral-8x7b.json\n"
        "  model type         mixtral\n"
        "  parameters         46,702,792,704 (46.70 B)\n"
        "  active parameters  12,879,925,248 (12.88 B)\n"
        "  ...\n"
        "  $ tcast inspect --diff --tp 2 configs/models/mixtral-8x7b.json\n");
  }

  int run(Streams streams) override {
    if (steps_) {
      note_warnings(inspect_steps(config_, model_, workload_, device_, output_, streams));
      return 0;
    }
    TransformerModel model = load_model(config_, model_);
    return model.guard_modules("inspect", [&] { return inspect(model, streams); });
  }

 private:
  int inspect(TransformerModel& model, Streams streams) {
    if (output_.format == OutputFormat::json) {
      write_result(output_, json_of(model), streams);
      const std::vector<std::string> notes = remarks(model);
      note_warnings(model.warnings().size());
      for (const std::string& remark : notes) {
        streams.err << "tcast: " << printable(remark, std::string::npos) << '\n';
      }
      return 0;
    }
    std::string text = summary_text(model);
    const std::vector<std::string> before = tree(model);
    if (transformed_ || diff_) {
      text += fmt::format("transformed by     {}\n", describe_pipeline(model));
      transform(model);
    }
    text += "\n" + text_of(diff_ ? diff_lines(before, tree(model)) : tree(model));
    const std::vector<std::string> notes = remarks(model);
    note_warnings(model.warnings().size());
    if (!notes.empty()) text += "\n" + text_of(notes);
    write_result(output_, text, streams);
    return 0;
  }

  std::vector<std::string> tree(const TransformerModel& model) {
    // The untransformed model's: what a step changes shows.
    if (!usual_) usual_ = usual_dtype(model.root());
    return tree_lines(model.root(), *usual_);
  }

  /// What would not show is refused rather than dropped.
  void check(const CommandLine& line) const {
    if (static_cast<int>(transformed_) + static_cast<int>(diff_) + static_cast<int>(steps_) > 1) {
      throw Error("--transformed, --diff and --steps are different views", "choose one of them");
    }
    if (output_.format == OutputFormat::json && (transformed_ || diff_)) {
      throw Error("--format json describes the model before its transformation",
                  "leave out --transformed and --diff, or --format json");
    }
    auto refuse = [&line](std::initializer_list<const char*> names, const char* hint) {
      for (const char* name : names) {
        if (line.given(name))
          throw Error(fmt::format("{} changes nothing in this view", name), hint);
      }
    };
    if (!steps_) {
      refuse({"--batch-size", "--input-length", "--output-length", "--device"}, "add --steps");
    }
    if (!steps_ && !transformed_ && !diff_) {
      refuse({"--quantize-linear", "--quantize-kv-cache", "--quantize-ignore", "--kv-block-size",
              "--num-devices", "--tp", "--ep", "--expert-skew", "--num-mtp-tokens", "--skip-step",
              "--no-reuse-layers"},
             "add --transformed, --diff or --steps");
    }
  }

  std::string config_;
  bool transformed_ = false;
  bool diff_ = false;
  bool steps_ = false;
  ModelInputs model_;
  WorkloadInputs workload_;
  std::string device_ = "TEST_DEVICE";
  OutputInputs output_;
  std::optional<DType> usual_;
};

}  // namespace

constinit const CommandInfo inspect_command = {
    "inspect", "the module tree, parameters and totals of a model", make_command<InspectCommand>};

}  // namespace tcast
