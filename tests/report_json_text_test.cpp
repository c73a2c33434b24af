#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/report/json_text.h"

namespace tcast {
namespace {

TEST_CASE("json text: strings") {
  struct Row {
    std::string text;
    std::string json;
  };
  const std::vector<Row> rows = {
      {"", R"("")"},
      {"model.layers.*.mlp", R"("model.layers.*.mlp")"},
      {"a \"b\" \\ /", R"("a \"b\" \\ /")"},
      {"\n\t\x1b\x7f", R"("\n\u0009\u001b\u007f")"},
      {std::string(1, '\0'), R"("\u0000")"},
      {"\xc3\xa9", R"("\u00e9")"},
      {"\xe2\x80\xae", R"("\u202e")"},
      {"\xef\xbf\xbf", R"("\uffff")"},
      {"\xf0\x90\x80\x80", R"("\ud800\udc00")"},
      {"\xf4\x8f\xbf\xbf", R"("\udbff\udfff")"},
      {"a\xff\"b", R"("a\\xff\"b")"},
      {"\n\xe2\x82", R"("\\x0a\\xe2\\x82")"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.json);
    std::string out = "before ";
    append_json_string(out, row.text);
    CHECK(out == "before " + row.json);
  }
}

TEST_CASE("json text: numbers") {
  struct Row {
    double value;
    std::string json;
  };
  const std::vector<Row> rows = {
      {0, "0"},           {-1.5, "-1.5"}, {1e12, "1000000000000"}, {1e300, "1e+300"},
      {5e-324, "5e-324"}, {0.1, "0.1"},   {1e-7, "1e-07"},         {123456.75, "123456.75"}};
  for (const Row& row : rows) {
    std::string out;
    append_json_number(out, row.value, "");
    CHECK(out == row.json);
  }
  std::string out;
  CHECK_THROWS_AS(append_json_number(out, std::numeric_limits<double>::quiet_NaN(), "x"),
                  InternalError);
  CHECK_THROWS_AS(append_json_number(out, -std::numeric_limits<double>::infinity(), "x"),
                  InternalError);
}

TEST_CASE("json text: objects") {
  std::string out;
  JsonObjectWriter object(out);
  object.text("a\"", "b");
  object.integer("n", -3);
  object.name("list");
  out += "[]";
  object.number("x", 0.5);
  object.close();
  CHECK(out == R"({"a\"":"b","n":-3,"list":[],"x":0.5})");
  std::string empty;
  JsonObjectWriter(empty).close();
  CHECK(empty == "{}");
}

}  // namespace
}  // namespace tcast
