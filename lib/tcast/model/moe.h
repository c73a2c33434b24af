#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/config/model_profile.h"
#include "tcast/graph/expert_routing.h"
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

  bool operator==(const MlpNames&) const = default;
};

/// Feed-forward block: down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate.
class TCAST_API Mlp : public ModuleOf<Mlp> {
 public:
  /// `activation` is SiLU, GELU, ... as an elementwise kind of one operand.
  Mlp(std::string class_name, MlpNames names, ElementwiseKind activation);

  struct Config {
    MlpNames names{};
    ElementwiseKind activation = ElementwiseKind::silu;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value input) const override;
  std::string fault() const override;

  const MlpNames& names() const { return config_.names; }
  ElementwiseKind activation() const { return config_.activation; }

  void shard(const Layout& layout, ShardReport& report) override;
  /// Cuts the intermediate width over the group; the results are sums over its ranks, which are
  /// added up unless the caller does that later (`reduce` false). Throws Error when it does not
  /// divide; `path` names the module in it.
  void shard_width(RankGroup group, bool reduce, const std::string& path);

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
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

  bool operator==(const MoeConfig&) const = default;
};

/// How the experts of a block are spread (see Layout): the ranks of a tensor-parallel group
/// share the tokens of the group out among `token_slices` of them, send rows to the ranks of
/// `expert_group`, and cut each expert over `tensor_group`.
struct ExpertParallel {
  RankGroup expert_group;
  RankGroup tensor_group;
  RankGroup token_slices;
  std::int64_t replicas = 1;  ///< data-parallel ones, of the whole deployment

  bool operator==(const ExpertParallel&) const = default;
};

/// As HuggingFace's eager block: a loop over the experts, each picking its rows. An expert without
/// rows is not computed. So when pricing, an expert's ops count as the part of the passes in which
/// it has rows (Op::runs): over all experts, these parts sum to the expected distinct experts, and
/// the rows to those that are routed, as in the fused block.
class TCAST_API EagerMoe : public ModuleOf<EagerMoe> {
 public:
  EagerMoe(std::string class_name, MoeConfig config, MoeFieldNames names);

  struct Config : MoeConfig {
    MoeFieldNames names{};

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value input) const override;
  std::string fault() const override;

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// The experts of a fused block as one module: any registered class may take its place
/// (profile field custom_expert_module_type).
class TCAST_API ExpertsModule : public ModulePart<ExpertsModule> {
 public:
  using ModulePart::ModulePart;
  NoState config() const { return {}; }
  /// Rows [rows, hidden] in the order of their experts, and how many each expert has; result
  /// [rows, hidden]. `load` is what is expected of these; when executing, its rows are those that
  /// there is room for.
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

  struct Config {
    RankGroup group{};  ///< that the experts are spread over

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value run(Trace& trace, Value rows, Value counts, const ExpertLoad& load) const override;
  std::string fault() const override;
  void shard_tensor(RankGroup group, const std::string& path) override;
  void shard_experts(RankGroup group, const std::string& path) override;

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// Fused block: route, permute, grouped experts, combine; with experts spread over ranks, an
/// all-to-all before and after.
class TCAST_API FusedMoe : public ModuleOf<FusedMoe> {
 public:
  /// Takes `original` over. Its parts carry the names of `names`; its `experts` child must be an
  /// ExpertsModule.
  FusedMoe(Module& original, MoeConfig config, MoeFieldNames names, bool route_in_block,
           double skew);

  struct Config : MoeConfig {
    MoeFieldNames names{};
    bool route_in_block = false;
    double skew = 0;
    ExpertParallel parallel{};
    RankGroup reduce_group{};  ///< sums routed and shared parts together at the end

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value input) const override;
  std::string fault() const override;

  const MoeFieldNames& names() const { return config_.names; }

  /// How the tokens of a pass come to the experts, of `tokens` tokens that this rank is given.
  ExpertRouting routing(const Workload& workload, std::int64_t tokens) const;

  /// Spreads the experts; the shared experts are cut over the tensor-parallel group.
  void shard(const Layout& layout, ShardReport& report) override;

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// Reads the block's settings from its attributes under the names of `names`; nothing, and the
/// reason in `missing`, when a required one is absent. Throws Error for a scoring_func that nobody
/// knows and for attributes of another type.
TCAST_API std::optional<MoeConfig> moe_config_of(const Module& block, const MoeFieldNames& names,
                                                 std::string& missing);
/// Lists the attributes that moe_config_of() reads.
TCAST_API void list_moe_attributes(std::vector<Attribute>& list, const MoeConfig& config,
                                   const MoeFieldNames& names);

}  // namespace tcast
