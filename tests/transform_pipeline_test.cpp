// What the nine steps promise: the whole model survives them, shards add up to it, layer reuse
// changes nothing, an ignore-list may name one layer of many, and nothing asked for is dropped.
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/graph/op.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

namespace {

namespace fs = std::filesystem;
using tcast::ModelOptions;
using tcast::TransformerModel;

TransformerModel build(const std::string& name, const ModelOptions& options) {
  tcast::HfConfig config =
      tcast::HfConfig::load(std::string(TCAST_SOURCE_DIR) + "/configs/models/" + name + ".json");
  tcast::ModelProfile profile = tcast::load_profile(config.model_type(), {});
  return tcast::build_model(std::move(config), std::move(profile), options);
}

TransformerModel transformed(const std::string& name, const ModelOptions& options) {
  TransformerModel model = build(name, options);
  tcast::transform(model);
  return model;
}

std::vector<std::string> all_models() {
  std::vector<std::string> names;
  for (const auto& entry :
       fs::directory_iterator(std::string(TCAST_SOURCE_DIR) + "/configs/models")) {
    names.push_back(entry.path().stem().string());
  }
  return names;
}

tcast::Workload prefill(std::int64_t batch, std::int64_t query) {
  return {tcast::Phase::prefill, batch, query, 0};
}
tcast::Workload decode(std::int64_t batch, std::int64_t context) {
  return {tcast::Phase::decode, batch, 1, context};
}

/// Every op of a graph with its module, and how often it is called.
std::map<std::string, std::int64_t> called_ops(const tcast::Graph& graph) {
  std::map<std::string, std::int64_t> ops;
  const std::vector<std::int64_t> calls = graph.calls_per_region();
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    for (const tcast::Op& op : graph.regions[r].ops) {
      const std::string key = tcast::path_of(graph.regions[r], op.scope) + " " +
                              std::string(tcast::name_of(op.record)) + " " +
                              tcast::describe(op.record);
      ops[key] += calls[r];
    }
  }
  return ops;
}

std::string error_of(const std::string& name, const ModelOptions& options) {
  try {
    transformed(name, options);
  } catch (const tcast::Error& error) {
    return error.what();
  }
  return "no error";
}

std::string hint_of(const std::string& name, const ModelOptions& options) {
  try {
    transformed(name, options);
  } catch (const tcast::Error& error) {
    return error.hint();
  }
  return "no error";
}

/// The collectives that one pass makes.
std::vector<tcast::Collective> collectives_of(const TransformerModel& model) {
  tcast::Graph graph;
  model.trace(decode(64, 100), graph);
  std::vector<tcast::Collective> found;
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    for (const tcast::Op& op : graph.regions[r].ops) {
      const auto* one = std::get_if<tcast::Collective>(&op.record);
      if (one != nullptr) found.push_back(*one);
    }
  }
  return found;
}

}  // namespace

TEST_CASE("every shipped model goes through the nine steps and can be traced") {
  for (const std::string& name : all_models()) {
    CAPTURE(name);
    const TransformerModel before = build(name, {});
    TransformerModel model = transformed(name, {});
    CHECK(model.count_parameters().total == before.count_parameters().total);
    tcast::Graph graph;
    model.trace(prefill(1, 128), graph);
    CHECK(graph.calls.size() > 2);
    before.trace(decode(2, 100), graph);
    model.trace(decode(2, 100), graph);
    CHECK(graph.region_count <= 4);
  }
}

TEST_CASE("layer reuse changes no op and no count") {
  for (const std::string& name : all_models()) {
    CAPTURE(name);
    ModelOptions options;
    options.num_hidden_layers = 7;
    ModelOptions without = options;
    without.reuse_layers = false;
    const TransformerModel reused = transformed(name, options);
    const TransformerModel written_out = transformed(name, without);
    CHECK(reused.weight_bytes() == written_out.weight_bytes());
    for (const tcast::Workload& work : {prefill(2, 33), decode(3, 100)}) {
      tcast::Graph a;
      tcast::Graph b;
      reused.trace(work, a);
      written_out.trace(work, b);
      CHECK(a.calls.size() == b.calls.size());
      CHECK(a.region_count < b.region_count);
      CHECK(called_ops(a) == called_ops(b));
    }
  }
}

