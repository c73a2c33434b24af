// Plugins as users meet them on the command line: selection, set-up functions, hooks by reference
// and with configuration, pipelines, runners, writers, resolvers, loaders; and what goes wrong.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "tcast/custom_model.h"

#include "command_runs.h"
#include "error_of.h"
#include "linked_plugins.h"
#include "scratch.h"

using namespace tcast;

TCAST_PLUGIN("plugged", 1);

TCAST_REGISTER_ARCHITECTURE("plugged", "plugged_[0-9]")
(const tcast::ArchitectureContext& context) {
  return tcast::architectures().find("builtin::llama")->call(context);
}

TCAST_REGISTER_ARCHITECTURE_PREDICATE("plugged")
(const tcast::HfConfig& config) { return config.has("plugged_marker"); }

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Overrides single stages and inherits the transformation.
class PluggedModel : public tcast::CustomModel {
 public:
  void validate(const tcast::TransformerModel& model) const override {
    if (!model.custom_model_config().get_or<bool>("allowed", true)) {
      throw tcast::Error("plugged models are not allowed here", "set allowed: true");
    }
  }
  /// blocks.3.attn for model.layers.3.self_attn
  std::string parameter_name(const std::string& path) const override {
    std::string name = path;
    for (const auto& [from, to] : {std::pair{"model.layers.", "blocks."}, {"self_attn", "attn"}}) {
      const std::size_t at = name.find(from);
      if (at != std::string::npos) name.replace(at, std::string(from).size(), to);
    }
    return name;
  }
  std::string checkpoint_name(const std::string& path) const override {
    return path.rfind("model.", 0) == 0 ? "transformer." + path.substr(6) : path;
  }
};

}  // namespace

TCAST_REGISTER_CUSTOM_MODEL_CLASS(PluggedModel, "Plugged_Hook");

TCAST_REGISTER_CUSTOM_MODEL("plugged_function")
(tcast::TransformerModel& model) {
  const tcast::Arguments& config = model.custom_model_config();
  if (config.get_or<std::int64_t>("depth", 1) > 9) config.node("depth")->fail("too deep");
  tcast::run_standard_steps(model);
}

TCAST_REGISTER_STEP("plugged_step")
(tcast::TransformerModel& model, const tcast::Arguments& arguments) {
  const auto note = arguments.get<std::string>("note");
  return tcast::run_step(model, "plugged_step",
                         [&](tcast::TransformerModel&, tcast::StepReport& report) {
                           report.warnings.push_back("note: " + note);
                         });
}

namespace {

/// A paged attention under another name.
class PluggedAttention : public tcast::ModuleOf<PluggedAttention, tcast::GroupedQueryAttention> {
 public:
  explicit PluggedAttention(tcast::Module& original)
      : ModuleOf("PluggedAttention", dynamic_cast<tcast::GroupedQueryAttention&>(original)) {}
  tcast::Value forward(tcast::Trace& trace, tcast::Value hidden) const override {
    const tcast::AttentionConfig& c = config();
    Projected p = project(trace, hidden);
    p.q = tcast::fused_rotary(trace, p.q, local_heads(), c.head_dim, rotary_part());
    p.k = tcast::fused_rotary(trace, p.k, local_kv_heads(), c.head_dim, rotary_part());
    const tcast::CacheSpec spec =
        tcast::cache_spec(local_kv_heads(), c.head_dim, c.head_dim, c.span, {trace.dtype(p.k), 16});
    const tcast::Value cache = tcast::append_to_cache(trace, {p.k, p.v}, spec);
    tcast::Attention op =
        tcast::paged_attention(trace.workload(), spec, local_heads(), trace.dtype(p.q));
    op.scale = c.scale;
    return call(trace, names().o_proj,
                trace.emit(op, {p.q, cache},
                           {trace.workload().tokens(), local_heads() * c.head_dim}, op.query));
  }
  std::unique_ptr<tcast::Module> make_paged(const tcast::CacheOptions&) override { return nullptr; }
};

}  // namespace

TCAST_REGISTER_MODULE(PluggedAttention, "plugged_flash");

TCAST_REGISTER_PATCH("plugged_patch")
(tcast::TransformerModel& model) { model.root().set_attribute("patched", true); }

TCAST_REGISTER_ACTIVATION(tcast::ElementwiseKind::silu, "plugged_swish");

TCAST_REGISTER_OPERATOR("plugged_half")
(const tcast::CustomOp& op) {
  tcast::OpWork work;
  work.vector_flops = static_cast<double>(op.sizes[0]);
  work.read_bytes = 2.0 * static_cast<double>(op.sizes[0]);
  work.write_bytes = work.read_bytes;
  return work;
}

TCAST_REGISTER_OPERATOR_KERNEL("plugged_half")
(const tcast::CustomOp& op, const tcast::KernelArgs& args) {
  for (std::int64_t i = 0; i < op.sizes[0]; ++i) {
    tcast::write_element(args.outputs[0], i, tcast::read_element(args.inputs[0], i) / 2);
  }
}

TCAST_REGISTER_QUANTIZATION_FORMAT("plugged-int4")
(const tcast::QuantizationSource& source) {
  tcast::QuantizationScheme scheme;
  scheme.ignored = tcast::read_patterns(source.map, {"skip"}, tcast::PatternStyle::subtree);
  if (!source.linears) return scheme;
  tcast::LinearQuantization linear = tcast::quantize_to(tcast::DType::i4);
  linear.scales = {1, source.map.get<std::int64_t>("group"), source.dtype};
  scheme.groups.push_back({"plugged", {}, linear});
  return scheme;
}

namespace {

json simulated(const std::string& config, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"simulate",        config, "--device",       "TEST_DEVICE",
                                        "--format",        "json", "--input-length", "16",
                                        "--output-length", "4"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Run result = run(arguments);
  INFO(result.err);
  REQUIRE(result.status == 0);
  return json::parse(result.out);
}

/// What simulating says when it fails.
std::string refusal(const std::string& config, std::vector<std::string> more) {
  std::vector<std::string> arguments = {"simulate", config, "--device", "TEST_DEVICE"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const Run result = run(arguments);
  CHECK(result.status != 0);
  return result.err;
}

// --- the command that lists them -----------------------------------------------------------------

TEST_CASE("plugins: the list, as a table and as JSON") {
  const Run table = run({"plugins"});
  REQUIRE(table.status == 0);
  CHECK(contains(table.out, "plugged "));
  CHECK(contains(table.out, "loaded"));
  CHECK(contains(table.out, "builtin_model/llama.cpp:"));
  const json list = json::parse(run({"plugins", "--format", "json", "--plugins=-plugged"}).out);
  CHECK(list.at("schema") == 1);
  bool found = false;
  for (const json& plugin : list.at("plugins")) {
    if (plugin.at("name") != "plugged") continue;
    found = true;
    CHECK(plugin.at("state") == "disabled");
    CHECK(plugin.at("reason") == "not selected by --plugins");
    CHECK(plugin.at("file") == "tests/app_plugins_test.cpp");
    CHECK(plugin.at("interface_version") == 1);
    CHECK(plugin.at("registers").size() >= 10);
    CHECK(plugin.at("registers")[0].at("group") == "activation");
  }
  CHECK(found);
}

TEST_CASE("plugins: selection decides what a command knows") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  CHECK(simulated(config).at("model").at("model_type") == "plugged");
  CHECK(contains(refusal(config, {"--plugins=-plugged"}),
                 "unknown model type 'plugged'\n  hint: the plugin 'plugged' "
                 "(tests/app_plugins_test.cpp:"));
  CHECK(contains(refusal(config, {"--plugins="}), "is not selected by --plugins"));
  CHECK(simulated(config, {"--plugins", "llama,plugged"}).at("model").at("model_type") ==
        "plugged");
  CHECK(run({"steps", "--plugins", "lama"}).err ==
        "tcast: error: --plugins: unknown plugin 'lama'\n  hint: did you mean 'llama'?\n");
  // The environment, which the command line overrules.
  setenv("TCAST_PLUGINS", "llama", 1);
  CHECK(contains(refusal(config, {}), "is not selected by TCAST_PLUGINS"));
  CHECK(simulated(config, {"--plugins", "llama,plugged"}).at("model").at("model_type") ==
        "plugged");
  unsetenv("TCAST_PLUGINS");
}

// --- hooks ---------------------------------------------------------------------------------------

TEST_CASE("hooks: mapped by --custom-model and by profiles, in every way to refer to them") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  CHECK(simulated(config).at("pipeline") == "the nine standard steps");
  for (const char* reference : {"plugged_function", "PLUGGED_FUNCTION", "plugged:plugged_function",
                                "plugged.plugged_function", "custom::plugged_function"}) {
    CAPTURE(reference);
    const json report = simulated(config, {"--custom-model", fmt::format("plugged={}", reference)});
    CHECK(contains(report.at("pipeline"),
                   "the hook 'plugged_function' of plugin 'plugged' (tests/app_plugins_test.cpp:"));
    CHECK(report.at("inputs").at("custom_models") == fmt::format("plugged={}", reference));
  }
  // A pattern of types; the last one that matches counts; one for another type is noted.
  CHECK(contains(simulated(config, {"--custom-model", "plug*=bailing_moe", "--custom-model",
                                    "plugged=plugged_hook"})
                     .at("pipeline"),
                 "the hook 'Plugged_Hook'"));
  const json other = simulated(config, {"--custom-model", "llama=plugged_function"});
  CHECK(other.at("pipeline") == "the nine standard steps");
  CHECK(contains(other.at("assumptions").dump(),
                 "--custom-model llama=plugged_function is not used: the model type is 'plugged'"));
  const std::string profile = scratch.write("p.yaml", "custom_model: plugged.plugged_function\n");
  CHECK(contains(simulated(config, {"--profile", profile}).at("pipeline"), "'plugged_function'"));

