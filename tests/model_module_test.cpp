// What a module is: its C++ class, its config(), parameters and children. Layers that are equal in
// that are traced once, so that what tells two of them apart must be part of it (decision D12).
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/model/decoder.h"
#include "tcast/model/fused_experts.h"
#include "tcast/model/latent_attention.h"
#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

#include "error_of.h"

namespace tcast {
namespace {

namespace fs = std::filesystem;

// --- classes of somebody's own -------------------------------------------------------------------

class Named : public ModuleOf<Named> {
 public:
  explicit Named(int size) : ModuleOf("Twin"), size_{size} {}
  struct Config {
    int size = 0;
    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return size_; }

 private:
  Config size_;
};

/// The same name and an equal config, another class.
class Twin : public ModuleOf<Twin> {
 public:
  explicit Twin(int size) : ModuleOf("Twin"), size_{size} {}
  const Named::Config& config() const { return size_; }

 private:
  Named::Config size_;
};

/// Says nothing of itself: the config() that it has is that of its base.
class Inheriting : public ModuleOf<Inheriting, Named> {
 public:
  using ModuleOf::ModuleOf;
  int secret = 0;
};

/// The same with a using-declaration, which makes it no more its own.
class Using : public ModuleOf<Using, Named> {
 public:
  using ModuleOf::ModuleOf;
  using Named::config;
};

class Silent : public ModuleOf<Silent> {
 public:
  explicit Silent() : ModuleOf("Silent") {}
};

/// A private config() tells nobody anything.
class Private : public ModuleOf<Private> {
 public:
  explicit Private() : ModuleOf("Private") {}

 private:
  NoState config() const { return {}; }
};

/// What it returns cannot be compared.
class Incomparable : public ModuleOf<Incomparable> {
 public:
  explicit Incomparable() : ModuleOf("Incomparable") {}
  struct Config {
    int size = 0;
  };
  Config config() const { return {}; }
};

class Stateless : public ModuleOf<Stateless, Named> {
 public:
  using ModuleOf::ModuleOf;
  NoState config() const { return {}; }
};

/// An empty config(), and data all the same.
class Forgetful : public ModuleOf<Forgetful, Named> {
 public:
  using ModuleOf::ModuleOf;
  NoState config() const { return {}; }
  std::string secret;
};

/// The base's config(), and data besides.
class Repeating : public ModuleOf<Repeating, Named> {
 public:
  using ModuleOf::ModuleOf;
  const Config& config() const { return Named::config(); }
  std::string secret;
};

/// Derives in the plain way from a class that can be compared.
class Plain : public Named {
 public:
  using Named::Named;
  int secret = 0;
};

/// An abstract class between, whose state nobody knows.
class Between : public Module {
 public:
  using Module::Module;
  int secret = 0;
};
class BelowBetween : public ModuleOf<BelowBetween, Between> {
 public:
  BelowBetween() : ModuleOf("BelowBetween") {}
  NoState config() const { return {}; }
};

/// The same as it should be.
class KnownBetween : public ModulePart<KnownBetween> {
 public:
  explicit KnownBetween(int size) : ModulePart("Known"), size_{size} {}
  const Named::Config& config() const { return size_; }

