// S9: the class that `architectures` names decides what stands on the decoder. Results of the real
// classes: scripts/goldens/heads.py.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/model/transformer_model.h"
#include "tcast/study/generation.h"
#include "tcast/transform/pipeline.h"

#include "error_of.h"

using namespace tcast;

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

TransformerModel build(const json& config, ModelOptions options = {}) {
  HfConfig parsed = HfConfig::parse(config.dump(), "config.json");
  ModelProfile profile = load_profile(parsed.model_type(), {});
  return build_model(std::move(parsed), std::move(profile), std::move(options));
}

json golden(const std::string& name) {
  const std::ifstream stream(fs::path(TCAST_SOURCE_DIR) / "tests/data/heads" / (name + ".json"));
  std::ostringstream text;
  text << stream.rdbuf();
  return json::parse(text.str());
}

const char* const names[] = {"Qwen3Model",
                             "Qwen3Model-bidirectional",
                             "Gemma3TextModel",
                             "LlamaForSequenceClassification",
                             "MixtralForSequenceClassification",
                             "GPT2ForSequenceClassification",
                             "LlamaForTokenClassification",
                             "GPT2ForTokenClassification",
                             "Qwen2ForRewardModel"};

/// max |a - b| / max |b| over the results of each request's last token.
double error_of_model(const TransformerModel& model, const json& golden) {
  const auto prompt = golden.at("prompt").get<TokenIds>();
  Generation generation(model, static_cast<std::int64_t>(prompt.size()),
                        static_cast<std::int64_t>(prompt[0].size()));
  const LogitRows found = generation.step(prompt);
  double most = 0;
  double largest = 0;
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    json expected = golden.at("results").at(i);
    if (expected.at(0).is_array()) expected = expected.back();
    REQUIRE(found[i].size() == expected.size());
    for (std::size_t k = 0; k < expected.size(); ++k) {
      const double value = expected[k].get<double>();
      most = std::max(most, std::abs(static_cast<double>(found[i][k]) - value));
      largest = std::max(largest, std::abs(value));
    }
  }
  return most / largest;
}

const char* const small = R"({"model_type": "llama", "vocab_size": 100, "hidden_size": 32,
  "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
  "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "float32"})";

TransformerModel build_small(const json& architectures, const json& more = json::object()) {
  json config = json::parse(small);
  config["architectures"] = architectures;
  config.update(more);
  return build(config);
}

}  // namespace

TEST_CASE("classes without a head for tokens have the parameters of HuggingFace") {
  for (const std::string name : names) {
    CAPTURE(name);
    const json expected = golden(name);
    const TransformerModel model = build(expected.at("config"));
    CHECK(model.count_parameters().total == expected.at("total").get<std::int64_t>());
    std::vector<std::string> own;
    for (const NamedParameter& one : model.parameters()) {
      if (!one.parameter->buffer)
        own.push_back(one.name + to_string(one.parameter->checkpoint_shape()));
    }
    std::vector<std::string> theirs;
    for (const json& one : expected.at("parameters")) {
      Shape shape;
      if (one.at(1).size() == 1) shape = {one.at(1)[0].get<std::int64_t>()};
      if (one.at(1).size() == 2) {
        shape = {one.at(1)[0].get<std::int64_t>(), one.at(1)[1].get<std::int64_t>()};
      }
      theirs.push_back(one.at(0).get<std::string>() + to_string(shape));
    }
    std::sort(own.begin(), own.end());
    std::sort(theirs.begin(), theirs.end());
    CHECK(own == theirs);
    CHECK_FALSE(model.generates());
    CHECK(model.warnings().empty());
  }
}

TEST_CASE("classes without a head for tokens have the results of HuggingFace") {
  for (const std::string name : names) {
    CAPTURE(name);
    const json expected = golden(name);
    ModelOptions options;
    options.dtype = DType::f32;
    CHECK(error_of_model(build(expected.at("config"), options), expected) < 1e-4);
    TransformerModel deployed = build(expected.at("config"), options);
    transform(deployed);
    CHECK(error_of_model(deployed, expected) < 1e-4);
    options.parallel.tp = 2;
    TransformerModel spread = build(expected.at("config"), options);
    transform(spread);
    CHECK(error_of_model(spread, expected) < 1e-4);
  }
}

TEST_CASE("architectures: the causal class, or none, has the head; others say so") {
  for (const json& classes : {json::array({"LlamaForCausalLM"}), json::array(), json(nullptr)}) {
    CAPTURE(classes.dump());
    const TransformerModel model = build_small(classes);
    CHECK(model.generates());
    CHECK(model.warnings().empty());
  }
  for (const char* own : {"YiForCausalLM", "MyLMHeadModel", "LlavaForConditionalGeneration"}) {
    CAPTURE(own);
    const TransformerModel model = build_small(json::array({own}));
    CHECK(model.generates());
    REQUIRE(model.warnings().size() == 1);
    CHECK(model.warnings()[0] == "architectures: '" + std::string(own) +
                                     "' is not the class of this model type; built as "
                                     "LlamaForCausalLM");
  }
  const char* known =
      " | known are LlamaForCausalLM, LlamaModel, LlamaForSequenceClassification, "
      "LlamaForTokenClassification";
  struct Row {
    const char* name;
    const char* refusal;
  };
  const Row rows[] = {
      {"LlamaForCausalLMEagle3", "is a draft model, which is not supported yet"},
      {"EagleLlamaForCausalLM", "is a draft model, which is not supported yet"},
      {"LlamaBidirectionalModel", "is not a class of this model type that tcast knows"},
      {"LlamaForQuestionAnswering", "is not a class of this model type that tcast knows"},
      {"LlamaForRewardModel", "is not a class of this model type that tcast knows"},
      {"Qwen3Model", "is not a class of this model type that tcast knows"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const std::string message = error_of([&] { build_small(json::array({row.name})); });
    CHECK(message.find("architectures: '" + std::string(row.name) + "' " + row.refusal + known) !=
          std::string::npos);
  }
}

TEST_CASE("the number of labels is that of transformers") {
  const auto labels = [](const json& more) {
    const TransformerModel model =
        build_small(json::array({"LlamaForSequenceClassification"}), more);
    return model.parameters().back().parameter->shape[0];
  };
  CHECK(labels(json::object()) == 2);
  CHECK(labels({{"num_labels", 7}}) == 7);
  CHECK(labels({{"id2label", {{"0", "a"}, {"1", "b"}, {"2", "c"}}}}) == 3);
  CHECK(labels({{"num_labels", 7}, {"id2label", {{"0", "a"}}}}) == 1);
}

// S16: tokens that see those behind them cannot be predicted from them.
TEST_CASE("is_causal: false is read, and refused where it makes no sense") {
  CHECK(
      error_of([] {
        build_small(json::array({"LlamaForCausalLM"}), {{"is_causal", false}});
      })
          .find("is_causal: a model that predicts the next token has causal attention | without a "
                "head the class is LlamaModel: name it in architectures") != std::string::npos);
  const TransformerModel model = build_small(json::array({"LlamaModel"}), {{"is_causal", false}});
  Graph causal;
  Graph both;
  build_small(json::array({"LlamaModel"})).trace({Phase::prefill, 1, 8, 0}, causal);
  model.trace({Phase::prefill, 1, 8, 0}, both);
  CHECK_FALSE(model.generates());
  json config = json::parse(small);
  config.update({{"model_type", "mistral"},
                 {"architectures", {"MistralModel"}},
                 {"num_key_value_heads", 4},
                 {"is_causal", false}});
  CHECK(error_of([&] { build(config); }).find("a sliding window to both sides") !=
        std::string::npos);
}