  CHECK(contains(refusal(config, {"--custom-model", "plugged=plugged_functoin"}),
                 "--custom-model: no hook 'plugged_functoin' is registered\n  hint: did you "
                 "mean 'plugged_function'?"));
  CHECK(contains(refusal(config, {"--custom-model", "plugged"}),
                 "--custom-model: expected TYPE=HOOK, got 'plugged'"));
  CHECK(contains(refusal(config, {"--profile", scratch.write("q.yaml", "custom_model: nobody\n")}),
                 "q.yaml: custom_model: no hook 'nobody' is registered"));
}

TEST_CASE("hooks: one model type mapped to two hooks is an error") {
  const Scratch scratch;
  const std::string config = scratch.config("llama");
  CHECK(contains(refusal(config, {"--custom-model", "llama=example_decoder", "--custom-model",
                                  "llama=bailing_moe"}),
                 "--custom-model: 'llama' is mapped to 'example_decoder' and to 'bailing_moe'"));
}

TEST_CASE("hooks: custom_model_config is typed and located, and unread keys are reported") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  const std::string profile = scratch.write("p.yaml",
                                            "custom_model: plugged_function\n"
                                            "custom_model_config:\n"
                                            "  depth: 3\n"
                                            "  colour: red\n");
  const json report = simulated(config, {"--profile", profile});
  CHECK(contains(report.at("warnings").dump(),
                 "keys of custom_model_config that the hook did not read: " + profile +
                     ":4:11: custom_model_config.colour"));
  CHECK(contains(refusal(config, {"--profile", profile, "--custom-model-config", "depth=deep"}),
                 "--custom-model-config:1:8: depth: expected a whole number, got the string "
                 "\"deep\""));
  CHECK(contains(refusal(config, {"--profile", profile, "--custom-model-config", "depth=12"}),
                 "--custom-model-config:1:8: depth: too deep"));
  CHECK(contains(refusal(config, {"--profile", profile, "--custom-model-config", "depth"}),
                 "--custom-model-config: expected key=value, got 'depth'"));
  CHECK(contains(refusal(config, {"--custom-model-config", "depth=1"}),
                 "--custom-model-config is for a hook, but plugged has none"));
}

TEST_CASE("hooks: an object overrides single stages and inherits the rest") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  const std::vector<std::string> hook = {"--custom-model", "plugged=plugged_hook"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), hook.begin(), hook.end());
    return more;
  };
  // Inherited: the nine steps.
  CHECK(simulated(config, hook).at("steps").size() == 9);
  // Validation.
  CHECK(contains(refusal(config, with({"--custom-model-config", "allowed=false"})),
                 "plugged models are not allowed here\n  hint: set allowed: true"));
  // Names for users' patterns.
  const json quantized = simulated(config, with({"--quantize-linear", "w8a8_dynamic",
                                                 "--quantize-ignore", "blocks.1.attn.q_proj"}));
  bool skipped = false;
  for (const json& step : quantized.at("steps")) {
    for (const json& skip : step.at("skipped")) {
      skipped = skipped || skip.at("path") == "model.layers.1.self_attn.q_proj";
    }
  }
  CHECK(skipped);
  const Run inspected = run(with({"inspect", config, "--format", "json"}));
  CHECK(
      contains(inspected.out,
               "{\"name\":\"model.layers.0.self_attn.q_proj.weight\",\"shape\":[32, 32],\"dtype\":"
               "\"float32\",\"known_as\":\"blocks.0.attn.q_proj.weight\",\"stored_as\":"
               "\"transformer.layers.0.self_attn.q_proj.weight\"}"));
  // Names in the checkpoint: other weights, so other logits; the same rule gives the same ones.
  const auto logits = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", config, "--input-length", "4", "--output-length", "2",
                               "--threads", "1", "--format", "json"});
    const Run result = run(more);
    INFO(result.err);
    REQUIRE(result.status == 0);
    return json::parse(result.out).at("tokens");
  };
  std::vector<json> tokens = {logits({}), logits(hook), logits(hook)};
  CHECK(tokens[1] == tokens[2]);
  CHECK(run(with({"verify", config, "--threads", "1"})).status == 0);
}

TEST_CASE("hooks: what goes wrong in one names it") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  LinkedPlugins linked(true);
  using Hook = std::function<void(TransformerModel&)>;
  int line = 0;
  const auto add = [&](const char* name, Hook hook) {
    linked.add("custom_model", {name}, CustomModelHook{std::move(hook), {}},
               "custom_model/nasty.cpp", ++line);
  };
  add("throwing", [](TransformerModel&) { throw std::runtime_error("out of ideas"); });
  add("odd", [](TransformerModel&) { throw 42; });  // NOLINT
  add("rootless", [](TransformerModel& model) {
    model.wrap_root([](std::unique_ptr<Module>) { return nullptr; });
  });
  add("rootless_in_secret", [](TransformerModel& model) {
    try {
      model.wrap_root([](std::unique_ptr<Module>) { return nullptr; });
    } catch (const Error&) {
      return;
    }
  });
  add("childless", [](TransformerModel& model) { model.root().replace_child(0, nullptr); });
  linked.add("custom_model", {"nothing"},
             CustomModelHook{{}, [] { return std::unique_ptr<CustomModel>(); }},
             "custom_model/nasty.cpp", 9);
  linked.link();
  struct {
    const char* hook;
    const char* message;
  } const cases[] = {
      {"throwing",
       "the hook 'throwing' of plugin 'nasty' (custom_model/nasty.cpp:1) failed: out of ideas"},
      {"odd",
       "the hook 'odd' of plugin 'nasty' (custom_model/nasty.cpp:2) failed: it threw something "
       "that is no std::exception"},
      {"rootless",
       "the hook 'rootless' of plugin 'nasty' (custom_model/nasty.cpp:3): wrap_root was given a "
       "function that returns no module"},
      {"rootless_in_secret",
       "the hook 'rootless_in_secret' of plugin 'nasty' (custom_model/nasty.cpp:4): it left the "
       "model without a root"},
      {"childless",
       "the hook 'childless' of plugin 'nasty' (custom_model/nasty.cpp:5) left the model broken: a "
       "child is missing"},
      {"nothing",
       "the hook 'nothing' of plugin 'nasty' (custom_model/nasty.cpp:9): it made no object"},
  };
  for (const auto& one : cases) {
    CAPTURE(one.hook);
    const std::string text =
        refusal(config, {"--custom-model", fmt::format("plugged={}", one.hook)});
    INFO(text);
    CHECK(contains(text, std::string("error: ") + one.message));
  }
  // The rest works.
  CHECK(simulated(config).at("pipeline") == "the nine standard steps");
}

