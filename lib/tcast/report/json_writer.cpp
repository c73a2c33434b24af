#include "tcast/report/json_writer.h"

#include <cmath>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/report/json_text.h"

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

Json integer_or_null(const std::optional<std::int64_t>& value) {
  return value ? Json(*value) : Json();
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
  json["max_batch_size"] = integer_or_null(memory.max_batch_size);
  json["max_context_length"] = integer_or_null(memory.max_context_length);
  json["context_limit"] = integer_or_null(memory.context_limit);
  json["max_position_embeddings"] = integer_or_null(memory.max_position_embeddings);
  // A 0 would pass every "at most" assertion.
  const auto positive = [](std::int64_t value) { return value > 0 ? Json(value) : Json(); };
  json["min_devices"] = positive(memory.min_devices);
  json["min_devices_tp"] = positive(memory.min_devices_tp);
  json["min_devices_ep"] = positive(memory.min_devices_ep);
  return json;
}

/// The metrics by group; behind the first group with times, "range" with both ends of each time.
void add_metrics(Json& json, const Report& report) {
  const auto number = [](const std::optional<double>& value, const std::string& name) {
    return number_or_null(value.has_value(), value.value_or(0), name);
  };
  for (const ReportMetric& metric : report.metrics) {
    json[metric.group][metric.name] = number(metric.value, metric.name);
    if (!report.with_range || !metric.is_time()) continue;
    // "prefill_s" is between "prefill_low_s" and "prefill_high_s".
    const std::string stem = metric.name.substr(0, metric.name.rfind("_s"));
    for (const auto& [end, value] :
         {std::pair{"low", &metric.low}, std::pair{"high", &metric.high}}) {
      const std::string name = fmt::format("{}_{}_s", stem, end);
      json["range"][name] = number(*value, name);
    }
  }
  if (report.mtp_tokens > 0) json["latency"]["tokens_per_step"] = 1 + report.mtp_tokens;
  for (const ReportMetric& metric : report.metrics) {
    if (!report.with_ideal || !metric.is_time()) continue;
    json["ideal"][metric.name] = number(metric.ideal, metric.name);
  }
}

Json linears_to_json(const ReportDTypes::Linears& linears) {
  Json json;
  json["scheme"] = linears.scheme;
  json["source"] = linears.source.empty() ? Json() : Json(linears.source);
  json["weight_dtype"] = linears.weight_dtype;
  json["bits"] = linears.bits;
  json["block"] =
      linears.block ? Json::array({linears.block->first, linears.block->second}) : Json();
  json["activation_dtype"] = linears.activation_dtype;
  json["bytes"] = linears.bytes;
  return json;
}

/// Most linears as "linear", others in a list of their own.
Json dtypes_to_json(const ReportDTypes& dtypes) {
  Json json;
  json["linear"] = dtypes.linears.empty() ? Json() : linears_to_json(dtypes.linears.front());
  json["other_linears"] = Json::array();
  for (std::size_t i = 1; i < dtypes.linears.size(); ++i) {
    json["other_linears"].push_back(linears_to_json(dtypes.linears[i]));
  }
  const auto one_or_list = [](const std::vector<std::string>& names) {
    return names.empty() ? Json() : names.size() == 1 ? Json(names.front()) : Json(names);
  };
  json["embedding_dtype"] = one_or_list(dtypes.embedding_dtypes);
  json["activation_dtype"] = dtypes.activation_dtype;
  json["compute_dtype"] = one_or_list(dtypes.compute_dtypes);
  json["kv_cache_dtype"] = one_or_list(dtypes.kv_cache_dtypes);
  json["weight_bytes"] = Json::object();
  for (const auto& [dtype, bytes] : dtypes.weight_bytes) json["weight_bytes"][dtype] = bytes;
  return json;
}

Json experts_to_json(const Report& report) {
  Json json;
  json["num_experts"] = report.experts->num_experts;
  json["per_token"] = report.experts->per_token;
  json["per_device"] = report.experts->per_device;
  for (const ReportPass& pass : report.passes) {
    const std::string name = "expected_distinct_" + pass.name;
    json[name] =
        number_or_null(pass.distinct_experts.has_value(), pass.distinct_experts.value_or(0), name);
  }
  return json;
}

