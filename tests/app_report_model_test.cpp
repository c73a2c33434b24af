// D14, S12: what a config says in vain is told by every command, and can be made an error.
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "app/cli.h"

namespace {

namespace fs = std::filesystem;

struct Run {
  int status = 0;
  std::string out;
  std::string err;
};

Run run(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"tcast"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  std::ostringstream out;
  std::ostringstream err;
  Run result;
  result.status = tcast::run_cli(static_cast<int>(argv.size()), argv.data(), out, err);
  result.out = out.str();
  result.err = err.str();
  return result;
}

class Folder {
 public:
  Folder() {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string config(const std::string& name, const std::string& more) const {
    const std::string file = (path_ / name).string();
    std::ofstream(file) << R"({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
"rms_norm_eps": 1e-6, "max_position_embeddings": 128, "torch_dtype": "float32",
"tie_word_embeddings": false, "hidden_act": "silu")" +
                               more + "}";
    return file;
  }

 private:
  fs::path path_ = fs::temp_directory_path() / "tcast_report_model_test";
};

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

}  // namespace

TEST_CASE("a config key that nothing reads is told by every command, and --strict fails it") {
  const Folder folder;
  const std::string fine = folder.config("fine.json", "");
  const std::string vain = folder.config("vain.json", R"(, "foo": 3)");
  const std::vector<std::vector<std::string>> commands = {
      {"simulate", "--device", "TEST_DEVICE", "--input-length", "8", "--output-length", "2"},
      {"simulate", "--device", "TEST_DEVICE", "--input-length", "8", "--output-length", "2",
       "--format", "json"},
      {"inspect"},
      {"inspect", "--format", "json"},
      {"inspect", "--steps"},
      {"run", "--input-length", "4", "--output-length", "2"},
      {"run", "--input-length", "4", "--output-length", "2", "--format", "json"},
      {"verify", "--decode-steps", "1"},
      {"verify", "--decode-steps", "1", "--format", "json"},
  };
  for (std::vector<std::string> command : commands) {
    command.push_back(vain);
    std::string shown;
    for (const std::string& word : command) shown += word + " ";
    CAPTURE(shown);
    const Run told = run(command);
    CHECK(told.status == 0);
    CHECK(count(told.out + told.err, "config key foo (3) is not read") == 1);
    command.emplace_back("--strict");
    const Run strict = run(command);
    CHECK(strict.status == 1);
    CHECK(strict.out.size() > told.out.size() / 2);  // the result is there
    CHECK(count(strict.err, "tcast: error: --strict: 1 warning\n") == 1);
    *(command.end() - 2) = fine;
    CHECK(run(command).status == 0);
  }
}

TEST_CASE("warnings can be asserted") {
  const Folder folder;
  const std::vector<std::string> arguments = {
      "simulate",        "--device", "TEST_DEVICE", "--input-length", "8",
      "--output-length", "2",        "--assert",    "warnings==0"};
  const auto status = [&](const std::string& more) {
    std::vector<std::string> all = arguments;
    all.push_back(folder.config("c.json", more));
    return run(all).status;
  };
  CHECK(status("") == 0);
  CHECK(status(R"(, "foo": 3)") == 3);
  CHECK(status(R"(, "architectures": ["MyForCausalLM"])") == 3);
}
