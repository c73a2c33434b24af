#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/text.h"
#include "tcast/config/hf_config.h"

#include "error_of.h"

using tcast::HfConfig;

namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

HfConfig config(const std::string& text) { return HfConfig::parse(text, "config.json"); }

Strings paths_of(const std::vector<tcast::UnreadKey>& keys) {
  Strings paths;
  for (const tcast::UnreadKey& key : keys) paths.push_back(key.path);
  return paths;
}

constexpr tcast::ConfigKeyName sample_names[] = {{"hidden_size", "n_embd"}, {"width", "n_embd"}};
constexpr tcast::ConfigKeyName sample_asked[] = {{"rms_norm_eps", "norm_epsilon"}};
constexpr tcast::HarmlessKey sample_harmless[] = {
    {"mlp_type", "\"default\"", "the only one"},
    {"scale", "1", "nothing is scaled"},
    {"summary_*", "", "about another head"},
};
constexpr tcast::ConfigClass sample_class{
    .name = "SampleConfig",
    .defaults = R"({"vocab_size": 100, "n_embd": 64, "norm_epsilon": 1e-5, "head_dim": null,
                    "layer_types": null, "use_bias": false, "num_experts": 8, "window": 4096})",
    .attribute_map = sample_names,
    .asked_as = sample_asked,
    .harmless = sample_harmless,
};

}  // namespace

TEST_CASE("values have the type that is asked for") {
  const HfConfig c = config(R"({"model_type": "llama", "num_hidden_layers": 32.0, "vocab_size": 5,
      "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "architectures": ["A", "B"],
      "eos_token_id": [1, 2], "sliding_window": null})");
  CHECK(c.model_type() == "llama");
  CHECK(c.file() == "config.json");
  CHECK(c.get<std::int64_t>("num_hidden_layers") == 32);
  CHECK(c.get<double>("rms_norm_eps") == 1e-5);
  CHECK(c.get<double>("vocab_size") == 5);
  CHECK_FALSE(c.get<bool>("tie_word_embeddings"));
  CHECK(c.get<Strings>("architectures") == Strings{"A", "B"});
  CHECK(c.get<std::vector<std::int64_t>>("eos_token_id") == std::vector<std::int64_t>{1, 2});
  CHECK(c.find<std::string>("model_type") == "llama");
  CHECK(c.get_or<std::int64_t>("num_key_value_heads", 7) == 7);
  CHECK(c.get_or<std::string>("hidden_act", "silu") == "silu");

  CHECK(c.has("vocab_size"));
  CHECK_FALSE(c.has("sliding_window"));  // null is absent
  CHECK_FALSE(c.has("hidden_size"));
  CHECK(c.is_null("sliding_window"));
  CHECK_FALSE(c.is_null("hidden_size"));
  CHECK_FALSE(c.is_null("vocab_size"));
  CHECK_FALSE(c.find<std::int64_t>("sliding_window"));
  CHECK_FALSE(c.node("sliding_window"));
  CHECK(c.get_or<std::int64_t>("sliding_window", 4096) == 4096);
}

TEST_CASE("errors name the place, the key and what may have been meant") {
  const HfConfig c = config(R"({
  "num_hiden_layers": 3,
  "vocab_size": "32000",
  "layer_types": ["a", 1],
  "rope_scaling": {"factr": 2}
})");
  CHECK(error_of([&] { c.get<std::int64_t>("num_hidden_layers"); }) ==
        "config.json: num_hidden_layers: required key is missing | did you mean "
        "'num_hiden_layers'?");
  CHECK(error_of([&] { c.get_size("hidden_size"); }) ==
        "config.json: hidden_size: required key is missing");
  CHECK(error_of([&] { c.get<std::int64_t>("vocab_size"); }) ==
        "config.json:3:17: vocab_size: expected a whole number, got the string \"32000\" | remove "
        "the quotes");
  CHECK(error_of([&] { c.find<Strings>("layer_types"); }) ==
        "config.json:4:24: layer_types[1]: expected a string, got the number 1 | put it in quotes");
  CHECK(error_of([&] { c.find<Strings>("vocab_size"); }) ==
        "config.json:3:17: vocab_size: expected a list, got the string \"32000\"");
  CHECK(error_of([&] { c.nested("rope_scaling")->get<double>("factor"); }) ==
        "config.json: rope_scaling.factor: required key is missing | did you mean 'factr'?");
  CHECK(error_of([&] { c.nested("vocab_size"); }) ==
        "config.json:3:17: vocab_size: expected a map, got the string \"32000\"");

  CHECK(error_of([&] { c.fail("vocab_size", "does not divide by 3", "use --tp 2"); }) ==
        "config.json:3:17: vocab_size: does not divide by 3 | use --tp 2");
  CHECK(error_of([&] { c.fail("hidden_size", "expected a multiple of 8"); }) ==
        "config.json: hidden_size: expected a multiple of 8");
  CHECK(error_of([&] { c.nested("rope_scaling")->fail("type", "unknown"); }) ==
        "config.json: rope_scaling.type: unknown");
}

