// R01: no command destroys a file that it reads, or one of its own results: told before its work.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command_runs.h"
#include "scratch.h"

namespace {

namespace fs = std::filesystem;

/// The current folder for a while.
class Inside {
 public:
  explicit Inside(const std::string& folder) : old_(fs::current_path()) {
    fs::current_path(folder);
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  ~Inside() { fs::current_path(old_); }

 private:
  fs::path old_;
};

std::vector<std::string> words(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> list;
  for (std::string word; stream >> word;) list.push_back(word);
  return list;
}

/// A folder with one of each file that commands read.
void fill(const Scratch& folder) {
  folder.write("c.json", tiny_config());
  folder.write("p.yaml", "model_type: qwen3\n");
  folder.write("ids.txt", "1 2 3\n");
  folder.write("d.yaml", "name: D\n");
  folder.write("lines.jsonl", "");
  fs::create_directories(folder.file("model"));
  folder.write("model/config.json", tiny_config());
  folder.write("model/hf_quant_config.json", R"({"quantization": {"quant_algo": "FP8"}})");
  fs::create_directories(folder.file("many"));
  folder.write("many/a.json", tiny_config());
  folder.write("many/b.json", tiny_config());
  fs::create_symlink("c.json", folder.file("link.json"));
  fs::create_hard_link(folder.file("c.json"), folder.file("hard.json"));
  fs::create_symlink("model", folder.file("way"));
  fs::create_symlink("new.sqlite", folder.file("dangling"));
}

std::string everything(const Scratch& folder) {
  std::vector<std::string> parts;
  for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
    std::string part = entry.path().string();
    if (entry.is_regular_file()) {
      std::ifstream stream(entry.path(), std::ios::binary);
      part += std::string(std::istreambuf_iterator<char>(stream), {});
    }
    parts.push_back(part);
  }
  std::sort(parts.begin(), parts.end());
  std::string text;
  for (const std::string& part : parts) text += part + "\n";
  return text;
}

}  // namespace

TEST_CASE("files of a command: an output that is an input, or another output, is refused") {
  const Scratch folder;
  fill(folder);
  const Inside inside(folder.path());
  const Variable cache("XDG_CACHE_HOME", folder.file("cache"));
  struct Row {
    std::string line;
    std::string message;
  };
  const Row rows[] = {
      {"simulate c.json --device h200 -o c.json",
       "-o would overwrite 'c.json', which is read as CONFIG"},
      {"simulate c.json --device h200 -o ./c.json",
       "-o would overwrite './c.json', which is read as CONFIG"},
      {"simulate c.json --device h200 -o link.json",
       "-o would overwrite 'link.json', which is read as CONFIG"},
      {"simulate link.json --device h200 --output c.json",
       "-o would overwrite 'c.json', which is read as CONFIG"},
      {"simulate c.json --device h200 -o hard.json",
       "-o would overwrite 'hard.json', which is read as CONFIG"},
      {"simulate c.json --device h200 --trace c.json",
       "--trace would overwrite 'c.json', which is read as CONFIG"},
      {"simulate model --device h200 -o model/config.json",
       "-o would overwrite 'model/config.json', which is read as CONFIG"},
      {"simulate way --device h200 -o model/config.json",
       "-o would overwrite 'model/config.json', which is read as CONFIG"},
      {"simulate model/config.json --device h200 -o model/hf_quant_config.json",
       "-o would overwrite 'model/hf_quant_config.json', which is read as CONFIG"},
      {"simulate model --device h200 -o way/hf_quant_config.json",
       "-o would overwrite 'way/hf_quant_config.json', which is read as CONFIG"},
      {"simulate many --device h200 --format jsonl -o many/b.json",
       "-o would overwrite 'many/b.json', which is read as CONFIG"},
      {"simulate c.json --device h200 --profile p.yaml -o p.yaml",
       "-o would overwrite 'p.yaml', which is read as --profile"},
      {"simulate c.json --device d.yaml -o ./d.yaml",
       "-o would overwrite './d.yaml', which is read as --device"},
      {"simulate c.json --device h200 -o out --trace ./out",
       "-o and --trace name the same file 'out'"},
      {"simulate c.json --device h200 -o model/out --trace way/out",
       "-o and --trace name the same file 'model/out'"},
      {"simulate c.json --device h200 -o new --trace ./New",
       "-o 'new' and --trace './New' differ in case alone"},
      {"simulate c.json --store S.sqlite --trace s.sqlite",
       "--trace 's.sqlite' and --store 'S.sqlite' differ in case alone"},
      {"simulate c.json --store s.sqlite -o ./s.sqlite",
       "-o would overwrite './s.sqlite', which --store keeps"},
      {"simulate c.json --store dangling -o new.sqlite",
       "-o would overwrite 'new.sqlite', which --store keeps"},
      {"simulate c.json --store s.sqlite --trace s.sqlite.lock",
       "--trace would overwrite 's.sqlite.lock', which --store keeps"},
      {"simulate c.json -o cache/tcast/measurements.sqlite",
       "-o would overwrite 'cache/tcast/measurements.sqlite', which --store keeps"},
      {"simulate c.json --store c.json", "--store would change 'c.json', which is read as CONFIG"},
      {"run c.json --dump-logits c.json",
       "--dump-logits would overwrite 'c.json', which is read as CONFIG"},
      {"run c.json --dump-logits z.npy -o z.npy",
       "--dump-logits and -o name the same file 'z.npy'"},
      {"run c.json --token-ids ids.txt -o ids.txt",
       "-o would overwrite 'ids.txt', which is read as --token-ids"},
      {"run c.json --token-ids ids.txt --dump-logits ./ids.txt",
       "--dump-logits would overwrite './ids.txt', which is read as --token-ids"},
      {"run c.json --compare --store s.sqlite -o s.sqlite",
       "-o would overwrite 's.sqlite', which --store keeps"},
      {"verify c.json -o c.json", "-o would overwrite 'c.json', which is read as CONFIG"},
      {"verify c.json --token-ids ids.txt -o ids.txt",
       "-o would overwrite 'ids.txt', which is read as --token-ids"},
      {"inspect c.json -o c.json", "-o would overwrite 'c.json', which is read as CONFIG"},
      {"inspect c.json --steps --device d.yaml -o d.yaml",
       "-o would overwrite 'd.yaml', which is read as --device"},
      {"profile-ops c.json -o c.json", "-o would overwrite 'c.json', which is read as CONFIG"},
      {"profile-ops c.json --store s.sqlite -o s.sqlite",
       "-o would overwrite 's.sqlite', which --store keeps"},
      {"store export --store s.sqlite -o s.sqlite",
       "-o would overwrite 's.sqlite', which --store keeps"},
      {"store export --store s.sqlite -o s.sqlite-journal",
       "-o would overwrite 's.sqlite-journal', which --store keeps"},
      {"store export -o cache/tcast/measurements.sqlite",
       "-o would overwrite 'cache/tcast/measurements.sqlite', which --store keeps"},
      {"store import lines.jsonl --store lines.jsonl",
       "--store would change 'lines.jsonl', which is read as FILE"},
      {"store import lines.jsonl --store s.sqlite -o lines.jsonl",
       "-o would overwrite 'lines.jsonl', which is read as FILE"},
  };
  const std::string before = everything(folder);
  for (const Row& row : rows) {
    CAPTURE(row.line);
    const Run outcome = run(words(row.line));
    CHECK(outcome.status == 2);
    CHECK(outcome.err.substr(0, outcome.err.find('\n')) == "tcast: error: " + row.message);
    CHECK(outcome.out == "");
    CHECK(everything(folder) == before);
  }
}

