#include "tcast/study/report_model.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/report/json_text.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/stored_dtypes.h"

namespace tcast {
namespace {

void add(Report& report, const char* name, std::int64_t value) {
  report.inputs.push_back({name, std::to_string(value)});
}
void add(Report& report, const char* name, std::string_view value) {
  report.inputs.push_back({name, json_text(value)});
}
void add_number(Report& report, const char* name, double value) {
  report.inputs.push_back({name, fmt::format("{}", value)});
}
void add_flag(Report& report, const char* name, bool value) {
  report.inputs.push_back({name, value ? "true" : "false"});
}

}  // namespace

std::vector<Provenance> provenance_of(const TransformerModel& model) {
  std::vector<Provenance> all = model.profile().provenance;
  all.insert(all.end(), model.contributors().begin(), model.contributors().end());
  return all;
}

void add_model(Report& report, const TransformerModel& model) {
  report.model_type = model.config().model_type();
  const ParameterCounts counts = model.count_parameters();
  report.total_parameters = counts.total;
  report.active_parameters = counts.active;
  report.pipeline = describe_pipeline(model);
  const std::vector<Provenance> provenance = provenance_of(model);
  report.provenance.insert(report.provenance.end(), provenance.begin(), provenance.end());
  report.memory.max_position_embeddings =
      model.config().find<std::int64_t>("max_position_embeddings");
  if (const std::int64_t limit = model.context_limit()) report.memory.context_limit = limit;
  report.assumptions = model.assumptions();
  report.warnings = model.warnings();
  report.dtypes = report_dtypes(model);
  report.mtp_tokens = model.options().num_mtp_tokens;
}

ReportDTypes report_dtypes(const TransformerModel& model) {
  const StoredDTypes stored = stored_dtypes(model);
  const auto names = [](const std::vector<DType>& dtypes) {
    std::vector<std::string> list;
    list.reserve(dtypes.size());
    for (const DType dtype : dtypes) list.emplace_back(name_of(dtype));
    return list;
  };
  ReportDTypes dtypes;
  for (const StoredDTypes::Linears& one : stored.linears) {
    ReportDTypes::Linears& linears = dtypes.linears.emplace_back();
    linears.scheme = one.quantization ? one.quantization->scheme() : "none";
    linears.source = one.source;
    linears.weight_dtype = name_of(one.weight);
    linears.bits = bits_of(one.weight);
    linears.bytes = one.bytes;
    DType activation = stored.activations;
    if (one.quantization) {
      const ScaleGrid& scales = one.quantization->scales;
      linears.block = {scales.block_rows, scales.block_columns};
      activation = one.quantization->activation.value_or(activation);
    }
    linears.activation_dtype = name_of(activation);
  }
  dtypes.embedding_dtypes = names(stored.embeddings);
  dtypes.activation_dtype = name_of(stored.activations);
  dtypes.compute_dtypes = names(stored.compute);
  dtypes.kv_cache_dtypes = names(stored.caches);
  for (int i = 0; i < dtype_count; ++i) {
    const std::int64_t bytes = stored.bytes_by_dtype[static_cast<std::size_t>(i)];
    if (bytes > 0) dtypes.weight_bytes.emplace_back(name_of(static_cast<DType>(i)), bytes);
  }
  std::stable_sort(dtypes.weight_bytes.begin(), dtypes.weight_bytes.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return dtypes;
}

void add_inputs(Report& report, const TransformerModel& model, const ModelInputs& inputs,
                const WorkloadInputs& workload, const TargetInputs& target) {
  add_inputs(report, model.options(), model.profile().sources, inputs, workload, target);
}

void add_inputs(Report& report, const ModelOptions& options,
                const std::vector<std::string>& profile_sources, const ModelInputs& inputs,
                const WorkloadInputs& workload, const TargetInputs& target) {
  add(report, "config", report.config_file);
  add_flag(report, "text_only", inputs.text_only);
  add(report, "assume_base", inputs.assume_base);
  if (!options.custom_models.empty())
    add(report, "custom_models", join(options.custom_models, ","));
  if (!options.custom_model_config.empty()) {
    add(report, "custom_model_config", join(options.custom_model_config, ","));
  }
  if (!target.runner.empty()) add(report, "runner", target.runner);
  add(report, "device", target.device.empty() ? "host" : target.device);
  if (target.device.empty()) {
    add(report, "threads", target.threads);
    add_number(report, "time_budget_s", target.time_budget_s);
  }
  add(report, "num_devices", options.parallel.devices());
  add(report, "tp", options.parallel.tp);
  add(report, "ep", options.parallel.ep);
  add(report, "dp", options.parallel.dp());
  if (workload.single_phase) {
    const Workload& phase = *workload.single_phase;
    add(report, "phase", phase.phase == Phase::prefill ? "prefill" : "decode");
    add(report, "num_queries", phase.batch);
    add(report, "query_length", phase.query_length);
    add(report, "context_length", phase.context_length);
  } else {
    add(report, "batch_size", workload.batch_size);
    add(report, "input_length", workload.input_length);
    add(report, "output_length", workload.output_length);
  }
  add(report, "quantize_linear", name_of(options.quantize_linear));
  add(report, "quantize_kv_cache", name_of(options.quantize_kv_cache));
  add(report, "quantize_ignore", join(options.quantize_ignore, ","));
  if (options.dtype) add(report, "dtype", name_of(*options.dtype));
  if (options.num_hidden_layers) add(report, "num_hidden_layers", *options.num_hidden_layers);
  add(report, "num_mtp_tokens", options.num_mtp_tokens);
  add(report, "kv_block_size", options.kv_block_size);
  add_number(report, "expert_skew", options.expert_skew);
  add_flag(report, "reuse_layers", options.reuse_layers);
  add(report, "skip_steps", join(options.skip_steps, ","));
  add(report, "profiles", join(profile_sources, ","));
  add(report, "reserved_memory_bytes", target.reserved_memory_bytes);
}

}  // namespace tcast
