#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/model/layers.h"
#include "tcast/model/module.h"

namespace tcast {

/// Names of a decoder layer's children; an empty norm name means that the layer has none there.
struct LayerNames {
  std::string attention = "self_attn";
  std::string mlp = "mlp";
  std::string attention_norm = "input_layernorm";     ///< before attention
  std::string attention_out_norm = "";                ///< on attention's result
  std::string mlp_norm = "post_attention_layernorm";  ///< before the feed-forward block
  std::string mlp_out_norm = "";                      ///< on its result

  bool operator==(const LayerNames&) const = default;
};

/// x += attention(norm(x)); x += mlp(norm(x)). With `parallel` blocks: x += attention(norm(x)) +
/// mlp(norm(x)), one norm for both.
class TCAST_API DecoderLayer : public ModuleOf<DecoderLayer> {
 public:
  DecoderLayer(std::string class_name, LayerNames names, bool parallel = false);

  struct Config {
    LayerNames names{};
    bool parallel = false;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value hidden) const override;
  std::string fault() const override;

  const LayerNames& names() const { return config_.names; }

 private:
  Config config_;
};

/// A layer that predicts one more token (multi-token prediction, DeepSeek-V3 technical report,
/// section 2.2): the embedding of the next token and the hidden state, normalized, joined,
/// projected, and through a decoder layer, whose children it has beside its own (enorm, hnorm,
/// eh_proj, shared_head.norm). As vLLM and SGLang run the published weights, the embedding comes
/// first, and the model's hidden state is the one behind its final norm.
class TCAST_API MtpLayer : public ModuleOf<MtpLayer, DecoderLayer> {
 public:
  /// `block` gives the decoder layer's children.
  MtpLayer(DecoderLayer& block, std::int64_t hidden_size, double epsilon, DType dtype);
  NoState config() const { return {}; }
  std::string fault() const override;

  /// Hidden states for the token after next, normalized for the head: what the next depth takes.
  Value predict(Trace& trace, Value hidden, Value next_embedding) const;
};

/// The list of decoder layers. Neighbours that are equal are one node; with reuse on, equal layers
/// that are no neighbours share a region as well (decision D3).
class TCAST_API LayerList : public ModuleOf<LayerList> {
 public:
  LayerList() : ModuleOf("ModuleList") {}

  struct Config {
    bool reuse = false;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  /// All layers but the MTP ones, one after the other.
  Value forward(Trace& trace, Value hidden) const override;
  std::string fault() const override;

  void set_reuse(bool reuse) { config_.reuse = reuse; }
  bool reuse() const { return config_.reuse; }

  /// Finds out again which nodes are equal; call after anything changed below.
  void compare_layers();
  /// For each child, the first child that is equal to it.
  const std::vector<std::size_t>& equal_to() const { return equal_to_; }

 private:
  Config config_;
  std::vector<std::size_t> equal_to_;  // no state: what compare_layers() found
};

/// What it costs that module classes of a tree cannot be compared, a line for each of them: "class
/// 'DeepMlp' has no config() to compare: 6 of 6 layers are traced one by one". Empty where nothing
/// is lost: for layers that are one node, and without reuse.
TCAST_API std::vector<std::string> cost_of_identity_gaps(const Module& root);

/// Names of a decoder's children.
struct DecoderNames {
  std::string model = "model";  ///< of the decoder in the language model
  std::string embeddings = "embed_tokens";
  std::string positions = "embed_positions";  ///< learned position embeddings, where there are
  std::string layers = "layers";
  std::string norm = "norm";
  std::string rotary = "rotary_emb";
  std::string window_rotary = "rotary_emb_local";  ///< of layers with a window, if they differ

  bool operator==(const DecoderNames&) const = default;
};

/// Embedding, layers, final norm: token ids [tokens] in, hidden states [tokens, hidden] out.
class TCAST_API DecoderModel : public ModuleOf<DecoderModel> {
 public:
  DecoderModel(std::string class_name, DecoderNames names);

  struct Config {
    DecoderNames names{};

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value ids) const override;
  std::string fault() const override;

  Value embed(Trace& trace, Value ids) const { return call(trace, config_.names.embeddings, ids); }

  LayerList& layers() { return child_as<LayerList>(config_.names.layers); }
  const LayerList& layers() const { return child_as<LayerList>(config_.names.layers); }
  Module& embeddings() { return child(config_.names.embeddings); }
  const Module& embeddings() const { return child(config_.names.embeddings); }

 private:
  Config config_;
};

/// What stands on a decoder: logits over the vocabulary; nothing (embeddings are its hidden
/// states); scores of labels for each request, or for each token; a score through one more layer.
enum class HeadKind : std::uint8_t { causal, none, sequence, token, reward };

/// The class of a whole model and its head.
struct ModelHead {
  HeadKind kind = HeadKind::causal;
  std::string class_name = "CausalLm";  ///< HF class of the model
  std::string name = "lm_head";         ///< of the head among the model's children; empty: none
  std::int64_t labels = 0;

  bool operator==(const ModelHead&) const = default;
};

/// Linear, ReLU, Linear: what Qwen2.5's published reward models have as their head, with a bias on
/// both. Children: 0 and 2, as in PyTorch's Sequential.
class TCAST_API RewardHead : public ModuleOf<RewardHead> {
 public:
  RewardHead(std::int64_t hidden_size, std::int64_t labels, DType dtype);
  NoState config() const { return {}; }
  Value forward(Trace& trace, Value hidden) const override;
};

/// A decoder with its head as published, whose result it is for every row; without a head, hidden
/// states. A `softcap` c > 0 turns logits into c * tanh(logits / c).
class TCAST_API CausalLm : public ModuleOf<CausalLm> {
 public:
  explicit CausalLm(ModelHead head, std::string decoder_name = "model", double softcap = 0);

  struct Config {
    ModelHead head{};
    std::string decoder_name;
    double softcap = 0;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value ids) const override;
  std::string fault() const override;

  /// The head's result for normalized hidden states; these themselves without a head.
  Value logits(Trace& trace, Value hidden) const;

  HeadKind head_kind() const { return config_.head.kind; }
  const std::string& decoder_name() const { return config_.decoder_name; }
  DecoderModel& decoder() { return child_as<DecoderModel>(config_.decoder_name); }
  const DecoderModel& decoder() const { return child_as<DecoderModel>(config_.decoder_name); }

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// The one forward interface that wrap_model gives every language model: token ids in, the head's
/// result out for the rows that need it (of a causal model, in prefill the last row of each
/// request, in decode all; of a sequence classifier or reward model the last row; else all), then
/// the predictions of the MTP layers. Its only child has an empty name, so paths stay those of the
/// model.
class TCAST_API LanguageModelWrapper : public ModuleOf<LanguageModelWrapper> {
 public:
  explicit LanguageModelWrapper(std::unique_ptr<Module> model);

  struct Config {
    std::int64_t mtp_tokens = 0;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value ids) const override;
  std::string fault() const override;

  CausalLm& model() { return child_as<CausalLm>(""); }
  const CausalLm& model() const { return child_as<CausalLm>(""); }

  /// Tokens to predict beyond the next one; the MTP layers stand at the end of the layer list.
  void set_mtp_tokens(std::int64_t tokens) { config_.mtp_tokens = tokens; }
  std::int64_t mtp_tokens() const { return config_.mtp_tokens; }

 private:
  /// The MTP layers, in the order of the list.
  std::vector<const MtpLayer*> predictors() const;

  Config config_;
};

}  // namespace tcast
