// Every byte asked for is accounted for: done, exempt with a reason, or left over, which is an
// error for options and a warning for the checkpoint's own scheme. Steps that change fewer modules
// than they are about say so.
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/custom_model.h"
#include "tcast/transform/coverage.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"
#include "tcast/transform/stored_dtypes.h"

#include "error_of.h"
#include "scratch.h"

namespace {

namespace fs = std::filesystem;
using namespace tcast;

const std::string models = std::string(TCAST_SOURCE_DIR) + "/configs/models/";

/// A part of a layer that nobody calls, with a matrix that no step knows.
class Adapter : public ModuleOf<Adapter> {
 public:
  explicit Adapter(std::int64_t width) : ModuleOf("Adapter") {
    Parameter weight;
    weight.name = "weight";
    weight.shape = {width, 2 * width};
    add_parameter(std::move(weight));
  }
  NoState config() const { return {}; }
};

}  // namespace

TCAST_REGISTER_ARCHITECTURE("covered_adapter")
(const tcast::ArchitectureContext& context) {
  std::unique_ptr<tcast::Module> root = tcast::architectures().find("llama")->call(context);
  tcast::rewrite(
      *root, [](tcast::Module& module, const tcast::ModulePath&) -> std::unique_ptr<tcast::Module> {
        if (module.hf_class_name() == "LlamaMLP") {
          module.add_child("adapter", std::make_unique<Adapter>(64));
        }
        return nullptr;
      });
  return root;
}

// Leaves out quantize_model.
TCAST_REGISTER_CUSTOM_MODEL("covered_plain")
(tcast::TransformerModel& model) {
  tcast::wrap_model(model);
  tcast::maybe_reuse_layers(model);
  tcast::patch_attention(model);
  tcast::patch_mla(model);
  tcast::patch_moe(model);
  tcast::shard_model(model);
}

namespace {

TransformerModel build(const std::string& name, const ModelOptions& options = {},
                       const std::function<void(ModelProfile&)>& change = {}) {
  HfConfig config = HfConfig::load(models + name + ".json");
  ModelProfile profile = load_profile(config.model_type(), {});
  if (change != nullptr) change(profile);
  return build_model(std::move(config), std::move(profile), options);
}

TransformerModel build_text(const std::string& text, const ModelOptions& options = {}) {
  HfConfig config = HfConfig::parse(text, "config.json");
  ModelProfile profile = load_profile(config.model_type(), {});
  return build_model(std::move(config), std::move(profile), options);
}

std::string adapter_config(const std::string& quantization = "") {
  return R"({"model_type": "covered_adapter", "torch_dtype": "bfloat16", "vocab_size": 128,
    "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": false)" +
         quantization + "}";
}

/// All that a transformed model warns of.
std::vector<std::string> warnings_of(const TransformerModel& model) { return model.warnings(); }

/// Sets a reason in every parameter of that name in modules of a class.
void declare(TransformerModel& model, const std::string& class_name, std::string Parameter::*reason,
             const std::string& text) {
  walk(model.root(), [&](Module& module, const ModulePath&) {
    if (module.hf_class_name() != class_name) return;
    for (Parameter& parameter : module.parameters()) parameter.*reason = text;
  });
}

std::int64_t local_bytes_in(const TransformerModel& model, DType dtype) {
  return stored_dtypes(model).bytes_by_dtype[static_cast<std::size_t>(dtype)];
}

}  // namespace

TEST_CASE("shipped models leave nothing over, whatever is asked for, and warn of nothing") {
  for (const auto& entry : fs::directory_iterator(models)) {
    const std::string name = entry.path().stem().string();
    CAPTURE(name);
    for (const int variant : {0, 1, 2}) {
      CAPTURE(variant);
      ModelOptions options;
      options.num_hidden_layers = 6;
      TransformerModel model = build(name, options);
      const bool experts = model.count_parameters().active < model.count_parameters().total;
      if (variant >= 1) {
        options.quantize_kv_cache = KvScheme::fp8;
        options.quantize_linear = LinearScheme::w8a8_dynamic;
      }
      if (variant == 2) {
        const auto heads = model.config().get_size("num_attention_heads");
        options.parallel = {4, heads % 2 == 0 ? 2 : 1, experts ? 4 : 1};
        if (experts) options.expert_skew = 0.5;
      }
      TransformerModel transformed = build(name, options);
      transform(transformed);
      CHECK(warnings_of(transformed) == std::vector<std::string>{});
      for (const Coverage& coverage : coverage_of(transformed).requests) {
        CAPTURE(coverage.request);
        CHECK(coverage.is_complete());
        for (const Coverage::Part& part : coverage.exempt) CHECK(!part.reason.empty());
      }
    }
  }
}

