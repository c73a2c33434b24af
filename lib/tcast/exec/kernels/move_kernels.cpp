#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/threads.h"

// Operators that choose, move and convert rows: gather, cache, copies, and the parts of a mixture
// of experts around its products.

namespace tcast {
namespace {

constexpr std::int64_t bytes_per_thread = 65536;

std::int64_t row_grain(std::int64_t row_bytes) {
  return std::max<std::int64_t>(1, bytes_per_thread / std::max<std::int64_t>(1, row_bytes));
}

class MoveKernel : public Kernel {
 protected:
  explicit MoveKernel(const KernelContext& context)
      : functions_(vector_functions(context.isa)), threads_(current_threads()) {
    implementation_ = own_implementation(context);
  }

  const VectorFunctions& functions_;
  int threads_;
};

/// Converts `count` elements; both buffers are f32, bf16 or i8, `scale` belongs to i8.
void convert_elements(const VectorFunctions& functions, const Buffer& from, std::int64_t from_first,
                      std::int64_t count, float scale, const Buffer& to, std::int64_t to_first) {
  const std::byte* source = from.data + bytes_of(from_first, from.dtype);
  std::byte* target = to.data + bytes_of(to_first, to.dtype);
  const void* source_data = source;
  void* target_data = target;
  if (from.dtype == to.dtype) {
    std::copy_n(source, bytes_of(count, from.dtype), target);
  } else if (to.dtype == DType::i8) {
    with_element(from.dtype, [&](auto element) {
      using T = decltype(element);
      rows_of<T>(functions).quantize(static_cast<const T*>(source_data),
                                     static_cast<std::int8_t*>(target_data), count, scale);
    });
  } else if (from.dtype == DType::i8) {
    with_element(to.dtype, [&](auto element) {
      using T = decltype(element);
      rows_of<T>(functions).widen_i8(static_cast<const std::int8_t*>(source_data), scale,
                                     static_cast<T*>(target_data), count);
    });
  } else if (to.dtype == DType::f32) {
    functions.bf16.to_f32(static_cast<const Bf16*>(source_data), static_cast<float*>(target_data),
                          count);
  } else {
    functions.bf16.from_f32(static_cast<const float*>(source_data), static_cast<Bf16*>(target_data),
                            count);
  }
}

bool convertible(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::i8;
}

class GatherKernel final : public MoveKernel {
 public:
  GatherKernel(const Gather& op, const KernelContext& context) : MoveKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    expect_operands(args, 2, 1);
    expect(args.inputs[0], op_.dtype, op_.table_rows * op_.width, "table");
    expect_index(args.inputs[1], op_.rows, "indices");
    expect(args.outputs[0], op_.dtype, op_.rows * op_.width, "rows");
    const std::int64_t row = bytes_of(op_.width, op_.dtype);
    parallel_ranges(op_.rows, row_grain(row), [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t index = index_at(args.inputs[1], i);
        std::byte* const target = args.outputs[0].data + i * row;
        const bool held = index >= 0 && index < op_.table_rows;
        TCAST_CHECK(held || op_.partial, "index outside the table");
        if (held) {
          std::copy_n(args.inputs[0].data + index * row, row, target);
        } else {
          std::fill_n(target, row, std::byte{0});
        }
      }
    });
  }

 private:
  Gather op_;
};

/// The inputs before the cache, side by side, are a token's row: keys of all heads, then values of
/// all heads. Usually two, keys and values; for latent attention latent and rotary key.
class CacheAppendKernel final : public MoveKernel {
 public:
  CacheAppendKernel(const CacheAppend& op, const KernelContext& context)
      : MoveKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    expect_operands(args, 2, 0);
    TCAST_CHECK(args.cache != nullptr, "cache append without a cache");
    const CacheView& cache = *args.cache;
    const CacheLayout& layout = cache.layout;
    TCAST_CHECK(layout.width() == op_.width && layout.dtype == op_.cache && cache.batch > 0 &&
                    op_.tokens % cache.batch == 0,
                "the cache does not fit what is appended");
    const std::int64_t new_tokens = op_.tokens / cache.batch;
    TCAST_CHECK(
        cache.blocks_per_request * layout.block_tokens >= cache.context_length + new_tokens &&
            static_cast<std::int64_t>(cache.block_table.size()) >=
                cache.batch * cache.blocks_per_request,
        "the cache is full");
    const std::span<const Buffer> pieces = args.inputs.first(args.inputs.size() - 1);
    std::int64_t width = 0;
    for (const Buffer& piece : pieces) {
      expect(piece, op_.input, op_.tokens, "new keys and values");
      width += piece_width(piece);
    }
    TCAST_CHECK(width == op_.width, "new keys and values do not add up to the cache's width");

