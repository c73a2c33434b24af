#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/threads.h"

// Attention over a paged cache in blocks (FlashAttention, Dao et al. 2022, arXiv 2205.14135): for a
// block of query rows, all of which share one K/V head, keys are visited in blocks; scores, their
// exponentials and the sums over values stay in cache. Rows of a block are (token, head of the
// group) pairs, so that grouped and multi-query attention read each key once. Keys and values are
// rearranged on the way in, into the operand layout of the matrix instructions and from whatever
// the cache stores. With fewer blocks of rows than threads (decoding), the keys are split as well
// and the parts are merged afterwards (Flash-Decoding, Dao et al. 2023).

namespace tcast {
namespace {

constexpr int key_block = 128;
constexpr std::int64_t most_rows = 256;

struct KeyRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Keys that the query at `position` sees, of `total`.
KeyRange visible(const AttentionSpan& span, std::int64_t position, std::int64_t total) {
  if (!span.causal) return {0, total};
  KeyRange range{0, position + 1};
  if (span.window > 0) range.begin = std::max(range.begin, position - span.window + 1);
  if (span.chunk > 0) range.begin = std::max(range.begin, position / span.chunk * span.chunk);
  return range;
}

/// Rows of any element type as the 32-bit words that transpose16 moves.
const std::uint32_t* words_of(const void* row) { return static_cast<const std::uint32_t*>(row); }

/// A block of query rows of one request and one K/V head, and the part of its keys to look at.
struct Item {
  std::int64_t request = 0;
  std::int64_t kv_head = 0;
  std::int64_t first_token = 0;
  std::int64_t tokens = 0;
  std::int64_t part = 0;
};

template <class T>
class AttentionKernel final : public Kernel {
 public:
  AttentionKernel(const Attention& op, const KernelContext& context)
      : op_(op),
        functions_(vector_functions(context.isa)),
        group_(op.heads / op.kv_heads),
        key_width_(round_up(op.qk_head_dim, 32)),
        value_width_(round_up(op.v_head_dim, 32)),
        key_bytes_(bytes_of(op.qk_head_dim, op.cache)),
        value_bytes_(bytes_of(op.v_head_dim, op.cache)),
        total_(op.context_length + op.query_length) {
    implementation_ = own_implementation(context);
    tokens_per_block_ =
        std::clamp<std::int64_t>(most_rows / group_, 1, std::max<std::int64_t>(1, op.query_length));
    rows_ = tokens_per_block_ * group_;
    blocks_ = ceil_div(op.query_length, tokens_per_block_);
    const std::int64_t items = checked_mul(checked_mul(op.batch, op.kv_heads), blocks_);
    const std::int64_t keys = attended_keys(op.span, op.query_length, op.context_length);
    threads_ = current_threads();
    // Enough parts to keep all threads busy, but each of at least four blocks of keys.
    parts_ = std::clamp<std::int64_t>(
        threads_ / items, 1, std::max<std::int64_t>(1, keys / (std::int64_t{4} * key_block)));
    scratch_bytes_ = checked_mul(thread_bytes(), threads_, "attention");
    if (parts_ > 1) {
      scratch_bytes_ = checked_add(
          scratch_bytes_, checked_mul(checked_mul(items, parts_), partial_bytes(), "attention"));
    }
  }

  void run(const KernelArgs& args) override {
    expect_operands(args, sinks_input() + (op_.sinks ? 1 : 0), 1);
    const std::int64_t tokens = op_.batch * op_.query_length;
    expect(args.inputs[0], op_.query, tokens * op_.heads * op_.qk_head_dim, "query");
    expect(args.outputs[0], op_.query, tokens * op_.heads * op_.v_head_dim, "attention output");
    if (op_.paged) {
      check_cache(args);
    } else {
      expect(args.inputs[1], op_.cache, op_.batch * total_ * op_.kv_heads * op_.qk_head_dim,
             "keys");
      expect(args.inputs[2], op_.cache, op_.batch * total_ * op_.kv_heads * op_.v_head_dim,
             "values");
    }

    const std::int64_t items = op_.batch * op_.kv_heads * blocks_ * parts_;
    std::atomic<std::int64_t> next{0};
    parallel_ranges(std::min<std::int64_t>(items, threads_), 1,
                    [&](std::int64_t, std::int64_t, int thread) {
                      Scratch scratch;
                      ScratchLayout layout(args.scratch.data() + thread * thread_bytes());
                      place(layout, scratch);
                      // Causal attention has the longest rows last: those first, so that no thread
                      // ends alone.
                      for (std::int64_t i = next++; i < items; i = next++) {
                        compute(args, item_at(items - 1 - i), items - 1 - i, scratch);
                      }
                    });
    if (parts_ > 1) merge(args);
  }

