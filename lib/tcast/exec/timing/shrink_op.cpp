#include <algorithm>
#include <cmath>

#include "tcast/base/error.h"
#include "tcast/exec/timing/timer.h"

namespace tcast {
namespace {

double real(std::int64_t value) { return static_cast<double>(value); }

std::int64_t part_of(std::int64_t size, double share, std::int64_t multiple = 1) {
  const auto wanted = static_cast<std::int64_t>(std::ceil(static_cast<double>(size) * share));
  return std::clamp<std::int64_t>(round_up(std::max<std::int64_t>(1, wanted), multiple), 1, size);
}

double ratio(std::int64_t part, std::int64_t whole) { return real(part) / real(whole); }

struct Shrink {
  double share;

  /// Cuts `size` to whole multiples; returns the share that the next dimension has to be cut to, 1
  /// while this one could give more.
  static double cut(std::int64_t& size, double wanted, std::int64_t multiple, double& done) {
    if (wanted >= 1) return wanted;
    const std::int64_t part = part_of(size, wanted, multiple);
    const double got = ratio(part, size);
    size = part;
    done *= got;
    return part <= multiple ? std::min(1.0, wanted / got) : 1;
  }

  ShrunkOp operator()(MatMul op) const {
    double done = 1;
    double left = cut(op.batch, share, 1, done);
    left = cut(op.n, left, 256, done);
    cut(op.m, left, 16, done);
    return {op, done};
  }
  ShrunkOp operator()(GroupedMatMul op) const {
    double done = 1;
    const std::int64_t all = std::max<std::int64_t>(1, std::llround(op.distinct_experts));
    std::int64_t distinct = all;
    const double left = cut(distinct, share, 1, done);
    const std::int64_t rows = op.row_count();
    const std::int64_t fewer = std::max(distinct, rows * distinct / all);
    op.distinct_experts = real(distinct);
    op.experts = std::max(distinct, op.experts * distinct / all);
    op.rows = real(fewer);
    cut(op.n, left, 256, done);
    return {op, done};
  }
  ShrunkOp operator()(Attention op) const {
    double done = 1;
    double left = cut(op.batch, share, 1, done);
    const std::int64_t group = op.heads / std::max<std::int64_t>(1, op.kv_heads);
    left = cut(op.kv_heads, left, 1, done);
    op.heads = group * op.kv_heads;
    if (left >= 1) return {op, done};
    const double pairs = attended_pairs(op.span, op.query_length, op.context_length);
    if (op.query_length > 1) {
      // The last tokens of the prompt, which see the most.
      const std::int64_t whole = op.query_length;
      op.query_length = part_of(whole, left, 16);
      op.context_length += whole - op.query_length;
      left = op.query_length <= 16
                 ? left * pairs / attended_pairs(op.span, op.query_length, op.context_length)
                 : 1;
    }
    if (left < 1 && op.span.window == 0 && op.span.chunk == 0 && op.context_length > 0) {
      op.context_length = part_of(op.context_length, left, 128);
    }
    done *= attended_pairs(op.span, op.query_length, op.context_length) / pairs;
    return {op, std::min(1.0, done)};
  }
  ShrunkOp operator()(Elementwise op) const {
    if (op.packing != Packing::none) {
      std::int64_t rows = op.elements / op.width;
      double done = 1;
      cut(rows, share, 1, done);
      op.elements = rows * op.width;
      return {op, done};
    }
    if (op.second_elements > 0 && op.second_elements < op.elements) {
      // Whole repetitions of the second operand.
      std::int64_t times = op.elements / op.second_elements;
      double done = 1;
      cut(times, share, 1, done);
      op.elements = times * op.second_elements;
      return {op, done};
    }
    const bool two = op.second_elements == op.elements;
    double done = 1;
    cut(op.elements, share, 4096, done);
    if (two) op.second_elements = op.elements;
    return {op, done};
  }
  ShrunkOp operator()(Copy op) const {
    double done = 1;
    if (op.parts[0].run == 0) {
      cut(op.written_elements, share, 4096, done);
      op.read_elements = op.written_elements;
      return {op, done};
    }
    // Fewer rows of every part.
    const std::int64_t written = op.written_elements;
    op.written_elements = 0;
    for (CopyPart& part : op.parts) {
      double ignored = 1;
      std::int64_t& rows = *std::max_element(part.sizes.begin(), part.sizes.end());
      if (part.run > 0) cut(rows, share, 1, ignored);
      op.written_elements += part.elements();
    }
    done = ratio(op.written_elements, written);
    op.read_elements = part_of(op.read_elements, done);
    return {op, done};
  }
  ShrunkOp operator()(CacheRead op) const { return rows(op, op.tokens); }
  ShrunkOp operator()(Softmax op) const { return rows(op, op.rows); }
  ShrunkOp operator()(Norm op) const { return rows(op, op.rows); }
  ShrunkOp operator()(Rotary op) const { return rows(op, op.tokens); }
  ShrunkOp operator()(RotaryTable op) const { return rows(op, op.tokens); }
  ShrunkOp operator()(Gather op) const { return rows(op, op.rows); }
  ShrunkOp operator()(CacheAppend op) const { return rows(op, op.tokens); }
  ShrunkOp operator()(Route op) const { return rows(op, op.tokens); }
  ShrunkOp operator()(TopK op) const { return rows(op, op.rows); }
  ShrunkOp operator()(Quantize op) const { return rows(op, op.rows); }
  ShrunkOp operator()(Permute op) const { return tokens(op); }
  ShrunkOp operator()(Combine op) const { return tokens(op); }
  ShrunkOp operator()(Collective op) const { return {op, 1}; }
  ShrunkOp operator()(CustomOp op) const { return {op, 1}; }

 private:
  template <class Record>
  ShrunkOp rows(Record& op, std::int64_t& size) const {
    double done = 1;
    cut(size, share, 1, done);
    return {op, done};
  }
  template <class Record>
  ShrunkOp tokens(Record& op) const {
    double done = 1;
    const std::int64_t per_token = std::max<std::int64_t>(1, op.rows / op.tokens);
    cut(op.tokens, share, 1, done);
    op.rows = op.tokens * per_token;
    return {op, done};
  }
};

}  // namespace

ShrunkOp shrink(const OpRecord& record, double share) {
  TCAST_CHECK(share > 0, "share of an operator");
  if (share >= 1) return {record, 1};
  return std::visit([&](const auto& op) { return Shrink{share}(op); }, record);
}

}  // namespace tcast
