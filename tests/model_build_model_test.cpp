// What becomes of the keys of a config: read, known, defaulted, refused or told (decision D14).
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

#include "app/options.h"
#include "error_of.h"

using namespace tcast;

namespace {

using nlohmann::json;
namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

const fs::path root = TCAST_SOURCE_DIR;

json read_json(const fs::path& file) {
  const std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return json::parse(text.str());
}

TransformerModel build(const json& config, ModelInputs inputs = {}) {
  return load_model(HfConfig::parse(config.dump(), "c.json"), inputs);
}

std::string refusal(const json& config, const ModelInputs& inputs = {}) {
  return error_of([&] { build(config, inputs); });
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

json small(const std::string& type, const json& more = json::object()) {
  json config = {{"model_type", type},          {"vocab_size", 96},
                 {"hidden_size", 64},           {"intermediate_size", 96},
                 {"num_hidden_layers", 2},      {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},    {"rms_norm_eps", 1e-5},
                 {"torch_dtype", "bfloat16"},   {"max_position_embeddings", 512},
                 {"tie_word_embeddings", false}};
  config.update(more);
  return config;
}

/// Everything that tells one model from another.
std::string signature(const TransformerModel& model) {
  std::string text = fmt::format("{} {}\n", model.context_limit(), model.generates());
  walk(model.root(), [&text](const Module& module, const ModulePath& path) {
    text += fmt::format("{} {}", path.text(), module.class_name());
    for (const Attribute& attribute : module.attributes()) {
      text += fmt::format(" {}={}", attribute.name, to_string(attribute.value));
    }
    for (const Parameter& parameter : module.parameters()) {
      text += fmt::format(" {}{}{}{}", parameter.name, to_string(parameter.shape),
                          name_of(parameter.dtype), parameter.tied_to);
    }
    text += '\n';
  });
  // Operators say what attributes do not.
  Graph graph;
  model.trace({Phase::prefill, 1, 4, 0}, graph);
  for (std::uint32_t i = 0; i < graph.region_count; ++i) {
    for (const Op& op : graph.regions[i].ops) {
      text += fmt::format("{} {}", name_of(op.record), describe(op.record));
      const auto* elementwise = std::get_if<Elementwise>(&op.record);
      text += fmt::format(" {}\n", elementwise == nullptr ? 0 : elementwise->constant);
    }
  }
  return text;
}

/// Configs of a type that goldens hold.
std::vector<json> configs_of(const std::string& type) {
  std::vector<json> configs;
  for (const char* folder : {"shapes", "logits", "mtp"}) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(root / "tests/data" / folder)) {
      if (entry.path().filename().string().rfind(type + "-", 0) == 0) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) configs.push_back(read_json(file).at("config"));
  }
  return configs;
}

/// Values that differ from a default, of which one should make another model.
std::vector<json> other_values(const json& value) {
  if (value.is_boolean()) return {true, false};
  if (value.is_number_integer()) return {value.get<std::int64_t>() + 1, 2, 1};
  if (value.is_number()) return {value.get<double>() / 2, value.get<double>() * 3};
  if (value.is_string()) return {"gelu_new", "silu", "noaux_tc"};
  return {2,
          true,
          0.25,
          json::array({0, 1, 1, 1}),
          json::array({"sliding_attention", "full_attention", "full_attention", "full_attention"}),
          json{{"rope_type", "linear"}, {"factor", 2}}};
}

}  // namespace

