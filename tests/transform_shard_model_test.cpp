// Modules shard themselves: those of a plugin's own classes like tcast's, and what is said of them.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/custom_model.h"
#include "tcast/study/inputs.h"

#include "command_runs.h"
#include "error_of.h"
#include "scratch.h"

TCAST_PLUGIN("sharders", 1);

namespace {

/// A feed-forward block of somebody's own over two linears, sharded as its kind says.
class OwnBlock : public tcast::ModuleOf<OwnBlock> {
 public:
  struct Config {
    std::string kind;
    bool operator==(const Config&) const = default;
  };

  OwnBlock(std::string kind, std::int64_t hidden, std::int64_t width, tcast::DType dtype)
      : ModuleOf("OwnBlock"), config_{std::move(kind)} {
    add_child("grow", std::make_unique<tcast::Linear>(hidden, width, false, dtype));
    add_child("shrink", std::make_unique<tcast::Linear>(width, hidden, false, dtype));
  }
  const Config& config() const { return config_; }

  tcast::Value forward(tcast::Trace& trace, tcast::Value input) const override {
    const tcast::Value grown = call(trace, "grow", input);
    return call(trace, "shrink", trace.unary(tcast::ElementwiseKind::gelu, grown));
  }

  void shard(const tcast::Layout& layout, tcast::ShardReport& report) override {
    if (config_.kind == "asks") return Module::shard(layout, report);
    if (config_.kind == "throws") throw std::out_of_range("a slip of its own");
    if (config_.kind == "silent") return;
    const tcast::RankGroup group = layout.group(tcast::ParallelAxis::tp);
    auto& grow = child_as<tcast::Linear>("grow");
    if (grow.out_features() % group.size != 0) {
      tcast::refuse_layout(fmt::format("{}: {} do not divide over {}", report.path(),
                                       grow.out_features(), group.size),
                           "choose --tp so that it divides the width");
    }
    grow.shard_columns(group);
    if (config_.kind == "forgets") return;
    child_as<tcast::Linear>("shrink").shard_rows(group);
    report.cut(config_.kind == "says nothing" ? "" : "width in the plugin's own way");
  }

 private:
  Config config_;
};

/// A block around one that shards itself.
class OuterBlock : public tcast::ModuleOf<OuterBlock> {
 public:
  explicit OuterBlock(std::unique_ptr<tcast::Module> inner) : ModuleOf("OuterBlock") {
    add_child("inner", std::move(inner));
  }
  tcast::NoState config() const { return {}; }
  tcast::Value forward(tcast::Trace& trace, tcast::Value input) const override {
    return call(trace, "inner", input);
  }
};

}  // namespace

/// A Llama whose feed-forward blocks are the plugin's; `own_kind` says which.
TCAST_REGISTER_ARCHITECTURE("sharder")
(const tcast::ArchitectureContext& context) {
  auto root = tcast::architectures().find("builtin::llama")->call(context);
  const auto kind = context.config.get<std::string>("own_kind");
  tcast::rewrite(*root, [&](tcast::Module& module, const tcast::ModulePath&) {
    std::unique_ptr<tcast::Module> made;
    if (dynamic_cast<tcast::Mlp*>(&module) == nullptr) return made;
    const auto hidden = context.config.get_size("hidden_size");
    const auto width = context.config.get_size("intermediate_size");
    const bool nested = kind == "nested";
    made = std::make_unique<OwnBlock>(nested ? "cuts" : kind, hidden, width, tcast::DType::f32);
    if (nested) made = std::make_unique<OuterBlock>(std::move(made));
    made->set_name(module.name());
    return made;
  });
  return root;
}