TEST_CASE("done, exempt and left are all the bytes of the weights") {
  ModelOptions options;
  options.quantize_linear = LinearScheme::fp8;
  options.quantize_ignore = {"model.layers.1", "*.experts.3.up_proj"};
  options.num_hidden_layers = 3;
  TransformerModel model = build("qwen3-30b-a3b", options);
  transform(model);
  const CoverageReport report = coverage_of(model);
  REQUIRE(report.requests.size() == 2);
  const Coverage& coverage = report.requests[0];
  CHECK(coverage.request == "--quantize-linear fp8");
  CHECK(coverage.done.bytes == local_bytes_in(model, DType::f8_e4m3));
  std::int64_t exempt = 0;
  std::int64_t of_router = 0;
  std::int64_t of_head = 0;
  std::int64_t of_layer = 0;
  std::int64_t of_expert = 0;
  for (const Coverage::Part& part : coverage.exempt) {
    exempt += part.bytes;
    if (part.reason == "a router stays in high precision") of_router += part.bytes;
    if (part.reason == "excluded by 'lm_head' (by default)") of_head += part.bytes;
    if (part.reason == "excluded by 'model.layers.1' (--quantize-ignore)") of_layer += part.bytes;
    if (part.reason == "excluded by '*.experts.3.up_proj' (--quantize-ignore)") {
      of_expert += part.bytes;
    }
  }
  CHECK(of_router == 3 * 2 * 128 * 2048);
  CHECK(of_head == 2 * 151'936 * 2048);
  CHECK(of_layer == 2 * (2048 * (4096 + 2 * 512 + 4096) + 128 * 3 * 2048 * 768));
  CHECK(of_expert == 2 * 2 * 2048 * 768);
  CHECK(exempt == of_router + of_head + of_layer + of_expert);
  CHECK(coverage.left.empty());
}

// S2
TEST_CASE("the checkpoint's own scheme is accounted for, whoever leaves it out") {
  const std::string blocks = R"(, "quantization_config": {"quant_method": "fp8",
      "weight_block_size": [128, 128]})";
  // 8 experts that are stored together, `size` wide.
  const auto fused = [&](int size) {
    return fmt::format(R"({{"model_type": "gpt_oss", "torch_dtype": "bfloat16",
      "vocab_size": 1024, "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": {},
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_local_experts": 8,
      "num_experts_per_tok": 2, "sliding_window": 128, "rms_norm_eps": 1e-5,
      "rope_theta": 150000, "tie_word_embeddings": false)",
                       size);
  };
  SUBCASE("experts that are stored together have blocks like linears") {
    TransformerModel model = build_text(fused(128) + blocks + "}");
    transform(model);
    CHECK(warnings_of(model) == std::vector<std::string>{});
    // 4 layers of 8 experts with 3 matrices of 128 x 128, and attention's 4.
    CHECK(local_bytes_in(model, DType::f8_e4m3) ==
          4 * (8 * 3 * 128 * 128 + 2 * 128 * 256 + 2 * 128 * 128));
  }
  SUBCASE("experts that a format cannot store") {
    const std::string awq = R"(, "quantization_config": {"quant_method": "awq",
        "group_size": 128})";
    TransformerModel model = build_text(fused(136) + awq + "}");
    transform(model);
    CHECK(warnings_of(model) ==
          std::vector<std::string>{
              "the nine standard steps did not carry quantization_config (awq) out everywhere: 4 "
              "modules (3.19 MiB) stay as they were (model.layers.0.mlp.experts, "
              "model.layers.1.mlp.experts, model.layers.2.mlp.experts and 1 more); step "
              "'quantize_model': its format needs inputs in multiples of 128, it has 136",
              "quantize_model: expected 20, changed 16: model.layers.0.mlp.experts: its format "
              "needs inputs in multiples of 128, it has 136"});
    CHECK(local_bytes_in(model, DType::bf16) > 3 << 20);
  }
  SUBCASE("a hook without quantize_model, 108.0 GiB instead of 55.8") {
    ModelOptions options;
    options.parallel = {16, 1, 16};
    options.custom_models = {"deepseek_v3=covered_plain"};
    TransformerModel model = build("deepseek-v3", options);
    transform(model);
    const std::vector<std::string> warnings = warnings_of(model);
    REQUIRE(warnings.size() == 1);
    CHECK(warnings[0].find("the hook 'covered_plain'") == 0);
    CHECK(warnings[0].find(") did not carry quantization_config (fp8) out: 45,") !=
          std::string::npos);
    CHECK(warnings[0].find("modules (1.22 TiB) stay as they were (") != std::string::npos);
    CHECK(warnings[0].find("step 'quantize_model' did not run") != std::string::npos);
    const StoredDTypes stored = stored_dtypes(model);
    CHECK(stored.linears.size() == 1);
    CHECK(stored.linears[0].weight == DType::bf16);
    CHECK(stored.compute == std::vector<DType>{DType::bf16});
  }
  SUBCASE("a pipeline without it, and --skip-step") {
    for (const bool skip : {false, true}) {
      CAPTURE(skip);
      ModelOptions options;
      if (skip) options.skip_steps = {"quantize_model"};
      TransformerModel model = build("deepseek-v3", options, [&](ModelProfile& profile) {
        if (skip) return;
        for (const char* step : {"wrap_model", "patch_attention", "patch_mla", "patch_moe"}) {
          profile.pipeline.push_back({step, {}, "profile.yaml:1:1"});
        }
      });
      transform(model);
      const std::vector<std::string> warnings = warnings_of(model);
      REQUIRE(warnings.size() == 1);
      CHECK(warnings[0].find("did not carry quantization_config (fp8) out: 45,") !=
            std::string::npos);
      CHECK(warnings[0].find(skip ? "step 'quantize_model': disabled by --skip-step"
                                  : "step 'quantize_model' did not run") != std::string::npos);
    }
  }
}

