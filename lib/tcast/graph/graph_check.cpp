#include "tcast/graph/graph_check.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace tcast {
namespace {

/// The operands of one op, and the first thing that is wrong with them.
class OperandCheck {
 public:
  OperandCheck(const Region& region, const Op& op) : region_(region), op_(op) {}

  const std::string& fault() const { return fault_; }

  void operator()(const MatMul& op) {
    const MatMulStrides at(op);
    std::size_t inputs = 2;
    if (op.x_row_stride == 0) rows_of(0, op.k, "input");
    at_least(0, at.x_extent, "input");
    if (op.x_row_stride == 0 && op.x_batch_stride == 0) elements(0, at.x_extent, "input");
    if (op.weight_offset == 0 && op.weight_batch_stride == 0) {
      elements(1, at.weight_extent, "weight");
    }
    at_least(1, at.weight_extent, "weight");
    if (op.weight_scales) weight_scales(inputs, *op.weight_scales, op.weight_scale_count());
    if (op.bias) at_least(inputs++, op.bias_offset + op.n, "bias");
    if (op.activation_scales) {
      elements(inputs++, op.activation_scale_count(), "activation scales");
    }
    count(inputs, 1);
    result(0, at.y_extent);
  }

  void operator()(const GroupedMatMul& op) {
    std::size_t inputs = 3;
    rows_of(0, op.k, "input");
    elements(0, op.row_count() * op.k, "input");
    elements(1, op.experts * op.n * op.k, "weight");
    at_least(2, op.first_expert + op.experts, "token counts");
    if (op.weight_scales) {
      weight_scales(inputs, *op.weight_scales, op.experts * op.weight_scale_count());
    }
    if (op.bias) elements(inputs++, op.experts * op.n, "bias");
    if (op.activation_scales) {
      elements(inputs++, op.activation_scale_count(), "activation scales");
    }
    count(inputs, 1);
    result(0, op.row_count() * op.n);
  }

  void operator()(const Attention& op) {
    const std::int64_t tokens = op.batch * op.query_length;
    const std::int64_t keys = op.batch * (op.context_length + op.query_length);
    rows_of(0, op.heads * op.qk_head_dim, "query");
    elements(0, tokens * op.heads * op.qk_head_dim, "query");
    std::size_t inputs = 2;
    if (op.paged) {
      const std::int64_t value = op.value_in_key ? 0 : op.v_head_dim;
      rows_of(1, op.kv_heads * (op.qk_head_dim + value), "cache");
    } else {
      elements(1, keys * op.kv_heads * op.qk_head_dim, "keys");
      elements(inputs++, keys * op.kv_heads * op.v_head_dim, "values");
    }
    if (op.sinks) elements(inputs++, op.heads, "sinks");
    count(inputs, 1);
    result(0, tokens * op.heads * op.v_head_dim);
  }

  void operator()(const Softmax& op) {
    rows_of(0, op.columns, "input");
    elements(0, op.rows * op.columns, "input");
    if (op.sink_heads > 0) elements(1, op.sink_heads, "sinks");
    count(op.sink_heads > 0 ? 2 : 1, 1);
    result(0, op.rows * op.columns);
  }

  void operator()(const Norm& op) {
    std::size_t inputs = 1;
    // Heads that lie side by side in a row are normalized one by one.
    require(op.width > 0 && last_dim(0) % op.width == 0, [&] {
      return fmt::format("its input is {}, expected rows of {}", shape_text(0), op.width);
    });
    elements(0, op.rows * op.width, "input");
    if (op.stage != NormStage::sum_squares) {
      if (op.weight) elements(inputs++, op.width, "weight");
      if (op.bias) elements(inputs++, op.width, "bias");
      if (op.stage == NormStage::scale) elements(inputs++, op.rows, "sums of squares");
    }
    count(inputs, 1);
    result(0, op.stage == NormStage::sum_squares ? op.rows : op.rows * op.width);
  }

  void operator()(const Elementwise& op) {
    const bool two = op.packing == Packing::none && takes_two(op.kind);
    if (op.packing != Packing::none) rows_of(0, 2 * op.width, "input");
    elements(0, op.packing == Packing::none ? op.elements : 2 * op.elements, "input");
    if (two) {
      elements(1, op.second_elements, "second operand");
      stretches(0, 1);
    }
    count(two ? 2 : 1, 1);
    result(0, op.elements);
  }

  void operator()(const Rotary& op) {
    elements(0, op.tokens * op.heads * op.head_dim, "input");
    rows_of(1, op.rotary_dim, "cosines");
    elements(1, op.tokens * op.rotary_dim, "cosines");
    elements(2, op.tokens * op.rotary_dim, "sines");
    count(3, 1);
    result(0, op.tokens * op.heads * op.head_dim);
  }

