#pragma once

// Everything that a file in builtin_model/ or custom_model/ needs: the model's tree and its
// modules, the steps, and the macros that register. custom_model/README.md is the guide.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/base/plugin.h"
#include "tcast/base/text.h"
#include "tcast/config/arguments.h"
#include "tcast/config/config_class.h"
#include "tcast/config/exchange.h"
#include "tcast/cost/device_cost.h"
#include "tcast/device/device_profile.h"
#include "tcast/exec/kernels/plugin_kernel.h"
#include "tcast/exec/run/input_filler.h"
#include "tcast/graph/trace.h"
#include "tcast/model/attention.h"
#include "tcast/model/decoder.h"
#include "tcast/model/decoder_spec.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/latent_attention.h"
#include "tcast/model/layers.h"
#include "tcast/model/layout.h"
#include "tcast/model/module.h"
#include "tcast/model/moe.h"
#include "tcast/model/requirements.h"
#include "tcast/model/rope.h"
#include "tcast/model/sharding.h"
#include "tcast/model/transformer_model.h"
#include "tcast/plugin_context.h"
#include "tcast/report/report_writers.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/quantization_format.h"
#include "tcast/transform/steps.h"

// The function behind a registration is the static member of a struct in an unnamed namespace: its
// body follows the macro, so that debuggers and coverage see its lines, and a wrong parameter list
// is a compile error that points at it. `type` is what the group's registry holds.
#define TCAST_REGISTER_FUNCTION(group, type, result, parameters, ...)                    \
  namespace {                                                                            \
  struct TCAST_CONCAT(TcastRegistered, __LINE__) {                                       \
    static result call parameters;                                                       \
    static inline const type registered_value{&call};                                    \
  };                                                                                     \
  TCAST_REGISTER_VALUE(group, TCAST_CONCAT(TcastRegistered, __LINE__)::registered_value, \
                       __VA_ARGS__);                                                     \
  }                                                                                      \
  result TCAST_CONCAT(TcastRegistered, __LINE__)::call

// Every macro takes one or more names: literals, patterns (fnmatch: '*', '?', '[a-z]'),
// "scope::name" for a scope of your own, overriding("name") to take another registration's place.

/// Registers a hook that transforms models of the given types in place of the nine steps:
///
///     TCAST_REGISTER_CUSTOM_MODEL("my_model", "my_model_*")
///     (tcast::TransformerModel& model) { ... }
#define TCAST_REGISTER_CUSTOM_MODEL(...)                                  \
  TCAST_REGISTER_FUNCTION("custom_model", ::tcast::CustomModelHook, void, \
                          (::tcast::TransformerModel & model), __VA_ARGS__)

/// Registers a class derived from tcast::CustomModel, whose stages are the hook:
///
///     TCAST_REGISTER_CUSTOM_MODEL_CLASS(MyModel, "my_model");
#define TCAST_REGISTER_CUSTOM_MODEL_CLASS(Class, ...)                                       \
  namespace {                                                                               \
  const ::tcast::CustomModelHook TCAST_CONCAT(tcast_hook_, __LINE__){                       \
      {}, [] { return std::unique_ptr<::tcast::CustomModel>(std::make_unique<Class>()); }}; \
  TCAST_REGISTER_VALUE("custom_model", TCAST_CONCAT(tcast_hook_, __LINE__), __VA_ARGS__);   \
  }                                                                                         \
  static_assert(true)

/// Registers the function that builds the tree of the given model types:
///
///     TCAST_REGISTER_ARCHITECTURE("my_model")
///     (const tcast::ArchitectureContext& context) { return tcast::build_decoder(...); }
#define TCAST_REGISTER_ARCHITECTURE(...)                                 \
  TCAST_REGISTER_FUNCTION("architecture", ::tcast::ArchitectureFunction, \
                          std::unique_ptr<::tcast::Module>,              \
                          (const ::tcast::ArchitectureContext& context), __VA_ARGS__)