    const std::int64_t key_width = layout.kv_heads * layout.qk_head_dim;
    const std::int64_t head_width = layout.qk_head_dim + layout.v_head_dim;
    parallel_ranges(
        op_.tokens, row_grain(bytes_of(op_.width, op_.input)),
        [&](std::int64_t begin, std::int64_t end, int) {
          for (std::int64_t token = begin; token < end; ++token) {
            const std::int64_t position = cache.context_length + token % new_tokens;
            const std::int64_t block = cache.block_table[static_cast<std::size_t>(
                token / new_tokens * cache.blocks_per_request + position / layout.block_tokens)];
            const std::int64_t slot = position % layout.block_tokens;
            for (std::int64_t head = 0; head < layout.kv_heads; ++head) {
              const std::int64_t place =
                  layout.block_tokens * (block * layout.width() + head * head_width);
              append(pieces, token, head * layout.qk_head_dim, layout.qk_head_dim, cache,
                     cache.key_scale, place + slot * layout.qk_head_dim);
              append(pieces, token, key_width + head * layout.v_head_dim, layout.v_head_dim, cache,
                     cache.value_scale,
                     place + layout.block_tokens * layout.qk_head_dim + slot * layout.v_head_dim);
            }
          }
        });
  }

 private:
  std::int64_t piece_width(const Buffer& piece) const {
    return piece.bytes / bytes_of(op_.tokens, op_.input);
  }

  /// Elements [first, first + count) of a token's row, wherever the pieces hold them, to element
  /// `place` of the cache.
  void append(std::span<const Buffer> pieces, std::int64_t token, std::int64_t first,
              std::int64_t count, const CacheView& cache, float scale, std::int64_t place) const {
    const Buffer target{cache.data, 0, op_.cache, {}};
    for (const Buffer& piece : pieces) {
      const std::int64_t width = piece_width(piece);
      const std::int64_t here = std::min(count, width - first);
      if (here > 0) {
        convert_elements(functions_, piece, token * width + first, here, scale, target, place);
        count -= here;
        place += here;
        first += here;
      }
      first -= width;
    }
  }

  CacheAppend op_;
};

/// Copies rows of `row_bytes`: row i of the result comes from source(i).
template <class Source>
void copy_rows(std::byte* target, std::int64_t rows, std::int64_t row_bytes, const Source& source) {
  parallel_ranges(rows, row_grain(row_bytes), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::copy_n(source(i), row_bytes, target + i * row_bytes);
    }
  });
}

