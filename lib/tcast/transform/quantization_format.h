#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/config/hf_config.h"
#include "tcast/config/options.h"
#include "tcast/model/layers.h"
#include "tcast/transform/quantization_plan.h"

// How the methods of quantization describe themselves in a checkpoint's files. One source file for
// each method; quantization_plan.cpp chooses among them.

namespace tcast {

/// One method. Its functions take the map that describes the quantization and mark as read what
/// they know; they throw Error, located there, for everything that cannot be priced as it is meant.
struct QuantizationFormat {
  std::string_view method;  ///< quant_method, in lower case and with '-'
  /// Linears by the way they are stored; what had to be assumed is appended.
  std::vector<QuantizationGroup> (*groups)(const HfConfig& map,
                                           std::vector<std::string>& assumptions);
  /// The dtype of keys and values; nothing: that of the activations.
  std::optional<DType> (*kv_cache)(const HfConfig& map);
  /// Modules that stay. It is asked of checkpoints whose own scheme is not wanted, too.
  ModulePatterns (*ignored)(const HfConfig& map);
  /// Whether the head stays without being named.
  bool keeps_head;
};

extern const QuantizationFormat fp8_format;
extern const QuantizationFormat compressed_tensors_format;
extern const QuantizationFormat modelopt_format;

/// Linears with 8-bit floats (e4m3) or integers; weight scales per output channel, activations as
/// they are until somebody says otherwise.
LinearQuantization quantize_to(DType weight);

/// One scale for the whole weight.
inline constexpr WeightScales per_tensor{0, 0, DType::f32};
/// What `LinearQuantization::activation_group` means.
inline constexpr std::int64_t per_token = 0;
inline constexpr std::int64_t fixed_scale = -1;

/// Rows or columns of a weight that share a scale: more are a mistake.
inline constexpr std::int64_t largest_block = std::int64_t{1} << 20;

/// A setting that is written in several ways of letters: in lower case, with '-' for '_'.
std::string normalized(std::string_view text);

/// What to do about a scheme that is not supported.
extern const char* const other_scheme_hint;
/// The same of a KV cache's.
extern const char* const other_cache_hint;

/// The patterns under all of `keys` that are there.
ModulePatterns read_patterns(const HfConfig& map, std::initializer_list<const char*> keys,
                             PatternStyle style);

/// Throws Error: the quantization method of `map`, with its number of bits where the map says it,
/// is not supported.
[[noreturn]] void refuse_method(const HfConfig& map, std::string_view key,
                                const std::string& method);

}  // namespace tcast
