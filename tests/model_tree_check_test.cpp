// A tree that cannot be what somebody wanted is found before it is priced: in itself (parameters,
// children, lists), or when a small pass is traced.
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/model/decoder.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/tree_check.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace tcast {
namespace {

/// Hidden states of 32, 4 heads of 8 that share 2 key and value heads, 48 inside, 64 tokens.
constexpr const char* sizes =
    R"("hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
       "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "vocab_size": 64,
       "rms_norm_eps": 1e-6, "max_position_embeddings": 128, "torch_dtype": "bfloat16")";
constexpr const char* experts =
    R"(, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
       "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
       "first_k_dense_replace": 0, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8,
       "qk_rope_head_dim": 4, "v_head_dim": 8, "num_nextn_predict_layers": 1)";

TransformerModel build(const std::string& model_type, ModelOptions options = {}) {
  const bool dense = model_type == "qwen3" || model_type == "llama";
  const std::string text =
      fmt::format(R"({{"model_type": "{}", "tie_word_embeddings": {}, {}{}}})", model_type,
                  model_type == "qwen3", sizes, dense ? "" : experts);
  HfConfig config = HfConfig::parse(text, "config.json");
  ModelProfile profile = load_profile(model_type, {});
  return build_model(std::move(config), std::move(profile), std::move(options));
}

std::string text_of(const std::optional<TreeFault>& fault) {
  return fault ? fmt::format("{}: {}", fault->path, fault->text) : "";
}

std::string fault_of(const TransformerModel& model) {
  const std::optional<TreeFault> fault = find_fault(model.root());
  return text_of(fault ? fault : find_traced_fault(model));
}

Module& at(TransformerModel& model, const std::string& path) {
  Module* const found = model.find(path);
  REQUIRE(found != nullptr);
  return *found;
}

Parameter& weight(TransformerModel& model, const std::string& path) {
  return at(model, path).parameters().at(0);
}

void remove_child(Module& module, const std::string& name) {
  auto& children = const_cast<std::vector<std::unique_ptr<Module>>&>(module.children());
  std::erase_if(children, [&](const auto& child) { return child->name() == name; });
}

/// A mistake somebody may make with a tree, and what is said of it.
struct Row {
  const char* what;
  const char* model_type;
  std::function<void(TransformerModel&)> edit;
  const char* fault;
};

