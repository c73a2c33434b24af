#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/latent_attention.h"
#include "tcast/transform/named_class.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

/// What a latent attention must have under the profile's names; "" when nothing is missing.
std::string missing_fields(const Module& module, const MlaFieldNames& names) {
  const bool compressed_query = module.find_child(names.q_a_proj) != nullptr;
  std::vector<std::string> children = {names.kv_a_proj_with_mqa, names.kv_a_layernorm,
                                       names.kv_b_proj, names.o_proj};
  if (compressed_query) {
    children.insert(children.end(), {names.q_a_layernorm, names.q_b_proj});
  } else {
    children.push_back(names.q_proj);
  }
  for (const std::string& child : children) {
    if (module.find_child(child) != nullptr) continue;
    const std::vector<std::string> present = module.child_names();
    return fmt::format("it has no child '{}'; {}", child,
                       did_you_mean(child, present, "it has " + join(present, ", ")));
  }
  for (const std::string& attribute : {names.num_heads, names.kv_lora_rank, names.qk_nope_head_dim,
                                       names.qk_rope_head_dim, names.v_head_dim}) {
    if (module.find_attribute(attribute)) continue;
    std::vector<std::string> present;
    for (const Attribute& known : module.attributes()) present.push_back(known.name);
    return fmt::format("it has no attribute '{}'; {}", attribute,
                       did_you_mean(attribute, present, "it has " + join(present, ", ")));
  }
  return "";
}

/// Whether a module caches keys and values of every head although it computes them from latents.
bool expands_latents(const Module& module) {
  return dynamic_cast<const EagerLatentAttention*>(&module) != nullptr ||
         dynamic_cast<const PagedExpandedAttention*>(&module) != nullptr;
}

}  // namespace

TransformerModel& patch_mla(TransformerModel& model) {
  return patch_mla(model, model.profile().mla_module_class_type);
}

TransformerModel& patch_mla(TransformerModel& model, const std::string& implementation) {
  return run_step(model, "patch_mla", [&](TransformerModel& m, StepReport& report) {
    const ModelProfile& profile = m.profile();
    constexpr const char* no_name = "the profile names no latent attention (mla_module_name)";
    if (!profile.mla_module_name) {
      report.skipped.push_back({"", no_name});
      expect_also(m, report, no_name, expands_latents);
      return;
    }
    const auto& make = find_module_class(m, implementation, "mla_module_class_type");
    const MlaFieldNames& names = profile.mla_field_names;
    std::vector<std::string> idle =
        idle_names(m, *profile.mla_module_name, "mla_field_names_override",
                   {{"num_heads", names.num_heads},
                    {"q_lora_rank", names.q_lora_rank},
                    {"kv_lora_rank", names.kv_lora_rank},
                    {"qk_nope_head_dim", names.qk_nope_head_dim},
                    {"qk_rope_head_dim", names.qk_rope_head_dim},
                    {"v_head_dim", names.v_head_dim},
                    {"q_proj", names.q_proj},
                    {"q_a_proj", names.q_a_proj},
                    {"q_a_layernorm", names.q_a_layernorm},
                    {"q_b_proj", names.q_b_proj},
                    {"kv_a_proj_with_mqa", names.kv_a_proj_with_mqa},
                    {"kv_a_layernorm", names.kv_a_layernorm},
                    {"kv_b_proj", names.kv_b_proj},
                    {"o_proj", names.o_proj}});
    replace_named_class(
        m, report, *profile.mla_module_name, "mla_module_name",
        [&](Module& module, const std::string& path, NotReplaced& why) -> std::unique_ptr<Module> {
          why.reason = missing_fields(module, profile.mla_field_names);
          if (!why.reason.empty()) return nullptr;
          const auto* const attention = dynamic_cast<LatentAttention*>(&module);
          if (attention == nullptr) {
            why.reason = "class '" + module.class_name() + "' is not a LatentAttention";
            return nullptr;
          }
          // Made from a copy, so that one that would become what it is stays as it is.
          const std::unique_ptr<Module> copy = module.clone();
          std::unique_ptr<Module> made = make.call(*copy, profile, m.options());
          auto* const replacement = dynamic_cast<AttentionModule*>(made.get());
          if (replacement == nullptr) {
            make.refuse(fmt::format("it made no attention of {}", path),
                        "a class for mla_module_class_type must return an AttentionModule");
          }
          keep_quantized_cache(*attention, *replacement, "patch_mla", path);
          if (same_structure(*made, module)) {
            why = {fmt::format("it is a '{}' already", made->class_name()), true};
            return nullptr;
          }
          return made;
        });
    expect_also(m, report, "its class is not the profile's mla_module_name", expands_latents);
    warn_of_idle_names(report, std::move(idle));
  });
}

}  // namespace tcast
