#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tcast/base/export.h"
#include "tcast/model/moe.h"

namespace tcast {

/// All experts of a block in one module (gpt_oss). Parameters: gate_up_proj [experts, hidden,
/// 2 * intermediate], gate and up outputs taking turns, gate_up_proj_bias [experts,
/// 2 * intermediate], down_proj [experts, intermediate, hidden], down_proj_bias [experts, hidden],
/// weights as [in, out]. An expert computes down((clamp(up) + 1) * swish(clamp(gate))), clamped at
/// `activation_limit`, see ElementwiseKind::clamped_swiglu.
class TCAST_API FusedExperts : public ModuleOf<FusedExperts> {
 public:
  FusedExperts(std::string class_name, std::int64_t experts, std::int64_t hidden_size,
               std::int64_t intermediate_size, double activation_limit, DType dtype);

  struct Config {
    std::int64_t experts = 0;
    std::int64_t hidden_size = 0;
    std::int64_t intermediate_size = 0;
    double activation_limit = 0;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }
  std::string fault() const override;

  double activation_limit() const { return config_.activation_limit; }

  /// The result of one expert for its rows [rows, hidden], as the eager loop computes it.
  Value run_one(Trace& trace, Value rows, std::int64_t expert) const;

 private:
  Config config_;
};

/// The same experts computed by grouped matmuls.
class TCAST_API GroupedFusedExperts : public ModuleOf<GroupedFusedExperts, ExpertsModule> {
 public:
  explicit GroupedFusedExperts(FusedExperts& original);

  struct Config : FusedExperts::Config {
    RankGroup tensor_group{};  ///< that every expert is cut over
    RankGroup expert_group{};  ///< that the experts are spread over
    std::optional<LinearQuantization> quantization{};

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }
  std::string fault() const override;

  Value run(Trace& trace, Value rows, Value counts, const ExpertLoad& load) const override;
  void shard_tensor(RankGroup group, const std::string& path) override;
  void shard_experts(RankGroup group, const std::string& path) override;

  /// Stores the weights as `quantization` says, each expert's like those of a linear, and adds
  /// their scales.
  void quantize(const LinearQuantization& quantization);
  const std::optional<LinearQuantization>& quantization() const { return config_.quantization; }

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  void cut_parameters();
  Value product(Trace& trace, const std::string& weight_name, Value x, Value counts,
                const ExpertLoad& load, double bias_scale) const;

  Config config_;
};

}  // namespace tcast
