// Patterns of module paths: what they match, and that lists are cut exactly where they tell members
// apart.
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/model/layers.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/module_filter.h"

#include "error_of.h"

namespace {

using tcast::ModuleFilter;
using tcast::TransformerModel;

TransformerModel build(const std::string& name, std::optional<std::int64_t> layers = {}) {
  tcast::HfConfig config =
      tcast::HfConfig::load(std::string(TCAST_SOURCE_DIR) + "/configs/models/" + name + ".json");
  tcast::ModelProfile profile = tcast::load_profile(config.model_type(), {});
  tcast::ModelOptions options;
  options.num_hidden_layers = layers;
  return tcast::build_model(std::move(config), std::move(profile), options);
}

/// Every Linear of the tree, by its path with the list indices written out.
void each_linear(const tcast::Module& module, const std::string& path,
                 const std::function<void(const std::string& path)>& visit) {
  if (dynamic_cast<const tcast::Linear*>(&module) != nullptr) visit(path);
  for (const auto& child : module.children()) {
    const tcast::ListMembers& members = child->members();
    for (std::int64_t i = 0; i < members.count; ++i) {
      const std::string piece =
          members.in_list() ? std::to_string(members.first + i) : child->name();
      each_linear(*child, path.empty() ? piece : path + "." + piece, visit);
    }
  }
}

std::int64_t nodes_of(const tcast::Module& root) {
  std::int64_t nodes = 0;
  walk(root, [&](const tcast::Module&, const tcast::ModulePath&) { ++nodes; });
  return nodes;
}

}  // namespace

TEST_CASE("what a pattern matches") {
  struct Row {
    const char* pattern;
    const char* path;
    bool matches;
  };
  const Row rows[] = {
      {"lm_head", "lm_head", true},
      {"head", "lm_head", false},
      {"mlp.gate", "model.layers.3.mlp.gate", true},
      {"mlp.gate", "model.layers.3.mlp.gate_proj", false},
      {"model.layers.3", "model.layers.3.mlp.gate", true},
      {"model.layers.3", "model.layers.31.mlp.gate", false},
      {"layers.3", "model.layers.3.mlp.gate", false},  // neither at the start nor at the end
      {"*.gate", "model.layers.3.mlp.gate", true},
      {"*.layers.[12].*", "model.layers.2.mlp.gate", true},
      {"*.layers.?.*", "model.layers.12.mlp.gate", false},
      {"re:.*gate", "model.layers.3.mlp.gate_proj", true},
      {"re:.*gate$", "model.layers.3.mlp.gate_proj", false},
      {"re:layers", "model.layers.3", false},  // from the start of the path
      {"re:^(?!.*experts).*gate", "model.layers.3.mlp.experts.1.gate_proj", false},
      {"re:^(?!.*experts).*gate", "model.layers.3.mlp.gate_proj", true},
      // A glob names a module with everything below it, as a literal does.
      {"model.layers.*.self_attn", "model.layers.3.self_attn.q_proj", true},
      {"model.layers.*.self_attn", "model.layers.3.self_attn_norm", false},
      {"model.layers.0*", "model.layers.0.mlp.gate_proj", true},
      {"", "", true},
      {"", "lm_head", false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.pattern);
    CAPTURE(row.path);
    const ModuleFilter filter({"no.such.module", row.pattern}, "test");
    CHECK(filter.match(row.path).has_value() == row.matches);
  }
}

TEST_CASE("what a pattern of compressed-tensors matches") {
  struct Row {
    const char* pattern;
    const char* path;
    std::optional<ModuleFilter::Kind> kind;
  };
  using Kind = ModuleFilter::Kind;
  const Row rows[] = {
      {"model.layers.3.mlp.gate_proj", "model.layers.3.mlp.gate_proj", Kind::name},
      {"model.layers.3.mlp", "model.layers.3.mlp.gate_proj", {}},
      {"gate_proj", "model.layers.3.mlp.gate_proj", {}},
      {"*.gate_proj", "model.layers.3.mlp.gate_proj", {}},
      {"Linear", "model.layers.3.mlp.gate_proj", Kind::class_name},
      {"linear", "model.layers.3.mlp.gate_proj", {}},
      {"re:.*gate", "model.layers.3.mlp.gate_proj", Kind::expression},
      {"re:gate", "model.layers.3.mlp.gate_proj", {}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.pattern);
    const ModuleFilter filter({row.pattern}, "test", tcast::PatternStyle::exact);
    const auto match = filter.match(row.path, "Linear");
    REQUIRE(match.has_value() == row.kind.has_value());
    if (match) CHECK((match->kind == *row.kind));
  }
  // The most specific one counts.
  const ModuleFilter filter({"Linear", "re:.*", "lm_head"}, "test", tcast::PatternStyle::exact);
  CHECK(filter.match("lm_head", "Linear")->pattern == "lm_head");
  CHECK(filter.match("other", "Linear")->pattern == "re:.*");
}

