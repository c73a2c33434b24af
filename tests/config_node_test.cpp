#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/stat.h>

#include "tcast/config/node.h"

#include "error_of.h"

using tcast::Node;

namespace {

const char* const text = R"({
  "name": "x",
  "size": 4.5,
  "rope_scaling": {"factor": [1, 2, 3], "type": null},
  "layers": [{"heads": "32"}, true]
})";

Node document() { return Node::parse_json(text, "config.json"); }

}  // namespace

TEST_CASE("a node knows its kind, place, path and description") {
  const Node root = document();
  CHECK(root.file() == "config.json");
  CHECK(root.place() == "config.json:1:1");
  CHECK(root.path().empty());
  CHECK(root.is_map());

  struct Row {
    Node node;
    const char* place;
    const char* description;
    bool is_scalar;
  };
  const Node layers = root.at("layers");
  const Row rows[] = {
      {root.at("name"), "config.json:2:11: name", "the string \"x\"", true},
      {root.at("size"), "config.json:3:11: size", "the number 4.5", true},
      {root.at("rope_scaling"), "config.json:4:19: rope_scaling", "a map", false},
      {root.at("rope_scaling").at("factor"), "config.json:4:30: rope_scaling.factor", "a list of 3",
       false},
      {root.at("rope_scaling").at("type"), "config.json:4:49: rope_scaling.type", "null", false},
      {layers, "config.json:5:13: layers", "a list of 2", false},
      {layers.items()[0].at("heads"), "config.json:5:24: layers[0].heads", "the string \"32\"",
       true},
      {layers.items()[1], "config.json:5:31: layers[1]", "true", true},
  };
  for (const Row& row : rows) {
    CHECK(row.node.place() == row.place);
    CHECK(row.node.description() == row.description);
    CHECK(row.node.is_scalar() == row.is_scalar);
  }
  CHECK(root.at("rope_scaling").at("type").is_null());
  CHECK(layers.is_list());
  CHECK(root.at("name").is_string());
  CHECK_FALSE(root.at("size").is_string());
  CHECK(layers.items()[1].path() == "layers[1]");
  CHECK(Node::parse_json("[]", "f").description() == "an empty list");
  CHECK(Node::parse_json("{}", "f").description() == "an empty map");
  CHECK(Node::parse_json("\"" + std::string(200, 'x') + "\"", "f").description() ==
        "the string \"" + std::string(60, 'x') + "...\"");
}

TEST_CASE("a node keeps its document alive") {
  std::optional<Node> node;
  {
    const Node root = document();
    node = root.at("rope_scaling").at("factor").items()[2];
  }
  const Node copy = *node;
  node.reset();
  CHECK(copy.as_int() == 3);
  CHECK(copy.place() == "config.json:4:37: rope_scaling.factor[2]");
}

TEST_CASE("members of maps and elements of lists") {
  const Node root = document();
  CHECK(root.keys() == std::vector<std::string>{"name", "size", "rope_scaling", "layers"});
  CHECK_FALSE(root.find("nam"));
  CHECK(root.find("name")->as_string() == "x");
  const std::vector<std::pair<std::string, Node>> members = root.at("rope_scaling").members();
  REQUIRE(members.size() == 2);
  CHECK(members[1].first == "type");
  CHECK(members[1].second.is_null());

  CHECK(error_of([&] { root.at("nmae"); }) ==
        "config.json:1:1: expected the key 'nmae' | did you mean 'name'?");
  CHECK(error_of([&] { root.at("rope_scaling").at("facto"); }) ==
        "config.json:4:19: rope_scaling: expected the key 'facto' | did you mean 'factor'?");
  CHECK(error_of([&] { root.at("name").find("x"); }) ==
        "config.json:2:11: name: expected a map, got the string \"x\"");
  CHECK(error_of([&] { root.at("layers").keys(); }) ==
        "config.json:5:13: layers: expected a map, got a list of 2");
  CHECK(error_of([&] { root.items(); }) == "config.json:1:1: expected a list, got a map");
}