/// Keys or values of a cache, put together into [batch, heads, tokens, head_dim].
class CacheReadKernel final : public MoveKernel {
 public:
  CacheReadKernel(const CacheRead& op, const KernelContext& context)
      : MoveKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    expect_operands(args, 1, 1);
    TCAST_CHECK(args.cache != nullptr, "cache read without a cache");
    const CacheView& cache = *args.cache;
    const CacheLayout& layout = cache.layout;
    TCAST_CHECK(layout.dtype == op_.cache && layout.kv_heads == op_.kv_heads &&
                    (op_.values ? layout.v_head_dim : layout.qk_head_dim) == op_.head_dim &&
                    cache.batch == op_.batch &&
                    cache.blocks_per_request * layout.block_tokens >= op_.tokens,
                "the cache does not fit what is read");
    expect(args.outputs[0], op_.output, op_.batch * op_.kv_heads * op_.tokens * op_.head_dim,
           "keys or values");
    const std::int64_t blocks = ceil_div(op_.tokens, layout.block_tokens);
    const std::int64_t head_width = layout.qk_head_dim + layout.v_head_dim;
    const Buffer source{cache.data, 0, op_.cache, {}};
    // What lies together in a block of the cache is moved in one piece.
    parallel_ranges(
        op_.batch * op_.kv_heads * blocks, 1, [&](std::int64_t begin, std::int64_t end, int) {
          for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t head = i / blocks % op_.kv_heads;
            const std::int64_t request = i / blocks / op_.kv_heads;
            const std::int64_t first = i % blocks * layout.block_tokens;
            const std::int64_t block = cache.block_table[static_cast<std::size_t>(
                request * cache.blocks_per_request + i % blocks)];
            const std::int64_t place =
                layout.block_tokens * (block * layout.width() + head * head_width +
                                       (op_.values ? layout.qk_head_dim : 0));
            const std::int64_t rows = std::min(layout.block_tokens, op_.tokens - first);
            convert_elements(functions_, source, place, rows * op_.head_dim,
                             op_.values ? cache.value_scale : cache.key_scale, args.outputs[0],
                             ((request * op_.kv_heads + head) * op_.tokens + first) * op_.head_dim);
          }
        });
  }

 private:
  CacheRead op_;
};

class CopyKernel final : public MoveKernel {
 public:
  CopyKernel(const Copy& op, const KernelContext& context) : MoveKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    expect_operands(args, 1, 1);
    if (op_.parts[0].run == 0) return flat(args);
    for (std::size_t i = 0; i < op_.parts.size() && op_.parts[i].run > 0; ++i) {
      const CopyPart& part = op_.parts[i];
      expect_operands(args, i + 1, 1);
      expect(args.inputs[i], op_.from, part.source_extent(), "source of a copy");
      expect(args.outputs[0], op_.to, part.target_extent(), "copy");
      // The inner loop by its element size, so that single elements are moved as such.
      switch (bytes_of(part.run, op_.to)) {
        case 2:
          move<2>(part, args.inputs[i], args.outputs[0]);
          break;
        case 4:
          move<4>(part, args.inputs[i], args.outputs[0]);
          break;
        default:
          move<0>(part, args.inputs[i], args.outputs[0]);
          break;
      }
    }
  }

 private:
  void flat(const KernelArgs& args) const {
    expect(args.inputs[0], op_.from, op_.written_elements, "source of a copy");
    expect(args.outputs[0], op_.to, op_.written_elements, "copy");
    parallel_ranges(op_.written_elements, bytes_per_thread / 4,
                    [&](std::int64_t begin, std::int64_t end, int) {
                      convert_elements(functions_, args.inputs[0], begin, end - begin, 1.0f,
                                       args.outputs[0], begin);
                    });
  }

  template <int fixed_bytes>
  void move(const CopyPart& part, const Buffer& x, const Buffer& y) const {
    const std::int64_t element = bytes_of(1, op_.to);
    const std::int64_t bytes = fixed_bytes > 0 ? fixed_bytes : part.run * element;
    const std::int64_t outer = part.sizes[0];
    const std::int64_t middle = part.sizes[1];
    const std::int64_t inner = part.sizes[2];
    const std::int64_t source_step = part.source_strides[2] * element;
    const std::int64_t target_step = part.target_strides[2] * element;
    parallel_ranges(
        outer * middle * inner, row_grain(bytes), [&](std::int64_t begin, std::int64_t end, int) {
          for (std::int64_t i = begin; i < end;) {
            const std::int64_t row = i / inner;
            const std::int64_t first = i % inner;
            const std::int64_t count = std::min(inner - first, end - i);
            const std::byte* source =
                x.data + (part.source_offset + row / middle * part.source_strides[0] +
                          row % middle * part.source_strides[1] + first * part.source_strides[2]) *
                             element;
            std::byte* target =
                y.data + (part.target_offset + row / middle * part.target_strides[0] +
                          row % middle * part.target_strides[1] + first * part.target_strides[2]) *
                             element;
            for (std::int64_t k = 0; k < count; ++k) {
              std::copy_n(source + k * source_step, fixed_bytes > 0 ? fixed_bytes : bytes,
                          target + k * target_step);
            }
            i += count;
          }
        });
  }

  Copy op_;
};

