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
        "config.json: num_hidden_layers: required key is missing; it may also be called n_layer, "
        "n_layers, num_layers | did you mean 'num_hiden_layers'?");
  CHECK(error_of([&] { c.get_size("hidden_size"); }) ==
        "config.json: hidden_size: required key is missing; it may also be called n_embd, d_model, "
        "dim");
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

TEST_CASE("aliases are tried after the key itself, in both directions") {
  struct Row {
    const char* key;
    const char* alias;
  };
  const Row rows[] = {
      {"num_hidden_layers", "n_layer"},
      {"num_hidden_layers", "num_layers"},
      {"hidden_size", "n_embd"},
      {"hidden_size", "d_model"},
      {"num_attention_heads", "n_head"},
      {"num_key_value_heads", "num_kv_heads"},
      {"num_key_value_heads", "multi_query_group_num"},
      {"head_dim", "kv_channels"},
      {"intermediate_size", "n_inner"},
      {"intermediate_size", "ffn_dim"},
      {"max_position_embeddings", "n_positions"},
      {"max_position_embeddings", "n_ctx"},
      {"vocab_size", "padded_vocab_size"},
      {"rms_norm_eps", "layer_norm_epsilon"},
      {"num_experts", "num_local_experts"},
      {"num_experts", "n_routed_experts"},
      {"num_experts", "moe_num_experts"},
      {"num_experts_per_tok", "moe_k"},
      {"n_shared_experts", "num_shared_experts"},
      {"num_nextn_predict_layers", "mtp_num_hidden_layers"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.alias);
    const HfConfig only_alias = config("{\"" + std::string(row.alias) + "\": 2}");
    CHECK(only_alias.has(row.key));
    CHECK(only_alias.get<std::int64_t>(row.key) == 2);
    const HfConfig only_key = config("{\"" + std::string(row.key) + "\": 3}");
    CHECK(only_key.get<std::int64_t>(row.alias) == 3);
    const HfConfig both = config("{\"" + std::string(row.alias) + "\": 2, \"" + row.key + "\": 3}");
    CHECK(both.get<std::int64_t>(row.key) == 3);
    CHECK(both.get<std::int64_t>(row.alias) == 2);
  }
  // Keys that only look alike.
  const HfConfig other = config(R"({"num_heads_per_group": 2, "vision_hidden_size": 3,
      "shared_expert_intermediate_size": 5, "moe_intermediate_size": 6, "depth": 7})");
  for (const char* key : {"num_attention_heads", "hidden_size", "intermediate_size",
                          "num_hidden_layers", "num_experts"}) {
    CAPTURE(key);
    CHECK_FALSE(other.has(key));
  }
  // A null key gives way to its alias.
  CHECK(config(R"({"num_experts": null, "n_routed_experts": 8})").get_size("num_experts") == 8);
  CHECK(config(R"({"llm_config": {"hidden_size": 8}})")
            .nested("text_config")
            ->get_size("hidden_size") == 8);
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

TEST_CASE("the checkpoint's dtype") {
  using tcast::DType;
  CHECK(config(R"({"torch_dtype": "bfloat16"})").checkpoint_dtype() == DType::bf16);
  CHECK(config(R"({"dtype": "float16"})").checkpoint_dtype() == DType::f16);
  CHECK(config(R"({"torch_dtype": "torch.float32"})").checkpoint_dtype() == DType::f32);
  CHECK_FALSE(config(R"({"torch_dtype": null})").checkpoint_dtype());
  CHECK_FALSE(config("{}").checkpoint_dtype());
  CHECK(error_of([] { config(R"({"dtype": "bloat16"})").checkpoint_dtype(); }) ==
        "config.json:1:11: dtype: expected an element type, got the string \"bloat16\" | as in "
        "\"bfloat16\", \"float16\" or \"float32\"");
}

TEST_CASE("what another key switches off, or only an option asks for, is not missed") {
  struct Row {
    const char* text;
    Strings unread;
  };
  const Row rows[] = {
      {R"({"use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28})", {}},
      {R"({"use_sliding_window": true, "sliding_window": 4096, "max_window_layers": 28})",
       {"sliding_window", "max_window_layers"}},
      {R"({"use_sliding_window": null, "sliding_window": 4096})", {"sliding_window"}},
      {R"({"sliding_window": 4096, "max_window_layers": 28})",
       {"sliding_window", "max_window_layers"}},
      {R"({"num_nextn_predict_layers": 1, "num_mtp_modules": 2})", {}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const HfConfig c = config(row.text);
    c.find<bool>("use_sliding_window");
    CHECK(c.unread_keys() == row.unread);
  }
}

TEST_CASE("a part of a config takes what it lacks from the whole, for the keys that are named") {
  const HfConfig whole = config(R"({"torch_dtype": "float16", "tie_word_embeddings": true,
    "hidden_size": 7, "quantization_config": {"quant_method": "fp8"},
    "text_config": {"tie_word_embeddings": false, "vocab_size": 3}})");
  const HfConfig part =
      whole.nested("text_config")
          ->with_defaults_of(whole, {"torch_dtype", "tie_word_embeddings", "quantization_config"});
  CHECK(part.checkpoint_dtype() == tcast::DType::f16);
  CHECK(part.get<bool>("tie_word_embeddings") == false);
  CHECK(part.nested("quantization_config")->get<std::string>("quant_method") == "fp8");
  CHECK_FALSE(part.has("hidden_size"));
  CHECK(part.unread_keys() == Strings{"text_config.vocab_size"});
  const HfConfig copy = part;
  CHECK(copy.has("quantization_config"));
}

TEST_CASE("what nothing has read is listed, in document order") {
  const HfConfig c = config(R"({
    "_name_or_path": "/x", "architectures": ["A"], "auto_map": {"AutoConfig": "x"},
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": [1], "id2label": {"0": "x"},
    "initializer_range": 0.02, "model_type": "m", "torch_dtype": "bfloat16",
    "transformers_version": "4", "use_cache": true, "router_aux_loss_coef": 0.1,
    "z_first": 1, "sliding_window": null,
    "layer_types": ["a", "b"],
    "rope_scaling": {"factor": 2, "mscale": {"x": 1}, "pad_token_id": 3},
    "vision_config": {"depth": 3, "hidden_size": 4},
    "n_layer": 2, "num_layers": 2, "n_layers": 3})");
  CHECK(c.unread_keys() == Strings{"z_first", "layer_types", "rope_scaling", "vision_config",
                                   "n_layer", "num_layers", "n_layers"});

  const HfConfig rope = *c.nested("rope_scaling");
  CHECK(rope.unread_keys() == Strings{"rope_scaling.factor", "rope_scaling.mscale"});
  CHECK(rope.get<double>("factor") == 2);
  CHECK(rope.unread_keys() == Strings{"rope_scaling.mscale"});
  CHECK(rope.nested("mscale")->has("x"));
  CHECK(rope.unread_keys().empty());

  CHECK(c.node("vision_config"));  // with all below
  CHECK(c.nested("vision_config")->unread_keys().empty());
  CHECK(c.find<Strings>("layer_types"));
  // An alias of the same value says nothing new; one of another value was not used.
  CHECK(c.get_size("num_hidden_layers") == 2);
  CHECK(c.unread_keys() == Strings{"z_first", "n_layers"});

  // Copies and nested configs share what they know.
  const std::vector<HfConfig> copies = {c};
  CHECK(copies[0].get_size("z_first") == 1);
  CHECK(c.unread_keys() == Strings{"n_layers"});
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
      if (c.has("_class_name")) continue;
      CHECK_FALSE(c.unread_keys().empty());
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