TEST_CASE("sizes have a range") {
  const HfConfig c = config(
      R"({"a": 1, "b": 0, "c": -3, "d": 1099511627776, "e": 1099511627777, "f": 1.5, "g": null,)"
      R"( "h": 1e30})");
  CHECK(c.get_size("a") == 1);
  CHECK(c.get_size("d") == std::int64_t{1} << 40);
  CHECK(c.get_size_or("a", 9) == 1);
  CHECK(c.get_size_or("g", 9) == 9);
  CHECK(c.get_size_or("zzz", 9) == 9);
  const char* range = "expected a whole number from 1 to 2^40, got ";
  CHECK(error_of([&] { c.get_size("b"); }) == "config.json:1:15: b: " + std::string(range) + "0");
  CHECK(error_of([&] { c.get_size("c"); }) == "config.json:1:23: c: " + std::string(range) + "-3");
  CHECK(error_of([&] { c.get_size_or("e", 9); }) ==
        "config.json:1:52: e: " + std::string(range) + "1099511627777");
  CHECK(error_of([&] { c.get_size("f"); }) ==
        "config.json:1:72: f: expected a whole number, got the number 1.5");
  CHECK(error_of([&] { c.get_size("g"); }) == "config.json:1:82: g: expected a value, got null");
  CHECK(error_of([&] { c.get_size("h"); }) ==
        "config.json:1:93: h: expected a whole number, got the number 1e30 | above 2^53 write it "
        "without point and exponent");
}

// S13: a family reads its own keys and transformers' attribute_map of its class.
TEST_CASE("a config class gives a key its names, and takes no others") {
  const auto view = [](const std::string& text) { return config(text).as_class(sample_class); };
  for (const char* name : {"n_embd", "hidden_size", "width"}) {
    CAPTURE(name);
    const HfConfig c = view("{\"" + std::string(name) + "\": 2}");
    for (const char* asked : {"n_embd", "hidden_size", "width"}) CHECK(c.get_size(asked) == 2);
    CHECK(c.unread().empty());
  }
  // Without a class, a key has the name that it has.
  CHECK_FALSE(config(R"({"n_embd": 2})").has("hidden_size"));
  // Shared code may ask by another name; a file may not use it.
  CHECK(view(R"({"norm_epsilon": 3e-6})").get<double>("rms_norm_eps") == 3e-6);
  CHECK(view(R"({"rms_norm_eps": 3e-6})").get<double>("rms_norm_eps") == 1e-5);
  CHECK(paths_of(view(R"({"rms_norm_eps": 3e-6})").unread()) == Strings{"rms_norm_eps"});
  // What the class has not is not there, whatever the file says.
  CHECK_FALSE(view(R"({"num_key_value_heads": 2})").find<std::int64_t>("num_key_value_heads"));
  CHECK(paths_of(view(R"({"num_key_value_heads": 2})").unread()) == Strings{"num_key_value_heads"});
  CHECK(view(R"({"num_key_value_heads": 2})").as_written().get_size("num_key_value_heads") == 2);
  // Two names of one setting agree, or say nothing.
  CHECK(view(R"({"hidden_size": 2, "n_embd": 2})").get_size("n_embd") == 2);
  CHECK(view(R"({"hidden_size": null, "n_embd": 2})").get_size("hidden_size") == 2);
  CHECK(error_of([&] { view(R"({"hidden_size": 3, "n_embd": 2})").get_size("n_embd"); }) ==
        "config.json:1:17: hidden_size: 3 contradicts n_embd 2: two names of one setting | remove "
        "one of the two");
  CHECK(error_of([&] { view(R"({"n_embd": null})").get_size("hidden_size"); }) ==
        "config.json:1:12: n_embd: expected a value, got null");
}