class RouteKernel final : public MoveKernel {
 public:
  RouteKernel(const Route& op, const KernelContext& context) : MoveKernel(context), op_(op) {
    Scratch scratch;
    ScratchLayout layout;
    place(layout, scratch);
    thread_bytes_ = layout.used();
    scratch_bytes_ = checked_mul(thread_bytes_, threads_, "route");
  }

  void run(const KernelArgs& args) override {
    expect_operands(args, op_.correction_bias ? 2 : 1, 2);
    expect(args.inputs[0], op_.dtype, op_.tokens * op_.experts, "router logits");
    expect(args.outputs[0], args.outputs[0].dtype, op_.tokens * op_.top_k, "routing weights");
    expect_index(args.outputs[1], op_.tokens * op_.top_k, "chosen experts");
    parallel_ranges(op_.tokens, row_grain(op_.experts * 32),
                    [&](std::int64_t begin, std::int64_t end, int thread) {
                      Scratch scratch;
                      ScratchLayout layout(args.scratch.data() + thread * thread_bytes_);
                      place(layout, scratch);
                      if (op_.correction_bias) {
                        read_f32(functions_, args.inputs[1], 0, op_.experts, scratch.bias);
                      }
                      for (std::int64_t token = begin; token < end; ++token)
                        route(args, token, scratch);
                    });
  }

 private:
  struct Scratch {
    float* scores = nullptr;
    float* choice = nullptr;
    float* bias = nullptr;
    float* work = nullptr;
    float* group_scores = nullptr;
    std::int64_t* best = nullptr;
    std::int64_t* best_groups = nullptr;
  };

  void place(ScratchLayout& layout, Scratch& scratch) const {
    scratch.scores = layout.take<float>(op_.experts);
    scratch.choice = layout.take<float>(op_.experts);
    scratch.bias = layout.take<float>(op_.experts);
    scratch.work = layout.take<float>(op_.experts);
    scratch.group_scores = layout.take<float>(op_.groups);
    scratch.best = layout.take<std::int64_t>(op_.top_k);
    scratch.best_groups = layout.take<std::int64_t>(op_.groups);
  }

  void route(const KernelArgs& args, std::int64_t token, const Scratch& s) const {
    read_f32(functions_, args.inputs[0], token * op_.experts, op_.experts, s.scores);
    const bool drops = op_.topk_groups < op_.groups;
    score_experts(op_, functions_, op_.correction_bias ? s.bias : nullptr, s.scores, s.choice,
                  drops ? s.group_scores : nullptr, s.work);
    if (drops) drop_groups(s);
    largest(s.choice, op_.experts, op_.top_k, s.best);
    float sum = 0;
    for (std::int64_t i = 0; i < op_.top_k; ++i) sum += s.scores[s.best[i]];
    const float factor = static_cast<float>(op_.scale) / (op_.normalize ? sum + 1e-20f : 1.0f);
    for (std::int64_t i = 0; i < op_.top_k; ++i) {
      const float weight = s.scores[s.best[i]] * factor;
      if (args.outputs[0].dtype == DType::bf16) {
        out<Bf16>(args, 0)[token * op_.top_k + i] = to_bf16(weight);
      } else {
        out<float>(args, 0)[token * op_.top_k + i] = weight;
      }
      set_index(args.outputs[1], token * op_.top_k + i, s.best[i]);
    }
  }

