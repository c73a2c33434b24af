// `tcast verify`: every model type keeps its function through the nine steps, and what changes it
// is named.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/custom_model.h"
#include "tcast/exec/threads.h"
#include "tcast/study/boundaries.h"
#include "tcast/study/routing_log.h"
#include "tcast/study/shrink.h"
#include "tcast/study/verification.h"

#include "command_runs.h"
#include "error_of.h"
#include "scratch.h"

using namespace tcast;

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// --- hooks that are wrong ------------------------------------------------------------------------

/// Replaces every attention by one that does not rotate queries and keys.
void drop_rotary(TransformerModel& model) {
  rewrite(model.root(), [&](Module& module, const ModulePath&) -> std::unique_ptr<Module> {
    auto* attention = dynamic_cast<PagedAttention*>(&module);
    if (attention == nullptr) return nullptr;
    AttentionConfig config = attention->config();
    config.rotary_dim = 0;
    EagerAttention blind(attention->class_name(), config, AttentionNames{});
    blind.take_over(*attention);
    CacheOptions cache;
    cache.dtype = DType::f32;
    cache.block_size = model.options().kv_block_size;
    return blind.make_paged(cache);
  });
}

std::unique_ptr<Module> build_llama(const ArchitectureContext& context) {
  return architectures().find("llama")->call(context);
}

/// A module with an operator that can be priced and has no kernel.
class Unknown : public ModuleOf<Unknown> {
 public:
  explicit Unknown(Module& original) : ModuleOf("Unknown") { take_over(original); }
  Value forward(Trace& trace, Value input) const override {
    CustomOp op;
    op.definition = &find_operator("verified_scan");
    return trace.emit(op, {input}, trace.shape(input), trace.dtype(input));
  }
};

}  // namespace

TCAST_REGISTER_ARCHITECTURE("verified_no_rotary", "verified_secret", "verified_operator",
                            "verified_right", "verified_own_shards")
(const tcast::ArchitectureContext& context) { return build_llama(context); }

TCAST_REGISTER_CUSTOM_MODEL("verified_no_rotary")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::patch_rotary_emb(model);
  tcast::patch_attention(model);
  tcast::run_step(model, "simplify_attention",
                  [](tcast::TransformerModel& m, tcast::StepReport& report) {
                    drop_rotary(m);
                    report.changed_modules = 2;
                  });
  tcast::shard_model(model);
}

// Changes the tree between steps, where no report says so.
TCAST_REGISTER_CUSTOM_MODEL("verified_secret")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::patch_attention(model);
  drop_rotary(model);
  if (model.options().num_mtp_tokens == 0 && model.options().reuse_layers) {
    tcast::shard_model(model);
  }
}

TCAST_REGISTER_CUSTOM_MODEL("verified_right")
(tcast::TransformerModel& model) { tcast::run_standard_steps(model); }

// Cuts the feed-forward blocks itself, without shard_model.
TCAST_REGISTER_CUSTOM_MODEL("verified_own_shards")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::patch_attention(model);
  tcast::run_step(
      model, "cut_feed_forward", [](tcast::TransformerModel& m, tcast::StepReport& report) {
        tcast::walk(m.root(), [&](tcast::Module& module, const tcast::ModulePath& path) {
          auto* mlp = dynamic_cast<tcast::Mlp*>(&module);
          if (mlp == nullptr) return;
          mlp->shard_width(m.layout().group(tcast::ParallelAxis::tp), true, path.text());
          report.changed_modules += path.count();
        });
        tcast::walk(m.root(), [](tcast::Module& module, const tcast::ModulePath&) {
          for (tcast::Parameter& parameter : module.parameters()) {
            parameter.whole_because = "this hook cuts feed-forward blocks only";
          }
        });
      });
}

TCAST_REGISTER_OPERATOR("verified_scan")
(const tcast::CustomOp&) { return tcast::OpWork{}; }

TCAST_REGISTER_CUSTOM_MODEL("verified_operator")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::run_step(model, "scan", [](tcast::TransformerModel& m, tcast::StepReport&) {
    tcast::rewrite(m.root(), [](tcast::Module& module, const tcast::ModulePath&) {
      return dynamic_cast<tcast::Mlp*>(&module) == nullptr ? nullptr
                                                           : std::make_unique<Unknown>(module);
    });
  });
}

// --- hooks that are wrong beyond a boundary ------------------------------------------------------

namespace {

/// A projection whose results are 1 % too large for tokens at positions from `first` on, in one
/// phase or in both.
class Inflated : public ModuleOf<Inflated, Linear> {
 public:
  Inflated(Linear& original, std::int64_t first, std::string phase)
      : ModuleOf(original.in_features(), original.out_features(), false, DType::f32),
        first_(first),
        phase_(std::move(phase)) {
    take_over(original);
  }
  Value forward(Trace& trace, Value input) const override {
    const Value result = Linear::forward(trace, input);
    const Workload& work = trace.workload();
    if (phase_ != "both" && (phase_ == "decode") != (work.context_length > 0)) return result;
    const Value factors = trace.constant({work.tokens(), 1}, [&] {
      std::vector<float> list;
      for (std::int64_t token = 0; token < work.tokens(); ++token) {
        const bool beyond = work.context_length + token % work.query_length >= first_;
        list.push_back(beyond ? 1.01F : 1.0F);
      }
      return list;
    });
    return trace.binary(ElementwiseKind::multiply, result, factors);
  }