// By construction: a class's table lists what its family reads, and nothing else.
TEST_CASE("every key of a config class changes the model, or is refused") {
  // What only an option or another part asks for.
  const std::map<std::string, std::string> on_demand = {
      {"num_nextn_predict_layers", "--num-mtp-tokens"}};
  // What some keys need to act.
  const json window = {
      {"use_sliding_window", true}, {"sliding_window", 5}, {"max_window_layers", 1}};
  const std::map<std::string, json> switches = {
      {"norm_topk_prob", {{"num_experts_per_tok", 2}}},
      {"topk_group", {{"n_group", 2}, {"topk_group", 2}}},
      {"layer_types", window},
      {"max_window_layers", window},
      {"sliding_window", window},
      {"use_sliding_window",
       {{"use_sliding_window", true}, {"sliding_window", 5}, {"max_window_layers", 0}}}};
  std::size_t keys = 0;
  for (const auto* const entry : config_classes().entries()) {
    const std::string type(entry->pattern);
    const std::vector<json> plain = configs_of(type);
    REQUIRE_FALSE(plain.empty());
    const json defaults = json::parse(entry->data().defaults);
    for (const auto& member : defaults.items()) {
      const std::string key = member.key();
      if (on_demand.count(key) > 0) continue;
      CAPTURE(type);
      CAPTURE(key);
      bool acts = false;
      std::vector<json> configs = plain;
      if (switches.count(key) > 0) {
        for (json config : plain) {
          config.update(switches.at(key));
          config.erase("layer_types");
          configs.push_back(std::move(config));
        }
      }
      for (std::size_t i = 0; i < configs.size() && !acts; ++i) {
        std::string before;
        try {
          before = signature(build(configs[i]));
        } catch (const Error&) {
          continue;  // what the key needs does not fit this one
        }
        for (const json& other : other_values(member.value())) {
          json config = configs[i];
          if (config.contains(key) && config[key] == other) continue;
          config[key] = other;
          try {
            acts = acts || signature(build(config)) != before;
          } catch (const Error&) {
            acts = true;
          }
          if (acts) break;
        }
      }
      CHECK(acts);
      ++keys;
    }
  }
  CHECK(keys > 300);
}

TEST_CASE("no published config of a known type has a key that is told as unread") {
  int read = 0;
  for (const fs::path& folder :
       {root / "configs/models", root / ".." / "shared" / "data" / "configs"}) {
    if (!fs::is_directory(folder)) continue;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() != ".json") continue;
      const HfConfig config = HfConfig::load(entry.path().string());
      if (config.has("_class_name") || config.has("vision_config")) continue;
      if (architectures().find(config.model_type()) == nullptr) continue;
      CAPTURE(entry.path().filename().string());
      const TransformerModel model = load_model(config, {});
      CHECK(model.warnings() == Strings{});
      ++read;
    }
  }
  CHECK(read > 30);
}

// S12: one harmful key among harmless ones.
TEST_CASE("a key that nothing knows is a warning with its value") {
  const json noise = {{"bos_token_id", 1},           {"eos_token_id", 2},
                      {"use_cache", true},           {"pretraining_tp", 1},
                      {"attention_dropout", 0.1},    {"_name_or_path", "x"},
                      {"transformers_version", "4"}, {"initializer_range", 0.02}};
  struct Row {
    json more;
    const char* warning;  // empty: none
  };
  const Row rows[] = {
      {json::object(), ""},
      {{{"foo", 3}}, "config key foo (3) is not read"},
      {{{"kv_cache_heads", 1}}, "config key kv_cache_heads (1) is not read"},
      {{{"hidden_sise", 128}}, "config key hidden_sise (128) is not read"},
      {{{"mlp_biass", true}}, "did you mean mlp_bias?"},
      {{{"dual_chunk_attention_config", {{"chunk_size", 8}}}},
       "config key dual_chunk_attention_config ({\"chunk_size\": 8}) is not read"},
      {{{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2}, {"extra", 1}}}},
       "config key rope_scaling.extra (1) is not read"},
      {{{"is_encoder_decoder", true}}, "config key is_encoder_decoder (true) is not read"},
      {{{"layer_types", {"full_attention"}}},
       "config key layer_types ([\"full_attention\"]) is not read"},
      {{{"sliding_window", 64}}, "config key sliding_window (64) is not read"},
      {{{"sliding_window", nullptr}}, ""},
      {{{"num_experts", 8}}, "config key num_experts (8) is not read"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.more.dump());
    json config = small("llama", noise);
    config.update(row.more);
    const Strings warnings = build(config).warnings();
    if (std::string(row.warning).empty()) {
      CHECK(warnings == Strings{});
    } else {
      REQUIRE(warnings.size() == 1);
      CHECK(contains(warnings[0], row.warning));
    }
  }
}

