#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"
#include "tcast/config/hf_config.h"
#include "tcast/config/model_profile.h"
#include "tcast/config/options.h"
#include "tcast/model/attention.h"
#include "tcast/model/decoder.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/latent_attention.h"
#include "tcast/model/moe.h"
#include "tcast/model/rope.h"

namespace tcast {

/// Activations by the name that configs use ("silu", "gelu_new"): tcast's own, and further names
/// that plugins registered for them.
TCAST_API const Registry<ElementwiseKind>& activations();
/// What tcast itself has there.
TCAST_API std::vector<RegistryEntry<ElementwiseKind>> core_activations();

/// What an architecture function has at hand.
struct ArchitectureContext {
  const HfConfig& config;
  const ModelProfile& profile;
  const ModelOptions& options;
  /// What had to be assumed, and what the user should know although work goes on; both end in the
  /// report.
  std::vector<std::string>& assumptions;
  std::vector<std::string>& warnings;
};

/// Mixture-of-experts part of a decoder.
struct MoeSpec {
  MoeConfig routing;
  std::int64_t intermediate_size = 0;         ///< of one expert
  std::int64_t shared_intermediate_size = 0;  ///< of the shared experts together, 0: none
  bool shared_gate = false;                   ///< shared experts weighted by a sigmoid gate
  bool router_bias = false;                   ///< a trained bias on the router's logits
  bool fused = false;  ///< one parameter holds all experts' gate and up projections (FusedExperts)
  double activation_limit = 0;  ///< of fused ones: gate and up are clamped to it
  std::string block_class;      ///< HF class of the block, with the prefix
  std::string router_class = "Linear";
  std::string expert_class;  ///< HF class of one expert (fused: of all), with the prefix
  MlpNames expert_names;
  MoeFieldNames names;
  std::vector<bool> layers;  ///< which layers have it; as long as num_hidden_layers
};

/// HF classes that differ from the usual ones, without the family's prefix.
struct DecoderClasses {
  std::string language_model = "ForCausalLM";
  std::string sequence_classifier = "ForSequenceClassification";
  std::string token_classifier = "ForTokenClassification";
  std::string reward_model = "";  ///< empty: the family has none
  std::string model = "Model";
  std::string layer = "DecoderLayer";
  std::string embedding = "";  ///< empty: the plain Embedding
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
  double embedding_multiplier = 1;       ///< on the rows of the embedding
  std::int64_t position_embeddings = 0;  ///< rows of a table of positions to add; 0: none
  bool head_bias = false;
  double logits_softcap = 0;         ///< c: logits become c * tanh(logits / c); 0: they stay
  std::string token_head = "score";  ///< name of a token classifier's head

  NormKind norm = NormKind::rms;
  double norm_epsilon = 1e-6;
  double norm_weight_offset = 0;  ///< 1: rows are multiplied by 1 + weight
  /// Attention and feed-forward block both read the layer's first norm; else one after the other.
  bool parallel_blocks = false;
  bool transposed_linears = false;  ///< the layers' weights are stored as [in, out] (Conv1D)

  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;      ///< on the attention's output projection
  bool qk_norm = false;          ///< on queries and keys before the rotary embedding, per head
  bool qk_norm_whole = false;    ///< that norm over all heads together
  double clip_qkv = 0;           ///< queries, keys and values stay within +-clip_qkv; 0: no limit
  double attention_scale = 0;    ///< on the scores; 0: 1 / sqrt(head_dim)
  bool scale_by_layer = false;   ///< that divided by the layer's number, counted from 1
  double attention_softcap = 0;  ///< as logits_softcap, on the scores
  bool causal = true;            ///< false: every token sees all others of its request
  bool sinks = false;            ///< one more score per head, which takes part in the softmax only

  double rotary_fraction = 1;  ///< part of each head that is rotated
  bool rotary_interleaved = false;
  RopeParameters rope;
  std::optional<RopeParameters> window_rope;  ///< that of layers with a window; else `rope` too
  std::vector<bool> rotary_layers;            ///< which layers rotate; empty: all
  bool rotary_per_layer = false;              ///< each attention has a rotary module of its own
  std::int64_t sliding_window = 0;            ///< 0: full attention
  std::vector<bool> window_layers;            ///< which layers have the window; empty: all

  ElementwiseKind activation = ElementwiseKind::silu;
  bool mlp_bias = false;

  std::optional<LatentAttentionConfig> latent;  ///< multi-head latent attention instead
  std::optional<MoeSpec> moe;

  DecoderClasses classes;
  DecoderNames names;
  LayerNames layer_names;
  AttentionNames attention_names;
  MlpNames mlp_names;
};

/// Reads what all decoder families share, as the config's class has it; without a class absent keys
/// mean: no grouped heads, head_dim = hidden_size / num_attention_heads, SiLU, an epsilon of 1e-6,
/// a base of 10000, an untied head. Sizes must be there and consistent. `intermediate_ratio`:
/// intermediate_size / hidden_size where the former may be absent; 0: it must be there. Throws
/// Error.
TCAST_API DecoderSpec read_decoder_spec(const ArchitectureContext& context,
                                        std::string class_prefix,
                                        std::int64_t intermediate_ratio = 0);

/// Reads which layers have a sliding window: those that layer_types calls sliding_attention, else,
/// with use_sliding_window, all from max_window_layers on.
TCAST_API void read_layer_windows(const ArchitectureContext& context, DecoderSpec& spec);

/// For families in which most layers have a window: those that layer_types calls sliding_attention,
/// else all but each `period`-th.
TCAST_API void read_alternating_windows(const ArchitectureContext& context, DecoderSpec& spec,
                                        std::int64_t period);

/// The layers that layer_types calls sliding_attention; nothing when the config has no layer_types.
TCAST_API std::optional<std::vector<bool>> sliding_layers(const ArchitectureContext& context,
                                                          const DecoderSpec& spec);

/// A number above 0 under `key`; absent or null: `otherwise`.
TCAST_API double read_positive(const HfConfig& config, const char* key, double otherwise = 0);

/// partial_rotary_factor, which transformers 5 keeps in rope_parameters; 1 if it is nowhere.
TCAST_API double read_rotary_fraction(const HfConfig& config);

/// Multi-head latent attention as DeepSeek-V2 and V3 have it. Null q_lora_rank: queries are not
/// compressed.
TCAST_API LatentAttentionConfig read_latent_attention(const ArchitectureContext& context,
                                                      const DecoderSpec& spec);

/// The first `dense` layers have no experts.
TCAST_API void set_dense_layers(MoeSpec& moe, std::int64_t dense);

/// Qwen's rule: a layer has experts when its 1-based index is a multiple of decoder_sparse_step and
/// mlp_only_layers does not name it.
TCAST_API void read_sparse_layers(const ArchitectureContext& context, MoeSpec& moe);

/// Reads what all mixtures of experts share: number of experts (under the profile's
/// moe_num_experts_key) and chosen ones. Every layer has experts unless changed.
TCAST_API MoeSpec read_moe_spec(const ArchitectureContext& context, const DecoderSpec& spec);

/// Applies the profile's `architecture:` map to the spec and builds the tree. Throws Error for
/// unknown fields and for sizes that do not fit each other.
TCAST_API std::unique_ptr<Module> build_decoder(DecoderSpec spec,
                                                const ArchitectureContext& context);

}  // namespace tcast