 private:
  std::int64_t first_;
  std::string phase_;
};

/// A number of the config: "rope_scaling.original_max_position_embeddings".
std::int64_t config_number(const HfConfig& config, const std::string& key) {
  const std::size_t dot = key.find('.');
  if (dot == std::string::npos) return config.get_size(key);
  return config_number(*config.nested(key.substr(0, dot)), key.substr(dot + 1));
}

/// What the hook's arguments say: wrong from `token` on, or from the token behind the first
/// `key` (a number of the config) plus `plus` tokens.
void inflate(TransformerModel& model) {
  const Arguments& arguments = model.custom_model_config();
  std::int64_t first = arguments.find<std::int64_t>("token").value_or(1) - 1;
  if (const auto key = arguments.find<std::string>("key")) {
    first = config_number(model.config(), *key);
  }
  first += arguments.find<std::int64_t>("plus").value_or(0);
  const std::string phase = arguments.find<std::string>("phase").value_or("both");
  rewrite(model.root(), [&](Module& module, const ModulePath&) -> std::unique_ptr<Module> {
    auto* linear = dynamic_cast<Linear*>(&module);
    if (linear == nullptr || linear->name() != "down_proj") return nullptr;
    return std::make_unique<Inflated>(*linear, first, phase);
  });
}

}  // namespace

TCAST_REGISTER_ARCHITECTURE("verified_beyond")
(const tcast::ArchitectureContext& context) {
  return tcast::architectures().find("mistral")->call(context);
}

TCAST_REGISTER_CUSTOM_MODEL("verified_beyond")
(tcast::TransformerModel& model) {
  tcast::run_standard_steps(model);
  tcast::run_step(model, "inflate", [](tcast::TransformerModel& m, tcast::StepReport& report) {
    inflate(m);
    report.changed_modules = 2;
  });
}

// Routes without the bias that decides who is chosen.
TCAST_REGISTER_CUSTOM_MODEL("verified_router")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::run_step(model, "unbias", [](tcast::TransformerModel& m, tcast::StepReport& report) {
    tcast::rewrite(m.root(),
                   [&report](tcast::Module& module,
                             const tcast::ModulePath& path) -> std::unique_ptr<tcast::Module> {
                     const auto* const block = dynamic_cast<const tcast::EagerMoe*>(&module);
                     if (block == nullptr) return nullptr;
                     tcast::EagerMoe::Config config = block->config();
                     config.correction_bias = false;
                     auto other = std::make_unique<tcast::EagerMoe>(block->class_name(), config,
                                                                    config.names);
                     other->take_over(module);
                     report.changed_modules += path.count();
                     return other;
                   });
    tcast::patch_moe(m);
  });
}

namespace {

// --- running the command -------------------------------------------------------------------------

/// `tcast verify` on one thread: models are tiny and the machine may be busy, so that threads would
/// wait for each other.
Run verify(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "verify");
  arguments.insert(arguments.end(), {"--threads", "1"});
  return run(arguments);
}

json read_json(const fs::path& file) {
  std::ifstream stream(file);
  return json::parse(stream);
}

const fs::path source_dir = TCAST_SOURCE_DIR;

json llama_config(const std::string& model_type) {
  return {{"model_type", model_type}, {"vocab_size", 128},      {"hidden_size", 64},
          {"intermediate_size", 96},  {"num_hidden_layers", 2}, {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5},   {"torch_dtype", "bfloat16"}};
}

std::vector<std::string> faulty_steps(const json& report) {
  std::vector<std::string> names;
  for (const json& step : report.at("steps")) {
    if (!step.at("faults").empty()) names.push_back(step.at("step"));
  }
  return names;
}

bool has_experts(const json& golden) {
  return std::any_of(
      golden.at("parameters").begin(), golden.at("parameters").end(), [](const json& parameter) {
        return parameter.at(0).get<std::string>().find(".experts.") != std::string::npos;
      });
}

/// Verifies the goldens' configs; of those with sizes that do not divide only on one rank.
void verify_all(const std::vector<std::string>& options, bool one_rank, bool experts_only) {
  const Scratch scratch;
  int verified = 0;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(source_dir / "tests/data/logits")) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    const std::string name = file.stem().string();
    const json golden = read_json(file);
    if (!golden.contains("config")) continue;
    const std::string type = golden.at("config").at("model_type");
    if (architectures().find(type) == nullptr) continue;
    if (!one_rank && name.find("-odd") != std::string::npos) continue;
    if (experts_only && !has_experts(golden)) continue;
    CAPTURE(name);
    std::vector<std::string> arguments = {scratch.write("config.json", golden.at("config").dump()),
                                          "--format", "json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Run ran = verify(arguments);
    CHECK(ran.err == "");
    CHECK(ran.status == 0);
    if (ran.status != 0) continue;
    const json report = json::parse(ran.out);
    CHECK(report.at("keeps_function") == true);
    for (const json& change : report.at("model").at("made_smaller")) {
      CAPTURE(change);
      const std::string key = change.get<std::string>();
      CHECK((key.find("sliding_window") == 0 ||
             key.find("max_position_embeddings") != std::string::npos));
    }
    if (custom_models().find(type) == nullptr) CHECK(report.at("steps").size() == 9);
    for (const json& step : report.at("steps")) CHECK(step.at("error").get<double>() < 1e-4);
    ++verified;
  }
  CHECK(verified >= 4);
}

}  // namespace

