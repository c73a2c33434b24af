#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/report/text_table.h"

#include "report_samples.h"

namespace tcast {
namespace {

TEST_CASE("text table: alignment") {
  TextTable table({{"name"}, {"n", true}, {"note"}});
  table.add_row({"  a", "1", "x"});
  table.add_row({"longer", "1000"});
  table.add_row({});
  CHECK(table.text() ==
        "name       n  note\n"
        "  a        1  x\n"
        "longer  1000\n"
        "\n");
  CHECK(table.text(2).substr(0, 21) == "  name       n  note\n");
  CHECK_THROWS_AS(table.add_row({"1", "2", "3", "4"}), InternalError);
  TextTable no_header({{}, {"", true}});
  no_header.add_row({"a", "1"});
  CHECK(no_header.text() == "a  1\n");
}

TEST_CASE("text table: the widest column is cut in front") {
  TextTable table({{"path"}, {"n", true}});
  table.add_row({std::string(120, 'x') + ".q_proj", "1"});
  const std::string text = table.text();
  CHECK(longest_line(text) == 100);
  CHECK(text.find("\n..." + std::string(87, 'x') + ".q_proj  1\n") != std::string::npos);

  TextTable two({{}, {}, {}});
  two.add_row({std::string(1'000'000, 'x'), std::string(80, 'y'), "kept"});
  CHECK(longest_line(two.text(3)) == 100);
  CHECK(two.text().find("  kept\n") != std::string::npos);
}

TEST_CASE("text table: characters, not bytes, and nothing that a terminal obeys") {
  TextTable table({{}, {}});
  table.add_row({"\xc3\xa9\xc3\xa9", "|"});
  table.add_row({"ab", "|"});
  table.add_row({"\x1b[", "\xff"});
  CHECK(table.text() == "\xc3\xa9\xc3\xa9     |\nab     |\n\\x1b[  \\xff\n");
  std::string wide;
  for (int i = 0; i < 200; ++i) wide += "\xe2\x82\xac";
  TextTable cut({TextColumn{}});
  cut.add_row({wide});
  CHECK(longest_line(cut.text()) == 100);
  CHECK(cut.text().substr(0, 6) == "...\xe2\x82\xac");
}

TEST_CASE("wrap: words") {
  CHECK(wrap("- ", "one two") == "- one two\n");
  CHECK(wrap("- ", "") == "- \n");
  CHECK(wrap("- ", "a\x1b\nb") == "- a\\x1b\\x0ab\n");
  const std::string word(40, 'w');
  const std::string wrapped = wrap("label  ", word + " " + word + " " + word);
  CHECK(wrapped == "label  " + word + " " + word + "\n       " + word + "\n");
  const std::string broken = wrap("- ", "a " + std::string(250, 'x') + " b");
  CHECK(broken == "- a\n  " + std::string(98, 'x') + "\n  " + std::string(98, 'x') + "\n  " +
                      std::string(54, 'x') + " b\n");
  CHECK(longest_line(wrap(std::string(150, 'p'), "x")) > 100);  // a prefix is never broken
}

}  // namespace
}  // namespace tcast
