#include "tcast/study/least_devices.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/base/units.h"
#include "tcast/cost/pass.h"
#include "tcast/model/sharding.h"
#include "tcast/study/model_source.h"
#include "tcast/study/scenario.h"
#include "tcast/transform/coverage.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"
#include "tcast/transform/tree_facts.h"

namespace tcast {
namespace {

constexpr std::int64_t most_devices = 1024;
constexpr std::int64_t most_tp = 64;
/// Ways of spreading that are looked at before only powers of two are.
constexpr std::int64_t many_ways = 64;

/// Memory of the busiest rank.
struct Demand {
  double weight_bytes = 0;
  double other_bytes = 0;  ///< cache, activations, workspace; not what is reserved
};

Demand demand_of(const TransformerModel& model, const WorkloadInputs& asked) {
  const ModelSource source(model);
  PassTracer tracer(source);
  const std::unique_ptr<Scenario> scenario = make_scenario(asked, deployment_of(model));
  const MemoryForecast memory = forecast_memory(*scenario, tracer, {}, {});
  const auto weights = static_cast<double>(source.weight_bytes());
  return {weights, static_cast<double>(memory.total_bytes()) - weights};
}

/// Bytes of all parameters, however many ranks share them.
double whole_bytes(const TransformerModel& model) {
  double bytes = 0;
  walk(model.root(), [&bytes](const Module& module, const ModulePath& path) {
    for (const Parameter& parameter : module.parameters()) {
      if (!parameter.tied_to.empty()) continue;
      bytes += static_cast<double>(parameter.shape.elements()) * static_cast<double>(path.count()) *
               bits_of(parameter.dtype) / 8;
    }
  });
  return bytes;
}

/// The most experts that a block chooses among; 0: there are none.
std::int64_t experts_of(const TransformerModel& model) {
  const MoeFieldNames& names = model.profile().moe_field_names;
  std::int64_t experts = 0;
  walk(model.root(), [&](const Module& module, const ModulePath&) {
    if (!chooses_experts(module, names)) return;
    const std::int64_t listed = module.child(names.experts).list_size();
    experts = std::max(experts, module.int_attribute("num_experts").value_or(listed));
  });
  return experts;
}

class Search {
 public:
  Search(const TransformerModel& model, const WorkloadInputs& asked, const MemoryBudget& budget)
      : model_(model),
        asked_(asked),
        budget_(budget),
        experts_(experts_of(model)),
        requests_(asked.single_phase ? asked.single_phase->batch : asked.batch_size) {}

  LeastDevices run() {
    whole_.weight_bytes = whole_bytes(model_);
    if (!has_room(most_devices, most_devices)) return found_;
    find_unsharded();
    if (unsharded_ != nullptr) note_whole();
    for (std::int64_t devices = 1; devices <= most_devices; ++devices) {
      if (!has_room(devices, devices)) continue;
      const bool power_of_two = (devices & (devices - 1)) == 0;
      if (!power_of_two && found_.traced + found_.built >= many_ways) continue;
      for (std::int64_t tp = std::min(devices, most_tp); tp >= 1; --tp) {
        if (devices % tp != 0) continue;
        for (const std::int64_t ep : expert_groups(devices, tp)) {
          if (!has_room(devices, std::lcm(tp, ep)) || !fits({devices, tp, ep})) continue;
          found_.devices = devices;
          found_.tp = tp;
          found_.ep = ep;
          return found_;
        }
      }
    }
    return found_;
  }

 private:
  double room() const {
    return static_cast<double>(budget_.capacity_bytes) -
           static_cast<double>(budget_.reserved_bytes);
  }

  /// Whether a rank may have room: no spreading makes it hold less than its share of every tensor,
  /// and replicas share no weights, so that at most `sharing` ranks share one.
  bool has_room(std::int64_t devices, std::int64_t sharing) const {
    return whole_.weight_bytes / static_cast<double>(sharing) +
               whole_.other_bytes / static_cast<double>(devices) <=
           room();
  }

  /// Expert-parallel sizes that are worth a try: all devices, none of them, and as many as divide
  /// the experts, where the other devices cut or copy them. Replicas share the requests and nothing
  /// else: one that leaves the busiest replica as many of them as before is of no use.
  std::vector<std::int64_t> expert_groups(std::int64_t devices, std::int64_t tp) const {
    const std::int64_t dp = devices / tp;
    const bool replicas = dp == 1 || ceil_div(requests_, dp) < ceil_div(requests_, dp - 1);
    const std::int64_t most = std::gcd(experts_, devices);  // without experts: all devices
    std::vector<std::int64_t> sizes;
    if (experts_ > 0 && devices > 1 && most == devices) sizes.push_back(devices);
    if (replicas) sizes.push_back(1);
    const bool divides = experts_ > 0 && most > 1 && most < devices;
    if (divides && (replicas || std::lcm(most, tp) == devices)) sizes.push_back(most);
    return sizes;
  }

