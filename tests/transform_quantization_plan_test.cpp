// What checkpoints say of how they are quantized: every setting gives its number or is refused by
// name where it stands, and what nothing reads is told. Bytes are those of compressed-tensors
// 0.12.2's apply_quantization_config on transformers' model, with f32 scales, or arithmetic.
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/graph/graph.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/quantization_plan.h"
#include "tcast/transform/stored_dtypes.h"

#include "app/options.h"
#include "error_of.h"
#include "scratch.h"

namespace {

namespace fs = std::filesystem;
using namespace tcast;

const std::string data = std::string(TCAST_SOURCE_DIR) + "/tests/data/cases/";

/// A small llama whose bytes in bf16 are 311,461,888.
std::string llama(const std::string& members, const std::string& dtype = "bfloat16") {
  return R"({"model_type": "llama", "hidden_size": 1024, "num_attention_heads": 16,
    "num_key_value_heads": 4, "num_hidden_layers": 8, "intermediate_size": 2816,
    "vocab_size": 32000, "rms_norm_eps": 1e-05, "tie_word_embeddings": false, "torch_dtype": ")" +
         dtype + "\"" + (members.empty() ? "" : ", " + members) + "}";
}

std::string compressed(const std::string& members) {
  return llama(R"("quantization_config": {"quant_method": "compressed-tensors",
    "format": "float-quantized", )" +
               members + "}");
}

const char* const fp8_channel =
    R"({"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true})";
const char* const fp8_token =
    R"({"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true})";

std::string group(const std::string& targets, const std::string& weights,
                  const std::string& activations = "null") {
  return fmt::format(R"({{"targets": {}, "weights": {}, "input_activations": {}}})", targets,
                     weights, activations);
}

std::string linears_in(const std::string& weights, const std::string& activations = "null") {
  return compressed(fmt::format(R"("ignore": ["lm_head"], "config_groups": {{"group_0": {}}})",
                                group(R"(["Linear"])", weights, activations)));
}

TransformerModel transformed(HfConfig config, const ModelInputs& inputs = {}) {
  TransformerModel model = load_model(std::move(config), inputs);
  transform(model);
  return model;
}

TransformerModel transformed_text(const std::string& text, const ModelInputs& inputs = {}) {
  return transformed(HfConfig::parse(text, "config.json"), inputs);
}

/// Keys of the config that nothing read.
std::vector<std::string> unread_keys(const TransformerModel& model) {
  std::vector<std::string> paths;
  for (const UnreadKey& key : model.config().unread()) paths.push_back(key.path);
  return paths;
}

/// The dtype of the caches, if they have one.
std::optional<DType> cache_dtype(const TransformerModel& model) {
  Graph graph;
  model.trace({Phase::decode, 1, 1, 10}, graph);
  std::optional<DType> dtype;
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    for (const CacheSpec& cache : graph.regions[r].caches) {
      CHECK((!dtype || *dtype == cache.dtype));
      dtype = cache.dtype;
    }
  }
  return dtype;
}

/// An error without the scratch folder's name.
std::string without(const Scratch& scratch, std::string text) {
  for (std::size_t at = text.find(scratch.path()); at != std::string::npos;
       at = text.find(scratch.path())) {
    text.replace(at, scratch.path().size(), "DIR");
  }
  return text;
}

constexpr std::int64_t in_bf16 = 311'461'888;
constexpr std::int64_t fp8_per_channel = 221'579'264;
constexpr std::int64_t fp8_per_tensor = 221'284'576;

}  // namespace

// S7
TEST_CASE("compressed-tensors: every group, target and strategy has its bytes") {
  struct Row {
    const char* what;
    std::string config;
    std::int64_t weight_bytes;
  };
  const std::string both = std::string(fp8_channel) + ", " + fp8_token;
  const auto groups = [](const std::string& list, const std::string& ignore = R"(["lm_head"])") {
    return compressed(fmt::format(R"("ignore": {}, "config_groups": {{{}}})", ignore, list));
  };
  const std::string linear = group(R"(["Linear"])", fp8_channel, fp8_token);
  const Row rows[] = {
      {"channels", linears_in(fp8_channel, fp8_token), fp8_per_channel},
      {"a group of another name", groups("\"my group\": " + linear), fp8_per_channel},
      {"an ignore list without the head", groups("\"g\": " + linear, "[]"), 188'939'264},
      {"two modules by name",
       groups("\"g\": " + group(R"(["model.layers.0.self_attn.q_proj", "lm_head"])", fp8_channel,
                                fp8_token),
              "[]"),
       277'777'408},
      {"a preset", groups(R"("FP8_DYNAMIC": ["Linear"])"), fp8_per_channel},
      {"a preset in blocks", groups(R"("FP8_BLOCK": ["Linear"])"), 221'306'368},
      {"a preset that leaves modules as they are",
       groups(R"("UNQUANTIZED": ["re:.*self_attn.*"], "rest": )" + linear), 242'468'864},
      {"two groups in 8 bit",
       groups(
           "\"a\": " + group(R"(["re:.*self_attn.*"])", fp8_channel, fp8_token) + ", \"m\": " +
           group(R"(["re:.*mlp.*"])", R"({"num_bits": 8, "type": "int", "strategy": "tensor"})")),
       221'366'368},
      {"groups of 128", linears_in(R"({"num_bits": 8, "type": "int", "strategy": "group",
                                       "group_size": 128})"),
       224'102'400},
      {"group_size -1 without a strategy",
       linears_in(R"({"num_bits": 8, "type": "int", "group_size": -1})",
                  R"({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true})"),
       fp8_per_channel},
      {"neither a strategy nor a group size: one scale",
       linears_in(R"({"num_bits": 8, "type": "float"})", R"({"num_bits": 8, "type": "float"})"),
       fp8_per_tensor},
      {"blocks as older versions write them",
       linears_in(R"({"num_bits": 8, "type": "float", "strategy": "block",
                      "block_structure": "128x128"})",
                  R"({"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128,
                      "dynamic": true})"),
       221'306'368},
      {"8-bit floats alone", linears_in(fp8_channel), fp8_per_channel},
      {"a container in the ignore list means nothing",
       groups("\"g\": " + linear, R"(["lm_head", "model.layers.0.mlp"])"), fp8_per_channel},
      {"layers by expression",
       groups("\"g\": " + linear, R"(["re:.*lm_head", "re:.*layers\\.[0-3]\\.self_attn\\..*"])"),
       232'024'064},
      {"of two expressions the first by name",
       groups("\"b\": " + group(R"(["re:.*mlp.down.*"])", fp8_channel, fp8_token) + ", \"a\": " +
              group(R"(["re:.*mlp.*"])",
                    R"({"num_bits": 8, "type": "float", "strategy": "tensor"})", fp8_token)),
       242'255'968},
      {"a name before an expression",
       groups("\"a\": " + group(R"(["re:.*_proj$"])", fp8_channel, fp8_token) + ", \"b\": " +
              group(R"(["model.layers.3.mlp.up_proj"])",
                    R"({"num_bits": 8, "type": "float", "strategy": "tensor"})", fp8_token)),
       fp8_per_channel - 4 * (2816 - 1)},
      {"scales in bf16",
       linears_in(R"({"num_bits": 8, "type": "float", "strategy": "channel",
                                        "scale_dtype": "torch.bfloat16"})",
                  fp8_token),
       fp8_per_channel - 2 * 73'728},
      {"no groups at all", compressed(R"("ignore": [], "config_groups": {})"), in_bf16},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.what));
    CHECK(transformed_text(row.config).weight_bytes() == row.weight_bytes);
  }
}

