#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/config/hf_config.h"
#include "tcast/model/module.h"

namespace tcast {

/// How rotary positions turn into angles, and how that is scaled for long contexts. Keys as in
/// HuggingFace's rope_scaling / rope_parameters.
struct TCAST_API RopeParameters {
  std::string type = "default";  ///< default, linear, dynamic, llama3, yarn, longrope
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double max_position_embeddings = 0;           ///< for dynamic: where scaling begins
  double original_max_position_embeddings = 0;  ///< for llama3, yarn, longrope
  double beta_fast = 32;
  double beta_slow = 1;
  bool truncate = true;                    ///< yarn: whole numbers as ends of its ramp
  double mscale = 0;                       ///< 0: not given
  double mscale_all_dim = 0;               ///< 0: not given
  std::optional<double> attention_factor;  ///< nothing: follows from the rest
  std::vector<double> short_factor;        ///< longrope, one per frequency: up to the original
  std::vector<double> long_factor;         ///< length, and beyond it
  /// Tokens that the model is made for: what the scaling makes of the original length; 0: unknown.
  double context_limit = 0;

  std::vector<Attribute> attributes() const;
  bool operator==(const RopeParameters&) const = default;
};

/// Reads rope_theta with rope_scaling (transformers 4) or rope_parameters (transformers 5); with
/// both, the former counts. With a `layer_type`, rope_parameters has one map per layer type, over
/// which rope_scaling is laid for full_attention; a base frequency that is nowhere is that under
/// `theta_key`. Throws Error for types that are not known and for what a type needs and the config
/// lacks.
TCAST_API RopeParameters read_rope(const HfConfig& config, std::string_view layer_type = {},
                                   std::string_view theta_key = "rope_theta");

/// Inverse frequencies, rotary_dim / 2 of them: position p turns pair i by p * result[i]. cos and
/// sin are multiplied by `attention_factor`. `sequence_length` is the largest position of the
/// forward pass plus one. In f32 step by step, as modeling_rope_utils.py of transformers computes
/// them (linear, dynamic NTK, arXiv 2309.00071 for yarn, arXiv 2402.13753 for longrope, and the
/// smooth ramp of Llama 3.1).
TCAST_API std::vector<float> inverse_frequencies(const RopeParameters& rope,
                                                 std::int64_t rotary_dim,
                                                 std::int64_t sequence_length,
                                                 double& attention_factor);

/// YaRN's factor on the attention logits: 1 when there is none
/// (0.1 * mscale * ln(factor) + 1, arXiv 2309.00071, as DeepSeek applies it).
TCAST_API double yarn_mscale(double factor, double mscale);

}  // namespace tcast