// C7, C11: class defaults.
TEST_CASE("an absent key has the default of its class, which is told") {
  const HfConfig c = config(R"({"vocab_size": 7, "window": null})").as_class(sample_class);
  CHECK(c.class_name() == "SampleConfig");
  CHECK(c.get_size("vocab_size") == 7);
  CHECK(c.get_size("num_experts") == 8);
  CHECK(c.get_size("hidden_size") == 64);
  CHECK(c.get_size_or("window", 5) == 5);  // null is no default
  CHECK_FALSE(c.find<std::int64_t>("head_dim"));
  CHECK_FALSE(c.get_or<bool>("use_bias", true));
  CHECK(c.is_null("window"));
  CHECK_FALSE(c.is_null("head_dim"));
  CHECK_FALSE(c.has("num_experts"));  // it is not in the file
  CHECK(c.defaults_read() == Strings{"num_experts 8", "n_embd 64"});
  // The config of another type has the sizes that every model has, or is no such model.
  const HfConfig other = config(R"({"vocab_size": 7})").as_class(sample_class, /*sizes=*/false);
  CHECK(error_of([&] { other.get_size("hidden_size"); }) ==
        "config.json: n_embd: required key is missing; it may also be called hidden_size, width");
  CHECK(other.get_size("num_experts") == 8);
}

TEST_CASE("the model type is named, or what the file is instead") {
  CHECK(error_of([] { config("{}").model_type(); }) ==
        "config.json: model_type: expected the name of a model type, got nothing | HuggingFace "
        "configs name it, as in \"model_type\": \"llama\"");
  CHECK(error_of([] { config(R"({"model_type": 3})").model_type(); }) ==
        "config.json:1:16: model_type: expected a string, got the number 3 | put it in quotes");
  CHECK(config(R"({"_class_name": "QwenImageTransformer2DModel"})").model_type() ==
        "QwenImageTransformer2DModel");
}

// S10: dtype wins over torch_dtype, the whole config over its text part.
TEST_CASE("the checkpoint's dtype") {
  using tcast::DType;
  struct Row {
    const char* text;
    DType dtype;
    const char* remark;
  };
  const Row rows[] = {
      {R"({"torch_dtype": "bfloat16"})", DType::bf16, ""},
      {R"({"dtype": "float16"})", DType::f16, ""},
      {R"({"torch_dtype": "torch.float32"})", DType::f32, ""},
      {R"({"torch_dtype": "float16", "dtype": "float16"})", DType::f16, ""},
      {R"({"torch_dtype": "bfloat16", "dtype": "float32"})", DType::f32,
       "dtype float32 counts, not torch_dtype bfloat16, as in transformers"},
      {R"({"torch_dtype": "bfloat16", "dtype": null})", DType::bf16, ""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const auto found = config(row.text).checkpoint_dtype();
    REQUIRE(found);
    CHECK(found->dtype == row.dtype);
    CHECK(found->remark == row.remark);
  }
  CHECK_FALSE(config(R"({"torch_dtype": null})").checkpoint_dtype());
  CHECK_FALSE(config("{}").checkpoint_dtype());
  CHECK(error_of([] { config(R"({"dtype": "bloat16"})").checkpoint_dtype(); }) ==
        "config.json:1:11: dtype: expected an element type, got the string \"bloat16\" | as in "
        "\"bfloat16\", \"float16\" or \"float32\"");

  const Row parts[] = {
      {R"({"torch_dtype": "bfloat16", "text_config": {}})", DType::bf16, ""},
      {R"({"text_config": {"dtype": "float16"}})", DType::f16, ""},
      {R"({"torch_dtype": "bfloat16", "text_config": {"torch_dtype": "bfloat16"}})", DType::bf16,
       ""},
      {R"({"torch_dtype": "bfloat16", "text_config": {"torch_dtype": "float32"}})", DType::bf16,
       "torch_dtype bfloat16 counts, not text_config.torch_dtype float32, as in transformers 5 "
       "(4.57 reads the latter)"},
  };
  for (const Row& row : parts) {
    CAPTURE(row.text);
    const auto found = config(row.text).text_part().checkpoint_dtype();
    REQUIRE(found);
    CHECK(found->dtype == row.dtype);
    CHECK(found->remark == row.remark);
  }
}

TEST_CASE("sizes inside maps change where they are there") {
  const HfConfig before = config(R"({"rope_scaling": {"type": "yarn", "length": 4096, "f": 4.0},
    "rope_parameters": {"full_attention": {"length": 64}, "list": [1, null]}, "length": 7})");
  const HfConfig after = before.with_sizes({{"rope_scaling.length", 5},
                                            {"rope_parameters.full_attention.length", 6},
                                            {"rope_scaling.absent", 1},
                                            {"nowhere.length", 1}});
  CHECK(after.get_size("length") == 7);
  CHECK(after.nested("rope_scaling")->get_size("length") == 5);
  CHECK(after.nested("rope_scaling")->get<double>("f") == 4.0);
  CHECK(after.nested("rope_scaling")->get<std::string>("type") == "yarn");
  CHECK_FALSE(after.nested("rope_scaling")->has("absent"));
  CHECK_FALSE(after.has("nowhere"));
  const HfConfig parameters = *after.nested("rope_parameters");
  CHECK(parameters.nested("full_attention")->get_size("length") == 6);
  CHECK(parameters.node("list")->json_text() ==
        before.nested("rope_parameters")->node("list")->json_text());
}

