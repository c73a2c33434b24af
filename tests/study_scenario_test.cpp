// What every scenario promises, and one that the library does not know.
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/report/assertion.h"
#include "tcast/report/json_writer.h"
#include "tcast/report/table_writer.h"
#include "tcast/study/scenario.h"
#include "tcast/study/simulation.h"
#include "tcast/transform/pipeline.h"

#include "decoder_source.h"

namespace tcast {
namespace {

using doctest::Approx;

TransformerModel small_model() {
  HfConfig config =
      HfConfig::load(std::string(TCAST_SOURCE_DIR) + "/configs/models/qwen3-0.6b.json");
  ModelProfile profile = load_profile(config.model_type(), {});
  ModelOptions options;
  options.num_hidden_layers = 2;
  TransformerModel model = build_model(std::move(config), std::move(profile), options);
  transform(model);
  return model;
}

/// Generation of an image: a pass over the prompt, then rounds of denoising over the latents. All
/// of it is in this class: nothing else knows of images.
class ImageGeneration final : public Scenario {
 public:
  ImageGeneration(std::int64_t images, std::int64_t rounds) : rounds_(rounds) {
    passes_[0].workload = Workload{Phase::prefill, images, 77, 0};
    passes_[1].workload = Workload{Phase::prefill, images, 1024, 0};
    for (std::size_t i = 0; i < 2; ++i) memory_passes_[i] = {i, *passes_[i].workload};
  }

  std::span<const ScenarioPass> passes() const override { return passes_; }
  std::vector<ReportMetric> metrics() const override { return list({}, {}); }
  std::vector<ReportMetric> metrics(PassPricer&,
                                    std::span<const PricedPass> priced) const override {
    const double image_s = priced[0].total_s + static_cast<double>(rounds_) * priced[1].total_s;
    const auto images = static_cast<double>(passes_[0].workload->batch);
    return list(image_s, image_s > 0 ? std::optional(images / image_s) : std::nullopt);
  }
  ScenarioMemory memory() const override {
    return {.passes = memory_passes_, .batch = passes_[0].workload->batch, .cached_length = 1};
  }

 private:
  static std::vector<ReportMetric> list(std::optional<double> image_s,
                                        std::optional<double> images_per_s) {
    std::vector<ReportMetric> metrics(2);
    metrics[0] = {.group = "images", .name = "image_s", .label = "all rounds", .unit = "s"};
    metrics[0].value = image_s;
    metrics[1] = {
        .group = "rates", .name = "images_per_s", .label = "images/s", .unit = "images/s"};
    metrics[1].value = images_per_s;
    return metrics;
  }

  std::int64_t rounds_;
  std::array<ScenarioPass, 2> passes_ = {ScenarioPass{"encode", "prompt", {}},
                                         ScenarioPass{"denoise", "denoising round", {}}};
  std::array<MemoryPass, 2> memory_passes_{};
};

/// Scenarios of all kinds that are built in, and one that is not.
std::vector<std::unique_ptr<Scenario>> scenarios() {
  std::vector<std::unique_ptr<Scenario>> list;
  const Deployment spread{.replicas = 3, .devices = 6, .tokens_per_step = 1};
  const Deployment drafts{.replicas = 1, .devices = 1, .tokens_per_step = 3};
  for (const Deployment& deployment : {Deployment{}, spread, drafts}) {
    for (const std::int64_t output_length : {1, 2, 3, 50}) {
      WorkloadInputs asked;
      asked.batch_size = 5;
      asked.input_length = 40;
      asked.output_length = output_length;
      list.push_back(make_scenario(asked, deployment));
    }
    for (const Phase phase : {Phase::prefill, Phase::decode}) {
      WorkloadInputs asked;
      asked.single_phase = Workload{phase, 5, phase == Phase::prefill ? 40 : 1, 12};
      list.push_back(make_scenario(asked, deployment));
    }
  }
  list.push_back(std::make_unique<ImageGeneration>(2, 20));
  return list;
}

TEST_CASE("a scenario's metrics have the same names before and after it is priced") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{2}});
  PassPricer pricer(decoder, cost);
  for (const std::unique_ptr<Scenario>& scenario : scenarios()) {
    std::vector<PricedPass> priced(scenario->passes().size());
    price_passes(*scenario, pricer, priced);
    const std::vector<ReportMetric> before = scenario->metrics();
    const std::vector<ReportMetric> after = scenario->metrics(pricer, priced);
    REQUIRE(before.size() == after.size());
    int values = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      CAPTURE(before[i].name);
      CHECK_FALSE(before[i].value);
      CHECK(before[i].name == after[i].name);
      CHECK(before[i].group == after[i].group);
      CHECK(before[i].label == after[i].label);
      CHECK(before[i].unit == after[i].unit);
      // A time says so in its name, and the other way round.
      const bool named = before[i].name.rfind("_s") == before[i].name.size() - 2;
      if (before[i].is_time()) CHECK(named);
      values += after[i].value.has_value();
      for (std::size_t k = 0; k < i; ++k) CHECK(before[k].name != before[i].name);
    }
    CHECK(values > 0);
    CHECK((values == static_cast<int>(after.size()) || !scenario->absent_hint().empty() ||
           !scenario->passes().back().workload));
  }
}