 private:
  std::size_t sinks_input() const { return op_.paged ? 2 : 3; }

  void check_cache(const KernelArgs& args) const {
    TCAST_CHECK(args.cache != nullptr, "attention without a cache");
    const CacheView& cache = *args.cache;
    TCAST_CHECK(cache.layout.dtype == op_.cache && cache.layout.kv_heads == op_.kv_heads &&
                    cache.layout.qk_head_dim == op_.qk_head_dim &&
                    cache.layout.v_head_dim == (op_.value_in_key ? 0 : op_.v_head_dim) &&
                    cache.batch == op_.batch && cache.context_length == op_.context_length &&
                    cache.blocks_per_request * cache.layout.block_tokens >= total_,
                "the cache does not fit the attention");
    TCAST_CHECK(static_cast<std::int64_t>(cache.block_table.size()) >=
                    cache.batch * cache.blocks_per_request,
                "block table");
  }

  struct Scratch {
    T* query = nullptr;       // [rows, key_width]
    T* keys = nullptr;        // packed [key_width, key_block]
    T* values = nullptr;      // packed [key_block, value_width]
    T* staging = nullptr;     // [16, key_width], what the cache has in another dtype
    float* scores = nullptr;  // [rows, key_block]
    T* weights = nullptr;     // [rows, key_block]
    float* sums = nullptr;    // [rows, value_width]
    ScoreRow* state = nullptr;
  };

  void place(ScratchLayout& layout, Scratch& scratch) const {
    scratch.query = layout.take<T>(rows_ * key_width_);
    scratch.keys = layout.take<T>(key_width_ * key_block);
    scratch.values = layout.take<T>(value_width_ * key_block);
    scratch.staging = layout.take<T>(16 * std::max(key_width_, value_width_));
    scratch.scores = layout.take<float>(rows_ * key_block);
    scratch.weights = layout.take<T>(rows_ * key_block);
    scratch.sums = layout.take<float>(rows_ * value_width_);
    scratch.state = layout.take<ScoreRow>(rows_);
  }
  std::int64_t thread_bytes() const {
    Scratch scratch;
    ScratchLayout layout;
    place(layout, scratch);
    // Threads work a page apart.
    return round_up(layout.used(), 4096);
  }
  std::int64_t partial_bytes() const {
    return round_up(rows_ * (value_width_ * 4 + static_cast<std::int64_t>(sizeof(ScoreRow))), 64);
  }

  Item item_at(std::int64_t index) const {
    Item item;
    item.part = index % parts_;
    index /= parts_;
    const std::int64_t block = index % blocks_;
    index /= blocks_;
    item.kv_head = index % op_.kv_heads;
    item.request = index / op_.kv_heads;
    item.first_token = block * tokens_per_block_;
    item.tokens = std::min(tokens_per_block_, op_.query_length - item.first_token);
    return item;
  }

  /// Keys that at least one row of the item sees, cut to the item's part.
  KeyRange keys_of(const Item& item) const {
    const std::int64_t first = op_.context_length + item.first_token;
    KeyRange range{visible(op_.span, first, total_).begin,
                   visible(op_.span, first + item.tokens - 1, total_).end};
    if (parts_ > 1) {
      const std::int64_t blocks = ceil_div(range.end - range.begin, key_block);
      const std::int64_t begin = range.begin + blocks * item.part / parts_ * key_block;
      const std::int64_t end = range.begin + blocks * (item.part + 1) / parts_ * key_block;
      range = {std::min(begin, range.end), std::min(end, range.end)};
    }
    return range;
  }

