#include "tcast/model/decoder_spec.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/decoder.h"
#include "tcast/model/rope.h"

namespace tcast {
namespace {

using ActivationName = std::pair<const char*, ElementwiseKind>;

// HuggingFace's ACT2FN names of the activations that have a gated form here.
constexpr ActivationName activation_names[] = {
    {"silu", ElementwiseKind::silu},
    {"swish", ElementwiseKind::silu},
    {"gelu", ElementwiseKind::gelu},
    {"gelu_pytorch_tanh", ElementwiseKind::gelu_tanh},
    {"gelu_new", ElementwiseKind::gelu_tanh},
    {"gelu_tanh", ElementwiseKind::gelu_tanh},
    {"quick_gelu", ElementwiseKind::quick_gelu},
    {"relu", ElementwiseKind::relu},
    {"relu2", ElementwiseKind::relu2},
    {"sigmoid", ElementwiseKind::sigmoid},
    {"tanh", ElementwiseKind::tanh},
};

}  // namespace

std::vector<RegistryEntry<ElementwiseKind>> core_activations() {
  std::vector<RegistryEntry<ElementwiseKind>> entries;
  for (const auto& [name, kind] : activation_names) {
    entries.push_back(
        {{name, Origin::builtin, false, 0, "lib/tcast/model/decoder_spec.cpp"}, kind});
  }
  return entries;
}

const Registry<ElementwiseKind>& activations() {
  return registry_of<ElementwiseKind>("activation", core_activations);
}

namespace {

std::optional<ElementwiseKind> find_activation(const std::string& name) {
  const auto* const entry = activations().find(name);
  if (entry == nullptr) return std::nullopt;
  if (!gated_form(entry->data())) {
    entry->refuse("it is no function of one value",
                  "register silu, gelu, gelu_tanh, relu, relu2, sigmoid, tanh or quick_gelu");
  }
  return entry->data();
}

ElementwiseKind read_activation(const HfConfig& config) {
  constexpr const char* key = "hidden_act";
  const auto name = config.get_or<std::string>(key, "silu");
  const std::optional<ElementwiseKind> kind = find_activation(name);
  if (!kind) {
    const std::vector<std::string> known = activations().names();
    config.fail(key, fmt::format("'{}' is not an activation that tcast knows", printable(name)),
                did_you_mean(name, known, fmt::format("known are {}", join(known, ", "))));
  }
  return *kind;
}

// --- the fields that a profile may change --------------------------------------------------------

using Setter = std::function<void(const Node&)>;
struct Field {
  const char* name;
  Setter set;
};

void apply_fields(const Node& map, const std::vector<Field>& fields) {
  for (const std::string& key : map.keys()) {
    const Node value = map.at(key);
    const auto found = std::find_if(fields.begin(), fields.end(),
                                    [&](const Field& field) { return key == field.name; });
    if (found == fields.end()) {
      std::vector<std::string> known;
      known.reserve(fields.size());
      for (const Field& field : fields) known.emplace_back(field.name);
      value.fail(fmt::format("unknown field '{}'", key),
                 did_you_mean(key, known, fmt::format("known are {}", join(known, ", "))));
    }
    found->set(value);
  }
}

Setter to(std::string& target) {
  return [&target](const Node& value) { target = value.as_string(); };
}
Setter to(bool& target) {
  return [&target](const Node& value) { target = value.as_bool(); };
}
Setter to(double& target) {
  return [&target](const Node& value) {
    const double number = value.as_number();
    if (!std::isfinite(number)) value.fail_expected("a number that is not infinite");
    target = number;
  };
}

/// A field whose value is a config key that gives the number, or the number itself: a profile
/// describes a model type, not one size of it.
Setter size_from(std::int64_t& target, const HfConfig& config) {
  return [&target, &config](const Node& value) {
    if (value.is_string()) {
      target = config.as_written().get_size(value.as_string());
    } else {
      target = value.as_int();
      if (target < 0) value.fail_expected("a whole number >= 0, or the config key that gives it");
    }
  };
}

void apply_profile(const ArchitectureContext& context, DecoderSpec& spec) {
  if (!context.profile.architecture) return;
  const HfConfig& config = context.config;
  auto moe_fields = [&](const Node& node) {
    if (!spec.moe) node.fail("the base architecture has no experts", "choose a base that has");
    MoeSpec& moe = *spec.moe;
    apply_fields(node,
                 {{"block_class", to(moe.block_class)},
                  {"router_class", to(moe.router_class)},
                  {"expert_class", to(moe.expert_class)},
                  {"num_experts", size_from(moe.routing.num_experts, config)},
                  {"num_experts_per_tok", size_from(moe.routing.top_k, config)},
                  {"intermediate_size", size_from(moe.intermediate_size, config)},
                  {"shared_intermediate_size", size_from(moe.shared_intermediate_size, config)},
                  {"shared_gate", to(moe.shared_gate)},
                  {"norm_topk_prob", to(moe.routing.normalize)},
                  {"routed_scaling_factor", to(moe.routing.scale)},
                  {"scoring_func",
                   [&](const Node& value) {
                     const std::string name = value.as_string();
                     if (name != "softmax" && name != "sigmoid")
                       value.fail_expected("softmax or sigmoid");
                     moe.routing.score =
                         name == "sigmoid" ? RouterScore::sigmoid : RouterScore::softmax;
                   }},
                  {"correction_bias", to(moe.routing.correction_bias)},
                  {"first_dense_layers",
                   [&](const Node& value) {
                     std::int64_t dense = 0;
                     size_from(dense, config)(value);
                     set_dense_layers(moe, dense);
                   }},
                  {"gate_proj", to(moe.expert_names.gate)},
                  {"up_proj", to(moe.expert_names.up)},
                  {"down_proj", to(moe.expert_names.down)}});
  };
  auto name_fields = [&](const Node& node) {
    apply_fields(node, {{"embed_tokens", to(spec.names.embeddings)},
                        {"layers", to(spec.names.layers)},
                        {"norm", to(spec.names.norm)},
                        {"rotary_emb", to(spec.names.rotary)},
                        {"self_attn", to(spec.layer_names.attention)},
                        {"mlp", to(spec.layer_names.mlp)},
                        {"input_layernorm", to(spec.layer_names.attention_norm)},
                        {"attention_out_norm", to(spec.layer_names.attention_out_norm)},
                        {"post_attention_layernorm", to(spec.layer_names.mlp_norm)},
                        {"mlp_out_norm", to(spec.layer_names.mlp_out_norm)},
                        {"q_proj", to(spec.attention_names.q_proj)},
                        {"k_proj", to(spec.attention_names.k_proj)},
                        {"v_proj", to(spec.attention_names.v_proj)},
                        {"query_key_value", to(spec.attention_names.qkv)},
                        {"o_proj", to(spec.attention_names.o_proj)},
                        {"q_norm", to(spec.attention_names.q_norm)},
                        {"k_norm", to(spec.attention_names.k_norm)},
                        {"gate_proj", to(spec.mlp_names.gate)},
                        {"up_proj", to(spec.mlp_names.up)},
                        {"gate_up_proj", to(spec.mlp_names.gate_up)},
                        {"down_proj", to(spec.mlp_names.down)}});
  };
  apply_fields(*context.profile.architecture,
               {{"class_prefix", to(spec.class_prefix)},
                {"hidden_act",
                 [&](const Node& value) {
                   const std::optional<ElementwiseKind> kind = find_activation(value.as_string());
                   if (!kind) {
                     value.fail_expected("one of " + join(activations().names(), ", "));
                   }
                   spec.activation = *kind;
                 }},
                {"tie_word_embeddings", to(spec.tie_word_embeddings)},
                {"embedding_multiplier", to(spec.embedding_multiplier)},
                {"lm_head_bias", to(spec.head_bias)},
                {"final_logit_softcapping", to(spec.logits_softcap)},
                {"norm_weight_offset", to(spec.norm_weight_offset)},
                {"parallel_blocks", to(spec.parallel_blocks)},
                {"intermediate_size", size_from(spec.intermediate_size, config)},
                {"num_key_value_heads", size_from(spec.num_key_value_heads, config)},
                {"head_dim", size_from(spec.head_dim, config)},
                {"qkv_bias", to(spec.qkv_bias)},
                {"output_bias", to(spec.output_bias)},
                {"mlp_bias", to(spec.mlp_bias)},
                {"qk_norm", to(spec.qk_norm)},
                {"qk_norm_whole", to(spec.qk_norm_whole)},
                {"clip_qkv", to(spec.clip_qkv)},
                {"attention_scale", to(spec.attention_scale)},
                {"attn_logit_softcapping", to(spec.attention_softcap)},
                {"attention_sinks", to(spec.sinks)},
                {"partial_rotary_factor",
                 [&](const Node& value) { spec.rotary_fraction = value.as_number(0, 1); }},
                {"rope_interleave", to(spec.rotary_interleaved)},
                {"sliding_window", size_from(spec.sliding_window, config)},
                {"moe", moe_fields},
                {"names", name_fields}});
}

// --- building ------------------------------------------------------------------------------------

class Builder {
 public:
  Builder(const DecoderSpec& spec, const ModelHead& head) : spec_(spec), head_(head) {}

