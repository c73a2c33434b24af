#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/decoder.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

bool contains(const Module& module, const std::string& class_name) {
  bool found = false;
  walk(module, [&](const Module& below, const ModulePath&) {
    found = found || below.hf_class_name() == class_name;
  });
  return found;
}

std::string path_of(const Module& root, const Module& module) {
  std::string text;
  walk(root, [&](const Module& here, const ModulePath& path) {
    if (&here == &module) text = path.text();
  });
  return text;
}

/// The decoder layer that the checkpoint's MTP layers are like: the last one, of the class that the
/// profile names. Where --num-hidden-layers cut the last ones off, the last that has a mixture of
/// experts, if the profile knows one. Throws Error when there is none.
const DecoderLayer& find_block(const TransformerModel& m, const LayerList& layers) {
  const std::string& wanted = *m.profile().mtp_block_module_name;
  const std::optional<std::string>& experts = m.profile().moe_module_name;
  const auto configured = m.config().get_or<std::int64_t>("num_hidden_layers", 0);
  const bool cut = m.options().num_hidden_layers.value_or(configured) < configured;
  const DecoderLayer* block = nullptr;
  bool any = false;
  std::set<std::string> classes;
  for (const auto& layer : layers.children()) {
    classes.insert(layer->hf_class_name());
    const auto* decoder = dynamic_cast<const DecoderLayer*>(layer.get());
    if (decoder == nullptr || layer->hf_class_name() != wanted) continue;
    any = true;
    if (cut && experts && !contains(*layer, *experts)) continue;
    block = decoder;
  }
  if (block != nullptr) return *block;
  if (any) {
    throw Error(fmt::format("--num-mtp-tokens {}: a multi-token-prediction layer has a '{}', which "
                            "none of the layers kept by --num-hidden-layers {} has",
                            m.options().num_mtp_tokens, *experts, *m.options().num_hidden_layers),
                "keep more layers, or leave out one of the two");
  }
  const std::vector<std::string> present(classes.begin(), classes.end());
  throw Error(fmt::format("step 'maybe_enable_mtp': no layer has the class '{}' that the "
                          "profile's mtp_block_module_name gives",
                          wanted),
              did_you_mean(wanted, present, "the layers are " + join(present, ", ")));
}

/// A layer's copy is quantized as the layer is; what the step adds to it would not be.
void require_unquantized(const TransformerModel& m) {
  for (const char* step : {"quantize_linear", "quantize_model"}) {
    bool quantized = false;
    walk(m.root(), [&quantized](const Module& module, const ModulePath&) {
      const auto* const linear = dynamic_cast<const Linear*>(&module);
      quantized = quantized || (linear != nullptr && linear->quantization());
    });
    if (!quantized) return;
    require_before(m, "maybe_enable_mtp", step,
                   "the projection eh_proj of the new layers would not be quantized");
  }
}

}  // namespace

TransformerModel& maybe_enable_mtp(TransformerModel& model) {
  return run_step(model, "maybe_enable_mtp", [](TransformerModel& m, StepReport& report) {
    const std::int64_t tokens = m.options().num_mtp_tokens;
    if (tokens == 0) {
      report.skipped.push_back({"", "not asked for (--num-mtp-tokens 0)"});
      return;
    }
    auto* wrapper = dynamic_cast<LanguageModelWrapper*>(&m.root());
    if (wrapper == nullptr) {
      report.skipped.push_back(
          {"", "the model is not wrapped (step wrap_model comes first)", true});
      return;
    }
    if (wrapper->mtp_tokens() > 0) {
      report.skipped.push_back({"", "the multi-token-prediction layers are there already"});
      return;
    }
    const std::int64_t available = m.config().get_or<std::int64_t>("num_nextn_predict_layers", 0);
    if (available <= 0) {
      throw Error(fmt::format("--num-mtp-tokens {}: {} has no multi-token-prediction layers "
                              "(num_nextn_predict_layers {})",
                              tokens, m.config().file(), available),
                  "leave --num-mtp-tokens out");
    }
    if (!m.profile().mtp_block_module_name) {
      report.skipped.push_back({"", "the profile names no mtp_block_module_name", true});
      return;
    }
    DecoderModel& decoder = wrapper->model().decoder();
    LayerList& layers = decoder.layers();
    require_unquantized(m);
    const DecoderLayer& block = find_block(m, layers);
    const std::string list_path = path_of(m.root(), layers);
    const Shape embedding = decoder.embeddings().parameters().at(0).shape;
    const DType dtype = decoder.embeddings().parameters().at(0).dtype;
    const Module& norm = block.child(block.names().attention_norm);
    const double epsilon = norm.number_attribute("eps").value_or(1e-6);
    const std::int64_t count = std::min(available, tokens);
    report.expected = count;
    for (std::int64_t i = 0; i < count; ++i) {
      std::unique_ptr<Module> copy = block.clone();
      Module& added = layers.append(std::make_unique<MtpLayer>(dynamic_cast<DecoderLayer&>(*copy),
                                                               embedding[1], epsilon, dtype),
                                    1);
      report.changed.push_back({list_path + "." + added.name(), "", added.class_name()});
      ++report.changed_modules;
    }
    if (count < tokens) {
      report.warnings.push_back(
          fmt::format("{} tokens are predicted by {} layer(s), applied again", tokens, count));
    }
    wrapper->set_mtp_tokens(tokens);
    m.add_assumption(fmt::format(
        "a decode step checks {} tokens and counts one as accepted; divide tpot_s by the accepted "
        "tokens per step",
        tokens + 1));
  });
}

}  // namespace tcast
