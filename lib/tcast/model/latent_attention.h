#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tcast/base/export.h"
#include "tcast/config/model_profile.h"
#include "tcast/model/attention.h"

namespace tcast {

/// Multi-head latent attention (DeepSeek-V2/V3): keys and values come from a low-rank latent of
/// kv_lora_rank elements per token, plus one rotary key shared by all heads.
struct LatentAttentionConfig {
  std::int64_t num_heads = 1;
  std::int64_t q_lora_rank = 0;  ///< 0: the query comes from one projection
  std::int64_t kv_lora_rank = 1;
  std::int64_t qk_nope_head_dim = 1;
  std::int64_t qk_rope_head_dim = 1;
  std::int64_t v_head_dim = 1;
  bool rotary_interleaved = true;
  std::string rotary_set = "default";
  AttentionSpan span;
  double scale = 1;

  std::int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }

  bool operator==(const LatentAttentionConfig&) const = default;
};

/// Shared part of all forms of latent attention: the projections and their sharding. Children carry
/// the names of `names`.
class TCAST_API LatentAttention : public ModulePart<LatentAttention, AttentionModule> {
 public:
  struct Config : LatentAttentionConfig {
    MlaFieldNames names{};
    std::int64_t local_heads = 1;  ///< of one rank

    bool operator==(const Config&) const = default;
  };

  LatentAttention(std::string class_name, LatentAttentionConfig config, MlaFieldNames names);
  /// Another form of `original`, whose content it takes over.
  LatentAttention(std::string class_name, LatentAttention& original);

  const Config& config() const { return config_; }
  const MlaFieldNames& names() const { return config_.names; }

  /// Cuts the heads over a tensor-parallel group; the latent is whole on every rank.
  void shard(const Layout& layout, ShardReport& report) override;

 protected:
  std::int64_t local_heads() const { return config_.local_heads; }
  /// q [tokens, local heads * qk_head_dim], before the rotary embedding.
  Value project_query(Trace& trace, Value hidden) const;
  struct Latent {
    Value latent;    ///< [tokens, kv_lora_rank], normalized
    Value rotary_k;  ///< [tokens, qk_rope_head_dim], before the rotary embedding
  };
  Latent project_latent(Trace& trace, Value hidden) const;
  struct KeysAndValues {
    Value k;  ///< [rows, local heads * qk_head_dim]
    Value v;  ///< [rows, local heads * v_head_dim]
  };
  /// Keys and values of every head from latents [rows, kv_lora_rank] and rotary keys.
  KeysAndValues expand_latent(Trace& trace, Value latent, Value rotary_k, std::int64_t rows) const;
  /// The rotary part of a head, which begins at `offset`.
  RotaryPart rotary_part(std::int64_t offset) const;
  struct Expanded {
    Value q;  ///< [tokens, local heads * qk_head_dim], rotated
    Value k;  ///< the same shape
    Value v;  ///< [tokens, local heads * v_head_dim]
  };
  /// Queries, keys and values of the new tokens, for every head; `fused` chooses the rotary form.
  Expanded expand(Trace& trace, Value hidden, bool fused) const;
  /// What the projections lack, for fault() of a form that calls them.
  std::string projections_fault() const;

  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// As HuggingFace computes it: keys and values expanded for every head, cached expanded, score
/// matrix in memory.
class TCAST_API EagerLatentAttention : public ModuleOf<EagerLatentAttention, LatentAttention> {
 public:
  using ModuleOf::ModuleOf;
  const Config& config() const { return LatentAttention::config(); }
  Value forward(Trace& trace, Value hidden) const override;
  std::string fault() const override { return projections_fault(); }
  std::unique_ptr<Module> make_paged(const CacheOptions& options) override;
};

/// Expanded keys and values in a paged cache, fused attention.
class TCAST_API PagedExpandedAttention : public ModuleOf<PagedExpandedAttention, LatentAttention> {
 public:
  PagedExpandedAttention(LatentAttention& original, const CacheOptions& options);
  const Config& config() const { return LatentAttention::config(); }
  Value forward(Trace& trace, Value hidden) const override;
  std::string fault() const override { return projections_fault(); }
  std::unique_ptr<Module> make_paged(const CacheOptions&) override { return nullptr; }
};

/// Only the latent and the rotary key are cached. Decode works in the latent space: the halves of
/// kv_b_proj are absorbed into query and output, and all heads share one key row. Prefill expands
/// the latent, because then the expanded form takes fewer operations.
class TCAST_API MultiheadLatentAttention
    : public ModuleOf<MultiheadLatentAttention, LatentAttention> {
 public:
  MultiheadLatentAttention(LatentAttention& original, const CacheOptions& options);
  const Config& config() const { return LatentAttention::config(); }
  Value forward(Trace& trace, Value hidden) const override;
  std::string fault() const override { return projections_fault(); }
  std::unique_ptr<Module> make_paged(const CacheOptions&) override { return nullptr; }

 private:
  Value attend_absorbed(Trace& trace, Value q, Value cache, const CacheSpec& spec) const;
  Value attend_expanded(Trace& trace, Value q, Value latent, Value rotary_k, Value cache) const;
};

}  // namespace tcast