// S7: cases 01, 02, 03, 05, 06, 14 and 04 (S8).
TEST_CASE("quantization: the kept cases give their numbers, or say what they lack") {
  struct Row {
    const char* file;
    bool text_only;
    std::int64_t weight_bytes;  // 0: refused
    DType cache;
    const char* error;
  };
  const Row rows[] = {
      {"01_kv_cache_scheme.json", false, fp8_per_channel, DType::f8_e4m3, ""},
      {"02_targets_mlp_only.json", false, 242'468'864, DType::bf16, ""},
      {"03_second_group_named.json", false, 0, DType::bf16,
       "quantization_config.config_groups.mlp_int4.weights.num_bits: weights of 4-bit ints are not "
       "supported yet"},
      {"04_side_file_modelopt", false, fp8_per_tensor, DType::f8_e4m3, ""},
      {"04_side_file_modelopt/config.json", false, fp8_per_tensor, DType::f8_e4m3, ""},
      {"05_text_only_ignore_regex.json", true, 266'520'576, DType::bf16, ""},
      {"06_text_only_outer_keys_unreported.json", true, 242'468'864, DType::f8_e4m3, ""},
      {"14_sparse_24.json", false, 0, DType::bf16,
       "quantization_config.sparsity_config.format: sparse weights ('sparse-24-bitmask') are not "
       "supported yet"},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.file));
    ModelInputs inputs;
    inputs.text_only = row.text_only;
    if (row.weight_bytes == 0) {
      const std::string error =
          error_of([&] { transformed(HfConfig::load(data + row.file), inputs); });
      CHECK(error.find(row.error) != std::string::npos);
      CHECK(error.find(row.file) != std::string::npos);
      continue;
    }
    const TransformerModel model = transformed(HfConfig::load(data + row.file), inputs);
    CHECK(model.weight_bytes() == row.weight_bytes);
    CHECK(cache_dtype(model) == row.cache);
    CHECK(model.warnings() == std::vector<std::string>{});
    for (const std::string& key : unread_keys(model)) {
      CAPTURE(key);
      CHECK(key.find("quantization_config") == std::string::npos);
    }
  }
}

/// The linears of one layer of llama(), [out, in], and the bytes of everything else.
constexpr std::pair<std::int64_t, std::int64_t> layer_shapes[] = {
    {1024, 1024}, {256, 1024}, {256, 1024}, {1024, 1024}, {2816, 1024}, {2816, 1024}, {1024, 2816}};
constexpr std::int64_t beside_linears = 2 * 32000 * 1024 * 2 + 17 * 1024 * 2;

/// The bytes of llama() when a linear takes `of(out, in)`.
template <class Of>
std::int64_t llama_bytes(Of of) {
  std::int64_t bytes = 0;
  for (const auto& [out, in] : layer_shapes) bytes += of(out, in);
  return beside_linears + 8 * bytes;
}

std::string packed(const std::string& weights, const std::string& format = "pack-quantized",
                   const std::string& dtype = "bfloat16") {
  return llama(
      R"("quantization_config": {"quant_method": "compressed-tensors", "ignore": ["lm_head"],
    "format": ")" +
          format + R"(", "config_groups": {"group_0": )" + group(R"(["Linear"])", weights) + "}}",
      dtype);
}

// The tensors that compressed-tensors stores (pack_quantized.py): weight_packed int32
// [out, in / values of a word], weight_scale [out, groups] in the dtype of the model, weight_shape
// int64 [2], weight_zero_point int32 [out / values, groups]; and AutoAWQ (gemm.py): qweight int32
// [in, out / 8], qzeros int32 [in / group, out / 8], scales f16 [in / group, out].
TEST_CASE("packed formats: bytes are those of the tensors in the files") {
  const std::string g128 =
      R"("type": "int", "symmetric": true, "strategy": "group", "group_size": 128})";
  const auto awq = [](const std::string& more = "") {
    return llama(R"("quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128,
      "version": "gemm", "zero_point": true, "modules_to_not_convert": null)" +
                 more + "}");
  };
  const auto packed_bytes = [](std::int64_t bits, std::int64_t group, bool zeros,
                               std::int64_t scale_bytes = 2) {
    return llama_bytes([=](std::int64_t out, std::int64_t in) {
      const std::int64_t values = 32 / bits;
      const std::int64_t groups = group > 0 ? in / group : 1;
      return 4 * out * (in / values) + scale_bytes * out * groups + 16 +
             (zeros ? 4 * (out / values) * groups : 0);
    });
  };
  const auto awq_bytes = [](std::int64_t group) {
    return llama_bytes([=](std::int64_t out, std::int64_t in) {
      const std::int64_t groups = group > 0 ? in / group : 1;
      return 4 * in * (out / 8) + 4 * groups * (out / 8) + 2 * groups * out;
    });
  };
  constexpr std::int64_t layer_elements = 2 * 1024 * 1024 + 2 * 256 * 1024 + 3 * 2816 * 1024;
  constexpr std::int64_t k_elements = 256 * 1024;
  const auto awq_bytes_of = [](std::int64_t elements) {
    return elements / 2 + elements / 128 / 2 + elements / 128 * 2;
  };
  struct Row {
    const char* what;
    std::string config;
    std::int64_t weight_bytes;
    const char* scheme;
  };
  const Row rows[] = {
      {"8 bit in groups, scales in the model's dtype", packed(R"({"num_bits": 8, )" + g128),
       packed_bytes(8, 128, false), "w8a16"},
      {"4 bit in groups", packed(R"({"num_bits": 4, )" + g128), packed_bytes(4, 128, false),
       "w4a16"},
      {"the same of an f32 model",
       packed(R"({"num_bits": 4, )" + g128, "pack-quantized", "float32"),
       packed_bytes(4, 128, false, 4) + beside_linears, "w4a16"},
      {"scales in a dtype of their own",
       packed(R"({"num_bits": 4, "scale_dtype": "torch.float32", )" + g128),
       packed_bytes(4, 128, false, 4), "w4a16"},
      {"groups of 32", packed(R"({"num_bits": 4, "type": "int", "strategy": "group",
                                  "group_size": 32})"),
       packed_bytes(4, 32, false), "w4a16"},
      {"4 bit per channel", packed(R"({"num_bits": 4, "type": "int", "strategy": "channel"})"),
       packed_bytes(4, 0, false), "w4a16"},
      {"4 bit with zero points", packed(R"({"num_bits": 4, "type": "int", "strategy": "group",
                                            "group_size": 128, "symmetric": false})"),
       packed_bytes(4, 128, true), "w4a16"},
      {"a preset", llama(R"("quantization_config": {"quant_method": "compressed-tensors",
         "ignore": ["lm_head"], "format": "pack-quantized", "config_groups": {"W4A16": ["Linear"]}})"),
       packed_bytes(4, 128, false), "w4a16"},
      {"each group its format",
       llama(R"("quantization_config": {"quant_method": "compressed-tensors", "ignore": ["lm_head"],
         "format": "mixed-precision", "config_groups": {"g": {"targets": ["Linear"],
         "format": "pack-quantized", "weights": {"num_bits": 4, )" +
             g128 + "}}}"),
       packed_bytes(4, 128, false), "w4a16"},
      {"AWQ", awq(), awq_bytes(128), "w4a16"},
      {"AWQ with what its kernels want",
       awq(R"(, "backend": "autoawq", "do_fuse": false, "fuse_max_seq_len": null,
               "modules_to_fuse": null, "exllama_config": null)"),
       awq_bytes(128), "w4a16"},
      {"AWQ in AutoAWQ's own words",
       llama(R"("quantization_config": {"quant_method": "awq", "w_bit": 4, "q_group_size": 64,
                "version": "GEMM", "zero_point": true})"),
       awq_bytes(64), "w4a16"},
      {"AWQ that leaves what contains a word",
       llama(R"("quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128,
                "modules_to_not_convert": ["layers.0.", "k_proj"]})"),
       awq_bytes(128) + 2 * layer_elements + 7 * 2 * k_elements - awq_bytes_of(layer_elements) -
           7 * awq_bytes_of(k_elements),
       "w4a16"},
      {"AWQ per channel", llama(R"("quantization_config": {"quant_method": "AWQ", "bits": 4,
                                   "group_size": -1})"),
       awq_bytes(0), "w4a16"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const TransformerModel model = transformed_text(row.config);
    CHECK(model.weight_bytes() == row.weight_bytes);
    CHECK(model.warnings() == std::vector<std::string>{});
    CHECK(model.count_parameters().total == transformed_text(llama("")).count_parameters().total);
    for (const std::string& key : unread_keys(model)) {
      CAPTURE(key);
      CHECK(key.find("quantization_config") == std::string::npos);
    }
    const StoredDTypes stored = stored_dtypes(model);
    REQUIRE(!stored.linears.empty());
    REQUIRE(stored.linears[0].quantization);
    CHECK(stored.linears[0].quantization->scheme() == row.scheme);
    // Weights alone are quantized: products are those of the activations.
    CHECK(stored.compute == std::vector<DType>{stored.activations});
  }
}

