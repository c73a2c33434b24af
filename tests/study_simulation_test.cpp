// Properties that every estimate must have, for every shipped model on every shipped device.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/cost/pass.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/model/transformer_model.h"
#include "tcast/report/report.h"
#include "tcast/study/simulation.h"
#include "tcast/study/single_pass.h"
#include "tcast/study/text_generation.h"
#include "tcast/transform/pipeline.h"

namespace {

using namespace tcast;
namespace fs = std::filesystem;

std::vector<std::string> all_models() {
  std::vector<std::string> files;
  for (const auto& entry :
       fs::directory_iterator(std::string(TCAST_SOURCE_DIR) + "/configs/models")) {
    files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

TransformerModel transformed(const std::string& file, const ModelOptions& options) {
  HfConfig config = HfConfig::load(file);
  ModelProfile profile = load_profile(config.model_type(), {});
  TransformerModel model = build_model(std::move(config), std::move(profile), options);
  transform(model);
  return model;
}

/// Parallelism that a shipped model can take.
ModelOptions spread(const std::string& file) {
  HfConfig config = HfConfig::load(file);
  ModelProfile profile = load_profile(config.model_type(), {});
  const TransformerModel model = build_model(std::move(config), std::move(profile), {});
  ModelOptions options;
  options.parallel.num_devices = 8;
  options.parallel.tp = model.config().get_size("num_attention_heads") % 4 == 0 ? 4 : 2;
  const ParameterCounts counts = model.count_parameters();
  options.parallel.ep = counts.active < counts.total ? 4 : 1;
  return options;
}

/// Path of the list of layers.
std::string layers_of(const std::string& file) {
  return HfConfig::load(file).model_type() == "gpt2" ? "transformer.h" : "model.layers";
}

double near(double value) { return 1e-9 * value; }

std::unique_ptr<Scenario> generation(const TransformerModel& model,
                                     const TextGenerationRequest& request = {}) {
  return std::make_unique<TextGeneration>(request, deployment_of(model));
}

double value_of(const Report& report, const char* name) {
  const ReportMetric* const metric = find_metric(report, name);
  REQUIRE(metric != nullptr);
  REQUIRE(metric->value);
  return *metric->value;
}

}  // namespace

TEST_CASE("estimates keep to physics, and their parts sum to their totals") {
  for (const std::string& file : all_models()) {
    for (const std::string& device_name : device_names()) {
      for (const bool parallel : {false, true}) {
        CAPTURE(file);
        CAPTURE(device_name);
        CAPTURE(parallel);
        const DeviceProfile device = load_device(device_name);
        ModelOptions options;
        if (parallel) options = spread(file);
        if (parallel && device.interconnect.levels.empty()) continue;
        const TransformerModel model = transformed(file, options);
        Simulation simulation(model, generation(model, {4, 300, 50}));
        try {
          simulation.run(device, true);
        } catch (const Error&) {
          // The interconnect of this device may end below eight ranks.
          CHECK(parallel);
          continue;
        }
        Report report;
        simulation.fill(report);

        double prefill_s = 0;
        double decode_s = 0;
        double prefill_flops = 0;
        double decode_bytes = 0;
        double best_peak = 0;
        for (const double peak : device.matrix.flops_per_s) best_peak = std::max(best_peak, peak);
        for (const double peak : device.vector.flops_per_s) best_peak = std::max(best_peak, peak);
        for (const ReportOp& op : report.ops) {
          CAPTURE(op.module);
          CAPTURE(op.name);
          CHECK(op.calls > 0);
          CHECK(op.total_s > 0);
          CHECK(op.total_s >= op.ideal_s - near(op.ideal_s));
          if (op.phase == "prefill") {
            prefill_s += op.total_s;
            prefill_flops += op.flops;
          }
          if (op.phase == "decode") {
            decode_s += op.total_s;
            decode_bytes += op.bytes;
          }
        }
        const double ttft_s = value_of(report, "ttft_s");
        const double end_to_end_s = value_of(report, "end_to_end_s");
        CHECK(prefill_s == doctest::Approx(value_of(report, "prefill_s")).epsilon(1e-9));
        CHECK(decode_s == doctest::Approx(value_of(report, "decode_step_s")).epsilon(1e-9));
        CHECK(value_of(report, "prefill_s") >= prefill_flops / best_peak);
        CHECK(value_of(report, "decode_step_s") >=
              decode_bytes / device.memory_bandwidth_bytes_per_s);
        CHECK(ttft_s > value_of(report, "prefill_s"));
        CHECK(end_to_end_s ==
              doctest::Approx(ttft_s + 49 * value_of(report, "tpot_s")).epsilon(1e-12));
        CHECK(value_of(report, "output_tokens_per_s") ==
              doctest::Approx(4 * 50 / end_to_end_s).epsilon(1e-12));
        const ReportMemory& memory = report.memory;
        CHECK(memory.total_bytes == memory.weights_bytes + memory.kv_cache_bytes +
                                        memory.activation_peak_bytes + memory.workspace_bytes +
                                        memory.reserved_bytes);
        CHECK(memory.fits == (memory.total_bytes <= memory.capacity_bytes));
        CHECK(report.with_ideal);
        for (const ReportMetric& metric : report.metrics) {
          CAPTURE(metric.name);
          CHECK(metric.ideal.has_value() == metric.is_time());
          if (metric.ideal) CHECK(*metric.ideal <= *metric.value);
        }
      }
    }
  }
}

TEST_CASE("weights are parameters times bytes") {
  for (const std::string& file : all_models()) {
    CAPTURE(file);
    ModelOptions options;
    options.quantize_linear = LinearScheme::none;
    options.dtype = DType::bf16;
    const TransformerModel model = transformed(file, options);
    std::int64_t buffers = 0;
    for (const NamedParameter& named : model.parameters()) {
      if (named.parameter->buffer) buffers += named.parameter->local_bytes();
    }
    CHECK(model.weight_bytes() == 2 * model.count_parameters().total + buffers);
  }
}

TEST_CASE("more requests and longer contexts never take less") {
  const DeviceProfile device = load_device("h200");
  const RooflineModel cost(device);
  for (const std::string& file : all_models()) {
    CAPTURE(file);
    const TransformerModel model = transformed(file, {});
    const ModelSource source(model);
    PassPricer pricer(source, cost);
    std::array<PricedPass, 2> priced;
    const auto times_of = [&](const TextGenerationRequest& request) {
      const TextGeneration asked(request, deployment_of(model));
      price_passes(asked, pricer, priced);
      return asked.times(pricer, priced);
    };
    double last_prefill = 0;
    double last_step = 0;
    std::int64_t last_cache = 0;
    for (const std::int64_t batch : {1, 2, 7, 32, 200}) {
      const TextGenerationTimes times = times_of({batch, 128, 32});
      const MemoryForecast memory =
          forecast_memory(TextGeneration({batch, 128, 32}, deployment_of(model)), pricer, priced,
                          {device.memory_bytes, 0});
      CAPTURE(batch);
      CHECK(times.prefill_s >= last_prefill);
      CHECK(times.decode_step_s >= last_step);
      CHECK(memory.kv_cache_bytes > last_cache);
      last_prefill = times.prefill_s;
      last_step = times.decode_step_s;
      last_cache = memory.kv_cache_bytes;
    }
    last_prefill = 0;
    last_step = 0;
    for (const std::int64_t length : {16, 100, 1000, 4097, 20000}) {
      if (length + 32 > model.longest_sequence()) break;
      const TextGenerationTimes times = times_of({2, length, 32});
      CAPTURE(length);
      CHECK(times.prefill_s >= last_prefill);
      CHECK(times.decode_step_s >= last_step);
      last_prefill = times.prefill_s;
      last_step = times.decode_step_s;
    }
  }
}

TEST_CASE("layer reuse changes no number") {
  const DeviceProfile device = load_device("h100");
  const std::vector<std::vector<std::string>> left_out = {
      {}, {"patch_attention", "patch_mla", "patch_moe", "patch_rotary_emb", "wrap_model"}};
  for (const std::string& file : all_models()) {
    for (const bool ignore_one : {false, true}) {
      for (const std::vector<std::string>& skip_steps : left_out) {
        CAPTURE(file);
        CAPTURE(ignore_one);
        CAPTURE(skip_steps.size());
        Report reports[2];
        for (const bool reuse : {true, false}) {
          ModelOptions options;
          options.num_hidden_layers = 6;
          options.reuse_layers = reuse;
          options.skip_steps = skip_steps;
          options.quantize_linear = LinearScheme::fp8;
          if (ignore_one) options.quantize_ignore = {layers_of(file) + ".4"};
          // Experts that are stored together are quantized by patch_moe's form only.
          const bool together = HfConfig::load(file).model_type() == "gpt_oss";
          if (together && !skip_steps.empty()) options.quantize_ignore.push_back("*.mlp.experts");
          const TransformerModel model = transformed(file, options);
          Simulation simulation(model, generation(model, {3, 200, 20}));
          simulation.run(device, false);
          simulation.fill(reports[reuse ? 0 : 1]);
        }
        const Report& a = reports[0];
        const Report& b = reports[1];
        CHECK(a.memory.total_bytes == b.memory.total_bytes);
        CHECK(a.memory.activation_peak_bytes == b.memory.activation_peak_bytes);
        REQUIRE(a.metrics.size() == b.metrics.size());
        for (const ReportMetric& metric : a.metrics) {
          CHECK(*metric.value == doctest::Approx(value_of(b, metric.name.c_str())).epsilon(1e-12));
        }
        REQUIRE(a.ops.size() == b.ops.size());
        for (const ReportOp& one : a.ops) {
          const auto same = std::find_if(b.ops.begin(), b.ops.end(), [&](const ReportOp& op) {
            return op.phase == one.phase && op.name == one.name && op.module == one.module &&
                   op.bound == one.bound;
          });
          CAPTURE(one.module);
          REQUIRE(same != b.ops.end());
          CHECK(same->calls == doctest::Approx(one.calls).epsilon(1e-12));
          CHECK(same->total_s == doctest::Approx(one.total_s).epsilon(1e-12));
        }
      }
    }
  }
}

TEST_CASE("with multi-token prediction every predicted token is chosen, too") {
  const DeviceProfile device = load_device("h200");
  for (const std::int64_t tokens : {0, 1, 3}) {
    CAPTURE(tokens);
    ModelOptions options;
    options.num_mtp_tokens = tokens;
    const TransformerModel model =
        transformed(std::string(TCAST_SOURCE_DIR) + "/configs/models/deepseek-v3.json", options);
    Simulation simulation(model, generation(model, {8, 100, 20}));
    simulation.run(device, false);
    Report report;
    simulation.fill(report);
    const auto sampling = std::find_if(report.ops.begin(), report.ops.end(),
                                       [](const ReportOp& op) { return op.phase == "sampling"; });
    REQUIRE(sampling != report.ops.end());
    const std::int64_t rows = 8 * (1 + tokens);
    CHECK(sampling->bytes == static_cast<double>(rows * (129'280 * 2 + 2 + 8)));
    CHECK(simulation.explain("top_k").find(fmt::format("rows={} ", rows)) != std::string::npos);
  }
}

TEST_CASE("products that the device has no units for are said to be priced as others") {
  const std::string file = std::string(TCAST_SOURCE_DIR) + "/configs/models/deepseek-v3.json";
  const TransformerModel model = transformed(file, {});
  struct Row {
    const char* device;
    const char* note;
  };
  const Row rows[] = {
      {"a100-80g", "A100-80G has no matrix units for f8_e4m3: such products are priced as bf16"},
      {"h200", nullptr},
  };
  for (const Row& row : rows) {
    CAPTURE(row.device);
    Simulation simulation(model, generation(model));
    simulation.run(load_device(row.device), false);
    Report report;
    simulation.fill(report);
    const std::vector<std::string> expected =
        row.note == nullptr ? std::vector<std::string>{} : std::vector<std::string>{row.note};
    CHECK(report.assumptions == expected);
  }
}

TEST_CASE("the report says how many distinct experts a pass is expected to read") {  // S6, D17
  const auto even = [](double tokens, double experts, double top_k) {
    return experts * (1 - std::pow(1 - top_k / experts, tokens));
  };
  struct Row {
    const char* model;
    ParallelOptions parallel;
    std::int64_t batch, drafts;
    std::int64_t num_experts, per_token, per_device;
    double prefill, decode;
  };
  const Row rows[] = {
      {"qwen3-235b-a22b", {1, 1, 1}, 16, 0, 128, 8, 128, 128, even(16, 128, 8)},
      {"qwen3-235b-a22b", {8, 8, 8}, 16, 0, 128, 8, 16, 16, even(16, 128, 8) / 8},
      {"qwen3-235b-a22b", {8, 1, 8}, 16, 0, 128, 8, 16, 16, even(16, 128, 8) / 8},
      {"qwen3-235b-a22b", {8, 1, 8}, 1, 0, 128, 8, 16, 16, 1},  // seven replicas have no request
      {"qwen3-235b-a22b", {8, 1, 1}, 16, 0, 128, 8, 128, 128, even(2, 128, 8)},
      {"deepseek-v3", {1, 1, 1}, 4, 0, 256, 8, 256, 256, even(4, 256, 8)},
      {"deepseek-v3", {1, 1, 1}, 4, 2, 256, 8, 256, 256, even(12, 256, 8)},  // with the drafts
      {"mixtral-8x7b", {1, 1, 1}, 1, 0, 8, 2, 8, 8, 2},
  };
  for (const Row& row : rows) {
    CAPTURE(row.model);
    CAPTURE(row.decode);
    ModelOptions options;
    options.parallel = row.parallel;
    options.num_mtp_tokens = row.drafts;
    const TransformerModel model = transformed(
        std::string(TCAST_SOURCE_DIR) + "/configs/models/" + row.model + ".json", options);
    Simulation simulation(model, generation(model, {.batch_size = row.batch}));
    simulation.run(load_device("h200"), false);
    Report report;
    simulation.fill(report);
    REQUIRE(report.experts);
    CHECK(report.experts->num_experts == row.num_experts);
    CHECK(report.experts->per_token == row.per_token);
    CHECK(report.experts->per_device == row.per_device);
    CHECK(*report.passes[0].distinct_experts == doctest::Approx(row.prefill).epsilon(1e-6));
    CHECK(*report.passes[1].distinct_experts == doctest::Approx(row.decode).epsilon(1e-12));
  }
  // One phase; the loop over the experts instead of the fused block; no experts at all.
  ModelOptions eager;
  eager.skip_steps = {"patch_moe"};
  const std::string olmoe = std::string(TCAST_SOURCE_DIR) + "/configs/models/olmoe-1b-7b.json";
  const TransformerModel loop = transformed(olmoe, eager);
  const Workload step{.phase = Phase::decode, .batch = 3, .query_length = 1};
  Simulation simulation(loop, std::make_unique<SinglePass>(step, Deployment{}));
  simulation.run(load_device("h200"), false);
  Report report;
  simulation.fill(report);
  REQUIRE(report.experts);
  CHECK(!report.passes[0].distinct_experts);
  CHECK(*report.passes[1].distinct_experts == doctest::Approx(even(3, 64, 8)));
  const TransformerModel dense =
      transformed(std::string(TCAST_SOURCE_DIR) + "/configs/models/qwen3-0.6b.json", {});
  Simulation plain(dense, generation(dense));
  plain.run(load_device("h200"), false);
  Report no_experts;
  plain.fill(no_experts);
  CHECK(!no_experts.experts);
}

TEST_CASE("a decode step reads the weights of the expected distinct experts") {  // S6, case 11
  // Qwen1.5-MoE's sizes with 64 experts: 3 products of 1408 x 2048 in bf16 for each expert.
  const std::string text = R"({"model_type": "qwen2_moe", "torch_dtype": "bfloat16",
      "vocab_size": 1000, "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 16,
      "num_key_value_heads": 16, "intermediate_size": 5632, "num_experts": 64,
      "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
      "shared_expert_intermediate_size": 5632, "norm_topk_prob": false})";
  HfConfig config = HfConfig::parse(text, "experts.json");
  ModelProfile profile = load_profile(config.model_type(), {});
  TransformerModel model = build_model(std::move(config), std::move(profile), {});
  transform(model);
  for (const auto& [batch, distinct] : {std::pair{1, 4.0}, {8, 25.80995}, {16, 41.21126}}) {
    const Workload step{
        .phase = Phase::decode, .batch = batch, .query_length = 1, .context_length = 1024};
    Simulation simulation(model, std::make_unique<SinglePass>(step, Deployment{}));
    simulation.run(load_device("h200"), false);
    Report report;
    simulation.fill(report);
    double bytes = 0;
    double flops = 0;
    for (const ReportOp& op : report.ops) {
      if (op.name != "grouped_matmul") continue;
      bytes += op.bytes;
      flops += op.flops;
    }
    const double rows = 4.0 * batch;
    const double activations = 2 * rows * 3 * (1408 + 2048);
    CHECK((bytes / 2 - activations) / (3.0 * 1408 * 2048 * 2) ==
          doctest::Approx(distinct).epsilon(1e-6));
    CHECK(flops / 2 == doctest::Approx(2 * rows * 3 * 1408 * 2048));  // flops follow the rows
    const std::string why = simulation.explain("grouped_matmul");
    CHECK(why.find(fmt::format(" {}, on all ranks that share the experts", batch)) !=
          std::string::npos);
    CHECK(why.find("top_k / num_experts = 4 / 64 = 0.0625") != std::string::npos);
    CHECK(why.find(fmt::format("64 * (1 - (1 - 0.0625)^{}) = {:.6g}", batch, distinct)) !=
          std::string::npos);
  }
}

TEST_CASE("times of a disturbed machine come with a warning") {
  struct Row {
    double mean_spread;
    double canary_drift;
    double others_cpu_share;
    std::vector<std::string> begins;
  };
  const Row rows[] = {
      {0, 0, 0, {}},
      {0.2, 0.1, 0.1, {}},
      {0, 0.11, 0, {"the machine's speed changed by 11 %"}},
      {0.5, 0, 0, {"the samples of an op differ by 50 %"}},
      {0.3,
       2,
       0.55,
       {"other processes took 55 % of the processors", "the machine's speed changed by 200 %",
        "the samples of an op differ by 30 %"}},
  };
  for (const Row& row : rows) {
    ReportTiming timing;
    if (row.mean_spread > 0) timing.mean_spread = row.mean_spread;
    timing.canary_drift = row.canary_drift;
    timing.others_cpu_share = row.others_cpu_share;
    const std::vector<std::string> warnings = timing_warnings(timing);
    REQUIRE(warnings.size() == row.begins.size());
    for (std::size_t i = 0; i < warnings.size(); ++i) {
      CHECK(warnings[i].find(row.begins[i]) == 0);
      CHECK(warnings[i].find("; repeat the run on a quiet machine") != std::string::npos);
    }
  }
}