const Row rows[] = {
    {"nothing", "qwen3", [](TransformerModel&) {}, ""},
    {"no weight", "qwen3",
     [](TransformerModel& m) { at(m, "model.layers.0.mlp.up_proj").parameters().clear(); },
     "model.layers.[0-2].mlp.up_proj: it has no parameter 'weight'"},
    {"a weight of rank 1", "qwen3",
     [](TransformerModel& m) { weight(m, "model.layers.0.mlp.up_proj").shape = {48}; },
     "model.layers.[0-2].mlp.up_proj: its weight is [48], expected [48, 32]"},
    {"a weight of rank 3", "llama",
     [](TransformerModel& m) {
       weight(m, "lm_head").shape = {1, 64, 32};
     },
     "lm_head: its weight is [1, 64, 32], expected [64, 32]"},
    {"a weight of half the rows", "llama",
     [](TransformerModel& m) {
       weight(m, "lm_head").shape = {32, 32};
     },
     "lm_head: its weight is [32, 32], expected [64, 32]"},
    {"a weight the other way round", "qwen3",
     [](TransformerModel& m) {
       weight(m, "model.layers.0.mlp.down_proj").shape = {48, 32};
     },
     "model.layers.[0-2].mlp.down_proj: its weight is [48, 32], expected [32, 48]"},
    {"an empty weight", "qwen3", [](TransformerModel& m) { weight(m, "model.norm").shape = {0}; },
     "model.norm: its parameter 'weight' is empty: [0]"},
    {"a weight that no memory holds", "qwen3",
     [](TransformerModel& m) {
       weight(m, "model.norm").shape = {1L << 40, 1L << 40};
     },
     "model.norm: shape: 1099511627776 x 1099511627776 is larger than a 64-bit size can hold"},
    {"a wide bias", "qwen3",
     [](TransformerModel& m) {
       Parameter bias;
       bias.name = "bias";
       bias.shape = {32};
       at(m, "model.layers.0.self_attn.q_proj").add_parameter(bias);
       at(m, "model.layers.0.mlp.up_proj").add_parameter(bias);
     },
     "model.layers.[0-2].mlp.up_proj: its bias is [32], expected [48]"},
    {"a shard along a dimension that is not there", "qwen3",
     [](TransformerModel& m) {
       weight(m, "model.norm").shard = {1, 2, 1, {}};
     },
     "model.norm: its weight [32] is cut along dimension 1 over 2 ranks"},
    {"a shard with pieces of another size", "qwen3",
     [](TransformerModel& m) {
       weight(m, "model.norm").shard = {0, 2, 1, {{30, 2}}};
     },
     "model.norm: its weight [32] is cut in pieces of 30 together"},
    {"a head tied to a table of another size", "qwen3",
     [](TransformerModel& m) {
       at(m, "model").replace_child(0, [] {
         auto made = std::make_unique<Embedding>(60, 32, DType::bf16);
         made->set_name("embed_tokens");
         return made;
       }());
     },
     "lm_head: its weight [64, 32] is tied to model.embed_tokens.weight [60, 32]"},
    {"a child that forward calls", "qwen3",
     [](TransformerModel& m) { remove_child(at(m, "model.layers.0.mlp"), "up_proj"); },
     "model.layers.[0-2].mlp: it has no child 'up_proj' (it has gate_proj, down_proj)"},
    {"a norm", "qwen3",
     [](TransformerModel& m) { remove_child(at(m, "model.layers.0"), "input_layernorm"); },
     "model.layers.[0-2]: it has no child 'input_layernorm' (it has self_attn, mlp, "
     "post_attention_layernorm)"},
    {"the rotary embedding", "qwen3",
     [](TransformerModel& m) { remove_child(at(m, "model"), "rotary_emb"); },
     "model.layers.[0-2].self_attn: an attention needs the rotary values 'default', which no "
     "rotary embedding of the model provided"},
    {"a projection of attention", "qwen3",
     [](TransformerModel& m) { remove_child(at(m, "model.layers.0.self_attn"), "k_proj"); },
     "model.layers.[0-2].self_attn: it has no child 'k_proj' (it has q_proj, v_proj, o_proj, "
     "q_norm, k_norm)"},
    {"children that take each other's place", "qwen3",
     [](TransformerModel& m) {
       Module& attention = at(m, "model.layers.0.self_attn");
       attention.child("q_proj").set_name("spare");
       attention.child("k_proj").set_name("q_proj");
       attention.child("spare").set_name("k_proj");
     },
     "model.layers.[0-2].self_attn: its child 'q_proj' has 16 outputs, expected 32"},
    {"projections of a feed-forward block in each other's place", "qwen3",
     [](TransformerModel& m) {
       Module& mlp = at(m, "model.layers.0.mlp");
       mlp.child("down_proj").set_name("spare");
       mlp.child("up_proj").set_name("down_proj");
       mlp.child("spare").set_name("up_proj");
     },
     "model.layers.[0-2].mlp: its child 'gate_proj' has 48 outputs, expected 32"},
    {"two children of one name", "qwen3",
     [](TransformerModel& m) {
       at(m, "model.layers.0.mlp")
           .add_child("up_proj", std::make_unique<Linear>(32, 48, false, DType::bf16));
     },
     "model.layers.[0-2].mlp: it has two children 'up_proj'"},
    {"a layer of another width", "llama",
     [](TransformerModel& m) {
       ModelOptions options;
       HfConfig config = HfConfig::parse(
           R"({"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1,
               "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 64,
               "rms_norm_eps": 1e-6, "max_position_embeddings": 64, "head_dim": 8})",
           "other.json");
       TransformerModel other = build_model(std::move(config), load_profile("llama", {}), options);
       at(m, "model.layers").append(at(other, "model.layers.0").clone(), 1);
     },
     "model.layers.3.self_attn.q_proj: matmul m=12 n=16 k=16 bf16*bf16->bf16: its input is [6, "
     "32], "
     "expected rows of 16"},
    {"a feed-forward block whose result is narrower", "llama",
     [](TransformerModel& m) {
       Module& mlp = at(m, "model.layers.0.mlp");
       for (std::size_t i = 0; i < mlp.children().size(); ++i) {
         if (mlp.children()[i]->name() != "down_proj") continue;
         auto narrow = std::make_unique<Linear>(48, 16, false, DType::bf16);
         narrow->set_name("down_proj");
         mlp.replace_child(i, std::move(narrow));
       }
     },
     "model.layers.0: add elements=192 second=96 bf16: [6, 16] does not stretch to [6, 32]"},
    {"a gap in a list", "qwen3",
     [](TransformerModel& m) { at(m, "model.layers.0").set_members(1, 2); },
     "model.layers: there is a gap before entry 1"},
    {"a list of no entries", "qwen3",
     [](TransformerModel& m) { at(m, "model.layers.0").set_members(0, 0); },
     "model.layers: its entry '[0--1]' stands for 0 entries, 0 of them on a rank"},
    {"a list of more layers than there can be", "qwen3",
     [](TransformerModel& m) {
       at(m, "model.layers").child("[0-2]").set_members(0, 1'000'000'000'000);
     },
     "model.layers: it has 1000000000000 layers, more than any model"},
    {"something that is no list member in a list", "qwen3",
     [](TransformerModel& m) {
       at(m, "model.layers").add_child("more", std::make_unique<ModuleList>());
     },
     "model.layers: it is a list only in part"},
    {"no list of layers", "qwen3",
     [](TransformerModel& m) { remove_child(at(m, "model"), "layers"); },
     "model: it has no child 'layers' (it has embed_tokens, norm, rotary_emb)"},
    {"a missing child", "qwen3",
     [](TransformerModel& m) { at(m, "model").replace_child(0, nullptr); },
     "model: a child is missing"},
    {"a gate for other experts", "qwen3_moe",
     [](TransformerModel& m) {
       auto gate = std::make_unique<Linear>(32, 5, false, DType::bf16);
       gate->set_name("gate");
       at(m, "model.layers.0.mlp").replace_child(0, std::move(gate));
     },
     "model.layers.[0-2].mlp: its child 'gate' has 5 outputs, expected 4"},
    {"an expert too many", "qwen3_moe",
     [](TransformerModel& m) {
       Module& list = at(m, "model.layers.0.mlp.experts");
       list.append(list.children()[0]->clone(), 1);
     },
     "model.layers.[0-2].mlp: it has 5 experts, expected 4"},
    {"fused experts without a bias", "gpt_oss",
     [](TransformerModel& m) {
       auto& list = at(m, "model.layers.0.mlp.experts").parameters();
       std::erase_if(list, [](const Parameter& one) { return one.name == "down_proj_bias"; });
     },
     "model.layers.0.mlp.experts: it has no parameter 'down_proj_bias'"},
    {"sinks for other heads", "gpt_oss",
     [](TransformerModel& m) {
       at(m, "model.layers.0.self_attn").find_parameter("sinks")->shape = {5};
     },
     "model.layers.0.self_attn: its sinks is [5], expected [4]"},
    {"a latent norm", "deepseek_v3",
     [](TransformerModel& m) { remove_child(at(m, "model.layers.0.self_attn"), "kv_a_layernorm"); },
     "model.layers.[0-2].self_attn: it has no child 'kv_a_layernorm' (it has q_a_proj, "
     "q_a_layernorm, q_b_proj, kv_a_proj_with_mqa, kv_b_proj, o_proj)"},
    {"a compressing projection of another width", "deepseek_v3",
     [](TransformerModel& m) {
       auto other = std::make_unique<Linear>(32, 30, false, DType::bf16);
       other->set_name("kv_a_proj_with_mqa");
       Module& attention = at(m, "model.layers.0.self_attn");
       for (std::size_t i = 0; i < attention.children().size(); ++i) {
         if (attention.children()[i]->name() != other->name()) continue;
         attention.replace_child(i, std::move(other));
         break;
       }
     },
     "model.layers.[0-2].self_attn: its child 'kv_a_proj_with_mqa' has 30 outputs, expected 20"},
};

