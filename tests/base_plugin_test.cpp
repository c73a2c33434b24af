// Plugins: who is one, which take part, set-up functions, what goes wrong with them, and that the
// order of linking shows nowhere.
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tcast/base/plugin.h"

#include "error_of.h"
#include "linked_plugins.h"

using namespace tcast;

namespace {

/// "name origin state: group a, b; ..." of each plugin.
std::vector<std::string> summary() {
  std::vector<std::string> lines;
  for (const Plugin& plugin : plugins()) {
    std::string line =
        fmt::format("{} {} {}:", plugin.name, name_of(plugin.origin), name_of(plugin.state));
    for (const PluginItem& item : plugin.items) {
      line += fmt::format(" {} {};", item.group, join(item.names, ","));
    }
    lines.push_back(line);
  }
  return lines;
}

/// Why a plugin is not loaded.
std::string reason_of(const std::string& name) {
  for (const Plugin& plugin : plugins()) {
    if (plugin.name == name) return plugin.reason;
  }
  return "no such plugin";
}

std::string select(const char* names, bool strict = false) {
  return error_of([&] { select_plugins({std::string(names), "--plugins", strict}); });
}

/// What a group holds: "name=value" of each entry.
std::string held(const char* group) {
  std::string text;
  for (const auto* entry : registry_of<int>(group).entries()) {
    text += fmt::format("{}={} ", entry->pattern, entry->data());
  }
  return text;
}

std::string setup_log;  // NOLINT: what the set-up functions of this file did

}  // namespace

TEST_CASE("plugins: a file that registers something is one, under its stem or the name it states") {
  LinkedPlugins linked;
  linked.add("number", {"one"}, 1, "custom_model/first.cpp", 7);
  linked.add("colour", {"red", "r*"}, std::string("#f00"), "custom_model/first.cpp", 3);
  linked.add("number", {"two"}, 2, "builtin_model/first.cpp", 5, Origin::builtin);
  linked.name("custom_model/second.cpp", "my-plugin.2");
  linked.add("number", {"three"}, 3, "custom_model/second.cpp", 9);
  linked.link();
  CHECK(summary() == std::vector<std::string>{"first custom loaded: colour red,r*; number one;",
                                              "first builtin loaded: number two;",
                                              "my-plugin.2 custom loaded: number three;"});
  CHECK(plugins()[0].place() == "custom_model/first.cpp:3");
  CHECK(plugins()[2].place() == "custom_model/second.cpp:1");
  CHECK(held("number") == "three=3 one=1 two=2 ");
  // A group of one's own needs nothing but its name and type.
  CHECK(registry_of<std::string>("colour").find("rose")->data() == "#f00");
  CHECK(registry_of<std::string>("colour").noun() == "colour");
}

TEST_CASE("plugins: selection by names, exclusion, folders") {
  LinkedPlugins linked;
  for (const char* name : {"a", "b", "c"}) {
    linked.add("number", {name}, 1, fmt::format("custom_model/{}.cpp", name));
  }
  linked.add("number", {"c"}, 2, "builtin_model/c.cpp", 1, Origin::builtin);
  linked.add("number", {"d"}, 2, "builtin_model/d.cpp", 1, Origin::builtin);
  linked.link();
  struct {
    const char* names;
    const char* expected;
  } const cases[] = {
      {"a,b", "a=1 b=1 "},
      {" a , b ,", "a=1 b=1 "},
      {"", ""},
      {"-a", "b=1 c=1 c=2 d=2 "},
      {"-a,-builtin", "b=1 c=1 "},
      {"c", "c=1 "},
      {"builtin::c", "c=2 "},
      {"builtin,a", "a=1 c=2 d=2 "},
      {"custom,-c", "a=1 b=1 "},
      {"-builtin::c", "a=1 b=1 c=1 d=2 "},
  };
  for (const auto& one : cases) {
    CAPTURE(one.names);
    CHECK(select(one.names).empty());
    CHECK(held("number") == one.expected);
  }
  select_plugins({});
  CHECK(held("number") == "a=1 b=1 c=1 c=2 d=2 ");
  CHECK(select("a") == "");
  CHECK(reason_of("b") == "not selected by --plugins");
  CHECK(missing_plugin_hint("number", "b") ==
        "the plugin 'b' (custom_model/b.cpp:1) registers it, but is not selected by --plugins");
  CHECK(missing_plugin_hint("number", "x").empty());
  // An unknown name changes nothing.
  CHECK(select("a,builtn") == "--plugins: unknown plugin 'builtn' | see 'tcast plugins'");
  CHECK(select("builtin::a") == "--plugins: unknown plugin 'builtin::a' | see 'tcast plugins'");
  CHECK(held("number") == "a=1 ");
  LinkedPlugins longer;
  longer.add("number", {"x"}, 1, "custom_model/flash_attention.cpp");
  longer.link();
  CHECK(select("flash_atention") ==
        "--plugins: unknown plugin 'flash_atention' | did you mean 'flash_attention'?");
}

