#include "tcast/graph/attention_span.h"

#include <algorithm>
#include <limits>

namespace tcast {
namespace {

/// The window as a number of keys; "no window" is one that no request can fill.
std::int64_t window_of(const AttentionSpan& span) {
  return span.window > 0 ? span.window : std::numeric_limits<std::int64_t>::max();
}

/// Sum of min(i + 1, window) for i = first .. first + count - 1: a rising part, an arithmetic
/// series, then a level one. Only positive terms, so that nothing cancels in large contexts.
double rising_sum(std::int64_t first, std::int64_t count, std::int64_t window) {
  const std::int64_t rising = std::clamp<std::int64_t>(window - first, 0, count);
  const double ends = static_cast<double>(first + 1) + static_cast<double>(first + rising);
  const double level = static_cast<double>(count - rising) * static_cast<double>(window);
  return static_cast<double>(rising) * ends / 2 + (count > rising ? level : 0);
}

}  // namespace

double attended_pairs(const AttentionSpan& span, std::int64_t query_length,
                      std::int64_t context_length) {
  if (query_length <= 0) return 0;
  if (!span.causal) {
    return static_cast<double>(query_length) * static_cast<double>(context_length + query_length);
  }
  const std::int64_t window = window_of(span);
  if (span.chunk <= 0) return rising_sum(context_length, query_length, window);
  // The rest of a chunk that has begun, whole chunks, the beginning of the last one.
  const std::int64_t first = context_length % span.chunk;
  const std::int64_t head = std::min(query_length, span.chunk - first);
  const std::int64_t whole = (query_length - head) / span.chunk;
  const std::int64_t tail = (query_length - head) % span.chunk;
  return rising_sum(first, head, window) +
         static_cast<double>(whole) * rising_sum(0, span.chunk, window) +
         rising_sum(0, tail, window);
}

std::int64_t attended_keys(const AttentionSpan& span, std::int64_t query_length,
                           std::int64_t context_length) {
  if (query_length <= 0) return 0;
  const std::int64_t end = context_length + query_length;
  if (!span.causal) return end;
  // Every query sees itself, and no later query reaches further back than the first one: the keys
  // are one run from what the first query sees to the last query.
  std::int64_t first = 0;
  if (span.window > 0) first = std::max<std::int64_t>(first, context_length - span.window + 1);
  if (span.chunk > 0) first = std::max(first, context_length - context_length % span.chunk);
  return end - first;
}

std::int64_t kept_tokens(const AttentionSpan& span, std::int64_t sequence_length) {
  std::int64_t kept = sequence_length;
  if (span.causal && span.window > 0) kept = std::min(kept, span.window);
  if (span.causal && span.chunk > 0) kept = std::min(kept, span.chunk);
  return kept;
}

}  // namespace tcast