  void compute(const KernelArgs& args, const Item& item, std::int64_t index, Scratch& scratch) {
    const int rows = static_cast<int>(item.tokens * group_);
    load_query(args, item, scratch);
    for (int row = 0; row < rows; ++row) {
      scratch.state[row] = {-std::numeric_limits<float>::infinity(), 0};
    }
    const float scale =
        static_cast<float>(op_.scale) * (op_.cache == DType::i8 ? args.cache->key_scale : 1.0f);
    const KeyRange range = keys_of(item);
    std::fill(scratch.sums, scratch.sums + rows * value_width_, 0.0f);
    for (std::int64_t key = range.begin; key < range.end; key += key_block) {
      const std::int64_t count = std::min<std::int64_t>(key_block, range.end - key);
      pack(args, item, key, count, scratch);
      // What is behind `count` is stale but finite, and masked below.
      const int columns = static_cast<int>(round_up(count, 32));
      multiply(rows, columns, static_cast<int>(key_width_), scratch.query, key_width_, scratch.keys,
               key_block, scratch.scores, key_block, false);
      for (int row = 0; row < rows; ++row) {
        const std::int64_t position = op_.context_length + item.first_token + row / group_;
        const KeyRange seen = visible(op_.span, position, total_);
        const auto begin = static_cast<int>(std::clamp<std::int64_t>(seen.begin - key, 0, count));
        const auto end = static_cast<int>(std::clamp<std::int64_t>(seen.end - key, 0, count));
        const float factor = attend(scratch.scores + row * key_block, columns, begin, end, scale,
                                    scratch.state + row, scratch.weights + row * key_block);
        if (factor != 1.0f) {
          functions_.scale(scratch.sums + row * value_width_, factor, value_width_);
        }
      }
      multiply(rows, static_cast<int>(value_width_), columns, scratch.weights, key_block,
               scratch.values, value_width_, scratch.sums, value_width_, true);
    }
    if (parts_ == 1) {
      finish(args, item, scratch.sums, scratch.state);
    } else {
      ScratchLayout layout(partial(args, index));
      std::copy(scratch.sums, scratch.sums + rows * value_width_,
                layout.take<float>(rows_ * value_width_));
      std::copy(scratch.state, scratch.state + rows, layout.take<ScoreRow>(rows_));
    }
  }

  std::byte* partial(const KernelArgs& args, std::int64_t index) const {
    return args.scratch.data() + thread_bytes() * threads_ + index * partial_bytes();
  }

  /// Adds up the parts of each block of rows.
  void merge(const KernelArgs& args) const {
    const std::int64_t groups = op_.batch * op_.kv_heads * blocks_;
    parallel_ranges(groups, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Item item = item_at(i * parts_);
        ScratchLayout layout(partial(args, i * parts_));
        float* sums = layout.take<float>(rows_ * value_width_);
        ScoreRow* state = layout.take<ScoreRow>(rows_);
        for (std::int64_t part = 1; part < parts_; ++part) {
          ScratchLayout other_layout(partial(args, i * parts_ + part));
          const float* other_sums = other_layout.take<float>(rows_ * value_width_);
          const ScoreRow* other = other_layout.take<ScoreRow>(rows_);
          for (std::int64_t row = 0; row < item.tokens * group_; ++row) {
            if (other[row].sum == 0) continue;
            const float top = std::max(state[row].maximum, other[row].maximum);
            const float mine = std::exp(state[row].maximum - top);
            const float theirs = std::exp(other[row].maximum - top);
            state[row] = {top, state[row].sum * mine + other[row].sum * theirs};
            functions_.scale(sums + row * value_width_, mine, value_width_);
            functions_.f32.add_scaled(sums + row * value_width_, other_sums + row * value_width_,
                                      theirs, value_width_);
          }
        }
        finish(args, item, sums, state);
      }
    });
  }

  /// Divides by the sums of the exponentials and writes the rows out.
  void finish(const KernelArgs& args, const Item& item, float* sums, const ScoreRow* state) const {
    const float value_scale = op_.cache == DType::i8 ? args.cache->value_scale : 1.0f;
    with_element(op_.query, [&](auto element) {
      using Out = decltype(element);
      Out* y = out<Out>(args, 0);
      for (std::int64_t row = 0; row < item.tokens * group_; ++row) {
        const std::int64_t head = item.kv_head * group_ + row % group_;
        float denominator = state[row].sum;
        float numerator = value_scale;
        if (op_.sinks) {
          float sink = 0;
          read_f32(functions_, args.inputs[sinks_input()], head, 1, &sink);
          const float top = std::max(sink, state[row].maximum);
          const float shrink = std::exp(state[row].maximum - top);
          denominator = denominator * shrink + std::exp(sink - top);
          numerator *= shrink;
        }
        float* values = sums + row * value_width_;
        functions_.scale(values, numerator / denominator, op_.v_head_dim);
        const std::int64_t token =
            item.request * op_.query_length + item.first_token + row / group_;
        rows_of<Out>(functions_)
            .from_f32(values, y + (token * op_.heads + head) * op_.v_head_dim, op_.v_head_dim);
      }
    });
  }

  void load_query(const KernelArgs& args, const Item& item, Scratch& scratch) const {
    for (std::int64_t row = 0; row < item.tokens * group_; ++row) {
      const std::int64_t token = item.request * op_.query_length + item.first_token + row / group_;
      const std::int64_t head = item.kv_head * group_ + row % group_;
      const std::int64_t first = (token * op_.heads + head) * op_.qk_head_dim;
      T* line = scratch.query + row * key_width_;
      if constexpr (std::is_same_v<T, Bf16>) {
        std::copy_n(in<Bf16>(args, 0) + first, op_.qk_head_dim, line);
      } else {
        read_f32(functions_, args.inputs[0], first, op_.qk_head_dim, line);
      }
      std::fill(line + op_.qk_head_dim, line + key_width_, T{});
    }
  }

