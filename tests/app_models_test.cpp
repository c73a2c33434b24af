// How `tcast models` lists and explains registrations, with some of this file's own.
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/custom_model.h"

#include "app/cli.h"

TCAST_REGISTER_CUSTOM_MODEL("explained_model", "explained_*")
(tcast::TransformerModel& model) { tcast::run_standard_steps(model); }

TCAST_REGISTER_ARCHITECTURE("explained_mod*")
(const tcast::ArchitectureContext&) { return std::make_unique<tcast::ModuleList>(); }

namespace {

std::string output_of(const std::vector<const char*>& arguments) {
  std::ostringstream out;
  std::ostringstream err;
  REQUIRE(tcast::run_cli(static_cast<int>(arguments.size()), arguments.data(), out, err) == 0);
  CHECK(err.str().empty());
  return out.str();
}

/// The lines of a text that contain a word, with runs of blanks made one.
std::vector<std::string> lines_with(const std::string& text, const std::string& word) {
  std::vector<std::string> found;
  for (const std::string& line : tcast::split(text, '\n')) {
    if (line.find(word) == std::string::npos) continue;
    std::string plain;
    for (const char c : line) {
      if (c != ' ' || plain.empty() || plain.back() != ' ') plain += c;
    }
    found.push_back(plain);
  }
  return found;
}

TEST_CASE("models: the list has every registration with its place") {
  const std::string list = output_of({"tcast", "models"});
  CHECK(
      lines_with(list, "explained_") ==
      std::vector<std::string>{"custom model explained_model custom tests/app_models_test.cpp:12",
                               "custom model explained_* custom tests/app_models_test.cpp:12",
                               "architecture explained_mod* custom tests/app_models_test.cpp:15"});
  CHECK(lines_with(list, "GroupedExperts").size() == 1);
}

TEST_CASE("models: the explanation has the candidates in order and why one wins") {
  const std::string exact = output_of({"tcast", "models", "explain", "explained_model"});
  CHECK(lines_with(exact, "explained_") ==
        std::vector<std::string>{
            "architecture explained_mod* custom tests/app_models_test.cpp:15 used: no other one "
            "matches",
            "custom model explained_model custom tests/app_models_test.cpp:12 used",
            "custom model explained_* custom tests/app_models_test.cpp:12 not used: an exact name "
            "comes before a pattern"});
  CHECK(exact.find("no hook") == std::string::npos);

  const std::string pattern = output_of({"tcast", "models", "explain", "explained_other"});
  CHECK(lines_with(pattern, "explained_") ==
        std::vector<std::string>{
            "custom model explained_* custom tests/app_models_test.cpp:12 used: no other one "
            "matches"});
  CHECK(pattern.find("no architecture") != std::string::npos);
}

TEST_CASE("models: JSON carries the same") {
  const std::string json =
      output_of({"tcast", "models", "explain", "explained_other", "--format", "json"});
  CHECK(json == R"({
 "schema": 1,
 "model_type": "explained_other",
 "candidates": [
  {
   "kind": "custom model",
   "pattern": "explained_*",
   "origin": "custom",
   "file": "tests/app_models_test.cpp",
   "line": 12,
   "note": "used: no other one matches"
  }
 ]
}
)");
}

}  // namespace
