#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/config/hf_config.h"
#include "tcast/model/module.h"

namespace tcast {

/// How rotary positions are scaled for long contexts: changes the angles, not the work. Keys as in
/// HuggingFace's rope_scaling / rope_parameters.
struct RopeParameters {
  std::string type = "default";  ///< default, linear, dynamic, llama3, yarn
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_position_embeddings = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;          ///< 0: not given
  double mscale_all_dim = 0;  ///< 0: not given

  std::vector<Attribute> attributes() const;
};

/// Reads rope_theta with rope_scaling (transformers 4) or rope_parameters (transformers 5). Throws
/// Error for types that are not known.
TCAST_API RopeParameters read_rope(const HfConfig& config);

/// YaRN's factor on the attention logits: 1 when there is none
/// (0.1 * mscale * ln(factor) + 1, arXiv 2309.00071, as DeepSeek applies it).
TCAST_API double yarn_mscale(double factor, double mscale);

}  // namespace tcast