  std::unique_ptr<Module> build() const {
    // Alone, the decoder is the model: its parameters have no prefix.
    const std::string name = head_.kind == HeadKind::none ? "" : spec_.names.model;
    auto lm = std::make_unique<CausalLm>(head_, name, spec_.logits_softcap);
    auto decoder =
        std::make_unique<DecoderModel>(spec_.class_prefix + spec_.classes.model, spec_.names);
    decoder->add_child(spec_.names.embeddings, embedding());
    if (spec_.position_embeddings > 0) {
      decoder->add_child(spec_.names.positions,
                         std::make_unique<PositionEmbedding>(spec_.position_embeddings,
                                                             spec_.hidden_size, spec_.dtype));
    }
    decoder->add_child(spec_.names.layers, layers());
    decoder->add_child(spec_.names.norm, norm(spec_.hidden_size));
    if (rotary_dim() > 0 && !spec_.rotary_per_layer) {
      decoder->add_child(spec_.names.rotary, rotary("default", spec_.rope));
      if (spec_.window_rope) {
        decoder->add_child(spec_.names.window_rotary, rotary("window", *spec_.window_rope));
      }
    }
    lm->add_child(name, std::move(decoder));
    if (!head_.name.empty()) lm->add_child(head_.name, head());
    return lm;
  }

