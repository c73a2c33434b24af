// Tensor parallelism must not cut blocks that share a scale, as engines refuse to load it: what is
// named, and what works instead.
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

#include "error_of.h"

namespace {

using namespace tcast;

const std::string case_10 =
    std::string(TCAST_SOURCE_DIR) + "/tests/data/cases/10_block_fp8_tp4.json";

TransformerModel transformed(HfConfig config, const ParallelOptions& parallel) {
  ModelProfile profile = load_profile(config.model_type(), {});
  ModelOptions options;
  options.parallel = parallel;
  TransformerModel model = build_model(std::move(config), std::move(profile), options);
  transform(model);
  return model;
}

std::string error_with(const std::string& config, const ParallelOptions& parallel) {
  return error_of([&] { transformed(HfConfig::parse(config, "config.json"), parallel); });
}

/// A llama in fp8 blocks.
std::string llama(std::int64_t intermediate, std::int64_t kv_heads, std::int64_t head_dim,
                  const std::string& block = "128, 128") {
  return fmt::format(R"({{"model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 1000,
      "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16,
      "num_key_value_heads": {}, "head_dim": {}, "intermediate_size": {}, "rms_norm_eps": 1e-5,
      "tie_word_embeddings": false, "quantization_config": {{"quant_method": "fp8",
      "weight_block_size": [{}]}}}})",
                     kv_heads, head_dim, intermediate, block);
}

}  // namespace

// S15: case 10
TEST_CASE("blocks of experts that tensor parallelism would cut are refused, with what works") {
  const HfConfig config = HfConfig::load(case_10);
  for (const ParallelOptions& fine : {ParallelOptions{1, 1, 1}, {2, 2, 1}, {4, 4, 4}, {4, 2, 4}}) {
    CAPTURE(fine.tp);
    CAPTURE(fine.ep);
    CHECK(transformed(config, fine).weight_bytes() > 0);
  }
  CHECK(error_of([&] {
          transformed(config, {4, 4, 1});
        }) ==
        "model.layers.[0-7].mlp.experts.[0-31].gate_proj: 4 ranks cut its 768 rows into parts of "
        "192, but one scale belongs to 128 of them (and 2 more modules like it) | --ep 4 spreads "
        "the experts whole; --tp 2 cuts no block");
  // With half of the ranks on each expert nothing is cut.
  CHECK(transformed(config, {4, 4, 2}).weight_bytes() > 0);
  CHECK(error_of([&] {
          transformed(config, {8, 8, 2});
        }).find("4 ranks cut its 768 rows into parts of 192") != std::string::npos);
}

// S15
TEST_CASE("rows, columns, key/value heads and other blocks") {
  struct Row {
    std::string config;
    std::int64_t tp;
    const char* error;  // empty: nothing is cut
  };
  const Row rows[] = {
      {llama(2816, 4, 128), 2, ""},
      {llama(2816, 4, 128), 4,
       "model.layers.[0-1].mlp.gate_proj: 4 ranks cut its 2816 rows into parts of 704, but one "
       "scale belongs to 128 of them (and 2 more modules like it) | --tp 2 cuts no block"},
      {llama(1000, 16, 128), 2, "cut its 1000 rows into parts of 500"},
      {llama(1000, 16, 128), 1, ""},
      // 4 heads of 64: a rank of 8 holds one of them, half of a block.
      {llama(4096, 4, 64), 8,
       "model.layers.[0-1].self_attn.k_proj: 8 ranks cut its 256 rows into parts of 64, but one "
       "scale belongs to 128 of them (and 1 more modules like it) | --tp 2 cuts no block"},
      {llama(4096, 1, 128), 8, ""},  // every rank holds the one head
      {llama(2816, 4, 128, "64, 64"), 4, ""},
      {llama(2816, 4, 128, "1, 128"), 4,
       "model.layers.[0-1].mlp.down_proj: 4 ranks cut its 2816 columns into parts of 704, but one "
       "scale belongs to 128 of them | --tp 2 cuts no block"},
      {llama(2816, 4, 128, "128, 1"), 4, "model.layers.[0-1].mlp.gate_proj: 4 ranks cut its"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.tp);
    CAPTURE(row.error);
    const std::string error = error_with(row.config, {row.tp, row.tp, 1});
    CAPTURE(error);
    if (*row.error == '\0') {
      CHECK(error == "");
    } else {
      CHECK(error.find(row.error) != std::string::npos);
    }
  }
}

// S15
TEST_CASE("fused projections: every part of the rows keeps whole blocks") {
  const auto phi3 = [](std::int64_t intermediate, std::int64_t kv_heads) {
    return fmt::format(R"({{"model_type": "phi3", "torch_dtype": "bfloat16", "vocab_size": 1000,
        "hidden_size": 2048, "num_hidden_layers": 2, "num_attention_heads": 16,
        "num_key_value_heads": {}, "intermediate_size": {}, "rms_norm_eps": 1e-5,
        "pad_token_id": 0, "tie_word_embeddings": false, "quantization_config": {{"quant_method":
        "fp8", "weight_block_size": [128, 128]}}}})",
                       kv_heads, intermediate);
  };
  CHECK(error_with(phi3(4096, 8), {4, 4, 1}) == "");
  CHECK(error_with(phi3(4096 + 256, 8), {4, 4, 1})
            .find("mlp.gate_up_proj: 4 ranks cut its 4352 rows into parts of 1088") !=
        std::string::npos);
  CHECK(error_with(phi3(4096, 2), {4, 4, 1}) == "");
}

TEST_CASE("scales of channels and of whole weights are never cut") {
  for (const char* strategy : {"channel", "tensor"}) {
    const std::string config = fmt::format(
        R"({{"model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 1000,
            "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16,
            "num_key_value_heads": 4, "intermediate_size": 2816, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false, "quantization_config": {{
            "quant_method": "compressed-tensors", "format": "float-quantized",
            "ignore": ["lm_head"], "config_groups": {{"g": {{"targets": ["Linear"],
            "weights": {{"num_bits": 8, "type": "float", "strategy": "{}"}}}}}}}}}})",
        strategy);
    CHECK(error_with(config, {4, 4, 1}) == "");
  }
}

TEST_CASE("words that values share are not cut, nor groups of the inputs") {
  const auto awq = [](std::int64_t intermediate, std::int64_t group) {
    return fmt::format(R"({{"model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 1000,
            "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16,
            "num_key_value_heads": 4, "intermediate_size": {}, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false, "quantization_config": {{
            "quant_method": "awq", "bits": 4, "group_size": {}}}}})",
                       intermediate, group);
  };
  CHECK(error_with(awq(2048, 128), {4, 4, 1}) == "");
  CHECK(error_with(awq(1040, 16), {4, 4, 1})
            .find("mlp.gate_proj: 4 ranks cut its 1040 rows into parts of 260, but one stored "
                  "word belongs to 8 of them") != std::string::npos);
  CHECK(error_with(awq(1088, 64), {4, 4, 1})
            .find("mlp.down_proj: 4 ranks cut its 1088 columns into parts of 272, but one scale "
                  "belongs to 64 of them") != std::string::npos);
}