TEST_CASE("layers are told apart by what they compute, and by nothing else") {  // S1
  // Dense and expert layers, windows, layers without rotary positions.
  const std::set<std::string> two_kinds = {"deepseek-v2-lite", "deepseek-v2", "deepseek-v3",
                                           "gemma-2-9b",       "gemma-3-1b",  "glm-4.5-air",
                                           "gpt-oss-20b-bf16", "kimi-k2",     "smollm3-3b"};
  std::vector<ModelOptions> variants(3);
  variants[1].quantize_linear = tcast::LinearScheme::w8a8_dynamic;
  variants[1].quantize_kv_cache = tcast::KvScheme::int8;
  variants[2].parallel.tp = 2;
  for (const std::string& name : all_models()) {
    CAPTURE(name);
    for (const ModelOptions& options : variants) {
      const TransformerModel model = transformed(name, options);
      std::int64_t distinct = 0;
      walk(model.root(), [&](const tcast::Module& module, const tcast::ModulePath&) {
        const auto* list = dynamic_cast<const tcast::LayerList*>(&module);
        if (list == nullptr) return;
        for (std::size_t i = 0; i < list->equal_to().size(); ++i) {
          distinct += list->equal_to()[i] == i ? 1 : 0;
        }
      });
      CHECK(distinct == (two_kinds.count(name) > 0 ? 2 : 1));
    }
  }
}

TEST_CASE("an ignore-list may name one layer of many, or one expert of one layer") {
  struct Row {
    const char* model;
    const char* pattern;
    std::int64_t kept;  // parameters that stay in 16 bit because of the pattern
  };
  const Row rows[] = {
      {"qwen3-8b", "model.layers.17", 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 12288},
      {"qwen3-8b", "model.layers.17.mlp.up_proj", 4096 * 12288},
      {"qwen3-8b", "layers.3.self_attn.q_proj", 4096 * 4096},
      {"qwen3-8b", "*.layers.[12].self_attn.q_proj", 2 * 4096 * 4096},
      {"qwen3-8b", "re:model\\.layers\\.(5|8)\\.self_attn\\.q_proj", 2 * 4096 * 4096},
      {"qwen3-30b-a3b", "model.layers.3.mlp.experts.7.gate_proj", 2048 * 768},
      {"qwen3-30b-a3b", "model.layers.3.mlp.experts.7", 3 * 2048 * 768},
  };
  for (const Row& row : rows) {
    CAPTURE(row.model);
    CAPTURE(row.pattern);
    ModelOptions plain;
    plain.quantize_linear = tcast::LinearScheme::fp8;
    ModelOptions with = plain;
    with.quantize_ignore = {row.pattern};
    const TransformerModel all = transformed(row.model, plain);
    const TransformerModel some = transformed(row.model, with);
    std::int64_t narrow_all = 0;
    std::int64_t narrow_some = 0;
    for (const auto& named : all.parameters()) {
      if (named.parameter->dtype == tcast::DType::f8_e4m3) {
        narrow_all += named.parameter->shape.elements();
      }
    }
    for (const auto& named : some.parameters()) {
      if (named.parameter->dtype == tcast::DType::f8_e4m3) {
        narrow_some += named.parameter->shape.elements();
      }
    }
    CHECK(narrow_all - narrow_some == row.kept);

    ModelOptions without = with;
    without.reuse_layers = false;
    const TransformerModel written_out = transformed(row.model, without);
    CHECK(some.weight_bytes() == written_out.weight_bytes());
    tcast::Graph a;
    tcast::Graph b;
    some.trace(prefill(1, 16), a);
    written_out.trace(prefill(1, 16), b);
    CHECK(called_ops(a) == called_ops(b));
  }
}

