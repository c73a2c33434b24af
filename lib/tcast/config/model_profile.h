#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/provenance.h"
#include "tcast/config/node.h"

namespace tcast {

/// Names under which a mixture-of-experts block keeps its parts (children and attributes).
struct MoeFieldNames {
  std::string gate = "gate";
  std::string experts = "experts";
  std::string shared_experts = "shared_experts";
  std::string shared_experts_gate = "shared_experts_gate";
  std::string top_k = "top_k";
  std::string norm_topk_prob = "norm_topk_prob";

  bool operator==(const MoeFieldNames&) const = default;
};

/// Names under which a multi-head latent attention keeps its parts (children and attributes).
struct MlaFieldNames {
  std::string num_heads = "num_heads";
  std::string q_lora_rank = "q_lora_rank";
  std::string kv_lora_rank = "kv_lora_rank";
  std::string qk_nope_head_dim = "qk_nope_head_dim";
  std::string qk_rope_head_dim = "qk_rope_head_dim";
  std::string v_head_dim = "v_head_dim";
  std::string q_proj = "q_proj";
  std::string q_a_proj = "q_a_proj";
  std::string q_a_layernorm = "q_a_layernorm";
  std::string q_b_proj = "q_b_proj";
  std::string kv_a_proj_with_mqa = "kv_a_proj_with_mqa";
  std::string kv_a_layernorm = "kv_a_layernorm";
  std::string kv_b_proj = "kv_b_proj";
  std::string o_proj = "o_proj";

  bool operator==(const MlaFieldNames&) const = default;
};

/// One step of a profile's own pipeline.
struct PipelineStep {
  std::string name;
  std::optional<Node> arguments;  ///< the whole map, if it was written as one (`type` is the name)
  std::string place{};            ///< where it is written
};

/// Static metadata of a model type, from YAML (architecture.md section 5). Every field has the
/// value that a model without a profile gets.
struct TCAST_API ModelProfile {
  std::string model_type;                      ///< exact name or wildcard pattern
  std::optional<std::string> moe_module_name;  ///< HF class of the MoE block
  std::vector<std::string> moe_num_experts_key = {"num_experts"};  ///< key, or path of keys
  bool moe_gate_returns_raw_logits = false;
  MoeFieldNames moe_field_names;
  std::optional<std::string> mtp_block_module_name;  ///< HF class of the MTP decoder block
  std::optional<std::string> mla_module_name;        ///< HF class of the latent attention
  MlaFieldNames mla_field_names;
  std::string mla_module_class_type = "MultiheadLatentAttention";  ///< registered module class
  std::string custom_expert_module_type = "GroupedExperts";        ///< registered module class
  std::optional<std::string> model_family;
  std::optional<std::string> vl_patch_method;
  std::optional<std::string> visual_module_path;
  std::optional<std::string> language_module_path;
  std::optional<std::string> visual_layers_module_path;
  std::optional<std::string> visual_layers_path_str;
  std::optional<std::string> language_layers_path_str;
  std::map<std::string, std::string> visual_merger_linear_mapping;  ///< child -> column | row
  std::map<std::string, std::string> visual_mlp_linear_mapping;     ///< child -> column | row
  std::optional<std::string> base;          ///< build as this known architecture ...
  std::optional<Node> architecture;         ///< ... with these fields of DecoderSpec changed
  std::vector<PipelineStep> pipeline;       ///< instead of the standard nine; empty = standard
  std::optional<std::string> custom_model;  ///< reference to the hook that transforms it
  std::optional<Node> custom_model_config;  ///< free-form map handed to the hook
  std::vector<std::string> sources;         ///< files that it was merged from, in order
  std::vector<Provenance> provenance;       ///< the same, where load_profile() merged it
  /// Of each key that a source has ("moe_field_names_override.gate"), the last such source.
  std::map<std::string, std::size_t> set_by;

  /// Merges a YAML map over this profile and appends its file to `sources`: keys that are present
  /// replace, maps of names merge key by key, null takes an optional field back. Throws Error for
  /// unknown keys (with the closest known one) and wrong types.
  void merge(const Node& yaml);

  /// The source that a key has its value from, as `sources` has it; "profile" where none has it.
  std::string source_of(const std::string& key) const;
  /// Whether a file or a plugin set a key, not a profile that tcast brings along.
  bool is_users(const std::string& key) const;
};

}  // namespace tcast
