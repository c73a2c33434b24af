#include <memory>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/attention.h"
#include "tcast/transform/named_class.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

/// The dtype that a model computes in: that of its first parameter, the embedding, which no step
/// quantizes.
DType dtype_of(const Module& module) {
  DType dtype = DType::bf16;
  bool found = false;
  walk(module, [&](const Module& below, const ModulePath&) {
    if (found || below.parameters().empty()) return;
    dtype = below.parameters().front().dtype;
    found = true;
  });
  return dtype;
}

}  // namespace

TransformerModel& patch_attention(TransformerModel& model) { return patch_attention(model, ""); }

TransformerModel& patch_attention(TransformerModel& model, const std::string& implementation) {
  return run_step(model, "patch_attention", [&](TransformerModel& m, StepReport& report) {
    const auto* const make =
        implementation.empty()
            ? nullptr
            : &find_module_class(m, implementation, "patch_attention.implementation");
    const DType dtype = dtype_of(m.root());
    std::int64_t attentions = 0;
    rewrite(m.root(), [&](Module& module, const ModulePath& path) -> std::unique_ptr<Module> {
      const bool looks_like_attention =
          module.hf_class_name().find("Attention") != std::string::npos;
      auto* attention = dynamic_cast<AttentionModule*>(&module);
      if (attention == nullptr) {
        if (looks_like_attention) {
          attentions += path.count();
          report.skipped.push_back(
              {path.text(), "class '" + module.class_name() + "' is not an AttentionModule", true});
        }
        return nullptr;
      }
      const std::string where = path.text();
      const std::string from = attention->class_name();
      CacheOptions options;
      options.dtype = dtype;
      options.block_size = m.options().kv_block_size;
      std::unique_ptr<Module> paged;
      if (make == nullptr) {
        paged = attention->make_paged(options);
      } else {
        // Made from a copy, so that one that would become what it is stays as it is.
        const std::unique_ptr<Module> copy = module.clone();
        paged = make->call(*copy, m.profile(), m.options());
        if (dynamic_cast<AttentionModule*>(paged.get()) == nullptr) {
          make->refuse(fmt::format("it made no attention of {}", where),
                       "a class for patch_attention must return an AttentionModule");
        }
      }
      if (paged == nullptr) {
        report.skipped.push_back({where, "'" + from + "' keeps a paged cache already"});
        return nullptr;
      }
      if (auto* const replacement = dynamic_cast<AttentionModule*>(paged.get())) {
        keep_quantized_cache(*attention, *replacement, "patch_attention", where);
      }
      if (make != nullptr && same_structure(*paged, module)) {
        report.skipped.push_back({where, "it is a '" + from + "' already"});
        return nullptr;
      }
      attentions += path.count();
      report.changed.push_back({where, from, paged->class_name()});
      report.changed_modules += path.count();
      return paged;
    });
    report.expected = attentions;
  });
}

}  // namespace tcast