 private:
  std::unique_ptr<Module> head() const {
    std::unique_ptr<Module> made = make_head();
    if (head_.kind == HeadKind::causal) return made;
    walk(*made, [](Module& module, const ModulePath&) {
      for (Parameter& parameter : module.parameters()) {
        parameter.whole_because = "scores of labels are computed whole on every rank";
      }
    });
    return made;
  }

  std::unique_ptr<Module> make_head() const {
    const std::int64_t hidden = spec_.hidden_size;
    switch (head_.kind) {
      case HeadKind::causal: {
        auto head =
            std::make_unique<Linear>(hidden, spec_.vocab_size, spec_.head_bias, spec_.dtype);
        if (spec_.tie_word_embeddings) {
          head->parameters()[0].tied_to =
              fmt::format("{}.{}.weight", spec_.names.model, spec_.names.embeddings);
        }
        return head;
      }
      case HeadKind::sequence:
        return std::make_unique<Linear>(hidden, head_.labels, false, spec_.dtype);
      case HeadKind::token:
        return std::make_unique<Linear>(hidden, head_.labels, true, spec_.dtype);
      case HeadKind::reward:
        return std::make_unique<RewardHead>(hidden, head_.labels, spec_.dtype);
      case HeadKind::none:
        break;
    }
    throw InternalError("a head without a kind");
  }

  /// What layers may differ in.
  struct LayerKind {
    bool experts = false;
    bool rotary = true;
    std::int64_t window = 0;
    std::int64_t scale_divisor = 1;

    bool operator==(const LayerKind&) const = default;
  };

  LayerKind kind_of(std::int64_t layer) const {
    const auto index = static_cast<std::size_t>(layer);
    LayerKind kind;
    kind.experts = spec_.moe && spec_.moe->layers[index];
    kind.rotary = spec_.rotary_layers.empty() || spec_.rotary_layers[index];
    if (spec_.window_layers.empty() || spec_.window_layers[index]) {
      kind.window = spec_.sliding_window;
    }
    if (spec_.scale_by_layer) kind.scale_divisor = layer + 1;
    return kind;
  }

  std::unique_ptr<Module> layers() const {
    auto list = std::make_unique<LayerList>();
    std::int64_t first = 0;
    while (first < spec_.num_hidden_layers) {
      const LayerKind kind = kind_of(first);
      std::int64_t end = first + 1;
      while (end < spec_.num_hidden_layers && kind_of(end) == kind) ++end;
      list->append(layer(kind), end - first);
      first = end;
    }
    return list;
  }

  std::unique_ptr<Module> layer(const LayerKind& kind) const {
    const LayerNames& names = spec_.layer_names;
    auto layer = std::make_unique<DecoderLayer>(spec_.class_prefix + spec_.classes.layer, names,
                                                spec_.parallel_blocks);
    layer->add_child(names.attention, spec_.latent ? latent_attention(kind) : attention(kind));
    layer->add_child(names.mlp, kind.experts
                                    ? experts()
                                    : mlp(spec_.class_prefix + "MLP", spec_.intermediate_size,
                                          spec_.mlp_names, spec_.mlp_bias));
    for (const std::string& name :
         {names.attention_norm, names.attention_out_norm, names.mlp_norm, names.mlp_out_norm}) {
      if (!name.empty()) layer->add_child(name, norm(spec_.hidden_size));
    }
    return layer;
  }

  std::unique_ptr<Module> embedding() const {
    auto table = std::make_unique<Embedding>(spec_.vocab_size, spec_.hidden_size, spec_.dtype,
                                             spec_.embedding_multiplier);
    if (!spec_.classes.embedding.empty()) {
      table->set_hf_class_name(spec_.class_prefix + spec_.classes.embedding);
    }
    return table;
  }

  std::unique_ptr<Module> norm(std::int64_t width) const { return norm(width, spec_.norm_epsilon); }

  std::unique_ptr<Module> norm(std::int64_t width, double epsilon) const {
    const bool layer_norm = spec_.norm == NormKind::layer;
    return std::make_unique<Normalization>(
        layer_norm ? "LayerNorm" : spec_.class_prefix + "RMSNorm", spec_.norm, width, epsilon,
        layer_norm, spec_.norm_weight_offset, spec_.dtype);
  }

  std::unique_ptr<Module> linear(std::int64_t in, std::int64_t out, bool bias,
                                 InitRole role = InitRole::matrix) const {
    auto linear = std::make_unique<Linear>(in, out, bias, spec_.dtype, role);
    if (spec_.transposed_linears) {
      linear->parameters()[0].transposed = true;
      linear->set_hf_class_name("Conv1D");
    }
    return linear;
  }

