#include <fmt/format.h>

#include "tcast/model/decoder.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {

TransformerModel& maybe_reuse_layers(TransformerModel& model) {
  return run_step(model, "maybe_reuse_layers", [](TransformerModel& m, StepReport& report) {
    if (!m.options().reuse_layers) {
      report.skipped.push_back({"", "switched off (--no-reuse-layers)"});
      return;
    }
    walk(m.root(), [&](Module& module, const ModulePath& path) {
      auto* layers = dynamic_cast<LayerList*>(&module);
      if (layers == nullptr) return;
      if (layers->reuse()) {
        report.skipped.push_back({path.text(), "equal layers are traced once already"});
        return;
      }
      layers->set_reuse(true);
      layers->compare_layers();
      for (std::size_t i = 0; i < layers->children().size(); ++i) {
        const Module& layer = *layers->children()[i];
        const std::string where = path.text() + "." + layer.name();
        const std::size_t first = layers->equal_to()[i];
        if (first != i) {
          report.changed.push_back(
              {where, layer.class_name(), "equal to " + layers->children()[first]->name()});
        } else if (layer.members().count > 1) {
          report.changed.push_back(
              {where, layer.class_name(),
               fmt::format("traced once, called {} times", layer.members().count)});
        } else {
          const IdentityGap gap = first_identity_gap(layer);
          report.skipped.push_back({where, gap ? gap.text() : "no other layer is equal to it"});
          continue;
        }
        report.changed_modules += layer.members().count;
      }
    });
    for (const std::string& cost : cost_of_identity_gaps(m.root())) {
      report.skipped.push_back({"", cost});
    }
  });
}

}  // namespace tcast
