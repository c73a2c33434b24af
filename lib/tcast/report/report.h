#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/provenance.h"

namespace tcast {

/// A named input of a run, in the order in which they are printed; values as text, number or flag.
struct ReportInput {
  std::string name{};   ///< "batch_size", "device", "tp", ...
  std::string value{};  ///< as JSON: "4", "true", "\"h200\""
};

/// One row of the op table: all calls of one operator of one module in one phase.
struct ReportOp {
  std::string phase{};   ///< the name of a pass, or what is beside all passes: "sampling"
  std::string name{};    ///< "matmul", "attention", ...
  std::string module{};  ///< "model.layers.*.self_attn.q_proj"
  double calls = 0;      ///< expected ones: not whole where they depend on the routing to experts
  double total_s = 0;
  double flops = 0;      ///< of all calls
  double bytes = 0;      ///< of all calls
  std::string bound{};   ///< "compute", "memory", "network", "launch"
  std::string source{};  ///< "measured", "calibrated", "datasheet", "assumed"
  double ideal_s = 0;    ///< datasheet bound of all calls; 0 unless asked for
  bool scaled = false;   ///< timed on a smaller size and scaled
  /// Of what was timed several times: interquartile range of the samples, as a part of their
  /// median; the largest of the row's operators.
  std::optional<double> spread{};
  bool disturbed = false;  ///< timed while the machine was disturbed; the range is wider
};

/// How operators were timed on this host, and how far the times can be trusted.
struct ReportTiming {
  double took_s = 0;
  std::int64_t timed_ops = 0;      ///< distinct ones
  std::int64_t kept_ops = 0;       ///< of them, whose times were kept from earlier
  std::int64_t scaled_ops = 0;     ///< of them, timed on a smaller size
  std::int64_t disturbed_ops = 0;  ///< of them, timed while the machine was disturbed
  std::int64_t memory_used_bytes = 0;
  std::optional<double> mean_spread{};  ///< of the rows that have one, weighted by their times
  double canary_drift = 0;              ///< change of the machine's speed from begin to end
  double others_cpu_share = 0;  ///< of the processors' time meanwhile, that other processes took
  double op_overhead_s = 0;     ///< of the executor, part of the time of every op
  std::string store{};          ///< file of the kept times; empty: none
};

/// Memory of one device, in bytes.
struct ReportMemory {
  std::int64_t weights_bytes = 0;
  std::int64_t kv_cache_bytes = 0;
  std::int64_t activation_peak_bytes = 0;
  std::string activation_peak_at{};  ///< phase, op and module
  std::int64_t workspace_bytes = 0;
  std::int64_t reserved_bytes = 0;
  std::int64_t total_bytes = 0;  ///< sum of the parts above
  std::int64_t capacity_bytes = 0;
  bool fits = false;
  bool with_limits = false;  ///< the next two were asked for
  /// Largest batch that fits with these lengths, largest input + output that fits with this batch:
  /// 0 when none does, nothing when memory does not limit it.
  std::optional<std::int64_t> max_batch_size{};
  std::optional<std::int64_t> max_context_length{};
  /// Tokens of context that the config is made for, whatever fits: what its scaling of positions
  /// makes of the original length.
  std::optional<std::int64_t> context_limit{};
  std::optional<std::int64_t> max_position_embeddings{};  ///< as the config has it
  std::int64_t min_devices = 0;     ///< least number of devices that would do; 0: unknown
  std::int64_t min_devices_tp = 0;  ///< spread like this
  std::int64_t min_devices_ep = 0;
};

/// What weights, activations and KV cache are stored and computed in. Dtypes as PyTorch spells
/// them.
struct ReportDTypes {
  /// Linears, head and routers apart, whose weights are stored in one way.
  struct Linears {
    std::string scheme{};  ///< "fp8", "w8a8_dynamic"; "none": as the checkpoint's dtype has them
    std::string source{};  ///< "checkpoint", "option", "pipeline"; empty: not quantized
    std::string weight_dtype{};  ///< "float8_e4m3fn"
    std::int64_t bits = 16;      ///< of an element
    /// Rows and columns that share a scale, 0 being all of them; nothing: there are no scales.
    std::optional<std::pair<std::int64_t, std::int64_t>> block{};
    std::string activation_dtype{};  ///< that inputs are multiplied in
    std::int64_t bytes = 0;          ///< of one device, with scales
  };
  std::vector<Linears> linears{};               ///< most bytes first
  std::vector<std::string> embedding_dtypes{};  ///< of embeddings and head, each once
  std::string activation_dtype{};
  /// Of the operations of linears, most first, rare ones left out.
  std::vector<std::string> compute_dtypes{};
  std::vector<std::string> kv_cache_dtypes{};  ///< each once; none: there is no cache
  /// Bytes of all weights of one device by their dtype, most first.
  std::vector<std::pair<std::string, std::int64_t>> weight_bytes{};
};

/// "weights fp8 e4m3 128x128 blocks (checkpoint), embedding/head bf16; activations bf16, computed
/// in fp8 e4m3; KV cache bf16".
TCAST_API std::string describe(const ReportDTypes& dtypes);

/// Routed experts of a layer, the busiest rank's, of the layers of which there are most. How many
/// of them a pass is expected to choose: ReportPass::distinct_experts.
struct ReportExperts {
  std::int64_t num_experts = 0;  ///< of the layer
  std::int64_t per_token = 0;
  std::int64_t per_device = 0;  ///< that the rank holds
};

/// A kind of forward pass that was asked for; one that does not occur has no operators.
struct ReportPass {
  std::string name{};   ///< "prefill", "decode": ReportOp::phase of its operators
  std::string title{};  ///< for people: "decode step"
  /// Of the routed experts that a rank holds of a layer, expected to be chosen by at least one
  /// token of the pass; nothing for a pass without such layers.
  std::optional<double> distinct_experts{};
};

/// A number that sums up what was asked for.
struct ReportMetric {
  std::string group{};            ///< what it is part of: "latency", "throughput"
  std::string name{};             ///< as in JSON and assertions, with its unit: "ttft_s"
  std::string label{};            ///< for people: "time to first token (TTFT)"
  std::string unit{};             ///< "s", "tokens/s"
  std::optional<double> value{};  ///< nothing: there is no such number in this run
  /// Of times that were measured on this host: between what it takes undisturbed and what it took,
  /// as far as the timings tell.
  std::optional<double> low{};
  std::optional<double> high{};
  std::optional<double> ideal{};  ///< of times: the datasheet bound beside the estimate

