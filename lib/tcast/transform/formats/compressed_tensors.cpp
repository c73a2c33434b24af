#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/transform/formats/formats.h"
#include "tcast/transform/quantization_format.h"

// quant_method "compressed-tensors" (llm-compressor). Keys, defaults and the way in which targets
// mean modules are those of the compressed-tensors package 0.12 (quantization/quant_args.py,
// quant_scheme.py, quant_config.py, utils/match.py).

namespace tcast {
namespace {

enum class Strategy : std::uint8_t { tensor, channel, group, block, token, tensor_group };
constexpr std::array<std::string_view, 6> strategy_names = {"tensor", "channel", "group",
                                                            "block",  "token",   "tensor-group"};

/// How a file stores weights, and in what the rest of the model is.
struct Storage {
  bool packed = false;  ///< values lie side by side in words of 32 bit, the inputs of an output
  DType model = DType::bf16;
};
constexpr std::int64_t word_bits = 32;

/// How one tensor is quantized.
struct TensorArguments {
  bool is_float = false;
  std::int64_t bits = 8;
  bool symmetric = true;
  Strategy strategy = Strategy::tensor;
  std::int64_t group_size = 0;
  std::int64_t block_rows = 0;
  std::int64_t block_columns = 0;
  bool dynamic = false;
  std::optional<DType> scale_dtype{};