TEST_CASE("what is wrong with a tree is told with its place") {  // C3
  for (const Row& row : rows) {
    CAPTURE(row.what);
    TransformerModel model = build(row.model_type);
    CHECK(fault_of(model).empty());
    row.edit(model);
    CHECK(fault_of(model) == row.fault);
  }
}

TEST_CASE("the same mistakes in a transformed tree") {  // C3
  for (const Row& row : rows) {
    CAPTURE(row.what);
    if (row.fault == std::string()) continue;
    ModelOptions options;
    options.quantize_linear = LinearScheme::w8a8_dynamic;
    options.parallel.tp = 2;
    TransformerModel model = build(row.model_type, options);
    transform(model);
    CHECK(fault_of(model).empty());
    row.edit(model);
    CHECK_FALSE(fault_of(model).empty());
  }
}

TEST_CASE("scales that do not fit their weight") {  // C3
  LinearQuantization scheme;
  scheme.scales.block_rows = 16;
  scheme.scales.block_columns = 16;
  const auto quantized = [&] {
    Linear linear(64, 32, false, DType::bf16);
    linear.quantize(scheme);
    linear.shard_columns({2, 1});
    return linear;
  };
  const auto fault_after = [&](auto edit) {
    Linear linear = quantized();
    edit(linear.parameters());
    return linear.fault();
  };
  using List = std::vector<Parameter>;
  CHECK(fault_after([](List&) {}).empty());
  CHECK(fault_after([](List& list) {
          list[1].shape = {2, 8};
        }) == "its weight_scale is [2, 8], expected [2, 4]");
  CHECK(fault_after([](List& list) { list[1].shard = {}; }) ==
        "its weight_scale is not cut as its weight is");
  CHECK(fault_after([](List& list) { list.pop_back(); }) == "it is quantized, and has no scales");
  CHECK(fault_after([](List& list) { list[0].shard = {}; }) ==
        "its weight is cut over 1 rank(s), the module itself over 2");
}