TEST_CASE("hooks: a tree that cannot be is refused by every command, before anything is priced") {
  // C3
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  LinkedPlugins linked(true);
  static const auto up_of = [](TransformerModel& model) -> Linear& {
    return dynamic_cast<Linear&>(*model.find("model.layers.0.mlp.up_proj"));
  };
  const auto add = [&](const char* name, int line, std::function<void(TransformerModel&)> hook) {
    linked.add("custom_model", {name}, CustomModelHook{std::move(hook), {}},
               "custom_model/broken.cpp", line);
  };
  add("drops_weight", 1, [](TransformerModel& model) {
    run_standard_steps(model);
    up_of(model).parameters().clear();
  });
  add("drops_between", 2, [](TransformerModel& model) {
    wrap_model(model);
    up_of(model).parameters().clear();
    patch_attention(model);
  });
  add("reshapes_in_step", 3, [](TransformerModel& model) {
    wrap_model(model);
    run_step(model, "squeeze",
             [](TransformerModel& m, StepReport&) { up_of(m).parameters()[0].shape = {48}; });
  });
  add("narrows", 4, [](TransformerModel& model) {
    run_standard_steps(model);
    Module& mlp = *model.find("model.layers.1.mlp");
    for (std::size_t i = 0; i < mlp.children().size(); ++i) {
      if (mlp.children()[i]->name() != "down_proj") continue;
      auto other = std::make_unique<Linear>(48, 16, false, DType::f32);
      other->set_name("down_proj");
      mlp.replace_child(i, std::move(other));
    }
  });
  add("forgets_rotary", 5, [](TransformerModel& model) {
    wrap_model(model);
    Module& decoder = *model.find("model");
    for (std::size_t i = 0; i < decoder.children().size(); ++i) {
      if (decoder.children()[i]->name() != "rotary_emb") continue;
      auto nothing = std::make_unique<ModuleList>();
      nothing->set_name("rotary_emb");
      decoder.replace_child(i, std::move(nothing));
    }
    patch_attention(model);
  });
  static const auto replaced = [](const ArchitectureContext& context, const std::string& name,
                                  std::int64_t in, std::int64_t out) {
    auto root = architectures().find("builtin::llama")->call(context);
    rewrite(*root, [&](Module& module, const ModulePath&) -> std::unique_ptr<Module> {
      if (module.name() != name) return nullptr;
      auto other = std::make_unique<Linear>(in, out, false, DType::f32);
      other->set_name(name);
      return other;
    });
    return root;
  };
  linked.add("architecture", {"wrongly_built"},
             ArchitectureFunction([](const ArchitectureContext& context) {
               return replaced(context, "gate_proj", 32, 24);
             }),
             "custom_model/broken.cpp", 6);
  linked.add("architecture", {"narrowly_built"},
             ArchitectureFunction([](const ArchitectureContext& context) {
               return replaced(context, "down_proj", 48, 16);
             }),
             "custom_model/broken.cpp", 7);
  linked.link();
  const std::string lost = "model.layers.[0-1].mlp.up_proj broken: it has no parameter 'weight'";
  struct {
    const char* hook;
    std::string message;
  } const cases[] = {
      {"drops_weight",
       "the hook 'drops_weight' of plugin 'broken' (custom_model/broken.cpp:1) left " + lost},
      {"drops_between",
       "the hook 'drops_between' of plugin 'broken' (custom_model/broken.cpp:2), before step "
       "'patch_attention', left " +
           lost},
      {"reshapes_in_step",
       "step 'squeeze' of the hook 'reshapes_in_step' of plugin 'broken' "
       "(custom_model/broken.cpp:3) left "
       "model.layers.[0-1].mlp.up_proj broken: its weight is [48], expected [48, 32]"},
      {"narrows",
       "the hook 'narrows' of plugin 'broken' (custom_model/broken.cpp:4) left model.layers.0 "
       "broken: add "
       "elements=192 second=96 f32: [6, 16] does not stretch to [6, 32]"},
      {"forgets_rotary", "(custom_model/broken.cpp:5)"},
  };
  const std::vector<std::vector<std::string>> commands = {
      {"simulate", "--device", "TEST_DEVICE"},
      {"simulate", "--device", "TEST_DEVICE", "--no-reuse-layers"},
      {"inspect", "--transformed"},
      {"inspect", "--steps"},
      {"run", "--threads", "1", "--input-length", "4", "--output-length", "2"},
      {"verify", "--threads", "1"},
      {"profile-ops", "--threads", "1", "--no-store"},
  };
  for (const std::vector<std::string>& command : commands) {
    CAPTURE(fmt::format("{}", fmt::join(command, " ")));
    const auto failing = [&](const std::string& file, std::vector<std::string> more) {
      std::vector<std::string> arguments = command;
      arguments.insert(arguments.begin() + 1, file);
      arguments.insert(arguments.end(), more.begin(), more.end());
      const Run result = run(arguments);
      CHECK(result.status == 1);
      CHECK(result.out.empty());
      return result.err;
    };
    for (const auto& one : cases) {
      CAPTURE(one.hook);
      const std::string text =
          failing(config, {"--custom-model", fmt::format("plugged={}", one.hook)});
      INFO(text);
      CHECK(contains(text, one.message));
      CHECK(contains(text, "this is a mistake in the step or in the hook that ran it"));
    }
    const std::string text = failing(scratch.config("wrongly_built"), {});
    INFO(text);
    CHECK(contains(
        text,
        "the architecture 'wrongly_built' of plugin 'broken' (custom_model/broken.cpp:6) built "
        "model.layers.[0-1].mlp wrongly: its child 'gate_proj' has 24 outputs, expected "
        "48"));
    const std::string narrow = failing(scratch.config("narrowly_built"), {});
    INFO(narrow);
    CHECK(contains(
        narrow,
        "the architecture 'narrowly_built' of plugin 'broken' (custom_model/broken.cpp:7) built"));
    CHECK(contains(narrow, "[6, 16] does not stretch to [6, 32]"));
  }
}

// --- layers that differ in what nobody sees ------------------------------------------------------

/// A feed-forward block that does its activation a number of times, which differs between layers.
class DeepMlp : public ModuleOf<DeepMlp, Mlp> {
 public:
  DeepMlp(Mlp& original, int repeats)
      : ModuleOf(original.hf_class_name(), original.names(), original.activation()),
        repeats_(repeats) {
    take_over(original);
  }
  Value forward(Trace& trace, Value x) const override {
    for (int i = 0; i < repeats_; ++i) x = trace.unary(ElementwiseKind::tanh, x);
    return Mlp::forward(trace, x);
  }

 private:
  int repeats_;
};

/// The same with a config.
class KnownDeepMlp : public ModuleOf<KnownDeepMlp, Mlp> {
 public:
  KnownDeepMlp(Mlp& original, int repeats)
      : ModuleOf(original.hf_class_name(), original.names(), original.activation()),
        config_{repeats} {
    take_over(original);
  }
  struct Config {
    int repeats = 0;
    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }
  void set_repeats(int repeats) { config_.repeats = repeats; }
  Value forward(Trace& trace, Value x) const override {
    for (int i = 0; i < config_.repeats; ++i) x = trace.unary(ElementwiseKind::tanh, x);
    return Mlp::forward(trace, x);
  }

 private:
  Config config_;
};

/// Every layer a node of its own, with a block of class Block that repeats as often as `repeats` of
/// the layer's index says.
template <class Block>
std::unique_ptr<Module> build_trap(const ArchitectureContext& context, int (*repeats)(int layer)) {
  auto root = build_decoder(read_decoder_spec(context, "Trap"), context);
  Module& layers = root->child("model").child("layers");
  const std::int64_t count = context.config.get_size("num_hidden_layers");
  for (std::int64_t i = 0; i < count; ++i) layers.split_list(i, 1);
  rewrite(*root, [&](Module& module, const ModulePath& path) -> std::unique_ptr<Module> {
    auto* mlp = dynamic_cast<Mlp*>(&module);
    if (mlp == nullptr) return nullptr;
    int layer = 0;
    for (const Module* on_way : path.chain()) {
      if (on_way->members().in_list()) layer = static_cast<int>(on_way->members().first);
    }
    return std::make_unique<Block>(*mlp, repeats(layer));
  });
  return root;
}

int layer_index(int layer) { return layer; }
int parity(int layer) { return layer % 2; }

