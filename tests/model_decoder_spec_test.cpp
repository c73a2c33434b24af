// Configs that name a known type and describe no model of it: refused at the key that is wrong.
#include <string>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/model/transformer_model.h"

using namespace tcast;

namespace {

/// Builds a small model; `rest` stands on the second line of its config. Returns the error, or "".
std::string error_of(const std::string& model_type, const std::string& rest) {
  const std::string text = R"({"model_type": ")" + model_type +
                           R"(", "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 3,)"
                           R"( "intermediate_size": 96, "num_attention_heads": 4,)"
                           "\n" +
                           rest + "}";
  try {
    HfConfig config = HfConfig::parse(text, "c.json");
    ModelProfile profile = load_profile(model_type, {});
    build_model(std::move(config), std::move(profile), {});
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("configs that describe no model of their type are refused") {
  struct Case {
    std::string type;
    std::string rest;
    std::string message;
  };
  const Case table[] = {
      {"gemma2", R"("layer_types": ["full_attention"])",
       "c.json:2:16: layer_types: 1 entries for 3 layers"},
      {"gemma2", R"("layer_types": ["full_attention", "chunked_attention", "full_attention"])",
       "c.json:2:16: layer_types: layer 1 is 'chunked_attention'; this model type has "
       "full_attention and sliding_attention"},
      {"gemma2", R"("num_key_value_heads": 2, "query_pre_attn_scalar": 0)",
       "c.json:2:52: query_pre_attn_scalar: expected a number above 0, got 0"},
      {"gemma2", R"("final_logit_softcapping": -30)",
       "c.json:2:28: final_logit_softcapping: expected a number above 0, got -30"},
      {"gemma", R"("num_key_value_heads": 1, "use_bidirectional_attention": true)",
       "c.json:2:58: use_bidirectional_attention: an encoder's attention is not supported"},
      {"gemma3_text", R"("rope_local_base_freq": -5)",
       "c.json:2:25: rope_local_base_freq: expected a number above 0, got -5"},
      {"smollm3", R"("no_rope_layers": [1, 0])",
       "c.json:2:19: no_rope_layers: 2 entries for 3 layers"},
      {"phi", R"("partial_rotary_factor": 1.5)",
       "c.json:2:26: partial_rotary_factor: expected a number above 0 and at most 1, got 1.5"},
      {"glm4", R"("head_dim": 10, "num_key_value_heads": 2)",
       "c.json:2:13: head_dim: 5 elements of each head are rotated, which is no even number"},
      {"phi3",
       R"("rope_scaling": {"type": "longrope", "factor": 2, "short_factor": [1],)"
       R"( "long_factor": [1], "original_max_position_embeddings": 8})",
       "c.json:2:17: rope_scaling: short_factor has 1 entries for 8 frequencies"},
      {"phi3", R"("rope_scaling": {"type": "linear", "factor": 2})",
       "c.json:2:17: rope_scaling: this model type has longrope or nothing, not 'linear'"},
      {"olmoe", R"("clip_qkv": -1)", "c.json:2:13: clip_qkv: expected a number above 0, got -1"},
      {"olmoe", R"("num_experts_per_tok": 65)",
       "c.json:2:24: num_experts_per_tok: a token cannot choose 65 of 64 experts"},
      {"gpt_oss", R"("num_key_value_heads": 2, "swiglu_alpha": 1.5)",
       "c.json:2:43: swiglu_alpha: another factor than 1.702 is not supported yet"},
      {"deepseek_v2",
       R"("n_routed_experts": 8, "num_experts_per_tok": 2, "topk_method": "noaux_tc")",
       "c.json:2:65: topk_method: this model type selects experts by greedy or "
       "group_limited_greedy"},
      {"deepseek_v2",
       R"("n_routed_experts": 8, "num_experts_per_tok": 6, "n_group": 4,)"
       R"( "topk_group": 2, "topk_method": "group_limited_greedy")",
       "c.json:2:78: topk_group: a token cannot choose 6 experts from 2 of 4 groups"},
      {"deepseek_v2", R"("n_routed_experts": 8, "norm_topk_prob": true)",
       "c.json:2:42: norm_topk_prob: this model type does not normalize expert weights"},
      {"gpt2", R"("add_cross_attention": true)",
       "c.json:2:24: add_cross_attention: attention to an encoder is not supported"},
  };
  for (const Case& c : table) {
    CAPTURE(c.type);
    CHECK(error_of(c.type, c.rest) == c.message);
  }
}

TEST_CASE("learned positions end") {
  HfConfig config = HfConfig::parse(
      R"({"model_type": "gpt2", "vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4,
          "n_positions": 20})",
      "c.json");
  const TransformerModel model = build_model(std::move(config), load_profile("gpt2", {}), {});
  CHECK(model.longest_sequence() == 20);
  Graph graph;
  model.trace({.phase = Phase::prefill, .batch = 1, .query_length = 20}, graph);
  std::string message;
  try {
    model.trace({.phase = Phase::decode, .batch = 1, .query_length = 1, .context_length = 20},
                graph);
  } catch (const Error& error) {
    message = error.what();
  }
  CHECK(message == "a sequence of 21 tokens is longer than the model's 20 positions");
}