TEST_CASE("as_int reads whole numbers however they are written") {
  struct Row {
    const char* text;
    std::int64_t expected;
  };
  const Row rows[] = {
      {"0", 0},
      {"-0", 0},
      {"32", 32},
      {"-3", -3},
      {"4.0", 4},
      {"-4.000", -4},
      {"1e3", 1000},
      {"1E+6", 1000000},
      {"1.5e1", 15},
      {"500e-2", 5},
      {"9223372036854775807", std::numeric_limits<std::int64_t>::max()},
      {"-9223372036854775808", std::numeric_limits<std::int64_t>::min()},
      {"9007199254740992.0", 9007199254740992},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    CHECK(Node::parse_json(row.text, "c.json").as_int() == row.expected);
  }
  CHECK(Node::parse_yaml("+12", "p.yaml").as_int() == 12);
  CHECK(Node::parse_yaml("010", "p.yaml").as_int() == 10);

  struct Wrong {
    const char* text;
    const char* expected;
  };
  const Wrong wrongs[] = {
      {"4.5", "expected a whole number, got the number 4.5"},
      {"1e-3", "expected a whole number, got the number 1e-3"},
      {"\"32\"", "expected a whole number, got the string \"32\" | remove the quotes"},
      {"\"many\"", "expected a whole number, got the string \"many\""},
      {"\"\"", "expected a whole number, got the string \"\""},
      {"true", "expected a whole number, got true"},
      {"null", "expected a whole number, got null"},
      {"[1]", "expected a whole number, got a list of 1"},
      {"{}", "expected a whole number, got an empty map"},
      {"NaN", "expected a whole number, got the number NaN"},
      {"Infinity", "expected a whole number, got the number Infinity"},
      {"9223372036854775808",
       "expected a whole number of at most 64 bits, got the number 9223372036854775808"},
      {"-9223372036854775809",
       "expected a whole number of at most 64 bits, got the number -9223372036854775809"},
      {"9007199254740994.0",
       "expected a whole number, got the number 9007199254740994.0 | above 2^53 write it without "
       "point and exponent"},
      {"1e30",
       "expected a whole number, got the number 1e30 | above 2^53 write it without point and "
       "exponent"},
      {"1e999", "expected a whole number, got the number 1e999"},
  };
  for (const Wrong& wrong : wrongs) {
    CAPTURE(wrong.text);
    CHECK(error_of([&] { Node::parse_json(wrong.text, "c.json").as_int(); }) ==
          std::string("c.json:1:1: ") + wrong.expected);
  }
}

TEST_CASE("as_number, as_bool and as_string") {
  const auto json = [](const char* value) { return Node::parse_json(value, "c.json"); };
  CHECK(json("1e-6").as_number() == 1e-6);
  CHECK(json("7").as_number() == 7);
  CHECK(json("1000000000000000000000").as_number() == 1e21);
  CHECK(Node::parse_yaml("+.5", "p.yaml").as_number() == 0.5);
  CHECK(error_of([&] { json("\"1e-6\"").as_number(); }) ==
        "c.json:1:1: expected a number, got the string \"1e-6\" | remove the quotes");
  CHECK(error_of([&] { json("false").as_number(); }) == "c.json:1:1: expected a number, got false");
  CHECK(error_of([&] { json("-1e999").as_number(); }) ==
        "c.json:1:1: expected a number in the range of 64-bit floating point, got the number "
        "-1e999");

  CHECK(json("true").as_bool());
  CHECK(error_of([&] { json("1").as_bool(); }) ==
        "c.json:1:1: expected true or false, got the number 1");
  CHECK(error_of([&] { json("\"true\"").as_bool(); }) ==
        "c.json:1:1: expected true or false, got the string \"true\"");

  CHECK(json("\"32\"").as_string() == "32");
  CHECK(error_of([&] { json("32").as_string(); }) ==
        "c.json:1:1: expected a string, got the number 32 | put it in quotes");
  CHECK(error_of([&] { json("null").as_string(); }) == "c.json:1:1: expected a string, got null");
  CHECK(error_of([&] {
          Node::parse_yaml("a:\n  b: [x, y, z]", "glm.yaml").at("a").at("b").as_string();
        }) == "glm.yaml:2:6: a.b: expected a string, got a list of 3");
}

