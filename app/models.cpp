#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/plugin.h"
#include "tcast/base/text.h"
#include "tcast/config/exchange.h"
#include "tcast/cost/device_cost.h"
#include "tcast/device/device_profile.h"
#include "tcast/exec/kernels/plugin_kernel.h"
#include "tcast/exec/run/input_filler.h"
#include "tcast/model/decoder_spec.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/json_text.h"
#include "tcast/report/report_writers.h"
#include "tcast/report/text_table.h"
#include "tcast/transform/pipeline.h"

#include "app/command.h"
#include "app/options.h"
#include "app/output.h"

namespace tcast {
namespace {

using nlohmann::ordered_json;

/// One registration, whatever its group.
struct Registration {
  std::string kind;
  std::string pattern;
  std::string origin;
  std::string file;
  int line = 0;      ///< 0: the file as a whole
  std::string note;  ///< in explanations: why it stands where it does

  std::string place() const { return line > 0 ? fmt::format("{}:{}", file, line) : file; }
};

template <class Entry>
Registration registration(const char* kind, const Entry& entry) {
  return {kind,
          std::string(entry.pattern),
          std::string(name_of(entry.origin)),
          std::string(entry.file),
          entry.line,
          ""};
}

/// What source files registered; what tcast has there by itself is listed by other commands.
template <class T>
void append(std::vector<Registration>& list, const char* kind, const Registry<T>& registry) {
  for (const auto* entry : registry.entries()) {
    if (!entry->plugin.empty()) list.push_back(registration(kind, *entry));
  }
}

std::vector<Registration> all_registrations() {
  std::vector<Registration> list;
  append(list, "custom model", custom_models());
  append(list, "architecture", architectures());
  append(list, "architecture predicate", architecture_predicates());
  append(list, "profile", profiles());
  append(list, "module class", module_classes());
  append(list, "step", registered_steps());
  append(list, "patch", patches());
  append(list, "activation", activations());
  append(list, "operator", operators());
  append(list, "operator kernel", operator_kernels());
  append(list, "operator operands", operator_operands());
  append(list, "operator cost", operator_costs());
  append(list, "input filler", input_fillers());
  append(list, "device", devices());
  append(list, "cost model", cost_models());
  append(list, "executor", executors());
  append(list, "report writer", report_writers());
  append(list, "name resolver", name_resolvers());
  append(list, "token loader", token_loaders());
  append(list, "logits dumper", logits_dumpers());
  append(list, "value converter", value_converters());
  append(list, "type validator", type_validators());
  return list;
}

/// The candidates for a model type, in order, with why the first one won.
template <class T>
std::vector<Registration> explain(const char* kind, const Registry<T>& registry,
                                  const std::string& model_type) {
  std::vector<Registration> list;
  // Throws when two match equally well.
  const auto* const winner = registry.find(model_type);
  const auto candidates = registry.candidates(model_type);
  for (const auto* entry : candidates) {
    list.push_back(registration(kind, *entry));
    std::string& note = list.back().note;
    if (entry != winner) {
      note = "not used: " + Registry<T>::reason(*winner, *entry);
    } else {
      note = candidates.size() > 1 ? "used" : "used: no other one matches";
    }
  }
  return list;
}

ordered_json json_of(const Registration& one) {
  ordered_json json = {
      {"kind", one.kind}, {"pattern", one.pattern}, {"origin", one.origin}, {"file", one.file}};
  if (one.line > 0) json["line"] = one.line;
  if (!one.note.empty()) json["note"] = one.note;
  return json;
}

ordered_json json_of(const std::vector<Registration>& list) {
  ordered_json json = ordered_json::array();
  for (const Registration& one : list) json.push_back(json_of(one));
  return json;
}

class ModelsCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional(
        "explain",
        [this](const std::string& text) {
          if (text != "explain") {
            throw Error(fmt::format("expected the word explain, got '{}'", printable(text)),
                        "as in: tcast models explain llama");
          }
          explain_ = true;
        },
        "say for the TYPE that follows which registrations match and why one wins", false);
    line.add_positional("TYPE", to_text(model_type_), "a model type, as in a config's model_type",
                        false);
    line.add_check([this] {
      if (explain_ && model_type_.empty()) {
        throw Error("TYPE is missing", "as in: tcast models explain llama");
      }
    });
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.set_example(
        "  $ tcast models explain mixtral\n"
        "  kind          pattern  origin   place                        verdict\n"
        "  architecture  mixtral  builtin  builtin_model/mixtral.cpp:5  used: no other one "
        "matches\n"
        "  ...\n");
  }

  int run(Streams streams) override {
    const bool json = output_.format == OutputFormat::json;
    const std::string text = explain_ ? explain_type(json) : list_all(json);
    write_result(output_, text, streams);
    return 0;
  }

 private:
  static std::string list_all(bool json) {
    const std::vector<Registration> list = all_registrations();
    if (json) {
      return json_document({{"schema", 1}, {"registrations", json_of(list)}}, 1);
    }
    std::vector<std::vector<std::string>> rows = {{"kind", "pattern", "origin", "place"}};
    for (const Registration& one : list) {
      rows.push_back({one.kind, one.pattern, one.origin, one.place()});
    }
    return table_text(rows);
  }

  std::string explain_type(bool json) const {
    std::vector<Registration> list = explain("architecture", architectures(), model_type_);
    const std::vector<Registration> hooks = explain("custom model", custom_models(), model_type_);
    std::vector<Registration> files = explain("profile", profiles(), model_type_);
    // The builtin one is merged all the same, under the other.
    const auto builtin = std::find_if(files.begin(), files.end(), [](const Registration& one) {
      return one.origin == name_of(Origin::builtin);
    });
    if (builtin != files.end() && builtin != files.begin()) {
      builtin->note = "used: keys that the custom one leaves alone";
    }
    if (list.empty() && hooks.empty() && files.empty()) {
      const std::string plugin = missing_plugin_hint("architecture", model_type_);
      throw Error(fmt::format("unknown model type '{}'", printable(model_type_)),
                  plugin.empty()
                      ? did_you_mean(model_type_, architectures().names(), "see 'tcast models'")
                      : plugin);
    }
    const bool built = !list.empty();
    list.insert(list.end(), hooks.begin(), hooks.end());
    list.insert(list.end(), files.begin(), files.end());
    if (json) {
      return json_document(
          {{"schema", 1}, {"model_type", model_type_}, {"candidates", json_of(list)}}, 1);
    }
    std::vector<std::vector<std::string>> rows = {
        {"kind", "pattern", "origin", "place", "verdict"}};
    for (const Registration& one : list) {
      rows.push_back({one.kind, one.pattern, one.origin, one.place(), one.note});
    }
    std::string text = table_text(rows);
    if (!built) text += "\nno architecture: only a profile's base can tell how to build it\n";
    if (hooks.empty()) text += "\nno hook: the nine standard steps transform it\n";
    return text;
  }

  bool explain_ = false;
  std::string model_type_;
  OutputInputs output_;
};

}  // namespace

constinit const CommandInfo models_command = {
    "models", "every registered model, module class and operator, and why one wins",
    make_command<ModelsCommand>};

}  // namespace tcast
