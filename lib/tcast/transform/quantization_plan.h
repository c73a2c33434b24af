#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/config/hf_config.h"
#include "tcast/config/options.h"
#include "tcast/model/layers.h"
#include "tcast/transform/module_filter.h"

namespace tcast {

/// Patterns of modules, as they were written somewhere.
struct ModulePatterns {
  std::vector<std::string> texts;
  PatternStyle style = PatternStyle::subtree;
  std::string source;   ///< "--quantize-ignore", "quantization_config", for reports
  std::string place{};  ///< the same with the file, for errors; empty: as `source`

  const std::string& where() const { return place.empty() ? source : place; }
};

/// Linears that are stored in one way.
struct QuantizationGroup {
  std::string name;  ///< "--quantize-linear fp8", "quantization_config.config_groups.group_0"
  /// Which modules belong to it; nothing: every one that holds products.
  std::optional<ModulePatterns> targets{};
  std::optional<LinearQuantization> linear{};  ///< nothing: they stay as they are
};

/// What is to be quantized, how, and what is not (decision D13).
struct TCAST_API QuantizationPlan {
  std::vector<QuantizationGroup> groups;  ///< none: linears stay as they are
  std::vector<ModulePatterns> ignore;     ///< modules that stay, whatever group they belong to
  /// Who asks for the groups: "--quantize-linear fp8", "quantization_config (fp8)"; empty: nobody.
  std::string linear_source;
  bool linear_by_option = false;  ///< else by the checkpoint
  std::optional<DType> kv_cache;  ///< nothing: keys and values stay in the activations' dtype
  std::string kv_source;          ///< likewise, of the KV cache
  bool kv_by_option = false;
  std::vector<std::string> assumptions;
  std::vector<std::string> warnings;

  /// Whether any group stores its linears in another way than the checkpoint's dtype.
  bool quantizes_linears() const;
};

/// The plan that the options ask for, or the checkpoint's own: quantization_config (or
/// compression_config), or what a quantization tool wrote into a file beside the config.json.
/// Throws Error, located in the file that says it, for schemes that tcast does not have, for
/// unknown settings, and for files that contradict each other.
TCAST_API QuantizationPlan plan_quantization(const HfConfig& config, const ModelOptions& options);

}  // namespace tcast