// R16: a number of a range is read whole, or it is an error with its place.
TEST_CASE("as_int and as_number within a range") {
  const Node node = Node::parse_json(R"({"i": [0, 7, 8, -1, 1e300, 9223372036854775808, 2.5],
    "x": [0, 1, 1.5, -0.5, 1e999, NaN, Infinity]})",
                                     "c.json");
  const auto whole = [&](std::size_t i) {
    return error_of([&] { node.at("i").items()[i].as_int(0, 7); });
  };
  CHECK(whole(0).empty());
  CHECK(whole(1).empty());
  CHECK(whole(2) == "c.json:1:14: i[2]: expected a whole number from 0 to 7, got the number 8");
  CHECK(whole(3) == "c.json:1:17: i[3]: expected a whole number from 0 to 7, got the number -1");
  CHECK(whole(4) ==
        "c.json:1:21: i[4]: expected a whole number, got the number 1e300 | above 2^53 write it "
        "without point and exponent");
  CHECK(whole(5) ==
        "c.json:1:28: i[5]: expected a whole number of at most 64 bits, got the number "
        "9223372036854775808");
  CHECK(whole(6) == "c.json:1:49: i[6]: expected a whole number, got the number 2.5");
  const auto number = [&](std::size_t i) {
    return error_of([&] { node.at("x").items()[i].as_number(0, 1); });
  };
  CHECK(number(0).empty());
  CHECK(number(1).empty());
  for (const std::size_t bad : std::initializer_list<std::size_t>{2, 3, 5, 6}) {
    CHECK(number(bad).find("expected a number from 0 to 1, got the number ") != std::string::npos);
  }
  CHECK(number(4).find("expected a number in the range of 64-bit floating point") !=
        std::string::npos);
}

TEST_CASE("messages of others are located") {
  const Node factor = document().at("rope_scaling").at("factor");
  CHECK(error_of([&] { factor.fail("is too long", "cut it"); }) ==
        "config.json:4:30: rope_scaling.factor: is too long | cut it");
  CHECK(error_of([&] { factor.fail_expected("a number"); }) ==
        "config.json:4:30: rope_scaling.factor: expected a number, got a list of 3");
}

TEST_CASE("hostile keys are safe to print") {
  const Node root = Node::parse_json(R"({"\u001b[31m": {"a": 1}})", "c.json");
  CHECK(root.at("\x1b[31m").at("a").place() == "c.json:1:22: \\x1b[31m.a");
}

TEST_CASE("files are loaded, and what is no small regular file is refused") {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / "tcast_config_node_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string good = (folder / "good.json").string();
  std::ofstream(good) << "{\"a\": 1}";
  CHECK(Node::load_json(good).at("a").as_int() == 1);
  CHECK(Node::load_yaml(good).at("a").as_int() == 1);
  CHECK(Node::load_json(good).at("a").place() == good + ":1:7: a");

  const std::string absent = (folder / "absent.json").string();
  CHECK(error_of([&] { Node::load_json(absent); }) == absent + ": no such file");
  CHECK(error_of([&] { Node::load_yaml(folder.string()); }) ==
        folder.string() + ": expected a file, got a directory");
  CHECK(error_of([] { Node::load_json("/dev/zero"); }) ==
        "/dev/zero: expected a regular file, got a device, pipe or socket | save its contents to a "
        "file first");
  // Regular by its type, but reading its first page fails.
  if (fs::exists("/proc/self/mem")) {
    CHECK(error_of([] { Node::load_json("/proc/self/mem"); }) ==
          "/proc/self/mem: cannot be read: Input/output error");
  }
  const std::string long_name(300, 'x');
  CHECK(error_of([&] { Node::load_json(long_name); }) ==
        long_name + ": cannot be read: File name too long");
  const std::string below_file = good + "/config.json";
  CHECK(error_of([&] { Node::load_json(below_file); }) == below_file + ": no such file");

  const std::string huge = (folder / "huge.json").string();
  std::ofstream(huge).put('x');
  fs::resize_file(huge, std::uintmax_t{5} << 30);
  CHECK(error_of([&] { Node::load_json(huge); }) ==
        huge +
            ": expected at most 16,777,216 bytes, got 5,368,709,120 | a configuration is a small "
            "text file; weights are never read");
  // R11: nobody waits for a pipe that nobody writes to.
  const std::string pipe = (folder / "pipe.json").string();
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(error_of([&] { Node::load_yaml(pipe); }).find(": expected a regular file, got a device") !=
        std::string::npos);
  fs::remove_all(folder);
}