/// Registers the config class of the given model types: the keys that the architecture's function
/// reads, with what absent ones mean, other names, and keys that are harmless. `config_class` is a
/// constexpr tcast::ConfigClass of static lifetime. Without one, keys are known when they are read:
///
///     TCAST_REGISTER_CONFIG_CLASS(my_config_class, "my_model");
#define TCAST_REGISTER_CONFIG_CLASS(config_class, ...)             \
  namespace {                                                      \
  TCAST_REGISTER_VALUE("config_class", config_class, __VA_ARGS__); \
  }                                                                \
  static_assert(true)

/// Registers when a config whose model_type nobody knows is one of the given, registered type:
///
///     TCAST_REGISTER_ARCHITECTURE_PREDICATE("my_model")
///     (const tcast::HfConfig& config) { return config.has("my_special_key"); }
#define TCAST_REGISTER_ARCHITECTURE_PREDICATE(...)                                        \
  TCAST_REGISTER_FUNCTION("architecture_predicate", ::tcast::ArchitecturePredicate, bool, \
                          (const ::tcast::HfConfig& config), __VA_ARGS__)

/// Registers a model profile as YAML:
///
///     TCAST_REGISTER_PROFILE("my_model_*", "base: llama\n");
#define TCAST_REGISTER_PROFILE(pattern, yaml)                                       \
  namespace {                                                                       \
  const ::tcast::ProfileFunction TCAST_CONCAT(tcast_profile_, __LINE__) = [] {      \
    return ::tcast::ProfileText{yaml, __FILE__};                                    \
  };                                                                                \
  TCAST_REGISTER_VALUE("profile", TCAST_CONCAT(tcast_profile_, __LINE__), pattern); \
  }                                                                                 \
  static_assert(true)

/// Registers a class under the name that profiles use (mla_module_class_type,
/// custom_expert_module_type, the implementation of patch_attention); the body makes the module
/// that takes the place of `original`:
///
///     TCAST_REGISTER_MODULE_CLASS("MyAttention")
///     (tcast::Module& original, const tcast::ModelProfile& profile,
///      const tcast::ModelOptions& options) { return std::make_unique<MyAttention>(...); }
#define TCAST_REGISTER_MODULE_CLASS(...)                                                     \
  TCAST_REGISTER_FUNCTION("module_class", ::tcast::ModuleClassFunction,                      \
                          std::unique_ptr<::tcast::Module>,                                  \
                          (::tcast::Module & original, const ::tcast::ModelProfile& profile, \
                           const ::tcast::ModelOptions& options),                            \
                          __VA_ARGS__)