TEST_CASE("verify: every model type keeps its function") { verify_all({}, true, false); }

TEST_CASE("verify: on two tensor-parallel ranks") { verify_all({"--tp", "2"}, false, false); }

TEST_CASE("verify: experts over two ranks") {
  verify_all({"--ep", "2", "--num-devices", "2"}, false, true);
  verify_all({"--ep", "2", "--tp", "2", "--num-devices", "4"}, false, true);
}

TEST_CASE("verify: quantized, the steps behind it are compared as strictly") {
  const Scratch scratch;
  const std::string config = scratch.write("config.json", llama_config("llama").dump());
  for (const char* scheme : {"w8a16", "w8a8_static", "w8a8_dynamic", "fp8"}) {
    CAPTURE(scheme);
    const Run ran = verify({config, "--tp", "2", "--quantize-linear", scheme, "--quantize-kv-cache",
                            "int8", "--format", "json"});
    CHECK(ran.err == "");
    REQUIRE(ran.status == 0);
    const json report = json::parse(ran.out);
    const json& quantized = report.at("steps").at(7);
    const json& sharded = report.at("steps").at(8);
    CHECK(quantized.at("step") == "quantize_model");
    CHECK(sharded.at("error").get<double>() < 1e-5);
    for (const json* step : {&quantized, &sharded}) {
      const double kernels = step->at("precision").at("kernel_error");
      const double moved = step->at("precision").at("moved");
      CHECK(kernels < 1e-3);
      CHECK(moved > 1e-3);
      CHECK(moved < 0.3);
    }
  }
}

TEST_CASE("verify: checkpoints in 4 bit, in groups, with zero points, and experts in blocks") {
  const Scratch scratch;
  const json packed = json::parse(R"({"quant_method": "compressed-tensors",
    "format": "pack-quantized", "ignore": ["lm_head"], "config_groups": {"g": {
    "targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group",
    "group_size": 16}}}})");
  const json awq = json::parse(R"({"quant_method": "awq", "bits": 4, "group_size": 16})");
  const json awq_of_attention = json::parse(R"({"quant_method": "awq", "bits": 4, "group_size": 4,
    "modules_to_not_convert": ["mlp"]})");
  const json blocks = json::parse(R"({"quant_method": "fp8", "weight_block_size": [8, 16]})");
  struct Row {
    const char* golden;
    const json& scheme;
  };
  for (const Row& row :
       {Row{"llama-plain", packed}, Row{"llama-plain", awq}, Row{"mixtral-plain", awq},
        Row{"gpt_oss-plain", packed}, Row{"gpt_oss-plain", awq}, Row{"gpt_oss-plain", blocks},
        Row{"deepseek_v3-plain", awq_of_attention}}) {
    for (const char* tp : {"1", "2"}) {
      CAPTURE(row.golden);
      CAPTURE(row.scheme);
      CAPTURE(tp);
      json config =
          read_json(source_dir / "tests/data/logits" / (row.golden + std::string(".json")))
              .at("config");
      config["quantization_config"] = row.scheme;
      const Run ran =
          verify({scratch.write("config.json", config.dump()), "--tp", tp, "--format", "json"});
      CHECK(ran.err == "");
      REQUIRE(ran.status == 0);
      const json report = json::parse(ran.out);
      CHECK(report.at("keeps_function") == true);
      const json step = report.at("steps").back();
      CHECK(step.at("error").get<double>() < 1e-4);
      CHECK(step.at("precision").at("kernel_error").get<double>() < 1e-3);
      // 4 bit moves logits by more than 8 bit do.
      CHECK(step.at("precision").at("moved").get<double>() > 1e-3);
      CHECK(step.at("precision").at("moved").get<double>() < 0.9);
    }
  }
}

TEST_CASE("verify: a hook that shards by itself runs on its ranks") {
  const Scratch scratch;
  const std::string config =
      scratch.write("config.json", llama_config("verified_own_shards").dump());
  const Run ran = verify({config, "--tp", "2", "--format", "json"});
  CHECK(ran.err == "");
  REQUIRE(ran.status == 0);
  const json report = json::parse(ran.out);
  CHECK(report.at("inputs").at("ranks") == 2);
  CHECK(report.at("steps").back().at("changed_modules") == 2);
  CHECK(report.at("steps").back().at("error").get<double>() > 0);
}