// S13: names of other families are not this one's.
TEST_CASE("foreign synonyms are told, not honoured") {
  struct Row {
    const char* type;
    const char* key;
    json value;
  };
  const Row rows[] = {
      {"llama", "norm_eps", 1e-3},       {"llama", "n_kv_heads", 1},
      {"llama", "kv_channels", 8},       {"llama", "activation", "gelu"},
      {"llama", "rotary_emb_base", 500}, {"llama", "n_layer", 7},
      {"llama", "ffn_dim", 32},          {"llama", "num_kv_heads", 4},
      {"gemma2", "hidden_act", "silu"},  {"mistral", "n_embd", 32},
      {"qwen2", "layer_norm_eps", 1e-3}, {"qwen3", "moe_topk", 2},
      {"phi", "rms_norm_eps", 1e-3},     {"starcoder2", "n_inner", 32},
  };
  for (const Row& row : rows) {
    CAPTURE(row.type);
    CAPTURE(row.key);
    json plain = small(row.type);
    if (std::string(row.type) == "phi" || std::string(row.type) == "starcoder2") {
      plain.erase("rms_norm_eps");
    }
    json config = plain;
    config[row.key] = row.value;
    const TransformerModel model = build(config);
    CHECK(signature(model) == signature(build(plain)));
    REQUIRE(model.warnings().size() == 1);
    CHECK(contains(model.warnings()[0], "config key " + std::string(row.key) + " ("));
  }
  // transformers' own second names are this class's.
  json gpt2 = {{"model_type", "gpt2"},
               {"hidden_size", 64},
               {"num_hidden_layers", 2},
               {"num_attention_heads", 4},
               {"torch_dtype", "float32"}};
  const TransformerModel model = build(gpt2);
  CHECK(model.warnings() == Strings{});
  CHECK(model.count_parameters().total ==
        50257 * 64 + 1024 * 64 + 2 * (12 * 64 * 64 + 13 * 64) + 128);
  CHECK(contains(refusal({{"model_type", "gpt2"}, {"hidden_size", 64}, {"n_embd", 32}}),
                 "two names of one setting"));
}

