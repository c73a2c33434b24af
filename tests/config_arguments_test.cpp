// Named values for what is built from YAML: typed, located, remembered when read; and building
// through a registry.
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/config/arguments.h"

#include "error_of.h"

using namespace tcast;

namespace {

Node yaml(const std::string& text) { return Node::parse_yaml(text, "a.yaml"); }

/// What is built in these tests: a description of how.
using Maker = std::function<std::string(const std::string& context, const Arguments& arguments)>;

Registry<Maker> makers() {
  const auto entry = [](const char* name, Maker make) {
    return RegistryEntry<Maker>{{name, Origin::builtin, false, 1, "makers.cpp"}, std::move(make)};
  };
  return {"maker",
          {entry("plain", [](const std::string& context, const Arguments&) { return context; }),
           entry("sized", [](const std::string& context, const Arguments& arguments) {
             return context + " " + std::to_string(arguments.get<std::int64_t>("size")) +
                    arguments.get_or<std::string>("unit", "m");
           })}};
}

}  // namespace

TEST_CASE("arguments: typed, located, with what nobody read") {
  const Arguments arguments(yaml(
      "type: sized\nsize: 3\nname: x\nratio: 0.5\nflag: true\nsizes: [1, 2]\nnothing: null\n"));
  CHECK(arguments.keys() ==
        std::vector<std::string>{"size", "name", "ratio", "flag", "sizes", "nothing"});
  CHECK(arguments.unread().size() == 6);
  CHECK(arguments.get<std::int64_t>("size") == 3);
  CHECK(arguments.get<double>("ratio") == 0.5);
  CHECK(arguments.get<bool>("flag"));
  CHECK(arguments.get<std::vector<std::int64_t>>("sizes") == std::vector<std::int64_t>{1, 2});
  CHECK_FALSE(arguments.find<std::string>("nothing"));
  CHECK(arguments.get_or<std::string>("absent", "y") == "y");
  const Arguments copy = arguments;
  CHECK(copy.get<std::string>("name") == "x");
  CHECK(arguments.unread().empty());
  CHECK(error_of([&] { arguments.get<std::int64_t>("name"); }) ==
        "a.yaml:3:7: name: expected a whole number, got the string \"x\"");
  CHECK(error_of([&] { arguments.get<std::int64_t>("siez"); }) ==
        "a.yaml:1:1: expected the argument 'siez' | did you mean 'size'?");
  struct Unknown {};
  CHECK(error_of([&] {
          arguments.get<Unknown>("name");
        }).find("a.yaml:3:7: name: no value converter is registered for the type '") == 0);
}

TEST_CASE("arguments: key=value over a file's") {
  Arguments arguments(yaml("depth: 1\nname: x\n"));
  arguments.merge_text("depth=7", "--set");
  arguments.merge_text("list=[a, b]", "--set");
  arguments.merge_text("empty=", "--set");
  CHECK(arguments.get<std::int64_t>("depth") == 7);
  CHECK(arguments.get<std::vector<std::string>>("list") == std::vector<std::string>{"a", "b"});
  CHECK_FALSE(arguments.find<std::string>("empty"));
  CHECK(arguments.unread() == std::vector<std::string>{"a.yaml:2:7: name"});
  for (const char* text : {"depth", "=1", "a b=1", "type=x", "a: {b=1"}) {
    CAPTURE(text);
    CHECK(error_of([&] { arguments.merge_text(text, "--set"); }) ==
          std::string("--set: expected key=value, got '") + text +
              "' | as in depth=3 or 'sizes=[1, 2]'");
  }
  CHECK_FALSE(error_of([&] { arguments.merge_text("a=[1", "--set"); }).empty());
  // A value cannot smuggle in another key.
  error_of([&] { arguments.merge_text("a=1\nb: 2", "--set"); });
  CHECK_FALSE(arguments.node("b"));
}

TEST_CASE("build: a name, or a map with a type and arguments") {
  const Registry<Maker> registry = makers();
  const auto built = [&](const std::string& text) {
    std::string made;
    const std::string error =
        error_of([&] { made = build(registry, yaml("it: " + text).at("it"), "new"); });
    return error.empty() ? made : error;
  };
  CHECK(built("plain") == "new");
  CHECK(built("{type: plain}") == "new");
  CHECK(built("{type: sized, size: 4}") == "new 4m");
  CHECK(built("{type: sized, size: 4, unit: km}") == "new 4km");
  CHECK(built("sized") == "a.yaml:1:5: it: expected the argument 'size'");
  CHECK(built("{type: sized, size: four}") ==
        "a.yaml:1:25: it.size: expected a whole number, got the string \"four\"");
  CHECK(built("{type: sized, size: 4, unti: km}") ==
        "a.yaml:1:34: it.unti: maker 'sized' takes no argument 'unti' | did you mean 'unit'?");
  CHECK(built("{type: plian}") ==
        "a.yaml:1:12: it.type: unknown maker 'plian' | did you mean 'plain'?");
  CHECK(built("{size: 4}") == "a.yaml:1:5: it: expected the key 'type'");
  CHECK(
      built("[plain]") ==
      "a.yaml:1:5: it: expected the name of a maker, or a map with its name as 'type', got a list "
      "of 1");
}

TEST_CASE("build: a registry's own way of building") {
  const Registry<Maker> registry = makers();
  std::string log;
  const auto own = [&](const RegistryEntry<Maker>& entry, const Arguments& arguments) {
    log += std::string(entry.pattern) + ";";
    return "[" + entry.call("own", arguments) + "]";
  };
  CHECK(build_with(registry, yaml("{type: sized, size: 1}"), own) == "[own 1m]");
  CHECK(log == "sized;");
  build_with(registry, yaml("{type: plain}"),
             [&](const RegistryEntry<Maker>&, const Arguments&) { log += "void"; });
  CHECK(log == "sized;void");
}
