#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/report/json_writer.h"

#include "report_samples.h"

namespace tcast {
namespace {

using Json = nlohmann::ordered_json;

Json read_back(const Report& report) { return Json::parse(write_json(report, true)); }

std::vector<std::string> names_of(const Json& json) {
  std::vector<std::string> names;
  for (const auto& [name, value] : json.items()) names.push_back(name);
  return names;
}

TEST_CASE("json: names and order of the fields") {
  Report report = sample_report();
  report.with_ideal = true;
  report.ops[0].ideal_s = 0.25;
  report.steps = {ReportStep{.step = "wrap_model"},
                  ReportStep{.step = "patch_moe", .figures = StepFigures{}}};
  const Json json = read_back(report);
  using Names = std::vector<std::string>;
  CHECK(names_of(json) == Names{"schema", "inputs", "model", "device", "pipeline", "provenance",
                                "memory", "latency", "throughput", "ideal", "ops", "steps",
                                "assumptions", "warnings"});
  CHECK(names_of(json["inputs"]) == Names{"config", "batch_size", "input_length", "output_length",
                                          "num_devices", "tp", "quantize_linear",
                                          "quantize_kv_cache", "reuse_layers", "dtype"});
  CHECK(names_of(json["model"]) == Names{"model_type", "total_parameters", "active_parameters"});
  CHECK(names_of(json["memory"]) ==
        Names{"weights_bytes", "kv_cache_bytes", "activation_peak_bytes", "activation_peak_at",
              "workspace_bytes", "reserved_bytes", "total_bytes", "capacity_bytes", "fits",
              "max_batch_size", "max_context_length", "context_limit", "max_position_embeddings",
              "min_devices", "min_devices_tp", "min_devices_ep"});
  const Names latency = {"prefill_s", "ttft_s", "decode_step_s", "tpot_s", "end_to_end_s"};
  CHECK(names_of(json["latency"]) == latency);
  CHECK(names_of(json["ideal"]) == latency);
  CHECK(names_of(json["throughput"]) ==
        Names{"output_tokens_per_s", "output_tokens_per_s_per_device"});
  CHECK(names_of(json["ops"][0]) == Names{"phase", "name", "module", "calls", "total_s", "flops",
                                          "bytes", "bound", "source", "ideal_s"});
  CHECK(names_of(json["ops"][3]).back() == "scaled");
  // Figures that nobody measured are no zeros.
  CHECK(names_of(json["steps"][0]) == Names{"step", "milliseconds", "expected", "changed_modules",
                                            "changed", "skipped", "warnings"});
  CHECK(names_of(json["steps"][1]) ==
        Names{"step", "milliseconds", "expected", "changed_modules", "changed", "skipped",
              "warnings", "regions", "traced_ops", "called_ops", "weights_bytes", "kv_cache_bytes",
              "prefill_flops", "prefill_bytes", "decode_flops", "decode_bytes",
              "activation_peak_bytes", "prefill_s", "decode_step_s"});
}

TEST_CASE("json: expected experts of a model that has some") {  // S6, D17
  Report report = sample_report();
  CHECK(!read_back(report).contains("experts"));
  report.experts = ReportExperts{128, 8, 16};
  report.passes[1].distinct_experts = 10.302813912771;
  const Json json = read_back(report);
  CHECK(names_of(json["experts"]) ==
        std::vector<std::string>{"num_experts", "per_token", "per_device",
                                 "expected_distinct_prefill", "expected_distinct_decode"});
  CHECK(json["experts"]["num_experts"] == 128);
  CHECK(json["experts"]["per_token"] == 8);
  CHECK(json["experts"]["per_device"] == 16);
  CHECK(json["experts"]["expected_distinct_prefill"].is_null());
  CHECK(json["experts"]["expected_distinct_decode"] == 10.302813912771);
  // Expected calls need not be whole; whole ones are written as such.
  report.ops[0].calls = 82.5;
  report.ops[1].calls = 36;
  const std::string text = write_json(report, true);
  CHECK(text.find("\"calls\":82.5,") != std::string::npos);
  CHECK(text.find("\"calls\":36,") != std::string::npos);
}

TEST_CASE("json: values") {
  const Json json = read_back(sample_report());
  CHECK(json["schema"] == 1);
  CHECK(json["inputs"]["config"] == "configs/models/tiny.json");
  CHECK(json["inputs"]["batch_size"] == 4);
  CHECK(json["inputs"]["quantize_linear"] == "fp8");
  CHECK(json["inputs"]["reuse_layers"] == true);
  CHECK(json["inputs"]["dtype"].is_null());
  CHECK(json["model"]["total_parameters"] == 8'030'261'248);
  CHECK(json["memory"]["weights_bytes"] == 8'053'063'680);
  CHECK(json["memory"]["fits"] == true);
  CHECK(json["latency"]["tpot_s"] == 0.0031);
  CHECK(json["throughput"]["output_tokens_per_s_per_device"] == 630.125);
  CHECK_FALSE(json.contains("ideal"));
  CHECK(json["ops"].size() == 9);
  CHECK(json["ops"][2]["total_s"] == 0.005);
  CHECK(json["ops"][3]["scaled"] == true);
  CHECK_FALSE(json["ops"][2].contains("ideal_s"));
  CHECK(json["assumptions"] == Json{"key 'foo' of the config is not read"});
  CHECK(json["steps"] == Json::array());
}

TEST_CASE("json: what weights, activations and KV cache are stored and computed in") {
  Report report = sample_report();
  report.dtypes = sample_dtypes();
  report.mtp_tokens = 2;
  const Json json = read_back(report);
  using Names = std::vector<std::string>;
  CHECK(names_of(json)[5] == "quantization");
  CHECK(names_of(json["quantization"]) == Names{"linear", "other_linears", "embedding_dtype",
                                                "activation_dtype", "compute_dtype",
                                                "kv_cache_dtype", "weight_bytes"});
  CHECK(json["quantization"]["linear"] == Json::parse(R"({"scheme": "fp8", "source": "checkpoint",
    "weight_dtype": "float8_e4m3fn", "bits": 8, "block": [128, 128],
    "activation_dtype": "float8_e4m3fn", "bytes": 7000000000})"));
  CHECK(json["quantization"]["other_linears"] == Json::parse(R"([{"scheme": "none",
    "source": null, "weight_dtype": "bfloat16", "bits": 16, "block": null,
    "activation_dtype": "bfloat16", "bytes": 1000000000}])"));
  CHECK(json["quantization"]["compute_dtype"] == "float8_e4m3fn");
  CHECK(json["quantization"]["kv_cache_dtype"] == "bfloat16");
  CHECK(json["quantization"]["weight_bytes"] ==
        Json::parse(R"({"float8_e4m3fn": 6900000000, "bfloat16": 1100000000})"));
  CHECK(json["latency"]["tokens_per_step"] == 3);

  report.dtypes = ReportDTypes{};
  const Json none = read_back(report);
  CHECK(none["quantization"]["linear"].is_null());
  CHECK(none["quantization"]["kv_cache_dtype"].is_null());
  CHECK(none["quantization"]["compute_dtype"].is_null());
  report.dtypes->kv_cache_dtypes = {"bfloat16", "int8"};
  CHECK(read_back(report)["quantization"]["kv_cache_dtype"] == Json{"bfloat16", "int8"});
}

TEST_CASE("json: one line or many, the same content") {
  const std::string line = write_json(sample_report(), true);
  const std::string pretty = write_json(sample_report(), false);
  CHECK(line.find('\n') == line.size() - 1);
  CHECK(pretty.rfind("{\n  \"schema\": 1,\n  \"inputs\": {\n    \"config\":", 0) == 0);
  CHECK(pretty.back() == '\n');
  CHECK(Json::parse(line) == Json::parse(pretty));
}

TEST_CASE("json: the whole text") {
  Report report;
  report.config_file = "a.json";
  report.inputs = {{"tp", "2"}};
  report.model_type = "tiny";
  report.metrics = single_pass_report("prefill").metrics;
  metric_of(report, "prefill_s").value = 0.5;
  report.ops = {{.phase = "prefill",
                 .name = "matmul",
                 .module = "lm_head",
                 .calls = 1,
                 .total_s = 0.5,
                 .flops = 2e9,
                 .bytes = 1e6,
                 .bound = "compute",
                 .source = "measured",
                 .scaled = true},
                {.phase = "prefill", .name = "gather"}};
  report.warnings = {"w"};
  CHECK(write_json(report, false) == R"({
  "schema": 1,
  "inputs": {
    "config": "a.json",
    "tp": 2
  },
  "model": {
    "model_type": "tiny",
    "total_parameters": 0,
    "active_parameters": 0
  },
  "device": "",
  "pipeline": "",
  "provenance": [],
  "memory": {
    "weights_bytes": 0,
    "kv_cache_bytes": 0,
    "activation_peak_bytes": 0,
    "activation_peak_at": "",
    "workspace_bytes": 0,
    "reserved_bytes": 0,
    "total_bytes": 0,
    "capacity_bytes": 0,
    "fits": false,
    "max_batch_size": null,
    "max_context_length": null,
    "context_limit": null,
    "max_position_embeddings": null,
    "min_devices": null,
    "min_devices_tp": null,
    "min_devices_ep": null
  },
  "latency": {
    "prefill_s": 0.5,
    "ttft_s": null,
    "decode_step_s": null,
    "tpot_s": null,
    "end_to_end_s": null
  },
  "throughput": {
    "output_tokens_per_s": null,
    "output_tokens_per_s_per_device": null
  },
  "ops": [
    {"phase":"prefill","name":"matmul","module":"lm_head","calls":1,"total_s":0.5,"flops":2000000000,"bytes":1000000,"bound":"compute","source":"measured","scaled":true},
    {"phase":"prefill","name":"gather","module":"","calls":0,"total_s":0,"flops":0,"bytes":0,"bound":"","source":""}
  ],
  "steps": [],
  "assumptions": [],
  "warnings": [
    "w"
  ]
}
)");
}

TEST_CASE("json: an empty report") {
  const Json json = read_back(Report{});
  CHECK(json["inputs"] == Json::object());
  CHECK(json["ops"] == Json::array());
  CHECK(json["memory"]["total_bytes"] == 0);
  CHECK(json["memory"]["min_devices"].is_null());
}

TEST_CASE("json: what a single phase does not have is null") {
  for (const std::string phase : {"prefill", "decode"}) {
    CAPTURE(phase);
    Report report = single_pass_report(phase);
    add_bounds(report, false, true);
    const Json json = read_back(report);
    for (const char* const part : {"latency", "ideal"}) {
      CAPTURE(part);
      CHECK(json[part]["prefill_s"] == (phase == "prefill" ? Json(0.0125) : Json()));
      CHECK(json[part]["decode_step_s"] == (phase == "decode" ? Json(0.003) : Json()));
      CHECK(json[part]["ttft_s"].is_null());
      CHECK(json[part]["tpot_s"].is_null());
      CHECK(json[part]["end_to_end_s"].is_null());
    }
    CHECK(json["throughput"]["output_tokens_per_s"].is_null());
    CHECK(json["throughput"]["output_tokens_per_s_per_device"].is_null());
  }
}

TEST_CASE("json: numbers that do not exist are null, not 0") {
  Report report = sample_report();
  metric_of(report, "tpot_s").value.reset();
  report.memory.max_batch_size = std::nullopt;
  report.memory.max_context_length = 0;
  report.memory.min_devices = 0;
  const Json json = read_back(report);
  CHECK(json["latency"]["tpot_s"].is_null());
  CHECK(json["memory"]["max_batch_size"].is_null());
  CHECK(json["memory"]["max_context_length"] == 0);
  CHECK(json["memory"]["min_devices"].is_null());
}

TEST_CASE("json: the ideal times of a single phase") {
  Report report = single_pass_report("decode");
  CHECK_FALSE(read_back(report)["ops"][0].contains("ideal_s"));
  report.ops[1].ideal_s = 0.5;
  CHECK(read_back(report)["ops"][0]["ideal_s"] == 0);
  CHECK(read_back(report)["ops"][1]["ideal_s"] == 0.5);
}

TEST_CASE("json: the steps") {
  Report report = sample_report();
  report.steps = {{}, {.step = "wrap_model", .expected = 1, .changed = {{"", "A", "B"}}}};
  const Json json = Json::parse(write_steps_json(report));
  CHECK(names_of(json) == std::vector<std::string>{"schema", "inputs", "model", "device",
                                                   "pipeline", "provenance", "steps", "assumptions",
                                                   "warnings"});
  CHECK(json["steps"].size() == 2);
  CHECK(json["steps"][0]["expected"].is_null());
  CHECK(json["steps"][1]["expected"] == 1);
  CHECK(json["steps"][1]["changed"][0]["to"] == "B");
}

TEST_CASE("json: hostile texts") {
  struct Row {
    std::string text;
    std::string expected;  ///< what a reader gets
  };
  const std::vector<Row> rows = {
      {"quote \" and \\ backslash", "quote \" and \\ backslash"},
      {"line\nbreak\ttab", "line\nbreak\ttab"},
      {"escape \x1b[31m", "escape \x1b[31m"},
      {std::string("nul \0 byte", 10), std::string("nul \0 byte", 10)},
      {"\xff\xfe", "\\xff\\xfe"},
      {"cut \xe2\x82", "cut \\xe2\\x82"},
      {"overlong \xc0\xaf", "overlong \\xc0\\xaf"},
      {"surrogate \xed\xa0\x80", "surrogate \\xed\\xa0\\x80"},
      {"\xe6\xa8\xa1\xe5\x9e\x8b \xf0\x9f\x98\x80", "\xe6\xa8\xa1\xe5\x9e\x8b \xf0\x9f\x98\x80"},
      {"reversed \xe2\x80\xae", "reversed \xe2\x80\xae"},
      {"", ""},
      {std::string(100'000, 'x'), std::string(100'000, 'x')},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    Report report = sample_report();
    report.config_file = row.text;
    report.model_type = row.text;
    report.device = row.text;
    report.pipeline = row.text;
    report.memory.activation_peak_at = row.text;
    report.inputs = {{row.text, "1"}, {"raw", "\"" + row.text + "\""}, {"bare", row.text}};
    report.ops[0] = {.phase = row.text,
                     .name = row.text,
                     .module = row.text,
                     .bound = row.text,
                     .source = row.text};
    report.assumptions = {row.text};
    report.warnings = {row.text};
    report.steps = {{.step = row.text,
                     .changed = {{row.text, row.text, row.text}},
                     .skipped = {{row.text, row.text}},
                     .warnings = {row.text}}};
    const std::string written = write_json(report, true);
    CHECK(written.find('\n') == written.size() - 1);
    for (const char c : written) {
      const bool plain = c == '\n' || (c >= ' ' && c < '\x7f');
      if (!plain) FAIL_CHECK("not plain ASCII");
    }
    const Json json = Json::parse(written);
    CHECK(json["model"]["model_type"] == row.expected);
    CHECK(json["inputs"][row.expected] == 1);
    CHECK(json["ops"][0]["module"] == row.expected);
    CHECK(json["steps"][0]["changed"][0]["from"] == row.expected);
    CHECK(json["warnings"][0] == row.expected);
  }
}

TEST_CASE("json: an input that is no JSON is taken as text") {
  Report report;
  report.inputs = {{"a", "h200"}, {"b", "\"x\"y\""}, {"c", "1e999"},     {"d", "\""},
                   {"e", ""},     {"f", "[1, 2]"},   {"g", "\"a\\nb\""}, {"h", "\"\xff\""}};
  const Json inputs = read_back(report)["inputs"];
  CHECK(inputs["a"] == "h200");
  CHECK(inputs["b"] == "x\"y");
  CHECK(inputs["c"] == "1e999");
  CHECK(inputs["d"] == "\"");
  CHECK(inputs["e"] == "");
  CHECK(inputs["f"] == Json{1, 2});
  CHECK(inputs["g"] == "a\nb");
  CHECK(inputs["h"] == "\\xff");
}

TEST_CASE("json: huge and tiny numbers survive") {
  Report report = sample_report();
  report.memory.weights_bytes = std::numeric_limits<std::int64_t>::max();
  report.ops[0].flops = 1e300;
  report.ops[0].total_s = 5e-324;
  const Json json = read_back(report);
  CHECK(json["memory"]["weights_bytes"] == std::numeric_limits<std::int64_t>::max());
  CHECK(json["ops"][0]["flops"] == 1e300);
  CHECK(json["ops"][0]["total_s"] == 5e-324);
}

TEST_CASE("json: how this host was timed, if it was") {
  Report report = sample_report();
  CHECK_FALSE(read_back(report).contains("timing"));
  CHECK_FALSE(read_back(report)["ops"][3].contains("spread"));
  report.timing = ReportTiming{.took_s = 9.5,
                               .timed_ops = 40,
                               .kept_ops = 25,
                               .scaled_ops = 3,
                               .disturbed_ops = 2,
                               .memory_used_bytes = 1024,
                               .mean_spread = 0.05,
                               .canary_drift = 0.25,
                               .others_cpu_share = 0.5,
                               .op_overhead_s = 0.125,
                               .store = "kept.sqlite"};
  report.ops[3].spread = 0.125;
  report.ops[3].disturbed = true;
  add_bounds(report, true, false);
  metric_of(report, "prefill_s").low = 0.0115;
  metric_of(report, "tpot_s").high = 0.0035;
  const Json json = read_back(report);
  CHECK(json["range"]["prefill_low_s"] == 0.0115);
  CHECK(json["range"]["prefill_high_s"] == 0.0125);
  CHECK(json["range"]["tpot_high_s"] == 0.0035);
  CHECK(json["range"].size() == 10);
  CHECK(names_of(json)[7] == "latency");
  CHECK(names_of(json)[8] == "range");
  CHECK(names_of(json)[9] == "throughput");
  CHECK(json["ops"][3]["disturbed"] == true);
  CHECK_FALSE(json["ops"][2].contains("disturbed"));
  CHECK(json["timing"].dump() ==
        R"({"took_s":9.5,"timed_ops":40,"kept_ops":25,"scaled_ops":3,"disturbed_ops":2,)"
        R"("memory_used_bytes":1024,"mean_spread":0.05,"canary_drift":0.25,)"
        R"("others_cpu_share":0.5,"op_overhead_s":0.125,"store":"kept.sqlite"})");
  CHECK(json["ops"][3]["spread"] == 0.125);
  const std::vector<ReportField> fields = report_fields(report);
  CHECK(std::any_of(fields.begin(), fields.end(), [](const ReportField& field) {
    return field.path == "timing.canary_drift" && field.value == 0.25;
  }));
}

TEST_CASE("json: what is not finite is a bug of ours") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const auto rejects = [](const Report& report) {
    CHECK_THROWS_AS(write_json(report, true), InternalError);
  };
  for (const double bad : {nan, infinity, -infinity}) {
    Report report = sample_report();
    metric_of(report, "tpot_s").value = bad;
    rejects(report);
    report = sample_report();
    metric_of(report, "output_tokens_per_s").value = bad;
    rejects(report);
    report = sample_report();
    add_bounds(report, true, false);
    metric_of(report, "tpot_s").low = bad;
    rejects(report);
    report = sample_report();
    report.ops[1].bytes = bad;
    rejects(report);
    report = sample_report();
    report.with_ideal = true;
    metric_of(report, "ttft_s").ideal = bad;
    rejects(report);
    report = sample_report();
    report.steps = {{.figures = StepFigures{.decode_step_s = bad}}};
    rejects(report);
  }
}

TEST_CASE("json: the fields that can be named") {
  const std::vector<ReportField> fields = report_fields(single_pass_report("prefill"));
  const auto field = [&](const std::string& path) {
    for (const ReportField& entry : fields) {
      if (entry.path == path) return entry;
    }
    return ReportField{.path = "missing"};
  };
  CHECK(fields.front().path == "schema");
  CHECK(field("latency.prefill_s").kind == ReportField::Kind::number);
  CHECK(field("latency.prefill_s").value == 0.0125);
  CHECK(field("latency.tpot_s").kind == ReportField::Kind::absent);
  CHECK(field("memory.fits").kind == ReportField::Kind::flag);
  CHECK(field("memory.fits").value == 1);
  CHECK(field("device").kind == ReportField::Kind::text);
  CHECK(field("inputs.batch_size").value == 4);
  CHECK(field("ops").path == "missing");
}

}  // namespace
}  // namespace tcast