// C7, C11: what a config leaves out is what its class has, and is said.
TEST_CASE("class defaults take the place of absent keys") {
  json config = small("qwen3_moe");
  for (const char* key : {"num_key_value_heads", "max_position_embeddings", "rms_norm_eps"}) {
    config.erase(key);
  }
  config["num_experts"] = 4;
  config["num_experts_per_tok"] = 2;
  const TransformerModel model = build(config);
  CHECK(model.context_limit() == 32768);
  bool said = false;
  for (const std::string& text : model.assumptions()) {
    said = said || (contains(text, "absent, as in Qwen3MoeConfig: ") &&
                    contains(text, "num_key_value_heads 4") &&
                    contains(text, "moe_intermediate_size 768") &&
                    contains(text, "max_position_embeddings 32768"));
  }
  CHECK(said);
  // The text model of a published config that leaves out most of them.
  const json gemma = {{"model_type", "gemma3"},
                      {"architectures", {"Gemma3ForConditionalGeneration"}},
                      {"torch_dtype", "bfloat16"},
                      {"image_token_index", 262144},
                      {"mm_tokens_per_image", 256},
                      {"vision_config", {{"hidden_size", 1152}}},
                      {"text_config",
                       {{"model_type", "gemma3_text"},
                        {"hidden_size", 2560},
                        {"intermediate_size", 10240},
                        {"num_hidden_layers", 34},
                        {"sliding_window", 1024},
                        {"rope_scaling", {{"factor", 8.0}, {"rope_type", "linear"}}}}}};
  ModelInputs text_only;
  text_only.text_only = true;
  const TransformerModel text = build(gemma, text_only);
  // google/gemma-3-4b: 3.88 B in the text model, of which 671 M are the embedding's.
  CHECK(text.count_parameters().total == 3'880'263'168);
  CHECK(text.warnings() == Strings{});
  CHECK(text.context_limit() == 131072);
}

// C7: the flat form of a vision-language config has a way out.
TEST_CASE("a flat vision-language config is built as the known type that its text model is") {
  json config =
      small("qwen2_vl", {{"architectures", {"Qwen2VLForConditionalGeneration"}},
                         {"vision_config", {{"depth", 2}}},
                         {"vision_start_token_id", 1},
                         {"use_sliding_window", false},
                         {"rope_scaling", {{"type", "mrope"}, {"mrope_section", {16, 24, 24}}}}});
  CHECK(contains(refusal(config), "--text-only simulates its text model alone"));
  ModelInputs inputs;
  inputs.text_only = true;
  CHECK(contains(refusal(config, inputs),
                 "--assume-base qwen2 (it names the class "
                 "Qwen2VLForConditionalGeneration)"));
  inputs.assume_base = "qwen2";
  const TransformerModel model = build(config, inputs);
  CHECK(model.root().class_name() == "Qwen2ForCausalLM");
  REQUIRE(model.warnings().size() == 1);
  CHECK(contains(model.warnings()[0], "built as Qwen2ForCausalLM"));
}

// S5: a model that is built as another type lacks nothing that its config has.
TEST_CASE("--assume-base refuses keys that mean a part which the type has not") {
  struct Row {
    const char* base;
    json more;
    const char* refusal;  // empty: it is built
  };
  const Row rows[] = {
      {"llama", json::object(), ""},
      {"llama", {{"num_local_experts", 8}}, "num_local_experts: it means experts, which 'llama'"},
      {"llama", {{"n_routed_experts", 8}}, "n_routed_experts: it means experts"},
      {"llama", {{"moe_intermediate_size", 8}}, "moe_intermediate_size: it means experts"},
      {"llama", {{"num_experts", 0}}, ""},
      {"llama", {{"kv_lora_rank", 512}}, "kv_lora_rank: it means latent attention"},
      {"llama", {{"qk_rope_head_dim", 64}}, "qk_rope_head_dim: it means latent attention"},
      {"llama", {{"ssm_state_size", 128}}, "ssm_state_size: it means state-space layers"},
      {"llama", {{"mamba_num_heads", 128}}, "mamba_num_heads: it means state-space layers"},
      {"llama", {{"hybrid_override_pattern", "M-M*"}}, "it means layers of several kinds"},
      {"llama", {{"linear_num_key_heads", 16}}, "it means linear attention"},
      {"llama", {{"is_encoder_decoder", true}}, "is_encoder_decoder: it means an encoder"},
      {"llama", {{"index_topk", 2048}}, "index_topk: it means sparse attention"},
      {"qwen3_moe", {{"num_experts", 4}, {"num_experts_per_tok", 2}}, ""},
      {"qwen3_moe",
       {{"num_experts", 4}, {"num_experts_per_tok", 2}, {"n_shared_experts", 1}},
       "n_shared_experts: it means experts, which 'qwen3_moe'"},
      {"llama", {{"alibi", true}}, "it means positions by attention bias"},
      // Inside of a map, and in the words of a list.
      {"llama",
       {{"ffn_config", {{"moe_num_experts", 16}, {"moe_top_k", 4}}}},
       "ffn_config: it means experts"},
      {"llama", {{"moe", {{"num", 8}}}}, "moe: it means experts"},
      {"llama", {{"ffn_config", {{"moe_num_experts", 0}}}}, ""},
      {"llama",
       {{"layer_types", {"linear_attention", "full_attention"}}},
       "layer_types: it means linear attention"},
      {"llama", {{"layer_types", {"full_attention", "full_attention"}}}, ""},
      {"llama", {{"attn_layer_indices", {9, 18}}}, "it means layers of several kinds"},
      {"llama", {{"share_kv", true}}, "it means layers that share their cache"},
      {"llama", {{"cla_share_factor", 2}}, "it means layers that share their cache"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.more.dump());
    ModelInputs inputs;
    inputs.assume_base = row.base;
    const json config = small("brand_new", row.more);
    const std::string message = refusal(config, inputs);
    if (std::string(row.refusal).empty()) {
      CHECK(message == "");
    } else {
      CHECK(contains(message, row.refusal));
      CHECK(contains(message, "c.json:1:"));
    }
  }
  // Sizes that every model has are not taken from the type.
  json config = small("brand_new");
  config.erase("hidden_size");
  ModelInputs inputs;
  inputs.assume_base = "llama";
  CHECK(contains(refusal(config, inputs), "c.json: hidden_size: required key is missing"));
  // A base in a profile is looked at in the same way.
  const fs::path profile = fs::temp_directory_path() / "tcast_build_model_test.yaml";
  std::ofstream(profile) << "base: llama\n";
  ModelInputs based;
  based.profiles = {profile.string()};
  CHECK(contains(refusal(small("brand_new", {{"num_local_experts", 8}}), based),
                 "which 'llama' does not read (the profile's base)"));
  fs::remove(profile);
}

// S4: a type that is based on another has what that one's profile says.
TEST_CASE("a profile's base brings its own profile along") {
  const fs::path folder = fs::temp_directory_path() / "tcast_build_model_profiles";
  fs::create_directories(folder);
  const auto profile_of = [&](const std::string& text) {
    std::ofstream(folder / "p.yaml") << text;
    return load_profile("renamed", {(folder / "p.yaml").string()});
  };
  const ModelProfile qwen = profile_of("base: qwen3_moe\n");
  CHECK(qwen.base == "qwen3_moe");
  CHECK(qwen.moe_module_name == "Qwen3MoeSparseMoeBlock");
  CHECK(qwen.model_type == "renamed");
  const ModelProfile deepseek =
      profile_of("base: deepseek_v3\nmla_module_name: MyAttention\nmtp_block_module_name: ~\n");
  CHECK(deepseek.moe_module_name == "DeepseekV3MoE");
  CHECK(deepseek.mla_module_name == "MyAttention");  // its own keys win
  CHECK_FALSE(deepseek.mtp_block_module_name);
  CHECK(contains(error_of([&] { profile_of("base: renamed\n"); }), "'renamed' is based on itself"));
  CHECK(load_profile("renamed", {}, "mixtral").moe_module_name == "MixtralSparseMoeBlock");

  // The renamed model is the model.
  json config = read_json(root / "tests/data/logits/deepseek_v3-plain.json").at("config");
  TransformerModel own = build(config);
  transform(own);
  config["model_type"] = "renamed";
  std::ofstream(folder / "p.yaml") << "base: deepseek_v3\n";
  ModelInputs inputs;
  inputs.profiles = {(folder / "p.yaml").string()};
  TransformerModel renamed = build(config, inputs);
  transform(renamed);
  CHECK(signature(renamed) == signature(own));
  inputs.profiles.clear();
  inputs.assume_base = "deepseek_v3";
  TransformerModel assumed = build(config, inputs);
  transform(assumed);
  CHECK(signature(assumed) == signature(own));
  fs::remove_all(folder);
}

// S18: the limit is what the scaling makes of the original length.
TEST_CASE("the context that a config is made for") {
  struct Row {
    const char* type;
    json more;
    std::int64_t limit;
  };
  const Row rows[] = {
      {"llama", json::object(), 512},
      {"llama", {{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}}, 2048},
      {"llama", {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}}, 1024},
      {"qwen3",
       {{"rope_scaling",
         {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 400}}}},
       1600},
      {"qwen3",
       {{"rope_scaling",
         {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 128}}}},
       512},
      {"llama",
       {{"rope_scaling",
         {{"rope_type", "llama3"},
          {"factor", 8},
          {"low_freq_factor", 1},
          {"high_freq_factor", 4},
          {"original_max_position_embeddings", 64}}}},
       512},
      {"gpt2", {{"n_positions", 20}}, 20},
  };
  for (const Row& row : rows) {
    CAPTURE(row.more.dump());
    json config = small(row.type, row.more);
    if (config.contains("n_positions")) config.erase("max_position_embeddings");
    CHECK(build(config).context_limit() == row.limit);
  }
}

TEST_CASE("the hint for an unknown type names what it looks like") {
  CHECK(contains(refusal(small("new_type", {{"architectures", {"Qwen3ForCausalLM"}}})),
                 "--assume-base qwen3 (it names the class Qwen3ForCausalLM)"));
  // Not a type that would leave parts out.
  CHECK(contains(refusal(small("new_type", {{"architectures", {"Qwen3NextForCausalLM"}},
                                            {"linear_num_key_heads", 4}})),
                 "--assume-base TYPE"));
  CHECK(contains(refusal(small("new_type", {{"num_local_experts", 4}, {"num_experts_per_tok", 2}})),
                 "--assume-base mixtral (its keys are those of MixtralConfig)"));
  CHECK(contains(refusal(small("new_type", {{"type_vocab_size", 2}})), "--assume-base TYPE"));
}
