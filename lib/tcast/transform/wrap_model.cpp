#include <memory>
#include <utility>

#include "tcast/model/decoder.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {
TransformerModel& wrap_model(TransformerModel& model) {
  return run_step(model, "wrap_model", [](TransformerModel& m, StepReport& report) {
    if (dynamic_cast<LanguageModelWrapper*>(&m.root()) != nullptr) {
      report.expected = 0;
      report.skipped.push_back({"", "the model is wrapped already"});
      return;
    }
    report.expected = 1;
    auto* lm = dynamic_cast<CausalLm*>(&m.root());
    if (lm == nullptr) {
      report.skipped.push_back(
          {"", "'" + m.root().class_name() + "' is not a causal language model", true});
      return;
    }
    const std::string from = lm->class_name();
    m.wrap_root([](std::unique_ptr<Module> root) {
      return std::make_unique<LanguageModelWrapper>(std::move(root));
    });
    report.changed.push_back({"", from, m.root().class_name()});
    ++report.changed_modules;
  });
}

}  // namespace tcast