TEST_CASE("a text part stands under its own key, or beside the configs of other towers") {
  const HfConfig whole = config(R"({"model_type": "seer", "torch_dtype": "float16",
    "hidden_size": 7, "quantization_config": {"quant_method": "fp8"},
    "text_config": {"model_type": "reader", "vocab_size": 3}})");
  const HfConfig part = whole.text_part();
  CHECK(part.model_type() == "reader");
  CHECK(part.checkpoint_dtype()->dtype == tcast::DType::f16);
  CHECK(part.nested("quantization_config")->get<std::string>("quant_method") == "fp8");
  CHECK_FALSE(part.has("hidden_size"));
  const HfConfig copy = part.with_sizes({{"vocab_size", 2}});
  CHECK(copy.get_size("vocab_size") == 2);
  CHECK(copy.nested("quantization_config")->has("quant_method"));
  CHECK(copy.checkpoint_dtype()->dtype == tcast::DType::f16);

  for (const char* key : {"llm_config", "language_config"}) {
    CHECK(config(std::string("{\"") + key + R"(": {"hidden_size": 8}})")
              .text_part()
              .get_size("hidden_size") == 8);
  }
  const HfConfig flat = config(R"({"model_type": "seer", "hidden_size": 8,
    "vision_config": {"depth": 2}})")
                            .text_part();
  CHECK(flat.model_type() == "seer");
  CHECK(flat.get_size("hidden_size") == 8);
  // The part has no type of its own.
  CHECK(config(R"({"model_type": "seer", "text_config": {}})").text_part().model_type() == "seer");
  CHECK(error_of([] { config(R"({"model_type": "llama"})").text_part(); }) ==
        "config.json: --text-only was given, but there is no text_config | leave out --text-only");

  struct Row {
    const char* whole;
    const char* part;
    bool tied;
  };
  const Row rows[] = {{"true", "false", true}, {"false", "true", true}, {"false", "false", false},
                      {"null", "true", true},  {"true", "null", true},  {"false", "null", false}};
  for (const Row& row : rows) {
    CAPTURE(row.whole);
    CAPTURE(row.part);
    const HfConfig c = config(std::string(R"({"tie_word_embeddings": )") + row.whole +
                              R"(, "text_config": {"tie_word_embeddings": )" + row.part + "}}");
    CHECK(c.text_part().get<bool>("tie_word_embeddings") == row.tied);
  }
}

// S12, D14: what nothing read is told, wherever it stands.
TEST_CASE("what nothing has read is listed, in document order") {
  const HfConfig c = config(R"({
    "_name_or_path": "/x", "architectures": ["A"], "auto_map": {"AutoConfig": "x"},
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": [1], "id2label": {"0": "x"},
    "initializer_range": 0.02, "model_type": "m", "torch_dtype": "bfloat16",
    "transformers_version": "4", "use_cache": true, "router_aux_loss_coef": 0.1,
    "z_first": 1, "sliding_window": null, "is_causal": false, "is_encoder_decoder": true,
    "layer_types": ["a", "b"],
    "rope_scaling": {"factor": 2, "mscale": {"x": 1}, "pad_token_id": 3},
    "vision_config": {"depth": 3, "hidden_size": 4}})");
  const Strings all = {"z_first",     "is_causal",    "is_encoder_decoder",
                       "layer_types", "rope_scaling", "vision_config"};
  CHECK(paths_of(c.unread()) == all);
  CHECK(c.unread()[0].value == "1");
  CHECK(c.unread()[3].value == R"(["a", "b"])");

  const HfConfig rope = *c.nested("rope_scaling");
  Strings with_rope = all;
  with_rope[4] = "rope_scaling.factor";
  with_rope.insert(with_rope.begin() + 5, "rope_scaling.mscale");
  CHECK(paths_of(c.unread()) == with_rope);
  CHECK(rope.get<double>("factor") == 2);
  rope.know({"mscale", "absent"});
  CHECK(c.node("vision_config"));  // with all below
  CHECK(c.find<Strings>("layer_types"));
  CHECK(paths_of(c.unread()) == Strings{"z_first", "is_causal", "is_encoder_decoder"});
  // Copies and nested configs share what they know.
  const std::vector<HfConfig> copies = {c};
  CHECK(copies[0].get_size("z_first") == 1);
  CHECK(paths_of(rope.unread()) == Strings{"is_causal", "is_encoder_decoder"});
}

