// How few devices would do: against every way of spreading that there is, and how often models are
// built, hooks run and trees are checked to find out.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/units.h"
#include "tcast/cost/memory.h"
#include "tcast/cost/pass.h"
#include "tcast/custom_model.h"
#include "tcast/device/device_profile.h"
#include "tcast/report/report.h"
#include "tcast/study/inputs.h"
#include "tcast/study/least_devices.h"
#include "tcast/study/model_source.h"
#include "tcast/study/scenario.h"
#include "tcast/study/simulation.h"

#include "command_runs.h"
#include "scratch.h"

TCAST_PLUGIN("counters", 1);

namespace {

/// What a plugin's code was called for.
struct Calls {
  int architecture = 0;
  int predicate = 0;
  int made = 0;       ///< hook objects
  int validated = 0;  ///< by hooks
  int transformed = 0;
  int fault = 0;  ///< checks of the whole tree
};
Calls calls;

/// Counts how often trees that it stands in are checked.
class CountedNorm : public tcast::ModuleOf<CountedNorm, tcast::Normalization> {
 public:
  explicit CountedNorm(tcast::Normalization& original)
      : ModuleOf(original.class_name(), original.config().kind, original.config().width,
                 original.config().epsilon, false, 0.0, original.parameters()[0].dtype) {
    take_over(original);
  }
  const Config& config() const { return Normalization::config(); }
  std::string fault() const override {
    ++calls.fault;
    return Normalization::fault();
  }
};

std::unique_ptr<tcast::Module> counted_llama(const tcast::ArchitectureContext& context) {
  ++calls.architecture;
  auto root = tcast::architectures().find("builtin::llama")->call(context);
  tcast::rewrite(*root, [](tcast::Module& module, const tcast::ModulePath& path) {
    std::unique_ptr<tcast::Module> made;
    if (path.text() != "model.norm") return made;
    made = std::make_unique<CountedNorm>(dynamic_cast<tcast::Normalization&>(module));
    return made;
  });
  return root;
}

class CountedModel : public tcast::CustomModel {
 public:
  CountedModel() { ++calls.made; }
  void validate(const tcast::TransformerModel&) const override { ++calls.validated; }
  tcast::TransformerModel& transform(tcast::TransformerModel& model) override {
    ++calls.transformed;
    return tcast::run_standard_steps(model);
  }
};

}  // namespace

TCAST_REGISTER_ARCHITECTURE("counted", "counted_hooked")
(const tcast::ArchitectureContext& context) { return counted_llama(context); }

TCAST_REGISTER_ARCHITECTURE_PREDICATE("counted_hooked")
(const tcast::HfConfig& config) {
  ++calls.predicate;
  return config.has("counted_marker");
}

TCAST_REGISTER_CUSTOM_MODEL_CLASS(CountedModel, "counted_hooked");

namespace {

using namespace tcast;
using nlohmann::json;

std::string shipped(const std::string& name) {
  return std::string(TCAST_SOURCE_DIR) + "/configs/models/" + name + ".json";
}

TransformerModel transformed(HfConfig config, const ParallelOptions& parallel) {
  ModelInputs inputs;
  inputs.options.parallel = parallel;
  TransformerModel model = load_model(std::move(config), inputs);
  transform(model);
  return model;
}

bool fits(const TransformerModel& model, const WorkloadInputs& asked, const MemoryBudget& budget) {
  const ModelSource source(model);
  PassTracer tracer(source);
  const std::unique_ptr<Scenario> scenario = make_scenario(asked, deployment_of(model));
  return forecast_memory(*scenario, tracer, {}, budget).fits();
}

/// The fewest devices, up to `most`, of all ways of spreading a model over them, each built and
/// transformed.
LeastDevices exhaustive(const HfConfig& config, const WorkloadInputs& request,
                        const MemoryBudget& device, std::int64_t most, bool experts) {
  LeastDevices found;
  for (std::int64_t devices = 1; devices <= most; ++devices) {
    for (std::int64_t tp = std::min<std::int64_t>(devices, 64); tp >= 1; --tp) {
      for (std::int64_t ep = devices; ep >= 1; --ep) {
        if (devices % tp != 0 || devices % ep != 0 || (ep > 1 && !experts)) continue;
        try {
          if (!fits(transformed(config, {devices, tp, ep}), request, device)) continue;
          found.devices = devices;
          return found;
        } catch (const Error&) {
          // It does not divide.
        }
      }
    }
  }
  return found;
}

/// A llama with 12 heads, or a mixtral with 6 experts, of a few megabytes.
std::string twelve_heads(const std::string& type, std::int64_t kv_heads, const char* more = "") {
  return fmt::format(R"({{"model_type": "{}", "hidden_size": 192, "num_hidden_layers": 2,
      "num_attention_heads": 12, "num_key_value_heads": {}, "intermediate_size": 480,
      "vocab_size": 960, "rms_norm_eps": 1e-6, "max_position_embeddings": 128,
      "torch_dtype": "float32", "tie_word_embeddings": false, "hidden_act": "silu"{}}})",
                     type, kv_heads, more);
}

