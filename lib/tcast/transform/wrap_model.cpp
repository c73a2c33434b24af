#include <memory>
#include <utility>

#include "tcast/model/decoder.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

void add_head(CausalLm& lm, StepReport& report) {
  const Parameter& table = lm.decoder().embeddings().parameters().at(0);
  auto head = std::make_unique<Linear>(table.shape[1], table.shape[0], false, table.dtype);
  lm.add_child("lm_head", std::move(head));
  report.changed.push_back({"lm_head", "", "Linear"});
  ++report.changed_modules;
}

}  // namespace

TransformerModel& wrap_model(TransformerModel& model) {
  return run_step(model, "wrap_model", [](TransformerModel& m, StepReport& report) {
    if (dynamic_cast<LanguageModelWrapper*>(&m.root()) != nullptr) {
      report.expected = 0;
      report.skipped.push_back({"", "it is wrapped already"});
      return;
    }
    report.expected = 1;
    auto* lm = dynamic_cast<CausalLm*>(&m.root());
    if (lm == nullptr) {
      report.skipped.push_back(
          {"", "'" + m.root().class_name() + "' is not a causal language model", true});
      return;
    }
    if (lm->head() == nullptr) {
      add_head(*lm, report);
      if (m.config().get_or<bool>("tie_word_embeddings", false)) {
        lm->head()->parameters()[0].tied_to =
            lm->decoder_name() + "." + lm->decoder().embeddings().name() + ".weight";
      }
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
