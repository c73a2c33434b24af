#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/fused_experts.h"
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

/// A fused block computes the parts that it has names for; says which part has none. "": all have.
std::string unnamed_part(const Module& block, const MoeFieldNames& names) {
  for (const std::string& child : block.child_names()) {
    const bool named = child == names.gate || child == names.experts ||
                       child == names.shared_experts || child == names.shared_experts_gate;
    if (named) continue;
    return fmt::format(
        "its child '{}' is none of the parts that moe_field_names_override names "
        "(gate '{}', experts '{}', shared_experts '{}', shared_experts_gate '{}')",
        printable(child), names.gate, names.experts, names.shared_experts,
        names.shared_experts_gate);
  }
  return "";
}

/// Steps that treat fused experts otherwise come later. Experts that are cut one by one add their
/// parts up one by one, which grouped ones do not.
void require_untouched(const TransformerModel& m, const Module& experts, const std::string& path) {
  require_before(m, "patch_moe", "shard_model",
                 "the experts would not be spread as fused ones are");
  if (dynamic_cast<const FusedExperts*>(&experts) != nullptr) {
    for (const char* step : {"quantize_linear", "quantize_model"}) {
      require_before(m, "patch_moe", step,
                     "experts that are stored together would stay as they are");
    }
  }
  walk(experts, [&](const Module& module, const ModulePath&) {
    const auto* const linear = dynamic_cast<const Linear*>(&module);
    if (linear == nullptr || !linear->is_sharded()) return;
    throw Error(fmt::format("step 'patch_moe': the experts of {} are cut one by one already", path),
                "call patch_moe before shard_model");
  });
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
    const auto& make_experts = find_module_class(m, experts, "custom_expert_module_type");
    const std::optional<std::int64_t> configured = configured_experts(m);
    std::vector<std::string> idle =
        idle_names(m, *profile.moe_module_name, "moe_field_names_override",
                   {{"gate", names.gate},
                    {"experts", names.experts},
                    {"shared_experts", names.shared_experts},
                    {"shared_experts_gate", names.shared_experts_gate},
                    {"top_k", names.top_k},
                    {"norm_topk_prob", names.norm_topk_prob}});
    replace_named_class(
        m, report, *profile.moe_module_name, "moe_module_name",
        [&](Module& module, const std::string& path, NotReplaced& why) -> std::unique_ptr<Module> {
          if (dynamic_cast<FusedMoe*>(&module) != nullptr) {
            why = {"it is fused already", true};
            return nullptr;
          }
          const std::optional<MoeConfig> config = moe_config_of(module, names, why.reason);
          if (!config) return nullptr;
          why.reason = unnamed_part(module, names);
          if (!why.reason.empty()) return nullptr;
          require_untouched(m, module.child(names.experts), path);
          if (configured && *configured != config->num_experts) {
            throw Error(
                fmt::format("{}: the tree has {} experts, the config says {} ({})", path,
                            config->num_experts, *configured, profile.moe_num_experts_key.back()),
                "correct moe_num_experts_key in the profile");
          }
          for (std::size_t i = 0; i < module.children().size(); ++i) {
            if (module.children()[i]->name() != names.experts) continue;
            std::unique_ptr<Module> made =
                make_experts.call(*module.children()[i], profile, m.options());
            if (dynamic_cast<ExpertsModule*>(made.get()) == nullptr) {
              make_experts.refuse(
                  fmt::format("it made no experts of {}", path),
                  "a class for custom_expert_module_type must return an ExpertsModule");
            }
            module.replace_child(i, std::move(made));
          }
          return std::make_unique<FusedMoe>(
              module, *config, names, profile.moe_gate_returns_raw_logits, m.options().expert_skew);
        });
    expect_also(m, report, "its class is not the profile's moe_module_name", is_eager);
    warn_of_idle_names(report, std::move(idle));
  });
}

}  // namespace tcast