TEST_CASE("verify: experts of one block that are stored in different ways") {
  const Scratch scratch;
  const json golden = read_json(source_dir / "tests/data/logits/qwen3_moe-plain.json");
  const std::string config = scratch.write("config.json", golden.at("config").dump());
  for (const char* pattern : {"*.experts.1.*", "*.experts.0.*", "*.experts.3.up_proj"}) {
    CAPTURE(pattern);
    for (const char* tp : {"1", "2"}) {
      const Run ran = verify({config, "--quantize-linear", "w8a16", "--quantize-ignore", pattern,
                              "--tp", tp, "--format", "json"});
      CHECK(ran.err == "");
      REQUIRE(ran.status == 0);
      const json step = json::parse(ran.out).at("steps").back();
      CHECK(step.at("error").get<double>() < 1e-4);
      CHECK(step.at("precision").at("kernel_error").get<double>() < 1e-3);
      CHECK(step.at("precision").at("moved").get<double>() < 0.1);
    }
  }
  const Run spread = verify({config, "--quantize-linear", "w8a16", "--quantize-ignore",
                             "*.experts.1.*", "--ep", "2", "--num-devices", "2"});
  CHECK(spread.status == 1);
  CHECK(spread.err.find("the experts of experts are stored in different ways, which cannot be "
                        "executed on several expert-parallel ranks") != std::string::npos);
}

TEST_CASE("verify: multi-token prediction is compared from its step on") {
  const Scratch scratch;
  for (const char* name : {"deepseek_v3-plain", "deepseek_v3-odd", "glm4_moe-plain"}) {
    CAPTURE(name);
    const json golden = read_json(source_dir / "tests/data/mtp" / (std::string(name) + ".json"));
    const std::string config = scratch.write("config.json", golden.at("config").dump());
    const std::string tokens = std::to_string(golden.at("mtp_tokens").get<int>());
    for (const std::vector<std::string>& more :
         {std::vector<std::string>{}, {"--quantize-linear", "w8a8_dynamic"}}) {
      std::vector<std::string> words = {config, "--num-mtp-tokens", tokens, "--format", "json"};
      words.insert(words.end(), more.begin(), more.end());
      const Run ran = verify(words);
      CHECK(ran.err == "");
      REQUIRE(ran.status == 0);
      const json report = json::parse(ran.out);
      for (const json& step : report.at("steps")) {
        CHECK(step.at("error").get<double>() < 1e-4);
      }
    }
  }
}

TEST_CASE("verify: in bfloat16") {
  const Scratch scratch;
  const Run ran = verify({scratch.write("config.json", llama_config("llama").dump()), "--dtype",
                          "bfloat16", "--format", "json"});
  CHECK(ran.err == "");
  REQUIRE(ran.status == 0);
  const json report = json::parse(ran.out);
  for (const json& step : report.at("steps")) {
    CHECK(step.at("error").get<double>() < 1e-4);
    CHECK(step.at("precision").at("kernel_error").get<double>() < 1e-3);
    CHECK(step.at("precision").at("moved").get<double>() < 5e-2);
  }
}

TEST_CASE("verify: a hook that drops the rotary embedding is named") {
  const Scratch scratch;
  const std::string config =
      scratch.write("config.json", llama_config("verified_no_rotary").dump());
  const Run ran = verify({config});
  CHECK(ran.status == 3);
  CHECK(ran.err == "");
  CHECK(ran.out.find("\n'simplify_attention' changes the function of the model: ") !=
        std::string::npos);
  CHECK(ran.out.find("simplify_attention        2") != std::string::npos);
  CHECK(ran.out.find("DIFFERENT") != std::string::npos);
  CHECK(ran.out.find("has the function of") == std::string::npos);
  // What comes behind it is not to blame.
  const Run as_json = verify({config, "--format", "json"});
  CHECK(as_json.status == 3);
  CHECK(faulty_steps(json::parse(as_json.out)) == std::vector<std::string>{"simplify_attention"});
}

TEST_CASE("verify: what a hook does between steps, or behind the last one, is named") {
  const Scratch scratch;
  const std::string config = scratch.write("config.json", llama_config("verified_secret").dump());
  const auto* hook = custom_models().find("verified_secret");
  REQUIRE(hook != nullptr);
  const std::string who = "the " + hook->text();
  const Run between = verify({config, "--format", "json"});
  CHECK(between.status == 3);
  CHECK(faulty_steps(json::parse(between.out)) ==
        std::vector<std::string>{who + ", before shard_model"});
  const Run behind = verify({config, "--no-reuse-layers", "--format", "json"});
  CHECK(behind.status == 3);
  CHECK(faulty_steps(json::parse(behind.out)) ==
        std::vector<std::string>{who + ", after its last step"});
}

TEST_CASE("verify: a hook that is right, and the worked example") {
  const Scratch scratch;
  for (const char* type : {"verified_right", "example_decoder"}) {
    if (architectures().find(type) == nullptr) continue;  // somebody removed the example
    for (const char* tp : {"1", "2"}) {
      CAPTURE(type);
      CAPTURE(tp);
      const Run ran = verify({scratch.write("config.json", llama_config(type).dump()), "--tp", tp});
      CHECK(ran.err == "");
      CHECK(ran.status == 0);
      CHECK(ran.out.find("has the function of the untransformed one for prompts of up to 138") !=
            std::string::npos);
    }
  }
}

namespace {

/// A model of the goldens, and what it is going to be executed on.
TransformerModel golden_model(const std::string& name) {
  const json golden = read_json(source_dir / "tests/data/logits" / (name + ".json"));
  HfConfig config = HfConfig::parse(golden.at("config").dump(), "config.json");
  ModelProfile profile = load_profile(config.model_type(), {});
  ModelOptions options;
  options.dtype = DType::f32;
  options.kv_block_size = 4;
  return build_model(std::move(config), std::move(profile), std::move(options));
}

VerificationRequest short_request() {
  VerificationRequest request;
  request.tokens = {{1, 2, 3, 4, 5, 6, 7, 11}, {9, 8, 7, 6, 5, 4, 3, 12}};
  request.lengths = {{7, 1}};
  return request;
}

}  // namespace

