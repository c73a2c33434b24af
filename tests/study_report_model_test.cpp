// D14, S12: what a config says in vain is told by every command, and can be made an error.
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "command_runs.h"
#include "scratch.h"

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

}  // namespace

TEST_CASE("a config key that nothing reads is told by every command, and --strict fails it") {
  const Scratch folder;
  const std::string fine = folder.write("fine.json", tiny_llama("llama"));
  const std::string vain = folder.write("vain.json", tiny_llama("llama", R"(, "foo": 3)"));
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
  const Scratch folder;
  const std::vector<std::string> arguments = {
      "simulate",        "--device", "TEST_DEVICE", "--input-length", "8",
      "--output-length", "2",        "--assert",    "warnings==0"};
  const auto status = [&](const std::string& more) {
    std::vector<std::string> all = arguments;
    all.push_back(folder.write("c.json", tiny_llama("llama", more)));
    return run(all).status;
  };
  CHECK(status("") == 0);
  CHECK(status(R"(, "foo": 3)") == 3);
  CHECK(status(R"(, "architectures": ["MyForCausalLM"])") == 3);
}