TEST_CASE("the checkpoint's KV cache is accounted for") {
  const std::string text = adapter_config(R"(, "quantization_config": {"quant_method":
    "compressed-tensors", "config_groups": {}, "kv_cache_scheme": {"num_bits": 8,
    "type": "float"}, "format": "float-quantized"})");
  TransformerModel fine = build_text(text);
  transform(fine);
  CHECK(warnings_of(fine) == std::vector<std::string>{});
  CHECK(stored_dtypes(fine).caches == std::vector<DType>{DType::f8_e4m3});
  ModelOptions options;
  options.skip_steps = {"patch_attention"};
  TransformerModel model = build_text(text, options);
  transform(model);
  CHECK(warnings_of(model) ==
        std::vector<std::string>{
            "the nine standard steps did not carry the KV cache of quantization_config "
            "(compressed-tensors) out: 3 modules (384 B per token) stay as they were "
            "(model.layers.*.self_attn); step "
            "'quantize_model': no attention keeps a paged cache",
            "quantize_model: expected 3, changed 0: no attention keeps a paged cache"});
  CHECK(stored_dtypes(model).caches == std::vector<DType>{DType::bf16});
}

TEST_CASE("what an option leaves over is an error that names modules and bytes") {
  struct Row {
    const char* what;
    ModelOptions options;
    const char* error;
  };
  std::vector<Row> rows;
  const auto add = [&rows](const char* what, const char* error) -> ModelOptions& {
    return rows.emplace_back(Row{what, {}, error}).options;
  };
  add("a matrix that nobody quantizes",
      "--quantize-linear w8a16 was asked for, but the nine standard steps did not carry it out "
      "everywhere: 3 modules (48.0 KiB) stay as they were (model.layers.[0-2].mlp.adapter) | "
      "quantize them in a step of your own, leave them out with --quantize-ignore, or let their "
      "class say why they stay (unquantized_because)")
      .quantize_linear = LinearScheme::w8a16;
  add("a matrix that no rule cuts",
      "--tp 2 was asked for, but the nine standard steps did not carry it out everywhere: 3 "
      "modules (48.0 KiB) stay as they were (model.layers.[0-2].mlp.adapter) | their classes must "
      "cut them, or say why they stay whole (whole_because)")
      .parallel = {2, 2, 1};
  add("no experts",
      "--ep 2 was asked for, but the nine standard steps did not carry it out | step "
      "'shard_model': the model has no routed experts that could be spread")
      .parallel = {2, 1, 2};
  for (const Row& row : rows) {
    CAPTURE(std::string(row.what));
    CHECK(error_of([&] {
            TransformerModel model = build_text(adapter_config(), row.options);
            transform(model);
          }) == row.error);
  }
}

