#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/text.h"
#include "tcast/model/layers.h"
#include "tcast/report/tree_text.h"

namespace {

using Lines = std::vector<std::string>;
using tcast::diff_lines;

TEST_CASE("tree text: ranges, parameters and attributes") {
  tcast::ModuleList root;
  auto linear = std::make_unique<tcast::Linear>(16, 8, true, tcast::DType::bf16);
  linear->parameters()[0].dtype = tcast::DType::f8_e4m3;
  linear->parameters()[0].shard = {.dim = 0, .ranks = 2, .segments = {{8, 2}}};
  linear->parameters()[1].tied_to = "other.bias";
  tcast::Module& node = root.append(std::move(linear), 3);
  node.set_attribute("scale", 0.5);
  node.set_local_count(2);
  auto wrapper = std::make_unique<tcast::ModuleList>();
  wrapper->add_child("", std::make_unique<tcast::ModuleList>(root));
  CHECK(tcast::tree_lines(*wrapper, tcast::DType::bf16) ==
        Lines{"ModuleList", "ModuleList",
              "  [0-2]: Linear (2 of 3 per rank)  weight[8, 16]->[4, 16] f8_e4m3  "
              "bias[8] = other.bias  scale=0.5"});
  CHECK(tcast::usual_dtype(root) == tcast::DType::bf16);
}

TEST_CASE("tree text: differences") {
  struct Row {
    std::string before;
    std::string after;
    std::string difference;
  };
  const Row rows[] = {
      {"a b c", "a b c", " a| b| c"},
      {"a b c", "a x c", " a|-b|+x| c"},
      {"a b c", "b c d", "-a| b| c|+d"},
      {"a b", "", "-a|-b"},
      {"", "a b", "+a|+b"},
      {"a a a", "a a", " a| a|-a"},
      {"a b c a b b a", "c b a b a c", ""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.before);
    CAPTURE(row.after);
    auto words = [](const std::string& text) {
      return text.empty() ? Lines{} : tcast::split(text, ' ');
    };
    const Lines before = words(row.before);
    const Lines after = words(row.after);
    const Lines found = diff_lines(before, after);
    // Whatever it says, both sides can be read out of it.
    Lines left;
    Lines right;
    std::string text;
    for (const std::string& line : found) {
      if (line[0] != '+') left.push_back(line.substr(2));
      if (line[0] != '-') right.push_back(line.substr(2));
      text += (text.empty() ? "" : "|") + line.substr(0, 1) + line.substr(2);
    }
    CHECK(left == before);
    CHECK(right == after);
    if (!row.difference.empty()) CHECK(text == row.difference);
  }
  // The example of Myers' paper has an edit script of 5.
  const Lines classic =
      diff_lines(tcast::split("a b c a b b a", ' '), tcast::split("c b a b a c", ' '));
  CHECK(classic.size() == 9);
}

TEST_CASE("tree text: texts without a common line are not searched for one") {
  const Lines before(20000, "before");
  const Lines after(20000, "after");
  const Lines found = diff_lines(before, after);
  REQUIRE(found.size() == 40000);
  CHECK(found.front() == "- before");
  CHECK(found.back() == "+ after");
}

}  // namespace