/// Registers a class under its own name and further ones. It is made from (original, profile,
/// options), or, if it has no such constructor, from (original):
///
///     TCAST_REGISTER_MODULE(MyAttention, "my_alias");
#define TCAST_REGISTER_MODULE(Class, ...)                                                   \
  namespace {                                                                               \
  const ::tcast::ModuleClassFunction TCAST_CONCAT(tcast_module_,                            \
                                                  __LINE__) = &::tcast::make_module<Class>; \
  TCAST_REGISTER_VALUE("module_class", TCAST_CONCAT(tcast_module_, __LINE__),               \
                       #Class __VA_OPT__(, ) __VA_ARGS__);                                  \
  }                                                                                         \
  static_assert(true)

/// Registers a step that profiles' pipelines name. Its body should go through tcast::run_step, so
/// that it is timed, checked and shown:
///
///     TCAST_REGISTER_STEP("my_step")
///     (tcast::TransformerModel& model, const tcast::Arguments& arguments) {
///       return tcast::run_step(model, "my_step", ...); }
#define TCAST_REGISTER_STEP(...)                                 \
  TCAST_REGISTER_FUNCTION(                                       \
      "step", ::tcast::StepFunction, ::tcast::TransformerModel&, \
      (::tcast::TransformerModel & model, const ::tcast::Arguments& arguments), __VA_ARGS__)

/// Registers a patch that a profile's vl_patch_method names:
///
///     TCAST_REGISTER_PATCH("my_patch")(tcast::TransformerModel& model) { ... }
#define TCAST_REGISTER_PATCH(...)                                \
  TCAST_REGISTER_FUNCTION("patch", ::tcast::PatchFunction, void, \
                          (::tcast::TransformerModel & model), __VA_ARGS__)

/// Registers a further name of an activation: TCAST_REGISTER_ACTIVATION(ElementwiseKind::silu,
/// "my_swish");
#define TCAST_REGISTER_ACTIVATION(kind, ...)                                                  \
  namespace {                                                                                 \
  constexpr ::tcast::ElementwiseKind TCAST_CONCAT(tcast_activation_, __LINE__) = kind;        \
  TCAST_REGISTER_VALUE("activation", TCAST_CONCAT(tcast_activation_, __LINE__), __VA_ARGS__); \
  }                                                                                           \
  static_assert(true)

/// Registers an operator by its work; a module uses it through find_operator("name"):
///
///     TCAST_REGISTER_OPERATOR("my_scan")
///     (const tcast::CustomOp& op) { tcast::OpWork work; ...; return work; }
#define TCAST_REGISTER_OPERATOR(...)                                              \
  TCAST_REGISTER_FUNCTION("operator", ::tcast::OperatorFunction, ::tcast::OpWork, \
                          (const ::tcast::CustomOp& op), __VA_ARGS__)

/// Registers how a registered operator is computed on this CPU:
///
///     TCAST_REGISTER_OPERATOR_KERNEL("my_scan")
///     (const tcast::CustomOp& op, const tcast::KernelArgs& args) { ... }
#define TCAST_REGISTER_OPERATOR_KERNEL(...)                                               \
  TCAST_REGISTER_FUNCTION("operator_kernel", ::tcast::OperatorKernel, void,               \
                          (const ::tcast::CustomOp& op, const ::tcast::KernelArgs& args), \
                          __VA_ARGS__)

/// Registers which operands a registered operator has, so that it can be timed:
///
///     TCAST_REGISTER_OPERATOR_OPERANDS("my_scan")
///     (const tcast::CustomOp& op) { return tcast::KernelOperands{...}; }
#define TCAST_REGISTER_OPERATOR_OPERANDS(...)                                                      \
  TCAST_REGISTER_FUNCTION("operator_operands", ::tcast::OperatorOperands, ::tcast::KernelOperands, \
                          (const ::tcast::CustomOp& op), __VA_ARGS__)

/// Registers how an input of a model's own (Trace::input) is filled before a pass is executed,
/// under its name:
///
///     TCAST_REGISTER_INPUT("pixel values")
///     (const tcast::InputContext& context, const tcast::Buffer& buffer) { ... }
#define TCAST_REGISTER_INPUT(...)                                                                \
  TCAST_REGISTER_FUNCTION("input_filler", ::tcast::InputFiller, void,                            \
                          (const ::tcast::InputContext& context, const ::tcast::Buffer& buffer), \
                          __VA_ARGS__)

/// Registers what an operator costs, on all devices ("matmul") or on one ("matmul@h200"):
///
///     TCAST_REGISTER_OPERATOR_COST("matmul@h200")
///     (const tcast::OpRecord& record, const tcast::OperatorCostContext& context) {
///       tcast::OpEstimate estimate = context.fallback; ...; return estimate; }
#define TCAST_REGISTER_OPERATOR_COST(...)                          \
  TCAST_REGISTER_FUNCTION(                                         \
      "operator_cost", ::tcast::OperatorCost, ::tcast::OpEstimate, \
      (const ::tcast::OpRecord& record, const ::tcast::OperatorCostContext& context), __VA_ARGS__)

/// Registers a device:
///
///     TCAST_REGISTER_DEVICE("my_npu")() { tcast::DeviceProfile device = ...; return device; }
#define TCAST_REGISTER_DEVICE(...)                                                       \
  TCAST_REGISTER_FUNCTION("device", ::tcast::DeviceFunction, ::tcast::DeviceProfile, (), \
                          __VA_ARGS__)

/// Registers how checkpoints of a quant_method store their weights:
///
///     TCAST_REGISTER_QUANTIZATION_FORMAT("my-int4")
///     (const tcast::QuantizationSource& source) {
///       tcast::QuantizationScheme scheme; ...; return scheme; }
#define TCAST_REGISTER_QUANTIZATION_FORMAT(...)                               \
  TCAST_REGISTER_FUNCTION("quantization_format", ::tcast::QuantizationFormat, \
                          ::tcast::QuantizationScheme,                        \
                          (const ::tcast::QuantizationSource& source), __VA_ARGS__)

/// Registers a cost model for `simulate --runner NAME`:
///
///     TCAST_REGISTER_COST_MODEL("my_model")
///     (const tcast::DeviceProfile& device, const tcast::CostModel& roofline) {
///       return std::make_unique<MyCostModel>(device, roofline); }
#define TCAST_REGISTER_COST_MODEL(...)                                               \
  TCAST_REGISTER_FUNCTION(                                                           \
      "cost_model", ::tcast::CostModelFunction, std::unique_ptr<::tcast::CostModel>, \
      (const ::tcast::DeviceProfile& device, const ::tcast::CostModel& roofline), __VA_ARGS__)

/// Registers another maker of kernels for `run --runner NAME`:
///
///     TCAST_REGISTER_EXECUTOR("my_kernels")
///     (const tcast::OpRecord& record, const tcast::KernelContext& context) { ... }
#define TCAST_REGISTER_EXECUTOR(...)                           \
  TCAST_REGISTER_FUNCTION(                                     \
      "executor", ::tcast::KernelMaker, ::tcast::KernelResult, \
      (const ::tcast::OpRecord& record, const ::tcast::KernelContext& context), __VA_ARGS__)

/// Registers a form of report for `simulate --format NAME`:
///
///     TCAST_REGISTER_REPORT_WRITER("markdown")(const tcast::Report& report) { ... }
#define TCAST_REGISTER_REPORT_WRITER(...)                                      \
  TCAST_REGISTER_FUNCTION("report_writer", ::tcast::ReportWriter, std::string, \
                          (const ::tcast::Report& report), __VA_ARGS__)

/// Registers a set-up function under the groups that it registers into ("device", "*" for any); it
/// runs when a command first needs one of them:
///
///     TCAST_REGISTER_SETUP("device", "profile")
///     (tcast::PluginContext& context) { context.add_profiles("/etc/my_profiles"); }
#define TCAST_REGISTER_SETUP(...)                                                          \
  namespace {                                                                              \
  struct TCAST_CONCAT(TcastRegistered, __LINE__) {                                         \
    static void call(::tcast::PluginContext& context);                                     \
    static void set_up(::tcast::SetupContext& setup) {                                     \
      ::tcast::PluginContext context(setup);                                               \
      call(context);                                                                       \
    }                                                                                      \
    static constexpr ::tcast::SetupFunction registered_value = &set_up;                    \
  };                                                                                       \
  TCAST_REGISTER_VALUE("setup", TCAST_CONCAT(TcastRegistered, __LINE__)::registered_value, \
                       __VA_ARGS__);                                                       \
  }                                                                                        \
  void TCAST_CONCAT(TcastRegistered, __LINE__)::call

namespace tcast {

/// A module of a class in the place of another, from the constructor that the class has.
template <class Class>
std::unique_ptr<Module> make_module(Module& original, const ModelProfile& profile,
                                    const ModelOptions& options) {
  if constexpr (std::is_constructible_v<Class, Module&, const ModelProfile&, const ModelOptions&>) {
    return std::make_unique<Class>(original, profile, options);
  } else {
    return std::make_unique<Class>(original);
  }
}

}  // namespace tcast
