#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/base/plugin.h"
#include "tcast/config/arguments.h"
#include "tcast/config/exchange.h"
#include "tcast/cost/device_cost.h"
#include "tcast/device/device_profile.h"
#include "tcast/exec/kernels/plugin_kernel.h"
#include "tcast/exec/run/input_filler.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report_writers.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/quantization_format.h"

namespace tcast {

/// What a set-up function registers into (TCAST_REGISTER_SETUP). Every function takes the names and
/// patterns to register under, throws Error naming the calling line for what cannot be registered,
/// and must not be called after the set-up function returned.
class TCAST_API PluginContext {
 public:
  using Names = std::vector<std::string>;

  explicit PluginContext(SetupContext& setup) : setup_(setup) {}

  /// Name of the plugin that is being set up.
  const std::string& plugin() const { return setup_.plugin(); }

  /// Whether a name, or a pattern as such, is registered in a group; the names that tcast itself
  /// has there count. Registering can be skipped then.
  bool is_taken(std::string_view group, std::string_view name) const;

  /// Registers into any group, also one of your own.
  template <class T>
  void add(const std::string& group, Names names, T value, bool overrides = false,
           const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    setup_.add<T>(group, std::move(names), std::move(value), overrides, file, line);
  }

  void add_custom_model(Names names, std::function<void(TransformerModel&)> function,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("custom_model", std::move(names), CustomModelHook{std::move(function), {}}, false, file,
        line);
  }
  void add_architecture(Names names, ArchitectureFunction function,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("architecture", std::move(names), std::move(function), false, file, line);
  }
  /// A model profile as YAML text.
  void add_profile(const std::string& pattern, std::string yaml,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE());
  /// All *.yaml of a folder, in order of their names, each under its model_type. Throws Error when
  /// the folder cannot be read or a file is no profile.
  void add_profiles(const std::string& folder, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE());
  void add_device(const std::string& name, DeviceFunction function,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("device", {name}, std::move(function), false, file, line);
  }
  /// "anything@place" as CONFIG is what `function("anything")` makes of it.
  void add_name_resolver(const std::string& place, NameResolver function,
                         const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("name_resolver", {place}, std::move(function), false, file, line);
  }
  /// Lets Arguments::get<T>() read values of a type of your own.
  template <class T>
  void add_value_converter(std::function<T(const Node&)> convert,
                           const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    ValueConverter converter;
    if (convert != nullptr) {
      converter = [convert = std::move(convert)](const Node& node) {
        return std::any(convert(node));
      };
    }
    add("value_converter", {type_name(typeid(T))}, std::move(converter), false, file, line);
  }
  /// Checks the values of a config.json's keys of this name or pattern.
  void add_type_validator(const std::string& key, TypeValidator validate,
                          const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("type_validator", {key}, std::move(validate), false, file, line);
  }
  /// Reads `run --token-ids FILE` for files of this pattern ("*.npy").
  void add_token_loader(const std::string& files, TokenLoader load,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("token_loader", {files}, std::move(load), false, file, line);
  }
  /// Writes `run --dump-logits FILE` for files of this pattern.
  void add_logits_dumper(const std::string& files, LogitsDumper dump,
                         const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("logits_dumper", {files}, std::move(dump), false, file, line);
  }
  void add_step(const std::string& name, StepFunction step, const char* file = __builtin_FILE(),
                int line = __builtin_LINE()) {
    add("step", {name}, std::move(step), false, file, line);
  }
  /// Reads what checkpoints of this quant_method say of how their weights are stored.
  void add_quantization_format(const std::string& method, QuantizationFormat read,
                               const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("quantization_format", {method}, std::move(read), false, file, line);
  }
  void add_cost_model(const std::string& name, CostModelFunction make,
                      const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("cost_model", {name}, std::move(make), false, file, line);
  }
  void add_executor(const std::string& name, KernelMaker make, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
    add("executor", {name}, std::move(make), false, file, line);
  }
  /// Fills the input of this name of a model's own before a pass is executed.
  void add_input_filler(const std::string& input, InputFiller fill,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("input_filler", {input}, std::move(fill), false, file, line);
  }
  void add_report_writer(const std::string& name, ReportWriter write,
                         const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    add("report_writer", {name}, std::move(write), false, file, line);
  }

 private:
  SetupContext& setup_;
};

}  // namespace tcast
