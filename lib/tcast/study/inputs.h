#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tcast/config/hf_config.h"
#include "tcast/config/options.h"
#include "tcast/graph/workload.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/host_timing.h"

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

/// What is asked of this model: of one that predicts no tokens, one pass over the inputs. Throws
/// Error for what such a model does not do: an output length, a decode pass.
WorkloadInputs workload_for(const TransformerModel& model, const WorkloadInputs& inputs);

/// Reads a config and builds the untransformed model. What had to be assumed is in its assumptions.
/// Throws Error.
TransformerModel load_model(const std::string& config_path, const ModelInputs& inputs);
TransformerModel load_model(HfConfig config, const ModelInputs& inputs);

}  // namespace tcast
