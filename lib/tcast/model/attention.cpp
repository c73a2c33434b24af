#include "tcast/model/attention.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"

namespace tcast {

std::int64_t divided_heads(std::int64_t heads, RankGroup group, const std::string& path,
                           const char* what) {
  if (heads % group.size != 0) {
    throw Error(
        fmt::format("{}: {} {} cannot be divided over tp {}", path, heads, what, group.size),
        fmt::format("choose --tp so that it divides {}", heads));
  }
  return heads / group.size;
}

Value eager_rotary(Trace& trace, Value x, std::int64_t heads, std::int64_t head_dim,
                   std::int64_t rotary_dim, const std::string& rotary_set) {
  if (rotary_dim == 0) return x;
  const RotaryValues rotary = trace.rotary(rotary_set);
  const std::int64_t tokens = trace.shape(x).elements() / (heads * head_dim);
  Value rotated = x;
  if (rotary_dim < head_dim) {
    rotated = trace.copy(CopyKind::slice, x, {tokens, heads * rotary_dim}, trace.dtype(x));
  }
  const Value direct = trace.binary(ElementwiseKind::multiply, rotated, rotary.cos);
  // rotate_half: the second halves negated, then both halves joined the other way round.
  const Value second =
      trace.copy(CopyKind::slice, rotated, {tokens, heads * rotary_dim / 2}, trace.dtype(x));
  const Value negated = trace.unary(ElementwiseKind::negate, second);
  const Value half_turned = trace.concat(negated, rotated, {tokens, heads * rotary_dim});
  const Value turned = trace.binary(ElementwiseKind::multiply, half_turned, rotary.sin);
  const Value sum = trace.add(direct, turned);
  if (rotary_dim == head_dim) return sum;
  return trace.concat(sum, x, {tokens, heads * head_dim});
}

Value fused_rotary(Trace& trace, Value x, std::int64_t heads, std::int64_t head_dim,
                   std::int64_t rotary_dim, bool interleaved, const std::string& rotary_set) {
  if (rotary_dim == 0) return x;
  const RotaryValues rotary = trace.rotary(rotary_set);
  Rotary op;
  op.tokens = trace.shape(x).elements() / (heads * head_dim);
  op.heads = heads;
  op.head_dim = head_dim;
  op.rotary_dim = rotary_dim;
  op.interleaved = interleaved;
  op.dtype = trace.dtype(x);
  return trace.emit(op, {x, rotary.cos, rotary.sin}, trace.shape(x), op.dtype);
}

Value eager_attention(Trace& trace, Value q, Value k, Value v, const EagerShape& s) {
  const Workload& work = trace.workload();
  const std::int64_t batch = work.batch;
  const std::int64_t query = work.query_length;
  const std::int64_t keys = work.sequence_length();
  const DType dtype = trace.dtype(q);

  q = trace.copy(CopyKind::transpose, q, {batch, s.heads, query, s.qk_dim}, dtype);
  k = trace.copy(CopyKind::transpose, k, {batch, s.kv_heads, query, s.qk_dim}, dtype);
  v = trace.copy(CopyKind::transpose, v, {batch, s.kv_heads, query, s.v_dim}, dtype);
  // A dynamic cache: all keys and values are copied into a longer tensor at every step, and every
  // token is kept, whatever the window.
  CacheSpec spec;
  spec.elements_per_token = s.kv_heads * (s.qk_dim + s.v_dim);
  spec.dtype = dtype;
  const Value cache = trace.cache(spec);
  if (work.context_length > 0) {
    k = trace.concat(cache, k, {batch, s.kv_heads, keys, s.qk_dim});
    v = trace.concat(cache, v, {batch, s.kv_heads, keys, s.v_dim});
  }
  if (s.heads != s.kv_heads) {
    k = trace.copy(CopyKind::repeat, k, {batch, s.heads, keys, s.qk_dim}, dtype);
    v = trace.copy(CopyKind::repeat, v, {batch, s.heads, keys, s.v_dim}, dtype);
  }
  Value scores = trace.batch_matmul(q, k, batch * s.heads, query, keys, s.qk_dim);
  scores = trace.unary(ElementwiseKind::scale, scores, s.scale);
  const Value mask = trace.input("causal mask", {query, keys}, dtype);
  scores = trace.binary(ElementwiseKind::mask_add, scores, mask);
  const Value weights = trace.softmax(scores, batch * s.heads * query, keys);
  Value out = trace.batch_matmul(weights, v, batch * s.heads, query, s.v_dim, keys);
  return trace.copy(CopyKind::transpose, out, {batch * query, s.heads * s.v_dim}, dtype);
}

// --- grouped-query attention ---------------------------------------------------------------------

GroupedQueryAttention::GroupedQueryAttention(std::string class_name, AttentionConfig config,
                                             AttentionNames names)
    : AttentionModule(std::move(class_name)),
      config_(std::move(config)),
      names_(std::move(names)),
      local_heads_(config_.num_heads),
      local_kv_heads_(config_.num_kv_heads) {
  set_attribute("num_heads", config_.num_heads);
  set_attribute("num_kv_heads", config_.num_kv_heads);
  set_attribute("head_dim", config_.head_dim);
  set_attribute("scaling", config_.scale);
  if (config_.rotary_dim != config_.head_dim) set_attribute("rotary_dim", config_.rotary_dim);
  if (config_.rotary_interleaved) set_attribute("rope_interleave", true);
  if (config_.rotary_set != "default") set_attribute("rotary_set", config_.rotary_set);
  if (config_.span.window > 0) set_attribute("sliding_window", config_.span.window);
  if (config_.span.chunk > 0) set_attribute("attention_chunk_size", config_.span.chunk);
  if (config_.softcap > 0) set_attribute("softcap", config_.softcap);
}

GroupedQueryAttention::GroupedQueryAttention(std::string class_name,
                                             GroupedQueryAttention& original)
    : AttentionModule(std::move(class_name)),
      config_(original.config_),
      names_(original.names_),
      local_heads_(original.local_heads_),
      local_kv_heads_(original.local_kv_heads_) {
  take_over(original);
}

GroupedQueryAttention::Projected GroupedQueryAttention::project(Trace& trace, Value hidden) const {
  if (const auto* rotary = dynamic_cast<const RotaryEmbedding*>(find_child("rotary_emb"))) {
    rotary->provide(trace, trace.input("positions", {trace.workload().tokens()}, DType::i64));
  }
  Projected result;
  const std::int64_t q_width = local_heads_ * config_.head_dim;
  const std::int64_t kv_width = local_kv_heads_ * config_.head_dim;
  if (!names_.qkv.empty()) {
    const Value qkv = call(trace, names_.qkv, hidden);
    const std::int64_t tokens = trace.workload().tokens();
    const DType dtype = trace.dtype(qkv);
    result.q = trace.copy(CopyKind::slice, qkv, {tokens, q_width}, dtype);
    result.k = trace.copy(CopyKind::slice, qkv, {tokens, kv_width}, dtype);
    result.v = trace.copy(CopyKind::slice, qkv, {tokens, kv_width}, dtype);
  } else {
    result.q = call(trace, names_.q_proj, hidden);
    result.k = call(trace, names_.k_proj, hidden);
    result.v = call(trace, names_.v_proj, hidden);
  }
  if (find_child(names_.q_norm) != nullptr) result.q = call(trace, names_.q_norm, result.q);
  if (find_child(names_.k_norm) != nullptr) result.k = call(trace, names_.k_norm, result.k);
  return result;
}

void GroupedQueryAttention::shard_heads(RankGroup group, const std::string& path) {
  local_heads_ = divided_heads(config_.num_heads, group, path, "attention heads");
  const std::int64_t kv_heads = config_.num_kv_heads;
  if (kv_heads % group.size != 0 && group.size % kv_heads != 0) {
    throw Error(
        fmt::format("{}: {} key/value heads can neither be divided over tp {} nor replicated", path,
                    kv_heads, group.size),
        fmt::format("choose --tp so that it divides {} or is a multiple of it", kv_heads));
  }
  const std::int64_t kv_parts = std::min(group.size, kv_heads);
  local_kv_heads_ = kv_heads / kv_parts;
  const std::int64_t q_rows = config_.num_heads * config_.head_dim;
  const std::int64_t kv_rows = kv_heads * config_.head_dim;
  auto linear = [this](const std::string& name) -> Linear& {
    return dynamic_cast<Linear&>(child(name));
  };
  if (!names_.qkv.empty()) {
    linear(names_.qkv)
        .shard_columns(group, {{q_rows, group.size}, {kv_rows, kv_parts}, {kv_rows, kv_parts}});
  } else {
    linear(names_.q_proj).shard_columns(group);
    linear(names_.k_proj).shard_columns(group, {{kv_rows, kv_parts}});
    linear(names_.v_proj).shard_columns(group, {{kv_rows, kv_parts}});
  }
  linear(names_.o_proj).shard_rows(group);
}

// --- eager ---------------------------------------------------------------------------------------

Value EagerAttention::forward(Trace& trace, Value hidden) const {
  Projected p = project(trace, hidden);
  const AttentionConfig& c = config();
  p.q = eager_rotary(trace, p.q, local_heads(), c.head_dim, c.rotary_dim, c.rotary_set);
  p.k = eager_rotary(trace, p.k, local_kv_heads(), c.head_dim, c.rotary_dim, c.rotary_set);
  EagerShape shape;
  shape.heads = local_heads();
  shape.kv_heads = local_kv_heads();
  shape.qk_dim = c.head_dim;
  shape.v_dim = c.head_dim;
  shape.scale = c.scale;
  return call(trace, names().o_proj, eager_attention(trace, p.q, p.k, p.v, shape));
}

std::unique_ptr<Module> EagerAttention::make_paged(const CacheOptions& options) {
  return std::make_unique<PagedAttention>(*this, options);
}

// --- paged ---------------------------------------------------------------------------------------

PagedAttention::PagedAttention(GroupedQueryAttention& original, const CacheOptions& options)
    : ModuleOf("PagedAttention", original), cache_(options) {}

Value PagedAttention::forward(Trace& trace, Value hidden) const {
  const AttentionConfig& c = config();
  const Workload& work = trace.workload();
  Projected p = project(trace, hidden);
  p.q = fused_rotary(trace, p.q, local_heads(), c.head_dim, c.rotary_dim, c.rotary_interleaved,
                     c.rotary_set);
  p.k = fused_rotary(trace, p.k, local_kv_heads(), c.head_dim, c.rotary_dim, c.rotary_interleaved,
                     c.rotary_set);

  CacheSpec spec;
  spec.elements_per_token = 2 * local_kv_heads() * c.head_dim;
  spec.dtype = cache_.dtype;
  spec.span = c.span;
  spec.block_size = cache_.block_size;
  const Value cache = trace.cache(spec);
  CacheAppend append;
  append.tokens = work.tokens();
  append.width = spec.elements_per_token;
  append.input = trace.dtype(p.k);
  append.cache = cache_.dtype;
  trace.emit_in_place(append, {p.k, p.v, cache});

  Attention op;
  op.batch = work.batch;
  op.query_length = work.query_length;
  op.context_length = work.context_length;
  op.heads = local_heads();
  op.kv_heads = local_kv_heads();
  op.qk_head_dim = c.head_dim;
  op.v_head_dim = c.head_dim;
  op.span = c.span;
  op.query = trace.dtype(p.q);
  op.cache = cache_.dtype;
  op.scale = c.scale;
  op.softcap = c.softcap;
  const Value out =
      trace.emit(op, {p.q, cache}, {work.tokens(), local_heads() * c.head_dim}, op.query);
  return call(trace, names().o_proj, out);
}

bool PagedAttention::set_cache_dtype(DType dtype) {
  cache_.dtype = dtype;
  set_attribute("kv_cache_dtype", std::string(short_name_of(dtype)));
  return true;
}

}  // namespace tcast
