#include "app/options.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/base/units.h"
#include "tcast/config/hf_config.h"
#include "tcast/report/report_writers.h"
#include "tcast/transform/pipeline.h"

#include "app/environment.h"

namespace tcast {
namespace {

constexpr std::int64_t max_layers = 100'000;  // as in a config
constexpr std::int64_t max_mtp_tokens = 1024;

constexpr std::string_view format_names[] = {"table", "json"};

Reader to_dtype(std::optional<DType>& target) {
  return [&target](const std::string& text) {
    const std::optional<DType> dtype = parse_dtype(text);
    if (dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) {
      target = dtype;
      return;
    }
    throw Error(
        fmt::format("expected bfloat16, float16 or float32, got '{}'", printable(text)),
        dtype ? "8-bit types are chosen with --quantize-linear and --quantize-kv-cache" : "");
  };
}

Reader to_skipped_step(std::vector<std::string>& target) {
  return [&target](const std::string& text) {
    const std::vector<std::string> known = registered_steps().names();
    if (std::find(known.begin(), known.end(), text) == known.end()) {
      throw Error(fmt::format("unknown step '{}'", printable(text)),
                  did_you_mean(text, known, fmt::format("known are {}", join(known, ", "))));
    }
    target.push_back(text);
  };
}

Reader to_architecture(std::string& target) {
  return [&target](const std::string& text) {
    if (architectures().find(text) == nullptr) {
      throw Error(
          fmt::format("unknown model type '{}'", printable(text)),
          did_you_mean(text, architectures().names(), "see 'tcast models' for the known ones"));
    }
    target = text;
  };
}

/// For what other tools can do and tcast cannot yet: 1 is harmless.
Reader refuse_above_one(std::string what) {
  return [what = std::move(what)](const std::string& text) {
    std::int64_t size = 0;
    to_size(size)(text);
    if (size > 1) {
      throw Error(fmt::format("{} is not supported yet", what),
                  "spread the model with --tp and --ep");
    }
  };
}

}  // namespace

std::string_view name_of(OutputFormat format) {
  return format_names[static_cast<std::size_t>(format)];
}

void add_model_options(CommandLine& line, ModelInputs& inputs) {
  ModelOptions& options = inputs.options;
  line.begin_group("Model");
  line.add_repeated("--profile", {"FILE", FileUse::reads}, append_to(inputs.profiles),
                    "YAML model profile, merged over the builtin one; may be repeated");
  line.add_repeated("--custom-model", "TYPE=HOOK", append_to(options.custom_models),
                    "transform this model type (or pattern) by a registered hook: its name, "
                    "plugin:name or plugin.name; may be repeated");
  line.add_repeated("--custom-model-config", "KEY=VALUE", append_to(options.custom_model_config),
                    "a value for the hook, over the profile's; may be repeated");
  line.add_option("--assume-base", "TYPE", to_architecture(inputs.assume_base),
                  "build an unknown model type like this known one");
  line.add_flag("--text-only", inputs.text_only, "only the text model of a model with more towers");
  line.add_option("--dtype", "DTYPE", to_dtype(options.dtype),
                  "bfloat16, float16 or float32 instead of the checkpoint's");
  line.add_option("--num-hidden-layers", "N", to_size(options.num_hidden_layers, 1, max_layers),
                  "layers instead of the config's");
  line.add_option("--num-mtp-tokens", "N", to_size(options.num_mtp_tokens, 0, max_mtp_tokens),
                  "tokens to predict beyond the next one; default 0");
  line.add_repeated("--skip-step", "STEP", to_skipped_step(options.skip_steps),
                    "leave out a step (see 'tcast steps'); may be repeated");
  line.add_flag("--no-reuse-layers", options.reuse_layers, "trace equal layers one by one", false);
}

void add_deployment_options(CommandLine& line, ModelOptions& options) {
  line.begin_group("Quantization");
  line.add_option(
      "--quantize-linear", "SCHEME",
      [&options](const std::string& text) {
        options.quantize_linear = require_linear_scheme(text);
      },
      fmt::format("{}; default checkpoint: what the config says",
                  join(linear_scheme_names(), ", ")));
  line.add_option(
      "--quantize-kv-cache", "SCHEME",
      [&options](const std::string& text) { options.quantize_kv_cache = require_kv_scheme(text); },
      fmt::format("{}; default checkpoint: what the config says", join(kv_scheme_names(), ", ")));
  line.add_repeated("--quantize-ignore", "PATTERN", append_to(options.quantize_ignore),
                    "module that stays as it is, as 'lm_head' or '*.down_proj'; may be repeated");
  line.add_option("--kv-block-size", "TOKENS", to_size(options.kv_block_size, 1, 1 << 20),
                  "tokens per block of the KV cache; default 128");

  ParallelOptions& parallel = options.parallel;
  line.begin_group("Parallelism");
  line.add_option("--num-devices", "N", to_size(parallel.num_devices),
                  "devices in total; default that of --tp");
  line.add_option("--tp", "N", to_size(parallel.tp), "tensor parallel ranks; default 1");
  line.add_option("--ep", "N", to_size(parallel.ep),
                  "ranks that the experts are spread over; default 1");
  line.add_hidden("--pp", refuse_above_one("pipeline parallelism"));
  line.add_hidden("--cp", refuse_above_one("context parallelism"));
  line.add_option("--expert-skew", "S", to_number(options.expert_skew, 0, 10),
                  "Zipf exponent of how tokens choose experts; default 0: evenly");
}

void add_request_options(CommandLine& line, WorkloadInputs& inputs) {
  line.begin_group("Workload");
  line.add_option("--batch-size", "N", to_size(inputs.batch_size),
                  "requests at a time in the whole deployment; default 1");
  line.add_option("--input-length", "TOKENS", to_size(inputs.input_length),
                  "prompt tokens of each request; default 512");
  line.add_option("--output-length", "TOKENS", to_size(inputs.output_length),
                  "generated tokens of each request; default 128");
  line.add_check([&line, &inputs] { inputs.output_given = line.given("--output-length"); });
}

void add_phase_options(CommandLine& line, WorkloadInputs& inputs) {
  line.begin_group("Workload of one forward pass instead");
  Workload& pass = inputs.single_phase.emplace();
  pass.query_length = 0;
  pass.context_length = -1;
  line.add_option(
      "--phase", "PHASE",
      [&pass](const std::string& text) {
        const std::string names[] = {"prefill", "decode"};
        pass.phase = find_choice(text, names) == 0 ? Phase::prefill : Phase::decode;
      },
      "prefill or decode");
  line.add_option("--num-queries", "N", to_size(pass.batch), "requests in the pass; default 1");
  line.add_option("--query-length", "TOKENS", to_size(pass.query_length),
                  "new tokens of each request; default 512 in prefill, 1 in decode");
  line.add_option("--context-length", "TOKENS", to_size(pass.context_length, 0),
                  "tokens of each that are in the cache; default 0 in prefill, 512 in decode");
  line.add_check([&line, &inputs] {
    if (!line.given("--phase")) {
      for (const char* name : {"--num-queries", "--query-length", "--context-length"}) {
        if (!line.given(name)) continue;
        throw Error(fmt::format("{} describes one forward pass, but --phase is missing", name),
                    "add --phase prefill or --phase decode");
      }
      inputs.single_phase.reset();
      return;
    }
    for (const char* name : {"--batch-size", "--input-length", "--output-length"}) {
      if (!line.given(name)) continue;
      throw Error(fmt::format("{} describes whole requests, --phase one forward pass", name),
                  "with --phase use --num-queries, --query-length and --context-length");
    }
    Workload& workload = *inputs.single_phase;
    const bool prefill = workload.phase == Phase::prefill;
    if (!line.given("--query-length")) workload.query_length = prefill ? 512 : 1;
    if (!line.given("--context-length")) workload.context_length = prefill ? 0 : 512;
  });
}

void add_store_options(CommandLine& line, StoreInputs& inputs) {
  inputs.default_file = default_store_file();
  line.add_option("--store", {"FILE", FileUse::updates, inputs.default_file}, to_text(inputs.file),
                  "where timings of this host are kept; default measurements.sqlite in the user's "
                  "cache directory");
  line.add_flag("--no-store", inputs.enabled, "time everything anew, and keep nothing", false);
  line.add_check([&line] {
    if (line.given("--store") && line.given("--no-store")) {
      throw Error("--store and --no-store contradict each other", "leave out one of them");
    }
  });
}

void add_target_options(CommandLine& line, TargetInputs& inputs) {
  line.begin_group("Target");
  line.add_option("--device", {"NAME|FILE", FileUse::device}, to_text(inputs.device),
                  "a device (see 'tcast devices') or a YAML profile of one; default: this host, "
                  "its kernels timed");
  line.add_option(
      "--runner", "NAME", to_text(inputs.runner),
      "the cost model that a plugin registered under this name, instead of the roofline");
  line.add_option("--reserved-memory", "BYTES", to_bytes(inputs.reserved_memory_bytes),
                  "memory that others need on each device, as 2GiB; default 0");
  line.add_flag("--ideal", inputs.ideal, "show the bound of the datasheet beside the estimate");
  line.add_option("--threads", "N", to_size(inputs.threads, 1, 4096),
                  "threads when timing this host; default all");
  line.add_option("--time-budget", "SECONDS", to_number(inputs.time_budget_s, 0.001, 86400),
                  "limit of the time spent on timing this host (default 10)");
  add_store_options(line, inputs.store);
  line.add_check([&line] {
    if (line.given("--runner") && !line.given("--device")) {
      throw Error("--runner is a cost model of a device, but this host is timed",
                  "name a device with --device");
    }
    for (const char* name : {"--threads", "--time-budget", "--store", "--no-store"}) {
      if (!line.given("--device") || !line.given(name)) continue;
      throw Error(fmt::format("{} is for timing this host, but --device was given", name),
                  "leave out one of them");
    }
  });
}

namespace {

/// Names of report writers: tcast's own in their order, then those of plugins; a plugin's are shown
/// with where they come from.
struct WriterNames {
  std::vector<std::string> names;
  std::vector<std::string> shown;
};
WriterNames writer_names() {
  WriterNames result;
  const Registry<ReportWriter>& writers = report_writers();
  std::vector<std::string> names = {"table", "json", "jsonl", "csv"};
  for (std::string& name : writers.names()) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  for (const std::string& name : names) {
    const auto candidates = writers.candidates(name);
    const bool custom = !candidates.empty() && candidates[0]->origin == Origin::custom;
    const std::string origin =
        custom ? fmt::format(" ({})", to_string(writers.provenance(*candidates[0]))) : "";
    result.names.push_back(name);
    result.shown.push_back(name + origin);
  }
  return result;
}

}  // namespace

void add_output_options(CommandLine& line, OutputInputs& inputs,
                        const std::vector<OutputFormat>& formats) {
  std::vector<std::string> names;
  names.reserve(formats.size());
  for (const OutputFormat format : formats) names.emplace_back(name_of(format));
  line.begin_group("Output");
  line.add_option(
      "--format", "FORMAT",
      [&inputs, formats, names](const std::string& text) {
        inputs.format = formats[find_choice(text, names)];
      },
      fmt::format("{}; default {}", join(names, ", "), names[0]));
  line.add_output("-o,--output", inputs.file,
                  "write the result to a file instead of the standard output");
}

void add_report_output_options(CommandLine& line, OutputInputs& inputs) {
  WriterNames known = writer_names();
  line.begin_group("Output");
  const std::string help = fmt::format("{}; default {}", join(known.shown, ", "), inputs.writer);
  line.add_option(
      "--format", "FORMAT",
      [&inputs, names = std::move(known.names)](const std::string& text) {
        // Names as they are listed; scopes and patterns as the registry has them.
        if (report_writers().find(text) == nullptr) find_choice(text, names);
        inputs.writer = text;
      },
      help);
  line.add_output("-o,--output", inputs.file,
                  "write the result to a file instead of the standard output");
}

void add_report_options(CommandLine& line, OutputInputs& inputs) {
  line.begin_group("Output");
  line.add_output("--trace", inputs.trace,
                  "also write a timeline for Perfetto or chrome://tracing");
  line.add_option("--explain", "OP", to_text(inputs.explain),
                  "the formula behind an op's estimates, with its numbers, instead of the report");
  line.add_repeated("--assert", "CONDITION", append_to(inputs.assertions),
                    "exit with 3 unless this holds, as 'tpot_s<0.02'; may be repeated");
}

void write_result(OutputInputs& output, std::string_view result, Streams streams) {
  const bool for_a_person =
      !output.explain.empty() ||
      (split_scope(output.writer).second == "table" && output.format == OutputFormat::table);
  (for_a_person ? write_text : write_data)(output.file, result, streams);
}

}  // namespace tcast