  DType dtype() const { return is_float ? DType::f8_e4m3 : bits == 4 ? DType::i4 : DType::i8; }
};

[[noreturn]] void refuse(const HfConfig& map, const char* key, const std::string& what,
                         const char* hint = other_scheme_hint) {
  map.fail(key, fmt::format("{} are not supported yet", what), hint);
}

/// Bits and kind of numbers. `packs`: integers of 4 bits may be stored, with zero points or
/// without.
void read_type(const HfConfig& map, const char* what, TensorArguments& arguments, bool packs,
               const char* hint = other_scheme_hint) {
  const std::int64_t bits = map.get_or<std::int64_t>("num_bits", 8);
  const std::string type = normalized(map.get_or<std::string>("type", "int"));
  if (type != "int" && type != "float") {
    map.fail("type", fmt::format("expected \"int\" or \"float\", got \"{}\"", printable(type)));
  }
  if (bits < 1 || bits > 64) map.fail("num_bits", fmt::format("expected 1 to 64, got {}", bits));
  const bool narrow = packs && bits == 4 && type == "int";
  if (bits != 8 && !narrow) {
    refuse(map, "num_bits", fmt::format("{} of {}-bit {}s", what, bits, type), hint);
  }
  arguments.is_float = type == "float";
  arguments.bits = bits;
  arguments.symmetric = map.get_or<bool>("symmetric", true);
  if (!arguments.symmetric && !narrow) {
    refuse(map, "symmetric", fmt::format("{} with zero points", what), hint);
  }
}

void read_block(const HfConfig& map, TensorArguments& arguments) {
  std::vector<std::int64_t> sizes;
  const auto node = map.node("block_structure");
  if (node && node->is_string()) {
    // As older versions wrote it: "128x128".
    for (const std::string& piece : split(node->as_string(), 'x')) {
      const bool digits = !piece.empty() && piece.size() < 8 &&
                          piece.find_first_not_of("0123456789") == std::string::npos;
      sizes.push_back(digits ? std::stoll(piece) : 0);
    }
  } else if (node) {
    for (const Node& item : node->items()) sizes.push_back(item.as_int());
  }
  const bool fine = sizes.size() == 2 && std::all_of(sizes.begin(), sizes.end(), [](auto size) {
                      return size >= 1 && size <= largest_block;
                    });
  if (!fine) {
    map.fail("block_structure", "strategy \"block\" needs its two sizes, rows and columns",
             "as in [128, 128]");
  }
  arguments.block_rows = sizes[0];
  arguments.block_columns = sizes[1];
}

void read_strategy(const HfConfig& map, const char* what, TensorArguments& arguments) {
  const std::int64_t group = map.get_or<std::int64_t>("group_size", 0);
  const auto named = map.find<std::string>("strategy");
  // Without one, the group size tells.
  arguments.strategy = group > 0     ? Strategy::group
                       : group == -1 ? Strategy::channel
                                     : Strategy::tensor;
  if (named) {
    const std::string name = normalized(*named);
    const auto* const at = std::find(strategy_names.begin(), strategy_names.end(), name);
    if (at == strategy_names.end()) {
      const std::vector<std::string> known(strategy_names.begin(), strategy_names.end());
      map.fail("strategy", fmt::format("unknown strategy '{}'", printable(*named)),
               did_you_mean(name, known, fmt::format("known are {}", join(known, ", "))));
    }
    arguments.strategy = static_cast<Strategy>(at - strategy_names.begin());
  }
  if (group < -1 || group > largest_block) {
    map.fail("group_size",
             fmt::format("expected 1 to {}, or -1 for channels, got {}", largest_block, group));
  }
  if (arguments.strategy == Strategy::tensor_group) {
    refuse(map, "strategy", fmt::format("{} with strategy 'tensor_group'", what));
  }
  if (arguments.strategy == Strategy::group && group <= 0) {
    map.fail("group_size", "strategy \"group\" needs a size of at least 1");
  }
  if (arguments.strategy != Strategy::group && group > 0) {
    map.fail("group_size",
             fmt::format("a size of {} does not go with strategy \"{}\"", group,
                         strategy_names[static_cast<std::size_t>(arguments.strategy)]));
  }
  arguments.group_size = arguments.strategy == Strategy::group ? group : 0;
  if (arguments.strategy == Strategy::block) {
    read_block(map, arguments);
  } else {
    map.node("block_structure");  // means nothing then
  }
}

/// When the scales are found: fixed ones, or for each pass (true); "local" is of 4-bit formats.
void read_dynamic(const HfConfig& map, const char* what, TensorArguments& arguments,
                  const char* hint = other_scheme_hint) {
  const auto node = map.node("dynamic");
  if (!node) return;
  if (node->is_string()) {
    refuse(map, "dynamic", fmt::format("{} with dynamic '{}'", what, printable(node->as_string())),
           hint);
  }
  arguments.dynamic = node->as_bool();
}

/// Whether inputs are reordered when the model runs: "group" (or "dynamic", true) is, "weight" (or
/// "static") was done to the weights before.
void read_order(const HfConfig& map) {
  const auto node = map.node("actorder");
  if (!node) return;
  if (node->is_string()) {
    const std::string order = normalized(node->as_string());
    if (order == "weight" || order == "static") return;
    refuse(map, "actorder", fmt::format("weights in activation order '{}'", printable(order)));
  }
  if (node->as_bool()) refuse(map, "actorder", "weights in activation order 'group'");
}

TensorArguments read_arguments(const HfConfig& map, const char* what, bool packs) {
  TensorArguments arguments;
  read_type(map, what, arguments, packs);
  read_strategy(map, what, arguments);
  read_dynamic(map, what, arguments);
  read_order(map);
  // How the scales were found, and the dtype of zero points that there are none of.
  for (const char* key : {"observer", "observer_kwargs", "zp_dtype"}) map.node(key);
  if (const auto name = map.find<std::string>("scale_dtype")) {
    const auto dtype = parse_dtype(*name);
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) {
      refuse(map, "scale_dtype", fmt::format("scales of {} in {}", what, printable(*name)));
    }
    arguments.scale_dtype = *dtype;
  }
  return arguments;
}

/// Tensors of a packed linear: weight_packed int32 [out, in / values of a word], weight_scale
/// [out, groups] in the model's dtype, weight_zero_point int32 [out / values, groups], weight_shape
/// int64 [2] (compressors/quantized_compressors/pack_quantized.py).
void set_packing(const Storage& storage, LinearQuantization& quantization) {
  const std::int64_t values = word_bits / bits_of(quantization.weight);
  quantization.scales.dtype = storage.model;
  quantization.names = {"weight_packed", "weight_scale", "weight_zero_point", "weight_shape"};
  if (quantization.scales.zero_points) quantization.output_multiple = values;
  quantization.input_multiple = values;
  if (bits_of(quantization.weight) < 8 && quantization.scales.block_columns > 0) {
    quantization.input_multiple = std::lcm(values, quantization.scales.block_columns);
  }
}

void set_weights(const HfConfig& map, const TensorArguments& weights, const Storage& storage,
                 LinearQuantization& quantization) {
  quantization = quantize_to(weights.dtype());
  const auto pack = [&] {
    if (storage.packed) set_packing(storage, quantization);
    if (weights.scale_dtype) quantization.scales.dtype = *weights.scale_dtype;
  };
  if (!weights.symmetric) quantization.scales.zero_points = weights.dtype();
  if (weights.dynamic) refuse(map, "dynamic", "weights with scales found at run time");
  switch (weights.strategy) {
    case Strategy::tensor:
      if (weights.bits < 8) refuse(map, "strategy", "4-bit weights with one scale");
      quantization.scales.block_rows = 0;
      return pack();
    case Strategy::channel:
      return pack();
    case Strategy::group:
      quantization.scales.block_columns = weights.group_size;
      return pack();
    case Strategy::block:
      if (!weights.is_float) {
        refuse(map, "strategy", fmt::format("{}-bit integer weights in blocks", weights.bits));
      }
      quantization.scales.block_rows = weights.block_rows;
      quantization.scales.block_columns = weights.block_columns;
      return pack();
    case Strategy::token:
    case Strategy::tensor_group:
      break;
  }
  map.fail("strategy", "\"token\" is for activations, not for weights");
}

void set_activations(const HfConfig& map, const TensorArguments& weights,
                     const TensorArguments& inputs, LinearQuantization& quantization) {
  if (inputs.is_float != weights.is_float) {
    refuse(map, "type",
           fmt::format("activations in {} with weights in {}", name_of(inputs.dtype()),
                       name_of(weights.dtype())));
  }
  if (weights.bits < 8) refuse(map, "num_bits", "quantized activations with 4-bit weights");
  if (!weights.is_float && weights.strategy == Strategy::group) {
    refuse(map, "strategy", "8-bit integer activations with weights in groups");
  }
  quantization.activation = inputs.dtype();
  const std::string strategy(strategy_names[static_cast<std::size_t>(inputs.strategy)]);
  if (!inputs.dynamic && inputs.strategy == Strategy::tensor) {
    quantization.activation_group = fixed_scale;
  } else if (inputs.dynamic && inputs.strategy == Strategy::token) {
    quantization.activation_group = per_token;
  } else if (inputs.dynamic && inputs.strategy == Strategy::group && weights.is_float) {
    quantization.activation_group = inputs.group_size;
  } else {
    refuse(map, "strategy",
           fmt::format("{} activation scales with strategy '{}'",
                       inputs.dynamic ? "run-time" : "fixed", strategy));
  }
}

/// How values are laid out, by the format of a group before that of all: one element after the
/// other, or packed into words.
void read_format(const HfConfig& map, bool whole, Storage& storage) {
  const auto format = map.find<std::string>("format");
  if (!format) return;
  const std::string name = normalized(*format);
  storage.packed = name == "pack-quantized";
  if (storage.packed) return;
  for (const char* known : {"int-quantized", "float-quantized", "naive-quantized"}) {
    if (name == known) return;
  }
  if (whole && name == "mixed-precision") return;  // each group says its own
  refuse(map, "format", fmt::format("weights in the format '{}'", printable(*format)));
}

std::vector<std::string> sorted_targets(const HfConfig& group) {
  auto targets = group.get<std::vector<std::string>>("targets");
  // Of targets that are equally specific, compressed-tensors takes the first in this order.
  std::sort(targets.begin(), targets.end());
  return targets;
}

QuantizationGroup read_group(const HfConfig& group, const std::string& name, Storage storage) {
  QuantizationGroup result;
  result.name = name;
  result.targets = ModulePatterns{sorted_targets(group), PatternStyle::exact, name + ".targets"};
  read_format(group, false, storage);
  if (group.has("output_activations")) {
    refuse(group, "output_activations", "quantized results of linears");
  }
  const auto weights = group.nested("weights");
  const auto inputs = group.nested("input_activations");
  if (!weights && inputs) {
    refuse(group, "input_activations", "quantized activations of weights that are not quantized");
  }
  if (!weights) return result;
  const TensorArguments of_weights = read_arguments(*weights, "weights", storage.packed);
  set_weights(*weights, of_weights, storage, result.linear.emplace());
  if (!inputs) return result;
  set_activations(*inputs, of_weights, read_arguments(*inputs, "activations", false),
                  *result.linear);
  return result;
}

/// Schemes that a group's name stands for when it has targets only.
QuantizationGroup preset(const HfConfig& groups, const std::string& key, const std::string& name,
                         const Storage& storage) {
  QuantizationGroup result;
  result.name = name;
  auto targets = groups.get<std::vector<std::string>>(key);
  std::sort(targets.begin(), targets.end());
  result.targets = ModulePatterns{std::move(targets), PatternStyle::exact, name};
  const std::string scheme = normalized(key);
  if (scheme == "unquantized") return result;
  if (scheme == "w8a16") {
    result.linear = quantize_to(DType::i8);
  } else if ((scheme == "w4a16" || scheme == "w4a16-asym") && storage.packed) {
    result.linear = quantize_to(DType::i4);
    result.linear->scales.block_columns = 128;
    if (scheme == "w4a16-asym") result.linear->scales.zero_points = DType::i4;
  } else if (scheme == "w8a8" || scheme == "int8") {
    result.linear = quantize_to(DType::i8);
    result.linear->activation = DType::i8;
  } else if (scheme == "fp8" || scheme == "fp8-dynamic" || scheme == "fp8-block") {
    result.linear = quantize_to(DType::f8_e4m3);
    result.linear->activation = DType::f8_e4m3;
    if (scheme == "fp8") {
      result.linear->scales = scale_per_tensor;
      result.linear->activation_group = fixed_scale;
    } else if (scheme == "fp8-block") {
      result.linear->scales = {128, 128, DType::f32};
      result.linear->activation_group = 128;
    }
  } else {
    refuse(groups, key.c_str(), fmt::format("weights of the scheme '{}'", printable(key)));
  }
  if (storage.packed) set_packing(storage, *result.linear);
  return result;
}

/// Must be absent or say that weights are dense.
void check_sparsity(const HfConfig& map) {
  const auto sparsity = map.nested("sparsity_config");
  if (!sparsity) return;
  const std::string format = normalized(sparsity->get_or<std::string>("format", "dense"));
  if (format != "dense" && format != "none") {
    refuse(*sparsity, "format", fmt::format("sparse weights ('{}')", printable(format)));
  }
  const std::string structure =
      normalized(sparsity->get_or<std::string>("sparsity_structure", "unstructured"));
  if (structure != "unstructured" && structure != "0:0" && structure != "none") {
    refuse(*sparsity, "sparsity_structure",
           fmt::format("sparse weights ('{}')", printable(structure)));
  }
  // Of dense weights they mean nothing.
  for (const char* key : {"global_sparsity", "targets", "ignore", "registry_requires_subclass"}) {
    sparsity->node(key);
  }
}

std::optional<DType> kv_cache(const HfConfig& map) {
  const auto scheme = map.nested("kv_cache_scheme");
  if (!scheme) return std::nullopt;
  if (const auto strategy = scheme->find<std::string>("strategy")) {
    // One scale for each head of each layer is as good as one for each layer.
    const std::string name = normalized(*strategy);
    if (name != "tensor" && name != "attn-head") {
      refuse(*scheme, "strategy", fmt::format("KV caches with strategy '{}'", printable(*strategy)),
             other_cache_hint);
    }
  }
  TensorArguments arguments;
  read_type(*scheme, "KV caches", arguments, false, other_cache_hint);
  read_dynamic(*scheme, "KV caches", arguments, other_cache_hint);
  if (arguments.dynamic) {
    refuse(*scheme, "dynamic", "KV caches with scales found at run time", other_cache_hint);
  }
  if (scheme->get_or<std::int64_t>("group_size", 0) > 0) {
    refuse(*scheme, "group_size", "KV caches with scales of groups", other_cache_hint);
  }
  for (const char* key :
       {"observer", "observer_kwargs", "zp_dtype", "scale_dtype", "block_structure", "actorder"}) {
    scheme->node(key);
  }
  return arguments.dtype();
}

std::vector<QuantizationGroup> groups(const HfConfig& map, DType model,
                                      std::vector<std::string>& assumptions) {
  map.node("quant_method");
  Storage storage{false, model};
  read_format(map, true, storage);
  if (!map.has("format")) {
    assumptions.emplace_back(
        "quantization_config has no format: its weights are taken to be stored quantized");
  }
  if (const auto status = map.find<std::string>("quantization_status")) {
    const std::string name = normalized(*status);
    if (name != "compressed" && name != "frozen") {
      map.fail("quantization_status",
               fmt::format("'{}' says that the weights are not quantized yet", printable(*status)),
               "expected \"compressed\" or \"frozen\"; --quantize-linear none for 16-bit weights");
    }
  }
  // How much smaller the files became, who wrote them, and an argument that nobody uses any more.
  for (const char* key : {"global_compression_ratio", "version", "run_compressed"}) map.node(key);
  check_sparsity(map);
  if (const auto transforms = map.node("transform_config")) {
    const std::vector<std::string> keys = transforms->keys();
    const auto groups = transforms->find("config_groups");
    const bool no_groups =
        groups && (groups->is_null() || (groups->is_map() && groups->keys().empty()));
    if (!keys.empty() && !(keys.size() == 1 && no_groups)) {
      refuse(map, "transform_config", "rotations of weights and activations");
    }
  }
  const auto listed = map.nested("config_groups");
  if (!listed) {
    map.fail("config_groups", "expected the groups that weights are quantized in, got nothing",
             other_scheme_hint);
  }
  std::vector<QuantizationGroup> result;
  for (const auto& [key, value] : listed->members()) {
    const std::string name = "config_groups." + printable(key);
    if (key.empty() || value.is_null()) value.fail("expected a group with a name and its settings");
    result.push_back(value.is_list() ? preset(*listed, key, name, storage)
                                     : read_group(*listed->nested(key), name, storage));
  }
  return result;
}

ModulePatterns ignored(const HfConfig& map) {
  return read_patterns(map, {"ignore"}, PatternStyle::exact);
}

}  // namespace

QuantizationScheme read_compressed_tensors(const QuantizationSource& source) {
  QuantizationScheme scheme;
  scheme.keeps_head = false;
  scheme.ignored = ignored(source.map);
  if (source.linears) scheme.groups = groups(source.map, source.dtype, scheme.assumptions);
  if (source.kv_cache) scheme.kv_cache = kv_cache(source.map);
  return scheme;
}

}  // namespace tcast