TEST_CASE("experts of one list that are stored in different ways are spread all the same") {
  ModelOptions options;
  options.quantize_linear = LinearScheme::w8a16;
  options.quantize_ignore = {"*.experts.1.*"};
  options.num_hidden_layers = 2;
  options.parallel = {4, 1, 4};
  TransformerModel model = build("qwen3-30b-a3b", options);
  transform(model);
  for (const Coverage& coverage : coverage_of(model).requests) CHECK(coverage.is_complete());
}

TEST_CASE("a module class declares which of its parameters are exempt, and why") {
  ModelOptions options;
  options.quantize_linear = LinearScheme::w8a16;
  options.parallel = {2, 2, 1};
  TransformerModel model = build_text(adapter_config(), options);
  declare(model, "Adapter", &Parameter::unquantized_because, "adapters are trained in bf16");
  declare(model, "Adapter", &Parameter::whole_because, "adapters are tiny");
  transform(model);
  CHECK(warnings_of(model) == std::vector<std::string>{});
  int told = 0;
  for (const Coverage& coverage : coverage_of(model).requests) {
    for (const Coverage::Part& part : coverage.exempt) {
      if (part.path != "model.layers.[0-2].mlp.adapter") continue;
      ++told;
      CHECK(part.bytes == 3 * 2 * 64 * 128);
      CHECK(part.reason ==
            (coverage.request == "--tp 2" ? "adapters are tiny" : "adapters are trained in bf16"));
    }
  }
  CHECK(told == 2);
  // Of the checkpoint's own scheme it is a warning, and a pattern is a reason, too.
  for (const bool ignored : {false, true}) {
    const std::string blocks = fmt::format(R"(, "quantization_config": {{"quant_method": "fp8",
        "modules_to_not_convert": [{}], "weight_block_size": [32, 32]}})",
                                           ignored ? R"("mlp.adapter")" : "");
    TransformerModel own = build_text(adapter_config(blocks));
    transform(own);
    CHECK(warnings_of(own).size() == (ignored ? 0 : 1));
  }
}

TEST_CASE("tensor parallelism leaves whole what says why") {
  struct Row {
    const char* model;
    std::int64_t tp;
    std::vector<std::string> reasons;
  };
  const Row rows[] = {
      {"deepseek-v3",
       8,
       {"every head needs the compressed query", "every head needs the latent",
        "every rank routes its tokens among all experts"}},
      {"gpt2", 2, {"positions are few"}},
      {"llama-3.1-8b", 4, {}},
      {"qwen1.5-moe-a2.7b", 4, {"every rank routes its tokens among all experts"}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.model);
    ModelOptions options;
    options.parallel = {row.tp, row.tp, 1};
    TransformerModel model = build(row.model, options);
    transform(model);
    std::set<std::string> reasons;
    for (const Coverage& coverage : coverage_of(model).requests) {
      for (const Coverage::Part& part : coverage.exempt) {
        if (coverage.request[2] == 't') reasons.insert(part.reason);
      }
    }
    CHECK(std::vector<std::string>(reasons.begin(), reasons.end()) == row.reasons);
  }
}

// S3
TEST_CASE("a step that changes fewer modules than it is about says so") {
  struct Row {
    const char* what;
    const char* model;
    std::function<void(ModelProfile&)> change;
    const char* warning;
  };
  const Row rows[] = {
      {"a field of the latent attention that does not exist", "deepseek-v3",
       [](ModelProfile& profile) { profile.mla_field_names.q_a_proj = "qa_proj"; }, nullptr},
      {"an attribute of it that does not exist", "deepseek-v3",
       [](ModelProfile& profile) { profile.mla_field_names.kv_lora_rank = "rank"; },
       "patch_mla: expected 61, changed 0: model.layers.[0-2].self_attn: it has no attribute "
       "'rank'"},
      {"a child of the mixture that does not exist", "qwen3-30b-a3b",
       [](ModelProfile& profile) { profile.moe_field_names.gate = "router"; },
       "patch_moe: expected 48, changed 0: model.layers.[0-47].mlp: no child 'router'"},
      {"no name of the mixture", "qwen3-30b-a3b",
       [](ModelProfile& profile) { profile.moe_module_name.reset(); },
       "patch_moe: expected 48, changed 0: model.layers.[0-47].mlp: the profile names no mixture "
       "of "
       "experts"},
      {"no name of the latent attention", "deepseek-v2-lite",
       [](ModelProfile& profile) { profile.mla_module_name.reset(); },
       "patch_mla: expected 27, changed 0: model.layers.0.self_attn: the profile names no latent "
       "attention"},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.what));
    HfConfig config = HfConfig::load(models + row.model + ".json");
    ModelProfile named = load_profile(config.model_type(), {});
    // The tree is built with the right names; the steps look for others.
    TransformerModel right = build_model(std::move(config), named, {});
    ModelProfile changed = named;
    row.change(changed);
    TransformerModel model(right.config(), changed, {}, right.root().clone(), {});
    transform(model);
    std::vector<std::string> warnings = warnings_of(model);
    std::erase_if(warnings, [](const std::string& text) {
      return text.find("quantize_model:") == 0 || text.find("did not carry") != std::string::npos;
    });
    if (row.warning == nullptr) continue;
    REQUIRE(warnings.size() == 1);
    CHECK(warnings[0].find(row.warning) == 0);
  }
}

