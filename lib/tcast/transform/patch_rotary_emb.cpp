#include "tcast/model/layers.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {

TransformerModel& patch_rotary_emb(TransformerModel& model) {
  return run_step(model, "patch_rotary_emb", [](TransformerModel& m, StepReport& report) {
    walk(m.root(), [&](Module& module, const ModulePath& path) {
      auto* rotary = dynamic_cast<RotaryEmbedding*>(&module);
      if (rotary == nullptr) return;
      if (rotary->cached()) {
        report.skipped.push_back({path.text(), "its tables are cached already"});
        return;
      }
      const std::string from = rotary->class_name();
      rotary->cache_tables();
      report.changed.push_back({path.text(), from, rotary->class_name()});
      report.changed_modules += path.count();
    });
    if (report.changed.empty() && report.skipped.empty()) {
      report.skipped.push_back({"", "the model has no rotary embedding"});
    }
  });
}

}  // namespace tcast
