#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "fuzz.h"

namespace fuzz {

/// Configs that are nearly right: one of a family, some of whose keys have other values.
class NearlyRightConfigs {
 public:
  explicit NearlyRightConfigs(const std::string& folder) : configs_(golden_configs(folder)) {
    for (const nlohmann::json& config : configs_) collect(config);
    for (const char* key :
         {"quantization_config", "rope_scaling", "layer_types", "architectures", "text_config",
          "sliding_window", "num_experts", "n_routed_experts", "kv_lora_rank", "q_lora_rank",
          "num_nextn_predict_layers", "tie_word_embeddings", "torch_dtype", "dtype", "head_dim"}) {
      keys_.emplace_back(key);
    }
    std::sort(keys_.begin(), keys_.end());
    keys_.erase(std::unique(keys_.begin(), keys_.end()), keys_.end());
    const char* const further[] = {
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "2",
        "3",
        "5",
        "64",
        "65536",
        "1e9",
        "2147483648",
        "9223372036854775807",
        "1e300",
        "-0.5",
        "0.25",
        "\"\"",
        "\"silu\"",
        "\"bfloat16\"",
        "\"float8_e4m3fn\"",
        "\"sigmoid\"",
        "\"llama\"",
        "\"deepseek_v3\"",
        "[]",
        "[1]",
        "{}",
        "[\"full_attention\", \"sliding_attention\"]",
        "[\"LlamaForSequenceClassification\"]",
        "[\"LlamaModel\"]",
        R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32})",
        R"({"rope_type": "dynamic", "factor": 2.0})",
        R"({"type": "linear", "factor": 8})",
        R"({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]})",
        R"({"quant_method": "gptq", "bits": 4, "group_size": 32})",
        R"({"quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"],
              "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
              "input_activations": {"num_bits": 8, "type": "int", "dynamic": true,
                                    "strategy": "token"}}}})"};
    for (const char* text : further) values_.push_back(nlohmann::json::parse(text));
  }

  nlohmann::json make(FuzzedDataProvider& input) const {
    nlohmann::json config = choose(input, configs_);
    const int changes = input.ConsumeIntegralInRange(0, 5);
    for (int i = 0; i < changes; ++i) {
      nlohmann::json* at = &config;
      std::string key = choose(input, keys_);
      // Sometimes a key of a part.
      if (at->contains(key) && at->at(key).is_object() && !at->at(key).empty() &&
          input.ConsumeBool()) {
        at = &at->at(key);
        auto member = at->begin();
        std::advance(member, input.ConsumeIntegralInRange<std::size_t>(0, at->size() - 1));
        key = member.key();
      }
      switch (input.ConsumeIntegralInRange(0, 4)) {
        case 0:
          at->erase(key);
          break;
        case 1:
          (*at)[key] = input.ConsumeIntegralInRange<std::int64_t>(-2, 300);
          break;
        case 2:  // what another family has there
          if (const nlohmann::json& other = choose(input, configs_); other.contains(key)) {
            (*at)[key] = other.at(key);
          }
          break;
        default:
          (*at)[key] = choose(input, values_);
      }
    }
    return config;
  }

 private:
  void collect(const nlohmann::json& config) {
    for (const auto& [key, value] : config.items()) {
      keys_.push_back(key);
      if (value.is_object() && !value.empty()) values_.push_back(value);
    }
  }

  std::vector<nlohmann::json> configs_;
  std::vector<std::string> keys_;
  std::vector<nlohmann::json> values_;
};

/// The nine steps, most of them, in an order of the input's own, as a profile's pipeline; or the
/// usual one (empty).
inline std::string pipeline_profile(FuzzedDataProvider& input) {
  if (input.ConsumeIntegralInRange(0, 2) != 0) return {};
  std::vector<std::string> steps = {"wrap_model",       "maybe_enable_mtp", "maybe_reuse_layers",
                                    "patch_rotary_emb", "patch_attention",  "patch_mla",
                                    "patch_moe",        "quantize_model",   "shard_model"};
  const int swaps = input.ConsumeIntegralInRange(0, 9);
  for (int i = 0; i < swaps; ++i) {
    std::swap(steps[input.ConsumeIntegralInRange<std::size_t>(0, 8)],
              steps[input.ConsumeIntegralInRange<std::size_t>(0, 8)]);
  }
  std::string text = "pipeline: [";
  bool first = true;
  for (const std::string& step : steps) {
    if (input.ConsumeIntegralInRange(0, 4) == 0) continue;
    text += (first ? "" : ", ") + step;
    first = false;
  }
  return text + "]\n";
}

/// Options of a deployment.
inline void add_deployment(FuzzedDataProvider& input, std::vector<std::string>& words) {
  const auto add = [&](const char* option, std::initializer_list<const char*> values) {
    if (input.ConsumeIntegralInRange(0, 2) != 0) return;
    words.emplace_back(option);
    words.emplace_back(
        values.begin()[input.ConsumeIntegralInRange<std::size_t>(0, values.size() - 1)]);
  };
  add("--num-devices", {"1", "2", "4", "8", "64", "1048576"});
  add("--tp", {"1", "2", "4", "3", "8"});
  add("--ep", {"1", "2", "4", "8", "5"});
  add("--quantize-linear", {"none", "checkpoint", "w8a8_dynamic", "w8a8_static", "fp8", "w8a16"});
  add("--quantize-kv-cache", {"none", "int8", "fp8"});
  add("--quantize-ignore", {"*.q_proj", "model.layers.0.*", "*", "*experts.1.*", "nothing"});
  add("--num-mtp-tokens", {"0", "1", "3"});
  add("--expert-skew", {"0", "1", "30"});
  add("--num-hidden-layers", {"1", "2", "3", "100"});
  add("--kv-block-size", {"1", "16", "128"});
  add("--dtype", {"float32", "bfloat16", "float16"});
  add("--skip-step", {"patch_moe", "patch_attention", "wrap_model", "shard_model"});
  add("--custom-model", {"*=bailing_moe", "*=builtin::bailing_moe"});
  if (input.ConsumeIntegralInRange(0, 3) == 0) words.emplace_back("--no-reuse-layers");
  if (input.ConsumeIntegralInRange(0, 7) == 0) words.emplace_back("--strict");
  if (input.ConsumeIntegralInRange(0, 7) == 0) words.emplace_back("--text-only");
}

}  // namespace fuzz
