#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/units.h"

namespace tcast {

/// Linear quantization that a user can ask for.
enum class LinearScheme : std::uint8_t {
  checkpoint,    ///< what the config's quantization_config says, else none
  none,          ///< 16 bit even if the checkpoint is quantized
  w8a16,         ///< int8 weights, 16-bit compute
  w8a8_static,   ///< int8 weights and activations, scales fixed
  w8a8_dynamic,  ///< int8 weights and activations, one scale per token
  fp8,           ///< e4m3 weights per channel, activations per token
};

/// "w8a8_dynamic", ...: as the command line spells it.
TCAST_API std::string_view name_of(LinearScheme scheme);

enum class KvScheme : std::uint8_t {
  checkpoint,  ///< what the checkpoint says of its KV cache, else none
  none,        ///< the dtype of the activations
  int8,
  fp8,  ///< e4m3
};

/// "int8", ...: as the command line spells it.
TCAST_API std::string_view name_of(KvScheme scheme);

/// Reads what name_of() returns; nothing for anything else.
TCAST_API std::optional<LinearScheme> parse_linear_scheme(std::string_view name);
TCAST_API std::optional<KvScheme> parse_kv_scheme(std::string_view name);

/// Like parse_..._scheme(), but throws Error for anything else: one message for schemes that exist
/// but are not implemented here (w4a16, mxfp4, ...), one with the known names for the rest.
TCAST_API LinearScheme require_linear_scheme(std::string_view name);
TCAST_API KvScheme require_kv_scheme(std::string_view name);

/// Names of all schemes, in the order of their enumerators.
TCAST_API std::vector<std::string> linear_scheme_names();
TCAST_API std::vector<std::string> kv_scheme_names();

/// How a model is spread (architecture.md section 4): dp = num_devices / tp, ep divides tp * dp.
struct ParallelOptions {
  std::int64_t num_devices = 0;  ///< 0: tp
  std::int64_t tp = 1;
  std::int64_t ep = 1;

  std::int64_t devices() const { return num_devices > 0 ? num_devices : tp; }
  std::int64_t dp() const { return devices() / tp; }
};

/// What the user wants done with a model, independent of the device.
struct ModelOptions {
  std::optional<DType> dtype;  ///< instead of the checkpoint's
  std::optional<std::int64_t> num_hidden_layers;
  std::int64_t num_mtp_tokens = 0;
  bool reuse_layers = true;
  std::vector<std::string> skip_steps;
  LinearScheme quantize_linear = LinearScheme::checkpoint;
  std::vector<std::string> quantize_ignore;  ///< module patterns added to the checkpoint's list
  KvScheme quantize_kv_cache = KvScheme::checkpoint;
  std::int64_t kv_block_size = 128;  ///< tokens per cache block, for patched attention
  double expert_skew = 0;            ///< Zipf exponent of the routing, 0 = even
  ParallelOptions parallel;
  /// "type=hook": models of that type (a name or pattern) are transformed by the hook that the
  /// reference names; the last one that matches counts.
  std::vector<std::string> custom_models;
  /// "key=value" for the hook, over the profile's custom_model_config.
  std::vector<std::string> custom_model_config;
};

}  // namespace tcast