  void operator()(const RotaryTable& op) {
    elements(0, op.tokens, "positions");
    elements(1, op.dim / 2, "inverse frequencies");
    count(2, 2);
    result(0, op.tokens * op.dim);
  }

  void operator()(const Gather& op) {
    rows_of(0, op.width, "table");
    elements(0, op.table_rows * op.width, "table");
    elements(1, op.rows, "indices");
    count(2, 1);
    result(0, op.rows * op.width);
  }

  void operator()(const CacheAppend& op) {
    std::int64_t sum = 0;
    const std::size_t pieces = op_.inputs.count > 0 ? op_.inputs.count - 1U : 0U;
    for (std::size_t i = 0; i < pieces; ++i) sum += elements_of(i);
    require(pieces > 0 && sum == op.tokens * op.width, [&] {
      return fmt::format("its new values have {} elements, expected {}", sum, op.tokens * op.width);
    });
    rows_of(pieces, op.width, "cache");
  }

  void operator()(const CacheRead& op) {
    const std::int64_t width = op.kv_heads * op.head_dim;
    count(1, 1);
    require(last_dim(0) >= width, [&] {
      return fmt::format("its cache is {}, expected rows of at least {}", shape_text(0), width);
    });
    result(0, op.batch * op.tokens * width);
  }

  void operator()(const Copy& op) {
    result(0, op.written_elements);
    const bool flat = op.parts[0].run == 0 && op.parts[1].run == 0;
    if (flat) {
      elements(0, op.written_elements, "source");
      count(1, 1);
      return;
    }
    // A part of an empty source has no runs.
    for (std::size_t i = 0; i < op.parts.size(); ++i) {
      const CopyPart& part = op.parts[i];
      if (part.run == 0) continue;
      at_least(i, part.source_extent(), "source");
      require(part.target_extent() <= op.written_elements, [&] {
        return fmt::format("it writes up to element {} of {}", part.target_extent(),
                           op.written_elements);
      });
    }
    require(op_.inputs.count <= op.parts.size(), [&] {
      return fmt::format("it has {} sources, expected {} at most", op_.inputs.count,
                         op.parts.size());
    });
  }

  void operator()(const Route& op) {
    rows_of(0, op.experts, "logits");
    elements(0, op.tokens * op.experts, "logits");
    if (op.correction_bias) elements(1, op.experts, "correction bias");
    count(op.correction_bias ? 2 : 1, 2);
    result(0, op.tokens * op.top_k);
  }

  void operator()(const TopK& op) {
    rows_of(0, op.columns, "input");
    elements(0, op.rows * op.columns, "input");
    result(0, op.rows * op.k);
  }

  void operator()(const Permute& op) {
    rows_of(0, op.width, "input");
    result(0, op.rows * op.width);
  }

  void operator()(const Combine& op) {
    rows_of(0, op.width, "input");
    elements(0, op.rows * op.width, "input");
    if (op.expert < 0) result(0, op.tokens * op.width);
  }

  void operator()(const Quantize& op) {
    rows_of(0, op.columns, "input");
    elements(0, op.rows * op.columns, "input");
    result(0, op.rows * op.columns);
  }

  void operator()(const Collective& op) {
    if (op.kind == CollectiveKind::all_reduce) result(0, elements_of(0));
    if (op.kind == CollectiveKind::slice || op.kind == CollectiveKind::reduce_scatter) {
      require(result_elements(0) * op.group_size >= elements_of(0), [&] {
        return fmt::format("{} ranks keep {} of {} elements each", op.group_size,
                           result_elements(0), elements_of(0));
      });
    }
    if (op.kind == CollectiveKind::all_gather) {
      require(elements_of(0) * op.group_size >= result_elements(0), [&] {
        return fmt::format("{} ranks with {} elements each do not give {}", op.group_size,
                           elements_of(0), result_elements(0));
      });
    }
  }

  void operator()(const CustomOp&) {}

 private:
  void weight_scales(std::size_t& inputs, const ScaleGrid& grid, std::int64_t scales) {
    at_least(inputs++, scales, "weight scales");
    if (grid.zero_points) at_least(inputs++, scales, "weight zero points");
  }

  template <class Say>
  void require(bool holds, Say say) {
    if (fault_.empty() && !holds) fault_ = say();
  }

  const Tensor& input(std::size_t i) const {
    return region_.tensors[op_.inputs[static_cast<int>(i)]];
  }
  bool has_input(std::size_t i) const { return i < op_.inputs.count; }
  std::string shape_text(std::size_t i) const { return to_string(input(i).shape); }

