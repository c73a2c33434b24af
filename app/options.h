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

#include "app/command_line.h"
#include "app/host_timing.h"
#include "app/output.h"

namespace tcast {

/// What turns a config into the model that the user means.
struct ModelInputs {
  std::vector<std::string> profiles;  ///< files, later ones over earlier ones
  std::string assume_base;            ///< architecture of an unknown model type
  bool text_only = false;             ///< the text_config of a model with more towers
  /// Sizes by key that take the place of the config's, for a smaller model of the same kind.
  ConfigSizes sizes;
  ModelOptions options;
};

/// Requests to simulate: either whole ones, or one forward pass exactly.
struct WorkloadInputs {
  std::int64_t batch_size = 1;      ///< requests of the whole deployment
  std::int64_t input_length = 512;  ///< tokens of each
  std::int64_t output_length = 128;
  bool output_given = false;             ///< --output-length was
  std::optional<Workload> single_phase;  ///< --phase; then the fields above do not count
};

/// What the model runs on.
struct TargetInputs {
  std::string device;  ///< name or file of a device profile; empty: this host, timed
  std::int64_t reserved_memory_bytes = 0;
  std::string runner{};       ///< registered cost model in place of the roofline; empty: none
  bool ideal = false;         ///< show the datasheet bound beside the estimate
  std::int64_t threads = 0;   ///< for timing this host; 0: all
  double time_budget_s = 10;  ///< for timing this host
  StoreInputs store;          ///< of its measurements
};

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

/// What is asked of this model: of one that predicts no tokens, one pass over the inputs. Throws
/// Error for what such a model does not do: an output length, a decode pass.
WorkloadInputs workload_for(const TransformerModel& model, const WorkloadInputs& inputs);

/// Reads a config and builds the untransformed model. What had to be assumed is in its assumptions.
/// Throws Error.
TransformerModel load_model(const std::string& config_path, const ModelInputs& inputs);
TransformerModel load_model(HfConfig config, const ModelInputs& inputs);

}  // namespace tcast
