#include "tcast/report/json_writer.h"

#include <cmath>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/report/valid_text.h"

namespace tcast {
namespace {

using Json = nlohmann::ordered_json;

/// nlohmann would write null for what is not finite: a wrong number in disguise.
double finite(double value, std::string_view field) {
  TCAST_CHECK(std::isfinite(value), std::string(field) + " is not a finite number");
  return value;
}

/// The value where it exists, else null.
Json number_or_null(bool exists, double value, std::string_view field) {
  return exists ? Json(finite(value, field)) : Json();
}

/// An input's value, which is JSON already. What is not (a quoted text with raw bytes in it) is
/// taken as text.
Json input_value(std::string_view value) {
  Json json = Json::parse(value, nullptr, /*allow_exceptions=*/false);
  if (!json.is_discarded()) return json;
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
    value = value.substr(1, value.size() - 2);
  }
  return valid_text(value);
}

Json inputs_to_json(const Report& report) {
  Json json = Json::object();
  if (!report.config_file.empty()) json["config"] = valid_text(report.config_file);
  for (const ReportInput& input : report.inputs) {
    json[valid_text(input.name)] = input_value(input.value);
  }
  return json;
}

Json memory_to_json(const ReportMemory& memory) {
  Json json;
  json["weights_bytes"] = memory.weights_bytes;
  json["kv_cache_bytes"] = memory.kv_cache_bytes;
  json["activation_peak_bytes"] = memory.activation_peak_bytes;
  json["activation_peak_at"] = valid_text(memory.activation_peak_at);
  json["workspace_bytes"] = memory.workspace_bytes;
  json["reserved_bytes"] = memory.reserved_bytes;
  json["total_bytes"] = memory.total_bytes;
  json["capacity_bytes"] = memory.capacity_bytes;
  json["fits"] = memory.fits;
  json["max_batch_size"] = memory.max_batch_size;
  json["max_context_length"] = memory.max_context_length;
  // A 0 would pass every "at most" assertion.
  json["min_devices"] = memory.min_devices > 0 ? Json(memory.min_devices) : Json();
  return json;
}

Json latency_to_json(const ReportLatency& latency, bool prefill, bool decode) {
  Json json;
  json["prefill_s"] = number_or_null(prefill, latency.prefill_s, "prefill_s");
  json["ttft_s"] = number_or_null(prefill, latency.ttft_s, "ttft_s");
  json["decode_step_s"] = number_or_null(decode, latency.decode_step_s, "decode_step_s");
  json["tpot_s"] = number_or_null(decode, latency.tpot_s, "tpot_s");
  json["end_to_end_s"] = number_or_null(prefill && decode, latency.end_to_end_s, "end_to_end_s");
  return json;
}

Json op_to_json(const ReportOp& op, bool with_ideal) {
  Json json;
  json["phase"] = valid_text(op.phase);
  json["name"] = valid_text(op.name);
  json["module"] = valid_text(op.module);
  json["calls"] = op.calls;
  json["total_s"] = finite(op.total_s, "total_s of an operator");
  json["flops"] = finite(op.flops, "flops of an operator");
  json["bytes"] = finite(op.bytes, "bytes of an operator");
  json["bound"] = valid_text(op.bound);
  json["source"] = valid_text(op.source);
  if (with_ideal || op.ideal_s != 0) {
    json["ideal_s"] = finite(op.ideal_s, "ideal_s of an operator");
  }
  if (op.scaled) json["scaled"] = true;
  return json;
}

Json texts_to_json(const std::vector<std::string>& texts) {
  Json json = Json::array();
  for (const std::string& text : texts) json.push_back(valid_text(text));
  return json;
}

Json step_to_json(const ReportStep& step) {
  Json json;
  json["step"] = valid_text(step.step);
  json["milliseconds"] = finite(step.milliseconds, "milliseconds of a step");
  json["expected"] = step.expected ? Json(*step.expected) : Json();
  json["changed_modules"] = step.changed_modules;
  Json& changed = json["changed"] = Json::array();
  for (const ReportStep::Change& change : step.changed) {
    Json entry;
    entry["path"] = valid_text(change.path);
    entry["from"] = valid_text(change.from);
    entry["to"] = valid_text(change.to);
    changed.push_back(std::move(entry));
  }
  Json& skipped = json["skipped"] = Json::array();
  for (const ReportStep::Skip& skip : step.skipped) {
    Json entry;
    entry["path"] = valid_text(skip.path);
    entry["reason"] = valid_text(skip.reason);
    skipped.push_back(std::move(entry));
  }
  json["warnings"] = texts_to_json(step.warnings);
  json["regions"] = step.regions;
  json["traced_ops"] = step.traced_ops;
  json["called_ops"] = step.called_ops;
  json["weights_bytes"] = step.weights_bytes;
  json["kv_cache_bytes"] = step.kv_cache_bytes;
  json["prefill_flops"] = finite(step.prefill_flops, "prefill_flops of a step");
  json["prefill_bytes"] = finite(step.prefill_bytes, "prefill_bytes of a step");
  json["decode_flops"] = finite(step.decode_flops, "decode_flops of a step");
  json["decode_bytes"] = finite(step.decode_bytes, "decode_bytes of a step");
  json["activation_peak_bytes"] = step.activation_peak_bytes;
  json["prefill_s"] = finite(step.prefill_s, "prefill_s of a step");
  json["decode_step_s"] = finite(step.decode_step_s, "decode_step_s of a step");
  return json;
}

/// Everything in front of the lists.
Json summary_to_json(const Report& report) {
  const bool prefill = has_phase(report, "prefill");
  const bool decode = has_phase(report, "decode");
  Json json;
  json["schema"] = Report::schema;
  json["inputs"] = inputs_to_json(report);
  json["model"]["model_type"] = valid_text(report.model_type);
  json["model"]["total_parameters"] = report.total_parameters;
  json["model"]["active_parameters"] = report.active_parameters;
  json["device"] = valid_text(report.device);
  json["pipeline"] = valid_text(report.pipeline);
  json["memory"] = memory_to_json(report.memory);
  json["latency"] = latency_to_json(report.latency, prefill, decode);
  json["throughput"]["output_tokens_per_s"] =
      number_or_null(decode, report.output_tokens_per_s, "output_tokens_per_s");
  json["throughput"]["output_tokens_per_s_per_device"] = number_or_null(
      decode, report.output_tokens_per_s_per_device, "output_tokens_per_s_per_device");
  if (report.ideal) json["ideal"] = latency_to_json(*report.ideal, prefill, decode);
  return json;
}

ReportField::Kind kind_of(const Json& json) {
  if (json.is_number()) return ReportField::Kind::number;
  if (json.is_boolean()) return ReportField::Kind::flag;
  if (json.is_string()) return ReportField::Kind::text;
  return json.is_null() ? ReportField::Kind::absent : ReportField::Kind::other;
}

}  // namespace

