#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/moe.h"
#include "tcast/transform/named_class.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

/// Number of experts that the config gives under the profile's key, if the key is there.
std::optional<std::int64_t> configured_experts(const TransformerModel& model) {
  const std::vector<std::string>& keys = model.profile().moe_num_experts_key;
  std::optional<HfConfig> config = model.config();
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
    config = config->nested(keys[i]);
    if (!config) return std::nullopt;
  }
  return config->find<std::int64_t>(keys.back());
}

}  // namespace

TransformerModel& patch_moe(TransformerModel& model) {
  return patch_moe(model, model.profile().custom_expert_module_type);
}

TransformerModel& patch_moe(TransformerModel& model, const std::string& experts) {
  return run_step(model, "patch_moe", [&](TransformerModel& m, StepReport& report) {
    const ModelProfile& profile = m.profile();
    constexpr const char* no_name = "the profile names no mixture of experts (moe_module_name)";
    const auto is_eager = [](const Module& module) {
      return dynamic_cast<const EagerMoe*>(&module) != nullptr;
    };
    if (!profile.moe_module_name) {
      report.skipped.push_back({"", no_name, m.options().expert_skew > 0});
      expect_also(m, report, no_name, is_eager);
      return;
    }
    const MoeFieldNames& names = profile.moe_field_names;
    const ModuleClassFunction make_experts =
        find_module_class(experts, "custom_expert_module_type");
    const std::optional<std::int64_t> configured = configured_experts(m);
    replace_named_class(
        m, report, *profile.moe_module_name, "moe_module_name",
        [&](Module& module, const std::string& path) -> Replacement {
          if (dynamic_cast<FusedMoe*>(&module) != nullptr) {
            return {nullptr, "it is fused already", true};
          }
          std::string reason;
          const std::optional<MoeConfig> config = moe_config_of(module, names, reason);
          if (!config) return {nullptr, std::move(reason)};
          if (configured && *configured != config->num_experts) {
            throw Error(
                fmt::format("{}: the tree has {} experts, the config says {} ({})", path,
                            config->num_experts, *configured, profile.moe_num_experts_key.back()),
                "correct moe_num_experts_key in the profile");
          }
          for (std::size_t i = 0; i < module.children().size(); ++i) {
            if (module.children()[i]->name() != names.experts) continue;
            std::unique_ptr<Module> made =
                make_experts(*module.children()[i], profile, m.options());
            if (dynamic_cast<ExpertsModule*>(made.get()) == nullptr) {
              throw Error(
                  fmt::format("profile: custom_expert_module_type: '{}' is no class of experts",
                              printable(experts)));
            }
            module.replace_child(i, std::move(made));
          }
          return {std::make_unique<FusedMoe>(module, *config, names,
                                             profile.moe_gate_returns_raw_logits,
                                             m.options().expert_skew)};
        });
    expect_also(m, report, "its class is not the profile's moe_module_name", is_eager);
  });
}

}  // namespace tcast