  std::int64_t elements_of(std::size_t i) const {
    if (!has_input(i)) return 0;
    const Tensor& tensor = input(i);
    return tensor.shape.elements() * std::max<std::int64_t>(1, tensor.stacked);
  }
  std::int64_t last_dim(std::size_t i) const {
    if (!has_input(i)) return 0;
    const Shape& shape = input(i).shape;
    return shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
  }
  std::int64_t result_elements(std::size_t i) const {
    if (i >= op_.outputs.count) return 0;
    return region_.tensors[op_.outputs[static_cast<int>(i)]].shape.elements();
  }

  void count(std::size_t inputs, std::size_t results) {
    require(op_.inputs.count == inputs && op_.outputs.count == results, [&] {
      return fmt::format("it has {} operands and {} results, expected {} and {}", op_.inputs.count,
                         op_.outputs.count, inputs, results);
    });
  }
  /// Exactly so many elements.
  void elements(std::size_t i, std::int64_t expected, std::string_view what) {
    require(has_input(i) && elements_of(i) == expected, [&] {
      return has_input(i)
                 ? fmt::format("its {} is {}, expected {} elements", what, shape_text(i), expected)
                 : fmt::format("it has no {}", what);
    });
  }
  /// As many elements or more: a part of the tensor is used.
  void at_least(std::size_t i, std::int64_t expected, std::string_view what) {
    require(has_input(i) && elements_of(i) >= expected, [&] {
      return has_input(i) ? fmt::format("its {} is {}, expected {} elements or more", what,
                                        shape_text(i), expected)
                          : fmt::format("it has no {}", what);
    });
  }
  void rows_of(std::size_t i, std::int64_t width, std::string_view what) {
    require(has_input(i) && last_dim(i) == width, [&] {
      return has_input(i)
                 ? fmt::format("its {} is {}, expected rows of {}", what, shape_text(i), width)
                 : fmt::format("it has no {}", what);
    });
  }
  void result(std::size_t i, std::int64_t expected) {
    require(result_elements(i) == expected, [&] {
      return fmt::format("its result has {} elements, expected {}", result_elements(i), expected);
    });
  }

  /// The second operand has the size of the first, or is stretched over it as in PyTorch: aligned
  /// at the right, every dimension the same or 1.
  void stretches(std::size_t a, std::size_t b) {
    if (!has_input(a) || !has_input(b)) return;
    const Shape& to = input(a).shape;
    const Shape& from = input(b).shape;
    bool fits = from.rank() <= to.rank();
    for (int i = 1; fits && i <= from.rank(); ++i) {
      const std::int64_t size = from[from.rank() - i];
      fits = size == 1 || size == to[to.rank() - i];
    }
    require(fits || from.elements() == to.elements(), [&] {
      return fmt::format("{} does not stretch to {}", to_string(from), to_string(to));
    });
  }

  const Region& region_;
  const Op& op_;
  std::string fault_;
};

/// The path of a scope in the layer that a call is bound to.
std::string path_in(const Region& region, std::uint32_t scope, std::int32_t member) {
  std::string path = path_of(region, scope);
  const std::size_t star = path.find('*');
  if (member >= 0 && star != std::string::npos) path.replace(star, 1, std::to_string(member));
  return path;
}

std::optional<GraphFault> fault_of_call(const Graph& graph, const Call& call) {
  const Region& region = graph.regions[call.region];
  const auto compare = [&](const IdList& values, const std::vector<TensorId>& tensors,
                           std::string_view what) -> std::optional<GraphFault> {
    for (int i = 0; i < values.count; ++i) {
      const Shape& given = graph.values[values[i]].shape;
      const Shape& traced = region.tensors[tensors[static_cast<std::size_t>(i)]].shape;
      if (given == traced) continue;
      const std::uint32_t scope = region.ops.empty() ? 0 : region.ops.front().scope;
      return GraphFault{
          path_in(region, scope, call.member),
          fmt::format("its {} is {}, expected {}", what, to_string(given), to_string(traced))};
    }
    return std::nullopt;
  };
  if (auto fault = compare(call.inputs, region.inputs, "input")) return fault;
  return compare(call.outputs, region.outputs, "result");
}

}  // namespace

std::optional<GraphFault> find_fault(const Graph& graph) {
  std::vector<bool> looked_at(graph.region_count);
  for (const Call& call : graph.calls) {
    if (auto fault = fault_of_call(graph, call)) return fault;
    if (looked_at[call.region]) continue;
    looked_at[call.region] = true;
    const Region& region = graph.regions[call.region];
    for (const Op& op : region.ops) {
      OperandCheck check(region, op);
      std::visit(check, op.record);
      if (check.fault().empty()) continue;
      return GraphFault{
          path_in(region, op.scope, call.member),
          fmt::format("{} {}: {}", name_of(op.record), describe(op.record), check.fault())};
    }
  }
  return std::nullopt;
}

}  // namespace tcast