  std::int64_t rotary_dim() const {
    if (spec_.latent) return spec_.latent->qk_rope_head_dim;
    return static_cast<std::int64_t>(static_cast<double>(spec_.head_dim) * spec_.rotary_fraction);
  }

  std::unique_ptr<Module> rotary(const char* set, const RopeParameters& rope) const {
    return std::make_unique<RotaryEmbedding>(spec_.class_prefix + "RotaryEmbedding", set,
                                             rotary_dim(), rope, spec_.dtype);
  }

  std::unique_ptr<Module> attention(const LayerKind& kind) const {
    const AttentionNames& names = spec_.attention_names;
    AttentionConfig config;
    config.num_heads = spec_.num_attention_heads;
    config.num_kv_heads = spec_.num_key_value_heads;
    config.head_dim = spec_.head_dim;
    config.rotary_dim = kind.rotary ? rotary_dim() : 0;
    config.rotary_interleaved = spec_.rotary_interleaved;
    if (kind.window > 0 && spec_.window_rope) config.rotary_set = "window";
    config.span.window = kind.window;
    config.span.causal = spec_.causal;
    config.scale = spec_.attention_scale > 0 ? spec_.attention_scale
                                             : 1 / std::sqrt(static_cast<double>(spec_.head_dim));
    config.scale /= static_cast<double>(kind.scale_divisor);
    config.softcap = spec_.attention_softcap;
    config.clip_qkv = spec_.clip_qkv;
    const std::int64_t q_width = config.num_heads * config.head_dim;
    const std::int64_t kv_width = config.num_kv_heads * config.head_dim;
    const std::int64_t hidden = spec_.hidden_size;
    auto module = std::make_unique<EagerAttention>(spec_.class_prefix + "Attention", config, names);
    if (!names.qkv.empty()) {
      module->add_child(
          names.qkv, linear(hidden, q_width + 2 * kv_width, spec_.qkv_bias, InitRole::query_key));
    } else {
      module->add_child(names.q_proj, linear(hidden, q_width, spec_.qkv_bias, InitRole::query_key));
      module->add_child(names.k_proj,
                        linear(hidden, kv_width, spec_.qkv_bias, InitRole::query_key));
      module->add_child(names.v_proj, linear(hidden, kv_width, spec_.qkv_bias));
    }
    module->add_child(names.o_proj, linear(q_width, hidden, spec_.output_bias));
    if (spec_.qk_norm) {
      module->add_child(names.q_norm, norm(spec_.qk_norm_whole ? q_width : spec_.head_dim));
      module->add_child(names.k_norm, norm(spec_.qk_norm_whole ? kv_width : spec_.head_dim));
    }
    if (spec_.sinks) {
      Parameter sinks;
      sinks.name = "sinks";
      sinks.shape = {config.num_heads};
      sinks.dtype = spec_.dtype;
      sinks.role = InitRole::sink;
      module->add_parameter(std::move(sinks));
    }
    if (spec_.rotary_per_layer) module->add_child("rotary_emb", rotary("default", spec_.rope));
    return module;
  }

  std::unique_ptr<Module> latent_attention(const LayerKind& kind) const {
    LatentAttentionConfig config = *spec_.latent;
    config.span.window = kind.window;
    config.span.causal = spec_.causal;
    const MlaFieldNames names;
    // These norms take the default of their class, whatever the config says of the others.
    constexpr double latent_epsilon = 1e-6;
    const std::int64_t hidden = spec_.hidden_size;
    const std::int64_t q_width = config.num_heads * config.qk_head_dim();
    auto module =
        std::make_unique<EagerLatentAttention>(spec_.class_prefix + "Attention", config, names);
    if (config.q_lora_rank > 0) {
      module->add_child(names.q_a_proj, linear(hidden, config.q_lora_rank, spec_.qkv_bias));
      module->add_child(names.q_a_layernorm, norm(config.q_lora_rank, latent_epsilon));
      module->add_child(names.q_b_proj,
                        linear(config.q_lora_rank, q_width, false, InitRole::query_key));
    } else {
      module->add_child(names.q_proj, linear(hidden, q_width, false, InitRole::query_key));
    }
    module->add_child(
        names.kv_a_proj_with_mqa,
        linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim, spec_.qkv_bias));
    module->add_child(names.kv_a_layernorm, norm(config.kv_lora_rank, latent_epsilon));
    module->add_child(
        names.kv_b_proj,
        linear(config.kv_lora_rank,
               config.num_heads * (config.qk_nope_head_dim + config.v_head_dim), false));
    module->add_child(names.o_proj,
                      linear(config.num_heads * config.v_head_dim, hidden, spec_.output_bias));
    return module;
  }

  std::unique_ptr<Module> mlp(const std::string& class_name, std::int64_t width,
                              const MlpNames& names, bool bias) const {
    auto module = std::make_unique<Mlp>(class_name, names, spec_.activation);
    if (!names.gate_up.empty()) {
      module->add_child(names.gate_up, linear(spec_.hidden_size, 2 * width, bias));
    } else {
      if (!names.gate.empty()) {
        module->add_child(names.gate, linear(spec_.hidden_size, width, bias));
      }
      module->add_child(names.up, linear(spec_.hidden_size, width, bias));
    }
    module->add_child(names.down, linear(width, spec_.hidden_size, bias));
    return module;
  }

