#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/graph/attention_span.h"
#include "tcast/model/layers.h"
#include "tcast/model/module.h"

namespace tcast {

/// How a patched attention keeps its keys and values.
struct CacheOptions {
  DType dtype = DType::bf16;
  std::int64_t block_size = 128;  ///< tokens per block

  bool operator==(const CacheOptions&) const = default;
};

/// What every attention module lets the steps do with it, whatever it computes inside.
class TCAST_API AttentionModule : public ModulePart<AttentionModule> {
 public:
  using ModulePart::ModulePart;

  struct Config {
    std::optional<CacheOptions> cache{};  ///< of a paged form
    bool cache_quantized = false;         ///< its dtype was set by set_cache_dtype()

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  /// A module with the same parameters whose forward traces one fused operator over a paged cache;
  /// null when this one does so already. Takes this module's content over.
  virtual std::unique_ptr<Module> make_paged(const CacheOptions& options) = 0;
  /// Stores keys and values in another dtype from now on. False: it has no cache of its own to
  /// change (an eager module's grows with the activations' dtype).
  bool set_cache_dtype(DType dtype);
  /// What set_cache_dtype() was told; nothing when nobody called it.
  std::optional<DType> quantized_cache() const;

 protected:
  /// A paged form says how it keeps keys and values.
  void set_cache(const CacheOptions& options) { config_ = {options, false}; }
  /// Throws Error when nobody called set_cache().
  const CacheOptions& cache_options() const;

  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// Which part of each head a rotary embedding turns: `dim` elements from `offset` on, at one end of
/// the head.
struct RotaryPart {
  std::int64_t dim = 0;  ///< 0: none
  std::int64_t offset = 0;
  bool interleaved = false;
  std::string set = "default";
};

/// Multi-head, grouped-query and multi-query attention.
struct AttentionConfig {
  std::int64_t num_heads = 1;
  std::int64_t num_kv_heads = 1;
  std::int64_t head_dim = 1;
  std::int64_t rotary_dim = 0;  ///< 0: no rotary embedding
  bool rotary_interleaved = false;
  std::string rotary_set = "default";
  AttentionSpan span;
  double scale = 1;
  double softcap = 0;   ///< c: scores become c * tanh(scores / c); 0: they stay
  double clip_qkv = 0;  ///< limit of queries, keys and values before the rotary embedding; 0: none

  bool operator==(const AttentionConfig&) const = default;
};

/// Names of an attention's children. `qkv` non-empty: one fused projection instead of three.
struct AttentionNames {
  std::string q_proj = "q_proj";
  std::string k_proj = "k_proj";
  std::string v_proj = "v_proj";
  std::string qkv = "";
  std::string o_proj = "o_proj";
  std::string q_norm = "q_norm";
  std::string k_norm = "k_norm";

  bool operator==(const AttentionNames&) const = default;
};

/// Shared part of the eager and the paged form: projections, norms, sharding.
class TCAST_API GroupedQueryAttention : public ModulePart<GroupedQueryAttention, AttentionModule> {
 public:
  struct Config : AttentionConfig {
    AttentionNames names{};
    std::int64_t local_heads = 1;  ///< of one rank
    std::int64_t local_kv_heads = 1;

    bool operator==(const Config&) const = default;
  };

  GroupedQueryAttention(std::string class_name, AttentionConfig config, AttentionNames names);
  /// Another form of `original`, whose content it takes over.
  GroupedQueryAttention(std::string class_name, GroupedQueryAttention& original);

  const Config& config() const { return config_; }

  /// Cuts the heads over a tensor-parallel group; the heads of keys and values, where there are
  /// fewer of them than ranks, are on several.
  void shard(const Layout& layout, ShardReport& report) override;