TEST_CASE("shards times ranks are the whole, replicated parts apart") {
  for (const std::string& name : all_models()) {
    for (const std::int64_t tp : {1, 2, 4, 8}) {
      for (const std::int64_t ep : {1, 4}) {
        CAPTURE(name);
        CAPTURE(tp);
        CAPTURE(ep);
        ModelOptions options;
        options.parallel.tp = tp;
        options.parallel.ep = ep;
        options.parallel.num_devices = 8;
        TransformerModel model = build(name, options);
        const bool has_experts = model.count_parameters().active < model.count_parameters().total;
        const auto heads = model.config().get<std::int64_t>("num_attention_heads");
        if ((ep > 1 && !has_experts) || heads % tp != 0) continue;
        tcast::transform(model);
        walk(model.root(), [&](const tcast::Module& module, const tcast::ModulePath& path) {
          for (const tcast::Parameter& parameter : module.parameters()) {
            const std::int64_t whole = parameter.shape.elements() * path.count();
            const std::int64_t local = parameter.local_shape().elements() * path.local_count();
            CAPTURE(path.text());
            CHECK(local <= whole);
            if (parameter.shard.dim < 0) {
              const bool spread = path.local_count() < path.count() || parameter.stack.ranks > 1;
              CHECK((spread ? local * ep == whole : local == whole));
              continue;
            }
            // Pieces held by several ranks (replicated KV heads) are counted once.
            std::int64_t sum = 0;
            for (const tcast::ShardSegment& segment : parameter.shard.segments) {
              sum += segment.local_size() * segment.parts;
            }
            const std::int64_t dim = parameter.shape[parameter.shard.dim];
            const bool vocabulary = dynamic_cast<const tcast::Embedding*>(&module) != nullptr ||
                                    path.text() == "lm_head";
            CHECK((vocabulary ? sum >= dim && sum < dim + tp : sum == dim));
          }
        });
      }
    }
  }
}

TEST_CASE("tables of layers that have their own are counted for each layer, reused or not") {
  const std::string text =
      R"({"model_type": "bailing_moe", "torch_dtype": "bfloat16", "vocab_size": 101,
          "hidden_size": 48, "num_hidden_layers": 5, "intermediate_size": 80,
          "num_attention_heads": 6, "num_key_value_heads": 3, "num_experts": 4,
          "num_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16})";
  for (const bool reuse : {true, false}) {
    ModelOptions options;
    options.reuse_layers = reuse;
    tcast::HfConfig config = tcast::HfConfig::parse(text, "ling.json");
    tcast::ModelProfile profile = tcast::load_profile("bailing_moe", {});
    TransformerModel model = tcast::build_model(std::move(config), std::move(profile), options);
    tcast::transform(model);
    tcast::Graph graph;
    model.trace(prefill(1, 10), graph);
    model.trace(prefill(1, 10), graph);  // what an earlier trace noted is forgotten
    CHECK(graph.constant_bytes == 5 * 2 * 10 * 8 * 2);
  }
}

TEST_CASE("a padded slice of tokens routes no more rows than there are tokens") {
  ModelOptions options;
  options.parallel.tp = 8;
  options.parallel.ep = 8;
  const TransformerModel model = transformed("deepseek-v3", options);
  tcast::Graph graph;
  model.trace(decode(1, 100), graph);
  std::int64_t grouped = 0;
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    for (const tcast::Op& op : graph.regions[r].ops) {
      const auto* matmul = std::get_if<tcast::GroupedMatMul>(&op.record);
      if (matmul == nullptr) continue;
      ++grouped;
      CHECK(matmul->rows == 1);  // one token, eight experts, eight ranks
      CHECK(matmul->distinct_experts == 1);
    }
  }
  CHECK(grouped == 3);
}