TEST_CASE("globs and expressions are held against other names of a path, literals against both") {
  const auto names = [](const std::string& path) {
    return std::vector<std::string>{"language_model." + path};
  };
  struct Row {
    const char* pattern;
    bool matches;  // model.layers.3.mlp
  };
  const Row rows[] = {
      {"re:model\\..*", false},
      {"re:language_model\\..*", true},
      {"language_model.model.layers.3*", true},
      {"model.layers.3*", false},
      {"model.layers.3", true},
      {"language_model.model.layers.3.mlp", true},
      {"layers.3.mlp", true},
  };
  for (const Row& row : rows) {
    CAPTURE(row.pattern);
    const ModuleFilter filter({row.pattern}, "test", tcast::PatternStyle::subtree, names);
    CHECK(filter.match("model.layers.3.mlp").has_value() == row.matches);
  }
}

TEST_CASE("patterns that name nothing in a tree are found") {
  const TransformerModel model = build("deepseek-v3", 5);
  const std::vector<std::string> names_something = {
      "lm_head",
      "model.norm",
      "mlp.gate",
      "model.layers.4.mlp.experts.255.up_proj",
      "model.layers.3.mlp.gate.e_score_correction_bias",
      "experts.17",
      "layers.3",
      "*.input_layernorm",
      "model.layers.[34].mlp.experts.2??",
      "re:.*experts\\.255\\.down_proj",
      "re:.*layers\\.4\\.post_attention_layernorm",
  };
  CHECK(ModuleFilter(names_something, "test").unmatched(model.root()) ==
        std::vector<std::string>{});
  const std::vector<std::string> names_nothing = {
      "head",
      "model.layers.5",
      "model.layers.2.mlp.gate",
      "model.layers.4.mlp.experts.256",
      "*.experts.256.*",
      "re:layers.*",
      "re:.*experts\\.[3-9]\\d\\d\\.",
      "weight.weight",
  };
  CHECK(ModuleFilter(names_nothing, "test").unmatched(model.root()) == names_nothing);
  const ModuleFilter exact({"DeepseekV3MoE", "Linear", "model.layers.3.mlp", "mlp.gate", "MoE"},
                           "test", tcast::PatternStyle::exact);
  CHECK(exact.unmatched(model.root()) == std::vector<std::string>{"mlp.gate", "MoE"});
}

TEST_CASE("patterns that cannot be used are refused, and none takes forever") {
  CHECK(error_of([] {
          const ModuleFilter filter({"re:("}, "--quantize-ignore");
        }).find("--quantize-ignore: 're:(' is no regular expression that can be used (") == 0);
  CHECK(error_of([] {
          const ModuleFilter filter({"re:(a)\\1"}, "config.json");
        }).find("config.json: 're:(a)\\1' is no regular expression that can be used (") == 0);
  const std::string deep = "re:" + std::string(500, '(') + "a" + std::string(500, ')');
  CHECK(error_of([&] {
          const ModuleFilter filter({deep}, "x");
        }).find("(it is longer than 1000 letters)") != std::string::npos);
  const ModuleFilter slow({"re:(.|.)*Q", "re:(a*)*(a*)*(.*)*Q"}, "x");
  CHECK(!slow.match("model.layers.10.mlp.experts.10.gate_proj"));
}

TEST_CASE("lists are cut until a pattern says the same of all members of a node") {
  const char* const patterns[] = {
      "model.layers.3",
      "model.layers.4.mlp.experts.17",
      "experts.9.down_proj",
      "*.layers.[34].*",
      "*.experts.?.up_proj",
      "*.experts.1?.up_proj",
      "re:.*experts.*",
      "re:.*experts\\.\\d\\..*",
      "re:.*experts\\.[0-9][0-9]\\.gate_proj",
      "re:.*experts\\.[2-57]?9\\.",
      "re:.*layers\\.(0|3)\\.mlp",
      "re:.*layers\\.3\\.mlp\\.experts\\.(5|17|18|19|200)\\.",
      "re:.*layers\\.\\w\\.mlp\\.experts\\.(25[0-9]|1[.]*7)",
      "re:(?!.*experts\\.[13579]+\\.).*experts",
  };
  for (const char* pattern : patterns) {
    CAPTURE(pattern);
    TransformerModel model = build("deepseek-v3", 5);
    const ModuleFilter filter({pattern}, "test");
    std::map<std::string, bool> expected;
    std::int64_t matched = 0;
    each_linear(model.root(), "", [&](const std::string& path) {
      expected[path] = filter.match(path).has_value();
      matched += expected[path] ? 1 : 0;
    });
    CHECK(matched > 0);
    filter.split_lists(model.root());
    std::int64_t mixed = 0;
    std::int64_t linears = 0;
    walk(model.root(), [&](const tcast::Module& module, const tcast::ModulePath& path) {
      if (dynamic_cast<const tcast::Linear*>(&module) == nullptr) return;
      linears += path.count();
      // All members of the node, by running through the indices of the lists on the way.
      std::vector<const tcast::ListMembers*> lists;
      for (const tcast::Module* on_way : path.chain()) {
        if (on_way->members().in_list()) lists.push_back(&on_way->members());
      }
      std::vector<bool> answers;
      for (std::int64_t i = 0; i < path.count(); ++i) {
        std::vector<std::int64_t> indices;
        std::int64_t rest = i;
        for (const tcast::ListMembers* list : lists) {
          indices.push_back(list->first + rest % list->count);
          rest /= list->count;
        }
        answers.push_back(expected.at(path.member(indices)));
      }
      for (const bool answer : answers) mixed += answer != answers[0] ? 1 : 0;
    });
    CHECK(mixed == 0);
    CHECK(linears == static_cast<std::int64_t>(expected.size()));
  }
}