Json timing_to_json(const ReportTiming& timing) {
  Json json;
  json["took_s"] = finite(timing.took_s, "took_s");
  json["timed_ops"] = timing.timed_ops;
  json["kept_ops"] = timing.kept_ops;
  json["scaled_ops"] = timing.scaled_ops;
  json["disturbed_ops"] = timing.disturbed_ops;
  json["memory_used_bytes"] = timing.memory_used_bytes;
  json["mean_spread"] =
      number_or_null(timing.mean_spread.has_value(), timing.mean_spread.value_or(0), "mean_spread");
  json["canary_drift"] = finite(timing.canary_drift, "canary_drift");
  json["others_cpu_share"] = finite(timing.others_cpu_share, "others_cpu_share");
  json["op_overhead_s"] = finite(timing.op_overhead_s, "op_overhead_s");
  json["store"] = timing.store.empty() ? Json() : Json(timing.store);
  return json;
}

/// A JSON list with `append(element)` for each element, which writes it; `before` stands in front
/// of each and `after` behind the last.
template <class Elements, class Append>
void append_list(std::string& out, const Elements& elements, const Append& append,
                 std::string_view before = "", std::string_view after = "") {
  out += '[';
  for (const auto& element : elements) {
    if (&element != &elements.front()) out += ',';
    out += before;
    append(element);
  }
  if (!elements.empty()) out += after;
  out += ']';
}

void append_op(std::string& out, const ReportOp& op, bool with_ideal) {
  JsonObjectWriter object(out);
  object.text("phase", op.phase);
  object.text("name", op.name);
  object.text("module", op.module);
  object.number("calls", op.calls);
  object.number("total_s", op.total_s);
  object.number("flops", op.flops);
  object.number("bytes", op.bytes);
  object.text("bound", op.bound);
  object.text("source", op.source);
  if (with_ideal) object.number("ideal_s", op.ideal_s);
  if (op.scaled) {
    object.name("scaled");
    out += "true";
  }
  if (op.spread) object.number("spread", *op.spread);
  if (op.disturbed) {
    object.name("disturbed");
    out += "true";
  }
  object.close();
}

void append_step(std::string& out, const ReportStep& step) {
  JsonObjectWriter object(out);
  object.text("step", step.step);
  object.number("milliseconds", step.milliseconds);
  if (step.expected) {
    object.integer("expected", *step.expected);
  } else {
    object.name("expected");
    out += "null";
  }
  object.integer("changed_modules", step.changed_modules);
  object.name("changed");
  append_list(out, step.changed, [&](const ReportStep::Change& change) {
    JsonObjectWriter entry(out);
    entry.text("path", change.path);
    entry.text("from", change.from);
    entry.text("to", change.to);
    entry.close();
  });
  object.name("skipped");
  append_list(out, step.skipped, [&](const ReportStep::Skip& skip) {
    JsonObjectWriter entry(out);
    entry.text("path", skip.path);
    entry.text("reason", skip.reason);
    entry.close();
  });
  object.name("warnings");
  append_list(out, step.warnings,
              [&](const std::string& warning) { append_json_string(out, warning); });
  if (step.figures) {
    const StepFigures& figures = *step.figures;
    object.integer("regions", figures.regions);
    object.integer("traced_ops", figures.traced_ops);
    object.integer("called_ops", figures.called_ops);
    object.integer("weights_bytes", figures.weights_bytes);
    object.integer("kv_cache_bytes", figures.kv_cache_bytes);
    object.number("prefill_flops", figures.prefill_flops);
    object.number("prefill_bytes", figures.prefill_bytes);
    object.number("decode_flops", figures.decode_flops);
    object.number("decode_bytes", figures.decode_bytes);
    object.integer("activation_peak_bytes", figures.activation_peak_bytes);
    object.number("prefill_s", figures.prefill_s);
    object.number("decode_step_s", figures.decode_step_s);
  }
  object.close();
}

