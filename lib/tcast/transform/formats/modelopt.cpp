#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/transform/formats/formats.h"
#include "tcast/transform/quantization_format.h"

// NVIDIA ModelOpt: `quantization` of hf_quant_config.json, or quant_method "modelopt" in a
// config.json. quant_algo FP8 is e4m3 weights with one scale each and activations with a fixed one
// (modelopt's FP8_DEFAULT_CFG).

namespace tcast {
namespace {

/// Bits of the algorithms that ModelOpt has beside the supported ones; 0: several.
struct Algorithm {
  std::string_view name;
  int bits;
};
constexpr Algorithm unsupported[] = {
    {"nvfp4", 4},     {"nvfp4-awq", 4},       {"nvfp4-svdquant", 4},      {"w4a16-nvfp4", 4},
    {"w4a16-awq", 4}, {"w4a8-awq", 4},        {"w4a8-nvfp4-fp8", 4},      {"w4a8-mxfp4-fp8", 4},
    {"mxfp4", 4},     {"int4-awq", 4},        {"fp8-pb-wo", 8},           {"fp8-block-scales", 8},
    {"mxfp8", 8},     {"int8-sq", 8},         {"w8a8-sq-per-channel", 8}, {"w8a16", 8},
    {"int8", 8},      {"mixed-precision", 0},
};

[[noreturn]] void refuse_algorithm(const HfConfig& map, const char* key, const std::string& text) {
  const std::string name = normalized(text);
  std::string bits;
  for (const Algorithm& algorithm : unsupported) {
    if (algorithm.name != name) continue;
    bits = algorithm.bits > 0 ? fmt::format(" ({}-bit weights)", algorithm.bits)
                              : " (several formats)";
  }
  map.fail(key, fmt::format("ModelOpt's '{}'{} is not supported yet", printable(text), bits),
           other_scheme_hint);
}

std::optional<DType> kv_cache(const HfConfig& map) {
  // Written as a name in ModelOpt's own file, as a scheme in a config.json.
  if (const auto scheme = map.nested("kv_cache_scheme")) {
    const std::int64_t bits = scheme->get_or<std::int64_t>("num_bits", 8);
    const std::string type = normalized(scheme->get_or<std::string>("type", "float"));
    if (bits != 8 || (type != "float" && type != "int")) {
      scheme->fail(
          "num_bits",
          fmt::format("KV caches of {}-bit {}s are not supported yet", bits, printable(type)),
          other_cache_hint);
    }
    if (scheme->get_or<bool>("dynamic", false)) {
      scheme->fail("dynamic", "KV caches with scales found at run time are not supported yet",
                   other_cache_hint);
    }
    return type == "float" ? DType::f8_e4m3 : DType::i8;
  }
  const auto text = map.find<std::string>("kv_cache_quant_algo");
  if (!text) return std::nullopt;
  const std::string name = normalized(*text);
  if (name == "fp8") return DType::f8_e4m3;
  if (name == "int8") return DType::i8;
  if (name == "none" || name.empty()) return std::nullopt;
  map.fail("kv_cache_quant_algo",
           fmt::format("KV caches in {} are not supported yet", printable(*text)),
           other_cache_hint);
}

/// ModelOpt repeats in a config.json what quant_algo says.
void check_groups(const HfConfig& map) {
  const auto groups = map.nested("config_groups");
  if (!groups) return;
  for (const auto& [key, value] : groups->members()) {
    if (key.empty() || !value.is_map()) value.fail_expected("a group with a name and its settings");
    const auto group = groups->nested(key);
    for (const char* part : {"weights", "input_activations"}) {
      const auto arguments = group->nested(part);
      if (!arguments) continue;
      const std::int64_t bits = arguments->get_or<std::int64_t>("num_bits", 8);
      const std::string type = normalized(arguments->get_or<std::string>("type", "float"));
      if (bits != 8 || type != "float") {
        arguments->fail("num_bits", fmt::format("{}-bit {}s contradict the quant_algo beside them",
                                                bits, printable(type)));
      }
      for (const char* known : {"dynamic", "group_size", "strategy", "symmetric"}) {
        arguments->node(known);
      }
    }
    group->node("targets");
  }
}

std::vector<QuantizationGroup> groups(const HfConfig& map) {
  map.node("quant_method");
  map.node("producer");
  const auto algorithm = map.find<std::string>("quant_algo");
  if (!algorithm) {
    if (kv_cache(map)) return {};  // the KV cache alone
    map.fail("quant_algo", "expected the name of a quantization algorithm, got nothing");
  }
  const std::string name = normalized(*algorithm);
  LinearQuantization quantization = quantize_to(DType::f8_e4m3);
  quantization.activation = DType::f8_e4m3;
  if (name == "fp8") {
    quantization.scales = scale_per_tensor;
    quantization.activation_group = fixed_scale;
  } else if (name == "fp8-per-channel-per-token") {
    quantization.activation_group = per_token;
  } else {
    refuse_algorithm(map, "quant_algo", *algorithm);
  }
  check_groups(map);
  if (const auto layers = map.node("quantized_layers");
      layers && !(layers->is_map() && layers->keys().empty())) {
    map.fail("quantized_layers", "layers with algorithms of their own are not supported yet",
             other_scheme_hint);
  }
  // Sizes of groups, zero points and scales before the product are of other algorithms.
  for (const char* key : {"group_size", "has_zero_point", "pre_quant_scale", "smoothquant_val"}) {
    map.node(key);
  }
  return {{*algorithm, {}, quantization}};
}

ModulePatterns ignored(const HfConfig& map) {
  return read_patterns(map, {"exclude_modules", "ignore"}, PatternStyle::subtree);
}

}  // namespace

QuantizationScheme read_modelopt(const QuantizationSource& source) {
  QuantizationScheme scheme;
  scheme.ignored = ignored(source.map);
  if (source.linears) scheme.groups = groups(source.map);
  if (source.kv_cache) scheme.kv_cache = kv_cache(source.map);
  return scheme;
}

}  // namespace tcast