  /// Experts outside the best groups cannot be chosen.
  void drop_groups(const Scratch& s) const {
    const std::int64_t size = op_.experts / op_.groups;
    largest(s.group_scores, op_.groups, op_.topk_groups, s.best_groups);
    for (std::int64_t group = 0; group < op_.groups; ++group) {
      if (std::find(s.best_groups, s.best_groups + op_.topk_groups, group) !=
          s.best_groups + op_.topk_groups) {
        continue;
      }
      std::fill_n(s.choice + group * size, size, -std::numeric_limits<float>::infinity());
    }
  }

  Route op_;
  std::int64_t thread_bytes_ = 0;
};

class TopKKernel final : public MoveKernel {
 public:
  TopKKernel(const TopK& op, const KernelContext& context) : MoveKernel(context), op_(op) {
    thread_bytes_ = round_up(checked_mul(op.columns, 4, "top-k"), 64) + round_up(op.k * 8, 64);
    scratch_bytes_ = checked_mul(thread_bytes_, threads_, "top-k");
  }

  void run(const KernelArgs& args) override {
    expect_operands(args, 1, 2);
    expect(args.inputs[0], op_.dtype, op_.rows * op_.columns, "x");
    expect(args.outputs[0], op_.dtype, op_.rows * op_.k, "values");
    expect_index(args.outputs[1], op_.rows * op_.k, "indices");
    parallel_ranges(op_.rows, row_grain(op_.columns * 8),
                    [&](std::int64_t begin, std::int64_t end, int thread) {
                      ScratchLayout layout(args.scratch.data() + thread * thread_bytes_);
                      float* values = layout.take<float>(op_.columns);
                      std::int64_t* best = layout.take<std::int64_t>(op_.k);
                      for (std::int64_t row = begin; row < end; ++row) {
                        read_f32(functions_, args.inputs[0], row * op_.columns, op_.columns,
                                 values);
                        largest(values, op_.columns, op_.k, best);
                        for (std::int64_t i = 0; i < op_.k; ++i) {
                          if (op_.dtype == DType::bf16) {
                            out<Bf16>(args, 0)[row * op_.k + i] = to_bf16(values[best[i]]);
                          } else {
                            out<float>(args, 0)[row * op_.k + i] = values[best[i]];
                          }
                          set_index(args.outputs[1], row * op_.k + i, best[i]);
                        }
                      }
                    });
  }

 private:
  TopK op_;
  std::int64_t thread_bytes_ = 0;
};

/// Rows in the order of the experts: for each choice (token, i) the row where it lands, or -1 when
/// its expert is negative or beyond `experts` (held by another rank). Stable, so that Permute and
/// Combine agree without exchanging it.
void place_rows(const Buffer& indices, std::int64_t choices, std::int64_t experts,
                std::vector<std::int64_t>& counts, std::vector<std::int64_t>& rows) {
  counts.assign(static_cast<std::size_t>(experts), 0);
  rows.resize(static_cast<std::size_t>(choices));
  for (std::int64_t i = 0; i < choices; ++i) {
    const std::int64_t expert = index_at(indices, i);
    if (expert >= 0 && expert < experts) ++counts[static_cast<std::size_t>(expert)];
  }
  std::vector<std::int64_t> next(counts.size());
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    next[i] = sum;
    sum += counts[i];
  }
  for (std::int64_t i = 0; i < choices; ++i) {
    const std::int64_t expert = index_at(indices, i);
    rows[static_cast<std::size_t>(i)] =
        expert >= 0 && expert < experts ? next[static_cast<std::size_t>(expert)]++ : -1;
  }
}

/// Choices (token * per_token + i) that name `expert`, in order.
void choices_of(const Buffer& indices, std::int64_t expert, std::vector<std::int64_t>& choices) {
  choices.clear();
  const std::int64_t count = indices.bytes / bytes_of(1, indices.dtype);
  for (std::int64_t i = 0; i < count; ++i) {
    if (index_at(indices, i) == expert) choices.push_back(i);
  }
}

class PermuteKernel final : public MoveKernel {
 public:
  PermuteKernel(const Permute& op, const KernelContext& context) : MoveKernel(context), op_(op) {}