TEST_CASE("verify: a step that breaks a norm is named, and only it") {
  set_threads(1);
  TransformerModel model = golden_model("llama-plain");
  Verification verification(model, short_request(), "");
  model.set_observer(&verification);
  wrap_model(model);
  run_step(model, "break_norm", [](TransformerModel& m, StepReport& report) {
    rewrite(m.root(), [&](Module& module, const ModulePath&) -> std::unique_ptr<Module> {
      if (dynamic_cast<Normalization*>(&module) == nullptr) return nullptr;
      const std::int64_t width = module.parameters().at(0).shape[0];
      auto broken = std::make_unique<Normalization>("Broken", NormKind::rms, width, 0.5, false, 0.0,
                                                    DType::f32);
      broken->take_over(module);
      ++report.changed_modules;
      return broken;
    });
  });
  patch_attention(model);
  verification.finish(model);
  REQUIRE(verification.steps().size() == 3);
  CHECK_FALSE(verification.keeps_function());
  CHECK(verification.steps()[0].faults.empty());
  const VerifiedStep& broken = verification.steps()[1];
  CHECK(broken.name == "break_norm");
  CHECK(broken.error > 1e-2);
  REQUIRE(broken.faults.size() == 1);
  CHECK(
      broken.faults[0] ==
      fmt::format("{:.1e} is more than the tolerance of 1e-04, first after the prompt of 7 tokens",
                  broken.error));
  CHECK(verification.steps()[2].faults.empty());
  CHECK(verification.steps()[2].error > 1e-2);
  CHECK(verification.steps()[2].error_to_previous < 1e-5);
}

TEST_CASE("verify: other experts with the same weights are a difference") {
  set_threads(1);
  TransformerModel model = golden_model("deepseek_v3-plain");
  Verification verification(model, short_request(), "");
  model.set_observer(&verification);
  wrap_model(model);
  // The bias decides who is chosen and is no part of the weights.
  rewrite(model.root(), [](Module& module, const ModulePath&) -> std::unique_ptr<Module> {
    const auto* const block = dynamic_cast<const EagerMoe*>(&module);
    if (block == nullptr) return nullptr;
    EagerMoe::Config config = block->config();
    config.correction_bias = false;
    auto other = std::make_unique<EagerMoe>(block->class_name(), config, config.names);
    other->take_over(module);
    return other;
  });
  patch_moe(model);
  const VerifiedStep& step = verification.steps().back();
  REQUIRE(step.faults.size() == 1);
  CHECK(step.error < 1e-4);
  CHECK(step.wrong_routes.size() >= 1);
  CHECK(step.near_ties.empty());
  CHECK(step.wrong_routes[0].gap > 1e-4);
  CHECK(step.faults[0] ==
        fmt::format("{} token(s) go to other experts, and not by a rounding error",
                    step.wrong_routes.size()));
}

TEST_CASE("routing log: a choice is followed, and what differs is told with its gap") {
  struct Row {
    RouterScore score;
    std::int64_t groups;
    std::vector<float> logits;
    std::vector<std::int32_t> first;  ///< chosen before
    double gap;
    std::vector<double> weights;  ///< after it was followed
  };
  const double s1 = 1 / (1 + std::exp(-1.0));
  const double s2 = 1 / (1 + std::exp(-2.0));
  const double total = std::exp(1.0) + std::exp(2.0) + std::exp(0.0) + std::exp(0.5);
  const std::vector<Row> rows = {
      {RouterScore::softmax, 1, {1, 2, 0, 0.5f}, {0, 1}, 0, {}},
      {RouterScore::softmax,
       1,
       {1, 2, 0, 0.5f},
       {1, 3},
       (std::exp(1.0) - std::exp(0.5)) / std::exp(2.0),
       {std::exp(2.0) / total, std::exp(0.5) / total}},
      {RouterScore::sigmoid, 1, {1, 2, 1, 0.5f}, {1, 2}, 0, {s2, s1}},
      {RouterScore::sigmoid, 2, {2, 2, 1, 1}, {2, 3}, (s2 - s1) / s2, {s1, s1}},
  };
  for (const Row& row : rows) {
    Route op;
    op.tokens = 1;
    op.experts = 4;
    op.top_k = 2;
    op.score = row.score;
    op.groups = row.groups;
    op.topk_groups = 1;
    std::vector<float> logits = row.logits;
    std::vector<std::int32_t> experts = row.first;
    std::vector<float> weights = {-1, -1};
    const auto buffer = [](auto& values, DType dtype) {
      void* data = values.data();
      return Buffer{
          static_cast<std::byte*>(data), static_cast<std::int64_t>(values.size()) * 4, dtype, {}};
    };
    RoutingCall call{op,
                     "model.layers.*.mlp",
                     3,
                     0,
                     5,
                     1,
                     buffer(logits, DType::f32),
                     {},
                     buffer(weights, DType::f32),
                     buffer(experts, DType::i32)};
    RoutingLog log;
    log.begin_pass(1);
    log.follow(call);
    CHECK(log.take_changes().empty());
    CHECK(weights == std::vector<float>{-1, -1});
    // The second time round its best two are chosen.
    experts = {1, 0};
    log.begin_pass(1);
    log.follow(call);
    const std::vector<RoutingChange> changes = log.take_changes();
    CHECK(log.take_changes().empty());
    if (row.weights.empty()) {
      CHECK(changes.empty());
      continue;
    }
    REQUIRE(changes.size() == 1);
    CHECK(changes[0].pass == 1);
    CHECK(changes[0].token == 5);
    CHECK(changes[0].layer == 3);
    CHECK(changes[0].chosen == std::vector<std::int64_t>{0, 1});
    CHECK(changes[0].expected == std::vector<std::int64_t>(row.first.begin(), row.first.end()));
    CHECK(changes[0].gap == doctest::Approx(row.gap));
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(static_cast<double>(weights[i]) == doctest::Approx(row.weights[i]));
    }
    std::sort(experts.begin(), experts.end());
    CHECK(experts == row.first);
  }
}

