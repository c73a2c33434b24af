#include "tcast/study/inputs.h"

#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/config_class.h"
#include "tcast/config/model_profile.h"
#include "tcast/transform/pipeline.h"

namespace tcast {

WorkloadInputs workload_for(const TransformerModel& model, const WorkloadInputs& inputs) {
  if (model.generates()) return inputs;
  const std::string what =
      fmt::format("{}: a model of this class predicts no tokens", model.config().file());
  const char* const hint =
      "it takes --batch-size and --input-length; with a head for tokens its architectures would "
      "name another class";
  if (inputs.output_given) throw Error(what + ", so that there is no --output-length", hint);
  WorkloadInputs asked = inputs;
  if (!asked.single_phase) {
    asked.single_phase = Workload{Phase::prefill, inputs.batch_size, inputs.input_length, 0};
  } else if (asked.single_phase->phase == Phase::decode) {
    throw Error(what + ", so that there is no --phase decode", hint);
  }
  return asked;
}

TransformerModel load_model(const std::string& config_path, const ModelInputs& inputs) {
  return load_model(HfConfig::load(config_path), inputs);
}

TransformerModel load_model(HfConfig config, const ModelInputs& inputs) {
  ModelOptions options = inputs.options;
  std::vector<std::string> assumptions;
  if (inputs.text_only) {
    const std::string whole = config.model_type();
    config = config.text_part();
    assumptions.push_back(
        fmt::format("only the text model of '{}' is built (--text-only)", printable(whole)));
  }
  const std::string model_type = config.model_type();
  ResolvedArchitecture architecture = resolve_architecture(config, inputs.assume_base);
  if (!inputs.assume_base.empty() && architecture.built_as.empty()) {
    assumptions.push_back(fmt::format("--assume-base {} is not used: '{}' is a known model type",
                                      inputs.assume_base, printable(model_type)));
  }
  ModelProfile profile = load_profile(model_type, inputs.profiles, architecture.built_as);
  if (profile.base && !inputs.assume_base.empty()) {
    assumptions.push_back(fmt::format("--assume-base {} is not used: the profile's base is '{}'",
                                      inputs.assume_base, *profile.base));
  }
  if (!inputs.sizes.empty()) {
    // Under the names that they have in configs of this class.
    const std::string built = profile.base ? *profile.base : architecture.built_as;
    const auto* const known = config_classes().find(built.empty() ? model_type : built);
    if (known != nullptr) config = config.as_class(known->data());
    config = config.with_sizes(inputs.sizes).as_written();
  }
  TransformerModel model = build_model(std::move(config), std::move(profile), std::move(options),
                                       std::move(architecture));
  for (std::string& assumption : assumptions) model.add_assumption(std::move(assumption));
  bind_custom_model(model);
  return model;
}

}  // namespace tcast