TEST_CASE("plugins: set-up functions run when their group is needed, once, in order of names") {
  LinkedPlugins linked;
  setup_log.clear();
  linked.add("setup", {"number"}, SetupFunction([](SetupContext& context) {
               setup_log += context.plugin() + " ";
               context.add("number", {"second"}, context.is_taken("number", "first") ? 2 : -2,
                           false, "b.cpp", 4);
             }),
             "custom_model/b.cpp");
  linked.add("setup", {"number", "colour"}, SetupFunction([](SetupContext& context) {
               setup_log += context.plugin() + " ";
               if (!context.is_taken("number", "taken")) {
                 context.add("number", {"taken"}, 100, false, "a.cpp", 3);
               }
               context.add("number", {"first", "1*"}, 1, false, "a.cpp", 4);
             }),
             "custom_model/a.cpp");
  linked.add("number", {"taken"}, 7, "custom_model/c.cpp");
  linked.link();
  CHECK(plugins().size() == 3);
  registry_of<int>("elsewhere");
  CHECK(setup_log.empty());
  CHECK(held("number") == "second=2 first=1 taken=7 1*=1 ");
  held("number");
  registry_of<std::string>("colour");
  CHECK(setup_log == "a b ");
  // A registry that was handed out stays as it is.
  const auto& before = registry_of<int>("number");
  select_plugins({"c", "--plugins", false});
  CHECK(held("number") == "taken=7 ");
  CHECK(before.find("first")->data() == 1);
}

TEST_CASE("plugins: a set-up that throws fails its plugin, and the rest goes on") {
  LinkedPlugins linked;
  linked.add("setup", {"number"}, SetupFunction([](SetupContext& context) {
               context.add("number", {"half"}, 1, false, "custom_model/bad.cpp", 5);
               try {
                 throw std::runtime_error("the licence server is down");
               } catch (...) {
                 std::throw_with_nested(std::runtime_error("no tables"));
               }
             }),
             "custom_model/bad.cpp", 3);
  linked.add("number", {"static_of_bad"}, 1, "custom_model/bad.cpp", 9);
  linked.add("setup", {"number"}, SetupFunction([](SetupContext&) { throw 42; }),  // NOLINT
             "custom_model/odd.cpp", 2);
  linked.add("number", {"fine"}, 2, "custom_model/good.cpp");
  linked.link();
  CHECK(registry_of<int>("number").find("fine")->data() == 2);
  const auto problems = plugin_problems();
  REQUIRE(problems.size() == 2);
  CHECK(
      problems[0].message ==
      "plugin 'bad' (custom_model/bad.cpp:3) failed: its set-up function (custom_model/bad.cpp:3) "
      "threw: no tables");
  CHECK(problems[0].trace ==
        std::vector<std::string>{"custom_model/bad.cpp:3: in the set-up function of plugin 'bad'",
                                 "no tables", "caused by: the licence server is down"});
  CHECK(
      problems[1].message ==
      "plugin 'odd' (custom_model/odd.cpp:2) failed: its set-up function (custom_model/odd.cpp:2) "
      "threw: something that is no std::exception");
  // Whoever needs what the failed plugin registered is told.
  for (const char* name : {"half", "static_of_bad"}) {
    CHECK(error_of([&] {
            registry_of<int>("number").find(name);
          }).find(fmt::format("number '{}' belongs to the plugin 'bad'", name)) == 0);
  }
  CHECK(missing_plugin_hint("number", "anything")
            .find("the plugin 'bad' might register it, but failed: its set-up function") == 0);
  // --strict makes it an error.
  CHECK(select("custom", true).empty());
  CHECK(
      error_of([] { registry_of<int>("number"); }) ==
      "plugin 'bad' (custom_model/bad.cpp:3) failed: its set-up function (custom_model/bad.cpp:3) "
      "threw: no tables | leave it out with --plugins=-bad, or run without --strict");
}