  std::unique_ptr<Module> experts() const {
    const MoeSpec& moe = *spec_.moe;
    auto block = std::make_unique<EagerMoe>(moe.block_class, moe.routing, moe.names);
    auto gate = std::make_unique<Linear>(spec_.hidden_size, moe.routing.num_experts,
                                         moe.router_bias, spec_.dtype);
    gate->set_hf_class_name(moe.router_class);
    gate->set_output_dtype(DType::f32);
    if (moe.routing.correction_bias) {
      Parameter bias;
      bias.name = "e_score_correction_bias";
      bias.shape = {moe.routing.num_experts};
      bias.dtype = DType::f32;
      bias.role = InitRole::router_bias;
      bias.buffer = true;
      gate->add_parameter(std::move(bias));
    }
    block->add_child(moe.names.gate, std::move(gate));
    if (moe.fused) {
      block->add_child(moe.names.experts,
                       std::make_unique<FusedExperts>(moe.expert_class, moe.routing.num_experts,
                                                      spec_.hidden_size, moe.intermediate_size,
                                                      moe.activation_limit, spec_.dtype));
      return block;
    }
    auto list = std::make_unique<ModuleList>();
    list->append(mlp(moe.expert_class, moe.intermediate_size, moe.expert_names, false),
                 moe.routing.num_experts);
    block->add_child(moe.names.experts, std::move(list));
    if (moe.shared_intermediate_size > 0) {
      block->add_child(moe.names.shared_experts,
                       mlp(moe.expert_class, moe.shared_intermediate_size, spec_.mlp_names, false));
      if (moe.shared_gate) {
        block->add_child(moe.names.shared_experts_gate, linear(spec_.hidden_size, 1, false));
      }
    }
    return block;
  }

  const DecoderSpec& spec_;
  const ModelHead& head_;
};

void require_divides(const HfConfig& config, const char* key, std::int64_t whole, std::int64_t part,
                     const char* whole_name) {
  if (part > 0 && whole % part == 0) return;
  config.fail(key, fmt::format("{} does not divide {} {}", part, whole_name, whole));
}

/// No matrix of a model comes near 2^46 elements: larger ones are mistakes, and would overflow
/// later.
void require_sane_matrix(const HfConfig& config, const char* key, std::int64_t rows,
                         std::int64_t columns) {
  constexpr std::int64_t most_elements = std::int64_t{1} << 46;
  if (rows <= most_elements / columns) return;
  config.fail(key, fmt::format("a matrix of {} x {} is larger than any model has", rows, columns));
}

/// Rotary embeddings turn pairs; longrope has a factor for each.
void require_even_rotary(const HfConfig& config, const DecoderSpec& spec) {
  const std::int64_t dim =
      spec.latent
          ? spec.latent->qk_rope_head_dim
          : static_cast<std::int64_t>(static_cast<double>(spec.head_dim) * spec.rotary_fraction);
  if (dim % 2 != 0) {
    config.fail(spec.latent ? "qk_rope_head_dim" : "head_dim",
                fmt::format("{} elements of each head are rotated, which is no even number", dim));
  }
  for (const auto& [key, factors] : {std::pair{"short_factor", &spec.rope.short_factor},
                                     std::pair{"long_factor", &spec.rope.long_factor}}) {
    const auto count = static_cast<std::int64_t>(factors->size());
    if (spec.rope.type != "longrope" || count == dim / 2) continue;
    config.fail(config.has("rope_parameters") ? "rope_parameters" : "rope_scaling",
                fmt::format("{} has {} entries for {} frequencies", key, count, dim / 2));
  }
}

DType read_dtype(const ArchitectureContext& context) {
  if (context.options.dtype) {
    context.config.as_written().know({"dtype", "torch_dtype"});
    return *context.options.dtype;
  }
  const std::optional<CheckpointDtype> dtype = context.config.checkpoint_dtype();
  if (!dtype) {
    context.assumptions.emplace_back("torch_dtype is absent: bfloat16 weights");
    return DType::bf16;
  }
  if (!dtype->remark.empty()) context.assumptions.push_back(dtype->remark);
  return dtype->dtype;
}

/// What the profile's moe_num_experts_key says: one key of the config, or a path.
std::int64_t read_num_experts(const ArchitectureContext& context) {
  const std::vector<std::string>& keys = context.profile.moe_num_experts_key;
  HfConfig config = context.config;
  for (std::size_t i = 0; i + 1 < keys.size(); ++i) {
    std::optional<HfConfig> nested = config.as_written().nested(keys[i]);
    if (!nested)
      config.fail(keys[i], "expected a map (moe_num_experts_key of the profile), got nothing");
    config = *std::move(nested);
  }
  // The class's own key has a default; another one is whatever the file calls it.
  return config.has(keys.back()) || keys.size() > 1 ? config.as_written().get_size(keys.back())
         : config.node(keys.back())                 ? config.get_size(keys.back())
                                                    : config.as_written().get_size(keys.back());
}

// --- what stands on the decoder ------------------------------------------------------------------

/// id2label says how many labels there are, else num_labels; transformers means 2 when nothing
/// does.
std::int64_t read_labels(const HfConfig& config) {
  if (const std::optional<Node> names = config.node("id2label")) {
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(names->members().size()));
  }
  return config.get_size_or("num_labels", 2);
}