TEST_CASE("packed formats: tensor parallelism and experts, stored one by one or together") {
  const std::string scheme =
      R"("quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
         "ignore": ["lm_head", "re:.*ROUTER$"], "config_groups": {"g": {
         "targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group",
         "group_size": 64}}}})";
  const std::string awq = R"("quantization_config": {"quant_method": "awq", "bits": 4,
                             "group_size": 64, "modules_to_not_convert": ["ROUTER"]})";
  const std::string sizes = R"("vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 2,
      "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
      "num_local_experts": 4, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", )";
  // Of one expert: gate, up and down together.
  constexpr std::int64_t elements = 3 * 256 * 512;
  for (const char* type : {"mixtral", "gpt_oss"}) {
    for (const bool zeros : {false, true}) {
      for (const std::int64_t tp : {1, 2}) {
        CAPTURE(type);
        CAPTURE(zeros);
        CAPTURE(tp);
        ModelInputs inputs;
        inputs.options.parallel.tp = tp;
        const std::string head = fmt::format(R"({{"model_type": "{}", {})", type, sizes);
        const TransformerModel plain =
            transformed_text(head.substr(0, head.rfind(',')) + "}", inputs);
        std::string own = zeros ? awq : scheme;
        own.replace(own.find("ROUTER"), 6, std::string(type) == "gpt_oss" ? "router" : "gate");
        const TransformerModel model = transformed_text(head + own + "}", inputs);
        CHECK(model.warnings() == std::vector<std::string>{});
        // Attention: q and o of 256 x 256, k and v of 128 x 256.
        const std::int64_t quantized = 2 * (4 * elements + 2 * 256 * 256 + 2 * 128 * 256);
        const std::int64_t stored =
            quantized / 2 + quantized / 64 * 2 + (zeros ? quantized / 64 / 2 : 0);
        // A shape beside each tensor of a layer, on every rank.
        const std::int64_t together = std::string(type) == "gpt_oss" ? 2 : 3;
        const std::int64_t shapes = zeros ? 0 : 2 * 16 * (4 + 4 * together);
        CHECK(plain.weight_bytes() - model.weight_bytes() ==
              (2 * quantized - stored) / tp - shapes);
      }
    }
  }
}

// D13: what a format cannot store stays, and that is said.
TEST_CASE("packed formats: weights that their words do not divide stay as they are") {
  const TransformerModel model = transformed_text(
      llama(R"("quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 192})"));
  REQUIRE(model.warnings().size() >= 1);
  CHECK(model.warnings()[0].find("its format needs inputs in multiples of 192, it has 1024") !=
        std::string::npos);
}

TEST_CASE("packed formats: what is not supported is refused where it stands") {
  struct Row {
    std::string config;
    const char* error;
  };
  const auto awq = [](const std::string& members) {
    return llama(R"("quantization_config": {"quant_method": "awq", )" + members + "}");
  };
  const Row rows[] = {
      {packed(R"({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128})",
              "int-quantized"),
       "config_groups.group_0.weights.num_bits: weights of 4-bit ints are not supported yet"},
      {packed(R"({"num_bits": 3, "type": "int"})"),
       "config_groups.group_0.weights.num_bits: weights of 3-bit ints are not supported yet"},
      {packed(R"({"num_bits": 4, "type": "float"})"),
       "config_groups.group_0.weights.num_bits: weights of 4-bit floats are not supported yet"},
      {packed(R"({"num_bits": 4, "type": "int", "strategy": "tensor"})"),
       "config_groups.group_0.weights.strategy: 4-bit weights with one scale are not supported"},
      {packed(R"({"num_bits": 8, "type": "int", "symmetric": false})"),
       "config_groups.group_0.weights.symmetric: weights with zero points are not supported yet"},
      {llama(R"("quantization_config": {"quant_method": "compressed-tensors",
               "format": "pack-quantized", "config_groups": {"g": )" +
             group(R"(["Linear"])", R"({"num_bits": 4, "type": "int", "strategy": "channel"})",
                   R"({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true})") +
             "}}"),
       "input_activations.num_bits: quantized activations with 4-bit weights are not supported"},
      {awq(R"("bits": 8)"),
       "quantization_config.bits: AWQ weights of 8 bits are not supported yet"},
      {awq(R"("w_bit": 3)"), "quantization_config.w_bit: AWQ weights of 3 bits are not supported"},
      {awq(R"("bits": 4, "w_bit": 8)"), "quantization_config.w_bit: 8 contradicts bits = 4"},
      {awq(R"("version": "gemv")"),
       "quantization_config.version: AWQ weights laid out for 'gemv' are not supported yet"},
      {awq(R"("zero_point": false)"),
       "quantization_config.zero_point: AWQ weights without zero points are not supported yet"},
      {awq(R"("group_size": 0)"), "quantization_config.group_size: expected 1 to 1048576, or -1"},
      {awq(R"("q_group_size": -2)"), "quantization_config.q_group_size: expected 1 to 1048576"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.config);
    CHECK(error_of([&] { transformed_text(row.config); }).find(row.error) != std::string::npos);
  }
}

