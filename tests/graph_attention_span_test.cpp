#include <cstdint>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/graph/attention_span.h"

namespace tcast {
namespace {

/// The definition in the header, word by word.
bool sees(const AttentionSpan& span, std::int64_t query, std::int64_t key) {
  if (!span.causal) return true;
  if (key > query) return false;
  if (span.window > 0 && query - key >= span.window) return false;
  return span.chunk <= 0 || key / span.chunk == query / span.chunk;
}

TEST_CASE("attention spans equal a count over every query and key") {
  int checked = 0;
  for (const bool causal : {true, false}) {
    for (std::int64_t window = 0; window <= 9; ++window) {
      for (std::int64_t chunk = 0; chunk <= 7; ++chunk) {
        const AttentionSpan span{.causal = causal, .window = window, .chunk = chunk};
        for (std::int64_t context = 0; context <= 17; ++context) {
          for (std::int64_t query = 0; query <= 19; ++query) {
            std::int64_t pairs = 0;
            std::int64_t keys = 0;
            for (std::int64_t k = 0; k < context + query; ++k) {
              bool used = false;
              for (std::int64_t q = context; q < context + query; ++q) {
                if (!sees(span, q, k)) continue;
                ++pairs;
                used = true;
              }
              if (used) ++keys;
            }
            CAPTURE(causal);
            CAPTURE(window);
            CAPTURE(chunk);
            CAPTURE(context);
            CAPTURE(query);
            REQUIRE(attended_pairs(span, query, context) == static_cast<double>(pairs));
            REQUIRE(attended_keys(span, query, context) == keys);
            ++checked;
          }
        }
      }
    }
  }
  CHECK(checked == 2 * 10 * 8 * 18 * 20);
}

TEST_CASE("a cache keeps as many tokens as any query of the sequence looks at") {
  for (const bool causal : {true, false}) {
    for (std::int64_t window = 0; window <= 9; ++window) {
      for (std::int64_t chunk = 0; chunk <= 7; ++chunk) {
        const AttentionSpan span{.causal = causal, .window = window, .chunk = chunk};
        for (std::int64_t length = 0; length <= 21; ++length) {
          std::int64_t most = 0;
          for (std::int64_t q = 0; q < length; ++q) {
            std::int64_t seen = 0;
            for (std::int64_t k = 0; k < length; ++k) seen += sees(span, q, k) ? 1 : 0;
            most = std::max(most, seen);
          }
          REQUIRE(kept_tokens(span, length) == most);
        }
      }
    }
  }
}

TEST_CASE("huge spans stay exact and finite") {
  const std::int64_t million = 1'000'000;
  CHECK(attended_pairs({}, million, 0) == 500'000'500'000.0);
  CHECK(attended_pairs({}, 1, 1'000'000'000'000) == 1'000'000'000'001.0);
  CHECK(attended_pairs({.window = million}, 1, 1'000'000'000'000) == 1e6);
  CHECK(attended_pairs({.window = 4096}, 1'000'000'000'000'000, 0) ==
        doctest::Approx(4096e15).epsilon(1e-9));
  CHECK(attended_keys({.window = 4096}, 1, 1'000'000'000'000) == 4096);
  CHECK(kept_tokens({.chunk = 8192}, 1'000'000'000'000) == 8192);
}

}  // namespace
}  // namespace tcast