  bool fits(const ParallelOptions& parallel) {
    try {
      if (Layout(parallel) == model_.layout()) return has_memory_for(model_);
      return standard_ ? fits_by_sharding(parallel) : fits_by_transforming(parallel);
    } catch (const Error&) {
      return false;  // heads or experts do not divide by these numbers
    }
  }

  /// Only the last of the nine steps, which shards it, looks at the layout of a model; what plugins
  /// have a part in may look at it anywhere.
  static bool is_standard(const TransformerModel& model) {
    const std::vector<Provenance>& by = model.contributors();
    return custom_model_of(model) == nullptr && model.profile().pipeline.empty() &&
           std::all_of(by.begin(), by.end(),
                       [](const Provenance& one) { return one.from == Provenance::From::builtin; });
  }

  /// The model on one device, where it can be had without a hook.
  void find_unsharded() {
    const Layout& layout = model_.layout();
    if (layout.devices() == 1) {
      unsharded_ = &model_;
    } else if (layout.size(ParallelAxis::tp) == 1 && layout.size(ParallelAxis::ep) == 1) {
      made_.emplace(model_.copy_for({}));
      made_->set_replicas(1);
      unsharded_ = &*made_;
    } else if (standard_) {
      try {
        ++found_.built;
        ModelOptions options = model_.options();
        options.parallel = {};
        made_.emplace(rebuild(model_, std::move(options)));
        transform(*made_);
        unsharded_ = &*made_;
      } catch (const Error&) {
        standard_ = false;  // its layout is the only one that it can have
      }
    }
  }

  void note_whole() {
    try {
      ++found_.traced;
      whole_ = demand_of(*unsharded_, asked_);
    } catch (const Error&) {
      // More than can be counted: the weights alone tell how many devices are too few.
    }
  }

  bool fits_by_sharding(const ParallelOptions& parallel) {
    // Weights depend on the ranks of a tensor-parallel group and those that share the experts.
    const std::pair key{parallel.tp, std::lcm(parallel.tp, parallel.ep)};
    const auto known = weights_.find(key);
    const auto share = whole_.other_bytes / static_cast<double>(parallel.devices());
    if (known != weights_.end() && known->second + share > room()) return false;
    TransformerModel candidate = unsharded_->copy_for(parallel);
    shard_model(candidate);
    check_coverage(candidate, describe_pipeline(candidate));
    const auto weights = static_cast<double>(candidate.weight_bytes());
    weights_.emplace(key, weights);
    return weights + share <= room() && has_memory_for(candidate);
  }

  /// A hook may do anything with the layout, so that it has to run.
  bool fits_by_transforming(const ParallelOptions& parallel) {
    // It is asked for layouts alone over which the modules that it made divide.
    if (unsharded_ != nullptr) {
      TransformerModel copy = unsharded_->copy_for(parallel);
      ShardReport report(false);
      shard_module(copy.root(), copy.layout(), report);
    }
    ++found_.built;
    ModelOptions options = model_.options();
    options.parallel = parallel;
    TransformerModel candidate = rebuild(model_, std::move(options));
    transform(candidate);
    return has_memory_for(candidate);
  }

  bool has_memory_for(const TransformerModel& candidate) {
    ++found_.traced;
    const Demand demand = demand_of(candidate, asked_);
    return demand.weight_bytes + demand.other_bytes <= room();
  }

  const TransformerModel& model_;
  const WorkloadInputs& asked_;
  const MemoryBudget& budget_;
  bool standard_ = is_standard(model_);
  std::int64_t experts_;
  std::int64_t requests_;
  Demand whole_;  ///< of all ranks together, as far as it is known
  const TransformerModel* unsharded_ = nullptr;
  std::optional<TransformerModel> made_;
  std::map<std::pair<std::int64_t, std::int64_t>, double> weights_;
  LeastDevices found_;
};

}  // namespace

LeastDevices least_devices(const TransformerModel& model, const WorkloadInputs& asked,
                           const MemoryBudget& budget) {
  return Search(model, asked, budget).run();
}

}  // namespace tcast