// S7
TEST_CASE("compressed-tensors: what is not supported is refused where it stands") {
  struct Row {
    std::string config;
    const char* error;
  };
  const auto with = [](const std::string& more) {
    return compressed(more + R"(, "ignore": ["lm_head"], "config_groups": {"g": )" +
                      group(R"(["Linear"])", fp8_channel, fp8_token) + "}");
  };
  const auto weights = [](const std::string& text) { return linears_in(text); };
  const auto inputs = [](const std::string& text) { return linears_in(fp8_channel, text); };
  const Row rows[] = {
      {weights(R"({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128})"),
       "config_groups.group_0.weights.num_bits: weights of 4-bit ints are not supported yet"},
      {weights(R"({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16})"),
       "config_groups.group_0.weights.num_bits: weights of 4-bit floats are not supported yet"},
      {weights(R"({"num_bits": 8, "type": "int", "symmetric": false})"),
       "config_groups.group_0.weights.symmetric: weights with zero points are not supported yet"},
      {weights(R"({"num_bits": 8, "type": "float", "strategy": "token"})"),
       "config_groups.group_0.weights.strategy: \"token\" is for activations, not for weights"},
      {weights(R"({"num_bits": 8, "type": "float", "strategy": "chanel"})"),
       "config_groups.group_0.weights.strategy: unknown strategy 'chanel' | did you mean "
       "'channel'?"},
      {weights(R"({"num_bits": 8, "type": "float", "strategy": "block"})"),
       "config_groups.group_0.weights.block_structure: strategy \"block\" needs its two sizes"},
      {weights(
           R"({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [0, 128]})"),
       "config_groups.group_0.weights.block_structure: strategy \"block\" needs its two sizes"},
      {weights(
           R"({"num_bits": 8, "type": "int", "strategy": "block", "block_structure": [128, 128]})"),
       "config_groups.group_0.weights.strategy: 8-bit integer weights in blocks are not supported"},
      {weights(R"({"num_bits": 8, "type": "int", "strategy": "group"})"),
       "config_groups.group_0.weights.group_size: strategy \"group\" needs a size of at least 1"},
      {weights(R"({"num_bits": 8, "type": "int", "strategy": "channel", "group_size": 64})"),
       "config_groups.group_0.weights.group_size: a size of 64 does not go with strategy "
       "\"channel\""},
      {weights(R"({"num_bits": 8, "type": "int", "strategy": "group", "group_size": 128,
                   "actorder": "group"})"),
       "config_groups.group_0.weights.actorder: weights in activation order 'group' are not "
       "supported yet"},
      {weights(R"({"num_bits": 8, "type": "float", "dynamic": true})"),
       "config_groups.group_0.weights.dynamic: weights with scales found at run time"},
      {weights(R"({"num_bits": 8, "type": "fp"})"),
       "config_groups.group_0.weights.type: expected \"int\" or \"float\", got \"fp\""},
      {weights(R"({"num_bits": "8", "type": "float"})"),
       "config_groups.group_0.weights.num_bits: expected a whole number"},
      {weights(R"({"num_bits": 8, "type": "float", "scale_dtype": "torch.float8_e4m3fn"})"),
       "config_groups.group_0.weights.scale_dtype: scales of weights in torch.float8_e4m3fn"},
      {inputs(
           R"({"num_bits": 4, "type": "float", "dynamic": "local", "strategy": "tensor_group"})"),
       "input_activations.num_bits: activations of 4-bit floats are not supported yet"},
      {inputs(R"({"num_bits": 8, "type": "int", "dynamic": true, "strategy": "token"})"),
       "input_activations.type: activations in int8 with weights in float8_e4m3fn are not"},
      {inputs(R"({"num_bits": 8, "type": "float", "dynamic": true, "strategy": "tensor"})"),
       "input_activations.strategy: run-time activation scales with strategy 'tensor' are not"},
      {inputs(R"({"num_bits": 8, "type": "float", "dynamic": false, "strategy": "token"})"),
       "input_activations.strategy: fixed activation scales with strategy 'token' are not"},
      {linears_in("null", fp8_token),
       "input_activations: quantized activations of weights that are not quantized"},
      {compressed(R"("config_groups": {"g": {"targets": ["Linear"], "weights": )" +
                  std::string(fp8_channel) + R"(, "output_activations": )" + fp8_token + "}}"),
       "config_groups.g.output_activations: quantized results of linears are not supported yet"},
      {compressed(R"("config_groups": {"g": {"weights": )" + std::string(fp8_channel) + "}}"),
       "config_groups.g.targets: required key is missing"},
      {compressed(R"("config_groups": {"W4A16": ["Linear"]})"),
       "config_groups.W4A16: weights of the scheme 'W4A16' are not supported yet"},
      {compressed(R"("config_groups": {"g": null})"),
       "config_groups.g: expected a group with a name and its settings"},
      {compressed(R"("config_groups": {"": {}})"), "expected a group with a name"},
      {compressed(R"("ignore": [])"),
       "quantization_config.config_groups: expected the groups that weights are quantized in"},
      {compressed(R"("config_groups": {"g": {"targets": ["re:("], "weights": )" +
                  std::string(fp8_channel) + "}}"),
       "'re:(' is no regular expression that can be used"},
      {with(R"("quantization_status": "calibration")"),
       "quantization_config.quantization_status: 'calibration' says that the weights are not"},
      {with(R"("sparsity_config": {"format": "dense", "sparsity_structure": "2:4"})"),
       "quantization_config.sparsity_config.sparsity_structure: sparse weights ('2:4') are not"},
      {with(R"("transform_config": {"config_groups": {"u": {"type": "hadamard"}}})"),
       "quantization_config.transform_config: rotations of weights and activations are not"},
      {with(R"("kv_cache_scheme": {"num_bits": 4, "type": "float"})"),
       "quantization_config.kv_cache_scheme.num_bits: KV caches of 4-bit floats are not supported "
       "yet "
       "| choose another one with --quantize-kv-cache (fp8, int8)"},
      {with(R"("kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": true})"),
       "quantization_config.kv_cache_scheme.dynamic: KV caches with scales found at run time"},
      {with(R"("kv_cache_scheme": {"num_bits": 8, "type": "int", "symmetric": false})"),
       "quantization_config.kv_cache_scheme.symmetric: KV caches with zero points are not"},
      {with(R"("kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "token"})"),
       "quantization_config.kv_cache_scheme.strategy: KV caches with strategy 'token' are not"},
      {llama(R"("quantization_config": {"quant_method": "compressed-tensors",
                "format": "marlin-24", "config_groups": {}})"),
       "quantization_config.format: weights in the format 'marlin-24' are not supported yet"},
      {llama(R"("quantization_config": {"quant_method": "compressed-tensors",
                "format": "dense", "config_groups": {}})"),
       "quantization_config.format: weights in the format 'dense' are not supported yet"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.config);
    const std::string error = error_of([&] { transformed_text(row.config); });
    CAPTURE(error);
    CHECK(error.find(row.error) != std::string::npos);
    CHECK(error.find("config.json:") == 0);
  }
}