 private:
  Named::Config size_;
};
class BelowKnown : public ModuleOf<BelowKnown, KnownBetween> {
 public:
  using ModuleOf::ModuleOf;
  NoState config() const { return {}; }
};

std::unique_ptr<Module> linear(std::int64_t in = 8, std::int64_t out = 4) {
  return std::make_unique<Linear>(in, out, true, DType::bf16);
}

/// A list of one child.
std::unique_ptr<Module> holding(std::unique_ptr<Module> child, const std::string& name = "child") {
  auto list = std::make_unique<ModuleList>();
  list->add_child(name, std::move(child));
  return list;
}

template <class Class, class... Arguments>
std::unique_ptr<Module> make(Arguments&&... arguments) {
  return std::make_unique<Class>(std::forward<Arguments>(arguments)...);
}

TEST_CASE("modules are equal when class, config, parameters and children are") {  // S1
  struct Row {
    const char* what;
    std::unique_ptr<Module> a;
    std::unique_ptr<Module> b;
    bool equal;
  };
  std::vector<Row> rows;
  const auto add = [&](const char* what, std::unique_ptr<Module> a, std::unique_ptr<Module> b,
                       bool equal) {
    rows.push_back({what, std::move(a), std::move(b), equal});
  };
  add("equal configs", make<Named>(3), make<Named>(3), true);
  add("other configs", make<Named>(3), make<Named>(4), false);
  add("another class of the same name", make<Named>(3), make<Twin>(3), false);
  add("no state, equal bases", make<Stateless>(3), make<Stateless>(3), true);
  add("no state, other bases", make<Stateless>(3), make<Stateless>(4), false);
  add("an abstract base with a config", make<BelowKnown>(3), make<BelowKnown>(3), true);
  add("an abstract base with another config", make<BelowKnown>(3), make<BelowKnown>(4), false);
  add("an inherited config", make<Inheriting>(3), make<Inheriting>(3), false);
  add("a class and its base", make<Inheriting>(3), make<Named>(3), false);
  add("a using-declaration", make<Using>(3), make<Using>(3), false);
  add("no config", make<Silent>(), make<Silent>(), false);
  add("a private config", make<Private>(), make<Private>(), false);
  add("a config without ==", make<Incomparable>(), make<Incomparable>(), false);
  add("an empty config and data", make<Forgetful>(3), make<Forgetful>(3), false);
  add("the base's config and data", make<Repeating>(3), make<Repeating>(3), false);
  add("derived in the plain way", make<Plain>(3), make<Plain>(3), false);
  add("a base of unknown state", make<BelowBetween>(), make<BelowBetween>(), false);
  add("linears", linear(), linear(), true);
  add("linears of other sizes", linear(), linear(8, 5), false);
  add("equal children", holding(make<Named>(3)), holding(make<Named>(3)), true);
  add("other children", holding(make<Named>(3)), holding(make<Named>(4)), false);
  add("children of other names", holding(make<Named>(3)), holding(make<Named>(3), "c"), false);
  add("deep children", holding(holding(make<Named>(3))), holding(holding(make<Named>(4))), false);
  add("children without config", holding(make<Silent>()), holding(make<Silent>()), false);
  const auto with = [](std::unique_ptr<Module> module, auto change) {
    change(*module);
    return module;
  };
  const auto list = [](std::int64_t count) {
    auto members = std::make_unique<ModuleList>();
    members->append(linear(), count);
    return members;
  };
  add("equal members", holding(list(4)), holding(list(4)), true);
  add("more members", holding(list(4)), holding(list(5)), false);
  add("members spread over ranks", list(4),
      with(list(4), [](Module& m) { m.children()[0]->set_local_count(2); }), false);
  add("where it stands", with(linear(), [](Module& m) { m.set_members(3, 1); }),
      with(linear(), [](Module& m) { m.set_members(7, 2); }), true);
  add("a stated attribute", with(linear(), [](Module& m) { m.set_attribute("mark", true); }),
      linear(), false);
  add("a parameter's role",
      with(linear(), [](Module& m) { m.parameters()[0].role = InitRole::query_key; }), linear(),
      false);
  add("where it was quantized from",
      with(linear(), [](Module& m) { m.parameters()[0].quantized_from = DType::f32; }), linear(),
      false);
  add("HuggingFace's class", with(linear(), [](Module& m) { m.set_hf_class_name("Conv1D"); }),
      linear(), false);
  for (const Row& row : rows) {
    CAPTURE(row.what);
    CHECK(same_structure(*row.a, *row.b) == row.equal);
    CHECK(same_structure(*row.b, *row.a) == row.equal);
    if (row.what == std::string("derived in the plain way")) continue;
    const std::unique_ptr<Module> copy = row.a->clone();
    CHECK(same_structure(*copy, *row.a) == !first_identity_gap(*row.a));
  }
}

TEST_CASE("what cannot be compared says why") {  // S1
  const auto gap = [](const Module& module) { return first_identity_gap(module).text(); };
  const std::string scope = "tcast::(anonymous namespace)::";
  const auto none = [&](const char* name) {
    return fmt::format("class '{}{}' has no config() to compare", scope, name);
  };
  const auto besides = [&](const char* name) {
    return fmt::format("class '{}{}' has data members that its config() leaves out", scope, name);
  };
  CHECK(gap(Named(1)).empty());
  CHECK(gap(Stateless(1)).empty());
  CHECK(gap(BelowKnown(1)).empty());
  CHECK(gap(*holding(holding(linear()))).empty());
  CHECK(gap(Silent()) == none("Silent"));
  CHECK(gap(Inheriting(1)) == none("Inheriting"));
  CHECK(gap(Using(1)) == none("Using"));
  CHECK(gap(Incomparable()) == none("Incomparable"));
  CHECK(gap(Plain(1)) == none("Plain"));
  CHECK(gap(BelowBetween()) == none("Between"));
  CHECK(gap(Forgetful(1)) == besides("Forgetful"));
  CHECK(gap(Repeating(1)) == besides("Repeating"));
  CHECK(gap(*holding(holding(make<Silent>()))) == none("Silent"));
}

TEST_CASE("a class that a copy would cut off is refused") {
  CHECK(error_of([] { Plain(1).clone(); }) ==
        "class 'tcast::(anonymous namespace)::Plain' cannot be copied: it would become a "
        "'tcast::(anonymous namespace)::Named' | derive it from tcast::ModuleOf<Class, Base>");
}

TEST_CASE("attributes follow from the config, and others can be stated beside them") {
  Normalization norm("LayerNorm", NormKind::layer, 8, 1e-5, true, 0, DType::bf16);
  CHECK(norm.attributes() == std::vector<Attribute>{{"eps", 1e-5}});
  norm.set_attribute("mark", "mine");
  norm.set_attribute("mark", std::int64_t{7});
  CHECK(norm.attributes() == std::vector<Attribute>{{"eps", 1e-5}, {"mark", std::int64_t{7}}});
  CHECK(error_of([&] { norm.set_attribute("eps", 1.0); }) ==
        "attribute 'eps' of LayerNorm follows from its config and cannot be stated | make the "
        "module with another config, or replace it");
  CHECK(norm.number_attribute("eps") == 1e-5);
  CHECK(norm.number_attribute("mark") == 7.0);
  CHECK_FALSE(norm.bool_attribute("nothing"));
  // A value of another type is no reason to take a default.
  CHECK(error_of([&] { static_cast<void>(norm.bool_attribute("mark")); }) ==
        "attribute 'mark' of LayerNorm '' is 7, expected true or false");
  CHECK(error_of([&] { static_cast<void>(norm.int_attribute("eps")); }) ==
        "attribute 'eps' of LayerNorm '' is 1e-05, expected a whole number");
  // What a module took over does not hide what follows from its own config.
  ModuleList block;
  block.set_attribute("activation", "gelu");
  block.set_attribute("mark", true);
  Mlp mlp("Mlp", {}, ElementwiseKind::silu);
  mlp.take_over(block);
  CHECK(mlp.attributes() == std::vector<Attribute>{{"activation", "silu"}, {"mark", true}});
}

TEST_CASE("a scoring function that nobody knows is refused") {  // S24
  ModuleList block;
  block.add_child("gate", linear(8, 4));
  block.add_child("experts", make<ModuleList>());
  block.set_attribute("top_k", std::int64_t{2});
  std::string missing;
  CHECK(moe_config_of(block, {}, missing)->score == RouterScore::softmax);
  block.set_attribute("scoring_func", "sigmoid");
  CHECK(moe_config_of(block, {}, missing)->score == RouterScore::sigmoid);
  block.set_attribute("scoring_func", "softplus");
  CHECK(error_of([&] { moe_config_of(block, {}, missing); }) ==
        "'ModuleList' has the scoring_func 'softplus' | known are softmax, sigmoid");
  block.set_attribute("scoring_func", "sigmiod");
  CHECK(error_of([&] { moe_config_of(block, {}, missing); }) ==
        "'ModuleList' has the scoring_func 'sigmiod' | did you mean 'sigmoid'?");
  block.set_attribute("scoring_func", true);
  CHECK(error_of([&] { moe_config_of(block, {}, missing); }) != "");
}

TEST_CASE("a deep tree needs no deep stack to go away") {
  auto deep = std::make_unique<ModuleList>();
  for (int i = 0; i < 200'000; ++i) {
    auto above = std::make_unique<ModuleList>();
    above->add_child("child", std::move(deep));
    deep = std::move(above);
  }
  deep.reset();
}

// --- the classes that tcast brings ---------------------------------------------------------------

/// Bytes of the largest class that has `Config` as its only member above `Base`.
template <class Class, class Base, class Config>
constexpr bool holds_config_only = sizeof(Class) <=
                                   (sizeof(Base) + sizeof(Config) + alignof(Class) - 1) /
                                       alignof(Class) * alignof(Class);

// State outside of the struct that is compared would make the class larger.
static_assert(holds_config_only<Linear, Module, Linear::Config>);
static_assert(holds_config_only<Embedding, Module, Embedding::Config>);
static_assert(holds_config_only<PositionEmbedding, Module, PositionEmbedding::Config>);
static_assert(holds_config_only<Normalization, Module, Normalization::Config>);
static_assert(holds_config_only<RotaryEmbedding, Module, RotaryEmbedding::Config>);
static_assert(holds_config_only<AttentionModule, Module, AttentionModule::Config>);
static_assert(
    holds_config_only<GroupedQueryAttention, AttentionModule, GroupedQueryAttention::Config>);
static_assert(holds_config_only<LatentAttention, AttentionModule, LatentAttention::Config>);
static_assert(sizeof(EagerAttention) == sizeof(GroupedQueryAttention));
static_assert(sizeof(PagedAttention) == sizeof(GroupedQueryAttention));
static_assert(sizeof(EagerLatentAttention) == sizeof(LatentAttention));
static_assert(sizeof(PagedExpandedAttention) == sizeof(LatentAttention));
static_assert(sizeof(MultiheadLatentAttention) == sizeof(LatentAttention));
static_assert(holds_config_only<Mlp, Module, Mlp::Config>);
static_assert(holds_config_only<EagerMoe, Module, EagerMoe::Config>);
static_assert(holds_config_only<GroupedExperts, ExpertsModule, GroupedExperts::Config>);
static_assert(holds_config_only<FusedMoe, Module, FusedMoe::Config>);
static_assert(holds_config_only<FusedExperts, Module, FusedExperts::Config>);
static_assert(holds_config_only<GroupedFusedExperts, ExpertsModule, GroupedFusedExperts::Config>);
static_assert(holds_config_only<DecoderLayer, Module, DecoderLayer::Config>);
static_assert(sizeof(MtpLayer) == sizeof(DecoderLayer));
static_assert(holds_config_only<DecoderModel, Module, DecoderModel::Config>);
static_assert(holds_config_only<CausalLm, Module, CausalLm::Config>);
static_assert(holds_config_only<LanguageModelWrapper, Module, LanguageModelWrapper::Config>);
// Which layers are equal is found again after every step.
static_assert(sizeof(LayerList) <= sizeof(Module) + sizeof(std::vector<std::size_t>) + 8);

TEST_CASE("every module of every builtin model can be compared, transformed or not") {  // S1
  std::set<std::string> classes;
  const auto look = [&classes](const TransformerModel& model) {
    walk(model.root(), [&](const Module& module, const ModulePath& path) {
      classes.insert(module.class_name());
      const IdentityGap gap = module.identity_gap();
      INFO(path.text(), ": ", gap.text());
      CHECK_FALSE(gap);
      CHECK(same_structure(module, *module.clone()));
      CHECK(module.fault().empty());
    });
  };
  std::vector<ModelOptions> all(4);
  all[1].parallel = {4, 2, 2};
  all[1].quantize_linear = LinearScheme::w8a8_dynamic;
  all[1].quantize_kv_cache = KvScheme::fp8;
  all[2].parallel = {2, 1, 2};
  all[2].quantize_linear = LinearScheme::fp8;
  all[2].num_mtp_tokens = 1;
  all[3].reuse_layers = false;
  std::vector<HfConfig> configs;
  const std::string source_dir = TCAST_SOURCE_DIR;
  for (const auto& entry : fs::directory_iterator(source_dir + "/configs/models")) {
    configs.push_back(HfConfig::load(entry.path().string()));
  }
  for (const auto& entry : fs::directory_iterator(source_dir + "/tests/data/shapes")) {
    std::ifstream stream(entry.path());
    const nlohmann::json golden = nlohmann::json::parse(stream);
    configs.push_back(
        HfConfig::parse(golden.at("config").dump(), entry.path().filename().string()));
  }
  std::set<std::string> types;
  int transformed = 0;
  for (const HfConfig& config : configs) {
    CAPTURE(config.file());
    types.insert(config.model_type());
    for (ModelOptions options : all) {
      const TransformerModel whole = build_model(config, load_profile(config.model_type(), {}), {});
      options.num_hidden_layers =
          std::min<std::int64_t>(6, whole.config().get_size("num_hidden_layers"));
      TransformerModel model = build_model(config, load_profile(config.model_type(), {}), options);
      look(model);
      try {
        transform(model);
      } catch (const Error&) {
        continue;  // no experts, no multi-token prediction, sizes that do not divide
      }
      ++transformed;
      look(model);
    }
  }
  for (const auto* const entry : architectures().entries()) {
    if (entry->place().find("builtin_model/") == std::string::npos) continue;
    CAPTURE(std::string(entry->pattern));
    CHECK(types.count(std::string(entry->pattern)) == 1);
  }
  CHECK(transformed >= static_cast<int>(2 * configs.size()));
  for (const char* name :
       {"PagedAttention", "MultiheadLatentAttention", "FusedMoe", "GroupedExperts", "MtpLayer",
        "QuantizedGroupedFusedExperts", "QuantizedColumnParallelLinear", "LanguageModelWrapper",
        "CachedRotaryEmbedding", "VocabParallelEmbedding"}) {
    CAPTURE(name);
    CHECK(classes.count(name) == 1);
  }
}

// C10: a tree that would fill the memory is stopped while it is made.
TEST_CASE("module: there are never more than the limit, and those that are gone do not count") {
  const auto make = [](std::int64_t count) {
    return error_of([count] {
      ModuleList list;
      for (std::int64_t i = 0; i < count; ++i) {
        list.add_child("a", std::make_unique<ModuleList>());
      }
    });
  };
  const std::string too_many =
      "the model has more than 500,000 modules | let neighbouring layers and experts be equal, or "
      "build fewer layers with --num-hidden-layers";
  CHECK(make(max_live_modules - 1000) == "");
  CHECK(make(max_live_modules) == too_many);
  CHECK(make(max_live_modules - 1000) == "");
  // Copies count as well.
  ModuleList half;
  for (std::int64_t i = 0; i < max_live_modules * 2 / 3; ++i) {
    half.add_child("a", std::make_unique<ModuleList>());
  }
  CHECK(error_of([&half] { half.clone(); }) == too_many);
}

}  // namespace
}  // namespace tcast