/// The head of the class that `architectures` names. Throws Error for classes that are not known.
ModelHead read_head(const ArchitectureContext& context, const DecoderSpec& spec) {
  const HfConfig& config = context.config;
  const DecoderClasses& classes = spec.classes;
  const std::string causal = spec.class_prefix + classes.language_model;
  ModelHead causal_head{HeadKind::causal, causal, "lm_head"};
  const auto names = config.get_or<std::vector<std::string>>("architectures", {});
  if (names.empty()) return causal_head;
  const std::string& name = names.front();
  const auto is = [&](const std::string& suffix) {
    return !suffix.empty() && name == spec.class_prefix + suffix;
  };
  const auto ends = [&](std::string_view end) {
    return name.size() >= end.size() && name.substr(name.size() - end.size()) == end;
  };
  if (name == causal) return causal_head;
  if (is(classes.model)) return {HeadKind::none, name, ""};
  if (is(classes.sequence_classifier)) {
    return {HeadKind::sequence, name, "score", read_labels(config)};
  }
  if (is(classes.token_classifier)) {
    return {HeadKind::token, name, spec.token_head, read_labels(config)};
  }
  if (is(classes.reward_model)) return {HeadKind::reward, name, "score", 1};
  const std::vector<std::string> known = {causal, spec.class_prefix + classes.model,
                                          spec.class_prefix + classes.sequence_classifier,
                                          spec.class_prefix + classes.token_classifier};
  const std::string hint = fmt::format("known are {}", join(known, ", "));
  for (const char* draft : {"Eagle", "eagle", "Medusa", "MTP", "NextN", "Draft", "Speculator"}) {
    if (name.find(draft) == std::string::npos) continue;
    config.fail("architectures",
                fmt::format("'{}' is a draft model, which is not supported yet", printable(name)),
                hint);
  }
  // A class of somebody's own, or of the whole model that this is the text part of.
  if (ends("ForCausalLM") || ends("LMHeadModel") || ends("ForConditionalGeneration")) {
    context.warnings.push_back(
        fmt::format("architectures: '{}' is not the class of this model type; built as {}",
                    printable(name), causal));
    return causal_head;
  }
  config.fail(
      "architectures",
      fmt::format("'{}' is not a class of this model type that tcast knows", printable(name)),
      hint);
}

/// A model whose tokens see those that follow them cannot predict these.
void require_no_decoding(const HfConfig& config, const DecoderSpec& spec, const ModelHead& head) {
  if (head.kind == HeadKind::causal) {
    config.fail("is_causal", "a model that predicts the next token has causal attention",
                fmt::format("without a head the class is {}{}: name it in architectures",
                            spec.class_prefix, spec.classes.model));
  }
  if (spec.sliding_window > 0) {
    config.fail("is_causal", "a sliding window to both sides is not supported yet");
  }
}

}  // namespace

DecoderSpec read_decoder_spec(const ArchitectureContext& context, std::string class_prefix,
                              std::int64_t intermediate_ratio) {
  const HfConfig& config = context.config;
  DecoderSpec spec;
  spec.class_prefix = std::move(class_prefix);
  spec.dtype = read_dtype(context);
  spec.vocab_size = config.get_size("vocab_size");
  spec.hidden_size = config.get_size("hidden_size");
  spec.intermediate_size =
      intermediate_ratio > 0
          ? config.get_size_or("intermediate_size", spec.hidden_size * intermediate_ratio)
          : config.get_size("intermediate_size");
  spec.num_hidden_layers = config.get_size("num_hidden_layers");
  // Far more layers than any model has: refused before a tree of that size is built.
  constexpr std::int64_t most_layers = 100'000;
  if (spec.num_hidden_layers > most_layers) {
    config.fail("num_hidden_layers", fmt::format("expected at most {} layers, got {}", most_layers,
                                                 spec.num_hidden_layers));
  }
  if (context.options.num_hidden_layers) {
    spec.num_hidden_layers = *context.options.num_hidden_layers;
  }
  spec.num_attention_heads = config.get_size("num_attention_heads");
  const bool grouped = config.reads("num_key_value_heads");
  if (grouped && !config.node("num_key_value_heads") && !config.is_null("num_key_value_heads")) {
    context.assumptions.push_back(
        fmt::format("num_key_value_heads is absent: {}", spec.num_attention_heads));
  }
  spec.num_key_value_heads = config.get_size_or("num_key_value_heads", spec.num_attention_heads);
  spec.activation = read_activation(config);
  spec.norm_epsilon = config.get_or<double>("rms_norm_eps", 1e-6);
  if (!(std::isfinite(spec.norm_epsilon) && spec.norm_epsilon >= 0)) {
    config.fail("rms_norm_eps",
                fmt::format("expected a number of at least 0, got {}", spec.norm_epsilon));
  }
  spec.tie_word_embeddings = config.get_or<bool>("tie_word_embeddings", false);
  require_divides(config, "num_key_value_heads", spec.num_attention_heads, spec.num_key_value_heads,
                  "num_attention_heads");
  if (config.node("head_dim")) {
    spec.head_dim = config.get_size("head_dim");
  } else {
    require_divides(config, "num_attention_heads", spec.hidden_size, spec.num_attention_heads,
                    "hidden_size");
    spec.head_dim = spec.hidden_size / spec.num_attention_heads;
  }
  spec.rope = read_rope(config);
  spec.causal = config.get_or<bool>("is_causal", true);
  return spec;
}