  bool is_time() const { return unit == "s"; }
};

/// A model as it stands at some point of the pipeline: what its graph needs and costs.
struct StepFigures {
  std::int64_t regions = 0;     ///< traced regions of prefill
  std::int64_t traced_ops = 0;  ///< operators traced for prefill
  std::int64_t called_ops = 0;  ///< operators executed by prefill, as far as can be expected
  std::int64_t weights_bytes = 0;
  std::int64_t kv_cache_bytes = 0;
  double prefill_flops = 0;
  double prefill_bytes = 0;
  double decode_flops = 0;
  double decode_bytes = 0;
  std::int64_t activation_peak_bytes = 0;
  double prefill_s = 0;
  double decode_step_s = 0;
};

/// What a step did to the model.
struct ReportStep {
  std::string step{};
  double milliseconds = 0;
  std::optional<std::int64_t> expected{};
  std::int64_t changed_modules = 0;
  struct Change {
    std::string path{};
    std::string from{};
    std::string to{};
  };
  struct Skip {
    std::string path{};
    std::string reason{};
  };
  std::vector<Change> changed{};
  std::vector<Skip> skipped{};
  std::vector<std::string> warnings{};
  /// The model after the step, which `inspect --steps` alone measures; its first entry is the
  /// untransformed model, with an empty step name.
  std::optional<StepFigures> figures{};
};

/// Everything that a run of simulate found, as plain data: what each writer turns into its format.
struct Report {
  static constexpr int schema = 1;

  std::string config_file{};
  std::vector<ReportInput> inputs{};
  std::string model_type{};
  std::int64_t total_parameters = 0;
  std::int64_t active_parameters = 0;
  std::string device{};
  std::string pipeline{};  ///< "the nine standard steps", "the hook ..."
  std::optional<ReportDTypes> dtypes{};
  /// Tokens that a decode step predicts beyond the next one (--num-mtp-tokens).
  std::int64_t mtp_tokens = 0;
  /// Where the device and all else that was chosen by its name comes from.
  std::vector<Provenance> provenance{};
  ReportMemory memory{};
  std::vector<ReportPass> passes{};
  std::optional<ReportExperts> experts{};  ///< of a model that has routed ones
  std::vector<ReportMetric> metrics{};     ///< in groups, each name once
  bool with_range = false;                 ///< metrics that are times have `low` and `high`
  bool with_ideal = false;                 ///< metrics that are times have `ideal`
  std::string absent_hint{};  ///< for whoever asks for a number that there is not; may be empty
  std::optional<ReportTiming> timing{};  ///< of this host; nothing for a described device
  std::vector<ReportOp> ops{};
  std::vector<ReportStep> steps{};
  std::vector<std::string> assumptions{};
  std::vector<std::string> warnings{};
};

/// The metric of that name ("ttft_s"), or null.
TCAST_API const ReportMetric* find_metric(const Report& report, std::string_view name);

/// Whether operators have ideal times.
TCAST_API bool has_ideal(const Report& report);

}  // namespace tcast