// S3
TEST_CASE("a model that cannot be wrapped, and attention that cannot be patched, are told") {
  class Other : public ModuleOf<Other> {
   public:
    Other() : ModuleOf("OtherAttention") {
      Parameter weight;
      weight.name = "weight";
      weight.shape = {4, 4};
      add_parameter(std::move(weight));
    }
    NoState config() const { return {}; }
    Value forward(Trace&, Value input) const override { return input; }
  };
  TransformerModel base = build("qwen3-0.6b");
  auto root = std::make_unique<ModuleList>();
  root->add_child("attention", std::make_unique<Other>());
  TransformerModel model(base.config(), {}, {}, std::move(root), {});
  wrap_model(model);
  patch_attention(model);
  CHECK(warnings_of(model) ==
        std::vector<std::string>{
            "wrap_model: expected 1, changed 0: 'ModuleList' is not a causal language model",
            "patch_attention: expected 1, changed 0: attention: class 'OtherAttention' is not an "
            "AttentionModule"});
}

TEST_CASE("steps that find their work done expect nothing more") {
  ModelOptions options;
  options.quantize_kv_cache = KvScheme::int8;
  options.num_hidden_layers = 5;
  for (const char* name : {"qwen3-0.6b", "qwen3-30b-a3b", "deepseek-v3"}) {
    CAPTURE(name);
    TransformerModel model = build(name, options);
    for (int i = 0; i < 2; ++i) {
      wrap_model(model);
      maybe_reuse_layers(model);
      patch_rotary_emb(model);
      patch_attention(model);
      patch_mla(model);
      patch_moe(model);
      quantize_model(model);
    }
    CHECK(warnings_of(model) == std::vector<std::string>{});
  }
}

TEST_CASE("multi-token prediction, replicas and skew are found in the tree") {
  ModelOptions options;
  options.num_mtp_tokens = 2;
  options.parallel = {16, 4, 8};
  options.expert_skew = 0.7;
  TransformerModel model = build("deepseek-v3", options);
  transform(model);
  std::vector<std::string> requests;
  for (const Coverage& coverage : coverage_of(model).requests) {
    requests.push_back(fmt::format("{} {}", coverage.request, coverage.done.modules));
    CHECK(coverage.is_complete());
  }
  REQUIRE(requests.size() == 6);
  CHECK(requests[0] == "--num-mtp-tokens 2 1");
  CHECK(requests[3] == "--num-devices 16 1");
  CHECK(requests[4] == "--expert-skew 0.7 59");
  // The same model asked for something else does not have it.
  model.set_replicas(1);
  CHECK(!coverage_of(model).requests[3].is_complete());
}

// C6
TEST_CASE("a mixture config whose layers are all dense has no experts to patch") {
  const std::string text = R"({"model_type": "qwen3_moe", "torch_dtype": "bfloat16",
    "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
    "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "mlp_only_layers": [0, 1],
    "tie_word_embeddings": false})";
  TransformerModel model = build_text(text);
  transform(model);
  CHECK(warnings_of(model) == std::vector<std::string>{});
  bool told = false;
  for (const StepReport& report : model.reports()) {
    if (report.step != "patch_moe") continue;
    REQUIRE(report.skipped.size() == 1);
    told = report.skipped[0].reason == "no layer of this model has a 'Qwen3MoeSparseMoeBlock'";
  }
  CHECK(told);
  ModelOptions options;
  options.parallel = {2, 1, 2};
  CHECK(error_of([&] {
          TransformerModel spread = build_text(text, options);
          transform(spread);
        })
            .find("--ep 2 was asked for, but the nine standard steps did not carry it out | step "
                  "'shard_model': the model has no routed experts") == 0);
  // A wrong name of the user's own is a mistake.
  const Scratch scratch;
  const std::string file = scratch.write("mine.yaml", "moe_module_name: Qwen3MoeBlock\n");
  CHECK(error_of([&] {
          HfConfig config = HfConfig::parse(text, "config.json");
          TransformerModel wrong =
              build_model(std::move(config), load_profile("qwen3_moe", {file}), {});
          transform(wrong);
        }).find(file + ": moe_module_name: no module of the model has the class 'Qwen3MoeBlock'") ==
        0);
}