TEST_CASE("compressed-tensors: settings that change nothing are known, others are told") {
  const std::string config = compressed(
      R"("ignore": ["lm_head"], "global_compression_ratio": 1.4, "version": "0.14.1",
         "quantization_status": "frozen", "sparsity_config": {}, "transform_config": {},
         "kv_cache_scheme": null, "mystery": 3, "config_groups": {"group_0": {
           "format": "float-quantized", "output_activations": null, "targets": ["Linear"],
           "weights": {"actorder": "weight", "block_structure": null, "dynamic": false,
             "group_size": null, "num_bits": 8, "observer": "mse", "observer_kwargs": {"a": 1},
             "strategy": "channel", "symmetric": true, "type": "float", "zp_dtype": null},
           "input_activations": {"dynamic": true, "num_bits": 8, "observer": null,
             "strategy": "token", "type": "float", "riddle": true}}})");
  const TransformerModel model = transformed_text(config);
  CHECK(model.weight_bytes() == fp8_per_channel);
  CHECK(unread_keys(model) ==
        std::vector<std::string>{"quantization_config.mystery",
                                 "quantization_config.config_groups.group_0.input_activations."
                                 "riddle"});
}

// S7 for fp8, C7
TEST_CASE("fp8: every spelling has its bytes") {
  struct Row {
    const char* members;  // of quantization_config
    std::int64_t weight_bytes;
  };
  constexpr std::int64_t in_blocks = 221'306'368;
  const Row rows[] = {
      {R"("quant_method": "fp8", "weight_block_size": [128, 128])", in_blocks},
      {R"("quant_method": "FP8", "fmt": "float8_e4m3fn", "activation_scheme": "dynamic",
          "weight_block_size": [128, 128])",
       in_blocks},
      {R"("quant_method": "", "weight_block_size": [128, 128], "activation_scheme": "dynamic")",
       in_blocks},
      {R"("weight_block_size": [128, 128])", in_blocks},
      {R"("quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
          "weight_block_size": [128, 128])",
       in_blocks},
      {R"("quant_method": "fp8", "activation_scheme": "static")", fp8_per_tensor},
      {R"("quant_method": "fp8", "weight_block_size": null)", fp8_per_tensor},
      {R"("quant_method": "fp8", "weight_per_tensor": false, "act_per_tensor": false,
          "weight_block_size": [128, 128])",
       in_blocks},
      {R"("quant_method": "fp8", "weight_block_size": [1, 128])", 224'102'400},
      {R"("quant_method": "fp8", "weight_block_size": [128, 128],
          "ignored_layers": ["model.layers.0.mlp"])",
       in_blocks + 3 * (1024 * 2816 - 4 * 22 * 8)},
      {R"("quant_method": "fp8", "weight_block_size": [128, 128],
          "modules_to_not_convert": ["lm_head", "model.layers.*.self_attn", "model.norm"])",
       in_blocks + 8 * ((2 * 1024 + 2 * 256) * 1024 - 4 * (2 * 64 + 2 * 16))},
      {R"()", in_bf16},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.members));
    const TransformerModel model =
        transformed_text(llama(fmt::format(R"("quantization_config": {{{}}})", row.members)));
    CHECK(model.weight_bytes() == row.weight_bytes);
    CHECK(model.warnings() == std::vector<std::string>{});
    CHECK(unread_keys(model) == std::vector<std::string>{});
  }
  CHECK(cache_dtype(transformed_text(llama(R"("quantization_config": {"quant_method": "fp8",
        "activation_scheme": "static", "kv_cache_scheme": "static"})"))) == DType::f8_e4m3);
}

// S7, C7
TEST_CASE(
    "methods and settings that are not supported are refused by name, with bits and a way out") {
  struct Row {
    const char* members;
    const char* error;
  };
  const Row rows[] = {
      {R"("quant_method": "gptq", "bits": 4, "group_size": 128)",
       "quantization_config.quant_method: quantization method 'gptq' (4-bit weights in groups of "
       "128) is not supported yet"},
      {R"("quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false)",
       "'bitsandbytes' (4-bit weights) is not supported yet"},
      {R"("quant_method": "bitsandbytes", "load_in_8bit": true)",
       "'bitsandbytes' (8-bit weights) is not supported yet"},
      {R"("quant_method": "mxfp4")", "'mxfp4' (4-bit weights) is not supported yet"},
      {R"("quant_method": "fbgemm_fp8")", "'fbgemm_fp8' (8-bit weights) is not supported yet"},
      {R"("quant_method": "quark")", "'quark' is not supported yet"},
      {R"("quant_method": "torchao")", "'torchao' is not supported yet"},
      {R"("quant_method": "hqq")", "'hqq' is not supported yet"},
      {R"("quant_method": "modelopt", "quant_algo": "NVFP4")",
       "quantization_config.quant_algo: ModelOpt's 'NVFP4' (4-bit weights) is not supported yet"},
      {R"("quant_method": "modelopt", "quant_algo": "MIXED_PRECISION")",
       "ModelOpt's 'MIXED_PRECISION' (several formats) is not supported yet"},
      {R"("quant_method": "fp9")",
       "quantization_config.quant_method: unknown quantization method 'fp9' | did you mean 'fp8'?"},
      {R"("quant_method": "", "bits": 4)",
       "quantization_config.quant_method: expected the name of a method, got nothing; its weights "
       "have 4 bits"},
      {R"("what": 1)",
       "expected the name of a method, got nothing, and the other keys do not tell"},
      {R"("quant_method": 7)", "quantization_config.quant_method: expected a string"},
      {R"("quant_method": "fp8", "fmt": "e5m2")",
       "quantization_config.fmt: fp8 format 'e5m2' is not supported yet: only e4m3 is"},
      {R"("quant_method": "fp8", "activation_scheme": "none")",
       "quantization_config.activation_scheme: expected \"dynamic\" or \"static\", got \"none\""},
      {R"("quant_method": "fp8", "weight_block_size": [128])",
       "quantization_config.weight_block_size: expected two sizes"},
      {R"("quant_method": "fp8", "weight_block_size": [128, 0])",
       "quantization_config.weight_block_size: expected two sizes"},
      {R"("quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "static")",
       "quantization_config.activation_scheme: fixed activation scales do not go with"},
      {R"("quant_method": "fp8", "scale_fmt": "e8m7")",
       "quantization_config.scale_fmt: expected \"float\" or \"ue8m0\", got \"e8m7\""},
      {R"("quant_method": "fp8", "dequantize": true)",
       "quantization_config.dequantize: a checkpoint that is converted to 16 bit"},
      {R"("quant_method": "fp8", "expert_dtype": "fp4")",
       "quantization_config.expert_dtype: experts in fp4 are not supported yet"},
      {R"("quant_method": "fp8", "modules_to_convert": ["model.embed_tokens"])",
       "quantization_config.modules_to_convert: quantized modules that are no linears"},
      {R"("quant_method": "fp8", "kv_cache_scheme": "dynamic")",
       "quantization_config.kv_cache_scheme: expected \"static\", got \"dynamic\""},
      {R"("quant_method": "fp8", "modules_to_not_convert": "lm_head")",
       "quantization_config.modules_to_not_convert: expected a list"},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.members));
    const std::string config = llama(fmt::format(R"("quantization_config": {{{}}})", row.members));
    const std::string error = error_of([&] { transformed_text(config); });
    CAPTURE(error);
    CHECK(error.find(row.error) != std::string::npos);
    CHECK(error.find("config.json:") == 0);
    // Another scheme instead of the checkpoint's own is always possible.
    ModelInputs none;
    none.options.quantize_linear = LinearScheme::none;
    none.options.quantize_kv_cache = KvScheme::none;
    CHECK(transformed_text(config, none).weight_bytes() == in_bf16);
  }
}