std::optional<std::vector<bool>> sliding_layers(const ArchitectureContext& context,
                                                const DecoderSpec& spec) {
  const HfConfig& config = context.config;
  const auto types = config.find<std::vector<std::string>>("layer_types");
  if (!types) return std::nullopt;
  const auto layers = static_cast<std::size_t>(spec.num_hidden_layers);
  if (types->size() < layers) {
    config.fail("layer_types", fmt::format("{} entries for {} layers", types->size(), layers));
  }
  std::vector<bool> sliding(layers);
  for (std::size_t i = 0; i < layers; ++i) {
    const std::string& type = (*types)[i];
    sliding[i] = type == "sliding_attention";
    if (!sliding[i] && type != "full_attention") {
      config.fail("layer_types",
                  fmt::format("layer {} is '{}'; this model type has full_attention and "
                              "sliding_attention",
                              i, printable(type)));
    }
  }
  return sliding;
}

void read_layer_windows(const ArchitectureContext& context, DecoderSpec& spec) {
  const HfConfig& config = context.config;
  config.know({"sliding_window", "max_window_layers"});
  auto sliding = sliding_layers(context, spec);
  if (!config.get_or<bool>("use_sliding_window", false)) {
    if (sliding && std::find(sliding->begin(), sliding->end(), true) != sliding->end()) {
      config.fail("layer_types", "layers with sliding_attention, but use_sliding_window is false");
    }
    return;
  }
  spec.sliding_window = config.get_size_or("sliding_window", 0);
  if (spec.sliding_window == 0) return;
  if (sliding) {
    spec.window_layers = *std::move(sliding);
    return;
  }
  const auto first = config.get_or<std::int64_t>("max_window_layers", 28);
  spec.window_layers.resize(static_cast<std::size_t>(spec.num_hidden_layers));
  for (std::size_t i = 0; i < spec.window_layers.size(); ++i) {
    spec.window_layers[i] = static_cast<std::int64_t>(i) >= first;
  }
}

void read_alternating_windows(const ArchitectureContext& context, DecoderSpec& spec,
                              std::int64_t period) {
  spec.sliding_window = context.config.get_size_or("sliding_window", 0);
  if (auto sliding = sliding_layers(context, spec)) {
    spec.window_layers = *std::move(sliding);
    return;
  }
  spec.window_layers.resize(static_cast<std::size_t>(spec.num_hidden_layers));
  for (std::size_t i = 0; i < spec.window_layers.size(); ++i) {
    spec.window_layers[i] = (static_cast<std::int64_t>(i) + 1) % period != 0;
  }
}

double read_positive(const HfConfig& config, const char* key, double otherwise) {
  const auto value = config.find<double>(key);
  if (value && !(std::isfinite(*value) && *value > 0)) {
    config.fail(key, fmt::format("expected a number above 0, got {}", *value));
  }
  return value.value_or(otherwise);
}

double read_rotary_fraction(const HfConfig& config) {
  double fraction = config.get_or<double>("partial_rotary_factor", 1);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const auto rope = config.nested(key);
    if (rope) fraction = rope->get_or<double>("partial_rotary_factor", fraction);
  }
  if (!(fraction > 0 && fraction <= 1)) {
    config.fail("partial_rotary_factor",
                fmt::format("expected a number above 0 and at most 1, got {}", fraction));
  }
  return fraction;
}

LatentAttentionConfig read_latent_attention(const ArchitectureContext& context,
                                            const DecoderSpec& spec) {
  const HfConfig& config = context.config;
  LatentAttentionConfig latent;
  latent.num_heads = spec.num_attention_heads;
  latent.q_lora_rank = config.get_size_or("q_lora_rank", 0);
  latent.kv_lora_rank = config.get_size("kv_lora_rank");
  latent.qk_nope_head_dim = config.get_size("qk_nope_head_dim");
  latent.qk_rope_head_dim = config.get_size("qk_rope_head_dim");
  latent.v_head_dim = config.get_size("v_head_dim");
  latent.scale = 1 / std::sqrt(static_cast<double>(latent.qk_head_dim()));
  if (spec.rope.type != "default" && spec.rope.mscale_all_dim != 0) {
    const double mscale = yarn_mscale(spec.rope.factor, spec.rope.mscale_all_dim);
    latent.scale *= mscale * mscale;
  }
  return latent;
}