TEST_CASE("layers: what differs between them is priced, reused or not") {  // S1
  const Scratch scratch;
  LinkedPlugins linked(true);
  const auto add = [&](const char* name, ArchitectureFunction function) {
    linked.add("architecture", {name}, std::move(function), "custom_model/trap.cpp");
  };
  add("trap", [](const ArchitectureContext& c) { return build_trap<DeepMlp>(c, layer_index); });
  add("known_trap",
      [](const ArchitectureContext& c) { return build_trap<KnownDeepMlp>(c, layer_index); });
  add("two_kinds",
      [](const ArchitectureContext& c) { return build_trap<KnownDeepMlp>(c, parity); });
  add("late_trap", [](const ArchitectureContext& c) {
    return build_trap<KnownDeepMlp>(c, [](int) { return 0; });
  });
  // Changes a layer when layers have been compared already, outside of steps and inside of one.
  static const auto change = [](TransformerModel& model, const char* path, int repeats) {
    dynamic_cast<KnownDeepMlp&>(*model.find(path)).set_repeats(repeats);
  };
  linked.add("custom_model", {"late"},
             CustomModelHook{[](TransformerModel& model) {
                               run_standard_steps(model);
                               run_step(model, "deepen", [](TransformerModel& m, StepReport&) {
                                 change(m, "model.layers.2.mlp", 2);
                               });
                               change(model, "model.layers.3.mlp", 4);
                             },
                             {}},
             "custom_model/trap.cpp", 2);
  linked.link();
  struct {
    const char* model_type;
    std::vector<std::string> more;
    int tanh;     // calls in the prompt, of 4 layers
    int regions;  // layers that are traced after the last step
  } const cases[] = {{"trap", {}, 0 + 1 + 2 + 3, 4},
                     {"known_trap", {}, 0 + 1 + 2 + 3, 4},
                     {"two_kinds", {}, 2, 2},
                     {"late_trap", {}, 0, 1},
                     {"late_trap", {"--custom-model", "late_trap=late"}, 2 + 4, 2}};
  for (const auto& one : cases) {
    CAPTURE(one.model_type);
    const std::string config = scratch.write(
        fmt::format("{}.json", one.model_type),
        fmt::format(R"({{"model_type": "{}", "hidden_size": 32, "num_hidden_layers": 4,
 "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
 "rms_norm_eps": 1e-6, "max_position_embeddings": 128, "torch_dtype": "float32"}})",
                    one.model_type));
    const auto simulate = [&](bool reuse) {
      std::vector<std::string> more = one.more;
      if (!reuse) more.emplace_back("--no-reuse-layers");
      return simulated(config, more);
    };
    const json reused = simulate(true);
    const json written_out = simulate(false);
    CHECK(reused.at("memory") == written_out.at("memory"));
    for (const char* field : {"prefill_s", "ttft_s", "tpot_s", "end_to_end_s"}) {
      CAPTURE(field);
      CHECK(reused.at("latency").at(field).get<double>() ==
            doctest::Approx(written_out.at("latency").at(field).get<double>()).epsilon(1e-12));
    }
    for (const json* report : {&reused, &written_out}) {
      int calls = 0;
      for (const json& row : report->at("ops")) {
        if (row.at("name") == "tanh" && row.at("phase") == "prefill") {
          calls += row.at("calls").get<int>();
        }
      }
      CHECK(calls == one.tanh);
    }
    std::vector<std::string> inspect = {"inspect", config, "--steps", "--format", "json"};
    inspect.insert(inspect.end(), one.more.begin(), one.more.end());
    const json steps = json::parse(run(inspect).out).at("steps");
    CHECK(steps.back().at("regions") == one.regions + 2);
  }
  // What that costs is said.
  const std::string trap = scratch.file("trap.json");
  const json told = json::parse(run({"inspect", trap, "--steps", "--format", "json"}).out)
                        .at("steps")
                        .at(3)
                        .at("skipped");
  const std::string gap = "class '(anonymous namespace)::DeepMlp' has no config() to compare";
  REQUIRE(told.size() == 5);
  CHECK(told.at(0).at("path") == "model.layers.0");
  CHECK(told.at(0).at("reason") == gap);
  CHECK(told.at(4).at("path") == "");
  CHECK(told.at(4).at("reason") == gap + ": 4 of 4 layers are traced one by one");
  const Run verified = run({"verify", trap, "--threads", "1"});
  INFO(verified.err);
  CHECK(contains(verified.out, "has no config() to compare"));
  CHECK_FALSE(
      contains(run({"inspect", scratch.file("known_trap.json"), "--steps"}).out, "config()"));
}

TEST_CASE("nasty plugins are warnings, errors with --strict, and errors when they are needed") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  LinkedPlugins linked(true);
  linked.name("custom_model/old.cpp", "old", 7);
  linked.add("custom_model", {"plugged_3"},
             CustomModelHook{[](TransformerModel& model) { run_standard_steps(model); }, {}},
             "custom_model/old.cpp", 2);
  linked.add("setup", {"custom_model"}, SetupFunction([](SetupContext& context) {
               PluginContext(context).add_custom_model({"plugged_4"}, [](TransformerModel&) {});
               try {
                 throw std::runtime_error("disk full");
               } catch (...) {
                 std::throw_with_nested(std::runtime_error("cannot cache"));
               }
             }),
             "custom_model/broken.cpp", 3);
  linked.link();
  const std::vector<std::string> arguments = {"simulate", config, "--device", "TEST_DEVICE"};
  const Run plain = run(arguments);
  CHECK(plain.status == 0);
  CHECK(
      plain.err ==
      "tcast: warning: plugin 'broken' (custom_model/broken.cpp:3) failed: its set-up function "
      "(custom_model/broken.cpp:3) threw: cannot cache\n"
      "tcast: warning: plugin 'old' (custom_model/old.cpp:1) failed: it was written for version 7 "
      "of the plugin interface, this tcast has version 1\n");
  setenv("TCAST_PLUGIN_TRACE", "1", 1);
  CHECK(contains(run(arguments).err,
                 "  custom_model/broken.cpp:3: in the set-up function of plugin 'broken'\n  cannot "
                 "cache\n  caused by: disk full\n"));
  unsetenv("TCAST_PLUGIN_TRACE");
  CHECK(contains(refusal(config, {"--strict"}),
                 "error: plugin 'old' (custom_model/old.cpp:1) failed"));
  CHECK(contains(refusal(config, {"--strict", "--plugins=-old"}), "error: plugin 'broken'"));
  CHECK(run({"simulate", config, "--device", "TEST_DEVICE", "--plugins=-old,-broken", "--strict",
             "--input-length", "16", "--output-length", "4"})
            .err.empty());
  // The model at hand needs one.
  CHECK(contains(refusal(scratch.config("plugged_3"), {}),
                 "error: hook 'plugged_3' belongs to the plugin 'old' "
                 "(custom_model/old.cpp:2), which failed: it was written for version 7"));
  CHECK(contains(refusal(scratch.config("plugged_4"), {}),
                 "error: hook 'plugged_4' belongs to the plugin 'broken'"));
  CHECK(contains(refusal(config, {"--custom-model", "plugged=broken:anything"}),
                 "hint: the plugin 'broken' might register it, but failed"));
  CHECK(contains(run({"plugins"}).out, "old failed: it was written for version 7"));
}

// --- profiles ------------------------------------------------------------------------------------

TEST_CASE("profiles: pipelines of registered steps with arguments") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  const auto profile = [&](const std::string& pipeline) {
    return std::vector<std::string>{"--profile",
                                    scratch.write("p.yaml", "pipeline: [" + pipeline + "]\n")};
  };
  const json report = simulated(
      config, profile("wrap_model, {type: patch_attention, implementation: PluggedAttention}, "
                      "{type: plugged_step, note: hello}"));
  CHECK(report.at("steps").size() == 3);
  CHECK(contains(report.at("steps")[1].at("changed").dump(), "PluggedAttention"));
  CHECK(contains(report.at("warnings").dump(), "plugged_step: note: hello"));
  CHECK(contains(report.at("pipeline"), "the pipeline of "));
  // By its alias, too, and with the same function.
  std::vector<std::string> verify = {"verify", config, "--threads", "1"};
  for (const std::string& one : profile("wrap_model, patch_rotary_emb, {type: patch_attention, "
                                        "implementation: plugged_flash}")) {
    verify.push_back(one);
  }
  CHECK(run(verify).status == 0);
  struct {
    const char* pipeline;
    const char* message;
  } const cases[] = {
      {"wrap_modle",
       "p.yaml:1:12: pipeline[0]: unknown step 'wrap_modle'\n  hint: did you mean "
       "'wrap_model'?"},
      {"{type: plugged_step}", "p.yaml:1:12: pipeline[0]: expected the argument 'note'"},
      {"{type: plugged_step, note: 3}",
       "p.yaml:1:39: pipeline[0].note: expected a string, got the "
       "number 3"},
      {"wrap_model, {type: patch_attention, implementation: Flash}",
       "no module class 'Flash' is registered"},
      {"wrap_model, {type: patch_attention, implementation: GroupedExperts}",
       "): it made no attention of model.layers.[0-1].self_attn\n  hint: a class for "
       "patch_attention must return an AttentionModule"},
      {"{type: wrap_model, deep: 1}",
       "p.yaml:1:37: pipeline[0].deep: the step 'wrap_model' takes no argument 'deep'"},
      {"{type: plugged_step, note: a, nota: b}",
       "pipeline[0].nota: the step 'plugged_step' takes no argument 'nota'\n  hint: did you mean "
       "'note'?"},
  };
  for (const auto& one : cases) {
    CAPTURE(one.pipeline);
    const std::string text = refusal(config, profile(one.pipeline));
    INFO(text);
    CHECK(contains(text, one.message));
  }
}

TEST_CASE("profiles: patches, activations, and architectures by what a config has") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  const std::string patched = scratch.write("p.yaml", "vl_patch_method: plugged_patch\n");
  const json report = simulated(config, {"--profile", patched});
  REQUIRE(report.at("steps").size() == 10);
  CHECK(report.at("steps")[3].at("step") == "plugged_patch");
  CHECK(contains(
      refusal(config, {"--profile", scratch.write("q.yaml", "vl_patch_method: nobodys\n")}),
      "q.yaml: vl_patch_method: no patch 'nobodys' is registered"));

  const std::string swish = scratch.write("s.yaml", "architecture: {hidden_act: plugged_swish}\n");
  CHECK(simulated(config, {"--profile", swish}).at("latency") == simulated(config).at("latency"));
  CHECK(contains(
      refusal(config,
              {"--profile", scratch.write("t.yaml", "architecture: {hidden_act: swoosh}\n")}),
      "expected one of gelu, gelu_new, gelu_pytorch_tanh, gelu_tanh, plugged_swish, quick_gelu, "
      "relu, relu2, sigmoid, silu, swish, tanh, got the string \"swoosh\""));

  const json recognised =
      simulated(scratch.config("never_heard_of", R"(, "plugged_marker": true)"));
  CHECK(contains(recognised.at("assumptions").dump(),
                 "model type 'never_heard_of' is recognised as 'plugged' by what its config has"));
  CHECK(contains(refusal(scratch.config("never_heard_of_2"), {}), "unknown model type"));
}

