// Golden tests: what the whole program prints. Each file of tests/golden/ holds command lines that
// start with "$ tcast", each followed by what the command wrote to stdout and stderr, as a terminal
// would show it, and by "[exit N]" where the status is not 0; a blank line parts the commands, and
// lines in front of the first one are a comment. TCAST_UPDATE_GOLDEN=1 rewrites the files.
//
// In files named *_masked.txt stands what differs from run to run: numbers and their units are "#",
// rows of a table (neighbouring lines that are indented) are in the order of their text.
//
// Commands run in this process (so that sanitizers and coverage see them) with the project's root
// as working directory. {tmp} in a command stands for an empty folder that is removed afterwards.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/text.h"

#include "app/cli.h"

namespace {

namespace fs = std::filesystem;

constexpr std::string_view prompt = "$ tcast";

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file, "cannot read ", path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos;
       at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

/// Words as a shell would see them: parted by blanks, grouped by single or double quotes.
std::vector<std::string> split_words(std::string_view line) {
  std::vector<std::string> words;
  char quote = '\0';
  bool in_word = false;
  for (const char c : line) {
    if (quote != '\0') {
      if (c == quote) {
        quote = '\0';
      } else {
        words.back() += c;
      }
    } else if (c == ' ') {
      in_word = false;
    } else {
      if (!in_word) words.emplace_back();
      in_word = true;
      if (c == '\'' || c == '"') {
        quote = c;
      } else {
        words.back() += c;
      }
    }
  }
  REQUIRE_MESSAGE(quote == '\0', "unfinished quote: ", std::string(line));
  return words;
}

/// The working directory of a test, and the variables that decide how output looks; put back at the
/// end.
class Surroundings {
 public:
  Surroundings() : old_directory_(fs::current_path()) {
    std::string name = (fs::temp_directory_path() / "tcast-golden-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    scratch_ = name;
    fs::current_path(TCAST_SOURCE_DIR);
    setenv("NO_COLOR", "1", 1);
    unsetenv("COLUMNS");
  }
  ~Surroundings() {
    std::error_code ignored;
    fs::current_path(old_directory_, ignored);
    fs::remove_all(scratch_, ignored);
  }
  Surroundings(const Surroundings&) = delete;
  Surroundings& operator=(const Surroundings&) = delete;

  const std::string& scratch() const { return scratch_; }

 private:
  fs::path old_directory_;
  std::string scratch_;
};

/// Numbers with their units as "#", a single blank between words, rows in the order of their text.
std::string masked(const std::string& output) {
  static const std::regex number(
      R"([-+]?\b[0-9][0-9.,]*(e[-+]?[0-9]+)?( ?(ns|us|ms|s|%|B|KiB|MiB|GiB|[GT]B/s|[GT]FLOP/s)(?![A-Za-z]))?)");
  std::vector<std::string> lines;
  std::size_t first_row = 0;
  for (const std::string& line : tcast::split(output, '\n')) {
    const bool is_row = line.rfind("  ", 0) == 0;
    std::string text = std::regex_replace(line, number, "#");
    text = std::regex_replace(text, std::regex("  +"), "  ");
    if (!is_row) first_row = lines.size() + 1;
    lines.push_back(text);
    if (is_row) std::sort(lines.begin() + static_cast<std::ptrdiff_t>(first_row), lines.end());
  }
  return tcast::join(lines, "\n");
}

/// A command line, its output and its status as they stand in a golden file.
std::string run_command(const std::string& line, const std::string& scratch, bool masks) {
  std::vector<std::string> words = split_words(std::string_view(line).substr(2));
  std::vector<const char*> argv;
  for (std::string& word : words) {
    word = replace_all(word, "{tmp}", scratch);
    argv.push_back(word.c_str());
  }
  std::ostringstream terminal;
  const int status = tcast::run_cli(static_cast<int>(argv.size()), argv.data(), terminal, terminal);
  std::string output = replace_all(terminal.str(), scratch, "{tmp}");
  if (masks) output = masked(output);
  if (!output.empty() && output.back() != '\n') output += "[no newline]\n";
  if (status != 0) output += "[exit " + std::to_string(status) + "]\n";
  return line + "\n" + output;
}

/// The golden file as it should be: its commands with what they print now.
std::string render(const std::string& golden, const std::string& scratch, bool masks) {
  std::string result;
  bool any_command = false;
  for (const std::string& line : tcast::split(golden, '\n')) {
    if (line.substr(0, prompt.size()) == prompt) {
      if (any_command) result += '\n';
      any_command = true;
      result += run_command(line, scratch, masks);
    } else if (!any_command) {
      result += line + "\n";
    }
  }
  REQUIRE_MESSAGE(any_command, "no line starts with '", std::string(prompt), "'");
  return result;
}

/// The first line that differs, with its number; empty when the texts are equal.
std::string first_difference(const std::string& expected, const std::string& found) {
  const std::vector<std::string> left = tcast::split(expected, '\n');
  const std::vector<std::string> right = tcast::split(found, '\n');
  for (std::size_t i = 0; i < left.size() || i < right.size(); ++i) {
    const std::string a = i < left.size() ? left[i] : "(end of file)";
    const std::string b = i < right.size() ? right[i] : "(end of output)";
    if (a != b) return std::to_string(i + 1) + "\n  expected: " + a + "\n  found:    " + b;
  }
  return {};
}

TEST_CASE("golden files") {
  const char* const update = std::getenv("TCAST_UPDATE_GOLDEN");
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::path(TCAST_SOURCE_DIR) / "tests" / "golden")) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  REQUIRE_FALSE(files.empty());
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    SUBCASE(name.c_str()) {
      const Surroundings surroundings;
      const std::string expected = read_file(file);
      const bool masks = file.stem().string().find("_masked") != std::string::npos;
      const std::string found = render(expected, surroundings.scratch(), masks);
      if (update != nullptr && std::string_view(update) == "1") {
        if (found != expected) std::ofstream(file, std::ios::binary) << found;
        continue;
      }
      const std::string difference = first_difference(expected, found);
      CHECK_MESSAGE(difference.empty(), "tests/golden/", name, ":", difference,
                    "\n  TCAST_UPDATE_GOLDEN=1 scripts/test rewrites the golden files");
    }
  }
}

TEST_CASE("golden: words of a command line") {
  CHECK(split_words("tcast  models").size() == 2);
  CHECK(split_words("tcast --assert 'tpot_s < 0.02'")[2] == "tpot_s < 0.02");
  CHECK(split_words("tcast \"it's\" ''") == std::vector<std::string>{"tcast", "it's", ""});
}

TEST_CASE("golden: a difference is shown with its line") {
  CHECK(first_difference("a\nb\n", "a\nb\n").empty());
  CHECK(first_difference("a\nb\n", "a\nc\n") == "2\n  expected: b\n  found:    c");
  CHECK(first_difference("a\n", "a\nc\n") == "2\n  expected: \n  found:    c");
}

}  // namespace