  void run(const KernelArgs& args) override {
    if (op_.expert >= 0) return pick(args);
    expect_operands(args, 2, 2);
    expect(args.inputs[0], op_.dtype, op_.tokens * op_.width, "x");
    const Buffer& indices = args.inputs[1];
    const std::int64_t choices = indices.bytes / bytes_of(1, indices.dtype);
    expect_index(indices, op_.tokens, "chosen experts");
    expect(args.outputs[0], op_.dtype, op_.rows * op_.width, "rows");
    const Buffer& counts = args.outputs[1];
    expect_index(counts, 1, "token counts");
    const std::int64_t experts = counts.bytes / bytes_of(1, counts.dtype);
    place_rows(indices, choices, experts, counts_, rows_);
    for (std::int64_t i = 0; i < experts; ++i) {
      set_index(counts, i, counts_[static_cast<std::size_t>(i)]);
    }
    const std::int64_t per_token = choices / op_.tokens;
    const std::int64_t row_bytes = bytes_of(op_.width, op_.dtype);
    parallel_ranges(choices, row_grain(row_bytes), [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t row = rows_[static_cast<std::size_t>(i)];
        if (row < 0) continue;
        TCAST_CHECK(row < op_.rows, "more rows than the permutation was made for");
        std::copy_n(args.inputs[0].data + i / per_token * row_bytes, row_bytes,
                    args.outputs[0].data + row * row_bytes);
      }
    });
  }

 private:
  /// The rows of one expert's tokens, in the order of the tokens. x is all of them.
  void pick(const KernelArgs& args) {
    expect_operands(args, 2, 1);
    const Buffer& indices = args.inputs[1];
    expect(args.inputs[0], op_.dtype, op_.width, "x");
    expect(args.outputs[0], op_.dtype, op_.rows * op_.width, "rows");
    expect_index(indices, 1, "chosen experts");
    const std::int64_t row_bytes = bytes_of(op_.width, op_.dtype);
    const std::int64_t tokens = args.inputs[0].bytes / row_bytes;
    choices_of(indices, op_.expert, rows_);
    const std::int64_t per_token = indices.bytes / bytes_of(1, indices.dtype) / tokens;
    TCAST_CHECK(static_cast<std::int64_t>(rows_.size()) <= op_.rows && per_token > 0,
                "more rows than the permutation was made for");
    copy_rows(args.outputs[0].data, static_cast<std::int64_t>(rows_.size()), row_bytes,
              [&](std::int64_t i) {
                return args.inputs[0].data +
                       rows_[static_cast<std::size_t>(i)] / per_token * row_bytes;
              });
    const auto picked = static_cast<std::int64_t>(rows_.size());
    std::fill_n(args.outputs[0].data + picked * row_bytes, (op_.rows - picked) * row_bytes,
                std::byte{0});
  }

  Permute op_;
  std::vector<std::int64_t> counts_;
  std::vector<std::int64_t> rows_;
};

class CombineKernel final : public MoveKernel {
 public:
  CombineKernel(const Combine& op, const KernelContext& context) : MoveKernel(context), op_(op) {
    thread_bytes_ = round_up(checked_mul(op.width, 4, "combine"), 64);
    scratch_bytes_ = checked_mul(thread_bytes_, threads_, "combine");
  }