TEST_CASE("least devices: as few as there are among all ways of spreading") {
  struct Row {
    bool experts;
    std::string config;
    std::int64_t memory_bytes;
    std::int64_t batch;
  };
  std::vector<Row> rows;
  for (const std::int64_t kv_heads : {1, 4, 12}) {
    for (const std::int64_t kilobytes : {700, 1000, 1500, 2200, 3000, 5000, 9000, 20000}) {
      for (const std::int64_t batch : {1, 6}) {
        rows.push_back({false, twelve_heads("llama", kv_heads), kilobytes * 1000, batch});
      }
    }
  }
  for (const std::int64_t kilobytes : {1000, 2200, 3500, 5000, 9000, 14000, 30000}) {
    for (const std::int64_t batch : {4, 90}) {
      rows.push_back(
          {true,
           twelve_heads("mixtral", 12, R"(, "num_local_experts": 6, "num_experts_per_tok": 2)"),
           kilobytes * 1000, batch});
    }
  }
  int not_powers = 0;
  for (const Row& row : rows) {
    CAPTURE(row.config);
    CAPTURE(row.memory_bytes);
    CAPTURE(row.batch);
    MemoryBudget device;
    device.capacity_bytes = row.memory_bytes;
    WorkloadInputs request;
    request.batch_size = row.batch;
    request.input_length = 24;
    request.output_length = 8;
    const HfConfig config = HfConfig::parse(row.config, "c.json");
    constexpr std::int64_t most = 12;
    const LeastDevices expected = exhaustive(config, request, device, most, row.experts);
    const LeastDevices found = least_devices(transformed(config, {}), request, device);
    if (expected.devices == 0) {
      CHECK((found.devices == 0 || found.devices > most));
      continue;
    }
    CHECK(found.devices == expected.devices);
    CHECK(fits(transformed(config, {found.devices, found.tp, found.ep}), request, device));
    CHECK(found.built == 0);
    // From wherever one starts.
    for (const ParallelOptions& start : {ParallelOptions{2, 2, 1}, ParallelOptions{3, 1, 1}}) {
      const LeastDevices other = least_devices(transformed(config, start), request, device);
      CHECK(other.devices == found.devices);
      CHECK(other.tp == found.tp);
      CHECK(other.ep == found.ep);
      CHECK(other.built <= 1);
    }
    if ((found.devices & (found.devices - 1)) != 0) ++not_powers;
  }
  CHECK(not_powers >= 4);  // else the table does not show what it is for
}

TEST_CASE("the least number of devices comes with how the model is spread over them") {
  const DeviceProfile device = load_device("h100");
  struct Row {
    const char* model;
    std::int64_t devices;
  };
  for (const Row& row : {Row{"llama-3.1-70b", 2}, Row{"deepseek-v3", 16}, Row{"qwen3-0.6b", 1}}) {
    CAPTURE(row.model);
    const HfConfig config = HfConfig::load(shipped(row.model));
    const LeastDevices least = least_devices(transformed(config, {}), {}, {device.memory_bytes, 0});
    CHECK(least.devices == row.devices);
    // The model so spread does fit, and the report says the same.
    const TransformerModel model = transformed(config, {least.devices, least.tp, least.ep});
    Simulation simulation(model, make_scenario({}, deployment_of(model)));
    simulation.run(device, false);
    Report report;
    simulation.fill(report);
    CHECK(report.memory.fits);
  }
}

