// Golden tests: what the whole program prints. Each file of tests/golden/ holds command lines that
// start with "$ tcast", each followed by what the command wrote to stdout and stderr, as a terminal
// would show it, and by "[exit N]" where the status is not 0; a blank line parts the commands, and
// lines in front of the first one are a comment. TCAST_UPDATE_GOLDEN=1 rewrites the files.
//
// Files named *_masked.txt hold what commands say that execute or time, without what differs from
// run to run (see masked()).
//
// Commands run in this process (so that sanitizers and coverage see them) with the project's root
// as working directory. {tmp} in a command stands for an empty folder that is removed afterwards.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/base/text.h"
#include "tcast/exec/timing/host.h"

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

/// Every path of a JSON value with the kind of what is there: "ops[].calls number".
void add_paths(const nlohmann::json& value, const std::string& path, std::set<std::string>& paths) {
  if (value.is_object()) {
    for (const auto& [key, member] : value.items()) {
      add_paths(member, path.empty() ? key : path + "." + key, paths);
    }
  } else if (value.is_array()) {
    paths.insert(path + "[]");
    // A warning says that the machine was not quiet.
    if (path == "warnings") return;
    for (const auto& item : value) add_paths(item, path + "[]", paths);
  } else if (path.rfind("timing.", 0) != 0 && path != "ops[].spread" && path != "ops[].scaled" &&
             path != "ops[].disturbed") {  // as the machine is
    paths.insert(path + " " + value.type_name());
  }
}

std::string unnumbered(std::string line) {
  struct Mask {
    std::regex what;
    const char* by;
  };
  static const Mask masks[] = {
      {std::regex(R"(\b(tcast|brg|brgemm|gemm|jit|ref|simple)[:_][{}a-z0-9_:]+)"), "{kernel}"},
      {std::regex(
           R"([-+]?\b[0-9][0-9.,]*(e[-+]?[0-9]+)?( ?(%|(ns|us|ms|s|K|M|B|KiB|MiB|GiB|[GT]B|[GT]FLOP)\b(/s)?))?)"),
       "#"},
      {std::regex("(total|prefill|decode) (s|ms|us|ns)\\b"), "$1"},
      {std::regex("limited by .*"), "limited by {bounds}"},
      {std::regex("  (compute|memory|launch)  measured[*!]*"), "  {bound}  measured"},
      {std::regex("  +"), "  "},
      {std::regex("  -(?=  |$)"), "  #"},  // of one sample there is no spread
  };
  const tcast::HostFeatures host = tcast::host_features();
  line = replace_all(std::move(line), host.cpu, "{cpu}");
  line = replace_all(std::move(line), tcast::name_of(host.isa), "{isa}");
  for (const Mask& mask : masks) line = std::regex_replace(line, mask.what, mask.by);
  return line;
}

bool is_warning(const std::string& line) { return line.rfind("tcast: warning: ", 0) == 0; }

/// Whether a line says that the machine was not quiet.
bool is_noise(const std::string& line) {
  return line.find("quiet machine") != std::string::npos ||
         line.find("while the machine was disturbed") != std::string::npos;
}

/// Whether a line has cells: words with two blanks or more between them.
bool is_row(const std::string& line) {
  const std::size_t begin = line.find_first_not_of(' ');
  return begin != std::string::npos && line.find("  ", begin) != std::string::npos;
}