TEST_CASE("an option takes the place of what the checkpoint says, part by part") {
  const std::string config =
      compressed(R"("ignore": ["lm_head", "re:.*layers\\.0\\..*"], "config_groups": {"g": )" +
                 group(R"(["re:.*mlp.*"])", fp8_channel, fp8_token) +
                 R"(}, "kv_cache_scheme": {"num_bits": 8, "type": "int"})");
  struct Row {
    LinearScheme linear;
    KvScheme kv;
    std::int64_t weight_bytes;
    DType cache;
  };
  constexpr std::int64_t layer_linears = (2 * 1024 + 2 * 256) * 1024 + 3 * 2816 * 1024;
  constexpr std::int64_t layer_scales = 4 * (2 * 1024 + 2 * 256 + 2 * 2816 + 1024);
  constexpr std::int64_t mlps = 7 * (3 * 2816 * 1024 - 4 * (2 * 2816 + 1024));
  const Row rows[] = {
      {LinearScheme::checkpoint, KvScheme::checkpoint, in_bf16 - mlps, DType::i8},
      {LinearScheme::checkpoint, KvScheme::none, in_bf16 - mlps, DType::bf16},
      {LinearScheme::none, KvScheme::checkpoint, in_bf16, DType::i8},
      // The checkpoint's list of what stays counts for other schemes, its targets do not.
      {LinearScheme::fp8, KvScheme::fp8, in_bf16 - 7 * (layer_linears - layer_scales),
       DType::f8_e4m3},
  };
  for (const Row& row : rows) {
    CAPTURE(name_of(row.linear));
    CAPTURE(name_of(row.kv));
    ModelInputs inputs;
    inputs.options.quantize_linear = row.linear;
    inputs.options.quantize_kv_cache = row.kv;
    const TransformerModel model = transformed_text(config, inputs);
    CHECK(model.weight_bytes() == row.weight_bytes);
    CHECK(cache_dtype(model) == row.cache);
    CHECK(unread_keys(model) == std::vector<std::string>{});
  }
}

// S8
TEST_CASE("files beside a config.json are read, or refused where they stand") {
  struct Row {
    const char* what;
    std::vector<std::pair<std::string, std::string>> files;
    std::string config;
    std::int64_t weight_bytes;  // 0: refused
    const char* error;
  };
  const std::string fp8 = R"({"producer": {"name": "modelopt", "version": "0.27.0"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": null, "group_size": null,
    "exclude_modules": ["lm_head"]}})";
  const std::string own_fp8 = R"("quantization_config": {"quant_method": "modelopt",
    "quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"},
    "config_groups": {"group_0": {"targets": ["Linear"],
      "weights": {"dynamic": false, "num_bits": 8, "type": "float"},
      "input_activations": {"dynamic": false, "num_bits": 8, "type": "float"}}}})";
  const Row rows[] = {
      {"ModelOpt's FP8", {{"hf_quant_config.json", fp8}}, llama(""), fp8_per_tensor, ""},
      {"the same in the config.json", {}, llama(own_fp8), fp8_per_tensor, ""},
      {"both agree", {{"hf_quant_config.json", fp8}}, llama(own_fp8), fp8_per_tensor, ""},
      {"a scale for each channel",
       {{"hf_quant_config.json",
         R"({"quantization": {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}})"}},
       llama(""),
       fp8_per_channel,
       ""},
      {"excluded by glob",
       {{"hf_quant_config.json", R"({"quantization": {"quant_algo": "FP8", "exclude_modules":
         ["lm_head", "model.layers.[0-6].*", "model.layers.7.self_attn*"]}})"}},
       llama(""),
       in_bf16 - 3 * (2816 * 1024 - 4),
       ""},
      {"they contradict each other in weights",
       {{"hf_quant_config.json", fp8}},
       llama(R"("quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]})"),
       0,
       "DIR/hf_quant_config.json: hf_quant_config.json (modelopt) says something else of the "
       "weights than quantization_config (fp8) in DIR/config.json"},
      {"they contradict each other in the KV cache",
       {{"hf_quant_config.json", R"({"quantization": {"quant_algo": "FP8",
         "kv_cache_quant_algo": "FP8"}})"}},
       llama(own_fp8),
       0,
       "says something else of the KV cache than quantization_config (modelopt)"},
      {"NVFP4",
       {{"hf_quant_config.json", R"({"quantization": {"quant_algo": "NVFP4", "group_size": 16}})"}},
       llama(""),
       0,
       "DIR/hf_quant_config.json:1:33: quantization.quant_algo: ModelOpt's 'NVFP4' "
       "(4-bit weights) is not supported yet"},
      {"a KV cache in 4 bit",
       {{"hf_quant_config.json", R"({"quantization": {"quant_algo": "FP8",
         "kv_cache_quant_algo": "NVFP4"}})"}},
       llama(""),
       0,
       "quantization.kv_cache_quant_algo: KV caches in NVFP4 are not supported yet"},
      {"GPTQ",
       {{"quantize_config.json", R"({"bits": 4, "group_size": 128, "desc_act": false})"}},
       llama(""),
       0,
       "DIR/quantize_config.json:1:10: bits: quantization method 'GPTQ' (4-bit "
       "weights in groups of 128) is not supported yet"},
      {"AWQ",
       {{"quant_config.json", R"({"zero_point": true, "q_group_size": 128, "w_bit": 4})"}},
       llama(""),
       177'956'864,
       ""},
      {"AWQ here and there",
       {{"quant_config.json", R"({"zero_point": true, "q_group_size": 128, "w_bit": 4})"}},
       llama(R"("quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128})"),
       177'956'864,
       ""},
      {"AWQ in other groups",
       {{"quant_config.json", R"({"zero_point": true, "q_group_size": 128, "w_bit": 4})"}},
       llama(R"("quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64})"),
       0,
       "DIR/quant_config.json: quant_config.json (awq) says something else of the weights than "
       "quantization_config (awq) in DIR/config.json"},
      {"msModelSlim",
       {{"quant_model_description_w8a8_dynamic.json", R"({"model_quant_type": "W8A8_DYNAMIC"})"}},
       llama(""),
       0,
       "DIR/quant_model_description_w8a8_dynamic.json: weights quantized by "
       "msModelSlim are not supported yet"},
      {"GPTQ beside another scheme",
       {{"quantize_config.json", R"({"bits": 4})"}},
       llama(own_fp8),
       0,
       "DIR/quantize_config.json: the file says that the weights are quantized by GPTQ, "
       "DIR/config.json says quantization_config (modelopt)"},
      {"broken JSON",
       {{"hf_quant_config.json", "{\"quantization\": "}},
       llama(""),
       0,
       "DIR/hf_quant_config.json:1:"},
      {"an empty file", {{"hf_quant_config.json", ""}}, llama(""), 0, "DIR/hf_quant_config.json"},
      {"a list",
       {{"hf_quant_config.json", "[]"}},
       llama(""),
       0,
       "DIR/hf_quant_config.json:1:1: expected a map of keys and values, got an empty list"},
      {"nothing in it",
       {{"hf_quant_config.json", "{}"}},
       llama(""),
       0,
       "DIR/hf_quant_config.json: quant_algo: expected the name of a quantization algorithm"},
      {"a directory of that name",
       {{"hf_quant_config.json/x", ""}},
       llama(""),
       0,
       "DIR/hf_quant_config.json: expected a file, got a directory"},
      {"far too large",
       {{"hf_quant_config.json", std::string(20 << 20, ' ')}},
       llama(""),
       0,
       "DIR/hf_quant_config.json: expected at most"},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.what));
    const Scratch scratch;
    scratch.write("config.json", row.config);
    for (const auto& [name, text] : row.files) scratch.write(name, text);
    for (const std::string& path : {scratch.path(), scratch.path() + "/config.json"}) {
      if (row.weight_bytes > 0) {
        const TransformerModel model = transformed(HfConfig::load(path));
        CHECK(model.weight_bytes() == row.weight_bytes);
        CHECK(model.warnings() == std::vector<std::string>{});
        continue;
      }
      const std::string error =
          without(scratch, error_of([&] { transformed(HfConfig::load(path)); }));
      CAPTURE(error);
      CHECK(error.find(row.error) != std::string::npos);
      CHECK(error.find('\n') == std::string::npos);
    }
  }
}

