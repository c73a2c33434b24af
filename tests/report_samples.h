#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/report/report.h"

namespace tcast {

/// fp8 blocks, with a few linears left in 16 bit.
inline ReportDTypes sample_dtypes() {
  ReportDTypes dtypes;
  dtypes.linears = {{.scheme = "fp8",
                     .source = "checkpoint",
                     .weight_dtype = "float8_e4m3fn",
                     .bits = 8,
                     .block = {{128, 128}},
                     .activation_dtype = "float8_e4m3fn",
                     .bytes = 7'000'000'000},
                    {.scheme = "none",
                     .weight_dtype = "bfloat16",
                     .activation_dtype = "bfloat16",
                     .bytes = 1'000'000'000}};
  dtypes.embedding_dtypes = {"bfloat16"};
  dtypes.activation_dtype = "bfloat16";
  dtypes.compute_dtypes = {"float8_e4m3fn"};
  dtypes.kv_cache_dtypes = {"bfloat16"};
  dtypes.weight_bytes = {{"float8_e4m3fn", 6'900'000'000}, {"bfloat16", 1'100'000'000}};
  return dtypes;
}

/// A small report by hand: two phases, numbers that add up.
inline Report sample_report() {
  Report report;
  report.config_file = "configs/models/tiny.json";
  report.inputs = {{"batch_size", "4"},
                   {"input_length", "512"},
                   {"output_length", "128"},
                   {"num_devices", "2"},
                   {"tp", "2"},
                   {"quantize_linear", "\"fp8\""},
                   {"quantize_kv_cache", "\"none\""},
                   {"reuse_layers", "true"},
                   {"dtype", "null"}};
  report.model_type = "tiny";
  report.total_parameters = 8'030'261'248;
  report.active_parameters = 7'000'000'000;
  report.device = "h200";
  report.pipeline = "the nine standard steps";
  report.memory.weights_bytes = 8'053'063'680;
  report.memory.kv_cache_bytes = 134'217'728;
  report.memory.activation_peak_bytes = 33'554'432;
  report.memory.activation_peak_at = "prefill matmul lm_head";
  report.memory.workspace_bytes = 1'048'576;
  report.memory.reserved_bytes = 1'073'741'824;
  report.memory.total_bytes = 9'295'626'240;
  report.memory.capacity_bytes = 150'323'855'360;
  report.memory.fits = true;
  report.memory.max_batch_size = 4203;
  report.memory.max_context_length = 672'640;
  report.memory.min_devices = 1;
  report.memory.with_limits = true;
  report.passes = {{.name = "prefill", .title = "prefill"},
                   {.name = "decode", .title = "decode step"}};
  const auto add = [&](const char* group, const char* name, const char* label, const char* unit,
                       double value) {
    report.metrics.push_back(
        {.group = group, .name = name, .label = label, .unit = unit, .value = value});
  };
  add("latency", "prefill_s", "prefill", "s", 0.0125);
  add("latency", "ttft_s", "time to first token (TTFT)", "s", 0.0126);
  add("latency", "decode_step_s", "decode step", "s", 0.003);
  add("latency", "tpot_s", "time per output token (TPOT)", "s", 0.0031);
  add("latency", "end_to_end_s", "end to end", "s", 0.4063);
  add("throughput", "output_tokens_per_s", "output tokens/s", "tokens/s", 1260.25);
  add("throughput", "output_tokens_per_s_per_device", "output tokens/s/device", "tokens/s",
      630.125);
  report.ops = {
      {.phase = "prefill",
       .name = "gather",
       .module = "model.embed_tokens",
       .calls = 1,
       .total_s = 0.0001,
       .flops = 0,
       .bytes = 2048,
       .bound = "launch",
       .source = "assumed"},
      {.phase = "prefill",
       .name = "rms_norm",
       .module = "model.layers.*.input_layernorm",
       .calls = 32,
       .total_s = 0.0009,
       .flops = 2048,
       .bytes = 8192,
       .bound = "memory",
       .source = "datasheet"},
      {.phase = "prefill",
       .name = "matmul",
       .module = "model.layers.*.self_attn.q_proj",
       .calls = 32,
       .total_s = 0.005,
       .flops = 1e12,
       .bytes = 1e9,
       .bound = "compute",
       .source = "calibrated"},
      {.phase = "prefill",
       .name = "attention",
       .module = "model.layers.*.self_attn",
       .calls = 32,
       .total_s = 0.0015,
       .flops = 1e10,
       .bytes = 1e8,
       .bound = "memory",
       .source = "measured",
       .scaled = true},
      {.phase = "prefill",
       .name = "matmul",
       .module = "model.layers.*.mlp.gate_proj",
       .calls = 32,
       .total_s = 0.003,
       .flops = 2e12,
       .bytes = 2e9,
       .bound = "compute",
       .source = "calibrated"},
      {.phase = "prefill",
       .name = "all_reduce",
       .module = "model.layers.*.mlp",
       .calls = 32,
       .total_s = 0.001,
       .flops = 0,
       .bytes = 1e6,
       .bound = "network",
       .source = "datasheet"},
      {.phase = "prefill",
       .name = "matmul",
       .module = "lm_head",
       .calls = 1,
       .total_s = 0.001,
       .flops = 1e9,
       .bytes = 1e9,
       .bound = "memory",
       .source = "calibrated"},
      {.phase = "decode",
       .name = "matmul",
       .module = "model.layers.*.self_attn.q_proj",
       .calls = 32,
       .total_s = 0.002,
       .flops = 1e9,
       .bytes = 1e9,
       .bound = "memory",
       .source = "calibrated"},
      {.phase = "decode",
       .name = "matmul",
       .module = "lm_head",
       .calls = 1,
       .total_s = 0.001,
       .flops = 1e6,
       .bytes = 1e9,
       .bound = "memory",
       .source = "calibrated"},
  };
  report.assumptions = {"key 'foo' of the config is not read"};
  report.warnings = {"the profile is generic"};
  return report;
}

/// A metric of a report that has it.
inline ReportMetric& metric_of(Report& report, std::string_view name) {
  for (ReportMetric& metric : report.metrics) {
    if (metric.name == name) return metric;
  }
  throw InternalError(std::string(name) + " is a metric of the report");
}

/// As sample_report(), with one pass exactly.
inline Report single_pass_report(const std::string& pass) {
  Report report = sample_report();
  report.memory.with_limits = false;
  report.absent_hint = "a run with --phase has numbers of that phase only";
  for (ReportMetric& metric : report.metrics) {
    const bool mine = metric.name == (pass == "prefill" ? "prefill_s" : "decode_step_s");
    if (!mine) metric.value.reset();
  }
  std::erase_if(report.ops, [&](const ReportOp& op) { return op.phase != pass; });
  return report;
}

/// Gives the times of a report the same bounds as values.
inline void add_bounds(Report& report, bool range, bool ideal) {
  report.with_range = range;
  report.with_ideal = ideal;
  for (ReportMetric& metric : report.metrics) {
    if (!metric.is_time()) continue;
    if (range) metric.low = metric.high = metric.value;
    if (ideal) metric.ideal = metric.value;
  }
}

/// Characters of the longest line.
inline std::size_t longest_line(std::string_view text) {
  std::size_t longest = 0;
  std::size_t length = 0;
  for (const char c : text) {
    if (c == '\n') {
      length = 0;
    } else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) {
      longest = std::max(longest, ++length);
    }
  }
  return longest;
}

}  // namespace tcast