TEST_CASE("formats of quantization: one file, read by its quant_method") {
  const Scratch scratch;
  const auto config = [&](const std::string& members) {
    return scratch.config("llama", R"(, "quantization_config": {"quant_method": )" + members + "}");
  };
  // Attention is left in 16 bit, where it takes the most bytes, and is told first.
  const json report = simulated(config(R"("PLUGGED_int4", "group": 16, "skip": ["*.self_attn"])"));
  CHECK(report.at("quantization").at("linear").at("scheme") == "none");
  REQUIRE(report.at("quantization").at("other_linears").size() == 1);
  const json linear = report.at("quantization").at("other_linears").at(0);
  CHECK(linear.at("scheme") == "w4a16");
  CHECK(linear.at("source") == "checkpoint");
  CHECK(linear.at("block") == json::array({1, 16}));
  CHECK(report.at("warnings") == json::array());
  // What an option takes the place of is not asked for; what is to be left stays left.
  const json by_option = simulated(config(R"("plugged-int4", "skip": ["*.self_attn"])"),
                                   {"--quantize-linear", "w8a16"});
  CHECK(by_option.at("quantization").at("linear").at("scheme") == "none");
  CHECK(by_option.at("quantization").at("other_linears").at(0).at("scheme") == "w8a16");
  CHECK(contains(refusal(config(R"("plugged-int4")"), {}), "group: required key is missing"));
  CHECK(contains(refusal(config(R"("plugged-int5")"), {}),
                 "unknown quantization method 'plugged-int5'\n  hint: did you mean "
                 "'plugged-int4'?"));
  CHECK(contains(refusal(config(R"("plugged-int4", "group": 16)"), {"--plugins=-plugged"}),
                 "unknown quantization method"));
}

TEST_CASE("formats of quantization: what a plugin throws, and what nothing can be stored in") {
  const Scratch scratch;
  const std::string config =
      scratch.config("llama", R"(, "quantization_config": {"quant_method": "odd"})");
  struct Row {
    QuantizationFormat read;
    const char* error;
  };
  const auto of = [](auto edit) {
    return [edit](const QuantizationSource&) {
      LinearQuantization linear = quantize_to(DType::i8);
      edit(linear);
      QuantizationScheme scheme;
      scheme.groups.push_back({"g", {}, linear});
      return scheme;
    };
  };
  using Linear = LinearQuantization;
  const Row rows[] = {
      {[](const QuantizationSource&) -> QuantizationScheme { throw 7; }, "failed"},
      {[](const QuantizationSource&) -> QuantizationScheme { throw std::runtime_error("oh"); },
       "failed: oh"},
      {of([](Linear& linear) { linear.scales.block_columns = -1; }),
       "its group 'g' has blocks of -1 elements, expected 0 to 1048576"},
      {of([](Linear& linear) { linear.weight = DType::bf16; }),
       "its group 'g' has weights of bfloat16, expected 4 or 8 bit"},
      {of([](Linear& linear) { linear.activation = DType::f32; }),
       "its group 'g' has activations of float32, expected 8 bit"},
      {of([](Linear& linear) {
         linear.activation = DType::i8;
         linear.scales.zero_points = DType::i8;
       }),
       "its group 'g' has zero points beside quantized activations"},
      {of([](Linear& linear) { linear.input_multiple = 0; }),
       "its group 'g' has sizes that are to be multiples of less than 1"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.error);
    LinkedPlugins linked(true);
    linked.add("quantization_format", {"odd"}, row.read, "custom_model/odd.cpp");
    linked.link();
    const std::string text = refusal(config, {});
    INFO(text);
    CHECK(contains(text, "quantization format 'odd' of plugin 'odd' (custom_model/odd.cpp"));
    CHECK(contains(text, row.error));
  }
}

// --- set-up functions ----------------------------------------------------------------------------

TEST_CASE("set-up: devices, profiles of a folder, resolvers, converters, validators") {
  const Scratch scratch;
  const std::string config = scratch.config("llama");
  scratch.write("cards/z.yaml", "model_type: carded\nbase: llama\n");
  scratch.write("cards/a.yaml", "model_type: carded_*\nbase: qwen2\n");
  scratch.write("cards/readme.txt", "no card");
  struct Depth {
    std::int64_t layers = 0;
  };
  static std::string folder;
  static std::int64_t depth = 0;
  folder = scratch.file("");
  LinkedPlugins linked(true);
  linked.add("setup", {"*"}, SetupFunction([](SetupContext& setup) {
               PluginContext context(setup);
               context.add_profiles(folder + "cards");
               context.add_name_resolver(
                   "mycluster", [](const std::string& name) { return folder + name + ".json"; });
               for (const auto& [group, name] : {std::pair{"device", "h-200"},
                                                 {"profile", "mixtral"},
                                                 {"step", "wrap_model"},
                                                 {"activation", "silu"},
                                                 {"report_writer", "json"},
                                                 {"quantization_format", "fp8"},
                                                 {"input_filler", "positions"}}) {
                 if (!context.is_taken(group, name)) throw std::logic_error("it is compiled in");
               }
               context.add_device("my_npu", [] {
                 DeviceProfile device = load_device("TEST_DEVICE");
                 device.name = "my_npu";
                 return device;
               });
               context.add_value_converter<Depth>([](const Node& node) {
                 if (node.as_string() != "deep") node.fail("expected deep");
                 return Depth{42};
               });
               context.add_type_validator("rope_th*", [](const Node& node) {
                 if (node.as_number() < 1000) node.fail("a theta this small is a typing error");
               });
               context.add_custom_model({"carded"}, [](TransformerModel& model) {
                 depth = model.custom_model_config().get<Depth>("depth").layers;
                 run_standard_steps(model);
               });
               context.add_report_writer("markdown", [](const Report& report) {
                 return "# " + report.model_type + "\n";
               });
             }),
             "custom_model/cluster.cpp");
  linked.link();
  const auto on = [](const std::string& device, const std::string& what,
                     std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"simulate", what, "--device", device});
    return run(more);
  };
  CHECK(on("my-npu", config).status == 0);
  CHECK(contains(run({"devices"}).out, "my_npu"));
  CHECK(contains(run({"profiles"}).out, "carded_*"));
  CHECK(on("TEST_DEVICE", "llama@mycluster").status == 0);
  CHECK(contains(on("TEST_DEVICE", "llama@mycluter").err,
                 "llama@mycluter: no such file, and no name resolver 'mycluter' is registered\n  "
                 "hint: did you mean 'mycluster'?"));
  const Run carded =
      on("TEST_DEVICE", scratch.config("carded"), {"--custom-model-config", "depth=deep"});
  INFO(carded.err);
  CHECK(carded.status == 0);
  CHECK(depth == 42);
  CHECK(contains(
      on("TEST_DEVICE", scratch.config("carded"), {"--custom-model-config", "depth=d"}).err,
      "--custom-model-config:1:8: depth: expected deep"));
  CHECK(on("TEST_DEVICE", scratch.config("carded_2")).status == 0);
  CHECK(contains(on("TEST_DEVICE", scratch.config("llama", ", \"rope_theta\": 10")).err,
                 "llama.json:4:68: rope_theta: a theta this small is a typing error"));
  CHECK(on("TEST_DEVICE", scratch.config("llama"), {"--format", "markdown"}).out == "# llama\n");
  CHECK(contains(on("TEST_DEVICE", config, {"--format", "markdwon"}).err,
                 "did you mean 'markdown'?"));
}

TEST_CASE("set-up: the order in which the files of a folder were made changes nothing") {
  // A file system in memory lists the newest file first, others by their hashes.
  const fs::path memory = "/dev/shm";
  const Scratch scratch(access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path());
  static std::string folder;
  folder = scratch.file("cards");
  LinkedPlugins linked(true);
  linked.add("setup", {"profile"},
             SetupFunction([](SetupContext& setup) { PluginContext(setup).add_profiles(folder); }),
             "custom_model/cards.cpp");
  linked.link();
  std::vector<std::pair<std::string, std::string>> cards = {
      {"a.yaml", "model_type: one\nbase: llama\n"},
      {"b.yaml", "base: llama\nmodel_type: twice\n"},
      {"c.yaml", "model_type: twice\n"},
      {"d.yaml", "model_type: [first, bad]\n"},
      {"e.yaml", "base: no model type\n"},
      {"f.yaml", "model_type: two\n"}};
  const auto problems = [&] {
    fs::remove_all(folder);
    for (const auto& [name, text] : cards) scratch.write("cards/" + name, text);
    select_plugins({"", "the last order", false});
    select_plugins({});
    std::string text = run({"profiles"}).out;
    for (const PluginProblem& problem : plugin_problems()) text += problem.message + "\n";
    return text;
  };
  const std::string expected = problems();
  CHECK(contains(expected, fmt::format("profile 'twice' is registered twice: {0}/b.yaml:2 and "
                                       "{0}/c.yaml:1\n",
                                       folder)));
  CHECK(contains(expected, folder + "/d.yaml:1:13: model_type: expected a string"));
  for (unsigned seed = 0; seed < 10; ++seed) {
    std::shuffle(cards.begin(), cards.end(), std::mt19937(seed));
    CHECK(problems() == expected);
  }
}

