#include <cmath>
#include <string>

#include <doctest/doctest.h>

#include "tcast/config/json_scan.h"
#include "tcast/config/node.h"

#include "error_of.h"

using tcast::Node;

namespace {

std::string error_in(const std::string& text) {
  return error_of([&] { Node::parse_json(text, "c.json"); });
}

}  // namespace

TEST_CASE("strict JSON is read, with Python's three extra numbers") {
  const Node root = Node::parse_json(
      " {\"a\" : [1, -2.5e3, true, false, null, \"\"],\r\n\t\"b\":{} , \"c\":[],"
      "\"n\":NaN,\"p\":Infinity,\"m\":-Infinity}\n",
      "c.json");
  CHECK(root.keys() == std::vector<std::string>{"a", "b", "c", "n", "p", "m"});
  const std::vector<Node> items = root.at("a").items();
  REQUIRE(items.size() == 6);
  CHECK(items[0].as_int() == 1);
  CHECK(items[1].as_number() == -2500);
  CHECK(items[2].as_bool());
  CHECK_FALSE(items[3].as_bool());
  CHECK(items[4].is_null());
  CHECK(items[5].as_string().empty());
  CHECK(root.at("b").keys().empty());
  CHECK(root.at("c").items().empty());
  CHECK(std::isnan(root.at("n").as_number()));
  CHECK(root.at("p").as_number() == HUGE_VAL);
  CHECK(root.at("m").as_number() == -HUGE_VAL);

  CHECK(Node::parse_json("0", "c.json").as_int() == 0);
  CHECK(Node::parse_json("-0.0E-1", "c.json").as_number() == 0);
  // What YAML would not take: a key and its colon on different lines.
  CHECK(Node::parse_json("{\"a\"\n:\n1}", "c.json").at("a").as_int() == 1);
}

TEST_CASE("strings are unescaped") {
  struct Row {
    const char* text;
    std::string expected;
  };
  const Row rows[] = {
      {R"("")", ""},
      {R"("a\"\\\/\b\f\n\r\tz")", "a\"\\/\b\f\n\r\tz"},
      {R"("\u0041\u00e9\u20AC")", "A\xC3\xA9\xE2\x82\xAC"},
      {R"("\ud83d\ude00!")", "\xF0\x9F\x98\x80!"},
      {R"("\uDBFF\uDFFF")", "\xF4\x8F\xBF\xBF"},
      {R"("\u0000x")", std::string("\0x", 2)},
      {"\"caf\xC3\xA9 \xF0\x9F\x98\x80\"", "caf\xC3\xA9 \xF0\x9F\x98\x80"},
      {"\"\x7f\"", "\x7f"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    CHECK(Node::parse_json(row.text, "c.json").as_string() == row.expected);
  }
  CHECK(Node::parse_json(R"({"\ud83d\ude00": 1})", "c.json").keys()[0] == "\xF0\x9F\x98\x80");
}

TEST_CASE("a byte order mark is skipped, and columns count from behind it") {
  CHECK(Node::parse_json("\xEF\xBB\xBF{}", "c.json").is_map());
  CHECK(error_in("\xEF\xBB\xBFx") == "c.json:1:1: expected a value, got 'x'");
}