// S8
TEST_CASE("files beside a config: what does not belong to it, and what nothing reads") {
  const std::string fp8 = R"({"quantization": {"quant_algo": "FP8"}})";
  const Scratch scratch;
  // Beside a config of another name they may belong to anything.
  scratch.write("hf_quant_config.json", fp8);
  const std::string other = scratch.write("llama.json", llama(""));
  CHECK(transformed(HfConfig::load(other)).weight_bytes() == in_bf16);

  scratch.write("config.json", llama(""));
  scratch.write("hf_quant_config.json",
                R"({"quantization": {"quant_algo": "FP8", "mystery": 1}, "riddle": {}})");
  const TransformerModel model = transformed(HfConfig::load(scratch.path()));
  REQUIRE(model.warnings().size() == 1);
  CHECK(without(scratch, model.warnings()[0]) ==
        "DIR/hf_quant_config.json: keys that nothing read: quantization.mystery, riddle");

  // Through a link to the folder, and with a link that leads nowhere.
  const Scratch links;
  fs::create_directory_symlink(scratch.path(), links.path() + "/model");
  CHECK(transformed(HfConfig::load(links.path() + "/model")).weight_bytes() == fp8_per_tensor);
  fs::remove(scratch.path() + "/hf_quant_config.json");
  fs::create_symlink("nowhere", scratch.path() + "/hf_quant_config.json");
  CHECK(without(scratch, error_of([&] { transformed(HfConfig::load(scratch.path())); })) ==
        "DIR/hf_quant_config.json: no such file");

  // A scheme of the user's own does not need what the file says.
  ModelInputs inputs;
  inputs.options.quantize_linear = LinearScheme::none;
  inputs.options.quantize_kv_cache = KvScheme::none;
  CHECK(transformed(HfConfig::load(scratch.path()), inputs).weight_bytes() == in_bf16);
}

// S8
TEST_CASE("a config whose name says that it is quantized is told to lack something") {
  struct Row {
    const char* file;
    const char* members;
    const char* word;  // that is warned of; empty: nothing is
  };
  const Row rows[] = {
      {"Llama-3.1-70B-Instruct-FP8/config.json", "", "FP8"},
      {"nvidia__DeepSeek-V3.2-NVFP4.json", "", "NVFP4"},
      {"models/llama_w8a8.json", "", "w8a8"},
      {"llama.json", R"("_name_or_path": "/data/Llama-2-7B-AWQ/")", "AWQ"},
      {"llama.json", R"("_name_or_path": "fp8/llama")", ""},
      {"llama.json", R"("producer": {"name": "modelopt"})", "producer"},
      {"fp8/llama.json", "", ""},
      {"llama-fp80.json", "", ""},
      {"deep/config.json", "", ""},
      {"llama-FP8.json", R"("quantization_config": {"quant_method": "fp8"})", ""},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.file));
    const Scratch scratch;
    const std::string path = scratch.write(row.file, llama(row.members));
    const TransformerModel model = transformed(HfConfig::load(path));
    std::size_t warnings = 0;
    for (const std::string& warning : model.warnings()) {
      warnings +=
          warning.find(fmt::format("says '{}', but nothing says", row.word)) != std::string::npos
              ? 1
              : 0;
    }
    CHECK(warnings == (*row.word == '\0' ? 0 : 1));
    CHECK(model.warnings().size() == warnings);
    // Who says how weights are stored is not told.
    ModelInputs inputs;
    inputs.options.quantize_linear = LinearScheme::none;
    CHECK(transformed(HfConfig::load(path), inputs).warnings().empty());
  }
}