TEST_CASE("a config class knows its keys, and others at harmless values") {
  const HfConfig c = config(R"({"vocab_size": 1, "hidden_size": 2, "use_bias": true,
    "mlp_type": "default", "scale": 1.0, "summary_type": "x", "num_expert": 3, "scales": 2})")
                         .as_class(sample_class);
  const std::vector<tcast::UnreadKey> unread = c.unread();
  REQUIRE(paths_of(unread) == Strings{"num_expert", "scales"});
  CHECK(c.closest_unset(unread[0]) == "num_experts");
  CHECK(unread[0].of_model);
  CHECK(paths_of(config(R"({"mlp_type": "other", "scale": 2})").as_class(sample_class).unread()) ==
        Strings{"mlp_type", "scale"});
  CHECK(tcast::part_of_model("num_experts") == "experts");
  CHECK(tcast::part_of_model("kv_lora_rank") == "latent attention");
  CHECK(tcast::part_of_model("ssm_state_size") == "state-space layers");
  CHECK(tcast::part_of_model("hidden_size").empty());
}

TEST_CASE("keys of a whole config are told beside those of its text part") {
  const HfConfig part = config(R"({"model_type": "seer", "vision_config": {"depth": 3},
    "image_token_index": 7, "projector_hidden_act": "gelu", "mm_tokens": 4, "foo": 3,
    "vocab_size": 100, "hidden_size": 3, "quantization_config": {"bits": 4, "group": 8},
    "text_config": {"vocab_size": 100, "n_embd": 2, "bar": 1}})")
                            .text_part()
                            .as_class(sample_class);
  CHECK(part.nested("quantization_config")->get_size("bits") == 4);
  // vocab_size says the same of the whole; hidden_size has no equal in the part.
  CHECK(paths_of(part.unread()) ==
        Strings{"foo", "hidden_size", "quantization_config.group", "text_config.bar"});
}

TEST_CASE("configs are found in directories, and refused where there is none") {
  const fs::path folder = fs::temp_directory_path() / "tcast_config_hf_config_test";
  fs::remove_all(folder);
  fs::create_directories(folder / "empty");
  std::ofstream(folder / "config.json") << R"({"model_type": "llama"})";
  std::ofstream(folder / "empty.json").flush();
  std::ofstream(folder / "list.json") << "[1, 2]";
  CHECK(HfConfig::load(folder.string()).model_type() == "llama");
  CHECK(HfConfig::load(folder.string()).file() == (folder / "config.json").string());
  CHECK(HfConfig::load((folder / "config.json").string()).model_type() == "llama");

  const std::string empty = (folder / "empty").string();
  CHECK(error_of([&] { HfConfig::load(empty); }) ==
        empty + ": the directory holds no config.json | name the config file itself");
  const std::string absent = (folder / "absent").string();
  CHECK(error_of([&] { HfConfig::load(absent); }) == absent + ": no such file");
  const std::string no_text = (folder / "empty.json").string();
  CHECK(error_of([&] { HfConfig::load(no_text); }) ==
        no_text + ":1:1: the file is empty, expected a JSON value");
  const std::string list = (folder / "list.json").string();
  CHECK(error_of([&] { HfConfig::load(list); }) ==
        list + ":1:1: expected a map of keys and values, got a list of 2");
  fs::remove_all(folder);
}

TEST_CASE("every config that comes with tcast or lies beside it is read") {
  const fs::path root = TCAST_SOURCE_DIR;
  int files = 0;
  for (const fs::path& folder :
       {root / "configs" / "models", root / ".." / "shared" / "data" / "configs"}) {
    if (!fs::is_directory(folder)) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() != ".json") continue;
      CAPTURE(entry.path().string());
      ++files;
      const HfConfig c = HfConfig::load(entry.path().string());
      CHECK_FALSE(c.model_type().empty());
      CHECK_FALSE(c.unread().empty());
      if (c.has("_class_name")) continue;
      const HfConfig text = c.nested("text_config").value_or(c);
      CHECK(error_of([&] { c.checkpoint_dtype(); }) == "");
      if (text.has("num_attention_heads")) {
        CHECK(text.get_size("hidden_size") >= text.get_size("num_attention_heads"));
        CHECK(text.get_size("num_hidden_layers") < 1000);
      }
    }
  }
  CHECK(files > 0);
}
