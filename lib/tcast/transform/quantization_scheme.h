#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tcast/config/hf_config.h"
#include "tcast/config/options.h"
#include "tcast/model/layers.h"

namespace tcast {

/// How the linears of a model are to be quantized, and which are not.
struct QuantizationPlan {
  std::optional<LinearQuantization> linear;  ///< nothing: they stay as they are
  std::vector<std::string> ignore;           ///< module patterns (see ModuleFilter)
  std::string source;                        ///< "--quantize-linear fp8", "quantization_config"
};

/// The plan that the options ask for, or the checkpoint's own (quantization_config or
/// compression_config). Throws Error for methods that tcast does not know yet, by name.
QuantizationPlan plan_quantization(const HfConfig& config, const ModelOptions& options);

}  // namespace tcast