TEST_CASE("plugins: nasty ones get a clear message and leave the rest working") {
  LinkedPlugins linked;
  // Null, without names, under an empty name, with a scope that is not its own.
  linked.add("number", {"null"}, static_cast<const int*>(nullptr), "custom_model/null.cpp", 3);
  linked.add("action", {"nothing"}, SetupFunction(nullptr), "custom_model/nothing.cpp", 4);
  linked.add("number", {}, 1, "custom_model/nameless.cpp", 5);
  linked.add("number", {"ok", ""}, 1, "custom_model/empty.cpp", 6);
  linked.add("number", {"builtin::ok"}, 1, "custom_model/intruder.cpp", 7);
  // Another type than the group holds.
  linked.add("number", {"text"}, std::string("1"), "custom_model/text.cpp", 8);
  // Wrong version, odd names, the same name twice.
  linked.name("custom_model/old.cpp", "old", 99);
  linked.add("number", {"old"}, 1, "custom_model/old.cpp", 2);
  linked.name("custom_model/spaces.cpp", "my plugin");
  linked.name("custom_model/folder.cpp", "builtin");
  linked.name("custom_model/twin1.cpp", "twin");
  linked.name("custom_model/twin2.cpp", "twin");
  // Duplicates and ties.
  linked.add("number", {"twice"}, 1, "custom_model/dup1.cpp");
  linked.add("number", {"twice"}, 2, "custom_model/dup2.cpp");
  linked.add("number", {"a*"}, 1, "custom_model/tie1.cpp");
  linked.add("number", {"*b"}, 2, "custom_model/tie2.cpp");
  // Set-ups that ask for what they are announced for, and that register after their time.
  linked.add("setup", {"ring"}, SetupFunction([](SetupContext&) { registry_of<int>("ring"); }),
             "custom_model/recursive.cpp", 3);
  static const SetupContext* kept = nullptr;
  linked.add("setup", {"number"}, SetupFunction([](SetupContext& context) {
               kept = &context;
               // Registering while a registry is being walked.
               for (const auto* entry : registry_of<int>("other").entries()) {
                 context.add("number", {std::string(entry->pattern) + "_again"}, entry->data(),
                             false, "w.cpp", 1);
                 registry_of<int>("other");
               }
             }),
             "custom_model/walker.cpp", 4);
  linked.add("setup", {"number"}, SetupFunction([](SetupContext& context) {
               context.add("other", {"z"}, 1, false, "s.cpp", 7);
             }),
             "custom_model/stray.cpp", 5);
  linked.add("other", {"x"}, 1, "custom_model/other.cpp");
  linked.add("other", {"y"}, 2, "custom_model/other.cpp", 2);
  linked.add("number", {"good"}, 3, "custom_model/good.cpp");
  linked.link();

  CHECK(registry_of<int>("number").find("good")->data() == 3);
  CHECK(error_of([] { registry_of<int>("number").find("twice"); }).find("registered twice") !=
        std::string::npos);
  CHECK(error_of([] { registry_of<int>("number").find("ab"); }).find("matched equally well") !=
        std::string::npos);
  CHECK(held("other") == "x=1 y=2 ");
  CHECK(registry_of<int>("number").find("y_again")->data() == 2);
  registry_of<int>("ring");
  REQUIRE(kept != nullptr);
  CHECK(error_of([] {
          const_cast<SetupContext*>(kept)->add("number", {"late"}, 1, false, "late.cpp", 9);
        }) ==
        "late.cpp:9: plugin 'walker' registers a number after its set-up function returned | "
        "register in the set-up function only");

  struct {
    const char* plugin;
    const char* reason;
  } const cases[] = {
      {"null", "custom_model/null.cpp:3: number 'null' is null"},
      {"nothing", "custom_model/nothing.cpp:4: action 'nothing' is null"},
      {"nameless", "custom_model/nameless.cpp:5: number registered without a name"},
      {"empty", "custom_model/empty.cpp:6: number registered under an empty name"},
      {"intruder",
       "custom_model/intruder.cpp:7: number 'builtin::ok' is registered from the custom folder"},
      {"text",
       "custom_model/text.cpp:8: registers another type of value than the group 'number' holds"},
      {"old", "it was written for version 99 of the plugin interface, this tcast has version 1"},
      {"my plugin",
       "a plugin's name is made of letters, digits, '_', '-' and '.', got 'my plugin'"},
      {"builtin", "'builtin' is the name of a folder"},
      {"twin", "another plugin has the same name: custom_model/twin2.cpp:1"},
      {"recursive",
       "its set-up function (custom_model/recursive.cpp:3) threw: the set-up function of plugin "
       "'recursive' (custom_model/recursive.cpp:3) asks for the group 'ring', which it is "
       "announced "
       "for itself"},
      {"stray",
       "its set-up function (custom_model/stray.cpp:5) threw: s.cpp:7: the set-up function of "
       "plugin "
       "'stray' registers into the group 'other', which it is not announced for"},
      {"walker", ""},
      {"dup1", ""},
      {"good", ""},
  };
  for (const auto& one : cases) {
    CAPTURE(one.plugin);
    CHECK(reason_of(one.plugin) == one.reason);
  }
  // The old one's number is known, and refused.
  CHECK(
      error_of([] { registry_of<int>("number").find("old"); }) ==
      "number 'old' belongs to the plugin 'old' (custom_model/old.cpp:2), which failed: it was "
      "written for version 99 of the plugin interface, this tcast has version 1 | 'tcast plugins' "
      "shows what is wrong; TCAST_PLUGIN_TRACE=1 prints nested causes");
  // Duplicates are problems as well.
  CHECK(plugin_problems().back().message ==
        "number 'twice' is registered twice: custom_model/dup1.cpp:1 and custom_model/dup2.cpp:1");
}

