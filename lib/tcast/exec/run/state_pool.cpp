#include "tcast/exec/run/state_pool.h"

#include <algorithm>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/buffer_values.h"

namespace tcast {

StatePool::StatePool(std::int64_t max_sequence_length, const HostDTypes& host, MemoryPool& memory)
    : max_sequence_length_(max_sequence_length), host_(host), memory_(memory) {}

StatePool::Key StatePool::key_of(const Graph& graph, std::size_t call, const Tensor& tensor,
                                 std::int64_t rank) {
  const Call& owner = graph.calls[call];
  // Layers are known by their number, whatever is traced before them.
  std::int64_t layer = owner.cache_member >= 0 ? owner.cache_member : owner.member;
  if (layer < 0) layer = -1 - static_cast<std::int64_t>(call);
  return {layer, tensor.index, rank};
}

CacheLayout StatePool::layout_of(const CacheSpec& spec) const {
  CacheLayout layout;
  layout.block_tokens = spec.block_size > 1 ? spec.block_size : max_sequence_length_;
  layout.kv_heads = spec.kv_heads;
  layout.qk_head_dim = spec.key_dim;
  layout.v_head_dim = spec.elements_per_token / spec.kv_heads - spec.key_dim;
  layout.dtype = substitute_dtype(spec.dtype, host_);
  return layout;
}

/// Blocks of a cache for all requests.
std::int64_t StatePool::blocks_of(const Graph& graph, const CacheLayout& layout) const {
  return checked_mul(graph.workload.batch, ceil_div(max_sequence_length_, layout.block_tokens));
}

Cache& StatePool::cache(const Graph& graph, std::size_t call, const Tensor& tensor,
                        std::int64_t rank) {
  const Region& region = graph.regions[graph.calls[call].region];
  const CacheSpec& spec = region.caches.at(static_cast<std::size_t>(tensor.index));
  Cache& cache = caches_[key_of(graph, call, tensor, rank)];
  if (cache.bytes == 0) {
    const CacheLayout& layout = cache.view.layout = layout_of(spec);
    cache.view.batch = graph.workload.batch;
    const std::int64_t blocks = blocks_of(graph, layout);
    cache.view.blocks_per_request = blocks / cache.view.batch;
    cache.bytes = blocks * layout.bytes_per_block();
    const std::span<std::byte> memory = memory_.take(cache.bytes);
    touch_pages(memory);
    cache.view.data = memory.data();
    cache.block_table.resize(static_cast<std::size_t>(blocks));
    for (std::int64_t i = 0; i < blocks; ++i) {
      cache.block_table[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
    }
    cache.view.block_table = cache.block_table;
  }
  TCAST_CHECK(cache.view.batch == graph.workload.batch &&
                  cache.view.layout.dtype == substitute_dtype(spec.dtype, host_),
              "a cache serves the same requests all the time");
  cache.view.context_length = graph.workload.context_length;
  return cache;
}

void StatePool::set_scale(Cache& cache, std::span<const Buffer> inputs) {
  float most = 0;
  for (const Buffer& input : inputs.first(inputs.size() - 1)) {
    most = std::max(most, largest_magnitude(input));
  }
  constexpr float headroom = 1.25f;
  cache.view.key_scale = cache.view.value_scale = std::max(most * headroom / 127.0f, 1e-30f);
  cache.has_scale = true;
}

float StatePool::activation_scale(const Region& region, const Op& op, std::int64_t layer,
                                  std::int64_t rank, const Buffer& x) {
  // Prefill and decode have regions of their own: what they share is the module, and which of its
  // conversions it is.
  std::int64_t place = 0;
  for (const Op& other : region.ops) {
    if (&other == &op) break;
    if (other.scope == op.scope && std::holds_alternative<Quantize>(other.record)) ++place;
  }
  float& known = scales_[{layer, path_of(region, op.scope), place, rank}];
  if (known == 0) known = largest_magnitude(x) / 127.0f;
  return known;
}

std::int64_t StatePool::foresee(const Graph& graph, std::size_t call, const Tensor& tensor,
                                std::int64_t rank) {
  const Region& region = graph.regions[graph.calls[call].region];
  const CacheLayout layout = layout_of(region.caches.at(static_cast<std::size_t>(tensor.index)));
  const std::int64_t bytes = blocks_of(graph, layout) * layout.bytes_per_block();
  foreseen_[key_of(graph, call, tensor, rank)] = bytes;
  return bytes;
}

std::int64_t StatePool::foreseen_bytes() const {
  std::int64_t total = 0;
  for (const auto& [key, bytes] : foreseen_) total += bytes;
  return total;
}

std::int64_t StatePool::held_bytes() const {
  std::int64_t total = 0;
  for (const auto& [key, cache] : caches_) total += cache.bytes;
  return total;
}

}  // namespace tcast
