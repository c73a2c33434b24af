#include "tcast/model/attention.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/model/requirements.h"
#include "tcast/model/sharding.h"

namespace tcast {

std::int64_t divided_heads(std::int64_t heads, RankGroup group, const std::string& path,
                           const char* what) {
  if (heads % group.size != 0) {
    refuse_layout(
        fmt::format("{}: {} {} cannot be divided over tp {}", path, heads, what, group.size),
        fmt::format("choose --tp so that it divides {}", heads));
  }
  return heads / group.size;
}

Value eager_rotary(Trace& trace, Value x, std::int64_t heads, std::int64_t head_dim,
                   const RotaryPart& part) {
  const std::int64_t dim = part.dim;
  if (dim == 0) return x;
  TCAST_CHECK(part.offset == 0 || part.offset + dim == head_dim,
              "the rotated part lies at one end of the head");
  const RotaryValues rotary = trace.rotary(part.set);
  const std::int64_t tokens = trace.shape(x).elements() / (heads * head_dim);
  const std::int64_t rows = tokens * heads;
  const std::int64_t half = dim / 2;
  const Shape rotated_shape{tokens, heads, dim};
  Value rotated = dim < head_dim ? trace.columns(x, head_dim, part.offset, dim, rotated_shape)
                                 : trace.view(x, rotated_shape);
  if (part.interleaved) rotated = trace.swap(rotated, rows, half, 2, 1, rotated_shape);
  const Value cos = trace.view(rotary.cos, {tokens, 1, dim});
  const Value sin = trace.view(rotary.sin, {tokens, 1, dim});
  const Value direct = trace.binary(ElementwiseKind::multiply, rotated, cos);
  // rotate_half: the second halves negated, then the first ones.
  const Value second = trace.columns(rotated, dim, half, half, {tokens, heads, half});
  const Value negated = trace.unary(ElementwiseKind::negate, second);
  std::array<CopyPart, 2> halves;
  halves[0].sizes = {1, 1, rows};
  halves[0].run = half;
  halves[0].source_strides = {0, 0, half};
  halves[0].target_strides = {0, 0, dim};
  halves[1] = halves[0];
  halves[1].source_strides = {0, 0, dim};
  halves[1].target_offset = half;
  const Value turned = trace.rearrange(CopyKind::concat, {negated, rotated}, halves, rotated_shape);
  const Value sum = trace.add(direct, trace.binary(ElementwiseKind::multiply, turned, sin));
  const Shape result{tokens, heads * head_dim};
  if (dim == head_dim) return trace.view(sum, result);
  // The rest of each head as it was.
  const std::int64_t rest_offset = part.offset == 0 ? dim : 0;
  std::array<CopyPart, 2> parts;
  parts[0].sizes = {1, 1, rows};
  parts[0].run = dim;
  parts[0].source_strides = {0, 0, dim};
  parts[0].target_offset = part.offset;
  parts[0].target_strides = {0, 0, head_dim};
  parts[1] = parts[0];
  parts[1].run = head_dim - dim;
  parts[1].source_offset = rest_offset;
  parts[1].source_strides = {0, 0, head_dim};
  parts[1].target_offset = rest_offset;
  return trace.rearrange(CopyKind::concat, {sum, x}, parts, result);
}

Value fused_rotary(Trace& trace, Value x, std::int64_t heads, std::int64_t head_dim,
                   const RotaryPart& part) {
  if (part.dim == 0) return x;
  const RotaryValues rotary = trace.rotary(part.set);
  Rotary op;
  op.tokens = trace.shape(x).elements() / (heads * head_dim);
  op.heads = heads;
  op.head_dim = head_dim;
  op.rotary_dim = part.dim;
  op.rotary_offset = part.offset;
  op.interleaved = part.interleaved;
  op.dtype = trace.dtype(x);
  return trace.emit(op, {x, rotary.cos, rotary.sin}, trace.shape(x), op.dtype);
}

CacheSpec cache_spec(std::int64_t kv_heads, std::int64_t key_dim, std::int64_t value_dim,
                     const AttentionSpan& span, const CacheOptions& options) {
  CacheSpec spec;
  spec.elements_per_token = kv_heads * (key_dim + value_dim);
  spec.kv_heads = kv_heads;
  spec.key_dim = key_dim;
  spec.dtype = options.dtype;
  spec.span = span;
  spec.block_size = options.block_size;
  return spec;
}

Value append_to_cache(Trace& trace, const Operands& pieces, const CacheSpec& spec) {
  const Value cache = trace.cache(spec);
  CacheAppend append;
  append.tokens = trace.workload().tokens();
  append.width = spec.elements_per_token;
  append.input = trace.dtype(pieces[0]);
  append.cache = spec.dtype;
  Operands operands = pieces;
  operands.push(cache);
  trace.emit_in_place(append, operands);
  return cache;
}

Attention paged_attention(const Workload& workload, const CacheSpec& spec, std::int64_t heads,
                          DType query) {
  Attention op;
  op.batch = workload.batch;
  op.query_length = workload.query_length;
  op.context_length = workload.context_length;
  op.heads = heads;
  op.kv_heads = spec.kv_heads;
  op.qk_head_dim = spec.key_dim;
  op.v_head_dim = spec.elements_per_token / spec.kv_heads - spec.key_dim;
  op.span = spec.span;
  op.query = query;
  op.cache = spec.dtype;
  return op;
}

Value eager_attention(Trace& trace, Value q, Value k, Value v, const EagerShape& s) {
  const Workload& work = trace.workload();
  const std::int64_t batch = work.batch;
  const std::int64_t query = work.query_length;
  const std::int64_t keys = work.sequence_length();
  const DType dtype = trace.dtype(q);

  // A dynamic cache: all keys and values are copied into a longer tensor at every step, and every
  // token is kept, whatever the window.
  const CacheOptions options{dtype, 1};
  const Value cache =
      append_to_cache(trace, {k, v}, cache_spec(s.kv_heads, s.qk_dim, s.v_dim, {}, options));
  CacheRead read;
  read.batch = batch;
  read.tokens = keys;
  read.kv_heads = s.kv_heads;
  read.head_dim = s.qk_dim;
  read.cache = dtype;
  read.output = dtype;
  k = trace.emit(read, {cache}, {batch, s.kv_heads, keys, s.qk_dim}, dtype);
  read.values = true;
  read.head_dim = s.v_dim;
  v = trace.emit(read, {cache}, {batch, s.kv_heads, keys, s.v_dim}, dtype);
  if (s.heads != s.kv_heads) {
    const std::int64_t group = s.heads / s.kv_heads;
    const std::int64_t outer = batch * s.kv_heads;
    k = trace.repeat_inner(k, outer, group, keys * s.qk_dim, {batch, s.heads, keys, s.qk_dim});
    v = trace.repeat_inner(v, outer, group, keys * s.v_dim, {batch, s.heads, keys, s.v_dim});
  }
  q = trace.swap(q, batch, query, s.heads, s.qk_dim, {batch, s.heads, query, s.qk_dim});
  Value scores = trace.batch_matmul(q, k, batch * s.heads, query, keys, s.qk_dim);
  scores = softcapped(trace, trace.unary(ElementwiseKind::scale, scores, s.scale), s.softcap);
  const Value mask = trace.input("attention mask", {query, keys}, dtype, s.span);
  scores = trace.binary(ElementwiseKind::mask_add, scores, mask);
  const std::int64_t rows = batch * s.heads * query;
  const Value weights = s.sinks
                            ? trace.softmax_with_sinks(scores, *s.sinks, rows, keys, s.heads, query)
                            : trace.softmax(scores, rows, keys);
  const Value out =
      trace.batch_matmul(weights, v, batch * s.heads, query, s.v_dim, keys, /*transposed=*/true);
  return trace.swap(out, batch, s.heads, query, s.v_dim, {batch * query, s.heads * s.v_dim});
}

// --- what all forms have -------------------------------------------------------------------------

bool AttentionModule::set_cache_dtype(DType dtype) {
  if (!config_.cache) return false;
  config_.cache->dtype = dtype;
  config_.cache_quantized = true;
  return true;
}

std::optional<DType> AttentionModule::quantized_cache() const {
  if (!config_.cache || !config_.cache_quantized) return std::nullopt;
  return config_.cache->dtype;
}

const CacheOptions& AttentionModule::cache_options() const {
  if (!config_.cache) {
    throw Error(fmt::format("{} '{}' keeps no paged cache", class_name(), name()),
                "call set_cache() in its constructor");
  }
  return *config_.cache;
}

void AttentionModule::list_attributes(std::vector<Attribute>& list) const {
  const std::optional<DType> dtype = quantized_cache();
  if (dtype) list.push_back({"kv_cache_dtype", std::string(short_name_of(*dtype))});
}

// --- grouped-query attention ---------------------------------------------------------------------

GroupedQueryAttention::GroupedQueryAttention(std::string class_name, AttentionConfig config,
                                             AttentionNames names)
    : ModulePart(std::move(class_name)), config_{std::move(config), std::move(names), 1, 1} {
  config_.local_heads = config_.num_heads;
  config_.local_kv_heads = config_.num_kv_heads;
}

GroupedQueryAttention::GroupedQueryAttention(std::string class_name,
                                             GroupedQueryAttention& original)
    : ModulePart(std::move(class_name)), config_(original.config_) {
  take_over(original);
}

void GroupedQueryAttention::list_attributes(std::vector<Attribute>& list) const {
  list.push_back({"num_heads", config_.num_heads});
  list.push_back({"num_kv_heads", config_.num_kv_heads});
  list.push_back({"head_dim", config_.head_dim});
  list.push_back({"scaling", config_.scale});
  if (config_.rotary_dim != config_.head_dim) list.push_back({"rotary_dim", config_.rotary_dim});
  if (config_.rotary_interleaved) list.push_back({"rope_interleave", true});
  if (config_.rotary_set != "default") list.push_back({"rotary_set", config_.rotary_set});
  if (config_.span.window > 0) list.push_back({"sliding_window", config_.span.window});
  if (config_.span.chunk > 0) list.push_back({"attention_chunk_size", config_.span.chunk});
  if (config_.softcap > 0) list.push_back({"softcap", config_.softcap});
  if (config_.clip_qkv > 0) list.push_back({"clip_qkv", config_.clip_qkv});
  AttentionModule::list_attributes(list);
}

std::string GroupedQueryAttention::projections_fault() const {
  const AttentionNames& names = config_.names;
  const std::int64_t q_width = config_.num_heads * config_.head_dim;
  const std::int64_t kv_width = config_.num_kv_heads * config_.head_dim;
  Requirements needs(*this);
  for (const std::string& name : {names.qkv, names.o_proj}) needs.child(name);
  if (names.qkv.empty()) {
    for (const std::string& name : {names.q_proj, names.k_proj, names.v_proj}) needs.child(name);
    needs.outputs_if_linear(names.q_proj, q_width)
        .outputs_if_linear(names.k_proj, kv_width)
        .outputs_if_linear(names.v_proj, kv_width);
  } else {
    needs.outputs_if_linear(names.qkv, q_width + 2 * kv_width);
  }
  needs.inputs_if_linear(names.o_proj, q_width).parameter_if_any("sinks", {config_.num_heads});
  for (const auto& [name, width] :
       {std::pair{names.q_norm, q_width}, std::pair{names.k_norm, kv_width}}) {
    const auto* const norm = dynamic_cast<const Normalization*>(find_child(name));
    if (norm == nullptr || norm->width() == config_.head_dim) continue;
    needs.norm_if_any(name, width);
  }
  return needs.fault();
}

GroupedQueryAttention::Projected GroupedQueryAttention::project(Trace& trace, Value hidden) const {
  if (const auto* rotary = dynamic_cast<const RotaryEmbedding*>(find_child("rotary_emb"))) {
    rotary->provide(trace, trace.input("positions", {trace.workload().tokens()}, DType::i64));
  }
  Projected result;
  const std::int64_t q_width = config_.local_heads * config_.head_dim;
  const std::int64_t kv_width = config_.local_kv_heads * config_.head_dim;
  if (!config_.names.qkv.empty()) {
    const Value qkv = call(trace, config_.names.qkv, hidden);
    const std::int64_t tokens = trace.workload().tokens();
    const std::int64_t width = q_width + 2 * kv_width;
    result.q = trace.columns(qkv, width, 0, q_width, {tokens, q_width});
    result.k = trace.columns(qkv, width, q_width, kv_width, {tokens, kv_width});
    result.v = trace.columns(qkv, width, q_width + kv_width, kv_width, {tokens, kv_width});
  } else {
    result.q = call(trace, config_.names.q_proj, hidden);
    result.k = call(trace, config_.names.k_proj, hidden);
    result.v = call(trace, config_.names.v_proj, hidden);
  }
  if (find_child(config_.names.q_norm) != nullptr)
    result.q = call(trace, config_.names.q_norm, result.q);
  if (find_child(config_.names.k_norm) != nullptr)
    result.k = call(trace, config_.names.k_norm, result.k);
  if (config_.clip_qkv > 0) {
    for (Value* value : {&result.q, &result.k, &result.v}) {
      *value = trace.unary(ElementwiseKind::clamp, *value, config_.clip_qkv);
    }
  }
  return result;
}

std::optional<Value> GroupedQueryAttention::sinks(Trace& trace) const {
  const Parameter* sinks = find_parameter("sinks");
  if (sinks == nullptr) return std::nullopt;
  return trace.parameter(*sinks);
}

RotaryPart GroupedQueryAttention::rotary_part() const {
  return {config_.rotary_dim, 0, config_.rotary_interleaved, config_.rotary_set};
}

void GroupedQueryAttention::shard(const Layout& layout, ShardReport& report) {
  const RankGroup group = layout.group(ParallelAxis::tp);
  if (group.size == 1) return;
  const std::string path = report.path();
  config_.local_heads = divided_heads(config_.num_heads, group, path, "attention heads");
  const std::int64_t kv_heads = config_.num_kv_heads;
  if (kv_heads % group.size != 0 && group.size % kv_heads != 0) {
    refuse_layout(
        fmt::format("{}: {} key/value heads can neither be divided over tp {} nor replicated", path,
                    kv_heads, group.size),
        fmt::format("choose --tp so that it divides {} or is a multiple of it", kv_heads));
  }
  const std::int64_t kv_parts = std::min(group.size, kv_heads);
  config_.local_kv_heads = kv_heads / kv_parts;
  const std::int64_t q_rows = config_.num_heads * config_.head_dim;
  const std::int64_t kv_rows = kv_heads * config_.head_dim;
  auto linear = [this](const std::string& name) -> Linear& { return child_as<Linear>(name); };
  if (!config_.names.qkv.empty()) {
    linear(config_.names.qkv)
        .shard_columns(group, {{q_rows, group.size}, {kv_rows, kv_parts}, {kv_rows, kv_parts}});
  } else {
    linear(config_.names.q_proj).shard_columns(group);
    linear(config_.names.k_proj).shard_columns(group, {{kv_rows, kv_parts}});
    linear(config_.names.v_proj).shard_columns(group, {{kv_rows, kv_parts}});
  }
  linear(config_.names.o_proj).shard_rows(group);
  // A norm of one head goes with any of them; one over all heads is cut as they are.
  auto shard_norm = [&](const std::string& name, std::int64_t rows, std::int64_t parts) {
    auto* norm = dynamic_cast<Normalization*>(find_child(name));
    if (norm == nullptr || norm->parameters()[0].shape[0] != rows || rows == config_.head_dim) {
      return;
    }
    norm->shard_width(group, {{rows, parts}});
  };
  shard_norm(config_.names.q_norm, q_rows, group.size);
  shard_norm(config_.names.k_norm, kv_rows, kv_parts);
  if (Parameter* sinks = find_parameter("sinks")) {
    sinks->shard = {0, group.size, group.stride, {{config_.num_heads, group.size}}};
  }
  report.cut(fmt::format("heads over tp {}", group.size));
}

// --- eager ---------------------------------------------------------------------------------------

Value EagerAttention::forward(Trace& trace, Value hidden) const {
  Projected p = project(trace, hidden);
  const AttentionConfig& c = config();
  p.q = eager_rotary(trace, p.q, local_heads(), c.head_dim, rotary_part());
  p.k = eager_rotary(trace, p.k, local_kv_heads(), c.head_dim, rotary_part());
  EagerShape shape;
  shape.heads = local_heads();
  shape.kv_heads = local_kv_heads();
  shape.qk_dim = c.head_dim;
  shape.v_dim = c.head_dim;
  shape.span = c.span;
  shape.scale = c.scale;
  shape.softcap = c.softcap;
  shape.sinks = sinks(trace);
  return call(trace, names().o_proj, eager_attention(trace, p.q, p.k, p.v, shape));
}

std::unique_ptr<Module> EagerAttention::make_paged(const CacheOptions& options) {
  return std::make_unique<PagedAttention>(*this, options);
}

// --- paged ---------------------------------------------------------------------------------------

PagedAttention::PagedAttention(GroupedQueryAttention& original, const CacheOptions& options)
    : ModuleOf("PagedAttention", original) {
  set_cache(options);
}

Value PagedAttention::forward(Trace& trace, Value hidden) const {
  const AttentionConfig& c = config();
  Projected p = project(trace, hidden);
  p.q = fused_rotary(trace, p.q, local_heads(), c.head_dim, rotary_part());
  p.k = fused_rotary(trace, p.k, local_kv_heads(), c.head_dim, rotary_part());
  const CacheSpec spec =
      cache_spec(local_kv_heads(), c.head_dim, c.head_dim, c.span, cache_options());
  const Value cache = append_to_cache(trace, {p.k, p.v}, spec);
  Attention op = paged_attention(trace.workload(), spec, local_heads(), trace.dtype(p.q));
  op.scale = c.scale;
  op.softcap = c.softcap;
  Operands operands{p.q, cache};
  if (const std::optional<Value> scores = sinks(trace)) {
    op.sinks = true;
    operands.push(*scores);
  }
  const Value out =
      trace.emit(op, operands, {trace.workload().tokens(), local_heads() * c.head_dim}, op.query);
  return call(trace, names().o_proj, out);
}

}  // namespace tcast
