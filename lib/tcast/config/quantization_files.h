#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/config/hf_config.h"

namespace tcast {

/// Tools that write beside the config.json how they quantized the weights.
enum class QuantizationTool : std::uint8_t {
  modelopt,   ///< hf_quant_config.json (NVIDIA ModelOpt)
  gptq,       ///< quantize_config.json (AutoGPTQ, GPTQModel)
  awq,        ///< quant_config.json (AutoAWQ)
  modelslim,  ///< quant_model_description*.json (msModelSlim)
};

/// "ModelOpt", "GPTQ", ...
TCAST_API std::string_view name_of(QuantizationTool tool);

/// A file beside a config.json that says how the weights are stored.
struct QuantizationFile {
  std::string path;
  QuantizationTool tool = QuantizationTool::modelopt;
};

/// The files of that kind in the config's folder, in order of their names; links that lead nowhere
/// and other unreadable entries included, so that reading them says what is wrong. None where the
/// config has no folder.
TCAST_API std::vector<QuantizationFile> quantization_files(const HfConfig& config);

/// What makes it likely that a config's weights are quantized although it does not say so: the name
/// of a format ("FP8", "AWQ", "W8A8") that the name of its file or folder, or its `_name_or_path`,
/// has as a word of its own, or a key that quantization tools write; empty: nothing.
TCAST_API std::string hinted_quantization(const HfConfig& config);

}  // namespace tcast
