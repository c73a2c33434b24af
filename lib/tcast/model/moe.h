#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/config/model_profile.h"
#include "tcast/model/layers.h"
#include "tcast/model/module.h"

namespace tcast {

/// Names of the projections of a feed-forward block; an empty `gate` means no gating. `gate_up`
/// non-empty: one projection whose first half of outputs is the gate.
struct MlpNames {
  std::string gate = "gate_proj";
  std::string up = "up_proj";
  std::string down = "down_proj";
  std::string gate_up = "";
};

/// Feed-forward block: down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate.
class TCAST_API Mlp : public ModuleOf<Mlp> {
 public:
  /// `activation` is SiLU, GELU, ... as an elementwise kind of one operand.
  Mlp(std::string class_name, MlpNames names, ElementwiseKind activation);

  Value forward(Trace& trace, Value input) const override;

  const MlpNames& names() const { return names_; }
  ElementwiseKind activation() const { return activation_; }

  /// Cuts the intermediate width over the group. Throws Error when it does not divide.
  void shard(RankGroup group, bool reduce, const std::string& path);

 private:
  MlpNames names_;
  ElementwiseKind activation_;
};

/// Elementwise kind that multiplies the second operand by the activated first one (SwiGLU, GEGLU).
/// Throws InternalError when there is none for `activation`.
TCAST_API ElementwiseKind gated(ElementwiseKind activation);

/// What a mixture-of-experts block chooses and how.
struct MoeConfig {
  std::int64_t num_experts = 1;
  std::int64_t top_k = 1;
  RouterScore score = RouterScore::softmax;
  std::int64_t groups = 1;
  std::int64_t topk_groups = 1;
  std::int64_t group_best = 2;  ///< a group counts by the sum of this many best experts
  bool correction_bias = false;
  bool normalize = false;
  double scale = 1;
};

/// Expected work of the busiest rank for a number of routed rows (decision D7).
struct ExpertLoad {
  std::int64_t rows = 0;            ///< rows that its experts process
  std::int64_t active_experts = 0;  ///< of its experts, those that get a row
};

/// `total_rows` choices spread over `experts` experts on `ranks` ranks. Popularity falls with the
/// Zipf exponent `skew` (0: even); experts are dealt to ranks in order of popularity, so the first
/// rank is the busiest. No expert gets more than one row of a token, which chooses `top_k` experts.
TCAST_API ExpertLoad expert_load(std::int64_t total_rows, std::int64_t experts, std::int64_t ranks,
                                 std::int64_t top_k, double skew);

/// How the experts of a block are spread (see shard_model): the ranks of a tensor-parallel group
/// share the tokens of the group out among `token_slices` of them, send rows to the ranks of
/// `expert_group`, and cut each expert over `tensor_group`.
struct ExpertParallel {
  RankGroup expert_group;
  RankGroup tensor_group;
  RankGroup token_slices;
};

/// As HuggingFace's eager block: a loop over the experts, each picking its rows.
class TCAST_API EagerMoe : public ModuleOf<EagerMoe> {
 public:
  EagerMoe(std::string class_name, MoeConfig config, MoeFieldNames names);
  Value forward(Trace& trace, Value input) const override;

 private:
  MoeConfig config_;
  MoeFieldNames names_;
};

/// The experts of a fused block as one module: any registered class may take its place
/// (profile field custom_expert_module_type).
class TCAST_API ExpertsModule : public Module {
 public:
  using Module::Module;
  /// Rows [rows, hidden] in the order of their experts, and how many each expert has; result
  /// [rows, hidden].
  virtual Value run(Trace& trace, Value rows, Value counts, const ExpertLoad& load) const = 0;
  /// Cuts every expert over a group without summing the parts. Throws Error if it does not divide.
  virtual void shard_tensor(RankGroup group, const std::string& path) = 0;
  /// Keeps one rank's share of the experts: that of the rank with the most bytes.
  virtual void shard_experts(RankGroup group, const std::string& path) = 0;
};

/// The list of experts computed by grouped matmuls. Its children stay the members of the list,
/// under their names; each node of the list is one product.
class TCAST_API GroupedExperts : public ModuleOf<GroupedExperts, ExpertsModule> {
 public:
  explicit GroupedExperts(Module& list);
  Value run(Trace& trace, Value rows, Value counts, const ExpertLoad& load) const override;
  void shard_tensor(RankGroup group, const std::string& path) override;
  void shard_experts(RankGroup group, const std::string& path) override;

 private:
  RankGroup group_;  ///< that the experts are spread over
};

/// Fused block: route, permute, grouped experts, combine; with experts spread over ranks, an
/// all-to-all before and after.
class TCAST_API FusedMoe : public ModuleOf<FusedMoe> {
 public:
  /// Takes `original` over. Its parts carry the names of `names`; its `experts` child must be an
  /// ExpertsModule.
  FusedMoe(Module& original, MoeConfig config, MoeFieldNames names, bool route_in_block,
           double skew);
  Value forward(Trace& trace, Value input) const override;

  const MoeConfig& config() const { return config_; }
  const MoeFieldNames& names() const { return names_; }
  /// Zipf exponent of the routing that it is priced with; 0: even.
  double skew() const { return skew_; }

  /// Spreads the experts; the shared experts are cut over `tensor_parallel`. Throws Error when
  /// something does not divide.
  void shard(const ExpertParallel& parallel, RankGroup tensor_parallel, const std::string& path);

 private:
  MoeConfig config_;
  MoeFieldNames names_;
  bool route_in_block_;
  double skew_;
  ExpertParallel parallel_;
  RankGroup reduce_group_;  ///< sums routed and shared parts together at the end
};

/// Reads the block's settings from its attributes under the names of `names`; nothing, and the
/// reason in `missing`, when a required one is absent.
TCAST_API std::optional<MoeConfig> moe_config_of(const Module& block, const MoeFieldNames& names,
                                                 std::string& missing);
/// Sets the attributes that moe_config_of() reads.
TCAST_API void set_moe_attributes(Module& block, const MoeConfig& config,
                                  const MoeFieldNames& names);

}  // namespace tcast