std::string write_json(const Report& report, bool one_line) {
  Json json = summary_to_json(report);
  Json& ops = json["ops"] = Json::array();
  for (const ReportOp& op : report.ops) {
    ops.push_back(op_to_json(op, report.ideal.has_value()));
  }
  Json& steps = json["steps"] = Json::array();
  for (const ReportStep& step : report.steps) steps.push_back(step_to_json(step));
  json["assumptions"] = texts_to_json(report.assumptions);
  json["warnings"] = texts_to_json(report.warnings);
  return json.dump(one_line ? -1 : 2, ' ', /*ensure_ascii=*/true) + "\n";
}

std::vector<ReportField> report_fields(const Report& report) {
  std::vector<ReportField> fields;
  const auto add = [&](std::string path, const Json& json) {
    const ReportField::Kind kind = kind_of(json);
    double value = 0;
    if (kind == ReportField::Kind::number) value = json.get<double>();
    if (kind == ReportField::Kind::flag) value = json.get<bool>() ? 1 : 0;
    fields.push_back({std::move(path), kind, value});
  };
  const Json summary = summary_to_json(report);
  for (const auto& [name, json] : summary.items()) {
    if (!json.is_object()) {
      add(name, json);
      continue;
    }
    for (const auto& [inner, value] : json.items()) add(name + "." + inner, value);
  }
  return fields;
}

}  // namespace tcast
