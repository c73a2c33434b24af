#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/config/hf_config.h"
#include "tcast/config/options.h"
#include "tcast/graph/workload.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/inputs.h"

#include "app/command_line.h"
#include "app/output.h"

namespace tcast {

enum class OutputFormat : std::uint8_t { table, json };

/// Where results go, and in which form.
struct OutputInputs {
  OutputFormat format = OutputFormat::table;
  std::string writer = "table";         ///< of a report: the registered one that --format names
  OutputFile file;                      ///< not given: standard output
  OutputFile trace;                     ///< Chrome trace; not given: none
  std::string explain;                  ///< op whose estimates are to be explained; empty: none
  std::vector<std::string> assertions;  ///< "tpot_s<0.02"
};

/// --profile, --custom-model, --custom-model-config, --assume-base, --text-only, --dtype,
/// --num-hidden-layers, --num-mtp-tokens,
/// --skip-step,
/// --no-reuse-layers; then quantization and parallelism, which `inspect --transformed` shares.
void add_model_options(CommandLine& line, ModelInputs& inputs);

/// --quantize-linear, --quantize-kv-cache, --quantize-ignore, --kv-block-size; --num-devices, --tp,
/// --ep, --expert-skew.
void add_deployment_options(CommandLine& line, ModelOptions& options);

/// --batch-size, --input-length, --output-length.
void add_request_options(CommandLine& line, WorkloadInputs& inputs);

/// Instead of add_request_options()' ones: --phase, --num-queries, --query-length,
/// --context-length.
void add_phase_options(CommandLine& line, WorkloadInputs& inputs);

/// --store, --no-store.
void add_store_options(CommandLine& line, StoreInputs& inputs);

/// --device, --runner, --reserved-memory, --ideal, --threads, --time-budget, --store, --no-store.
void add_target_options(CommandLine& line, TargetInputs& inputs);

/// --format (the given ones), -o.
void add_output_options(CommandLine& line, OutputInputs& inputs,
                        const std::vector<OutputFormat>& formats);

/// --format (the name of a registered report writer), -o.
void add_report_output_options(CommandLine& line, OutputInputs& inputs);

/// --trace, --explain, --assert.
void add_report_options(CommandLine& line, OutputInputs& inputs);

/// Writes a result in the form that was asked for: a table for a person, everything else as it is.
/// Throws Error.
void write_result(OutputInputs& output, std::string_view result, Streams streams);

/// "json", ...: as the command line spells it.
std::string_view name_of(OutputFormat format);

}  // namespace tcast