// --- boundaries ----------------------------------------------------------------------------------

namespace {

/// A tiny model of the type that takes its hook's arguments, with further keys.
std::string beyond_config(const Scratch& scratch, const json& more) {
  json config = llama_config("verified_beyond");
  config.update(more);
  return scratch.write("config.json", config.dump());
}

const json yarn = {
    {"rope_scaling",
     {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}},
    {"max_position_embeddings", 131072}};
const json llama3 = {{"rope_scaling",
                      {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}}},
                     {"max_position_embeddings", 131072}};
const json longrope = {{"rope_scaling",
                        {{"rope_type", "longrope"},
                         {"short_factor", {1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7}},
                         {"long_factor", {1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5}},
                         {"original_max_position_embeddings", 4096}}},
                       {"max_position_embeddings", 131072}};
const json dynamic = {{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 4.0}}},
                      {"max_position_embeddings", 2048}};
const json windowed = {{"sliding_window", 4096}};

/// Names of boundaries with the places where they were crossed in both phases.
std::map<std::string, std::pair<int, int>> crossed_in(const json& report) {
  std::map<std::string, std::pair<int, int>> crossed;
  for (const json& one : report.at("crossed")) {
    if (one.at("phases").size() < 2) continue;
    crossed[one.at("boundary")] = {one.at("at"), one.at("deployed")};
  }
  return crossed;
}

}  // namespace

// S22: off by 1 % from token 129 on passed, as did everything else beyond 14 tokens.
TEST_CASE("verify: a hook that is wrong beyond a boundary is named, in prompts and in decode") {
  struct Row {
    json config;
    std::vector<std::string> fault;  ///< arguments of the hook
  };
  const std::string original = "key=rope_scaling.original_max_position_embeddings";
  const std::vector<Row> rows = {
      {json::object(), {"token=129"}},
      {json::object(), {"token=130"}},
      {yarn, {"token=129"}},
      {windowed, {"token=129"}},
      {windowed, {"key=sliding_window"}},
      {windowed, {"key=sliding_window", "plus=1"}},
      {yarn, {original}},
      {llama3, {original}},
      {longrope, {original}},
      {dynamic, {"key=max_position_embeddings"}},
  };
  const Scratch scratch;
  for (const Row& row : rows) {
    for (const char* phase : {"both", "prefill", "decode"}) {
      std::vector<std::string> arguments = {beyond_config(scratch, row.config), "--format", "json",
                                            "--custom-model-config",
                                            fmt::format("phase={}", phase)};
      for (const std::string& one : row.fault) {
        arguments.insert(arguments.end(), {"--custom-model-config", one});
      }
      CAPTURE(row.config);
      CAPTURE(row.fault);
      CAPTURE(phase);
      const Run ran = verify(arguments);
      CHECK(ran.err == "");
      REQUIRE(ran.status == 3);
      const json report = json::parse(ran.out);
      CHECK(faulty_steps(report) == std::vector<std::string>{"inflate"});
      const std::string fault = report.at("steps").back().at("faults").at(0);
      const bool in_prompt = std::string(phase) == "prefill";
      CHECK((fault.find("first after the prompt of 1") != std::string::npos) == in_prompt);
      CHECK((fault.find("first after decode step") != std::string::npos) != in_prompt);
    }
  }
}