TEST_CASE("parts of a scenario sum up to its totals") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{2}, LayerKind{3, {.causal = true, .window = 20, .chunk = 0}}});
  PassPricer pricer(decoder, cost);
  const MemoryBudget budget{device.memory_bytes, 1'000};
  for (const std::unique_ptr<Scenario>& scenario : scenarios()) {
    std::vector<PricedPass> priced(scenario->passes().size());
    price_passes(*scenario, pricer, priced);
    for (std::size_t i = 0; i < priced.size(); ++i) {
      CHECK(scenario->passes()[i].workload.has_value() == !priced[i].ops.empty());
      double sum = 0;
      for (const OpRow& row : priced[i].ops) sum += row.calls * row.estimate.total_s;
      CHECK(sum == Approx(priced[i].total_s).epsilon(1e-12));
    }
    const MemoryForecast memory = forecast_memory(*scenario, pricer, priced, budget);
    CHECK(memory.total_bytes() == memory.weight_bytes + memory.kv_cache_bytes +
                                      memory.activation.bytes + memory.workspace_bytes + 1'000);
    for (const PricedPass& pass : priced) CHECK(memory.activation.bytes >= pass.activation.bytes);
    // The place of the peak is one of the graph that reports look it up in.
    const Graph& graph = priced[memory.activation_pass].graph;
    REQUIRE(memory.activation.region < graph.region_count);
    CHECK(memory.activation.op < graph.regions[memory.activation.region].ops.size());
  }
}

TEST_CASE("memory does not trace again what has been priced, and is the same if it does") {
  const DeviceProfile device = device_with(2);
  const RooflineModel cost(device);
  const Decoder decoder({LayerKind{2}});
  PassPricer pricer(decoder, cost);
  const MemoryBudget budget{device.memory_bytes, 0};
  for (const std::unique_ptr<Scenario>& scenario : scenarios()) {
    std::vector<PricedPass> priced(scenario->passes().size());
    price_passes(*scenario, pricer, priced);
    decoder.traces = 0;
    const MemoryForecast reused = forecast_memory(*scenario, pricer, priced, budget);
    const int traces = decoder.traces;
    const MemoryForecast anew = forecast_memory(*scenario, pricer, {}, budget);
    CHECK(decoder.traces - traces == static_cast<int>(scenario->memory().passes.size()));
    CHECK(traces < decoder.traces - traces);
    CHECK(reused.kv_cache_bytes == anew.kv_cache_bytes);
    CHECK(reused.workspace_bytes == anew.workspace_bytes);
    CHECK(reused.activation.bytes == anew.activation.bytes);
    CHECK(reused.activation_pass == anew.activation_pass);
    CHECK(reused.total_bytes() == anew.total_bytes());
  }
}

TEST_CASE("a single pass is exactly what was asked for, on the busiest rank") {
  for (const Phase phase : {Phase::prefill, Phase::decode}) {
    WorkloadInputs asked;
    asked.single_phase = Workload{phase, 7, 3, 100};
    const auto scenario = make_scenario(asked, {.replicas = 2, .devices = 4, .tokens_per_step = 3});
    const std::size_t mine = phase == Phase::prefill ? 0 : 1;
    CHECK_FALSE(scenario->passes()[1 - mine].workload);
    const Workload& work = *scenario->passes()[mine].workload;
    CHECK(work.phase == phase);
    CHECK(work.batch == 4);
    CHECK(work.requests == 7);
    CHECK(work.query_length == 3);  // of no draft more
    CHECK(work.context_length == 100);
    CHECK(scenario->memory().cached_length == 103);
    CHECK(scenario->memory().batch == 4);
    CHECK(scenario->other_ops({}).empty());
    const DeviceProfile device = device_with(2);
    const RooflineModel cost(device);
    const Decoder decoder({LayerKind{2}});
    PassPricer pricer(decoder, cost);
    CHECK_FALSE(scenario->limits(pricer, {device.memory_bytes, 0}));
    std::vector<PricedPass> priced(2);
    price_passes(*scenario, pricer, priced);
    for (const ReportMetric& metric : scenario->metrics(pricer, priced)) {
      CAPTURE(metric.name);
      const bool has = metric.name == (phase == Phase::prefill ? "prefill_s" : "decode_step_s");
      CHECK(metric.value.has_value() == has);
      if (has) CHECK(metric.value == priced[mine].total_s);
    }
  }
}

TEST_CASE("a scenario of one's own is simulated, reported and asserted as the builtin ones") {
  const TransformerModel model = small_model();
  Simulation simulation(model, std::make_unique<ImageGeneration>(2, 20));
  simulation.run(load_device("h200"), true);
  Report report;
  simulation.fill(report);
  REQUIRE(report.passes.size() == 2);
  CHECK(report.passes[1].name == "denoise");
  double encode_s = 0;
  double denoise_s = 0;
  for (const ReportOp& op : report.ops) {
    REQUIRE((op.phase == "encode" || op.phase == "denoise"));
    (op.phase == "encode" ? encode_s : denoise_s) += op.total_s;
  }
  const ReportMetric* const image = find_metric(report, "image_s");
  REQUIRE(image != nullptr);
  CHECK(*image->value == Approx(encode_s + 20 * denoise_s).epsilon(1e-9));
  CHECK(*image->ideal < *image->value);
  CHECK(find_metric(report, "ttft_s") == nullptr);
  CHECK_FALSE(report.memory.with_limits);
  CHECK(report.memory.fits);

  const auto json = nlohmann::ordered_json::parse(write_json(report, true));
  CHECK(json["images"]["image_s"] == *image->value);
  CHECK(json["rates"]["images_per_s"] == Approx(2 / *image->value));
  CHECK(json["ideal"]["image_s"] == *image->ideal);
  CHECK(json["ideal"].size() == 1);  // a bound is that of a time
  CHECK_FALSE(json.contains("latency"));
  CHECK_FALSE(json.contains("range"));
  const std::string table = write_table(report);
  CAPTURE(table);
  CHECK(table.find("\nimages ") != std::string::npos);
  CHECK(table.find("\n  all rounds ") != std::string::npos);
  CHECK(table.find("\n  images/s ") != std::string::npos);
  CHECK(table.find("\ndenoise: ") != std::string::npos);
  CHECK(table.find("largest batch") == std::string::npos);
  CHECK(evaluate(parse_assertion("image_s>0"), report).passed);
  CHECK_THROWS_AS(evaluate(parse_assertion("ttft_s>0"), report), Error);

  const std::vector<TraceEvent> events = simulation.trace_events();
  REQUIRE_FALSE(events.empty());
  CHECK(events.front().process == "prompt");
  CHECK(events.back().process == "denoising round");
  CHECK(simulation.explain("matmul").find("denoise ") != std::string::npos);
}

TEST_CASE("a report names what a scenario can say before anything is priced") {
  Report report;
  add_scenario(report, ImageGeneration(1, 1));
  require_field(parse_assertion("image_s<1"), report);
  require_field(parse_assertion("rates.images_per_s>1"), report);
  CHECK_THROWS_AS(require_field(parse_assertion("tpot_s<1"), report), Error);
  // With the bounds that a run of this kind will have.
  report.with_range = true;
  report.with_ideal = true;
  require_field(parse_assertion("range.image_low_s<1"), report);
  require_field(parse_assertion("ideal.image_s<1"), report);
}

}  // namespace
}  // namespace tcast
