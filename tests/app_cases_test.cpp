// Small inputs on which an answer was once silently wrong (tests/data/cases), by the commands that
// a user types, with the right values. Their truth: transformers 4.57.6 and 5.23.0 on the meta
// device, compressed-tensors 0.12.2, or the arithmetic given.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "command_runs.h"
#include "scratch.h"

namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

Words command(const std::string& name, const Words& more) {
  Words words = {"simulate", std::string(TCAST_SOURCE_DIR) + "/tests/data/cases/" + name,
                 "--device", "h200",
                 "--format", "json"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

json answer(const std::string& name, const Words& more = {}) {
  const Run done = run(command(name, more));
  INFO(done.err);
  REQUIRE(done.status == 0);
  return json::parse(done.out);
}

std::string refusal(const std::string& name, const Words& more = {}) {
  const Run done = run(command(name, more));
  CHECK(done.status == 1);
  CHECK(done.out.empty());
  return done.err;
}

std::string warnings_of(const json& report) { return report.at("warnings").dump(); }

TEST_CASE("cases: bytes of weights and KV cache, and numbers of parameters") {
  struct Row {
    const char* name;
    Words more;
    const char* part;
    const char* field;
    std::int64_t value;
  };
  const Row rows[] = {
      {"01_kv_cache_scheme.json", {}, "memory", "kv_cache_bytes", 2'621'440},    // S7
      {"02_targets_mlp_only.json", {}, "memory", "weights_bytes", 242'468'864},  // S7
      {"04_side_file_modelopt", {}, "memory", "weights_bytes", 221'284'576},     // S8
      {"04_side_file_modelopt", {}, "memory", "kv_cache_bytes", 2'621'440},      // S8
      {"05_text_only_ignore_regex.json",
       {"--text-only"},
       "memory",
       "weights_bytes",  // S11
       266'520'576},
      {"06_text_only_outer_keys_unreported.json",
       {"--text-only"},
       "memory",
       "kv_cache_bytes",  // S12: keys of the outer config count as well
       2'621'440},
      {"07_sequence_classification.json", {}, "model", "total_parameters", 221'530'112},  // S9
      {"08_dtype_and_torch_dtype.json", {}, "memory", "weights_bytes", 622'923'776},      // S10
      {"09_nested_dtype.json", {"--text-only"}, "memory", "weights_bytes", 311'461'888},  // S10
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    CHECK(answer(row.name, row.more).at(row.part).at(row.field) == row.value);
  }
}

TEST_CASE("cases: what cannot be priced yet is refused by its name") {
  CHECK(contains(refusal("03_second_group_named.json"), "num_bits"));  // S7
  CHECK(contains(refusal("14_sparse_24.json"), "sparsity_config"));    // S7
  const std::string cut = refusal("10_block_fp8_tp4.json", {"--tp", "4", "--num-devices", "4"});
  CHECK(contains(cut, "128"));  // S15
  CHECK(contains(cut, "tp"));
  for (const char* tp : {"1", "2"}) {
    answer("10_block_fp8_tp4.json", {"--tp", tp, "--num-devices", tp});
  }
}

TEST_CASE("cases: what was read otherwise, or not at all, is said") {
  // S10: transformers 4.57 reads the other one.
  CHECK(contains(answer("08_dtype_and_torch_dtype.json").dump(), "torch_dtype"));
  CHECK(contains(answer("09_nested_dtype.json", {"--text-only"}).dump(), "transformers 5"));
  // S18: YaRN by 4 of 32,768 is 131,072 tokens.
  CHECK(warnings_of(answer("13_overlong_yarn.json", {"--input-length", "100000"})) == "[]");
  CHECK(contains(warnings_of(answer("13_overlong_yarn.json", {"--input-length", "200000"})),
                 "131072"));
}

TEST_CASE("cases: decode reads the experts that are expected to be chosen") {  // S6
  for (const auto& [queries, distinct] : {std::pair{"8", 64 * (1 - std::pow(60.0 / 64, 8))},
                                          {"16", 64 * (1 - std::pow(60.0 / 64, 16))}}) {
    const json report = answer("11_moe_decode_batch8.json", {"--phase", "decode", "--num-queries",
                                                             queries, "--context-length", "1024"});
    CHECK(report.at("experts").at("expected_distinct_decode").get<double>() ==
          doctest::Approx(distinct).epsilon(1e-6));
  }
}

TEST_CASE("cases: a decoder that attends to both sides has no head and no decode step") {  // S16
  const json report = answer("15_not_causal.json");
  CHECK(report.at("model").at("total_parameters") == 143'936'512);
  CHECK(report.at("latency").at("decode_step_s").is_null());
}

TEST_CASE("cases: results of a model without a head have its own width, and its linears are told") {
  const Scratch folder;
  const std::string config =
      folder.write("c.json", tiny_config(",\"architectures\":[\"Qwen3Model\"]"));
  const Run ran = run({"run", config, "--input-length", "3", "--threads", "1", "--dump-logits",
                       folder.file("states.npy")});
  INFO(ran.err);
  REQUIRE(ran.status == 0);
  const std::string states = folder.read("states.npy");
  CHECK(contains(states, "'shape': (1, 1, 64, )"));
  CHECK(states.size() == 128 + 64 * sizeof(float));
  const json report =
      json::parse(run({"simulate", config, "--device", "h200", "--format", "json"}).out);
  CHECK(report.at("quantization").at("linear").at("weight_dtype") == "bfloat16");
}

TEST_CASE("cases: an epsilon that is no number >= 0 is refused") {
  const Scratch folder;
  for (const char* epsilon : {"NaN", "Infinity", "-1"}) {
    CAPTURE(epsilon);
    std::string text = tiny_config();
    text.replace(text.find("1e-6"), 4, epsilon);
    const Run done = run({"simulate", folder.write("c.json", text), "--device", "h200"});
    CHECK(done.status == 1);
    CHECK(contains(done.err, "rms_norm_eps: expected a number of at least 0"));
  }
}

}  // namespace