 protected:
  struct Projected {
    Value q, k, v;  ///< [tokens, local heads * head_dim]
  };
  /// Projections and, where there are, per-head norms.
  Projected project(Trace& trace, Value hidden) const;
  /// What project() lacks, for fault() of a form that calls it.
  std::string projections_fault() const;
  RotaryPart rotary_part() const;
  /// The heads' sinks, where there are.
  std::optional<Value> sinks(Trace& trace) const;

  std::int64_t local_heads() const { return config_.local_heads; }
  std::int64_t local_kv_heads() const { return config_.local_kv_heads; }
  const AttentionNames& names() const { return config_.names; }

  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// As HuggingFace's eager implementation: the cache grows by concatenation, KV heads are repeated,
/// the score matrix exists in memory.
class TCAST_API EagerAttention : public ModuleOf<EagerAttention, GroupedQueryAttention> {
 public:
  using ModuleOf::ModuleOf;
  const Config& config() const { return GroupedQueryAttention::config(); }
  Value forward(Trace& trace, Value hidden) const override;
  std::string fault() const override { return projections_fault(); }
  std::unique_ptr<Module> make_paged(const CacheOptions& options) override;
};

/// One fused attention operator over a paged cache.
class TCAST_API PagedAttention : public ModuleOf<PagedAttention, GroupedQueryAttention> {
 public:
  PagedAttention(GroupedQueryAttention& original, const CacheOptions& options);
  const Config& config() const { return GroupedQueryAttention::config(); }
  Value forward(Trace& trace, Value hidden) const override;
  std::string fault() const override { return projections_fault(); }
  std::unique_ptr<Module> make_paged(const CacheOptions&) override { return nullptr; }
};

/// Rotary embedding as eager code computes it (x * cos + rotate_half(x) * sin, five passes over
/// memory); x [tokens, heads * head_dim]. Interleaved pairs are sorted into halves first and stay
/// so: queries and keys alike, which their products do not see.
TCAST_API Value eager_rotary(Trace& trace, Value x, std::int64_t heads, std::int64_t head_dim,
                             const RotaryPart& part);

/// The same as one operator, interleaved pairs staying where they are.
TCAST_API Value fused_rotary(Trace& trace, Value x, std::int64_t heads, std::int64_t head_dim,
                             const RotaryPart& part);

/// The cache of keys of `key_dim` and values of `value_dim` (0: none, they are part of the keys)
/// elements for each of `kv_heads` heads.
TCAST_API CacheSpec cache_spec(std::int64_t kv_heads, std::int64_t key_dim, std::int64_t value_dim,
                               const AttentionSpan& span, const CacheOptions& options);

/// This layer's cache, to which the new tokens' keys and values (side by side, as many tensors as
/// may be) are appended.
TCAST_API Value append_to_cache(Trace& trace, const Operands& pieces, const CacheSpec& spec);

/// Eager attention from q [tokens, heads * qk_dim], k [tokens, kv_heads * qk_dim], v [tokens,
/// kv_heads * v_dim]: cache, repeat, scores, mask, softmax, weighted sum; result
/// [tokens, heads * v_dim].
struct EagerShape {
  std::int64_t heads = 1;
  std::int64_t kv_heads = 1;
  std::int64_t qk_dim = 1;
  std::int64_t v_dim = 1;
  AttentionSpan span;
  double scale = 1;
  double softcap = 0;
  std::optional<Value> sinks;  ///< [heads]
};
TCAST_API Value eager_attention(Trace& trace, Value q, Value k, Value v, const EagerShape& shape);

/// Fused attention of the new tokens' queries q [tokens, heads * qk_dim] over `cache`, which
/// already holds their keys and values; result [tokens, heads * v_dim].
TCAST_API Attention paged_attention(const Workload& workload, const CacheSpec& spec,
                                    std::int64_t heads, DType query);

/// Heads of one rank. Throws Error when `heads` do not divide over the group.
TCAST_API std::int64_t divided_heads(std::int64_t heads, RankGroup group, const std::string& path,
                                     const char* what);

}  // namespace tcast