  /// One row of the cache in T: itself, or converted into `staging`. Integers stay integers, which
  /// bf16 holds exactly; their scale is applied to scores and sums.
  const T* cache_row(const std::byte* row, std::int64_t count, T* staging) const {
    const void* data = row;
    if (op_.cache == DType::i8) {
      rows_of<T>(functions_).widen_i8(static_cast<const std::int8_t*>(data), 1.0f, staging, count);
      return staging;
    }
    if constexpr (std::is_same_v<T, Bf16>) {
      if (op_.cache == DType::bf16) return static_cast<const Bf16*>(data);
      functions_.bf16.from_f32(static_cast<const float*>(data), staging, count);
    } else {
      if (op_.cache == DType::f32) return static_cast<const float*>(data);
      functions_.bf16.to_f32(static_cast<const Bf16*>(data), staging, count);
    }
    return staging;
  }

  /// Where the keys of the item's request and head lie, from `position` on to the end of its block,
  /// and their values: row after row.
  struct Place {
    const std::byte* keys = nullptr;
    const std::byte* values = nullptr;
    std::int64_t count = 0;
  };
  Place locate(const KernelArgs& args, const Item& item, std::int64_t position) const {
    if (!op_.paged) {
      const std::int64_t row = (item.request * total_ + position) * op_.kv_heads + item.kv_head;
      return {args.inputs[1].data + row * key_bytes_, args.inputs[2].data + row * value_bytes_,
              total_ - position};
    }
    const CacheView& cache = *args.cache;
    const CacheLayout& layout = cache.layout;
    const std::int64_t block = cache.block_table[static_cast<std::size_t>(
        item.request * cache.blocks_per_request + position / layout.block_tokens)];
    const std::int64_t slot = position % layout.block_tokens;
    const std::int64_t all_keys = layout.block_tokens * key_bytes_;
    const std::int64_t all_values = op_.value_in_key ? 0 : layout.block_tokens * value_bytes_;
    const std::byte* head =
        cache.data + (block * op_.kv_heads + item.kv_head) * (all_keys + all_values);
    const std::byte* keys = head + slot * key_bytes_;
    return {keys, op_.value_in_key ? keys : head + all_keys + slot * value_bytes_,
            layout.block_tokens - slot};
  }

  /// Brings keys [first, first + count) and their values into the operand layouts.
  void pack(const KernelArgs& args, const Item& item, std::int64_t first, std::int64_t count,
            Scratch& scratch) const {
    const std::int64_t padded = round_up(count, 32);
    // In a cache the rows of a head follow each other; else those of a token do.
    const std::int64_t heads = op_.paged ? 1 : op_.kv_heads;
    const std::int64_t key_step = heads * key_bytes_;
    const std::int64_t value_step = op_.value_in_key ? key_bytes_ : heads * value_bytes_;
    const std::byte* keys[16];
    const std::byte* values[16];
    Place place;
    for (std::int64_t base = 0; base < padded; base += 16) {
      const std::int64_t here = std::clamp<std::int64_t>(count - base, 0, 16);
      for (std::int64_t i = 0; i < here; ++i) {
        if (place.count == 0) place = locate(args, item, first + base + i);
        keys[i] = place.keys;
        values[i] = place.values;
        place.keys += key_step;
        place.values += value_step;
        --place.count;
      }
      pack_keys(keys, here, base, scratch);
      pack_values(values, here, base, scratch);
    }
  }

  void pack_keys(const std::byte* const* keys, std::int64_t count, std::int64_t base,
                 Scratch& scratch) const {
    constexpr std::int64_t per_word = 4 / static_cast<std::int64_t>(sizeof(T));
    void* keys_memory = scratch.keys;
    std::uint32_t* packed = static_cast<std::uint32_t*>(keys_memory) + base;
    const bool direct =
        std::is_same_v<T, Bf16> ? op_.cache == DType::bf16 : op_.cache == DType::f32;
    // Rows of one cache block follow each other, and need no copy if they need no padding either.
    if (direct && count == 16 && op_.qk_head_dim == key_width_ &&
        keys[15] == keys[0] + 15 * key_bytes_) {
      functions_.transpose16(words_of(cache_row(keys[0], 0, nullptr)), key_width_ / per_word,
                             packed, key_block, key_width_ / per_word);
      return;
    }
    for (std::int64_t i = 0; i < 16; ++i) {
      T* line = scratch.staging + i * key_width_;
      if (i < count) {
        const T* row = cache_row(keys[i], op_.qk_head_dim, line);
        if (row != line) std::copy_n(row, op_.qk_head_dim, line);
        std::fill(line + op_.qk_head_dim, line + key_width_, T{});
      } else {
        std::fill(line, line + key_width_, T{});
      }
    }
    functions_.transpose16(words_of(scratch.staging), key_width_ / per_word, packed, key_block,
                           key_width_ / per_word);
  }

