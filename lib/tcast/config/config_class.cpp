#include "tcast/config/config_class.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "tcast/base/text.h"

namespace tcast {
namespace {

// Reasons that many keys share.
constexpr std::string_view training = "training only";
constexpr std::string_view generation = "how tokens are chosen, not what a pass computes";
constexpr std::string_view ids = "which token means what";
constexpr std::string_view python = "what the Python side needs to find and call its classes";
constexpr std::string_view outputs = "which results the Python call returns";
constexpr std::string_view labels = "names of labels, or how a loss is made of them";
constexpr std::string_view tools = "written by a tool for itself";
constexpr std::string_view tokenizer = "about the tokenizer";
constexpr std::string_view other_part = "about a part that --text-only leaves out";

constexpr HarmlessKey everywhere[] = {
    {"_*", "", "private to the Python side"},
    {"*_pdrop", "", training},
    {"*_token_id", "", ids},
    {"*_token_ids", "", ids},
    {"*_token_index", "", ids},
    {"*aux_loss*", "", training},
    {"*dropout*", "", training},
    {"*z_loss*", "", training},
    {"attn_implementation", "", "which of several kernels the Python side calls"},
    {"auto_map", "", python},
    {"bad_words_ids", "", generation},
    {"base_model*", "", tools},
    {"begin_suppress_tokens", "", generation},
    {"cache_implementation", "", "which of several caches the Python side uses"},
    {"chunk_size_feed_forward", "", "a way to save memory in training"},
    {"cross_attention_hidden_size", "null", "there is no cross attention"},
    {"diversity_penalty", "", generation},
    {"do_sample", "", generation},
    {"drop_path_rate", "", training},
    {"early_stopping", "", generation},
    {"encoder_no_repeat_ngram_size", "", generation},
    {"ep_size", "", "a layout for training"},
    {"exponential_decay_length_penalty", "", generation},
    {"finetuning_task", "", labels},
    {"gradient_checkpointing", "", training},
    {"id2label", "", "names of labels; their number counts where there is a head for them"},
    {"ignore_index", "", training},
    {"init_*", "", training},
    {"initializer_*", "", training},
    {"is_causal", "true", "a decoder's attention is causal"},
    {"is_decoder", "", "whether the Python class caches; a decoder does"},
    {"is_encoder_decoder", "false", "a decoder alone"},
    {"label2id", "", labels},
    {"layerdrop", "", training},
    {"length_penalty", "", generation},
    {"max_length", "", generation},
    {"max_new_tokens", "", generation},
    {"max_sequence_length", "", tokenizer},
    {"min_length", "", generation},
    {"model_max_length", "", tokenizer},
    {"name_or_path", "", python},
    {"neftune_noise_alpha", "", training},
    {"no_repeat_ngram_size", "", generation},
    {"num_beam_groups", "", generation},
    {"num_beams", "", generation},
    {"num_labels", "", "the number of labels counts where there is a head for them"},
    {"num_return_sequences", "", generation},
    {"onnx_safe", "", python},
    {"output_attentions", "", outputs},
    {"output_hidden_states", "", outputs},
    {"output_router_logits", "", outputs},
    {"output_scores", "", outputs},
    {"prefix", "", generation},
    {"pretraining_tp", "", "products in slices, with the same result"},
    {"problem_type", "", labels},
    {"pruned_heads", "{}", "no heads are pruned"},
    {"remove_invalid_values", "", generation},
    {"repetition_penalty", "", generation},
    {"rescale_prenorm_residual", "", training},
    {"return_dict", "", outputs},
    {"return_dict_in_generate", "", outputs},
    {"router_jitter_noise", "", training},
    {"seq_aux", "", training},
    {"suppress_tokens", "", generation},
    {"task_specific_params", "", generation},
    {"temperature", "", generation},
    {"text-generation", "", generation},
    {"tf_legacy_loss", "", training},
    {"tie_encoder_decoder", "", "there is no encoder"},
    {"tokenizer_class", "", tokenizer},
    {"top_k", "50", generation},
    {"top_p", "", generation},
    {"torchscript", "", python},
    {"transformers.js_config", "", tools},
    {"transformers_version", "", python},
    {"typical_p", "", generation},
    {"unsloth_*", "", tools},
    {"use_bfloat16", "", "a dtype of TensorFlow"},
    {"use_cache", "", "whether the Python call returns its cache"},
    {"use_return_dict", "", outputs},
};

constexpr CommonKey every_class[] = {
    {"architectures"},    {"compression_config"},  {"dtype"},       {"id2label"},
    {"is_causal", false}, {"model_type"},          {"num_labels"},  {"quantization_config"},
    {"text_config"},      {"tie_word_embeddings"}, {"torch_dtype"},
};

constexpr HarmlessKey other_towers[] = {
    {"*audio*", "", other_part},
    {"*image*", "", other_part},
    {"*multimodal*", "", other_part},
    {"*pixel*", "", other_part},
    {"*projector*", "", other_part},
    {"*video*", "", other_part},
    {"*vision*", "", other_part},
    {"*visual*", "", other_part},
    {"boi_*", "", ids},
    {"eoi_*", "", ids},
    {"downsample_ratio", "", other_part},
    {"dynamic_*", "", other_part},
    {"mm_*", "", other_part},
    {"ps_version", "", other_part},
    {"select_layer", "", other_part},
    {"spatial_*", "", other_part},
    {"speech_*", "", other_part},
    {"template", "", tokenizer},
    {"thinker_*", "", other_part},
    {"vit_*", "", other_part},
};

/// A key that means a part of a model.
struct StructuralKey {
  std::string_view pattern;
  std::string_view part;
};
constexpr StructuralKey structural_keys[] = {
    {"*expert*", "experts"},
    {"moe", "experts"},
    {"moe_*", "experts"},
    {"*_moe_*", "experts"},
    {"*router*", "experts"},
    {"*lora_rank", "latent attention"},
    {"*_rope_head_dim", "latent attention"},
    {"*_nope_head_dim", "latent attention"},
    {"v_head_dim", "latent attention"},
    {"ssm_*", "state-space layers"},
    {"mamba*", "state-space layers"},
    {"*state_size*", "state-space layers"},
    {"d_state", "state-space layers"},
    {"d_conv", "state-space layers"},
    {"conv_kernel*", "state-space layers"},
    {"time_step_*", "state-space layers"},
    {"rwkv*", "recurrent layers"},
    {"lru_width", "recurrent layers"},
    {"*conv_L_cache*", "convolutions"},
    {"linear_*", "linear attention"},
    {"*hybrid*", "layers of several kinds"},
    {"*block_types*", "layers of several kinds"},
    {"*layers_block_type*", "layers of several kinds"},
    {"block_configs", "layers of several kinds"},
    {"full_attention_interval", "layers of several kinds"},
    {"attn_layer_*", "layers of several kinds"},
    {"index_*", "sparse attention"},
    {"*compress*ratio*", "compressed attention"},
    {"num_kv_shared_layers", "layers that share their cache"},
    {"share_kv*", "layers that share their cache"},
    {"cla_*", "layers that share their cache"},
    {"altup*", "several streams"},
    {"hc_*", "several streams"},
    {"is_encoder_decoder", "an encoder"},
    {"*encoder_layers", "an encoder"},
    {"*cross_attention*", "cross attention"},
    {"*vision*", "a vision tower"},
    {"*audio*", "an audio tower"},
    {"alibi", "positions by attention bias"},
    {"use_alibi", "positions by attention bias"},
};

std::optional<double> number_of(std::string_view text) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Whether two values are the same, however a number is written.
bool same_value(std::string_view a, std::string_view b) {
  if (a == b) return true;
  const std::optional<double> number = number_of(a);
  return number && number == number_of(b);
}

}  // namespace

const Registry<ConfigClass>& config_classes() { return registry_of<ConfigClass>("config_class"); }

std::span<const HarmlessKey> harmless_everywhere() { return everywhere; }

std::span<const CommonKey> keys_of_every_class() { return every_class; }

std::span<const HarmlessKey> keys_of_other_towers() { return other_towers; }

std::string_view part_of_model(std::string_view key) {
  for (const StructuralKey& one : structural_keys) {
    if (matches_pattern(key, one.pattern)) return one.part;
  }
  return {};
}

const HarmlessKey* find_harmless(std::span<const HarmlessKey> list, std::string_view key,
                                 std::string_view value) {
  const auto found = std::find_if(list.begin(), list.end(), [&](const HarmlessKey& one) {
    return matches_pattern(key, one.pattern) && (one.value.empty() || same_value(value, one.value));
  });
  return found == list.end() ? nullptr : &*found;
}

}  // namespace tcast