TEST_CASE("lists are cut no further than patterns tell members apart") {
  struct Row {
    std::vector<std::string> patterns;
    std::int64_t layer_nodes;   // of 61 layers: 0-2 are dense
    std::int64_t expert_nodes;  // of all lists of experts together
  };
  const Row rows[] = {
      {{"lm_head", "*.gate_proj", "re:.*experts.*", "re:.*self_attn"}, 2, 1},
      {{"model.layers.60"}, 3, 2},
      {{"model.layers.10", "model.layers.11", "model.layers.12"}, 6, 5},
      {{"re:.*layers\\.(10|11|12)\\."}, 4, 3},
      {{"re:.*layers\\.(10|20|30|40)\\..*experts"}, 10, 9},
      {{"re:.*experts\\.25[0-9]\\."}, 2, 2},
      {{"re:.*experts\\.(7|100|255)\\."}, 2, 6},
      {{"model.layers.7.mlp.experts.9"}, 4, 5},
  };
  for (const Row& row : rows) {
    CAPTURE(row.patterns[0]);
    TransformerModel model = build("deepseek-v3");
    ModuleFilter(row.patterns, "test").split_lists(model.root());
    CHECK(static_cast<std::int64_t>(model.find("model.layers")->children().size()) ==
          row.layer_nodes);
    std::int64_t expert_nodes = 0;
    walk(model.root(), [&](const tcast::Module& module, const tcast::ModulePath&) {
      if (module.name() == "experts") expert_nodes += std::ssize(module.children());
    });
    CHECK(expert_nodes == row.expert_nodes);
  }
}

TEST_CASE("lists of hundreds of patterns cut a tree of 45,000 linears") {
  // Layer by layer, as some quantization tools write them: literals and regular expressions.
  std::vector<std::string> literals;
  std::vector<std::string> expressions;
  for (int layer = 0; layer < 61; layer += 2) {
    const std::string number = std::to_string(layer);
    for (const char* module : {"self_attn.q_a_proj", "self_attn.o_proj", "mlp.shared_experts"}) {
      literals.push_back("model.layers." + number + "." + module);
    }
    expressions.push_back("re:model\\.layers\\." + number + "\\..*experts.*");
  }
  TransformerModel model = build("deepseek-v3");
  const std::int64_t before = nodes_of(model.root());
  ModuleFilter(literals, "test").split_lists(model.root());
  CHECK(model.find("model.layers")->children().size() == 61);
  ModuleFilter(expressions, "test").split_lists(model.root());
  CHECK(model.find("model.layers")->children().size() == 61);
  CHECK(nodes_of(model.root()) > 20 * before);
  CHECK(nodes_of(model.root()) < 40 * before);
}

TEST_CASE("a list that nobody could write is not run through") {
  tcast::ModuleList root;
  auto list = std::make_unique<tcast::ModuleList>();
  list->append(std::make_unique<tcast::Linear>(8, 8, false, tcast::DType::bf16),
               std::int64_t{1} << 40);
  root.add_child("experts", std::move(list));
  CHECK(error_of([&] { ModuleFilter({"re:.*"}, "x").split_lists(root); }) ==
        "experts: 1,099,511,627,776 entries are too many for patterns that tell entries apart | "
        "name modules by literals without numbers");
  ModuleFilter({"experts", "*.gate"}, "x").split_lists(root);
  CHECK(root.child("experts").children().size() == 1);
}

TEST_CASE("a piece of a path names a child or a list entry") {
  TransformerModel model = build("deepseek-v3");
  REQUIRE(model.find("model.layers.7.mlp.experts.255") != nullptr);
  CHECK(model.find("model.layers.7.mlp.experts.255")->name() == "[0-255]");
  CHECK(model.find("model.layers.[3-60].mlp")->class_name() == "DeepseekV3MoE");
  CHECK(model.find("lm_head")->class_name() == "Linear");
  for (const char* path : {"model.layers.61", "model.layers.03", "model.layers.-1", "model.layers.",
                           "model.layers.+3", "model.layers.99999999999999999999", "modell", ""}) {
    CAPTURE(path);
    CHECK(model.find(path) == nullptr);
  }
}
