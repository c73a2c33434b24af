#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/config/model_profile.h"

#include "error_of.h"

using tcast::ModelProfile;
using tcast::Node;

namespace {

ModelProfile profile(const std::string& yaml) {
  ModelProfile result;
  result.merge(Node::parse_yaml(yaml, "p.yaml"));
  return result;
}

std::string error_in(const std::string& yaml) {
  return error_of([&] { profile(yaml); });
}

}  // namespace

TEST_CASE("every key of a profile is read") {
  const ModelProfile p = profile(R"(
model_type: glm_*
moe_module_name: GlmMoE
moe_num_experts_key: [text_config, num_experts]
moe_gate_returns_raw_logits: true
moe_field_names_override: {gate: router, experts: mlps, shared_experts: shared,
  shared_experts_gate: shared_gate, top_k: k, norm_topk_prob: norm}
mtp_block_module_name: GlmLayer
mla_module_name: GlmMla
mla_field_names_override: {num_heads: n1, q_lora_rank: n2, kv_lora_rank: n3, qk_nope_head_dim: n4,
  qk_rope_head_dim: n5, v_head_dim: n6, q_proj: n7, q_a_proj: n8, q_a_layernorm: n9, q_b_proj: n10,
  kv_a_proj_with_mqa: n11, kv_a_layernorm: n12, kv_b_proj: n13, o_proj: n14}
mla_module_class_type: FlashMla
custom_expert_module_type: FastExperts
model_family: vlm
vl_patch_method: patch
visual_module_path: model.visual
language_module_path: model.language_model
visual_layers_module_path: model.visual.blocks
visual_layers_path_str: blocks
language_layers_path_str: layers
visual_merger_linear_mapping: {fc1: column, fc2: row}
visual_mlp_linear_mapping: {up: column}
base: llama
architecture: {norm: layer_norm}
pipeline: [wrap_model, {type: patch_moe, capacity: 2}]
custom_model_config: {anything: [1, 2]}
)");
  CHECK(p.model_type == "glm_*");
  CHECK(p.moe_module_name == "GlmMoE");
  CHECK(p.moe_num_experts_key == std::vector<std::string>{"text_config", "num_experts"});
  CHECK(p.moe_gate_returns_raw_logits);
  CHECK(p.moe_field_names.gate == "router");
  CHECK(p.moe_field_names.experts == "mlps");
  CHECK(p.moe_field_names.shared_experts == "shared");
  CHECK(p.moe_field_names.shared_experts_gate == "shared_gate");
  CHECK(p.moe_field_names.top_k == "k");
  CHECK(p.moe_field_names.norm_topk_prob == "norm");
  CHECK(p.mtp_block_module_name == "GlmLayer");
  CHECK(p.mla_module_name == "GlmMla");
  CHECK(p.mla_field_names.num_heads == "n1");
  CHECK(p.mla_field_names.q_lora_rank == "n2");
  CHECK(p.mla_field_names.kv_lora_rank == "n3");
  CHECK(p.mla_field_names.qk_nope_head_dim == "n4");
  CHECK(p.mla_field_names.qk_rope_head_dim == "n5");
  CHECK(p.mla_field_names.v_head_dim == "n6");
  CHECK(p.mla_field_names.q_proj == "n7");
  CHECK(p.mla_field_names.q_a_proj == "n8");
  CHECK(p.mla_field_names.q_a_layernorm == "n9");
  CHECK(p.mla_field_names.q_b_proj == "n10");
  CHECK(p.mla_field_names.kv_a_proj_with_mqa == "n11");
  CHECK(p.mla_field_names.kv_a_layernorm == "n12");
  CHECK(p.mla_field_names.kv_b_proj == "n13");
  CHECK(p.mla_field_names.o_proj == "n14");
  CHECK(p.mla_module_class_type == "FlashMla");
  CHECK(p.custom_expert_module_type == "FastExperts");
  CHECK(p.model_family == "vlm");
  CHECK(p.vl_patch_method == "patch");
  CHECK(p.visual_module_path == "model.visual");
  CHECK(p.language_module_path == "model.language_model");
  CHECK(p.visual_layers_module_path == "model.visual.blocks");
  CHECK(p.visual_layers_path_str == "blocks");
  CHECK(p.language_layers_path_str == "layers");
  CHECK(p.visual_merger_linear_mapping ==
        std::map<std::string, std::string>{{"fc1", "column"}, {"fc2", "row"}});
  CHECK(p.visual_mlp_linear_mapping == std::map<std::string, std::string>{{"up", "column"}});
  CHECK(p.base == "llama");
  CHECK(p.architecture->at("norm").as_string() == "layer_norm");
  REQUIRE(p.pipeline.size() == 2);
  CHECK(p.pipeline[0].name == "wrap_model");
  CHECK_FALSE(p.pipeline[0].arguments);
  CHECK(p.pipeline[1].name == "patch_moe");
  CHECK(p.pipeline[1].arguments->at("capacity").as_int() == 2);
  CHECK(p.custom_model_config->at("anything").items().size() == 2);
  CHECK(p.sources == std::vector<std::string>{"p.yaml"});
}