TEST_CASE("set-up: tensors into and out of run") {
  const Scratch scratch;
  const std::string config = scratch.config("llama");
  scratch.write("prompt.hex", "0a 0b 0c");
  LinkedPlugins linked(true);
  linked.add("setup", {"token_loader", "logits_dumper"}, SetupFunction([](SetupContext& setup) {
               PluginContext context(setup);
               context.add_token_loader("*.hex", [](const std::string& path) {
                 std::ifstream file(path);
                 std::vector<std::vector<std::int64_t>> requests(1);
                 for (std::string word; file >> word;) {
                   requests[0].push_back(std::stoll(word, nullptr, 16));
                 }
                 return requests;
               });
               context.add_logits_dumper("*.txt", [](const std::vector<std::int64_t>& shape,
                                                     const std::vector<float>& values) {
                 return fmt::format("{} {}", fmt::join(shape, "x"), values.size());
               });
             }),
             "custom_model/files.cpp");
  linked.link();
  const Run result = run({"run", config, "--threads", "1", "--output-length", "2", "--token-ids",
                          scratch.file("prompt.hex"), "--dump-logits", scratch.file("out.txt"),
                          "--format", "json"});
  INFO(result.err);
  REQUIRE(result.status == 0);
  CHECK(json::parse(result.out).at("inputs").at("input_length") == 3);
  std::ifstream out(scratch.file("out.txt"));
  std::string text;
  std::getline(out, text);
  CHECK(text == "2x1x64 128");
  scratch.write("big.hex", "ffff");
  CHECK(contains(run({"run", config, "--token-ids", scratch.file("big.hex")}).err,
                 "the token id 65535, which is outside the vocabulary of 64"));
}

// --- operators, costs, runners -------------------------------------------------------------------

/// Everything takes a second.
class Slow final : public CostModel {
 public:
  OpEstimate estimate(const OpRecord&) const override {
    OpEstimate estimate;
    estimate.total_s = 1;
    return estimate;
  }
  std::string explain(const OpRecord&) const override { return "a second\n"; }
};

double seconds_of(const json& report, const std::string& op) {
  double seconds = 0;
  for (const json& row : report.at("ops")) {
    if (row.at("name") == op) seconds += row.at("total_s").get<double>();
  }
  return seconds;
}

TEST_CASE("costs: for all devices, for one, with fallback to the default") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  const json before = simulated(config);
  LinkedPlugins linked(true);
  linked.add("operator_cost", {"rms_norm@test device"},
             OperatorCost([](const OpRecord&, const OperatorCostContext& context) {
               OpEstimate estimate = context.fallback;
               estimate.total_s *= 3;
               return estimate;
             }),
             "custom_model/costs.cpp", 1);
  linked.add("operator_cost", {"rms_*", "silu_mul"},
             OperatorCost([](const OpRecord&, const OperatorCostContext& context) {
               OpEstimate estimate = context.fallback;
               estimate.total_s *= 5;
               return estimate;
             }),
             "custom_model/costs.cpp", 2);
  linked.link();
  const json after = simulated(config);
  CHECK(seconds_of(after, "rms_norm") == doctest::Approx(3 * seconds_of(before, "rms_norm")));
  CHECK(seconds_of(after, "silu_mul") == doctest::Approx(5 * seconds_of(before, "silu_mul")));
  // Registering for one device disables nothing.
  CHECK(seconds_of(after, "matmul") == doctest::Approx(seconds_of(before, "matmul")));
  const auto on_h200 = [&] {
    return json::parse(run({"simulate", config, "--device", "h200", "--format", "json"}).out);
  };
  const double with = seconds_of(on_h200(), "rms_norm");
  const double without = seconds_of(json::parse(run({"simulate", config, "--device", "h200",
                                                     "--format", "json", "--plugins=-costs"})
                                                    .out),
                                    "rms_norm");
  CHECK(with == doctest::Approx(5 * without));
  CHECK(contains(run({"simulate", config, "--device", "h200", "--explain", "silu_mul"}).out,
                 "by the cost of 'silu_mul' (custom_model/costs.cpp:2)"));
}

TEST_CASE("runners: another cost model, another executor") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  static int made = 0;
  made = 0;
  LinkedPlugins linked(true);
  linked.add(
      "cost_model", {"slow"},
      CostModelFunction([](const DeviceProfile&, const CostModel&) -> std::unique_ptr<CostModel> {
        return std::make_unique<Slow>();
      }),
      "custom_model/slow.cpp");
  linked.add("executor", {"counting"}, KernelMaker([](const OpRecord&, const KernelContext&) {
               ++made;
               return KernelResult{nullptr, "only counts"};
             }),
             "custom_model/slow.cpp", 2);
  linked.link();
  const json report = simulated(config, {"--runner", "slow"});
  CHECK(report.at("latency").at("prefill_s").get<double>() > 10);
  CHECK(report.at("inputs").at("runner") == "slow");
  CHECK(contains(refusal(config, {"--runner", "slwo"}),
                 "--runner: no cost model 'slwo' is registered"));
  const Run counted = run({"run", config, "--runner", "counting", "--threads", "1",
                           "--input-length", "4", "--output-length", "2"});
  INFO(counted.err);
  CHECK(counted.status == 0);
  CHECK(made > 10);
  CHECK(
      contains(counted.out, "  executor 'counting' of plugin 'slow' (custom_model/slow.cpp:2)\n"));
  CHECK(
      contains(run({"run", config, "--runner", "cuonting"}).err,
               "--runner: no executor 'cuonting' is registered\n  hint: did you mean 'counting'?"));
}

/// Halves twice what it is given.
class Halves : public ModuleOf<Halves> {
 public:
  explicit Halves(std::unique_ptr<Module> inner) : ModuleOf("Halves") {
    add_child("", std::move(inner));
  }
  Halves(const Halves&) = default;
  Value forward(Trace& trace, Value input) const override {
    const Value logits = (*children()[0])(trace, input);
    CustomOp op;
    op.definition = &find_operator("plugged_half");
    op.sizes[0] = trace.shape(logits).elements();
    op.dtype = trace.dtype(logits);
    return trace.emit(op, {logits}, trace.shape(logits), trace.dtype(logits));
  }
};

TEST_CASE("operators: one with a kernel is priced and executed") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  LinkedPlugins linked(true);
  linked.add("custom_model", {"halving"},
             CustomModelHook{[](TransformerModel& model) {
                               run_standard_steps(model);
                               model.wrap_root([](std::unique_ptr<Module> root) {
                                 return std::make_unique<Halves>(std::move(root));
                               });
                             },
                             {}},
             "custom_model/halving.cpp");
  linked.link();
  CHECK(seconds_of(simulated(config, {"--custom-model", "plugged=halving"}), "plugged_half") > 0);
  const auto run_with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"run", config, "--threads", "1", "--input-length", "4",
                               "--output-length", "2", "--format", "json"});
    const Run result = run(more);
    INFO(result.err);
    REQUIRE(result.status == 0);
    return json::parse(result.out);
  };
  const json plain = run_with({});
  const json halved = run_with({"--custom-model", "plugged=halving"});
  CHECK(plain.at("tokens") == halved.at("tokens"));
  CHECK(contains(halved.at("ops").dump(), "plugin:plugged"));
}

// --- row C2: what was priced and then could not be executed
// ---------------------------------------

/// Adds an input of its own to the logits.
class Biased : public ModuleOf<Biased> {
 public:
  explicit Biased(std::unique_ptr<Module> inner) : ModuleOf("Biased") {
    add_child("", std::move(inner));
  }
  Biased(const Biased&) = default;
  Value forward(Trace& trace, Value input) const override {
    const Value logits = (*children()[0])(trace, input);
    return trace.add(logits, trace.input("logit bias", trace.shape(logits), trace.dtype(logits)));
  }
};

/// Keeps the sum of all it has seen, per channel, in a cache of its own.
class Remembering : public ModuleOf<Remembering> {
 public:
  explicit Remembering(Mlp& original) : ModuleOf("Remembering"), names_(original.names()) {
    take_over(original);
  }
  Value forward(Trace& trace, Value input) const override {
    const Value up = call(trace, names_.up, input);
    CacheSpec spec;
    spec.elements_per_token = trace.shape(up)[1];
    spec.key_dim = spec.elements_per_token;
    spec.dtype = trace.dtype(up);
    CustomOp op;
    op.definition = &find_operator("remember");
    op.sizes[0] = trace.shape(up).elements();
    op.sizes[1] = trace.shape(up)[1];
    op.dtype = trace.dtype(up);
    return call(trace, names_.down,
                trace.emit(op, {up, trace.cache(spec)}, trace.shape(up), op.dtype));
  }

 private:
  MlpNames names_;
};