TEST_CASE("files of a command: what destroys nothing is done") {
  const Scratch folder;
  fill(folder);
  const Inside inside(folder.path());
  const Variable cache("XDG_CACHE_HOME", folder.file("cache"));
  for (const char* line : {
           "simulate c.json --device h200 -o C.json --trace Out",
           "simulate c.json --device h200 -o out --trace out2",
           "simulate c.json --device h200 -o /dev/null --trace /dev/null",
           "simulate c.json c.json --device h200 --format jsonl -o out",  // read twice
           "simulate model --device h200 -o model/out.json",
           "simulate c.json --device h200 --profile p.yaml --profile p.yaml -o out",
           "inspect c.json -o h200",
           "store export --store s.sqlite -o out",
       }) {
    CAPTURE(line);
    const Run outcome = run(words(line));
    CHECK_MESSAGE(outcome.status == 0, outcome.err);
  }
  CHECK(folder.read("Out").substr(0, 20) == "{\"displayTimeUnit\":\"");
  CHECK(folder.read("c.json") == tiny_config());
}

namespace {

/// Runs a command line in a process of its own whose standard output goes to `file`, behind what is
/// there; returns the exit status.
int run_into(const std::string& file, const std::string& line) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (descriptor < 0 || dup2(descriptor, STDOUT_FILENO) < 0) _exit(99);
    const Run outcome = run(words(line));
    const bool written = write(STDOUT_FILENO, outcome.out.data(), outcome.out.size()) ==
                         static_cast<ssize_t>(outcome.out.size());
    _exit(written ? outcome.status : 98);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("files of a command: the standard output is one of its outputs") {
  const Scratch folder;
  fill(folder);
  const Inside inside(folder.path());
  CHECK(run_into("c.json", "inspect c.json") == 2);
  CHECK(folder.read("c.json") == tiny_config());
  CHECK(run_into("out", "simulate c.json --device h200 --trace out") == 2);
  CHECK(folder.read("out") == "");
  CHECK(run_into("out", "simulate c.json --device h200 --trace trace") == 0);
  CHECK(folder.read("out").substr(0, 5) == "model");
  // By its own name it is no file to replace: both results are in it.
  CHECK(run_into("both", "simulate c.json --device h200 -o /dev/stdout --trace /dev/stdout") == 0);
  CHECK(folder.read("both").find("\"displayTimeUnit\"") != std::string::npos);
  CHECK(folder.read("both").find("time to first token") != std::string::npos);
}

TEST_CASE("files of a command: an output that cannot be written is told before the work") {
  const Scratch folder;
  fill(folder);
  const Inside inside(folder.path());
  const Variable cache("XDG_CACHE_HOME", folder.file("cache"));
  // The configs do not exist: whatever is said of them comes after what is said of the output.
  for (const char* line :
       {"simulate none.json --device h200 -o no/out", "simulate none.json --trace no/out",
        "run none.json -o no/out", "run none.json --dump-logits no/out",
        "verify none.json -o no/out", "inspect none.json -o no/out",
        "inspect none.json --steps -o no/out", "profile-ops none.json -o no/out",
        "calibrate --time-budget 0.1 -o no/out", "store list -o no/out", "store export -o no/out",
        "store import none.jsonl -o no/out", "store clear -o no/out", "models -o no/out",
        "plugins -o no/out", "steps -o no/out", "devices -o no/out", "profiles -o no/out"}) {
    CAPTURE(line);
    const Run outcome = run(words(line));
    CHECK(outcome.status == 1);
    CHECK(outcome.err ==
          "tcast: error: cannot write 'no/out': No such file or directory\n"
          "  hint: the directory must exist\n");
  }
}
