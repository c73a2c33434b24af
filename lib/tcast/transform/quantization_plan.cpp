#include "tcast/transform/quantization_plan.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/quantization_files.h"
#include "tcast/transform/formats/formats.h"
#include "tcast/transform/quantization_format.h"

namespace tcast {

const char* const other_scheme_hint =
    "choose another scheme with --quantize-linear (w8a16, w8a8_dynamic, fp8), or none for 16-bit "
    "weights";

const char* const other_cache_hint =
    "choose another one with --quantize-kv-cache (fp8, int8), or none for the activations' dtype";

namespace {

using Format = Registry<QuantizationFormat>::Entry;

/// The method whose description a config.json may nest, and whose tool writes a file of its own.
constexpr std::string_view modelopt = "modelopt";

/// Methods that exist and that tcast does not have, with their bits; 0: the map says them, or they
/// vary.
struct OtherMethod {
  std::string_view method;
  int bits;
};
constexpr OtherMethod other_methods[] = {
    {"aqlm", 0},
    {"auto-round", 0},
    {"bitnet", 2},
    {"bitsandbytes", 0},
    {"eetq", 8},
    {"exl2", 0},
    {"fbgemm-fp8", 8},
    {"fouroversix", 4},
    {"fp-quant", 4},
    {"gguf", 0},
    {"gptq", 0},
    {"gptq-marlin", 0},
    {"higgs", 0},
    {"hqq", 0},
    {"marlin", 4},
    {"metal", 0},
    {"modelopt-fp4", 4},
    {"mxfp4", 4},
    {"mxfp8", 8},
    {"nvfp4", 4},
    {"quanto", 0},
    {"quark", 0},
    {"sinq", 0},
    {"spqr", 0},
    {"torchao", 0},
    {"vptq", 0},
    {"ascend", 0},
    {"modelopt-mixed", 0},
    {"deepspeedfp", 0},
    {"experts-int8", 8},
    {"intel/auto-round", 0},
};

/// The number of bits that a map gives under one of its usual names, and that name.
struct Bits {
  const char* key = "bits";
  std::int64_t count = 0;  ///< 0: it gives none
};

Bits bits_in(const HfConfig& map) {
  for (const char* key : {"bits", "w_bit", "wbits", "num_bits", "weight_bits"}) {
    const auto node = map.node(key);
    if (node && node->is_scalar() && !node->is_string()) return {key, node->as_int()};
  }
  if (map.get_or<bool>("load_in_4bit", false)) return {"load_in_4bit", 4};
  if (map.get_or<bool>("load_in_8bit", false)) return {"load_in_8bit", 8};
  return {};
}

/// The group size that a map gives; 0: none.
std::int64_t group_in(const HfConfig& map) {
  for (const char* key : {"group_size", "q_group_size"}) {
    const auto node = map.node(key);
    if (node && node->is_scalar() && !node->is_string()) return node->as_int();
  }
  return 0;
}

/// Throws Error: the quantization method of `map`, with its number of bits where the map says it,
/// is not supported.
[[noreturn]] void refuse_method(const HfConfig& map, std::string_view key,
                                const std::string& method) {
  const std::string name = normalized(method);
  const auto* const known =
      std::find_if(std::begin(other_methods), std::end(other_methods),
                   [&](const OtherMethod& other) { return other.method == name; });
  if (known == std::end(other_methods)) {
    std::vector<std::string> methods;
    for (const Format* format : quantization_formats().entries()) {
      methods.emplace_back(format->pattern);
    }
    map.fail(key, fmt::format("unknown quantization method '{}'", printable(method)),
             did_you_mean(name, methods, other_scheme_hint));
  }
  const std::int64_t given = bits_in(map).count;
  const std::int64_t bits = given > 0 ? given : known->bits;
  const std::int64_t group = group_in(map);
  std::string what = bits > 0 ? fmt::format(" ({}-bit weights", bits) : "";
  if (bits > 0) what += group > 0 ? fmt::format(" in groups of {})", group) : ")";
  map.fail(key,
           fmt::format("quantization method '{}'{} is not supported yet", printable(method), what),
           other_scheme_hint);
}

const Format& format_of(std::string_view method) {
  const Format* const format = quantization_formats().find(method);
  TCAST_CHECK(format != nullptr, "tcast's own formats are registered");
  return *format;
}

/// The format of a map without a quant_method, where its keys leave no doubt.
const Format& infer_format(const HfConfig& map) {
  const bool of_modelopt = map.has("quant_algo") || map.has("producer") || map.has("quantization");
  const bool compressed = !of_modelopt && map.has("config_groups");
  const bool fp8 = map.has("weight_block_size") || map.has("activation_scheme") || map.has("fmt");
  if (static_cast<int>(of_modelopt) + static_cast<int>(compressed) + static_cast<int>(fp8) == 1) {
    return format_of(of_modelopt ? modelopt : compressed ? "compressed-tensors" : "fp8");
  }
  const std::int64_t bits = bits_in(map).count;
  map.fail("quant_method",
           bits > 0 ? fmt::format("expected the name of a method, got nothing; its weights have {} "
                                  "bits, which is not supported yet",
                                  bits)
                    : "expected the name of a method, got nothing, and the other keys do not tell "
                      "which one is meant",
           other_scheme_hint);
}

/// The map that a format describes itself in: ModelOpt nests it.
HfConfig described_in(const HfConfig& map) {
  const auto nested = map.nested("quantization");
  return nested ? *nested : map;
}

/// What a file says of the checkpoint's quantization.
struct Description {
  HfConfig file;
  HfConfig map;          ///< in the file
  const Format* format;  ///< null: the lists of modules only
  std::string source;    ///< "quantization_config (fp8)"
  std::string place;     ///< of the map, for patterns: "quantization_config"
};

/// `own` is the scheme wanted: methods that tcast does not have are refused.
Description describe_own(const HfConfig& config, const HfConfig& own, bool wanted) {
  const std::string key = own.path();
  const std::string method = normalized(own.get_or<std::string>("quant_method", ""));
  const Format* format = method.empty() ? nullptr : quantization_formats().find(method);
  if (format == nullptr && method.empty() && wanted) format = &infer_format(own);
  if (format == nullptr && wanted) {
    refuse_method(own, "quant_method", own.get<std::string>("quant_method"));
  }
  if (format == nullptr) return {config, own, nullptr, key, key};
  std::string source =
      fmt::format("{} ({})", key, method.empty() ? std::string(format->pattern) : method);
  return {config, format->pattern == modelopt ? described_in(own) : own, format, std::move(source),
          key};
}

/// What a tool wrote beside the config.json.
Description describe_file(const QuantizationFile& file) {
  const std::string name = std::filesystem::path(file.path).filename().string();
  if (file.tool == QuantizationTool::modelslim) {
    // One line for each tensor of the checkpoint: it may be long, and only its name matters.
    throw Error(fmt::format("{}: weights quantized by {} are not supported yet",
                            printable(file.path, 4096), name_of(file.tool)),
                other_scheme_hint);
  }
  std::error_code failure;
  if (std::filesystem::is_directory(file.path, failure)) {
    throw Error(fmt::format("{}: expected a file, got a directory", printable(file.path, 4096)));
  }
  HfConfig map = HfConfig::load(file.path);
  if (file.tool == QuantizationTool::modelopt) {
    map.node("producer");  // the tool and its version
    return {map, described_in(map), &format_of(modelopt), fmt::format("{} (modelopt)", name), name};
  }
  if (file.tool == QuantizationTool::awq) {
    return {map, map, &format_of("awq"), fmt::format("{} (awq)", name), name};
  }
  refuse_method(map, bits_in(map).key, std::string(name_of(file.tool)));
}

/// Files that say something of the quantization; their own formats come first.
std::vector<Description> descriptions(const HfConfig& config, bool wanted) {
  std::vector<Description> found;
  auto own = config.nested("quantization_config");
  if (!own) own = config.nested("compression_config");
  if (own && !own->members().empty()) found.push_back(describe_own(config, *own, wanted));
  for (const QuantizationFile& file : quantization_files(config)) {
    const bool other_tool =
        file.tool != QuantizationTool::modelopt && file.tool != QuantizationTool::awq;
    if (!wanted && other_tool) continue;
    if (!found.empty() && other_tool) {
      throw Error(fmt::format("{}: the file says that the weights are quantized by {}, {} says {}",
                              printable(file.path, 4096), name_of(file.tool), config.file(),
                              found.front().source),
                  "remove the one that does not belong to the weights");
    }
    found.push_back(describe_file(file));
  }
  return found;
}

bool same_schemes(const std::vector<QuantizationGroup>& a,
                  const std::vector<QuantizationGroup>& b) {
  const auto schemes = [](const std::vector<QuantizationGroup>& groups) {
    std::vector<LinearQuantization> list;
    for (const QuantizationGroup& group : groups) {
      if (group.linear && std::find(list.begin(), list.end(), *group.linear) == list.end()) {
        list.push_back(*group.linear);
      }
    }
    return list;
  };
  return schemes(a) == schemes(b);
}

[[noreturn]] void fail_contradiction(const Description& a, const Description& b,
                                     const char* about) {
  throw Error(fmt::format("{}: {} says something else of the {} than {} in {}", b.map.file(),
                          b.source, about, a.source, a.map.file()),
              "remove the one that does not belong to the weights");
}

/// Warns of what a file says that nobody looked at; a config.json's own keys are reported with all
/// others.
void note_unread(const Description& description, const HfConfig& config, QuantizationPlan& plan) {
  if (description.file.file() == config.file()) return;
  std::vector<std::string> unread;
  for (const UnreadKey& key : description.file.unread()) unread.push_back(key.path);
  if (unread.empty()) return;
  plan.warnings.push_back(fmt::format("{}: keys that nothing read: {}", description.file.file(),
                                      printable(join(unread, ", "), 2000)));
}

/// Marks what a config.json says itself as known, what ModelOpt left in it included.
void know_own_scheme(const HfConfig& config) {
  config.as_written().know({"quantization_config", "compression_config", "producer", "quant_algo"});
}

LinearQuantization scheme_of(LinearScheme scheme) {
  LinearQuantization q = quantize_to(scheme == LinearScheme::fp8 ? DType::f8_e4m3 : DType::i8);
  if (scheme == LinearScheme::w8a16) return q;
  q.activation = q.weight;
  q.activation_group = scheme == LinearScheme::w8a8_static ? fixed_scale : per_token;
  return q;
}

/// Neither engines nor quantization tools quantize the head unless somebody says so.
const ModulePatterns head = {{"lm_head"}, PatternStyle::subtree, "by default"};

/// The options' part of a plan.
void plan_options(const ModelOptions& options, QuantizationPlan& plan) {
  if (options.quantize_linear != LinearScheme::checkpoint) {
    plan.linear_by_option = true;
    plan.linear_source = fmt::format("--quantize-linear {}", name_of(options.quantize_linear));
    if (options.quantize_linear != LinearScheme::none) {
      plan.groups.push_back({plan.linear_source, {}, scheme_of(options.quantize_linear)});
    }
  }
  if (options.quantize_kv_cache != KvScheme::checkpoint) {
    plan.kv_by_option = true;
    plan.kv_source = fmt::format("--quantize-kv-cache {}", name_of(options.quantize_kv_cache));
    if (options.quantize_kv_cache == KvScheme::fp8) plan.kv_cache = DType::f8_e4m3;
    if (options.quantize_kv_cache == KvScheme::int8) plan.kv_cache = DType::i8;
  }
}

/// What a description says. Without a format that could read it, its lists of modules.
QuantizationScheme read(const Description& description, const QuantizationPlan& plan, DType dtype) {
  QuantizationScheme scheme;
  if (description.format != nullptr) {
    const QuantizationSource source{description.map, dtype, !plan.linear_by_option,
                                    !plan.kv_by_option};
    scheme = description.format->call(source);
  } else {
    scheme.ignored = read_patterns(description.map,
                                   {"modules_to_not_convert", "ignore", "ignored_layers",
                                    "exclude_modules", "llm_int8_skip_modules"},
                                   PatternStyle::subtree);
  }
  scheme.ignored.source = description.place;
  scheme.ignored.place = description.file.file() + ": " + description.place;
  for (QuantizationGroup& group : scheme.groups) {
    if (!group.targets) continue;
    group.targets->source = description.place + "." + group.targets->source;
    group.targets->place = description.file.file() + ": " + group.targets->source;
  }
  return scheme;
}

/// What weights and activations are in that nothing quantizes.
DType unquantized_dtype(const HfConfig& config, const ModelOptions& options) {
  if (options.dtype) return *options.dtype;
  const std::optional<CheckpointDtype> dtype = config.checkpoint_dtype();
  return dtype ? dtype->dtype : DType::bf16;
}

/// The checkpoint's part: what the options do not say.
void plan_checkpoint(const HfConfig& config, DType dtype, QuantizationPlan& plan) {
  const std::vector<Description> found = descriptions(config, !plan.linear_by_option);
  bool have_groups = false;
  bool have_kv = false;
  for (const Description& one : found) {
    QuantizationScheme scheme = read(one, plan, dtype);
    plan.ignore.push_back(std::move(scheme.ignored));
    if (!plan.linear_by_option) {
      if (scheme.keeps_head && !have_groups) plan.ignore.push_back(head);
      std::move(scheme.assumptions.begin(), scheme.assumptions.end(),
                std::back_inserter(plan.assumptions));
      if (have_groups && !same_schemes(scheme.groups, plan.groups)) {
        fail_contradiction(found.front(), one, "weights");
      }
      if (!have_groups) {
        plan.linear_source = one.source;
        plan.groups = std::move(scheme.groups);
      }
      have_groups = true;
    }
    // What an option takes the place of is known, and meant to be left out.
    for (const char* key : {"kv_cache_scheme", "kv_cache_quant_algo"}) {
      if (plan.kv_by_option) one.map.node(key);
    }
    if (!plan.kv_by_option && one.format != nullptr) {
      if (have_kv && scheme.kv_cache != plan.kv_cache) {
        fail_contradiction(found.front(), one, "KV cache");
      }
      plan.kv_cache = scheme.kv_cache;
      plan.kv_source = one.source;
      have_kv = true;
    }
    note_unread(one, config, plan);
  }
  if (plan.linear_by_option) know_own_scheme(config);  // likewise
  if (!found.empty() || plan.linear_by_option) return;
  const std::string hint = hinted_quantization(config);
  if (hint.empty()) return;
  plan.warnings.push_back(fmt::format(
      "{} says '{}', but nothing says how weights are quantized, so that they are counted in the "
      "checkpoint's dtype: is a file missing beside it (hf_quant_config.json, "
      "quantize_config.json)? Name the checkpoint's directory, or choose with --quantize-linear",
      config.file(), printable(hint)));
}

}  // namespace

LinearQuantization quantize_to(DType weight) {
  LinearQuantization q;
  q.weight = weight;
  return q;
}

std::vector<RegistryEntry<QuantizationFormat>> core_quantization_formats() {
  struct Own {
    std::string_view method;
    QuantizationFormat read;
    std::string_view file;
  };
  const Own formats[] = {{"awq", read_awq, "lib/tcast/transform/formats/awq.cpp"},
                         {"compressed-tensors", read_compressed_tensors,
                          "lib/tcast/transform/formats/compressed_tensors.cpp"},
                         {"fp8", read_fp8, "lib/tcast/transform/formats/fp8.cpp"},
                         {"modelopt", read_modelopt, "lib/tcast/transform/formats/modelopt.cpp"}};
  std::vector<RegistryEntry<QuantizationFormat>> entries;
  for (const Own& own : formats) {
    entries.push_back({{own.method, Origin::builtin, false, 0, own.file}, own.read});
  }
  return entries;
}

const Registry<QuantizationFormat>& quantization_formats() {
  return registry_of<QuantizationFormat>("quantization_format", core_quantization_formats);
}

QuantizationScheme Checked<QuantizationScheme>::of(const Registered&, QuantizationScheme scheme) {
  const auto refuse = [](const std::string& group, const std::string& what) {
    throw Error(fmt::format("its group '{}' has {}", printable(group), what));
  };
  for (const QuantizationGroup& group : scheme.groups) {
    if (!group.linear) continue;
    const LinearQuantization& linear = *group.linear;
    for (const std::int64_t block : {linear.scales.block_rows, linear.scales.block_columns}) {
      if (block < 0 || block > largest_block) {
        refuse(group.name,
               fmt::format("blocks of {} elements, expected 0 to {}", block, largest_block));
      }
    }
    if (bits_of(linear.weight) > 8) {
      refuse(group.name, fmt::format("weights of {}, expected 4 or 8 bit", name_of(linear.weight)));
    }
    if (linear.scales.zero_points && linear.activation) {
      refuse(group.name, "zero points beside quantized activations, which no product has");
    }
    if (linear.activation && bits_of(*linear.activation) != 8) {
      refuse(group.name,
             fmt::format("activations of {}, expected 8 bit", name_of(*linear.activation)));
    }
    if (linear.output_multiple < 1 || linear.input_multiple < 1) {
      refuse(group.name, "sizes that are to be multiples of less than 1");
    }
  }
  return scheme;
}

std::string normalized(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    c = c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return result;
}

ModulePatterns read_patterns(const HfConfig& map, std::initializer_list<const char*> keys,
                             PatternStyle style) {
  ModulePatterns patterns;
  patterns.style = style;
  for (const char* key : keys) {
    const auto list = map.find<std::vector<std::string>>(key);
    if (!list) continue;
    patterns.texts.insert(patterns.texts.end(), list->begin(), list->end());
  }
  return patterns;
}

bool QuantizationPlan::quantizes_linears() const {
  return std::any_of(groups.begin(), groups.end(),
                     [](const QuantizationGroup& group) { return group.linear.has_value(); });
}

QuantizationPlan plan_quantization(const HfConfig& config, const ModelOptions& options) {
  QuantizationPlan plan;
  plan_options(options, plan);
  const bool leaves_all = plan.linear_by_option && !plan.quantizes_linears() && plan.kv_by_option;
  if (leaves_all) {
    know_own_scheme(config);
  } else {
    plan_checkpoint(config, unquantized_dtype(config, options), plan);
  }
  if (plan.linear_by_option && plan.quantizes_linears()) plan.ignore.push_back(head);
  plan.ignore.push_back({options.quantize_ignore, PatternStyle::subtree, "--quantize-ignore"});
  return plan;
}

}  // namespace tcast
