#pragma once

#include <string>
#include <vector>

#include "tcast/base/provenance.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"
#include "tcast/study/inputs.h"

namespace tcast {

/// Where what a model was made from comes from: its profiles, and everything else that took part.
std::vector<Provenance> provenance_of(const TransformerModel& model);

/// Puts into a report what it says of a transformed model whatever is asked about it: type,
/// parameters (as deployed: with MTP layers if they were asked for), pipeline, dtypes, what had to
/// be assumed, config keys that nothing read, warnings.
void add_model(Report& report, const TransformerModel& model);

/// What the reader of any number about a transformed model has to be warned of: what of the config
/// or of what was asked for is not in it, and the steps' own warnings.
std::vector<std::string> model_warnings(const TransformerModel& model);

/// What weights, activations and KV cache are stored and computed in.
ReportDTypes report_dtypes(const TransformerModel& model);

/// Lists in a report everything that was asked for: the model's options as they took effect, the
/// workload, the target. The same question asked again gives the same list.
void add_inputs(Report& report, const TransformerModel& model, const ModelInputs& inputs,
                const WorkloadInputs& workload, const TargetInputs& target);
/// The same before there is a model: `options` as they were asked for.
void add_inputs(Report& report, const ModelOptions& options,
                const std::vector<std::string>& profile_sources, const ModelInputs& inputs,
                const WorkloadInputs& workload, const TargetInputs& target);

}  // namespace tcast
