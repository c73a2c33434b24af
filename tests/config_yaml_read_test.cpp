#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/config/node.h"
#include "tcast/config/yaml_read.h"

#include "error_of.h"

using tcast::Node;

namespace {

std::string error_in(const std::string& text) {
  return error_of([&] { Node::parse_yaml(text, "p.yaml"); });
}

}  // namespace

TEST_CASE("plain scalars have the types of the YAML 1.2 core schema") {
  struct Row {
    const char* text;
    const char* expected;
  };
  const Row rows[] = {
      {"null", "null"},
      {"~", "null"},
      {"", "null"},
      {"'null'", "the string \"null\""},
      {"true", "true"},
      {"False", "false"},
      {"yes", "the string \"yes\""},
      {"on", "the string \"on\""},
      {"12", "the number 12"},
      {"+3", "the number +3"},
      {"-0.5", "the number -0.5"},
      {".5", "the number .5"},
      {"5.", "the number 5."},
      {"1e3", "the number 1e3"},
      {"1.5E-3", "the number 1.5E-3"},
      {"010", "the number 010"},
      {".inf", "the number Infinity"},
      {"-.INF", "the number -Infinity"},
      {".nan", "the number NaN"},
      {"\"12\"", "the string \"12\""},
      {"0x10", "the string \"0x10\""},
      {"1_000", "the string \"1_000\""},
      {"1.2.3", "the string \"1.2.3\""},
      {"+", "the string \"+\""},
      {".", "the string \".\""},
      {"e5", "the string \"e5\""},
      {"1e", "the string \"1e\""},
      {"2024-01-01", "the string \"2024-01-01\""},
      {"NaN", "the string \"NaN\""},
      {"[1, 2]", "a list of 2"},
      {"{a: 1}", "a map"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const Node root = Node::parse_yaml(std::string("k: ") + row.text + "\n", "p.yaml");
    CHECK(root.at("k").description() == row.expected);
  }
}

TEST_CASE("maps, lists and block strings are read with their places") {
  const Node nested = Node::parse_yaml(
      "# a comment\n"
      "a:\n"
      "  - b: 1\n"
      "    c: [x, {d: 2}]\n"
      "t: |\n"
      "  two\n"
      "  lines\n",
      "p.yaml");
  const Node d = nested.at("a").items()[0].at("c").items()[1].at("d");
  CHECK(d.as_int() == 2);
  CHECK(d.place() == "p.yaml:4:16: a[0].c[1].d");
  CHECK(nested.at("t").as_string() == "two\nlines\n");
  CHECK(Node::parse_yaml("\xEF\xBB\xBF"
                         "a: 1",
                         "p.yaml")
            .at("a")
            .as_int() == 1);
  CHECK(Node::parse_yaml("a: caf\xC3\xA9\r\n", "p.yaml").at("a").as_string() == "caf\xC3\xA9");
  CHECK(Node::parse_yaml("--- {a: 1}\n...\n", "p.yaml").at("a").as_int() == 1);
}

TEST_CASE("what a configuration does not need is refused with its place") {
  struct Row {
    std::string text;
    const char* expected;
  };
  const Row rows[] = {
      {"", "p.yaml:1:1: the file is empty, expected a YAML document"},
      {"# nothing\n", "p.yaml:2:1: the file is empty, expected a YAML document"},
      {"a: &x 1\nb: *x\n", "p.yaml:1:4: anchors (&name) are not supported | remove it"},
      {"a: &x [1]\n", "p.yaml:1:4: anchors (&name) are not supported | remove it"},
      {"a: &x\n", "p.yaml:1:4: anchors (&name) are not supported | remove it"},
      {"a: *x\n", "p.yaml:1:4: the referenced anchor is not defined"},
      {"a: !!str 1\n",
       "p.yaml:1:4: tags are not supported, got 'tag:yaml.org,2002:str' | remove it; a number in "
       "quotes is a string"},
      {"a: !x {}\n",
       "p.yaml:1:4: tags are not supported, got '!x' | remove it; a number in quotes is a string"},
      {"a: 1\nb: 2\na: 3\n",
       "p.yaml:3:4: duplicate key 'a', which has a value on line 1 already | remove one of the "
       "two"},
      {"a: 1\n---\nb: 2\n",
       "p.yaml:2:1: expected the end of the file, got a second document | split it into several "
       "files"},
      {"? [a]\n: 1\n", "p.yaml:1:3: expected a key, got a list"},
      {"? {a: 1}\n: 1\n", "p.yaml:1:3: expected a key, got a map"},
      {": 1\n", "p.yaml:1:1: expected a key, got nothing"},
      {"a: \"cut off\n", "p.yaml:2:1: expected the closing quote of a string"},
      {"a: 'cut off\n", "p.yaml:2:1: expected the closing quote of a string"},
      {"a: 1\n b: 2\n", "p.yaml:2:3: illegal map value"},
      {"a: [1\n", "p.yaml:2:1: end of sequence flow not found"},
      {"a: \xff\n", "p.yaml:1:4: '\\xff' is no valid UTF-8"},
      {std::string("\xff\xfe"
                   "a\0",
                   4),
       "p.yaml:1:1: '\\xff' is no valid UTF-8"},
      {std::string("x\na: \0\n", 7), "p.yaml:2:4: control character '\\x00'"},
      {"a: \x1b[31m\n", "p.yaml:1:4: control character '\\x1b'"},
      {std::string(65, '[') + std::string(65, ']'),
       "p.yaml:1:65: lists and maps are nested more than 64 deep"},
      {std::string(tcast::max_yaml_bytes + 1, ' '),
       "p.yaml: expected at most 1,048,576 bytes, got 1,048,577 | a configuration is a small text "
       "file; weights are never read"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text.substr(0, 100));
    CHECK(error_in(row.text) == row.expected);
  }
}