TEST_CASE("least devices: no more models are built than for powers of two alone") {
  struct Row {
    const char* model;
    const char* device;
    std::int64_t batch;
  };
  const Row rows[] = {
      {"qwen3-0.6b", "h100", 1},  {"llama-3.1-70b", "h100", 1}, {"llama-3.1-70b", "h100", 64},
      {"deepseek-v3", "h100", 1}, {"kimi-k2", "h200", 1},       {"qwen3-235b-a22b", "a100-80g", 8},
  };
  for (const Row& row : rows) {
    CAPTURE(row.model);
    CAPTURE(row.device);
    const HfConfig config = HfConfig::load(shipped(row.model));
    const MemoryBudget device = {load_device(row.device).memory_bytes, 0};
    WorkloadInputs request;
    request.batch_size = row.batch;
    const LeastDevices found = least_devices(transformed(config, {}), request, device);
    REQUIRE(found.devices > 0);
    CHECK(found.built == 0);
    CHECK(found.traced <= 4);
    const LeastDevices sharded = least_devices(transformed(config, {8, 8, 1}), request, device);
    CHECK(sharded.devices == found.devices);
    CHECK(sharded.tp == found.tp);
    CHECK(sharded.ep == found.ep);
    CHECK(sharded.built <= 1);
    CHECK(fits(transformed(config, {found.devices, found.tp, found.ep}), request, device));
  }
}

/// What a search over powers of two, with everything built and transformed for each, finds.
LeastDevices powers_of_two(const HfConfig& config, const WorkloadInputs& request,
                           const MemoryBudget& device) {
  LeastDevices found;
  const TransformerModel whole = transformed(config, {});
  const auto bytes = static_cast<double>(whole.weight_bytes());
  const ParameterCounts counts = whole.count_parameters();
  for (std::int64_t devices = 1; devices <= 1024; devices *= 2) {
    if (bytes / static_cast<double>(devices) > static_cast<double>(device.capacity_bytes)) continue;
    for (std::int64_t tp = std::min<std::int64_t>(devices, 64); tp >= 1; tp /= 2) {
      for (const std::int64_t ep : {devices, std::int64_t{1}}) {
        if (ep > 1 && counts.active == counts.total) continue;
        try {
          ++found.built;
          if (fits(transformed(config, {devices, tp, ep}), request, device)) {
            found.devices = devices;
            found.tp = tp;
            found.ep = ep;
            return found;
          }
        } catch (const Error&) {
          // It does not divide.
        }
        if (devices == 1) break;
      }
    }
  }
  return found;
}

TEST_CASE("least devices: a hook runs no more often than for powers of two alone") {
  int more_than_one = 0;
  for (const std::int64_t kv_heads : {4, 12}) {
    const HfConfig config = HfConfig::parse(twelve_heads("counted_hooked", kv_heads), "c.json");
    for (const std::int64_t kilobytes : {1000, 1500, 2200, 3000, 4000, 5000, 9000, 20000}) {
      for (const std::int64_t batch : {1, 6, 40}) {
        CAPTURE(kv_heads);
        CAPTURE(kilobytes);
        CAPTURE(batch);
        MemoryBudget device;
        device.capacity_bytes = kilobytes * 1000;
        WorkloadInputs request;
        request.batch_size = batch;
        request.input_length = 24;
        request.output_length = 8;
        const LeastDevices before = powers_of_two(config, request, device);
        const TransformerModel model = transformed(config, {});
        calls = {};
        const LeastDevices found = least_devices(model, request, device);
        CHECK(calls.transformed <= found.built);  // some layouts fail before the hook
        if (before.devices == 0) continue;
        REQUIRE(found.devices > 0);
        CHECK(found.devices <= before.devices);
        if (found.devices == 1) CHECK(found.built == 0);
        if (found.devices > 1) ++more_than_one;
        if (found.devices < before.devices) continue;
        CHECK(found.tp == before.tp);
        CHECK(found.ep == before.ep);
        CHECK(found.built <= before.built);
      }
    }
  }
  CHECK(more_than_one >= 10);
}