  void pack_values(const std::byte* const* values, std::int64_t count, std::int64_t base,
                   Scratch& scratch) const {
    const std::int64_t width = op_.v_head_dim;
    if constexpr (std::is_same_v<T, Bf16>) {
      T* zeros = scratch.staging + 2 * value_width_;
      std::fill(zeros, zeros + value_width_, T{});
      for (std::int64_t i = 0; i < 16; i += 2) {
        T* line = scratch.values + (base + i) * value_width_;
        const T* even = i < count ? cache_row(values[i], width, scratch.staging) : zeros;
        const T* odd =
            i + 1 < count ? cache_row(values[i + 1], width, scratch.staging + value_width_) : zeros;
        functions_.interleave(even, odd, line, width);
        std::fill(line + 2 * width, line + 2 * value_width_, T{});
      }
    } else {
      for (std::int64_t i = 0; i < 16; ++i) {
        T* line = scratch.values + (base + i) * value_width_;
        if (i < count) {
          const T* row = cache_row(values[i], width, line);
          if (row != line) std::copy_n(row, width, line);
          std::fill(line + width, line + value_width_, T{});
        } else {
          std::fill(line, line + value_width_, T{});
        }
      }
    }
  }

  void multiply(int m, int n, int k, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,
                float* c, std::int64_t ldc, bool accumulate) const {
    if constexpr (std::is_same_v<T, Bf16>) {
      functions_.multiply_bf16(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
    } else {
      functions_.multiply_f32(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
    }
  }

  float attend(const float* scores, int count, int begin, int end, float scale, ScoreRow* row,
               T* p) const {
    const auto softcap = static_cast<float>(op_.softcap);
    if constexpr (std::is_same_v<T, Bf16>) {
      return functions_.attend_bf16(scores, count, begin, end, scale, softcap, row, p);
    } else {
      return functions_.attend_f32(scores, count, begin, end, scale, softcap, row, p);
    }
  }

  Attention op_;
  const VectorFunctions& functions_;
  std::int64_t group_;
  std::int64_t key_width_;
  std::int64_t value_width_;
  std::int64_t key_bytes_;
  std::int64_t value_bytes_;
  std::int64_t total_;
  std::int64_t tokens_per_block_ = 1;
  std::int64_t rows_ = 1;
  std::int64_t blocks_ = 1;
  std::int64_t parts_ = 1;
  int threads_ = 1;
};

}  // namespace

KernelResult make_attention(const Attention& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.query); !reason.empty()) return unsupported(reason);
  if (op.cache != DType::i8) {
    if (const std::string reason = float_only(op.cache); !reason.empty()) {
      return unsupported(reason);
    }
  }
  if (op.batch <= 0 || op.query_length <= 0 || op.context_length < 0 || op.kv_heads <= 0 ||
      op.qk_head_dim <= 0 || op.v_head_dim <= 0) {
    return unsupported("empty attention");
  }
  if (op.heads < op.kv_heads || op.heads % op.kv_heads != 0) {
    return unsupported(
        fmt::format("{} heads do not share {} key-value heads evenly", op.heads, op.kv_heads));
  }
  if (!op.paged && (op.value_in_key || !is_float(op.cache))) {
    return unsupported("attention to keys and values beside each other is in floating point");
  }
  if (op.value_in_key && op.v_head_dim > op.qk_head_dim) {
    return unsupported(
        fmt::format("a value of {} is not part of a key of {}", op.v_head_dim, op.qk_head_dim));
  }
  const std::int64_t tokens = checked_mul(op.batch, op.query_length, "attention");
  bytes_of(checked_mul(checked_mul(tokens, op.heads, "attention"),
                       std::max(op.qk_head_dim, op.v_head_dim), "attention"),
           DType::f32);
  if (op.query == DType::bf16 && vector_functions(context.isa).multiply_bf16 != nullptr) {
    return {std::make_unique<AttentionKernel<Bf16>>(op, context), {}};
  }
  return {std::make_unique<AttentionKernel<float>>(op, context), {}};
}

}  // namespace tcast