TEST_CASE("verify: the boundaries of a model are crossed, and said") {
  struct Row {
    json config;
    std::map<std::string, std::pair<int, int>> crossed;
    std::string text;
  };
  json all = longrope;
  all.update(windowed);
  const std::vector<Row> rows = {
      {json::object(),
       {{"KV block", {128, 128}}},
       "for prompts of up to 138 tokens and 4 decode step(s); crossed: KV block (128)"},
      {windowed,
       {{"KV block", {128, 128}}, {"window", {129, 4096}}},
       "crossed: KV block (128), window (129 instead of 4096)"},
      {{{"sliding_window", 5}},
       {{"KV block", {128, 128}}, {"window", {5, 5}}},
       "crossed: KV block (128), window (5)"},
      {yarn,
       {{"KV block", {128, 128}}, {"rope original length", {129, 32768}}},
       "crossed: KV block (128), rope original length (129 instead of 32768)"},
      {dynamic, {{"KV block", {128, 128}}, {"rope original length", {129, 2048}}}, "of 2048)"},
      {all,
       {{"KV block", {128, 128}}, {"window", {129, 4096}}, {"rope original length", {130, 4096}}},
       "for prompts of up to 140 tokens and 6 decode step(s); crossed: KV block (128), window (129 "
       "instead of 4096), rope original length (130 instead of 4096)"},
  };
  const Scratch scratch;
  for (const Row& row : rows) {
    CAPTURE(row.config);
    const std::string config = beyond_config(scratch, row.config);
    const std::vector<std::string> right = {config, "--custom-model-config", "token=100000"};
    const Run text = verify(right);
    CHECK(text.err == "");
    CHECK(text.status == 0);
    std::string joined = text.out;
    std::replace(joined.begin(), joined.end(), '\n', ' ');
    CAPTURE(joined);
    CHECK(joined.find(row.text) != std::string::npos);
    CHECK(joined.find("not crossed") == std::string::npos);
    std::vector<std::string> as_json = right;
    as_json.insert(as_json.end(), {"--format", "json"});
    const json report = json::parse(verify(as_json).out);
    CHECK(crossed_in(report) == row.crossed);
    CHECK(report.at("not_crossed").empty());
  }
}

TEST_CASE("verify: lengths that are given are taken, and what they do not cross is said") {
  struct Row {
    std::vector<std::string> options;
    json requests;
    std::map<std::string, std::vector<std::string>> crossed;      ///< phases by boundary
    std::map<std::string, std::vector<std::string>> not_crossed;  ///< phases by boundary
  };
  const auto request = [](int input, int steps) {
    return json{{"input_length", input}, {"decode_steps", steps}};
  };
  const std::vector<std::string> both = {"prefill", "decode"};
  const std::vector<Row> rows = {
      {{"--input-length", "12"},
       json::array({request(12, 2)}),
       {{"window", {"prefill"}}},
       {{"KV block", both}, {"window", {"decode"}}}},
      {{"--input-length", "140", "--decode-steps", "3"},
       json::array({request(140, 3)}),
       {{"KV block", {"prefill"}}, {"window", {"prefill"}}},
       {{"KV block", {"decode"}}, {"window", {"decode"}}}},
      {{"--input-length", "126", "--decode-steps", "5"},
       json::array({request(126, 5)}),
       {{"KV block", {"decode"}}, {"window", {"prefill"}}},
       {{"KV block", {"prefill"}}, {"window", {"decode"}}}},
      {{"--decode-steps", "0"},
       json::array({request(126, 0), request(139, 0)}),
       {{"KV block", {"prefill"}}, {"window", {"prefill"}}},
       {{"KV block", {"decode"}}, {"window", {"decode"}}}},
      {{"--decode-steps", "7"},
       json::array({request(126, 7), request(139, 7)}),
       {{"KV block", both}, {"window", both}},
       {}},
      {{"--kv-block-size", "16"},
       json::array({request(14, 4), request(63, 4), request(75, 2)}),
       {{"KV block", both}, {"window", both}},
       {}},
      {{"--kv-block-size", "16", "--input-length", "20"},
       json::array({request(20, 2)}),
       {{"KV block", {"prefill"}}, {"window", {"prefill"}}},
       {{"KV block", {"decode"}}, {"window", {"decode"}}}},
      {{"--kv-block-size", "1024"},
       json::array({request(63, 4), request(75, 2)}),
       {{"window", both}},
       {{"KV block", both}}},
      {{"--kv-block-size", "1"},
       json::array({request(1, 2), request(63, 4), request(75, 2)}),
       {{"KV block", both}, {"window", both}},
       {}},
  };
  const Scratch scratch;
  const std::string config = beyond_config(scratch, windowed);
  for (const Row& row : rows) {
    CAPTURE(row.options);
    std::vector<std::string> arguments = {config, "--custom-model-config", "token=100000",
                                          "--format", "json"};
    arguments.insert(arguments.end(), row.options.begin(), row.options.end());
    const Run ran = verify(arguments);
    CHECK(ran.err == "");
    REQUIRE(ran.status == 0);
    const json report = json::parse(ran.out);
    CHECK(report.at("inputs").at("requests") == row.requests);
    std::map<std::string, std::vector<std::string>> crossed;
    std::map<std::string, std::vector<std::string>> not_crossed;
    for (const json& one : report.at("crossed")) crossed[one.at("boundary")] = one.at("phases");
    for (const json& one : report.at("not_crossed")) {
      not_crossed[one.at("boundary")].push_back(one.at("phase"));
      CHECK(!one.at("reason").get<std::string>().empty());
    }
    CHECK(crossed == row.crossed);
    CHECK(not_crossed == row.not_crossed);
  }
}