TEST_CASE("a later file wins key by key") {
  ModelProfile p = profile(R"(
model_type: a
moe_module_name: A
mla_module_name: M
moe_field_names_override: {gate: router}
visual_mlp_linear_mapping: {up: column, down: row}
pipeline: [wrap_model]
base: llama
)");
  p.merge(Node::parse_yaml(R"(
moe_module_name: B
mla_module_name: null
moe_field_names_override: {experts: mlps}
visual_mlp_linear_mapping: {down: column}
pipeline: []
moe_num_experts_key: n_routed_experts
)",
                           "q.yaml"));
  CHECK(p.model_type == "a");
  CHECK(p.moe_module_name == "B");
  CHECK_FALSE(p.mla_module_name);
  CHECK(p.moe_field_names.gate == "router");
  CHECK(p.moe_field_names.experts == "mlps");
  CHECK(p.moe_field_names.shared_experts == "shared_experts");
  CHECK(p.visual_mlp_linear_mapping ==
        std::map<std::string, std::string>{{"up", "column"}, {"down", "column"}});
  CHECK(p.pipeline.empty());
  CHECK(p.base == "llama");
  CHECK(p.moe_num_experts_key == std::vector<std::string>{"n_routed_experts"});
  CHECK(p.sources == std::vector<std::string>{"p.yaml", "q.yaml"});
}

TEST_CASE("mistakes in a profile are refused with their place") {
  struct Row {
    const char* yaml;
    const char* expected;
  };
  const Row rows[] = {
      {"[a]", "p.yaml:1:1: expected a map of profile fields, got a list of 1"},
      {"moe_modul_name: X",
       "p.yaml:1:17: moe_modul_name: unknown key | did you mean 'moe_module_name'?"},
      {"moe_field_names_override:\n  gat: x",
       "p.yaml:2:8: moe_field_names_override.gat: unknown key | did you mean 'gate'?"},
      {"moe_field_names_override: {router: x}",
       "p.yaml:1:36: moe_field_names_override.router: unknown key | known are gate, experts, "
       "shared_experts, shared_experts_gate, top_k, norm_topk_prob"},
      {"moe_module_name: 3",
       "p.yaml:1:18: moe_module_name: expected a string, got the number 3 | put it in quotes"},
      {"moe_module_name: ''", "p.yaml:1:18: moe_module_name: expected a name, got an empty string"},
      {"model_type:", "p.yaml:2:1: model_type: expected a string, got null"},
      {"moe_gate_returns_raw_logits: yes",
       "p.yaml:1:30: moe_gate_returns_raw_logits: expected true or false, got the string \"yes\""},
      {"moe_num_experts_key: {a: b}",
       "p.yaml:1:22: moe_num_experts_key: expected a key or a list of keys, got a map"},
      {"moe_num_experts_key: []",
       "p.yaml:1:22: moe_num_experts_key: expected a key or a list of keys, got an empty list"},
      {"moe_num_experts_key: [a, 2]",
       "p.yaml:1:26: moe_num_experts_key[1]: expected a string, got the number 2 | put it in "
       "quotes"},
      {"moe_num_experts_key: ~",
       "p.yaml:1:22: moe_num_experts_key: expected a key or a list of keys, got null"},
      {"visual_mlp_linear_mapping: {a: columns}",
       "p.yaml:1:32: visual_mlp_linear_mapping.a: expected \"column\" or \"row\", got the string "
       "\"columns\""},
      {"visual_mlp_linear_mapping: column",
       "p.yaml:1:28: visual_mlp_linear_mapping: expected a map, got the string \"column\""},
      {"pipeline: wrap_model",
       "p.yaml:1:11: pipeline: expected a list of steps, got the string \"wrap_model\""},
      {"pipeline: [[a]]",
       "p.yaml:1:12: pipeline[0]: expected the name of a step, or a map with its name as 'type', "
       "got a list of 1"},
      {"pipeline: [{typ: a}]",
       "p.yaml:1:12: pipeline[0]: expected the key 'type' | did you mean 'typ'?"},
      {"pipeline: [{type: 1}]",
       "p.yaml:1:19: pipeline[0].type: expected a string, got the number 1 | put it in quotes"},
      {"architecture: llama",
       "p.yaml:1:15: architecture: expected a map, got the string \"llama\""},
      {"custom_model_config: [a]",
       "p.yaml:1:22: custom_model_config: expected a map, got a list "
       "of 1"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.yaml);
    CHECK(error_in(row.yaml) == row.expected);
  }
}

TEST_CASE("every profile that comes with tcast is read") {
  namespace fs = std::filesystem;
  int files = 0;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::path(TCAST_SOURCE_DIR) / "configs" / "profiles")) {
    CAPTURE(entry.path().string());
    ++files;
    ModelProfile p;
    CHECK(error_of([&] { p.merge(Node::load_yaml(entry.path().string())); }) == "");
    CHECK_FALSE(p.model_type.empty());
  }
  CHECK(files > 0);
}