  void run(const KernelArgs& args) override {
    if (op_.expert >= 0) return add(args);
    expect_operands(args, 3, 1);
    expect(args.inputs[0], op_.dtype, op_.rows * op_.width, "rows");
    const Buffer& weights = args.inputs[1];
    const Buffer& indices = args.inputs[2];
    expect_index(indices, op_.tokens, "chosen experts");
    const std::int64_t choices = indices.bytes / bytes_of(1, indices.dtype);
    expect(weights, weights.dtype, choices, "routing weights");
    expect(args.outputs[0], op_.dtype, op_.tokens * op_.width, "y");
    std::int64_t experts = 0;
    for (std::int64_t i = 0; i < choices; ++i) {
      experts = std::max(experts, index_at(indices, i) + 1);
    }
    place_rows(indices, choices, experts, counts_, rows_);
    const std::int64_t per_token = choices / op_.tokens;
    with_element(op_.dtype, [&](auto element) {
      using T = decltype(element);
      parallel_ranges(
          op_.tokens, row_grain(per_token * op_.width * 2),
          [&](std::int64_t begin, std::int64_t end, int thread) {
            ScratchLayout layout(args.scratch.data() + thread * thread_bytes_);
            float* sum = layout.take<float>(op_.width);
            for (std::int64_t token = begin; token < end; ++token) {
              std::fill_n(sum, op_.width, 0.0f);
              for (std::int64_t i = token * per_token; i < (token + 1) * per_token; ++i) {
                const std::int64_t row = rows_[static_cast<std::size_t>(i)];
                if (row < 0) continue;
                TCAST_CHECK(row < op_.rows, "more rows than the combination was made for");
                float weight = 0;
                read_f32(functions_, weights, i, 1, &weight);
                rows_of<T>(functions_)
                    .add_scaled(sum, in<T>(args, 0) + row * op_.width, weight, op_.width);
              }
              rows_of<T>(functions_).from_f32(sum, out<T>(args, 0) + token * op_.width, op_.width);
            }
          });
    });
  }

 private:
  /// Adds one expert's rows to the running sum, input 3, which is all of the tokens.
  void add(const KernelArgs& args) {
    expect_operands(args, 4, 0);
    const Buffer& weights = args.inputs[1];
    const Buffer& indices = args.inputs[2];
    const Buffer& sum = args.inputs[3];
    expect(args.inputs[0], op_.dtype, op_.rows * op_.width, "rows");
    expect(sum, op_.dtype, op_.width, "sum");
    expect_index(indices, 1, "chosen experts");
    const std::int64_t choices = indices.bytes / bytes_of(1, indices.dtype);
    expect(weights, weights.dtype, choices, "routing weights");
    const std::int64_t tokens = sum.bytes / bytes_of(op_.width, op_.dtype);
    const std::int64_t per_token = choices / tokens;
    choices_of(indices, op_.expert, rows_);
    TCAST_CHECK(static_cast<std::int64_t>(rows_.size()) <= op_.rows && per_token > 0,
                "more rows than the combination was made for");
    with_element(op_.dtype, [&](auto element) {
      using T = decltype(element);
      T* total = static_cast<T*>(static_cast<void*>(sum.data));
      // A token chooses an expert once, so no two rows meet in one token.
      parallel_ranges(static_cast<std::int64_t>(rows_.size()), row_grain(op_.width * 8),
                      [&](std::int64_t begin, std::int64_t end, int thread) {
                        ScratchLayout layout(args.scratch.data() + thread * thread_bytes_);
                        float* line = layout.take<float>(op_.width);
                        for (std::int64_t i = begin; i < end; ++i) {
                          const std::int64_t choice = rows_[static_cast<std::size_t>(i)];
                          T* target = total + choice / per_token * op_.width;
                          float weight = 0;
                          read_f32(functions_, weights, choice, 1, &weight);
                          rows_of<T>(functions_).to_f32(target, line, op_.width);
                          rows_of<T>(functions_)
                              .add_scaled(line, in<T>(args, 0) + i * op_.width, weight, op_.width);
                          rows_of<T>(functions_).from_f32(line, target, op_.width);
                        }
                      });
    });
  }

  Combine op_;
  std::int64_t thread_bytes_ = 0;
  std::vector<std::int64_t> counts_;
  std::vector<std::int64_t> rows_;
};

}  // namespace

KernelResult make_gather(const Gather& op, const KernelContext& context) {
  if (op.rows <= 0 || op.width <= 0 || op.table_rows <= 0) return unsupported("empty gather");
  if (bits_of(op.dtype) < 8) return unsupported("gather of elements smaller than a byte");
  bytes_of(checked_mul(std::max(op.rows, op.table_rows), op.width, "gather"), op.dtype);
  return {std::make_unique<GatherKernel>(op, context), {}};
}

