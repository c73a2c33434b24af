#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/transform/formats/formats.h"
#include "tcast/transform/quantization_format.h"

// quant_method "awq" (AutoAWQ, version GEMM; awq/modules/linear/gemm.py): 4-bit weights in groups
// of the inputs, each with an f16 scale and a 4-bit zero point. Tensors of a linear: qweight int32
// [in, out / 8], qzeros int32 [in / group, out / 8], scales f16 [in / group, out]. Keys are those
// of transformers' AwqConfig and of AutoAWQ's own quant_config.json.

namespace tcast {
namespace {

constexpr std::int64_t values_per_word = 8;

/// A number under the newer of its two names, else under the older.
std::int64_t number(const HfConfig& map, const char* name, const char* old_name,
                    std::int64_t usual) {
  const auto newer = map.find<std::int64_t>(name);
  const auto older = map.find<std::int64_t>(old_name);
  if (newer && older && *newer != *older) {
    map.fail(old_name, fmt::format("{} contradicts {} = {}", *older, name, *newer),
             "leave out one of the two");
  }
  return newer ? *newer : older.value_or(usual);
}

LinearQuantization read_linears(const HfConfig& map) {
  const std::int64_t bits = number(map, "bits", "w_bit", 4);
  if (bits != 4) {
    map.fail(map.has("bits") ? "bits" : "w_bit",
             fmt::format("AWQ weights of {} bits are not supported yet: only 4 are", bits),
             other_scheme_hint);
  }
  const std::string version = normalized(map.get_or<std::string>("version", "gemm"));
  if (version != "gemm" && version != "exllama") {
    map.fail("version",
             fmt::format("AWQ weights laid out for '{}' are not supported yet", printable(version)),
             other_scheme_hint);
  }
  if (!map.get_or<bool>("zero_point", true)) {
    map.fail("zero_point", "AWQ weights without zero points are not supported yet",
             other_scheme_hint);
  }
  const std::int64_t group = number(map, "group_size", "q_group_size", 128);
  if (group < -1 || group == 0 || group > largest_block) {
    map.fail(map.has("group_size") ? "group_size" : "q_group_size",
             fmt::format("expected 1 to {}, or -1 for whole rows, got {}", largest_block, group));
  }
  LinearQuantization quantization = quantize_to(DType::i4);
  quantization.scales = {1, group > 0 ? group : 0, DType::f16, DType::i4};
  quantization.names = {"qweight", "scales", "qzeros", ""};
  quantization.output_multiple = values_per_word;
  quantization.input_multiple = group > 0 ? group : 1;
  return quantization;
}

/// AutoAWQ and vLLM leave every module whose path contains the text.
ModulePatterns read_ignored(const HfConfig& map) {
  ModulePatterns ignored = read_patterns(map, {"modules_to_not_convert"}, PatternStyle::subtree);
  for (std::string& text : ignored.texts) text = "*" + text + "*";
  return ignored;
}

}  // namespace

QuantizationScheme read_awq(const QuantizationSource& source) {
  const HfConfig& map = source.map;
  QuantizationScheme scheme;
  scheme.ignored = read_ignored(map);
  map.node("quant_method");
  if (source.linears) scheme.groups.push_back({"awq", {}, read_linears(map)});
  // Which kernels run it: the same weights.
  for (const char* key :
       {"backend", "do_fuse", "modules_to_fuse", "fuse_max_seq_len", "exllama_config", "format"}) {
    map.node(key);
  }
  return scheme;
}

}  // namespace tcast
