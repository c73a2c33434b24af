#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/quantization_plan.h"

namespace tcast {

/// What a plan means for the modules of a tree: the one place that decides which linear is stored
/// how. quantize_model asks it what to do, coverage_of() what should have been done.
class TCAST_API QuantizationRules {
 public:
  /// `root` is the model's tree, or a copy of it; its lists are cut until every rule says the same
  /// of all entries of a node. Throws Error for patterns that cannot be used.
  QuantizationRules(const TransformerModel& model, Module& root, QuantizationPlan plan);

  const QuantizationPlan& plan() const { return plan_; }

  /// What becomes of a parameter.
  struct Verdict {
    const LinearQuantization* linear = nullptr;  ///< null: it stays
    std::string reason{};                        ///< why it stays; empty where it does not
  };
  /// Of a weight matrix of a module that holds products.
  Verdict decide(const Module& module, const ModulePath& path, const Parameter& weight) const;

  /// Patterns that name nothing in `root`, with where they stand, and modules that two groups
  /// claim, in words; towers and layers that are not built are no reason to complain.
  std::vector<std::string> complaints(const Module& root) const;

  /// Of --quantize-ignore, the first pattern that names no module with products; empty: none.
  std::string idle_option(const Module& root) const;

 private:
  struct Ignored {
    ModuleFilter filter;
    std::string source;
  };

  std::optional<ModuleFilter::Match> group_match(std::size_t group, const std::string& path,
                                                 std::string_view class_name) const;
  bool is_left_out(const std::string& pattern) const;
  /// The patterns of a list that match no module with products.
  static std::vector<std::string> without_products(const ModulePatterns& patterns,
                                                   const ModuleFilter::Names& names,
                                                   const Module& root);

  QuantizationPlan plan_;
  std::vector<Ignored> ignored_;       // in the order of the plan
  std::vector<ModuleFilter> targets_;  // of each group; without patterns where it has none
  std::set<const Module*> routers_;
  std::int64_t layers_ = 0;   // that the tree has
  std::int64_t unbuilt_ = 0;  // layers of the checkpoint behind those
  bool cut_off_ = false;      // by --num-hidden-layers
};

}  // namespace tcast
