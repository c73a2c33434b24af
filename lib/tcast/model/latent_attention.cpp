#include "tcast/model/latent_attention.h"

#include <utility>

namespace tcast {

LatentAttention::LatentAttention(std::string class_name, LatentAttentionConfig config,
                                 MlaFieldNames names)
    : AttentionModule(std::move(class_name)),
      config_(std::move(config)),
      names_(std::move(names)),
      local_heads_(config_.num_heads) {
  set_attribute(names_.num_heads, config_.num_heads);
  if (config_.q_lora_rank > 0) set_attribute(names_.q_lora_rank, config_.q_lora_rank);
  set_attribute(names_.kv_lora_rank, config_.kv_lora_rank);
  set_attribute(names_.qk_nope_head_dim, config_.qk_nope_head_dim);
  set_attribute(names_.qk_rope_head_dim, config_.qk_rope_head_dim);
  set_attribute(names_.v_head_dim, config_.v_head_dim);
  set_attribute("scaling", config_.scale);
  set_attribute("rope_interleave", config_.rotary_interleaved);
  if (config_.rotary_set != "default") set_attribute("rotary_set", config_.rotary_set);
  if (config_.span.window > 0) set_attribute("sliding_window", config_.span.window);
}

LatentAttention::LatentAttention(std::string class_name, LatentAttention& original)
    : AttentionModule(std::move(class_name)),
      config_(original.config_),
      names_(original.names_),
      local_heads_(original.local_heads_) {
  take_over(original);
}

void LatentAttention::shard_heads(RankGroup group, const std::string& path) {
  local_heads_ = divided_heads(config_.num_heads, group, path, "attention heads");
  auto linear = [this](const std::string& name) -> Linear& {
    return dynamic_cast<Linear&>(child(name));
  };
  linear(config_.q_lora_rank > 0 ? names_.q_b_proj : names_.q_proj).shard_columns(group);
  linear(names_.kv_b_proj).shard_columns(group);
  linear(names_.o_proj).shard_rows(group);
}

Value LatentAttention::project_query(Trace& trace, Value hidden) const {
  if (config_.q_lora_rank == 0) return call(trace, names_.q_proj, hidden);
  const Value compressed = call(trace, names_.q_a_proj, hidden);
  return call(trace, names_.q_b_proj, call(trace, names_.q_a_layernorm, compressed));
}

LatentAttention::Latent LatentAttention::project_latent(Trace& trace, Value hidden) const {
  const std::int64_t tokens = trace.workload().tokens();
  const Value both = call(trace, names_.kv_a_proj_with_mqa, hidden);
  const DType dtype = trace.dtype(both);
  Latent result;
  const Value latent = trace.copy(CopyKind::slice, both, {tokens, config_.kv_lora_rank}, dtype);
  result.rotary_k = trace.copy(CopyKind::slice, both, {tokens, config_.qk_rope_head_dim}, dtype);
  result.latent = call(trace, names_.kv_a_layernorm, latent);
  return result;
}

LatentAttention::Expanded LatentAttention::expand(Trace& trace, Value hidden, bool fused) const {
  const LatentAttentionConfig& c = config_;
  const std::int64_t tokens = trace.workload().tokens();
  const std::int64_t heads = local_heads_;
  auto rotate = [&](Value x, std::int64_t rotated_heads, std::int64_t head_dim) {
    return fused
               ? fused_rotary(trace, x, rotated_heads, head_dim, c.qk_rope_head_dim,
                              c.rotary_interleaved, c.rotary_set)
               : eager_rotary(trace, x, rotated_heads, head_dim, c.qk_rope_head_dim, c.rotary_set);
  };
  Expanded result;
  result.q = rotate(project_query(trace, hidden), heads, c.qk_head_dim());
  const Latent latent = project_latent(trace, hidden);
  const Value rotary_k = rotate(latent.rotary_k, 1, c.qk_rope_head_dim);
  const Value kv = call(trace, names_.kv_b_proj, latent.latent);
  const DType dtype = trace.dtype(kv);
  const Value k_nope = trace.copy(CopyKind::slice, kv, {tokens, heads * c.qk_nope_head_dim}, dtype);
  result.v = trace.copy(CopyKind::slice, kv, {tokens, heads * c.v_head_dim}, dtype);
  // The one rotary key is repeated for every head.
  result.k = trace.concat(k_nope, rotary_k, {tokens, heads * c.qk_head_dim()});
  return result;
}

// --- eager ---------------------------------------------------------------------------------------

Value EagerLatentAttention::forward(Trace& trace, Value hidden) const {
  const Expanded e = expand(trace, hidden, false);
  EagerShape shape;
  shape.heads = local_heads();
  shape.kv_heads = local_heads();
  shape.qk_dim = config().qk_head_dim();
  shape.v_dim = config().v_head_dim;
  shape.scale = config().scale;
  return call(trace, names().o_proj, eager_attention(trace, e.q, e.k, e.v, shape));
}

std::unique_ptr<Module> EagerLatentAttention::make_paged(const CacheOptions& options) {
  return std::make_unique<PagedExpandedAttention>(*this, options);
}

// --- expanded keys and values in a paged cache ---------------------------------------------------

PagedExpandedAttention::PagedExpandedAttention(LatentAttention& original,
                                               const CacheOptions& options)
    : ModuleOf("PagedExpandedAttention", original), cache_(options) {}

Value PagedExpandedAttention::forward(Trace& trace, Value hidden) const {
  const LatentAttentionConfig& c = config();
  const Workload& work = trace.workload();
  const std::int64_t heads = local_heads();
  const Expanded e = expand(trace, hidden, true);

  CacheSpec spec;
  spec.elements_per_token = heads * (c.qk_head_dim() + c.v_head_dim);
  spec.dtype = cache_.dtype;
  spec.span = c.span;
  spec.block_size = cache_.block_size;
  const Value cache = trace.cache(spec);
  CacheAppend append;
  append.tokens = work.tokens();
  append.width = spec.elements_per_token;
  append.input = trace.dtype(e.k);
  append.cache = cache_.dtype;
  trace.emit_in_place(append, {e.k, e.v, cache});

  Attention op;
  op.batch = work.batch;
  op.query_length = work.query_length;
  op.context_length = work.context_length;
  op.heads = heads;
  op.kv_heads = heads;
  op.qk_head_dim = c.qk_head_dim();
  op.v_head_dim = c.v_head_dim;
  op.span = c.span;
  op.query = trace.dtype(e.q);
  op.cache = cache_.dtype;
  op.scale = c.scale;
  const Value out = trace.emit(op, {e.q, cache}, {work.tokens(), heads * c.v_head_dim}, op.query);
  return call(trace, names().o_proj, out);
}

bool PagedExpandedAttention::set_cache_dtype(DType dtype) {
  cache_.dtype = dtype;
  set_attribute("kv_cache_dtype", std::string(short_name_of(dtype)));
  return true;
}

// --- latent cache --------------------------------------------------------------------------------

MultiheadLatentAttention::MultiheadLatentAttention(LatentAttention& original,
                                                   const CacheOptions& options)
    : ModuleOf("MultiheadLatentAttention", original), cache_(options) {}

Value MultiheadLatentAttention::forward(Trace& trace, Value hidden) const {
  const LatentAttentionConfig& c = config();
  const Workload& work = trace.workload();
  const std::int64_t tokens = work.tokens();
  const std::int64_t heads = local_heads();

  Value q = project_query(trace, hidden);
  q = fused_rotary(trace, q, heads, c.qk_head_dim(), c.qk_rope_head_dim, c.rotary_interleaved,
                   c.rotary_set);
  const Latent latent = project_latent(trace, hidden);
  const Value rotary_k = fused_rotary(trace, latent.rotary_k, 1, c.qk_rope_head_dim,
                                      c.qk_rope_head_dim, c.rotary_interleaved, c.rotary_set);

  CacheSpec spec;
  spec.elements_per_token = c.kv_lora_rank + c.qk_rope_head_dim;
  spec.dtype = cache_.dtype;
  spec.span = c.span;
  spec.block_size = cache_.block_size;
  const Value cache = trace.cache(spec);
  CacheAppend append;
  append.tokens = tokens;
  append.width = spec.elements_per_token;
  append.input = trace.dtype(latent.latent);
  append.cache = cache_.dtype;
  trace.emit_in_place(append, {latent.latent, rotary_k, cache});

  Value out;
  if (work.phase == Phase::decode) {
    const DType dtype = trace.dtype(q);
    // The heads' two parts lie apart for the batched products.
    const Value q_nope = trace.copy(CopyKind::slice, q, {heads, tokens, c.qk_nope_head_dim}, dtype);
    const Value q_rope = trace.copy(CopyKind::slice, q, {heads, tokens, c.qk_rope_head_dim}, dtype);
    out = attend_absorbed(trace, q_nope, q_rope, cache);
  } else {
    out = attend_expanded(trace, q, latent.latent, rotary_k, cache);
  }
  return call(trace, names().o_proj, out);
}

Value MultiheadLatentAttention::attend_absorbed(Trace& trace, Value q_nope, Value q_rope,
                                                Value cache) const {
  const LatentAttentionConfig& c = config();
  const Workload& work = trace.workload();
  const std::int64_t tokens = work.tokens();
  const std::int64_t heads = local_heads();
  const DType dtype = trace.dtype(q_nope);
  const auto& kv_b = dynamic_cast<const Linear&>(child(names().kv_b_proj));

  // q_latent[h] = q_nope[h] W_UK[h]^T and out[h] = context[h] W_UV[h]^T: the halves of kv_b_proj,
  // read where they lie in its weight; a quantized weight is converted on the way (16-bit compute).
  MatMul absorb;
  absorb.batch = heads;
  absorb.m = tokens;
  absorb.n = c.kv_lora_rank;
  absorb.k = c.qk_nope_head_dim;
  absorb.input = dtype;
  absorb.weight = kv_b.weight().dtype;
  absorb.output = dtype;
  absorb.compute = dtype;
  std::int64_t scales = 0;
  if (kv_b.quantization()) scales = local_scale_count(*kv_b.quantization(), kv_b.weight());
  const std::int64_t both = c.qk_nope_head_dim + c.v_head_dim;
  absorb.weight_scales = scales * c.qk_nope_head_dim / both;
  const Value weight = trace.parameter(kv_b.weight());
  Operands absorb_operands{q_nope, weight};
  Operands project_operands{q_nope, weight};
  for (const Parameter& parameter : kv_b.parameters()) {
    if (!parameter.scale) continue;
    const Value weight_scales = trace.parameter(parameter);
    absorb_operands.push(weight_scales);
    project_operands.push(weight_scales);
  }
  const Value q_latent =
      trace.emit(absorb, absorb_operands, {heads, tokens, c.kv_lora_rank}, dtype);
  const std::int64_t row = c.kv_lora_rank + c.qk_rope_head_dim;
  const Value q_row = trace.concat(q_latent, q_rope, {tokens, heads * row});

  Attention op;
  op.batch = work.batch;
  op.query_length = work.query_length;
  op.context_length = work.context_length;
  op.heads = heads;
  op.kv_heads = 1;
  op.qk_head_dim = row;
  op.v_head_dim = c.kv_lora_rank;
  op.span = c.span;
  op.query = dtype;
  op.cache = cache_.dtype;
  op.value_in_key = true;
  op.scale = c.scale;
  const Value context = trace.emit(op, {q_row, cache}, {heads, tokens, c.kv_lora_rank}, dtype);

  MatMul project = absorb;
  project.n = c.v_head_dim;
  project.k = c.kv_lora_rank;
  project.weight_scales = scales * c.v_head_dim / both;
  project_operands.values[0] = context;
  return trace.emit(project, project_operands, {tokens, heads * c.v_head_dim}, dtype);
}

Value MultiheadLatentAttention::attend_expanded(Trace& trace, Value q, Value latent, Value rotary_k,
                                                Value cache) const {
  const LatentAttentionConfig& c = config();
  const Workload& work = trace.workload();
  const std::int64_t heads = local_heads();
  const std::int64_t rows = work.batch * work.sequence_length();
  const DType dtype = trace.dtype(q);
  // Cached tokens are expanded again together with the new ones.
  Value all_latents = latent;
  Value all_rotary = rotary_k;
  if (work.context_length > 0) {
    Gather read;
    read.rows = rows;
    read.width = c.kv_lora_rank + c.qk_rope_head_dim;
    read.table_rows = rows;
    read.dtype = cache_.dtype;
    const Value both = trace.emit(read, {cache}, {rows, read.width}, dtype);
    all_latents = trace.copy(CopyKind::slice, both, {rows, c.kv_lora_rank}, dtype);
    all_rotary = trace.copy(CopyKind::slice, both, {rows, c.qk_rope_head_dim}, dtype);
  }
  const Value kv = call(trace, names().kv_b_proj, all_latents);
  const Value k_nope = trace.copy(CopyKind::slice, kv, {rows, heads * c.qk_nope_head_dim}, dtype);
  const Value v = trace.copy(CopyKind::slice, kv, {rows, heads * c.v_head_dim}, dtype);
  const Value k = trace.concat(k_nope, all_rotary, {rows, heads * c.qk_head_dim()});

  Attention op;
  op.batch = work.batch;
  op.query_length = work.query_length;
  op.context_length = work.context_length;
  op.heads = heads;
  op.kv_heads = heads;
  op.qk_head_dim = c.qk_head_dim();
  op.v_head_dim = c.v_head_dim;
  op.span = c.span;
  op.query = dtype;
  op.cache = dtype;  // reads the expanded keys and values, not the cache
  op.scale = c.scale;
  return trace.emit(op, {q, k, v}, {work.tokens(), heads * c.v_head_dim}, dtype);
}

bool MultiheadLatentAttention::set_cache_dtype(DType dtype) {
  cache_.dtype = dtype;
  set_attribute("kv_cache_dtype", std::string(short_name_of(dtype)));
  return true;
}

}  // namespace tcast