void set_dense_layers(MoeSpec& moe, std::int64_t dense) {
  for (std::size_t i = 0; i < moe.layers.size(); ++i) {
    moe.layers[i] = static_cast<std::int64_t>(i) >= dense;
  }
}

void read_sparse_layers(const ArchitectureContext& context, MoeSpec& moe) {
  const std::int64_t step = context.config.get_size("decoder_sparse_step");
  const auto dense = context.config.get_or<std::vector<std::int64_t>>("mlp_only_layers", {});
  for (std::size_t i = 0; i < moe.layers.size(); ++i) {
    const auto layer = static_cast<std::int64_t>(i);
    const bool named = std::find(dense.begin(), dense.end(), layer) != dense.end();
    moe.layers[i] = !named && (layer + 1) % step == 0;
  }
}

MoeSpec read_moe_spec(const ArchitectureContext& context, const DecoderSpec& spec) {
  MoeSpec moe;
  moe.routing.num_experts = read_num_experts(context);
  moe.routing.top_k = context.config.get_size("num_experts_per_tok");
  moe.expert_class = spec.class_prefix + "MLP";
  moe.layers.assign(static_cast<std::size_t>(spec.num_hidden_layers), true);
  return moe;
}

std::unique_ptr<Module> build_decoder(DecoderSpec spec, const ArchitectureContext& context) {
  apply_profile(context, spec);
  const HfConfig& config = context.config;
  for (const auto& [key, value] : {std::pair{"intermediate_size", spec.intermediate_size},
                                   std::pair{"num_key_value_heads", spec.num_key_value_heads},
                                   std::pair{"head_dim", spec.head_dim}}) {
    if (value < 1) config.fail(key, fmt::format("expected a whole number >= 1, got {}", value));
  }
  if (spec.latent) {
    const LatentAttentionConfig& latent = *spec.latent;
    for (const std::int64_t width :
         {latent.q_lora_rank, latent.kv_lora_rank, latent.qk_nope_head_dim, latent.qk_rope_head_dim,
          latent.v_head_dim}) {
      require_sane_matrix(config, "kv_lora_rank", spec.num_attention_heads, width + 1);
      require_sane_matrix(config, "kv_lora_rank", spec.hidden_size, width + 1);
    }
  }
  require_sane_matrix(config, "vocab_size", spec.vocab_size, spec.hidden_size);
  require_sane_matrix(config, "intermediate_size", 2 * spec.intermediate_size, spec.hidden_size);
  if (spec.position_embeddings > 0) {
    require_sane_matrix(config, "max_position_embeddings", spec.position_embeddings,
                        spec.hidden_size);
  }
  require_even_rotary(config, spec);
  require_sane_matrix(config, "head_dim", spec.num_attention_heads, spec.head_dim);
  require_sane_matrix(config, "num_attention_heads", spec.num_attention_heads * spec.head_dim,
                      spec.hidden_size);
  if (spec.num_attention_heads % spec.num_key_value_heads != 0) {
    context.config.fail("num_key_value_heads",
                        fmt::format("{} does not divide num_attention_heads {}",
                                    spec.num_key_value_heads, spec.num_attention_heads));
  }
  if (spec.moe) {
    MoeSpec& moe = *spec.moe;
    // Far more experts than any model has: there are loops over them.
    constexpr std::int64_t most_experts = 1 << 16;
    if (moe.routing.num_experts > most_experts) {
      config.fail("num_experts", fmt::format("expected at most {} experts, got {}", most_experts,
                                             moe.routing.num_experts));
    }
    require_sane_matrix(config, "moe_intermediate_size", moe.intermediate_size, spec.hidden_size);
    require_sane_matrix(config, "num_experts", moe.routing.num_experts, spec.hidden_size);
    require_sane_matrix(config, "shared_expert_intermediate_size", moe.shared_intermediate_size,
                        spec.hidden_size);
    if (moe.intermediate_size <= 0) {
      context.config.fail("moe_intermediate_size", "the experts have no intermediate size");
    }
    if (moe.routing.top_k < 1 || moe.routing.top_k > moe.routing.num_experts) {
      config.fail("num_experts_per_tok", fmt::format("a token cannot choose {} of {} experts",
                                                     moe.routing.top_k, moe.routing.num_experts));
    }
    if (moe.routing.groups > 1) {
      require_divides(context.config, "n_group", moe.routing.num_experts, moe.routing.groups,
                      "the number of experts");
      const std::int64_t in_groups =
          moe.routing.num_experts / moe.routing.groups * moe.routing.topk_groups;
      if (moe.routing.topk_groups > moe.routing.groups || in_groups < moe.routing.top_k) {
        config.fail("topk_group",
                    fmt::format("a token cannot choose {} experts from {} of {} groups",
                                moe.routing.top_k, moe.routing.topk_groups, moe.routing.groups));
      }
    }
  }
  const ModelHead head = read_head(context, spec);
  if (!spec.causal) require_no_decoding(config, spec, head);
  return Builder(spec, head).build();
}

}  // namespace tcast
