#pragma once

// Everything that a file in builtin_model/ or custom_model/ needs: the model's tree and its
// modules, the steps, and the macros that register architectures, hooks, module classes and
// operators.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/base/registry.h"
#include "tcast/base/text.h"
#include "tcast/graph/trace.h"
#include "tcast/model/attention.h"
#include "tcast/model/decoder.h"
#include "tcast/model/decoder_spec.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/latent_attention.h"
#include "tcast/model/layers.h"
#include "tcast/model/module.h"
#include "tcast/model/moe.h"
#include "tcast/model/rope.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

// The function behind a registration is the static member of a struct in an unnamed namespace: its
// body follows the macro, so that debuggers and coverage see its lines, and a wrong parameter list
// is a compile error that points at it.
#define TCAST_REGISTER_FUNCTION(group, type, result, parameters, ...)                       \
  namespace {                                                                               \
  struct TCAST_CONCAT(TcastRegistered, __LINE__) {                                          \
    static result call parameters;                                                          \
    static constexpr type value = &call;                                                    \
  };                                                                                        \
  TCAST_REGISTER_VALUE(group, TCAST_CONCAT(TcastRegistered, __LINE__)::value, __VA_ARGS__); \
  }                                                                                         \
  result TCAST_CONCAT(TcastRegistered, __LINE__)::call

/// Registers a hook that transforms models of the given types (names or patterns) in place of the
/// nine steps:
///
///     TCAST_REGISTER_CUSTOM_MODEL("my_model", "my_model_*")
///     (tcast::TransformerModel& model) { ... }
#define TCAST_REGISTER_CUSTOM_MODEL(...)                                  \
  TCAST_REGISTER_FUNCTION("custom_model", ::tcast::CustomModelHook, void, \
                          (::tcast::TransformerModel & model), __VA_ARGS__)

/// Registers the function that builds the tree of the given model types:
///
///     TCAST_REGISTER_ARCHITECTURE("my_model")
///     (const tcast::ArchitectureContext& context) { return tcast::build_decoder(...); }
#define TCAST_REGISTER_ARCHITECTURE(...)                                 \
  TCAST_REGISTER_FUNCTION("architecture", ::tcast::ArchitectureFunction, \
                          std::unique_ptr<::tcast::Module>,              \
                          (const ::tcast::ArchitectureContext& context), __VA_ARGS__)

/// Registers a class under the name that profiles use (mla_module_class_type,
/// custom_expert_module_type); the body makes the module that takes the place of `original`:
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

/// Registers an operator by its cost; a module uses it through operators().find("name"):
///
///     TCAST_REGISTER_OPERATOR("my_scan")
///     (const tcast::CustomOp& op) { tcast::OpWork work; ...; return work; }
#define TCAST_REGISTER_OPERATOR(...)                                              \
  TCAST_REGISTER_FUNCTION("operator", ::tcast::OperatorFunction, ::tcast::OpWork, \
                          (const ::tcast::CustomOp& op), __VA_ARGS__)
