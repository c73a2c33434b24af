#include "tcast/model/latent_attention.h"

#include <utility>

#include <fmt/format.h>

#include "tcast/model/requirements.h"
#include "tcast/model/sharding.h"

namespace tcast {

LatentAttention::LatentAttention(std::string class_name, LatentAttentionConfig config,
                                 MlaFieldNames names)
    : ModulePart(std::move(class_name)), config_{std::move(config), std::move(names), 1} {
  config_.local_heads = config_.num_heads;
}

LatentAttention::LatentAttention(std::string class_name, LatentAttention& original)
    : ModulePart(std::move(class_name)), config_(original.config_) {
  take_over(original);
}

void LatentAttention::list_attributes(std::vector<Attribute>& list) const {
  const MlaFieldNames& names = config_.names;
  list.push_back({names.num_heads, config_.num_heads});
  if (config_.q_lora_rank > 0) list.push_back({names.q_lora_rank, config_.q_lora_rank});
  list.push_back({names.kv_lora_rank, config_.kv_lora_rank});
  list.push_back({names.qk_nope_head_dim, config_.qk_nope_head_dim});
  list.push_back({names.qk_rope_head_dim, config_.qk_rope_head_dim});
  list.push_back({names.v_head_dim, config_.v_head_dim});
  list.push_back({"scaling", config_.scale});
  list.push_back({"rope_interleave", config_.rotary_interleaved});
  if (config_.rotary_set != "default") list.push_back({"rotary_set", config_.rotary_set});
  if (config_.span.window > 0) list.push_back({"sliding_window", config_.span.window});
  AttentionModule::list_attributes(list);
}

std::string LatentAttention::projections_fault() const {
  const Config& c = config_;
  const std::string& from_latent = c.q_lora_rank > 0 ? c.names.q_b_proj : c.names.q_proj;
  Requirements needs(*this);
  for (const std::string& name :
       {from_latent, c.names.kv_a_proj_with_mqa, c.names.kv_a_layernorm, c.names.o_proj}) {
    needs.child(name);
  }
  needs.child_of_class<Linear>(c.names.kv_b_proj)
      .outputs_if_linear(from_latent, c.num_heads * c.qk_head_dim())
      .outputs_if_linear(c.names.kv_a_proj_with_mqa, c.kv_lora_rank + c.qk_rope_head_dim)
      .norm_if_any(c.names.kv_a_layernorm, c.kv_lora_rank)
      .inputs_if_linear(c.names.kv_b_proj, c.kv_lora_rank)
      .outputs_if_linear(c.names.kv_b_proj, c.num_heads * (c.qk_nope_head_dim + c.v_head_dim))
      .inputs_if_linear(c.names.o_proj, c.num_heads * c.v_head_dim);
  if (c.q_lora_rank > 0) {
    needs.child(c.names.q_a_proj)
        .child(c.names.q_a_layernorm)
        .outputs_if_linear(c.names.q_a_proj, c.q_lora_rank)
        .norm_if_any(c.names.q_a_layernorm, c.q_lora_rank)
        .inputs_if_linear(c.names.q_b_proj, c.q_lora_rank);
  }
  return needs.fault();
}

void LatentAttention::shard(const Layout& layout, ShardReport& report) {
  const RankGroup group = layout.group(ParallelAxis::tp);
  if (group.size == 1) return;
  config_.local_heads = divided_heads(config_.num_heads, group, report.path(), "attention heads");
  auto linear = [this](const std::string& name) -> Linear& { return child_as<Linear>(name); };
  linear(config_.q_lora_rank > 0 ? config_.names.q_b_proj : config_.names.q_proj)
      .shard_columns(group);
  linear(config_.names.kv_b_proj).shard_columns(group);
  linear(config_.names.o_proj).shard_rows(group);
  linear(config_.names.kv_a_proj_with_mqa).parameters()[0].whole_because =
      "every head needs the latent";
  if (config_.q_lora_rank > 0) {
    linear(config_.names.q_a_proj).parameters()[0].whole_because =
        "every head needs the compressed query";
  }
  report.cut(fmt::format("heads over tp {}", group.size));
}

Value LatentAttention::project_query(Trace& trace, Value hidden) const {
  if (config_.q_lora_rank == 0) return call(trace, config_.names.q_proj, hidden);
  const Value compressed = call(trace, config_.names.q_a_proj, hidden);
  return call(trace, config_.names.q_b_proj, call(trace, config_.names.q_a_layernorm, compressed));
}

LatentAttention::Latent LatentAttention::project_latent(Trace& trace, Value hidden) const {
  const std::int64_t tokens = trace.workload().tokens();
  const Value both = call(trace, config_.names.kv_a_proj_with_mqa, hidden);
  const std::int64_t rank = config_.kv_lora_rank;
  const std::int64_t width = rank + config_.qk_rope_head_dim;
  Latent result;
  const Value latent = trace.columns(both, width, 0, rank, {tokens, rank});
  result.rotary_k = trace.columns(both, width, rank, config_.qk_rope_head_dim,
                                  {tokens, config_.qk_rope_head_dim});
  result.latent = call(trace, config_.names.kv_a_layernorm, latent);
  return result;
}

RotaryPart LatentAttention::rotary_part(std::int64_t offset) const {
  return {config_.qk_rope_head_dim, offset, config_.rotary_interleaved, config_.rotary_set};
}

LatentAttention::KeysAndValues LatentAttention::expand_latent(Trace& trace, Value latent,
                                                              Value rotary_k,
                                                              std::int64_t rows) const {
  const LatentAttentionConfig& c = config_;
  const std::int64_t heads = config_.local_heads;
  const std::int64_t width = c.qk_nope_head_dim + c.v_head_dim;
  const Value kv = call(trace, config_.names.kv_b_proj, latent);
  const Value k_nope =
      trace.columns(kv, width, 0, c.qk_nope_head_dim, {rows, heads * c.qk_nope_head_dim});
  KeysAndValues result;
  result.v =
      trace.columns(kv, width, c.qk_nope_head_dim, c.v_head_dim, {rows, heads * c.v_head_dim});
  // The one rotary key is repeated for every head.
  result.k = trace.join_columns(k_nope, c.qk_nope_head_dim, rotary_k, c.qk_rope_head_dim, heads,
                                {rows, heads * c.qk_head_dim()});
  return result;
}

LatentAttention::Expanded LatentAttention::expand(Trace& trace, Value hidden, bool fused) const {
  const LatentAttentionConfig& c = config_;
  auto rotate = [&](Value x, std::int64_t heads, std::int64_t head_dim, const RotaryPart& part) {
    return fused ? fused_rotary(trace, x, heads, head_dim, part)
                 : eager_rotary(trace, x, heads, head_dim, part);
  };
  Expanded result;
  result.q = rotate(project_query(trace, hidden), config_.local_heads, c.qk_head_dim(),
                    rotary_part(c.qk_nope_head_dim));
  const Latent latent = project_latent(trace, hidden);
  const Value rotary_k = rotate(latent.rotary_k, 1, c.qk_rope_head_dim, rotary_part(0));
  const KeysAndValues kv = expand_latent(trace, latent.latent, rotary_k, trace.workload().tokens());
  result.k = kv.k;
  result.v = kv.v;
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
  shape.span = config().span;
  shape.scale = config().scale;
  return call(trace, names().o_proj, eager_attention(trace, e.q, e.k, e.v, shape));
}

std::unique_ptr<Module> EagerLatentAttention::make_paged(const CacheOptions& options) {
  return std::make_unique<PagedExpandedAttention>(*this, options);
}

// --- expanded keys and values in a paged cache ---------------------------------------------------

PagedExpandedAttention::PagedExpandedAttention(LatentAttention& original,
                                               const CacheOptions& options)
    : ModuleOf("PagedExpandedAttention", original) {
  set_cache(options);
}

Value PagedExpandedAttention::forward(Trace& trace, Value hidden) const {
  const LatentAttentionConfig& c = config();
  const std::int64_t heads = local_heads();
  const Expanded e = expand(trace, hidden, true);
  const CacheSpec spec = cache_spec(heads, c.qk_head_dim(), c.v_head_dim, c.span, cache_options());
  const Value cache = append_to_cache(trace, {e.k, e.v}, spec);
  Attention op = paged_attention(trace.workload(), spec, heads, trace.dtype(e.q));
  op.scale = c.scale;
  const Value out =
      trace.emit(op, {e.q, cache}, {trace.workload().tokens(), heads * c.v_head_dim}, op.query);
  return call(trace, names().o_proj, out);
}

// --- latent cache --------------------------------------------------------------------------------

MultiheadLatentAttention::MultiheadLatentAttention(LatentAttention& original,
                                                   const CacheOptions& options)
    : ModuleOf("MultiheadLatentAttention", original) {
  set_cache(options);
}

Value MultiheadLatentAttention::forward(Trace& trace, Value hidden) const {
  const LatentAttentionConfig& c = config();
  const Value q = fused_rotary(trace, project_query(trace, hidden), local_heads(), c.qk_head_dim(),
                               rotary_part(c.qk_nope_head_dim));
  const Latent latent = project_latent(trace, hidden);
  const Value rotary_k =
      fused_rotary(trace, latent.rotary_k, 1, c.qk_rope_head_dim, rotary_part(0));
  const CacheSpec spec =
      cache_spec(1, c.kv_lora_rank + c.qk_rope_head_dim, 0, c.span, cache_options());
  const Value cache = append_to_cache(trace, {latent.latent, rotary_k}, spec);
  const Value out = trace.workload().phase == Phase::decode
                        ? attend_absorbed(trace, q, cache, spec)
                        : attend_expanded(trace, q, latent.latent, rotary_k, cache);
  return call(trace, names().o_proj, out);
}

Value MultiheadLatentAttention::attend_absorbed(Trace& trace, Value q, Value cache,
                                                const CacheSpec& spec) const {
  const LatentAttentionConfig& c = config();
  const std::int64_t tokens = trace.workload().tokens();
  const std::int64_t heads = local_heads();
  const DType dtype = trace.dtype(q);
  const auto& kv_b = child_as<Linear>(names().kv_b_proj);

  // q_latent[h] = q_nope[h] W_UK[h] and out[h] = context[h] W_UV[h]^T: the halves of kv_b_proj,
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
  absorb.weight_transposed = true;
  const std::int64_t both = c.qk_nope_head_dim + c.v_head_dim;
  absorb.weight_batch_stride = both * c.kv_lora_rank;
  if (kv_b.quantization()) absorb.weight_scales = kv_b.quantization()->scales;
  const Value weight = trace.parameter(kv_b.weight());
  Operands absorb_operands{q, weight};
  Operands project_operands{q, weight};
  for (const Parameter& parameter : kv_b.parameters()) {
    if (!parameter.is_quantization_part()) continue;
    const Value part = trace.parameter(parameter);
    absorb_operands.push(part);
    project_operands.push(part);
  }
  // Heads lie side by side in the rows of tokens, and stay so.
  absorb.x_row_stride = heads * c.qk_head_dim();
  absorb.x_batch_stride = c.qk_head_dim();
  absorb.y_row_stride = heads * c.kv_lora_rank;
  absorb.y_batch_stride = c.kv_lora_rank;
  const Value q_latent =
      trace.emit(absorb, absorb_operands, {tokens, heads * c.kv_lora_rank}, dtype);
  const std::int64_t row = c.kv_lora_rank + c.qk_rope_head_dim;
  std::array<CopyPart, 2> parts;
  parts[0].sizes = {1, 1, tokens * heads};
  parts[0].run = c.kv_lora_rank;
  parts[0].source_strides = {0, 0, c.kv_lora_rank};
  parts[0].target_strides = {0, 0, row};
  parts[1] = parts[0];
  parts[1].run = c.qk_rope_head_dim;
  parts[1].source_offset = c.qk_nope_head_dim;
  parts[1].source_strides = {0, 0, c.qk_head_dim()};
  parts[1].target_offset = c.kv_lora_rank;
  const Value q_row =
      trace.rearrange(CopyKind::concat, {q_latent, q}, parts, {tokens, heads * row});

  Attention op = paged_attention(trace.workload(), spec, heads, dtype);
  op.v_head_dim = c.kv_lora_rank;
  op.value_in_key = true;
  op.scale = c.scale;
  const Value context = trace.emit(op, {q_row, cache}, {tokens, heads * c.kv_lora_rank}, dtype);

  MatMul project = absorb;
  project.n = c.v_head_dim;
  project.k = c.kv_lora_rank;
  project.weight_transposed = false;
  project.weight_offset = c.qk_nope_head_dim * c.kv_lora_rank;
  project.x_row_stride = heads * c.kv_lora_rank;
  project.x_batch_stride = c.kv_lora_rank;
  project.y_row_stride = heads * c.v_head_dim;
  project.y_batch_stride = c.v_head_dim;
  project_operands[0] = context;
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
  if (work.context_length > 0) {
    CacheRead read;
    read.batch = work.batch;
    read.tokens = work.sequence_length();
    read.head_dim = c.kv_lora_rank + c.qk_rope_head_dim;
    read.cache = cache_options().dtype;
    read.output = dtype;
    const Value both = trace.emit(read, {cache}, {rows, read.head_dim}, dtype);
    latent = trace.columns(both, read.head_dim, 0, c.kv_lora_rank, {rows, c.kv_lora_rank});
    rotary_k = trace.columns(both, read.head_dim, c.kv_lora_rank, c.qk_rope_head_dim,
                             {rows, c.qk_rope_head_dim});
  }
  const KeysAndValues kv = expand_latent(trace, latent, rotary_k, rows);
  const CacheSpec spec = cache_spec(heads, c.qk_head_dim(), c.v_head_dim, c.span, {dtype, 1});
  Attention op = paged_attention(work, spec, heads, dtype);
  op.paged = false;
  op.scale = c.scale;
  return trace.emit(op, {q, kv.k, kv.v}, {work.tokens(), heads * c.v_head_dim}, dtype);
}

}  // namespace tcast