KernelResult make_cache_append(const CacheAppend& op, const KernelContext& context) {
  if (op.tokens <= 0 || op.width <= 0) return unsupported("empty cache append");
  if (const std::string reason = float_only(op.input); !reason.empty()) return unsupported(reason);
  if (!convertible(op.cache)) {
    return unsupported(fmt::format("no kernel for a cache of {}", short_name_of(op.cache)));
  }
  bytes_of(checked_mul(op.tokens, op.width, "cache append"), DType::f32);
  return {std::make_unique<CacheAppendKernel>(op, context), {}};
}

KernelResult make_cache_read(const CacheRead& op, const KernelContext& context) {
  if (op.batch <= 0 || op.tokens <= 0 || op.kv_heads <= 0 || op.head_dim <= 0) {
    return unsupported("empty cache read");
  }
  if (!convertible(op.cache)) {
    return unsupported(fmt::format("no kernel for a cache of {}", short_name_of(op.cache)));
  }
  if (const std::string reason = float_only(op.output); !reason.empty()) return unsupported(reason);
  bytes_of(checked_mul(checked_mul(op.batch, op.tokens, "cache read"),
                       checked_mul(op.kv_heads, op.head_dim, "cache read"), "cache read"),
           DType::f32);
  return {std::make_unique<CacheReadKernel>(op, context), {}};
}

KernelResult make_copy(const Copy& op, const KernelContext& context) {
  if (op.read_elements <= 0 || op.written_elements <= 0) return unsupported("empty copy");
  const bool flat = op.parts[0].run == 0;
  if (op.from != op.to && (!flat || !convertible(op.from) || !convertible(op.to))) {
    return unsupported(
        fmt::format("copy from {} to {}", short_name_of(op.from), short_name_of(op.to)));
  }
  if (bits_of(op.from) < 8) return unsupported("copy of elements smaller than a byte");
  bytes_of(std::max(op.read_elements, op.written_elements), DType::i64);
  return {std::make_unique<CopyKernel>(op, context), {}};
}

KernelResult make_route(const Route& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.tokens <= 0 || op.experts <= 0 || op.top_k <= 0 || op.top_k > op.experts) {
    return unsupported(fmt::format("choice of {} out of {} experts", op.top_k, op.experts));
  }
  if (op.groups <= 0 || op.topk_groups <= 0 || op.topk_groups > op.groups ||
      op.experts % op.groups != 0 || op.experts / op.groups * op.topk_groups < op.top_k) {
    return unsupported(fmt::format("choice of {} out of {} groups of {} experts", op.topk_groups,
                                   op.groups, op.experts));
  }
  bytes_of(checked_mul(op.tokens, op.experts, "route"), DType::f32);
  return {std::make_unique<RouteKernel>(op, context), {}};
}

KernelResult make_top_k(const TopK& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.rows <= 0 || op.columns <= 0 || op.k <= 0 || op.k > op.columns) {
    return unsupported(fmt::format("choice of {} out of {}", op.k, op.columns));
  }
  bytes_of(checked_mul(op.rows, op.columns, "top-k"), DType::i64);
  return {std::make_unique<TopKKernel>(op, context), {}};
}

KernelResult make_permute(const Permute& op, const KernelContext& context) {
  if (op.tokens <= 0 || op.rows <= 0 || op.width <= 0) return unsupported("empty permutation");
  if (bits_of(op.dtype) < 8) return unsupported("permutation of elements smaller than a byte");
  bytes_of(checked_mul(std::max(op.tokens, op.rows), op.width, "permute"), DType::f32);
  return {std::make_unique<PermuteKernel>(op, context), {}};
}

KernelResult make_combine(const Combine& op, const KernelContext& context) {
  if (const std::string reason = float_only(op.dtype); !reason.empty()) return unsupported(reason);
  if (op.tokens <= 0 || op.rows <= 0 || op.width <= 0) return unsupported("empty combination");
  bytes_of(checked_mul(std::max(op.tokens, op.rows), op.width, "combine"), DType::f32);
  return {std::make_unique<CombineKernel>(op, context), {}};
}

}  // namespace tcast