TEST_CASE("plugins: what a set-up function registers wrongly names the calling line") {
  LinkedPlugins linked;
  static std::vector<std::string> errors;
  errors.clear();
  linked.add("setup", {"number"}, SetupFunction([](SetupContext& context) {
               const auto attempt = [&](const std::string& group, std::vector<std::string> names,
                                        SetupFunction value) {
                 errors.push_back(
                     error_of([&] { context.add(group, names, value, false, "mine.cpp", 12); }));
               };
               const SetupFunction something = [](SetupContext&) {};
               attempt("number", {}, something);
               attempt("number", {"a", ""}, something);
               attempt("number", {"builtin::a"}, something);
               attempt("number", {"a"}, nullptr);
               attempt("", {"a"}, something);
             }),
             "custom_model/mine.cpp");
  linked.link();
  registry_of<int>("number");
  CHECK(
      errors ==
      std::vector<std::string>{
          "mine.cpp:12: number registered without a name | give it at least one name",
          "mine.cpp:12: number registered under an empty name | give it a name or a pattern",
          "mine.cpp:12: number 'builtin::a' is registered from the custom folder | give it a name "
          "or a pattern",
          "mine.cpp:12: number 'a' is null | register a function or an object",
          "mine.cpp:12: registered into a group without a name | name the group"});
}

TEST_CASE("plugins: the order of linking changes nothing") {
  const auto answers = [](unsigned seed) {
    LinkedPlugins linked;
    for (const char* name : {"m", "z", "a", "k"}) {
      const std::string file = fmt::format("custom_model/{}.cpp", name);
      linked.add("number", {name, "p*"}, static_cast<int>(*name), file, 3);
      linked.add("setup", {"number"}, SetupFunction([](SetupContext& context) {
                   context.add("number", {context.plugin() + "_made"}, 1, false, "s.cpp", 1);
                   if (context.plugin() == "k") throw std::runtime_error("no");
                   // Whoever comes first takes it.
                   if (!context.is_taken("number", "first")) {
                     context.add("number", {"first"}, static_cast<int>(context.plugin()[0]), false,
                                 "s.cpp", 2);
                   }
                 }),
                 file, 4);
    }
    linked.name("custom_model/twin1.cpp", "twin");
    linked.name("custom_model/twin2.cpp", "twin");
    linked.link(seed);
    std::string text = held("number");
    text += error_of([] { registry_of<int>("number").find("pp"); });
    for (const std::string& line : summary()) text += "\n" + line;
    for (const PluginProblem& problem : plugin_problems()) text += "\n" + problem.message;
    return text;
  };
  const std::string expected = answers(0);
  CHECK(expected.find("first=97") != std::string::npos);
  for (unsigned seed = 1; seed < 30; ++seed) CHECK(answers(seed) == expected);
}