TEST_CASE("least devices: 384 experts over 12 devices, where powers of two need 16") {
  const HfConfig config = HfConfig::load(shipped("kimi-k2"));
  MemoryBudget device;
  device.capacity_bytes = 96'000'000'000;
  const LeastDevices found = least_devices(transformed(config, {}), WorkloadInputs{}, device);
  CHECK(found.devices == 12);
  CHECK(found.ep == 12);
}

TEST_CASE("least devices: a model for another layout is the model that is built for it") {
  struct Row {
    const char* model;
    ParallelOptions parallel;
  };
  const Row rows[] = {
      {"qwen3-8b", {4, 4, 1}},     {"llama-3.1-70b", {8, 4, 1}},    {"deepseek-v3", {16, 4, 16}},
      {"mixtral-8x7b", {8, 4, 2}}, {"gpt-oss-20b-bf16", {8, 8, 4}}, {"kimi-k2", {12, 4, 12}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.model);
    const HfConfig config = HfConfig::load(shipped(row.model));
    TransformerModel copy = transformed(config, {}).copy_for(row.parallel);
    shard_model(copy);
    const TransformerModel built = transformed(config, row.parallel);
    CHECK(same_structure(copy.root(), built.root()));
    CHECK(copy.weight_bytes() == built.weight_bytes());
    CHECK(copy.replicas() == built.replicas());
  }
}

// --- what a plugin is called for -----------------------------------------------------------------

json simulated(const std::string& config, const std::vector<std::string>& more = {}) {
  calls = {};
  std::vector<std::string> arguments = {"simulate", config, "--device", "h200", "--format", "json"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Run result = run(arguments);
  INFO(result.err);
  REQUIRE(result.status == 0);
  return json::parse(result.out);
}

TEST_CASE("simulate: a model that fits on one device is built and transformed once") {
  const Scratch scratch;
  const json report = simulated(scratch.config("counted_hooked"));
  CHECK(report.at("memory").at("min_devices") == 1);
  CHECK(calls.architecture == 1);
  CHECK(calls.made == 1);
  CHECK(calls.validated == 1);
  CHECK(calls.transformed == 1);
  // Recognised by what its config has: the predicate is asked once.
  simulated(scratch.config("counted_unknown", R"(, "counted_marker": 1)"));
  CHECK(calls.predicate == 1);
  CHECK(calls.architecture == 1);
  CHECK(calls.transformed == 1);
}

TEST_CASE("simulate: a hook runs again for each layout that is looked at") {
  const Scratch scratch;
  const json report = simulated(scratch.config("counted_hooked"), {"--tp", "2"});
  CHECK(report.at("memory").at("min_devices") == 1);
  CHECK(calls.transformed == 2);  // as asked, and on one device
}

TEST_CASE("verify: a hook runs for the model as it is, moved boundaries, and what is executed") {
  const Scratch scratch;
  const std::string config = scratch.config("counted_hooked");
  calls = {};
  const Run result = run({"verify", config});
  INFO(result.err);
  CHECK(result.status == 0);
  CHECK(calls.transformed == 2);
}

TEST_CASE("simulate: trees are checked for each model, not for each request") {
  const Scratch scratch;
  for (const bool hooked : {false, true}) {
    CAPTURE(hooked);
    const std::string config = scratch.config(hooked ? "counted_hooked" : "counted");
    simulated(config, {"--output-length", "1"});
    const Calls few = calls;
    simulated(config, {"--output-length", "100", "--batch-size", "7", "--ideal"});
    CHECK(calls.fault == few.fault);
    // As built and after each of nine steps; with a hook before each of them, too, and at its end.
    CHECK(calls.fault == (hooked ? 20 : 10));
    CHECK(calls.architecture == 1);
  }
}

}  // namespace