TEST_CASE("names of a user's profile that no block of the tree has are told") {
  struct Row {
    const char* model;
    const char* yaml;
    std::vector<std::string> warnings;  // how they begin; FILE stands for the profile's
  };
  const Row rows[] = {
      {"qwen3-30b-a3b",
       "moe_field_names_override: {norm_topk_prob: normalized}",
       {"patch_moe: FILE: moe_field_names_override.norm_topk_prob: none of 48 "
        "'Qwen3MoeSparseMoeBlock' has a child or attribute 'normalized'"}},
      {"qwen3-30b-a3b", "moe_field_names_override: {gate: gate, top_k: top_k}", {}},
      // Without its name a part would not be computed.
      {"deepseek-v2-lite",
       "moe_field_names_override: {shared_experts: extra}",
       {"patch_moe: expected 26, changed 0: model.layers.[1-26].mlp: its child 'shared_experts' is "
        "none of the parts that moe_field_names_override names"}},
      {"deepseek-v2-lite",
       "mla_field_names_override: {q_a_proj: query_down}",
       {"patch_mla: FILE: mla_field_names_override.q_a_proj: none of 27 'DeepseekV2Attention' has "
        "a "
        "child or attribute 'query_down'"}},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.yaml));
    const Scratch scratch;
    const std::string file = scratch.write("mine.yaml", std::string(row.yaml) + "\n");
    HfConfig config = HfConfig::load(models + row.model + ".json");
    ModelProfile profile = load_profile(config.model_type(), {file});
    TransformerModel model = build_model(std::move(config), std::move(profile), {});
    transform(model);
    std::vector<std::string> warnings = warnings_of(model);
    CAPTURE(join(warnings, " | "));
    REQUIRE(warnings.size() == row.warnings.size());
    for (std::size_t i = 0; i < warnings.size(); ++i) {
      std::string expected = row.warnings[i];
      if (const std::size_t at = expected.find("FILE"); at != std::string::npos) {
        expected.replace(at, 4, file);
      }
      CHECK(warnings[i].find(expected) == 0);
    }
  }
}

TEST_CASE("a head of scores stays as it is, as a head of tokens does") {
  const auto text = [](const char* type, const char* head) {
    return fmt::format(R"({{"model_type": "{}", "architectures": ["{}"], "torch_dtype": "bfloat16",
      "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96,
      "num_attention_heads": 4, "num_key_value_heads": 2, "num_labels": 3}})",
                       type, head);
  };
  struct Row {
    std::string config;
    const char* reason;
  };
  const Row rows[] = {
      {text("llama", "LlamaForSequenceClassification"), "excluded by 'score' (by default)"},
      {text("qwen2", "Qwen2ForRewardModel"), "excluded by 'score' (by default)"},
      {text("llama", "LlamaForTokenClassification"), "excluded by 'score' (by default)"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.config);
    ModelOptions options;
    options.quantize_linear = LinearScheme::fp8;
    options.parallel = {2, 2, 1};
    TransformerModel model = build_text(row.config, options);
    transform(model);
    CHECK(warnings_of(model) == std::vector<std::string>{});
    walk(model.root(), [](const Module& module, const ModulePath& path) {
      if (path.text().find("score") != 0) return;
      for (const Parameter& parameter : module.parameters()) CHECK(parameter.dtype == DType::bf16);
    });
    for (const Coverage& coverage : coverage_of(model).requests) {
      REQUIRE(!coverage.exempt.empty());
      CHECK(coverage.exempt.back().path.find("score") == 0);
      CHECK(coverage.exempt.back().reason ==
            (coverage.request == "--tp 2" ? "scores of labels are computed whole on every rank"
                                          : row.reason));
    }
  }
}