TEST_CASE("what is no JSON is refused with its place") {
  struct Row {
    std::string text;
    const char* expected;
  };
  const char* escapes =
      " | after \\ comes one of \" \\ / b f n r t or u with four hexadecimal digits";
  const Row rows[] = {
      {"", "c.json:1:1: the file is empty, expected a JSON value"},
      {" \n\n ", "c.json:3:2: the file is empty, expected a JSON value"},
      // Cut off.
      {"{",
       "c.json:1:2: expected '}' for the map that begins on line 1, got the end of the file | the "
       "file seems to be cut off"},
      {"\n[\n1",
       "c.json:3:2: expected ']' for the list that begins on line 2, got the end of the file | the "
       "file seems to be cut off"},
      {"{\"a\"", "c.json:1:5: expected ':' after the key, got the end of the file"},
      {"{\"a\":", "c.json:1:6: expected a value, got the end of the file"},
      {"{\"a\":1,", "c.json:1:8: expected a key in double quotes, got the end of the file"},
      {"{\"a\":\"xyz",
       "c.json:1:6: expected '\"' at the end of the string, got the end of the file"},
      // Punctuation.
      {"{\"a\":1,}", "c.json:1:7: expected no ',' before '}' | remove the ','"},
      {"[1,\n]", "c.json:1:3: expected no ',' before ']' | remove the ','"},
      {"[1,,2]", "c.json:1:4: expected a value, got ','"},
      {"[,1]", "c.json:1:2: expected a value, got ','"},
      {"{,}", "c.json:1:2: expected a key in double quotes, got ','"},
      {"[1 2]", "c.json:1:4: expected ',' or ']', got '2'"},
      {"{\"a\" 1}", "c.json:1:6: expected ':' after the key, got '1'"},
      {"{\"a\":1 \"b\":2}", "c.json:1:8: expected ',' or '}', got '\"'"},
      {"{]", "c.json:1:2: expected a key in double quotes, got ']'"},
      {"[}", "c.json:1:2: expected a value, got '}'"},
      {"]", "c.json:1:1: expected a value, got ']'"},
      {"{} {}", "c.json:1:4: expected the end of the file, got '{'"},
      {"1\n2", "c.json:2:1: expected the end of the file, got '2'"},
      // Words and numbers of other languages.
      {"{'a':1}",
       "c.json:1:2: expected a key in double quotes, got ''' | JSON has strings in double quotes "
       "only"},
      {"{a:1}", "c.json:1:2: expected a key in double quotes, got 'a'"},
      {"{1:1}", "c.json:1:2: expected a key in double quotes, got '1'"},
      {"True", "c.json:1:1: expected a value, got 'True' | write true"},
      {"[False]", "c.json:1:2: expected a value, got 'False' | write false"},
      {"[None]", "c.json:1:2: expected a value, got 'None' | write null"},
      {"nullx", "c.json:1:1: expected a value, got 'nullx'"},
      {"inf", "c.json:1:1: expected a value, got 'inf'"},
      {"// c\n1", "c.json:1:1: expected a value, got '/' | JSON has no comments, remove them"},
      {"[1 # c\n]", "c.json:1:4: expected ',' or ']', got '#' | JSON has no comments, remove them"},
      {"01", "c.json:1:1: '01' is no JSON number"},
      {"-", "c.json:1:1: '-' is no JSON number"},
      {"+1", "c.json:1:1: '+1' is no JSON number"},
      {".5", "c.json:1:1: '.5' is no JSON number"},
      {"5.", "c.json:1:1: '5.' is no JSON number"},
      {"1e", "c.json:1:1: '1e' is no JSON number"},
      {"1e+", "c.json:1:1: '1e+' is no JSON number"},
      {"1.e5", "c.json:1:1: '1.e5' is no JSON number"},
      {"0x10", "c.json:1:1: '0x10' is no JSON number"},
      {"1_000", "c.json:1:1: '1_000' is no JSON number"},
      {"-NaN", "c.json:1:1: '-NaN' is no JSON number"},
      {"+Infinity", "c.json:1:1: '+Infinity' is no JSON number"},
      {"1-1", "c.json:1:1: '1-1' is no JSON number"},
      // Strings.
      {"\"a\nb\"", "c.json:1:1: expected '\"' at the end of the string, got the end of the line"},
      {"\"a\tb\"", "c.json:1:3: control character '\\x09' in a string | write \\u0009"},
      {std::string("\"a\0b\"", 5),
       "c.json:1:3: control character '\\x00' in a string | write "
       "\\u0000"},
      {"\"\\ud83d\"", "c.json:1:2: '\\ud83d' is half of a surrogate pair"},
      {"\"\\ud83dx\"", "c.json:1:2: '\\ud83d' is half of a surrogate pair"},
      {"\"\\ude00\\ud83d\"", "c.json:1:2: '\\ude00' is half of a surrogate pair"},
      {"\"\\ud83d\\ud83d\"", "c.json:1:2: '\\ud83d' is half of a surrogate pair"},
      {"\"\xff\"", "c.json:1:2: '\\xff' is no valid UTF-8"},
      {"\"\xED\xA0\x80\"", "c.json:1:2: '\\xed' is no valid UTF-8"},
      // Not text at all.
      {"\x7f\x45LF", "c.json:1:1: expected a value, got '\\x7f'"},
      {std::string("{}\0", 3), "c.json:1:3: expected the end of the file, got '\\x00'"},
      {"\xff\xfe{", "c.json:1:1: expected a value, got '\\xff'"},
      {"version https://git-lfs.github.com/spec/v1", "c.json:1:1: expected a value, got 'version'"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    CHECK(error_in(row.text) == row.expected);
  }
  for (const char* text : {"\"\\q\"", "\"\\", "\"\\u12", "\"\\u12G4\"", "\"\\uD83D\\u12\""}) {
    CAPTURE(text);
    const std::string error = error_in(text);
    if (std::string(text).find("D83D") != std::string::npos) {
      CHECK(error == "c.json:1:2: '\\uD83D' is half of a surrogate pair");
    } else {
      CHECK(error == "c.json:1:2: invalid escape '" + std::string(text).substr(1, 2) +
                         "' in a string" + escapes);
    }
  }
}

TEST_CASE("duplicate keys are refused in one map only") {
  CHECK(error_in("{\"a\":1,\n\"b\":2,\n\"a\":3}") ==
        "c.json:3:5: duplicate key 'a', which has a value on line 1 already | remove one of the "
        "two");
  CHECK(error_in("{\"a\":1,\"\\u0061\":3}") ==
        "c.json:1:17: duplicate key 'a', which has a value on line 1 already | remove one of the "
        "two");
  CHECK(error_in("{\"a\":{\"a\":1},\"b\":{\"a\":1}}").empty());
  CHECK(error_in("[{\"\":1,\"\":2}]") ==
        "c.json:1:11: duplicate key '', which has a value on line 1 already | remove one of the "
        "two");
}

TEST_CASE("nesting and size are limited") {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  CHECK(error_in(nested(tcast::max_document_depth)).empty());
  CHECK(error_in(nested(tcast::max_document_depth + 1)) ==
        "c.json:1:65: lists and maps are nested more than 64 deep");
  CHECK(error_in(std::string(100000, '[')) ==
        "c.json:1:65: lists and maps are nested more than 64 deep");

  const std::string spaces(tcast::max_json_bytes - 1, ' ');
  CHECK(error_in(spaces + "1").empty());
  CHECK(
      error_in(spaces + "12") ==
      "c.json: expected at most 16,777,216 bytes, got 16,777,217 | a configuration is a small text "
      "file; weights are never read");
}

// R11, C7: a published config has 3.1 MB; what is dense in values must not fill the memory.
TEST_CASE("a large config is read, and the number of values is limited") {
  std::string large = R"({"model_type": "m", "modules_to_not_convert": [)";
  std::string_view comma = "";
  for (int i = 0; large.size() < 3'200'000; ++i) {
    large += comma;
    large += "\"model.layers." + std::to_string(i) + ".block_sparse_moe.experts.7.w1\"";
    comma = ",";
  }
  large += "]}";
  const Node node = Node::parse_json(large, "c.json");
  CHECK(node.at("modules_to_not_convert").items().size() > 50'000);

  std::string dense = "[0";
  for (std::size_t i = 1; i + 1 < tcast::max_document_values; ++i) dense += ",0";
  CHECK(error_in(dense + "]").empty());
  CHECK(error_in(dense + ",\n0]") == "c.json:2:1: expected at most 1,048,576 values, got more");
}

TEST_CASE("a text may be the later lines of a file") {
  CHECK(error_of([] { Node::parse_json("\n {\"a\": x}", "lines.jsonl", 17); }) ==
        "lines.jsonl:18:8: expected a value, got 'x'");
  CHECK(Node::parse_json("[1]", "lines.jsonl", 17).place() == "lines.jsonl:17:1");
}

TEST_CASE("names of files are made safe to print") {
  CHECK(error_of([] { Node::parse_json("", "\x1b[31m.json"); }) ==
        "\\x1b[31m.json:1:1: the file is empty, expected a JSON value");
}