json executed(const std::string& config, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"run", config, "--threads", "1", "--input-length", "4",
                             "--output-length", "3", "--format", "json"});
  const Run result = run(more);
  INFO(result.err);
  REQUIRE(result.status == 0);
  return json::parse(result.out);
}

TEST_CASE("inputs of a module's own: priced, refused before any work, filled by a plugin") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  const std::vector<std::string> hook = {"--custom-model", "plugged=biased"};
  const CustomModelHook biased{[](TransformerModel& model) {
                                 run_standard_steps(model);
                                 model.wrap_root([](std::unique_ptr<Module> root) {
                                   return std::make_unique<Biased>(std::move(root));
                                 });
                               },
                               {}};
  LinkedPlugins linked(true);
  linked.add("custom_model", {"biased"}, biased, "custom_model/biased.cpp");
  linked.link();
  CHECK(simulated(config, hook).at("pipeline") ==
        "the hook 'biased' of plugin 'biased' (custom_model/biased.cpp:1)");
  std::vector<std::string> command = {"run", config, "--input-length", "4", "--output-length", "3"};
  command.insert(command.end(), hook.begin(), hook.end());
  const Run refused = run(command);
  CHECK(refused.status == 1);
  CHECK(
      refused.err ==
      "tcast: error: the model takes the input 'logit bias', which nobody fills\n  hint: a plugin "
      "fills it with TCAST_REGISTER_INPUT(\"logit bias\"); simulate needs no values\n");
  linked.add("input_filler", {"logit bias"},
             InputFiller([](const InputContext& context, const Buffer& buffer) {
               CHECK(context.workload.tokens() > 0);
               const std::int64_t vocabulary = buffer.shape[buffer.shape.rank() - 1];
               for (std::int64_t i = 0; i < buffer.shape.elements(); ++i) {
                 write_element(buffer, i, i % vocabulary == 17 ? 1e6 : 0);
               }
             }),
             "custom_model/biased.cpp", 2);
  linked.link();
  CHECK(executed(config, hook).at("tokens") == json({{17, 17, 17}}));
}

TEST_CASE("operators with a cache: priced and executed, the cache stays from pass to pass") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  static std::vector<float> seen;  // what the first channel of layer 0's cache held
  seen.clear();
  LinkedPlugins linked(true);
  linked.add("operator", {"remember"}, OperatorFunction([](const CustomOp& op) {
               OpWork work;
               work.read_bytes = work.write_bytes = 4.0 * static_cast<double>(op.sizes[0]);
               return work;
             }),
             "custom_model/remember.cpp", 1);
  linked.add("operator_kernel", {"remember"},
             OperatorKernel([](const CustomOp& op, const KernelArgs& args) {
               REQUIRE(args.cache != nullptr);
               CHECK(args.cache->layout.width() == op.sizes[1]);
               CHECK(args.cache->data == args.inputs[1].data);
               Buffer cache = args.inputs[1];
               if (args.cache->context_length == 0) write_element(cache, 0, 0);
               for (std::int64_t i = 0; i < op.sizes[0]; ++i) {
                 write_element(args.outputs[0], i, read_element(args.inputs[0], i));
               }
               const std::int64_t tokens = op.sizes[0] / op.sizes[1];
               write_element(cache, 0, read_element(cache, 0) + static_cast<double>(tokens));
               seen.push_back(static_cast<float>(read_element(cache, 0)));
             }),
             "custom_model/remember.cpp", 2);
  linked.add(
      "custom_model", {"remembering"},
      CustomModelHook{[](TransformerModel& model) {
                        run_standard_steps(model);
                        rewrite(model.root(),
                                [](Module& module, const ModulePath&) -> std::unique_ptr<Module> {
                                  auto* mlp = dynamic_cast<Mlp*>(&module);
                                  if (mlp == nullptr) return nullptr;
                                  return std::make_unique<Remembering>(*mlp);
                                });
                      },
                      {}},
      "custom_model/remember.cpp", 3);
  linked.link();
  const std::vector<std::string> hook = {"--custom-model", "plugged=remembering"};
  // 2 layers, 20 tokens, 48 channels of float32 more than without.
  const auto cache_bytes = [](const json& report) {
    return report.at("memory").at("kv_cache_bytes").get<std::int64_t>();
  };
  CHECK(cache_bytes(simulated(config, hook)) - cache_bytes(simulated(config)) == 2 * 20 * 48 * 4);
  executed(config, hook);
  // Two layers, after the prompt of 4 tokens and each of two decode steps.
  REQUIRE(seen.size() >= 6);
  CHECK(std::vector<float>(seen.end() - 6, seen.end()) == std::vector<float>{4, 4, 5, 5, 6, 6});
}

TEST_CASE("activations: plain and gated, of configs and of plugins, are priced, executed, proved") {
  const Scratch scratch;
  LinkedPlugins linked(true);
  linked.add("activation", {"my_relu"}, ElementwiseKind::relu, "custom_model/act.cpp");
  linked.link();
  struct {
    const char* name;
    const char* op;
  } const cases[] = {
      {"relu", "relu_mul"}, {"relu2", "relu2_mul"},           {"sigmoid", "sigmoid_mul"},
      {"tanh", "tanh_mul"}, {"quick_gelu", "quick_gelu_mul"}, {"my_relu", "relu_mul"}};
  for (const auto& one : cases) {
    CAPTURE(one.name);
    const std::string profile =
        scratch.write("act.yaml", fmt::format("architecture: {{hidden_act: {}}}\n", one.name));
    const std::string config = scratch.config("plugged");
    CHECK(seconds_of(simulated(config, {"--profile", profile}), one.op) > 0);
    CHECK(contains(executed(config, {"--profile", profile}).at("ops").dump(), one.op));
    CHECK(run({"verify", config, "--threads", "1", "--profile", profile}).status == 0);
  }
}

// --- rows C8, C9, S17: precedence, origins, scopes
// -------------------------------------------------

TEST_CASE("report writers: a plugin's takes a builtin one's place, and says so") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  LinkedPlugins linked(true);
  linked.add("report_writer", {"json"},
             ReportWriter([](const Report& report) { return "mine: " + report.device + "\n"; }),
             "custom_model/writer.cpp", 5);
  linked.link();
  const auto written = [&](const char* format) {
    return run({"simulate", config, "--device", "TEST_DEVICE", "--format", format}).out;
  };
  CHECK(written("json") == "mine: TEST_DEVICE\n");
  CHECK(written("custom::json") == "mine: TEST_DEVICE\n");
  CHECK(json::parse(written("builtin::json")).at("device") == "TEST_DEVICE");
  CHECK(contains(written("builtin::table"), "memory of one device"));
  const std::string help = run({"simulate", "--help"}).out;
  const std::string flat = [&] {
    std::string text;
    for (const char c : help) {
      if (c != ' ' || text.empty() || text.back() != ' ') text += c == '\n' ? ' ' : c;
    }
    return text;
  }();
  INFO(flat);
  CHECK(contains(flat,
                 "--format FORMAT table, json (of plugin 'writer' (custom_model/writer.cpp:5), "
                 "in place of the"));
  CHECK(run({"simulate", config, "--device", "TEST_DEVICE", "--format", "jsn"}).status == 2);
}

TEST_CASE("devices: where one comes from is in the report, and a replaced one is still found") {
  const Scratch scratch;
  const std::string config = scratch.config("plugged");
  const auto slow = [] {
    DeviceProfile device = load_device("TEST_DEVICE");
    device.name = "A100-80G";
    device.matrix[DType::f32] = device.vector[DType::f32] = 1e9;
    return device;
  };
  LinkedPlugins linked(true);
  linked.add("device", {"a100_80g"}, DeviceFunction(slow), "custom_model/slow.cpp", 3);
  linked.add("device", {"lab::npu"}, DeviceFunction(slow), "custom_model/slow.cpp", 4);
  linked.link();
  const auto report_of = [&](const std::string& device) {
    const Run result = run({"simulate", config, "--device", device, "--format", "json"});
    INFO(result.err);
    REQUIRE(result.status == 0);
    return json::parse(result.out);
  };
  const auto provenance = [](const json& report) {
    for (const json& one : report.at("provenance")) {
      if (one.at("kind") == "device") return one;
    }
    return json();
  };
  const auto prefill = [](const json& report) {
    return report.at("latency").at("prefill_s").get<double>();
  };
  const json mine = {{"kind", "device"},
                     {"name", "a100_80g"},
                     {"origin", "plugin"},
                     {"plugin", "slow"},
                     {"file", "custom_model/slow.cpp"},
                     {"line", 3},
                     {"in_place_of", "builtin"}};
  const json builtin = {{"kind", "device"},
                        {"name", "A100-80G"},
                        {"origin", "builtin"},
                        {"file", "configs/devices/a100-80g.yaml"}};
  for (const char* name :
       {"A100-80G", "a100-80g", "a100_80G", "custom::A100 80g", "slow:a100_80g", "SLOW.A100_80G"}) {
    CAPTURE(name);
    CHECK(provenance(report_of(name)) == mine);
  }
  for (const char* name : {"builtin::A100-80G", "builtin::a100_80g"}) {
    CAPTURE(name);
    CHECK(provenance(report_of(name)) == builtin);
    CHECK(prefill(report_of(name)) < 0.1 * prefill(report_of("a100-80g")));
  }
  CHECK(provenance(report_of("lab::NPU")).at("line") == 4);
  CHECK(contains(run({"simulate", config, "--device", "npu"}).err, "unknown device 'npu'"));
  const std::string table = run({"simulate", config, "--device", "a100-80g"}).out;
  CHECK(contains(table,
                 "device        A100-80G (of plugin 'slow' (custom_model/slow.cpp:3), in place "
                 "of the builtin one)"));
  CHECK(contains(run({"simulate", config, "--device", "H100"}).out,
                 "device        H100 (builtin)\n"));
  // A file is named as a file.
  const std::string yaml = scratch.write("mine.yaml", to_yaml(load_device("TEST_DEVICE")));
  CHECK(provenance(report_of(yaml)) ==
        json({{"kind", "device"}, {"name", "TEST_DEVICE"}, {"origin", "file"}, {"file", yaml}}));
  const std::string list = run({"devices"}).out;
  CHECK(contains(list, "builtin::A100-80G "));
  CHECK(contains(list, "a100_80g "));
  CHECK(contains(list, "of plugin 'slow' (custom_model/slow.cpp:3), in place of the builtin one"));
}