/// What a command that executes or times says, without what differs from run to run and from host
/// to host. Of JSON its paths. Of a text, without numbers, units, kernels and warnings, paragraph
/// by paragraph: the rows of its tables in the order of their text, equal ones once; then its other
/// words, which are in other lines when a number is longer.
std::string masked(const std::string& output) {
  std::set<std::string> rows;
  std::set<std::string> words;
  std::string text;
  std::vector<std::string> lines = tcast::split(output, '\n');
  std::erase_if(lines, is_warning);
  const nlohmann::json json = nlohmann::json::parse(tcast::join(lines, "\n"), nullptr, false);
  if (json.is_object()) {
    add_paths(json, "", rows);
    lines.clear();
  }
  std::erase_if(lines, is_noise);
  const auto end_paragraph = [&] {
    for (const std::string& row : rows) text += row + "\n";
    if (!words.empty())
      text += tcast::join(std::vector<std::string>(words.begin(), words.end()), " ") + "\n";
    if (!rows.empty() || !words.empty()) text += "\n";
    rows.clear();
    words.clear();
  };
  bool warns = false;
  bool tells_noise = false;  // a paragraph about the machine, in several lines
  for (const std::string& line : lines) {
    if (line.empty()) end_paragraph();
    tells_noise = !line.empty() && (tells_noise || line.find("disturbed the run") != line.npos);
    if (line.rfind("  ", 0) != 0) warns = line == "warnings";
    if (line.empty() || warns || tells_noise || line.rfind("  *", 0) == 0) continue;
    if (is_row(line)) {
      rows.insert(unnumbered(line));
    } else {
      for (const std::string& word : tcast::split(unnumbered(line), ' ')) {
        // A unit whose number ended the line before.
        static const std::regex unit(R"(#|([num]?s|%|[KMG]?i?B(/s)?|[GT]FLOP/s)[,;.]?)");
        if (!word.empty() && !std::regex_match(word, unit)) words.insert(word);
      }
    }
  }
  end_paragraph();
  if (!text.empty()) text.pop_back();
  return text;
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
  // What a step took.
  static const std::regex json_time(R"("milliseconds":[-+.e0-9]+)");
  static const std::regex step_time(R"((modules? changed[^\n(]*)\([0-9.]+ [num]?s\))");
  output = std::regex_replace(output, json_time, R"("milliseconds":#)");
  output = std::regex_replace(output, step_time, "$1(#)");
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

bool is_masked(const fs::path& file) {
  return file.stem().string().find("_masked") != std::string::npos;
}

/// Checks the golden files of one kind, or writes them anew.
void check_files(bool of_masked) {
  const char* const update = std::getenv("TCAST_UPDATE_GOLDEN");
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::path(TCAST_SOURCE_DIR) / "tests" / "golden")) {
    const bool wanted = entry.path().extension() == ".txt" && is_masked(entry.path()) == of_masked;
    if (wanted) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  REQUIRE_FALSE(files.empty());
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    SUBCASE(name.c_str()) {
      const Surroundings surroundings;
      const std::string expected = read_file(file);
      const std::string found = render(expected, surroundings.scratch(), of_masked);
      if (update != nullptr && std::string_view(update) == "1") {
        if (found != expected) std::ofstream(file, std::ios::binary) << found;
        continue;
      }
      const std::string difference = first_difference(expected, found);
      CHECK_MESSAGE(difference.empty(), "tests/golden/", name, ":", difference,
                    "\n  TCAST_UPDATE_GOLDEN=1 scripts/test --all rewrites the golden files");
    }
  }
}

TEST_CASE("golden files") { check_files(false); }

TEST_CASE("golden files of what executes and times (heavy)" * doctest::skip()) {
  check_files(true);
}

TEST_CASE("golden: what differs from run to run is masked") {
  CHECK(unnumbered("  matmul   1,234  12.5 ms  3.1e+05 memory  brg:avx512_core_amx") ==
        "  matmul  #  #  # memory  {kernel}");
  CHECK(masked("a head 1\nb  2 s\n  a  3 s\nb  4 s\n\nwarnings\n  - noise\n") ==
        "  a  #\nb  #\na head\n");
  CHECK(masked(R"({"a": [{"b": 1}, {"b": 2}], "warnings": ["x"]})") ==
        "a[]\na[].b number\nwarnings[]\n");
  CHECK(masked("tcast: warning: noise\n{\"notes\": [\n\"repeat on a quiet machine\"\n]}") ==
        "notes[]\nnotes[] string\n");
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
