#include "tcast/transform/stored_dtypes.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <variant>

#include "tcast/model/decoder.h"
#include "tcast/transform/quantization_plan.h"
#include "tcast/transform/tree_facts.h"

namespace tcast {
namespace {

/// Of operations: what is rarer is not worth a word.
constexpr double least_share = 0.01;

void add_once(std::vector<DType>& list, DType dtype) {
  if (std::find(list.begin(), list.end(), dtype) == list.end()) list.push_back(dtype);
}

using Parameters = std::set<const Parameter*>;

void add_all(Parameters& set, const Module& module) {
  for (const Parameter& parameter : module.parameters()) set.insert(&parameter);
}

/// Parameters of the head, whatever it is.
Parameters head_of(const Module& root) {
  Parameters head;
  walk(root, [&](const Module& module, const ModulePath&) {
    const auto* lm = dynamic_cast<const CausalLm*>(&module);
    // Without a head, the decoder is the child without a name.
    if (lm == nullptr || lm->head_kind() == HeadKind::none) return;
    const Module* const own = lm->find_child(lm->config().head.name);
    if (own == nullptr) return;
    walk(*own, [&head](const Module& part, const ModulePath&) { add_all(head, part); });
  });
  return head;
}

Parameters router_parameters(const TransformerModel& model) {
  Parameters routers;
  for (const Module* router : routers_of(model.root(), model.profile().moe_field_names)) {
    add_all(routers, *router);
  }
  return routers;
}

std::string source_of(const LinearQuantization& quantization, const QuantizationPlan& plan) {
  const bool planned =
      std::any_of(plan.groups.begin(), plan.groups.end(), [&](const QuantizationGroup& group) {
        return group.linear && *group.linear == quantization;
      });
  if (!planned) return "pipeline";
  return plan.linear_by_option ? "option" : "checkpoint";
}

class Collector {
 public:
  Collector(const TransformerModel& model, StoredDTypes& result)
      : model_(model),
        result_(result),
        head_(head_of(model.root())),
        routers_(router_parameters(model)),
        plan_(plan_quantization(model.config(), model.options())) {}

  void look_at_tree() {
    walk(model_.root(), [this](const Module& module, const ModulePath& path) {
      const LinearQuantization* const quantization = quantization_of(module);
      for (const Parameter& parameter : module.parameters()) {
        const std::int64_t bytes =
            checked_mul(parameter.local_bytes(), path.local_count(), "bytes of weights");
        result_.bytes_by_dtype[static_cast<std::size_t>(parameter.dtype)] += bytes;
        const bool is_head = head_.count(&parameter) > 0;
        const bool is_table = parameter.role == InitRole::embedding;
        if ((is_head && is_weight_matrix(parameter)) || (is_table && parameter.tied_to.empty())) {
          add_once(result_.embeddings, parameter.dtype);
        } else if (!is_apart(parameter) &&
                   (is_weight_matrix(parameter) || parameter.is_quantization_part())) {
          linears_of(quantization, parameter).bytes += bytes;
        }
      }
    });
    std::stable_sort(result_.linears.begin(), result_.linears.end(),
                     [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  }

  void look_at_pass() {
    Graph graph;
    model_.trace({Phase::prefill, 1, 1, 0}, graph);
    const std::vector<std::int64_t> calls = graph.calls_per_region();
    std::array<double, dtype_count> flops{};
    bool embedded = false;
    for (std::uint32_t r = 0; r < graph.region_count; ++r) {
      const Region& region = graph.regions[r];
      for (const CacheSpec& cache : region.caches) add_once(result_.caches, cache.dtype);
      for (const Op& op : region.ops) {
        if (std::holds_alternative<Gather>(op.record) && op.outputs.count > 0 && !embedded) {
          result_.activations = region.tensors[op.outputs[0]].dtype;
          embedded = true;  // what follows picks rows of activations
        }
        add_product(region, op, static_cast<double>(calls[r]), flops);
      }
    }
    const double all = std::accumulate(flops.begin(), flops.end(), 0.0);
    for (int i = 0; i < dtype_count; ++i) {
      const double own = flops[static_cast<std::size_t>(i)];
      if (own > 0 && own >= least_share * all) result_.compute.push_back(static_cast<DType>(i));
    }
    std::stable_sort(result_.compute.begin(), result_.compute.end(), [&](DType a, DType b) {
      return flops[static_cast<std::size_t>(a)] > flops[static_cast<std::size_t>(b)];
    });
  }

 private:
  /// Schemes for linears are not about the head and about routers.
  bool is_apart(const Parameter& parameter) const {
    return head_.count(&parameter) > 0 || routers_.count(&parameter) > 0;
  }

  StoredDTypes::Linears& linears_of(const LinearQuantization* quantization,
                                    const Parameter& parameter) {
    for (StoredDTypes::Linears& one : result_.linears) {
      const bool same = quantization == nullptr
                            ? !one.quantization && one.weight == parameter.dtype
                            : one.quantization && *one.quantization == *quantization;
      if (same) return one;
    }
    StoredDTypes::Linears& fresh = result_.linears.emplace_back();
    fresh.weight = parameter.dtype;
    if (quantization != nullptr) {
      fresh.quantization = *quantization;
      fresh.weight = quantization->weight;
      fresh.source = source_of(*quantization, plan_);
    } else if (parameter.quantized_from) {
      fresh.source = "pipeline";
    }
    return fresh;
  }

  /// Operations of a product with a weight, unless it is the head's or a router's.
  void add_product(const Region& region, const Op& op, double calls,
                   std::array<double, dtype_count>& flops) const {
    if (op.inputs.count < 2) return;
    const Tensor& weight = region.tensors[op.inputs[1]];
    if (weight.kind != TensorKind::parameter || is_apart(*weight.parameter)) return;
    const auto add = [&](const auto& product, double rows) {
      flops[static_cast<std::size_t>(product.compute)] +=
          calls * rows * static_cast<double>(product.n) * static_cast<double>(product.k);
    };
    if (const auto* product = std::get_if<MatMul>(&op.record)) {
      add(*product, static_cast<double>(product->batch) * static_cast<double>(product->m));
    } else if (const auto* grouped = std::get_if<GroupedMatMul>(&op.record)) {
      add(*grouped, static_cast<double>(grouped->rows));
    }
  }

  const TransformerModel& model_;
  StoredDTypes& result_;
  Parameters head_;
  Parameters routers_;
  QuantizationPlan plan_;
};

}  // namespace

StoredDTypes stored_dtypes(const TransformerModel& model) {
  StoredDTypes result;
  Collector collector(model, result);
  collector.look_at_tree();
  collector.look_at_pass();
  return result;
}

}  // namespace tcast