TEST_CASE("origins: hooks, architectures, profiles, module classes, cost models, writers") {
  const Scratch scratch;
  const std::string config = scratch.config("llama");
  LinkedPlugins linked(true);
  linked.add("architecture", {"llama"},
             ArchitectureFunction([](const ArchitectureContext& context) {
               return architectures().find("builtin::llama")->call(context);
             }),
             "custom_model/own.cpp", 1);
  linked.add("custom_model", {"llama"},
             CustomModelHook{[](TransformerModel& model) { run_profile_steps(model); }, {}},
             "custom_model/own.cpp", 2);
  linked.add("profile", {"llama"}, ProfileFunction([] {
               return ProfileText{
                   "pipeline: [wrap_model, {type: patch_attention, implementation: plugged_flash}]",
                   "own.yaml"};
             }),
             "custom_model/own.cpp", 3);
  linked.add(
      "cost_model", {"slow"},
      CostModelFunction([](const DeviceProfile&, const CostModel&) -> std::unique_ptr<CostModel> {
        return std::make_unique<Slow>();
      }),
      "custom_model/own.cpp", 4);
  linked.link();
  const json report = simulated(config, {"--runner", "slow"});
  std::vector<std::string> found;
  for (const json& one : report.at("provenance")) {
    found.push_back(fmt::format("{} {} {} {}{}", one.at("kind").get<std::string>(),
                                one.at("name").get<std::string>(),
                                one.at("origin").get<std::string>(), one.value("plugin", ""),
                                one.contains("in_place_of") ? " in place" : ""));
  }
  const std::vector<std::string> expected = {
      "profile llama plugin own",    "architecture llama plugin own in place",
      "hook llama plugin own",       "module class plugged_flash plugin plugged",
      "device TEST_DEVICE builtin ", "cost model slow plugin own",
      "report writer json builtin "};
  CHECK(found == expected);
  const std::string table =
      run({"simulate", config, "--device", "TEST_DEVICE", "--runner", "slow"}).out;
  CHECK(contains(table, "pipeline      the hook 'llama' of plugin 'own' (custom_model/own.cpp:2)"));
  CHECK(
      contains(table, "plugins       profile 'llama' of plugin 'own' (custom_model/own.cpp:3); "));
}

TEST_CASE("scopes: builtin::name finds tcast's own in every registry, whatever plugins have") {
  LinkedPlugins linked(true);
  const auto shadow = [&](const char* group, const char* name, auto value) {
    linked.add(group, {name}, std::move(value), "custom_model/shadow.cpp");
  };
  shadow("architecture", "llama",
         ArchitectureFunction([](const ArchitectureContext&) { return nullptr; }));
  shadow("custom_model", "bailing_moe", CustomModelHook{[](TransformerModel&) {}, {}});
  shadow("module_class", "GroupedExperts",
         ModuleClassFunction(
             [](Module&, const ModelProfile&, const ModelOptions&) { return nullptr; }));
  shadow("profile", "mixtral", ProfileFunction([] { return ProfileText{"", "x"}; }));
  shadow("step", "wrap_model",
         StepFunction(
             [](TransformerModel& model, const Arguments&) -> TransformerModel& { return model; }));
  shadow("activation", "silu", ElementwiseKind::relu);
  shadow("device", "H100", DeviceFunction([] { return DeviceProfile{}; }));
  shadow("report_writer", "table", ReportWriter([](const Report&) { return "x"; }));
  shadow("input_filler", "positions", InputFiller([](const InputContext&, const Buffer&) {}));
  linked.link();
  const auto check = [](const auto& registry, const char* name) {
    CAPTURE(name);
    REQUIRE(registry.find(name) != nullptr);
    CHECK(registry.find(name)->plugin == "shadow");
    CHECK(registry.provenance(*registry.find(name)).replaces_builtin);
    const std::string builtin = std::string("builtin::") + name;
    REQUIRE(registry.find(builtin) != nullptr);
    CHECK(registry.find(builtin)->origin == Origin::builtin);
    CHECK(registry.find(std::string("custom::") + name)->plugin == "shadow");
  };
  check(architectures(), "llama");
  check(custom_models(), "bailing_moe");
  check(module_classes(), "GroupedExperts");
  check(profiles(), "mixtral");
  check(registered_steps(), "wrap_model");
  check(activations(), "silu");
  check(devices(), "H100");
  check(report_writers(), "table");
  check(input_fillers(), "positions");
}

TEST_CASE("scopes: a pipeline, a profile and an activation are named with their scope") {
  const Scratch scratch;
  const std::string config = scratch.config("llama");
  LinkedPlugins linked(true);
  linked.add("step", {"wrap_model"},
             StepFunction([](TransformerModel&, const Arguments&) -> TransformerModel& {
               throw Error("the custom one");
             }),
             "custom_model/shadow.cpp");
  linked.add("profile", {"lab::fast"}, ProfileFunction([] {
               return ProfileText{"pipeline: [builtin::wrap_model, patch_attention]", "fast.yaml"};
             }),
             "custom_model/shadow.cpp", 2);
  linked.link();
  CHECK(
      contains(refusal(config, {"--profile", scratch.write("a.yaml", "pipeline: [wrap_model]\n")}),
               "the step 'wrap_model' of plugin 'shadow' (custom_model/shadow.cpp:1): the custom "
               "one"));
  CHECK(simulated(config, {"--profile", "lab::fast"}).at("steps").size() == 2);
  CHECK(contains(refusal(config, {"--profile", "lab::fats"}),
                 "no profile 'lab::fats' is registered\n  hint: did you mean 'lab::fast'?"));
  const std::string act = scratch.write("act.yaml", "architecture: {hidden_act: builtin::relu}\n");
  CHECK(seconds_of(simulated(config, {"--profile", act}), "relu_mul") > 0);
}

TEST_CASE("vision and diffusion types: a plugin's architecture is asked first") {
  const Scratch scratch;
  const std::string vision = scratch.config("seeing", R"(, "vision_config": {"depth": 3})");
  const std::string diffusers =
      scratch.write("flux.json", R"({"_class_name": "FluxTransformer2DModel", "in_channels": 64})");
  CHECK(contains(refusal(vision, {}),
                 "vision_config: 'seeing' has a part that is not a language model"));
  CHECK(contains(refusal(scratch.config("llama", R"(, "vision_config": {"depth": 3})"), {}),
                 "'llama' has a part that is not a language model"));
  CHECK(
      contains(refusal(diffusers, {}),
               "_class_name: 'FluxTransformer2DModel' is a diffusers class, which is not supported "
               "yet\n  hint: a plugin builds it with "
               "TCAST_REGISTER_ARCHITECTURE(\"FluxTransformer2DModel\")"));
  LinkedPlugins linked(true);
  linked.add("architecture", {"seeing"},
             ArchitectureFunction([](const ArchitectureContext& context) {
               return build_decoder(read_decoder_spec(context, "Seeing"), context);
             }),
             "custom_model/eyes.cpp");
  linked.add("architecture", {"Flux*"},
             ArchitectureFunction([](const ArchitectureContext& context) {
               const std::int64_t width = context.config.get_size("in_channels");
               return std::make_unique<Embedding>(1000, width, DType::bf16);
             }),
             "custom_model/eyes.cpp", 2);
  linked.link();
  CHECK(simulated(vision).at("model").at("model_type") == "seeing");
  const json flux = json::parse(run({"simulate", diffusers, "--device", "TEST_DEVICE", "--phase",
                                     "prefill", "--format", "json"})
                                    .out);
  CHECK(flux.at("model").at("model_type") == "FluxTransformer2DModel");
  CHECK(flux.at("model").at("total_parameters") == 64000);
}

}  // namespace