TEST_CASE("what is asked for is done or refused") {
  ModelOptions ep;
  ep.parallel.ep = 8;
  ep.parallel.num_devices = 8;
  CHECK(error_of("llama-3.1-8b", ep) ==
        "--ep 8 was asked for, but the nine standard steps did not carry it out");
  ModelOptions skipped;
  skipped.parallel.tp = 2;
  skipped.skip_steps = {"shard_model"};
  CHECK(error_of("llama-3.1-8b", skipped) ==
        "--tp 2 was asked for, but the nine standard steps did not carry it out: 226 modules "
        "(15.0 GiB) stay as they were (model.embed_tokens, model.layers.[0-31].self_attn.q_proj, "
        "model.layers.[0-31].self_attn.k_proj and 6 more)");
  ModelOptions mtp;
  mtp.num_mtp_tokens = 1;
  CHECK(error_of("deepseek-v3", mtp) == "no error");
  CHECK(error_of("qwen3-8b", mtp).find("has no multi-token-prediction layers") !=
        std::string::npos);
  ModelOptions heads;
  heads.parallel.tp = 5;
  CHECK(error_of("qwen3-8b", heads) ==
        "model.layers.[0-35].self_attn: 32 attention heads cannot be divided over tp 5");
  ModelOptions ranks;
  ranks.parallel.tp = 2;
  ranks.parallel.num_devices = 3;
  CHECK(error_of("qwen3-8b", ranks) == "--num-devices 3 cannot be divided into groups of --tp 2");
  ModelOptions nothing;
  nothing.quantize_linear = tcast::LinearScheme::fp8;
  nothing.quantize_ignore = {"model.layers.99"};
  CHECK(error_of("qwen3-8b", nothing) ==
        "--quantize-ignore 'model.layers.99' matches no linear of the model");
  ModelOptions skew;
  skew.expert_skew = 0.5;
  CHECK(error_of("qwen3-8b", skew) ==
        "--expert-skew 0.5 was asked for, but the nine standard steps did not carry it out");
  CHECK(hint_of("qwen3-8b", skew) ==
        "step 'patch_moe': the profile names no mixture of experts (moe_module_name)");
  CHECK(error_of("mixtral-8x7b", skew) == "no error");
  skew.skip_steps = {"patch_moe"};
  CHECK(hint_of("mixtral-8x7b", skew) == "step 'patch_moe': disabled by --skip-step");
  ModelOptions ignore;
  ignore.quantize_ignore = {"lm_head", "mlp.gate"};
  CHECK(error_of("qwen3-8b", ignore) ==
        "--quantize-ignore 'lm_head, mlp.gate' was asked for, but the nine standard steps did not "
        "carry it out");
  CHECK(hint_of("qwen3-8b", ignore) ==
        "step 'quantize_model': the checkpoint is not quantized and nothing was asked for");
  ignore.quantize_ignore = {"lm_head"};
  CHECK(error_of("deepseek-v3", ignore) == "no error");
  ModelOptions broken;
  broken.quantize_linear = tcast::LinearScheme::fp8;
  broken.quantize_ignore = {"re:["};
  CHECK(error_of("qwen3-8b", broken).find("--quantize-ignore: 're:[' is no regular expression") ==
        0);
  ignore.quantize_linear = tcast::LinearScheme::none;
  CHECK(hint_of("deepseek-v3", ignore) ==
        "step 'quantize_model': linears stay as they are (--quantize-linear none)");
  ModelOptions cache;
  cache.quantize_kv_cache = tcast::KvScheme::fp8;
  cache.skip_steps = {"patch_attention"};
  CHECK(error_of("qwen3-8b", cache) ==
        "--quantize-kv-cache fp8 was asked for, but the nine standard steps did not carry it out: "
        "36 modules (144 KiB per token) stay as they were (model.layers.*.self_attn)");
  CHECK(hint_of("qwen3-8b", cache) == "step 'quantize_model': no attention keeps a paged cache");
  ModelOptions typo;
  typo.skip_steps = {"patch_atention"};
  CHECK(error_of("qwen3-8b", typo) == "--skip-step: unknown step 'patch_atention'");
}

