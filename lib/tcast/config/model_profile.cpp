#include "tcast/config/model_profile.h"

#include <algorithm>
#include <array>
#include <span>

#include <fmt/format.h>

#include "tcast/base/text.h"

namespace tcast {
namespace {

// How each type of field is read. Null takes back what an earlier file said, where nothing is a
// possible value.

void read(bool& field, const Node& node) { field = node.as_bool(); }

void read(std::string& field, const Node& node) {
  field = node.as_string();
  if (field.empty()) node.fail("expected a name, got an empty string");
}

void read(std::optional<std::string>& field, const Node& node) {
  if (node.is_null()) {
    field.reset();
  } else {
    read(field.emplace(), node);
  }
}

/// A free-form map, for somebody else to read.
void read(std::optional<Node>& field, const Node& node) {
  field.reset();
  if (node.is_null()) return;
  if (!node.is_map()) node.fail_expected("a map");
  field = node;
}

/// A path of keys: one string, or a list of them.
void read(std::vector<std::string>& field, const Node& node) {
  std::vector<std::string> keys;
  if (node.is_list()) {
    for (const Node& item : node.items()) read(keys.emplace_back(), item);
    if (keys.empty()) node.fail_expected("a key or a list of keys");
  } else if (node.is_map() || node.is_null()) {
    node.fail_expected("a key or a list of keys");
  } else {
    read(keys.emplace_back(), node);
  }
  field = std::move(keys);
}

/// How the linear layers of a block are sharded, by child.
void read(std::map<std::string, std::string>& field, const Node& node) {
  for (const auto& [child, value] : node.members()) {
    const std::string way = value.as_string();
    if (way != "column" && way != "row") value.fail_expected("\"column\" or \"row\"");
    field[child] = way;
  }
}

void read(std::vector<PipelineStep>& field, const Node& node) {
  if (!node.is_list()) node.fail_expected("a list of steps");
  std::vector<PipelineStep> steps;
  for (const Node& item : node.items()) {
    PipelineStep& step = steps.emplace_back();
    step.place = item.place();
    if (item.is_map()) {
      read(step.name, item.at("type"));
      step.arguments = item;
    } else if (item.is_scalar()) {
      read(step.name, item);
    } else {
      item.fail_expected("the name of a step, or a map with its name as 'type'");
    }
  }
  field = std::move(steps);
}

// Maps of names; their tables stand below.
void read(MoeFieldNames& field, const Node& node);
void read(MlaFieldNames& field, const Node& node);

/// A key of a YAML map and what it sets in a T.
template <class T>
struct Field {
  std::string_view key;
  void (*read)(T&, const Node&);
};

/// A field that is read according to its type.
template <auto member, class T>
void read_member(T& target, const Node& node) {
  read(target.*member, node);
}

template <class T>
void merge_fields(T& target, const Node& map, std::span<const Field<T>> fields) {
  for (const auto& [key, value] : map.members()) {
    const auto field = std::find_if(fields.begin(), fields.end(),
                                    [&name = key](const Field<T>& f) { return f.key == name; });
    if (field == fields.end()) {
      std::vector<std::string> known;
      for (const Field<T>& candidate : fields) known.emplace_back(candidate.key);
      value.fail("unknown key",
                 did_you_mean(key, known, fmt::format("known are {}", join(known, ", "))));
    }
    field->read(target, value);
  }
}

constexpr Field<MoeFieldNames> moe_fields[] = {
    {"gate", read_member<&MoeFieldNames::gate>},
    {"experts", read_member<&MoeFieldNames::experts>},
    {"shared_experts", read_member<&MoeFieldNames::shared_experts>},
    {"shared_experts_gate", read_member<&MoeFieldNames::shared_experts_gate>},
    {"top_k", read_member<&MoeFieldNames::top_k>},
    {"norm_topk_prob", read_member<&MoeFieldNames::norm_topk_prob>},
};

constexpr Field<MlaFieldNames> mla_fields[] = {
    {"num_heads", read_member<&MlaFieldNames::num_heads>},
    {"q_lora_rank", read_member<&MlaFieldNames::q_lora_rank>},
    {"kv_lora_rank", read_member<&MlaFieldNames::kv_lora_rank>},
    {"qk_nope_head_dim", read_member<&MlaFieldNames::qk_nope_head_dim>},
    {"qk_rope_head_dim", read_member<&MlaFieldNames::qk_rope_head_dim>},
    {"v_head_dim", read_member<&MlaFieldNames::v_head_dim>},
    {"q_proj", read_member<&MlaFieldNames::q_proj>},
    {"q_a_proj", read_member<&MlaFieldNames::q_a_proj>},
    {"q_a_layernorm", read_member<&MlaFieldNames::q_a_layernorm>},
    {"q_b_proj", read_member<&MlaFieldNames::q_b_proj>},
    {"kv_a_proj_with_mqa", read_member<&MlaFieldNames::kv_a_proj_with_mqa>},
    {"kv_a_layernorm", read_member<&MlaFieldNames::kv_a_layernorm>},
    {"kv_b_proj", read_member<&MlaFieldNames::kv_b_proj>},
    {"o_proj", read_member<&MlaFieldNames::o_proj>},
};

void read(MoeFieldNames& field, const Node& node) {
  merge_fields<MoeFieldNames>(field, node, moe_fields);
}

void read(MlaFieldNames& field, const Node& node) {
  merge_fields<MlaFieldNames>(field, node, mla_fields);
}

constexpr Field<ModelProfile> profile_fields[] = {
    {"model_type", read_member<&ModelProfile::model_type>},
    {"moe_module_name", read_member<&ModelProfile::moe_module_name>},
    {"moe_num_experts_key", read_member<&ModelProfile::moe_num_experts_key>},
    {"moe_gate_returns_raw_logits", read_member<&ModelProfile::moe_gate_returns_raw_logits>},
    {"moe_field_names_override", read_member<&ModelProfile::moe_field_names>},
    {"mtp_block_module_name", read_member<&ModelProfile::mtp_block_module_name>},
    {"mla_module_name", read_member<&ModelProfile::mla_module_name>},
    {"mla_field_names_override", read_member<&ModelProfile::mla_field_names>},
    {"mla_module_class_type", read_member<&ModelProfile::mla_module_class_type>},
    {"custom_expert_module_type", read_member<&ModelProfile::custom_expert_module_type>},
    {"model_family", read_member<&ModelProfile::model_family>},
    {"vl_patch_method", read_member<&ModelProfile::vl_patch_method>},
    {"visual_module_path", read_member<&ModelProfile::visual_module_path>},
    {"language_module_path", read_member<&ModelProfile::language_module_path>},
    {"visual_layers_module_path", read_member<&ModelProfile::visual_layers_module_path>},
    {"visual_layers_path_str", read_member<&ModelProfile::visual_layers_path_str>},
    {"language_layers_path_str", read_member<&ModelProfile::language_layers_path_str>},
    {"visual_merger_linear_mapping", read_member<&ModelProfile::visual_merger_linear_mapping>},
    {"visual_mlp_linear_mapping", read_member<&ModelProfile::visual_mlp_linear_mapping>},
    {"base", read_member<&ModelProfile::base>},
    {"architecture", read_member<&ModelProfile::architecture>},
    {"pipeline", read_member<&ModelProfile::pipeline>},
    {"custom_model", read_member<&ModelProfile::custom_model>},
    {"custom_model_config", read_member<&ModelProfile::custom_model_config>},
};

}  // namespace

void ModelProfile::merge(const Node& yaml) {
  if (!yaml.is_map()) yaml.fail_expected("a map of profile fields");
  merge_fields<ModelProfile>(*this, yaml, profile_fields);
  for (const auto& [key, value] : yaml.members()) {
    set_by[key] = sources.size();
    if (!value.is_map()) continue;
    for (const std::string& name : value.keys()) {
      set_by[fmt::format("{}.{}", key, name)] = sources.size();
    }
  }
  sources.push_back(yaml.file());
}

std::string ModelProfile::source_of(const std::string& key) const {
  const auto found = set_by.find(key);
  return found == set_by.end() ? "profile" : sources.at(found->second);
}

bool ModelProfile::is_users(const std::string& key) const {
  const auto found = set_by.find(key);
  if (found == set_by.end()) return false;
  return found->second >= provenance.size() ||
         provenance[found->second].from != Provenance::From::builtin;
}

}  // namespace tcast
