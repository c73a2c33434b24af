#include "tcast/config/hf_config.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/document.h"
#include "tcast/config/exchange.h"

namespace tcast {
namespace {

struct AliasGroup {
  std::string_view names[8];  // unused ones are empty
};

/// Keys that mean the same thing in different families. Whichever is asked for is looked up first,
/// then the others in this order. A name is in one group only, and only if it has this meaning
/// wherever it occurs.
constexpr AliasGroup alias_groups[] = {
    {{"num_hidden_layers", "n_layer", "n_layers", "num_layers"}},
    {{"hidden_size", "n_embd", "d_model", "dim"}},
    {{"num_attention_heads", "n_head", "n_heads", "num_heads"}},
    {{"num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "multi_query_group_num"}},
    {{"head_dim", "attention_head_dim", "kv_channels", "d_kv"}},
    {{"intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"}},
    {{"max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"}},
    {{"vocab_size", "padded_vocab_size"}},
    {{"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon",
      "norm_eps"}},
    {{"hidden_act", "activation_function", "hidden_activation", "activation"}},
    {{"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}},
    {{"num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_top_k", "moe_topk",
      "moe_k", "top_k_experts"}},
    {{"moe_intermediate_size", "expert_ffn_hidden_size"}},
    {{"n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"}},
    {{"routed_scaling_factor", "moe_routed_scaling_factor"}},
    {{"num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"}},
    {{"rope_theta", "rotary_emb_base"}},
    {{"partial_rotary_factor", "rotary_pct", "rope_pct"}},
    {{"torch_dtype", "dtype"}},
    {{"quantization_config", "compression_config"}},
    {{"text_config", "llm_config", "language_config"}},
};

/// Keys without influence on structure, memory or speed: labels, token ids, training, generation,
/// and what the Python side needs to find its classes. Patterns as in matches_pattern().
constexpr std::string_view irrelevant_keys[] = {
    "_*",
    "*_token_id",
    "*_token_ids",
    "*_token_index",
    "*dropout*",
    "*_pdrop",
    "*aux_loss*",
    "*z_loss*",
    "initializer_*",
    "init_*",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "drop_path_rate",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "ep_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "ignore_index",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "layerdrop",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "mtp_num_hidden_layers",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_mtp_modules",
    "num_nextn_predict_layers",  // like its aliases: read when --num-mtp-tokens asks for them
    "num_return_sequences",
    "onnx_safe",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "quantization_status",
    "remove_invalid_values",
    "repetition_penalty",
    "rescale_prenorm_residual",
    "return_dict",
    "return_dict_in_generate",
    "router_jitter_noise",
    "seq_aux",
    "summary_*",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "text-generation",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
};

/// Keys that mean nothing while another key of the same map is false.
struct SwitchedKey {
  std::string_view key;
  std::string_view by;
};
constexpr SwitchedKey switched_keys[] = {
    {"max_window_layers", "use_sliding_window"},
    {"sliding_window", "use_sliding_window"},
};

constexpr std::int64_t max_size = std::int64_t{1} << 40;

/// All names of a key, itself first.
std::vector<std::string_view> names_of(std::string_view key) {
  TCAST_CHECK(!key.empty(), "a key has at least one letter");
  std::vector<std::string_view> names = {key};
  for (const AliasGroup& group : alias_groups) {
    if (std::find(std::begin(group.names), std::end(group.names), key) == std::end(group.names)) {
      continue;
    }
    for (const std::string_view name : group.names) {
      if (!name.empty() && name != key) names.push_back(name);
    }
  }
  return names;
}

bool is_irrelevant(std::string_view key) {
  return std::any_of(std::begin(irrelevant_keys), std::end(irrelevant_keys),
                     [&](std::string_view pattern) { return matches_pattern(key, pattern); });
}

/// Whether another key of the same map says that this one is not used.
bool is_switched_off(const Node& map, std::string_view key) {
  return std::any_of(std::begin(switched_keys), std::end(switched_keys), [&](const auto& entry) {
    if (entry.key != key) return false;
    const std::optional<Node> by = map.find(entry.by);
    return by && by->description() == "false";
  });
}

template <class T>
T convert(const Node& node) {
  if constexpr (std::is_same_v<T, bool>) {
    return node.as_bool();
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return node.as_int();
  } else if constexpr (std::is_same_v<T, double>) {
    return node.as_number();
  } else if constexpr (std::is_same_v<T, std::string>) {
    return node.as_string();
  } else {
    T values;
    for (const Node& item : node.items()) values.push_back(convert<typename T::value_type>(item));
    return values;
  }
}

}  // namespace

/// Read marks by index of the node; shared by the config of a file and those nested in it.
struct HfConfig::State {
  std::vector<bool> read;
};

HfConfig::HfConfig(std::shared_ptr<State> state, Node root)
    : state_(std::move(state)), root_(std::move(root)) {}

HfConfig HfConfig::load(const std::string& name) {
  constexpr const char* own_name = "config.json";
  std::filesystem::path file = resolve_name(name);
  std::error_code failure;
  if (std::filesystem::is_directory(file, failure)) {
    if (!std::filesystem::exists(file / own_name, failure)) {
      throw Error(
          fmt::format("{}: the directory holds no config.json", printable(file.string(), 4096)),
          "name the config file itself");
    }
    file /= own_name;
  }
  HfConfig config = from_root(Node::load_json(file.string()));
  if (file.filename() == own_name) {
    config.folder_ = file.has_parent_path() ? file.parent_path().string() : ".";
  }
  return config;
}

HfConfig HfConfig::parse(std::string_view text, const std::string& file) {
  return from_root(Node::parse_json(text, file));
}

HfConfig HfConfig::from_root(Node root) {
  if (!root.is_map()) root.fail_expected("a map of keys and values");
  auto state = std::make_shared<State>();
  state->read.resize(root.document_->elements.size());
  return {std::move(state), std::move(root)};
}

std::string HfConfig::model_type() const {
  if (const std::optional<Node> found = lookup("model_type")) return found->as_string();
  if (const std::optional<Node> class_name = lookup("_class_name")) {
    throw Error(fmt::format("{}: '{}' is a diffusers class, which is not supported yet",
                            class_name->place(), printable(class_name->as_string())));
  }
  fail("model_type", "expected the name of a model type, got nothing",
       "HuggingFace configs name it, as in \"model_type\": \"llama\"");
}

const std::string& HfConfig::file() const { return root_.file(); }

bool HfConfig::has(std::string_view key) const { return lookup(key).has_value(); }

bool HfConfig::is_null(std::string_view key) const {
  const std::optional<Node> found = root_.find(key);
  return found && found->is_null();
}

template <class T>
std::optional<T> HfConfig::find(std::string_view key) const {
  const std::optional<Node> found = node(key);
  if (!found) return std::nullopt;
  return convert<T>(*found);
}

template <class T>
T HfConfig::get(std::string_view key) const {
  const std::optional<Node> found = node(key);
  if (!found) fail_missing(key);
  return convert<T>(*found);
}

template std::optional<bool> HfConfig::find(std::string_view) const;
template std::optional<std::int64_t> HfConfig::find(std::string_view) const;
template std::optional<double> HfConfig::find(std::string_view) const;
template std::optional<std::string> HfConfig::find(std::string_view) const;
template std::optional<std::vector<std::int64_t>> HfConfig::find(std::string_view) const;
template std::optional<std::vector<std::string>> HfConfig::find(std::string_view) const;
template bool HfConfig::get(std::string_view) const;
template std::int64_t HfConfig::get(std::string_view) const;
template double HfConfig::get(std::string_view) const;
template std::string HfConfig::get(std::string_view) const;
template std::vector<std::int64_t> HfConfig::get(std::string_view) const;
template std::vector<std::string> HfConfig::get(std::string_view) const;

std::int64_t HfConfig::get_size(std::string_view key) const {
  const std::optional<Node> found = node(key);
  if (!found) fail_missing(key);
  const std::int64_t size = found->as_int();
  if (size < 1 || size > max_size) {
    found->fail(fmt::format("expected a whole number from 1 to 2^40, got {}", size));
  }
  return size;
}

std::int64_t HfConfig::get_size_or(std::string_view key, std::int64_t otherwise) const {
  return node(key) ? get_size(key) : otherwise;
}

std::optional<HfConfig> HfConfig::nested(std::string_view key) const {
  std::optional<Node> found = lookup(key);
  if (!found) return std::nullopt;
  if (!found->is_map()) found->fail_expected("a map");
  HfConfig config(state_, *std::move(found));
  config.folder_ = folder_;
  return config;
}

HfConfig HfConfig::with_defaults_of(const HfConfig& outer, std::vector<std::string> keys) const {
  HfConfig config = *this;
  config.outer_ = std::make_shared<const HfConfig>(outer);
  config.outer_keys_ = std::move(keys);
  return config;
}

std::optional<Node> HfConfig::node(std::string_view key) const {
  std::optional<Node> found = lookup(key);
  if (found) mark_all(*found);
  return found;
}

HfConfig HfConfig::with_sizes(const ConfigSizes& sizes) const {
  std::string text;
  const auto add = [&text](const std::string& key, const std::string& value) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : ",\n", Node::json_string(key), value);
  };
  std::vector<std::string> replaced;
  for (const auto& [key, size] : sizes) {
    bool found = false;
    for (const std::string_view name : names_of(key)) {
      const std::optional<Node> there = root_.find(name);
      if (!there || there->is_null()) continue;
      add(std::string(name), std::to_string(size));
      replaced.emplace_back(name);
      found = true;
    }
    if (found) continue;
    add(key, std::to_string(size));
    replaced.push_back(key);
  }
  for (const auto& [key, value] : root_.members()) {
    if (std::find(replaced.begin(), replaced.end(), key) != replaced.end()) continue;
    add(key, value.json_text());
  }
  HfConfig config = parse(fmt::format("{{{}}}", text), file());
  config.folder_ = folder_;
  config.outer_ = outer_;
  config.outer_keys_ = outer_keys_;
  return config;
}

std::optional<DType> HfConfig::checkpoint_dtype() const {
  const std::optional<Node> found = node("torch_dtype");
  if (!found) return std::nullopt;
  const std::string text = found->as_string();
  const std::optional<DType> dtype = parse_dtype(text);
  if (dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) return dtype;
  if (!dtype && text.find("float8") == std::string::npos) {
    found->fail_expected("an element type", "as in \"bfloat16\", \"float16\" or \"float32\"");
  }
  found->fail(
      fmt::format("'{}' would be the dtype of norms, embeddings and activations, too",
                  printable(text)),
      "a quantized checkpoint has a 16-bit dtype here and says in quantization_config which "
      "weights are stored otherwise; for quantized weights of your own use "
      "--quantize-linear, and --dtype in place of this key");
}

std::vector<std::string> HfConfig::unread_keys() const {
  const std::vector<Element>& elements = root_.document_->elements;
  std::vector<std::string> unread;
  // Children stand behind their parents, so one pass sees a map before its members.
  std::vector<bool> open(elements.size());
  open[root_.index_] = true;
  for (std::uint32_t i = root_.index_ + 1; i < elements.size(); ++i) {
    const Element& element = elements[i];
    const Element& parent = elements[element.parent];
    if (!open[element.parent] || parent.kind != ElementKind::map) continue;
    const std::string_view key = root_.document_->key_of(element);
    if (is_irrelevant(key) || is_switched_off(Node(root_.document_, element.parent), key)) continue;
    if (state_->read[i]) {
      open[i] = true;
    } else if (element.kind != ElementKind::null) {
      unread.push_back(Node(root_.document_, i).path());
    }
  }
  return unread;
}

void HfConfig::fail(std::string_view key, std::string_view message, std::string hint) const {
  if (const std::optional<Node> found = lookup(key)) found->fail(message, std::move(hint));
  throw Error(fmt::format("{}: {}", place_of_missing(key), message), std::move(hint));
}

std::optional<Node> HfConfig::lookup(std::string_view key) const {
  std::optional<Node> found;
  for (const std::string_view name : names_of(key)) {
    std::optional<Node> candidate = root_.find(name);
    if (!candidate) continue;
    // An alias with another value is not what was read, and a report should show it.
    const bool counts =
        !found || candidate->is_null() ||
        (candidate->is_scalar() && candidate->description() == found->description());
    if (counts) state_->read[candidate->index_] = true;
    if (!found && !candidate->is_null()) found = std::move(candidate);
  }
  if (!found && std::find(outer_keys_.begin(), outer_keys_.end(), key) != outer_keys_.end()) {
    return outer_->lookup(key);
  }
  return found;
}

void HfConfig::mark_all(const Node& node) const {
  const std::vector<Element>& elements = node.document_->elements;
  state_->read[node.index_] = true;
  // What is below a node stands directly behind it.
  for (std::uint32_t i = node.index_ + 1; i < elements.size(); ++i) {
    if (elements[i].parent == Element::none || elements[i].parent < node.index_) return;
    state_->read[i] = true;
  }
}

std::string HfConfig::place_of_missing(std::string_view key) const {
  const std::string path = root_.path();
  return fmt::format("{}: {}{}{}", file(), path, path.empty() ? "" : ".", key);
}

void HfConfig::fail_missing(std::string_view key) const {
  if (const std::optional<Node> null = root_.find(key)) null->fail_expected("a value");
  std::vector<std::string> others;
  for (const std::string_view name : names_of(key)) {
    if (name != key) others.emplace_back(name);
  }
  const std::string also =
      others.empty() ? "" : fmt::format("; it may also be called {}", join(others, ", "));
  const std::string near = did_you_mean(key, root_.keys());
  throw Error(fmt::format("{}: required key is missing{}", place_of_missing(key), also), near);
}

}  // namespace tcast