TEST_CASE("verify: a boundary that the config cannot move, or that no request reaches, is said") {
  const Scratch scratch;
  // Positions end before the first block does.
  const json golden = read_json(source_dir / "tests/data/logits/gpt2-plain.json");
  const std::string config = scratch.write("config.json", golden.at("config").dump());
  const json report = json::parse(verify({config, "--format", "json"}).out);
  CHECK(crossed_in(report) ==
        std::map<std::string, std::pair<int, int>>{{"learned positions", {32, 32}}});
  REQUIRE(report.at("not_crossed").size() == 2);
  CHECK(report.at("not_crossed").at(0).at("boundary") == "KV block");
  CHECK(report.at("not_crossed").at(0).at("deployed") == 128);
  CHECK(report.at("not_crossed").at(0).at("reason") == "no prompt is longer than 32 tokens");
  // Nothing in the file says what gpt-oss's class does when it says nothing.
  json gpt_oss = read_json(source_dir / "tests/data/logits/gpt_oss-plain.json").at("config");
  gpt_oss.erase("rope_scaling");
  gpt_oss.erase("rope_parameters");
  const Run ran = verify({scratch.write("config.json", gpt_oss.dump())});
  CHECK(ran.status == 0);
  std::string joined = ran.out;
  std::replace(joined.begin(), joined.end(), '\n', ' ');
  CAPTURE(joined);
  CHECK(joined.find("not crossed: rope original length (4096) within a prompt: no prompt is longer "
                    "than 138 tokens") != std::string::npos);
}

TEST_CASE("verify: learned positions are executed up to the last") {
  const Scratch scratch;
  json config = read_json(source_dir / "tests/data/logits/gpt2-plain.json").at("config");
  config["n_positions"] = 1024;
  const Run ran = verify({scratch.write("config.json", config.dump()), "--format", "json"});
  CHECK(ran.err == "");
  REQUIRE(ran.status == 0);
  const json report = json::parse(ran.out);
  CHECK(crossed_in(report) == std::map<std::string, std::pair<int, int>>{
                                  {"KV block", {128, 128}}, {"learned positions", {130, 1024}}});
  CHECK(report.at("inputs").at("requests").back() ==
        json{{"input_length", 130}, {"decode_steps", 0}});
}

TEST_CASE("verify: decode steps of several tokens cross a boundary as well") {
  const Scratch scratch;
  const json golden = read_json(source_dir / "tests/data/mtp/deepseek_v3-plain.json");
  const std::string config = scratch.write("config.json", golden.at("config").dump());
  const json report =
      json::parse(verify({config, "--num-mtp-tokens", "2", "--format", "json"}).out);
  CHECK(crossed_in(report).count("KV block") == 1);
  CHECK(report.at("not_crossed").empty());
}

TEST_CASE("verify: of a router that is wrong for every token a part is listed") {
  const Scratch scratch;
  const json golden = read_json(source_dir / "tests/data/logits/deepseek_v3-plain.json");
  const std::string config = scratch.write("config.json", golden.at("config").dump());
  const std::vector<std::string> arguments = {config, "--custom-model",
                                              "deepseek_v3=verified_router"};
  std::vector<std::string> as_json = arguments;
  as_json.insert(as_json.end(), {"--format", "json"});
  const Run ran = verify(as_json);
  CHECK(ran.status == 3);
  const json step = json::parse(ran.out).at("steps").back();
  CHECK(step.at("num_other_experts").get<int>() > 100);
  CHECK(step.at("other_experts").size() == 100);
  const Run text = verify(arguments);
  CHECK(text.status == 3);
  CHECK(std::count(text.out.begin(), text.out.end(), '\n') < 60);
}

TEST_CASE("boundaries: requests cross those that are close together at once") {
  using Lengths = std::vector<std::pair<std::int64_t, std::int64_t>>;
  struct Row {
    std::vector<std::int64_t> at;
    std::int64_t end;  ///< learned positions; 0: none
    std::int64_t tokens_per_step;
    bool decodes;
    Lengths lengths;
  };
  const std::vector<Row> rows = {
      {{128}, 0, 1, true, {{126, 4}, {138, 2}}},
      {{128}, 0, 1, false, {{126, 0}, {138, 0}}},
      {{128}, 0, 3, true, {{124, 3}, {138, 2}}},
      {{128, 130}, 0, 1, true, {{126, 6}, {140, 2}}},
      {{130, 128, 128}, 0, 1, true, {{126, 6}, {140, 2}}},
      {{4, 128}, 0, 1, true, {{2, 4}, {126, 4}, {138, 2}}},
      {{128, 137}, 0, 1, true, {{126, 4}, {135, 4}, {147, 2}}},
      {{128}, 130, 1, true, {{126, 4}, {130, 0}}},
      {{128}, 32, 1, true, {{29, 3}, {32, 0}, {32, 0}}},
      {{1}, 0, 1, true, {{1, 2}, {11, 2}}},
      {{513}, 0, 1, true, {{12, 2}}},
      {{}, 1, 1, true, {{1, 0}, {1, 0}}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.at);
    CAPTURE(row.end);
    std::vector<Boundary> boundaries;
    for (const std::int64_t at : row.at) boundaries.push_back({"window", at, at, false});
    if (row.end > 0) boundaries.push_back({"learned positions", row.end, row.end, true});
    LengthRequest request;
    request.tokens_per_step = row.tokens_per_step;
    request.decodes = row.decodes;
    Lengths lengths;
    for (const RequestLengths& one : lengths_across(boundaries, request)) {
      lengths.emplace_back(one.input_length, one.decode_steps);
    }
    CHECK(lengths == row.lengths);
  }
}
