#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/config/hf_config.h"
#include "tcast/model/linear_quantization.h"
#include "tcast/transform/quantization_plan.h"

// How the methods of quantization describe themselves in a checkpoint's files. Each is registered
// under its quant_method; tcast's own are in transform/formats/, one file each.

namespace tcast {

/// What a format is asked of a checkpoint.
struct QuantizationSource {
  const HfConfig& map;        ///< that describes the quantization
  DType dtype = DType::bf16;  ///< of what is not quantized
  /// Whether the checkpoint's linears, and its KV cache, are wanted: an option may take their
  /// place, and then what they say is no reason to refuse anything.
  bool linears = true;
  bool kv_cache = true;
};

/// What it says.
struct QuantizationScheme {
  std::vector<QuantizationGroup> groups{};  ///< linears by the way they are stored
  std::optional<DType> kv_cache{};          ///< nothing: keys and values stay as activations are
  ModulePatterns ignored{};                 ///< modules that stay
  bool keeps_head = true;                   ///< the head stays without being named
  std::vector<std::string> assumptions{};   ///< what had to be assumed
};

/// Reads one quant_method. It marks as read what it knows, and throws Error, located in the map,
/// for everything that cannot be priced as it is meant. `ignored` is wanted always. Registered
/// under the method's name in lower case and with '-' for '_'.
using QuantizationFormat = std::function<QuantizationScheme(const QuantizationSource& source)>;
TCAST_API const Registry<QuantizationFormat>& quantization_formats();
/// What tcast itself has there.
TCAST_API std::vector<RegistryEntry<QuantizationFormat>> core_quantization_formats();

/// Numbers of a plugin's format that nothing can be stored in are refused.
template <>
struct TCAST_API Checked<QuantizationScheme> {
  static QuantizationScheme of(const Registered& callee, QuantizationScheme scheme);
};

/// Linears with 8-bit floats (e4m3) or integers; weight scales per output channel, activations as
/// they are until somebody says otherwise.
TCAST_API LinearQuantization quantize_to(DType weight);

/// What `LinearQuantization::activation_group` means.
inline constexpr std::int64_t per_token = 0;
inline constexpr std::int64_t fixed_scale = -1;

/// Rows or columns of a weight that share a scale: more are a mistake.
inline constexpr std::int64_t largest_block = std::int64_t{1} << 20;

/// A setting that is written in several ways of letters: in lower case, with '-' for '_'.
TCAST_API std::string normalized(std::string_view text);

/// What to do about a scheme that is not supported.
TCAST_API extern const char* const other_scheme_hint;
/// The same of a KV cache's.
TCAST_API extern const char* const other_cache_hint;

/// The patterns under all of `keys` that are there.
TCAST_API ModulePatterns read_patterns(const HfConfig& map, std::initializer_list<const char*> keys,
                                       PatternStyle style);

}  // namespace tcast
