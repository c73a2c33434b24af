#include "tcast/transform/scale_blocks.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/transform/tree_facts.h"

namespace tcast {
namespace {

/// A weight that is cut along a dimension in which blocks of it share scales, or a stored word.
struct CutWeight {
  std::string path;
  bool is_expert = false;
  bool rows = false;  ///< else columns
  std::int64_t block = 1;
  bool words = false;  ///< that values share, else scales
  Shard shard;

  /// Whether blocks stay whole when the ranks of its group are `ranks` instead.
  bool holds_whole_blocks(std::int64_t ranks) const {
    for (std::size_t i = 0; i < shard.segments.size(); ++i) {
      const ShardSegment& segment = shard.segments[i];
      // Of parts that are fewer than the ranks (key/value heads) there are never more.
      const std::int64_t parts =
          segment.parts == shard.ranks ? ranks : std::min(segment.parts, ranks);
      const bool is_last = i + 1 == shard.segments.size();
      if (parts == 1 && is_last) continue;  // its end is the end of the weight
      if (segment.size % parts != 0 || segment.size / parts % block != 0) return false;
    }
    return true;
  }

  /// Largest part that a rank holds and that is no multiple of the block.
  const ShardSegment& offending() const {
    for (const ShardSegment& segment : shard.segments) {
      if (segment.local_size() % block != 0) return segment;
    }
    return shard.segments.front();
  }
};

std::vector<CutWeight> cut_weights(const TransformerModel& model) {
  std::vector<CutWeight> found;
  const MoeFieldNames& names = model.profile().moe_field_names;
  walk(model.root(), [&](const Module& module, const ModulePath& path) {
    const LinearQuantization* const quantization = quantization_of(module);
    if (quantization == nullptr) return;
    for (const Parameter& weight : module.parameters()) {
      if (!is_weight_matrix(weight) || weight.shard.ranks == 1) continue;
      const bool rows = weight.shard.dim == weight.shape.rank() - 2;
      const ScaleGrid& scales = quantization->scales;
      // 0 and 1: one scale for all, or a scale for each.
      const std::int64_t scaled =
          std::max<std::int64_t>(1, rows ? scales.block_rows : scales.block_columns);
      const std::int64_t block =
          std::lcm(scaled, rows ? quantization->output_multiple : quantization->input_multiple);
      if (block == 1) continue;
      found.push_back(
          {path.text(), is_routed_expert(path, names), rows, block, block != scaled, weight.shard});
    }
  });
  return found;
}

/// Ranks that cut a weight under other options.
std::int64_t ranks_under(const CutWeight& weight, std::int64_t tp, std::int64_t ep) {
  const Layout layout({std::lcm(tp, ep), tp, ep});
  return layout.size(weight.is_expert ? ParallelAxis::etp : ParallelAxis::tp);
}

bool all_hold(const std::vector<CutWeight>& weights, std::int64_t tp, std::int64_t ep) {
  return std::all_of(weights.begin(), weights.end(), [&](const CutWeight& weight) {
    return weight.holds_whole_blocks(ranks_under(weight, tp, ep));
  });
}

/// What works: experts that are spread instead of cut, or fewer tensor-parallel ranks.
std::string advice(const TransformerModel& model, const std::vector<CutWeight>& weights) {
  const ParallelOptions& parallel = model.options().parallel;
  std::vector<std::string> ways;
  const std::int64_t ep = std::lcm(parallel.ep, parallel.tp);
  bool divides = parallel.devices() % ep == 0;
  walk(model.root(), [&](const Module& module, const ModulePath&) {
    if (!chooses_experts(module, model.profile().moe_field_names)) return;
    divides = divides && module.int_attribute("num_experts").value_or(ep) % ep == 0;
  });
  if (divides && ep > parallel.ep && all_hold(weights, parallel.tp, ep)) {
    ways.push_back(fmt::format("--ep {} spreads the experts whole", ep));
  }
  for (std::int64_t tp = parallel.tp - 1; tp >= 1; --tp) {
    if (parallel.tp % tp != 0 || !all_hold(weights, tp, parallel.ep)) continue;
    ways.push_back(fmt::format("--tp {} cuts no block", tp));
    break;
  }
  return join(ways, "; ");
}

}  // namespace

void refuse_cut_blocks(const TransformerModel& model) {
  const std::vector<CutWeight> weights = cut_weights(model);
  const auto is_cut = [](const CutWeight& weight) {
    return !weight.holds_whole_blocks(weight.shard.ranks);
  };
  const auto first = std::find_if(weights.begin(), weights.end(), is_cut);
  if (first == weights.end()) return;
  const auto others = std::count_if(weights.begin(), weights.end(), is_cut) - 1;
  const ShardSegment& segment = first->offending();
  throw Error(
      fmt::format("{}: {} ranks cut its {} {} into parts of {}, but one {} belongs to {} of "
                  "them{}",
                  first->path, first->shard.ranks, segment.size, first->rows ? "rows" : "columns",
                  segment.local_size(), first->words ? "stored word" : "scale", first->block,
                  others > 0 ? fmt::format(" (and {} more modules like it)", others) : ""),
      advice(model, weights));
}

}  // namespace tcast