// S11
TEST_CASE("patterns of a checkpoint with more towers mean the text model's modules") {
  struct Row {
    const char* ignore;
    std::int64_t weight_bytes;
    const char* warning;  // empty: none
  };
  constexpr std::int64_t attention = (2 * 1024 + 2 * 256) * 1024 - 4 * (2 * 1024 + 2 * 256);
  constexpr std::int64_t mlp = 3 * 2816 * 1024 - 4 * (2 * 2816 + 1024);
  constexpr std::int64_t head = 32000 * 1024 - 4 * 32000;
  constexpr std::int64_t all = fp8_per_channel - head;
  const Row rows[] = {
      {R"("lm_head", "re:^model\\.language_model\\.layers\\.[0-3]\\..*")",
       fp8_per_channel + 4 * (attention + mlp), ""},
      {R"("re:.*lm_head", "re:model.language_model.layers.7.mlp.*")", fp8_per_channel + mlp, ""},
      {R"("language_model.lm_head", "re:language_model\\.model\\.layers\\.[0-3]\\.self_attn\\..*")",
       fp8_per_channel + 4 * attention, ""},
      {R"("re:language_model\\..*")", in_bf16,
       "everything is exempt: model.layers.[0-7].self_attn.q_proj: excluded by"},
      {R"("lm_head", "model.language_model.layers.2.mlp.up_proj")",
       fp8_per_channel + 2816 * 1024 - 4 * 2816, ""},
      {R"("lm_head", "language_model.model.layers.2.mlp.up_proj")",
       fp8_per_channel + 2816 * 1024 - 4 * 2816, ""},
      {R"("lm_head", "re:model\\.layers\\.0\\..*")", fp8_per_channel + attention + mlp, ""},
      {R"("re:^(?!model\\.language_model).*", "re:vision_tower.*")", fp8_per_channel, ""},
      {R"("lm_head", "vision_tower.encoder.layers.0.mlp", "re:.*multi_modal_projector.*",
          "re:visual.*")",
       fp8_per_channel, ""},
      {R"("lm_head", "model.language_model.layers.8.mlp.up_proj", "re:.*gate_up_proj")",
       fp8_per_channel,
       "quantization_config: 2 of its ignore patterns name nothing in this model: "
       "'model.language_model.layers.8.mlp.up_proj', 're:.*gate_up_proj'"},
      {R"("model.language_model.norm", "model.language_model.embed_tokens")", all, ""},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.ignore));
    const std::string config = fmt::format(
        R"({{"model_type": "llava", "torch_dtype": "bfloat16", "text_config": {},
             "vision_config": {{"model_type": "clip_vision_model"}}, "quantization_config":
             {{"quant_method": "compressed-tensors", "format": "float-quantized",
               "ignore": [{}], "config_groups": {{"group_0": {}}}}}}})",
        llama(""), row.ignore, group(R"(["Linear"])", fp8_channel, fp8_token));
    ModelInputs inputs;
    inputs.text_only = true;
    const TransformerModel model = transformed_text(config, inputs);
    CHECK(model.weight_bytes() == row.weight_bytes);
    CAPTURE(join(model.warnings(), " | "));
    const bool quiet = *row.warning == '\0';
    REQUIRE(model.warnings().size() == (quiet ? 0 : 1));
    if (!quiet) CHECK(model.warnings()[0].find(row.warning) != std::string::npos);
    // With other sizes it is still the same checkpoint.
    inputs.sizes = {{"vocab_size", 16000}};
    CHECK(transformed_text(config, inputs).weight_bytes() < row.weight_bytes);
    inputs.sizes = {{"vocab_size", 32000}};
    CHECK(transformed_text(config, inputs).weight_bytes() == row.weight_bytes);
  }
}

// S11
TEST_CASE("patterns that name nothing are told, unless what they name is not built") {
  struct Row {
    const char* ignore;
    std::optional<std::int64_t> layers;
    const char* warning;
  };
  const Row rows[] = {
      {R"("lm_head", "model.embed_tokens", "model.norm", "model.layers.3.input_layernorm")",
       {},
       ""},
      {R"("lm_head", "model.layers.0.self_attn.q_proj.weight")", {}, ""},
      {R"("lm_head", "model.layers.8.mlp")", {}, "'model.layers.8.mlp'"},
      {R"("lm_head", "model.layers.7.mlp")", {4}, ""},
      {R"("lm_head", "model.layers.8.mlp")", {4}, "'model.layers.8.mlp'"},
      {R"("re:.*layers\\.7\\..*")", {4}, ""},
      {R"("re:.*layers\\.9\\..*")", {}, "'re:.*layers\\.9\\..*'"},
      {R"("model.layers.*.mlpx")", {}, "'model.layers.*.mlpx'"},
      {R"("a", "b", "c", "d", "e", "f", "g")",
       {},
       "7 of its ignore patterns name nothing in this model: 'a', 'b', 'c', 'd', 'e' and 2 more"},
      {R"("mtp.fc", "model.layers.0.eh_proj")", {}, "'mtp.fc', 'model.layers.0.eh_proj'"},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.ignore));
    ModelInputs inputs;
    inputs.options.num_hidden_layers = row.layers;
    const TransformerModel model =
        transformed_text(llama(fmt::format(R"("quantization_config": {{"quant_method": "fp8",
              "weight_block_size": [128, 128], "modules_to_not_convert": [{}]}})",
                                           row.ignore)),
                         inputs);
    CAPTURE(join(model.warnings(), " | "));
    if (*row.warning == '\0') {
      CHECK(model.warnings().empty());
    } else {
      REQUIRE(model.warnings().size() == 1);
      CHECK(model.warnings()[0].find(row.warning) != std::string::npos);
    }
  }
  // Layers that predict more tokens, which nobody asked for.
  std::string with_mtp =
      read_file(std::string(TCAST_SOURCE_DIR) + "/configs/models/deepseek-v3.json", 1 << 20);
  const std::string scheme = "\"quantization_config\": {";
  REQUIRE(with_mtp.find(scheme) != std::string::npos);
  with_mtp.insert(with_mtp.find(scheme) + scheme.size(),
                  R"("modules_to_not_convert": ["mtp.fc", "model.layers.61.eh_proj",
                     "model.layers.61.mlp", "re:.*layers\\.61\\..*"], )");
  CHECK(transformed_text(with_mtp).warnings() == std::vector<std::string>{});
  const TransformerModel model = transformed_text(compressed(
      R"("ignore": ["lm_head"], "config_groups": {"a": )" +
      group(R"(["Linear", "Embedding", "re:.*nothing", "model.layers.0.mlp"])", fp8_channel) +
      "}"));
  REQUIRE(model.warnings().size() == 1);
  CHECK(model.warnings()[0] ==
        "quantization_config.config_groups.a.targets: 3 of its targets name no linear in this "
        "model: 'Embedding', 'model.layers.0.mlp', 're:.*nothing'");
}

// S16
TEST_CASE("a narrow dtype of the whole checkpoint is refused") {
  for (const char* dtype : {"float8_e4m3fn", "torch.float8_e5m2", "int8", "float8_e8m0fnu"}) {
    CAPTURE(dtype);
    const std::string error = error_of([&] { transformed_text(llama("", dtype)); });
    CHECK(error.find(fmt::format("torch_dtype: '{}' would be the dtype of norms, embeddings and "
                                 "activations, too",
                                 dtype)) != std::string::npos);
    CHECK(error.find("says in quantization_config which weights are stored otherwise") !=
          std::string::npos);
    ModelInputs inputs;
    inputs.options.dtype = DType::bf16;
    CHECK(transformed_text(llama("", dtype), inputs).weight_bytes() == in_bf16);
  }
}
