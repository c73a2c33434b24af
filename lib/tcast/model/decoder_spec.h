#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/config/hf_config.h"
#include "tcast/config/model_profile.h"
#include "tcast/config/options.h"
#include "tcast/model/attention.h"
#include "tcast/model/decoder.h"
#include "tcast/model/latent_attention.h"
#include "tcast/model/moe.h"
#include "tcast/model/rope.h"

namespace tcast {

/// What an architecture function has at hand.
struct ArchitectureContext {
  const HfConfig& config;
  const ModelProfile& profile;
  const ModelOptions& options;
  /// What had to be assumed; ends in the report.
  std::vector<std::string>& assumptions;
};

/// Mixture-of-experts part of a decoder.
struct MoeSpec {
  MoeConfig routing;
  std::int64_t intermediate_size = 0;         ///< of one expert
  std::int64_t shared_intermediate_size = 0;  ///< of the shared experts together, 0: none
  bool shared_gate = false;                   ///< shared experts weighted by a sigmoid gate
  std::string block_class;                    ///< HF class of the block, with the prefix
  std::string router_class = "Linear";
  std::string expert_class;  ///< HF class of one expert, with the prefix
  MlpNames expert_names;
  MoeFieldNames names;
  std::vector<bool> layers;  ///< which layers have it; as long as num_hidden_layers
};

/// Everything that tells one decoder family from another, as named fields. A family's function
/// fills it from the config; a profile's `architecture:` map may change fields; build_decoder()
/// makes the tree.
struct DecoderSpec {
  std::string class_prefix;  ///< "Qwen3": of Qwen3ForCausalLM, Qwen3Attention, ...
  DType dtype = DType::bf16;

  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  bool tie_word_embeddings = false;
  double norm_epsilon = 1e-6;
  ElementwiseKind activation = ElementwiseKind::silu;

  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;  ///< on the attention's output projection
  bool mlp_bias = false;
  bool qk_norm = false;        ///< per-head RMSNorm on queries and keys before the rotary embedding
  double rotary_fraction = 1;  ///< part of each head that is rotated
  bool rotary_interleaved = false;
  RopeParameters rope;
  bool rotary_per_layer = false;    ///< each attention has a rotary module of its own
  std::int64_t sliding_window = 0;  ///< 0: full attention
  std::vector<bool> window_layers;  ///< which layers have the window; empty: all

  std::optional<LatentAttentionConfig> latent;  ///< multi-head latent attention instead
  std::optional<MoeSpec> moe;

  DecoderNames names;
  LayerNames layer_names;
  AttentionNames attention_names;
  MlpNames mlp_names;
};

/// Defaults of a HuggingFace config class for keys that a config.json may leave out.
struct DecoderDefaults {
  std::int64_t num_key_value_heads = 0;  ///< 0: as many as attention heads
  std::int64_t head_dim = 0;             ///< 0: hidden_size / num_attention_heads
  double norm_epsilon = 1e-6;
  double rope_theta = 10000;
  bool tie_word_embeddings = false;
};

/// Reads what all decoder families share. Sizes must be there and consistent. Throws Error.
TCAST_API DecoderSpec read_decoder_spec(const ArchitectureContext& context,
                                        std::string class_prefix,
                                        const DecoderDefaults& defaults = {});

/// Reads which layers have a sliding window: those that layer_types calls sliding_attention, else,
/// with use_sliding_window, all from max_window_layers on.
TCAST_API void read_layer_windows(const ArchitectureContext& context, DecoderSpec& spec);

/// Reads what all mixtures of experts share: number of experts, chosen ones, widths. `experts_key`
/// is the config's key for the number of experts, which has a default in some classes (0: it must
/// be there). Every layer has experts unless changed.
TCAST_API MoeSpec read_moe_spec(const ArchitectureContext& context, const DecoderSpec& spec,
                                std::string_view experts_key, std::int64_t default_top_k,
                                std::int64_t default_experts = 0);

/// Applies the profile's `architecture:` map to the spec and builds the tree. Throws Error for
/// unknown fields and for sizes that do not fit each other.
TCAST_API std::unique_ptr<Module> build_decoder(DecoderSpec spec,
                                                const ArchitectureContext& context);

}  // namespace tcast