/// What was run.
Json head_to_json(const Report& report) {
  Json json;
  json["schema"] = Report::schema;
  json["inputs"] = inputs_to_json(report);
  json["model"]["model_type"] = valid_text(report.model_type);
  json["model"]["total_parameters"] = report.total_parameters;
  json["model"]["active_parameters"] = report.active_parameters;
  json["device"] = valid_text(report.device);
  json["pipeline"] = valid_text(report.pipeline);
  if (report.dtypes) json["quantization"] = dtypes_to_json(*report.dtypes);
  json["provenance"] = provenance_json(report.provenance);
  return json;
}

/// Everything in front of the lists.
Json summary_to_json(const Report& report) {
  Json json = head_to_json(report);
  json["memory"] = memory_to_json(report.memory);
  if (report.experts) json["experts"] = experts_to_json(report);
  add_metrics(json, report);
  if (report.timing) json["timing"] = timing_to_json(*report.timing);
  return json;
}

/// A JSON object to which lists are added: they are the bulk of a report, so they are written
/// directly, an element on a line.
class JsonWithLists {
 public:
  JsonWithLists(const Json& head, bool one_line)
      : one_line_(one_line), out_(head.dump(one_line ? -1 : 2, ' ', /*ensure_ascii=*/true)) {
    out_.resize(out_.size() - (one_line ? 1 : 2));  // the closing brace
  }

  void add_ops(const Report& report) {
    const bool with_ideal = has_ideal(report);
    add("ops", report.ops, [&](const ReportOp& op) { append_op(out_, op, with_ideal); });
  }
  void add_steps(const Report& report) {
    add("steps", report.steps, [&](const ReportStep& step) { append_step(out_, step); });
  }
  void add_notes(const Report& report) {
    const auto text = [&](const std::string& value) { append_json_string(out_, value); };
    add("assumptions", report.assumptions, text);
    add("warnings", report.warnings, text);
  }

  std::string close() {
    out_ += one_line_ ? "}\n" : "\n}\n";
    return std::move(out_);
  }

 private:
  template <class Elements, class Append>
  void add(std::string_view name, const Elements& elements, const Append& append) {
    out_ += one_line_ ? "," : ",\n  ";
    append_json_string(out_, name);
    out_ += one_line_ ? ":" : ": ";
    append_list(out_, elements, append, one_line_ ? "" : "\n    ", one_line_ ? "" : "\n  ");
  }

  bool one_line_;
  std::string out_;
};

ReportField::Kind kind_of(const Json& json) {
  if (json.is_number()) return ReportField::Kind::number;
  if (json.is_boolean()) return ReportField::Kind::flag;
  if (json.is_string()) return ReportField::Kind::text;
  return json.is_null() ? ReportField::Kind::absent : ReportField::Kind::other;
}

}  // namespace

Json provenance_json(const std::vector<Provenance>& list) {
  Json json = Json::array();
  for (const Provenance& one : list) {
    Json entry = {{"kind", valid_text(one.kind)},
                  {"name", valid_text(one.name)},
                  {"origin", name_of(one.from)}};
    if (!one.plugin.empty()) entry["plugin"] = valid_text(one.plugin);
    if (!one.file.empty()) entry["file"] = valid_text(one.file);
    if (one.line > 0) entry["line"] = one.line;
    if (one.replaces_builtin) entry["in_place_of"] = "builtin";
    json.push_back(std::move(entry));
  }
  return json;
}

std::string write_json(const Report& report, bool one_line) {
  JsonWithLists json(summary_to_json(report), one_line);
  json.add_ops(report);
  json.add_steps(report);
  json.add_notes(report);
  return json.close();
}

std::string write_steps_json(const Report& report) {
  JsonWithLists json(head_to_json(report), /*one_line=*/false);
  json.add_steps(report);
  json.add_notes(report);
  return json.close();
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
    for (const auto& [inner, value] : json.items()) {
      add(fmt::format("{}.{}", name, inner), value);
    }
  }
  // Of these lists, how many there are.
  add("assumptions", Json(report.assumptions.size()));
  add("warnings", Json(report.warnings.size()));
  return fields;
}

}  // namespace tcast