TEST_CASE("ranks of an expert-parallel group are evenly apart, whatever ep and tp are") {
  struct Row {
    std::int64_t tp;
    std::int64_t ep;
    std::int64_t devices;
    std::int64_t stride;  // between ranks of the expert-parallel group
    std::int64_t cut;     // ranks that cut each expert, neighbours
    std::int64_t slices;  // parts of the tokens of a tensor-parallel group
  };
  const Row rows[] = {
      {1, 8, 8, 1, 1, 1}, {4, 4, 8, 1, 1, 4},   {4, 8, 8, 1, 1, 4},  {4, 2, 8, 2, 2, 2},
      {8, 2, 8, 4, 4, 2}, {4, 1, 8, 4, 4, 1},   {4, 6, 24, 2, 2, 2}, {8, 12, 24, 2, 2, 4},
      {2, 3, 6, 2, 2, 1}, {4, 12, 24, 1, 1, 4}, {8, 6, 48, 4, 4, 2},
  };
  for (const Row& row : rows) {
    CAPTURE(row.tp);
    CAPTURE(row.ep);
    ModelOptions options;
    options.parallel = {row.devices, row.tp, row.ep};
    options.quantize_linear = tcast::LinearScheme::none;
    // 384 experts; devices of a group: base + i * stride.
    const TransformerModel model = transformed("kimi-k2", options);
    bool all_to_all = false;
    for (const tcast::Collective& op : collectives_of(model)) {
      if (op.kind == tcast::CollectiveKind::all_to_all) {
        all_to_all = true;
        CHECK(op.group_size == row.ep);
        CHECK(op.stride == row.stride);
        CHECK((op.group_size - 1) * op.stride < row.devices);
      } else if (op.group_size == row.tp) {
        CHECK(op.stride == 1);
      } else if (op.kind == tcast::CollectiveKind::all_reduce) {
        CHECK(op.group_size == row.cut);
        CHECK(op.stride == 1);
      } else {
        CHECK(op.group_size == row.slices);
        CHECK(op.stride == row.stride);
      }
    }
    CHECK(all_to_all == (row.ep > 1));
  }
  ModelOptions uneven;
  uneven.parallel = {8, 4, 6};
  CHECK(error_of("kimi-k2", uneven) == "--ep 6 does not divide tp x dp = 4 x 2 = 8");
}

TEST_CASE("an MTP layer is like the last layer of the whole model") {
  for (const std::optional<std::int64_t> layers : {std::optional<std::int64_t>(), {4}, {61}}) {
    ModelOptions options;
    options.num_mtp_tokens = 1;
    options.num_hidden_layers = layers;
    TransformerModel model = transformed("deepseek-v3", options);
    const std::string path = fmt::format("model.layers.{}", layers.value_or(61));
    CAPTURE(path);
    REQUIRE(model.find(path) != nullptr);
    CHECK(model.find(path)->class_name() == "MtpLayer");
    REQUIRE(model.find(path + ".mlp") != nullptr);
    CHECK(model.find(path + ".mlp")->hf_class_name() == "DeepseekV3MoE");
    CHECK(model.reports()[1].changed.at(0).path == path);
  }
  // The dense layers at the front are not like it.
  ModelOptions options;
  options.num_mtp_tokens = 1;
  options.num_hidden_layers = 3;
  CHECK(error_of("deepseek-v3", options) ==
        "--num-mtp-tokens 1: a multi-token-prediction layer has a 'DeepseekV3MoE', which none of "
        "the layers kept by --num-hidden-layers 3 has");
}

TEST_CASE("a KV cache that was quantized stays so when a step replaces its attention") {
  for (const bool mla_last : {false, true}) {
    CAPTURE(mla_last);
    ModelOptions options;
    options.quantize_kv_cache = tcast::KvScheme::fp8;
    TransformerModel model = build("deepseek-v3", options);
    tcast::wrap_model(model);
    tcast::maybe_reuse_layers(model);
    tcast::patch_attention(model);
    if (!mla_last) tcast::patch_mla(model);
    tcast::quantize_model(model);
    if (mla_last) tcast::patch_mla(model);
    tcast::Graph graph;
    model.trace(decode(1, 100), graph);
    std::int64_t caches = 0;
    for (std::uint32_t r = 0; r < graph.region_count; ++r) {
      for (const tcast::CacheSpec& cache : graph.regions[r].caches) {
        ++caches;
        CHECK(cache.dtype == tcast::DType::f8_e4m3);
        CHECK(cache.elements_per_token == 512 + 64);
      }
    }
    CHECK(caches == 2);
  }
}
