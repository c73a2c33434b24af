#include "tcast/transform/quantization_scheme.h"

#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

LinearQuantization make_scheme(LinearScheme scheme) {
  LinearQuantization q;
  q.scheme = scheme;
  q.scales.block_rows = 1;  // one scale per output channel
  q.scales.block_columns = 0;
  switch (scheme) {
    case LinearScheme::w8a16:
      q.weight = DType::i8;
      break;
    case LinearScheme::w8a8_static:
      q.weight = DType::i8;
      q.activation = DType::i8;
      q.activation_group = -1;
      break;
    case LinearScheme::w8a8_dynamic:
      q.weight = DType::i8;
      q.activation = DType::i8;
      break;
    case LinearScheme::fp8:
      q.weight = DType::f8_e4m3;
      q.activation = DType::f8_e4m3;
      break;
    case LinearScheme::checkpoint:
    case LinearScheme::none:
      throw InternalError("not a scheme of its own");
  }
  return q;
}

[[noreturn]] void fail_method(const HfConfig& config, const std::string& key,
                              const std::string& what) {
  config.fail(
      key, fmt::format("{} is not supported yet", what),
      "choose another scheme with --quantize-linear (w8a16, w8a8_dynamic, fp8), or none for "
      "16-bit weights");
}

/// Models with more towers call the decoder language_model, in front of its own names or, newer
/// ones, inside of "model"; alone it is just the model.
std::string without_tower(const std::string& pattern) {
  for (const auto& [prefix, instead] :
       {std::pair<std::string_view, std::string_view>{"model.language_model.", "model."},
        {"language_model.", ""}}) {
    if (pattern.substr(0, prefix.size()) == prefix) {
      return std::string(instead) + pattern.substr(prefix.size());
    }
  }
  return pattern;
}

std::vector<std::string> ignored(const HfConfig& quantization) {
  std::vector<std::string> patterns;
  for (const char* key : {"modules_to_not_convert", "ignore", "ignored_layers"}) {
    const auto list = quantization.find<std::vector<std::string>>(key);
    if (!list) continue;
    for (const std::string& pattern : *list) patterns.push_back(without_tower(pattern));
    break;
  }
  return patterns;
}

/// quant_method fp8: e4m3 weights in blocks, activations quantized at run time per block of a row.
LinearQuantization read_fp8(const HfConfig& config, const HfConfig& quantization) {
  LinearQuantization q = make_scheme(LinearScheme::fp8);
  if (const auto format = quantization.find<std::string>("fmt"); format && *format != "e4m3") {
    fail_method(config, "quantization_config", fmt::format("fp8 format '{}'", printable(*format)));
  }
  if (const auto block = quantization.find<std::vector<std::int64_t>>("weight_block_size")) {
    if (block->size() != 2 || (*block)[0] < 1 || (*block)[1] < 1) {
      quantization.fail("weight_block_size", "expected two sizes >= 1");
    }
    q.scales.block_rows = (*block)[0];
    q.scales.block_columns = (*block)[1];
    q.activation_group = (*block)[1];
  }
  if (quantization.get_or<std::string>("activation_scheme", "dynamic") == "static") {
    q.activation_group = -1;
  }
  return q;
}

/// quant_method compressed-tensors with one group of 8-bit weights.
LinearQuantization read_compressed_tensors(const HfConfig& config, const std::string& key,
                                           const HfConfig& quantization) {
  const auto groups = quantization.nested("config_groups");
  const auto group = groups ? groups->nested("group_0") : std::nullopt;
  const auto weights = group ? group->nested("weights") : std::nullopt;
  if (!weights) fail_method(config, key, "compressed-tensors without a group_0 of weights");
  if (groups->has("group_1")) fail_method(config, key, "compressed-tensors with several groups");
  const auto bits = weights->get_or<std::int64_t>("num_bits", 8);
  const auto type = weights->get_or<std::string>("type", "int");
  if (bits != 8) {
    fail_method(config, key, fmt::format("compressed-tensors with {}-bit weights", bits));
  }
  const auto activations = group->nested("input_activations");
  LinearScheme scheme = LinearScheme::w8a16;
  const bool dynamic = activations && activations->get_or<bool>("dynamic", false);
  if (type == "float") {
    if (!activations) fail_method(config, key, "compressed-tensors with fp8 weights alone");
    scheme = LinearScheme::fp8;
  } else if (activations) {
    scheme = dynamic ? LinearScheme::w8a8_dynamic : LinearScheme::w8a8_static;
  }
  LinearQuantization q = make_scheme(scheme);
  if (activations && !dynamic) q.activation_group = -1;
  const auto strategy = weights->get_or<std::string>("strategy", "tensor");
  if (strategy != "tensor" && strategy != "channel") {
    fail_method(config, key, fmt::format("compressed-tensors strategy '{}'", printable(strategy)));
  }
  if (strategy == "tensor") q.scales.block_rows = 0;  // one scale for all
  return q;
}

}  // namespace

QuantizationPlan plan_quantization(const HfConfig& config, const ModelOptions& options) {
  QuantizationPlan plan;
  plan.ignore = {"lm_head"};
  std::string key = "quantization_config";
  std::optional<HfConfig> own = config.nested(key);
  if (!own) {
    key = "compression_config";
    own = config.nested(key);
  }
  if (own) {
    for (std::string& pattern : ignored(*own)) plan.ignore.push_back(std::move(pattern));
  }
  for (const std::string& pattern : options.quantize_ignore) plan.ignore.push_back(pattern);
  if (options.quantize_linear != LinearScheme::checkpoint) {
    plan.source = fmt::format("--quantize-linear {}", name_of(options.quantize_linear));
    if (options.quantize_linear != LinearScheme::none) {
      plan.linear = make_scheme(options.quantize_linear);
    }
    return plan;
  }
  if (!own) return plan;
  plan.source = key;
  const auto method = own->get_or<std::string>("quant_method", "");
  if (method == "fp8") {
    plan.linear = read_fp8(config, *own);
  } else if (method == "compressed-tensors") {
    plan.linear = read_compressed_tensors(config, key, *own);
  } else {
    fail_method(config, key, fmt::format("quant_method '{}'", printable(method)));
  }
  return plan;
}

}  // namespace tcast