TEST_CASE("a tree that is deeper than any model, and one that calls itself") {  // C3
  auto deep = std::make_unique<ModuleList>();
  for (int i = 0; i < 100'000; ++i) {
    auto above = std::make_unique<ModuleList>();
    above->add_child("child", std::move(deep));
    deep = std::move(above);
  }
  const std::optional<TreeFault> fault = find_fault(*deep);
  REQUIRE(fault);
  CHECK(fault->text == "more than 200 modules lie inside one another");

  class Endless : public ModuleOf<Endless> {
   public:
    Endless() : ModuleOf("Endless") {}
    NoState config() const { return {}; }
    Value forward(Trace& trace, Value input) const override { return (*this)(trace, input); }
  };
  TransformerModel model = build("qwen3");
  auto endless = std::make_unique<Endless>();
  endless->set_name("mlp");
  at(model, "model.layers.0").replace_child(1, std::move(endless));
  CHECK(find_traced_fault(model)->text == "more than 1000 modules call one another");
}

TEST_CASE("a model of few positions is traced as far as they go") {
  for (const int positions : {1, 2, 3, 100}) {
    const std::string text = fmt::format(
        R"({{"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64,
             "n_positions": {0}, "n_ctx": {0}}})",
        positions);
    HfConfig config = HfConfig::parse(text, "config.json");
    TransformerModel model = build_model(std::move(config), load_profile("gpt2", {}), {});
    CHECK(fault_of(model).empty());
    CHECK_NOTHROW(transform(model));
  }
}

}  // namespace
}  // namespace tcast
