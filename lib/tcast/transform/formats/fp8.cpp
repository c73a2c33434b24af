#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/transform/formats/formats.h"
#include "tcast/transform/quantization_format.h"

// quant_method "fp8": e4m3 weights in blocks with one scale each (DeepSeek-V3, Qwen3-FP8, GLM;
// transformers' FineGrainedFP8Config), or with one scale per weight (AutoFP8, vLLM's Fp8Config),
// whose activations are quantized at run time or with fixed scales.

namespace tcast {
namespace {

/// A switch that must be off.
void require_off(const HfConfig& map, const char* key, const char* meaning) {
  if (!map.get_or<bool>(key, false)) return;
  map.fail(key, fmt::format("{} is not supported yet", meaning), other_scheme_hint);
}

void read_blocks(const HfConfig& map, LinearQuantization& quantization,
                 std::vector<std::string>& assumptions) {
  const auto block = map.find<std::vector<std::int64_t>>("weight_block_size");
  const bool whole = map.get_or<bool>("weight_per_tensor", false);
  if (block && whole) {
    map.fail("weight_per_tensor", "true contradicts weight_block_size", "leave out one of the two");
  }
  if (!block) {
    quantization.scales = scale_per_tensor;
    if (!whole) {
      assumptions.emplace_back(
          "weight_block_size is absent: fp8 weights with one scale each, as vLLM reads it");
    }
    return;
  }
  if (block->size() != 2 || (*block)[0] < 1 || (*block)[1] < 1 || (*block)[0] > largest_block ||
      (*block)[1] > largest_block) {
    map.fail("weight_block_size", fmt::format("expected two sizes from 1 to {}, got {} of them",
                                              largest_block, block->size()));
  }
  quantization.scales.block_rows = (*block)[0];
  quantization.scales.block_columns = (*block)[1];
  quantization.names.scales = "weight_scale_inv";
  quantization.activation_group = (*block)[1];
}

void read_activations(const HfConfig& map, LinearQuantization& quantization) {
  const std::string scheme = normalized(map.get_or<std::string>("activation_scheme", "dynamic"));
  if (scheme != "dynamic" && scheme != "static") {
    map.fail("activation_scheme",
             fmt::format("expected \"dynamic\" or \"static\", got \"{}\"", printable(scheme)));
  }
  const bool per_block = quantization.scales.block_columns > 0;
  if (const auto whole = map.find<bool>("act_per_tensor"); whole && *whole && scheme != "static") {
    map.fail("act_per_tensor",
             "one activation scale for all tokens, found at run time, is not "
             "supported yet",
             other_scheme_hint);
  }
  if (scheme != "static") return;
  if (per_block) {
    map.fail("activation_scheme", "fixed activation scales do not go with weight_block_size",
             "blocks are multiplied with activations that are quantized at run time: \"dynamic\"");
  }
  quantization.activation_group = fixed_scale;
}

/// The KV cache of AutoFP8's checkpoints: "static".
std::optional<DType> kv_cache(const HfConfig& map) {
  const auto scheme = map.find<std::string>("kv_cache_scheme");
  if (!scheme) return std::nullopt;
  if (normalized(*scheme) == "static") return DType::f8_e4m3;
  map.fail("kv_cache_scheme", fmt::format("expected \"static\", got \"{}\"", printable(*scheme)));
}

std::vector<QuantizationGroup> groups(const HfConfig& map, std::vector<std::string>& assumptions) {
  map.node("quant_method");
  for (const char* key : {"fmt", "format"}) {
    const auto text = map.find<std::string>(key);
    if (!text) continue;
    const std::string name = normalized(*text);
    if (name == "e4m3" || name == "e4m3fn" || name == "float8-e4m3" || name == "float8-e4m3fn") {
      continue;
    }
    map.fail(key,
             fmt::format("fp8 format '{}' is not supported yet: only e4m3 is", printable(*text)),
             other_scheme_hint);
  }
  LinearQuantization quantization = quantize_to(DType::f8_e4m3);
  quantization.activation = DType::f8_e4m3;
  read_blocks(map, quantization, assumptions);
  read_activations(map, quantization);
  if (const auto text = map.find<std::string>("scale_fmt")) {
    const std::string name = normalized(*text);
    if (name == "ue8m0") {
      // DeepSeek-V3.1's weight_scale_inv tensors are f32 that hold powers of two.
      assumptions.emplace_back(
          "scale_fmt ue8m0: weight scales are powers of two, counted as the f32 that "
          "DeepSeek-V3.1 stores them in");
    } else if (name != "float" && name != "float32") {
      map.fail("scale_fmt",
               fmt::format("expected \"float\" or \"ue8m0\", got \"{}\"", printable(*text)));
    }
  }
  require_off(map, "dequantize", "a checkpoint that is converted to 16 bit when it is loaded");
  if (const auto more = map.find<std::vector<std::string>>("modules_to_convert");
      more && !more->empty()) {
    map.fail("modules_to_convert", "quantized modules that are no linears are not supported yet",
             other_scheme_hint);
  }
  if (const auto experts = map.find<std::string>("expert_dtype");
      experts && normalized(*experts) != "fp8") {
    map.fail("expert_dtype",
             fmt::format("experts in {} are not supported yet", printable(*experts)),
             other_scheme_hint);
  }
  return {{"fp8", {}, quantization}};
}

ModulePatterns ignored(const HfConfig& map) {
  return read_patterns(map, {"modules_to_not_convert", "ignored_layers", "ignore"},
                       PatternStyle::subtree);
}

}  // namespace

QuantizationScheme read_fp8(const QuantizationSource& source) {
  QuantizationScheme scheme;
  scheme.ignored = ignored(source.map);
  if (source.linears) scheme.groups = groups(source.map, scheme.assumptions);
  if (source.kv_cache) scheme.kv_cache = kv_cache(source.map);
  return scheme;
}

}  // namespace tcast