namespace {

using namespace tcast;
using nlohmann::json;

TransformerModel sharder(const std::string& kind, const ParallelOptions& parallel) {
  ModelInputs inputs;
  inputs.options.parallel = parallel;
  const std::string config = tiny_llama("sharder", fmt::format(R"(, "own_kind": "{}")", kind));
  TransformerModel model = load_model(HfConfig::parse(config, "c.json"), inputs);
  transform(model);
  return model;
}

const StepReport& shard_report(const TransformerModel& model) {
  const auto found =
      std::find_if(model.reports().begin(), model.reports().end(),
                   [](const StepReport& report) { return report.step == "shard_model"; });
  REQUIRE(found != model.reports().end());
  return *found;
}

std::vector<std::string> lines(const StepReport& report) {
  std::vector<std::string> all;
  for (const StepReport::Change& one : report.changed) {
    all.push_back(fmt::format("{} ({}): {}", one.path, one.from, one.to));
  }
  for (const StepReport::Skip& one : report.skipped) all.push_back(one.path + ": " + one.reason);
  return all;
}

TEST_CASE("shard_model: a plugin's own module class shards itself") {
  const TransformerModel model = sharder("cuts", {2, 2, 1});
  CHECK(lines(shard_report(model)) ==
        std::vector<std::string>{
            "model.embed_tokens (Embedding): VocabParallelEmbedding",
            "model.layers.[0-1].self_attn (PagedAttention): heads over tp 2",
            "model.layers.[0-1].mlp (OwnBlock): width in the plugin's own way",
            "lm_head (Linear): ColumnParallelLinear",
            "model.layers.[0-1].input_layernorm: no rule cuts it: whole on every rank",
            "model.layers.[0-1].post_attention_layernorm: no rule cuts it: whole on every rank",
            "model.norm: no rule cuts it: whole on every rank"});
  CHECK(shard_report(model).changed_modules == 6);  // entries of the list count
  // The parts are priced.
  const std::int64_t one = sharder("cuts", {}).weight_bytes();
  CHECK(model.weight_bytes() < one * 6 / 10);
  CHECK(model.weight_bytes() > one / 2);
  // A module below a block that asks its children shards itself, too.
  const std::vector<std::string> nested = lines(shard_report(sharder("nested", {2, 2, 1})));
  CHECK(std::count(nested.begin(), nested.end(),
                   "model.layers.[0-1].mlp.inner (OwnBlock): width in the plugin's own way") == 1);
}

TEST_CASE("shard_model: what a plugin's class does not cut is left over, and named") {
  struct Row {
    const char* kind;
    const char* error;
  };
  const char* const left =
      "--tp 2 was asked for, but the nine standard steps did not carry it out everywhere: 4 "
      "modules "
      "(24.0 KiB) stay as they were (model.layers.[0-1].mlp.grow, model.layers.[0-1].mlp.shrink)";
  const char* const plugin =
      "shard of OwnBlock (model.layers.[0-1].mlp) of the architecture 'sharder' of plugin "
      "'sharders'";
  const Row rows[] = {
      {"asks", left},
      {"silent", left},
      {"throws", plugin},
      {"says nothing", plugin},
      // Parts of one weight meet the whole of the next.
      {"forgets",
       "the nine standard steps, on what the architecture 'sharder' of plugin 'sharders'"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.kind);
    const std::string error = error_of([&] { sharder(row.kind, {2, 2, 1}); });
    INFO(error);
    CHECK(error.substr(0, std::string(row.error).size()) == row.error);
    // On one device nothing is asked of it.
    CHECK(error_of([&] { sharder(row.kind, {}); }).empty());
  }
  CHECK(contains(error_of([] {
                   sharder("throws", {2, 2, 1});
                 }),
                 "shard of OwnBlock (model.layers.[0-1].mlp)"));
}

TEST_CASE("shard_model: a layout that sizes do not allow is about the options, not the plugin") {
  CHECK(error_of([] {
          sharder("cuts", {3, 3, 1});
        }) ==
        "model.layers.[0-1].self_attn: 4 attention heads cannot be divided over tp 3 | choose "
        "--tp so that it divides 4");
  const Scratch scratch;
  std::string text = tiny_llama("sharder", R"(, "own_kind": "cuts")");
  const std::string width = R"("intermediate_size": )";
  text.replace(text.find(width + "48"), width.size() + 2, width + "50");
  const std::string config = scratch.write("c.json", text);
  const Run result = run({"simulate", config, "--device", "h200", "--tp", "4"});
  CHECK(result.status == 1);
  CHECK(contains(result.err, "do not divide over 4\n  hint: choose --tp"));
}

TEST_CASE("shard_model: sharding what is sharded already changes nothing") {
  TransformerModel model = sharder("cuts", {2, 2, 1});
  const std::unique_ptr<Module> before = model.root().clone();
  shard_model(model);
  CHECK(same_structure(*before, model.root()));
  CHECK(model.reports().back().changed.empty());
  const std::vector<std::string> again = lines(model.reports().back());
  CHECK(std::count(again.begin(), again.end(), "model.layers.[0-1].mlp: it is sharded already") ==
        1);
}

}  // namespace
