// Command lines of words that the help knows, of numbers, and of garbage. Nothing is executed or
// timed: commands that would do so are given a config that is not there.

#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fuzz.h"

namespace {

struct Known {
  std::string command;
  std::vector<std::string> options;
};

/// Commands with the options that their help names.
std::vector<Known> commands() {
  std::vector<Known> all;
  // calibrate needs nothing to time this host, and is left out.
  for (const char* name : {"simulate", "inspect", "run", "verify", "profile-ops", "models",
                           "devices", "profiles", "plugins", "steps", "store", ""}) {
    std::set<std::string> options;
    std::istringstream help(fuzz::run(*name == '\0' ? std::vector<std::string>{"--help"}
                                                    : std::vector<std::string>{name, "--help"})
                                .out);
    for (std::string word; help >> word;) {
      while (!word.empty() && (word.back() == ',' || word.back() == ';')) word.pop_back();
      if (word.size() > 1 && word[0] == '-') options.insert(word);
    }
    all.push_back({name, {options.begin(), options.end()}});
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::WorkingFolder folder;
  static const std::vector<Known> known = commands();
  FuzzedDataProvider input(data, size);
  const Known& one = fuzz::choose(input, known);
  const bool answers = one.command == "simulate" || one.command == "inspect";
  const std::string config =
      answers ? std::string(TCAST_SOURCE_DIR) + "/configs/models/qwen3-0.6b.json" : "missing.json";
  const char* const values[] = {
      "0",    "1",       "-1",    "8",        "1e3",     "99999999999",  "nan",        "2GiB",
      "json", "table",   "csv",   "jsonl",    "h200",    "int8",         "fp8",        "prefill",
      "list", "decode",  "llama", "tpot_s<1", "fits==1", "w8a8_dynamic", "wrap_model", "x=y",
      "*",    "out.json"};
  std::vector<std::string> words;
  if (!one.command.empty()) words.push_back(one.command);
  if (one.command == "simulate") words.insert(words.end(), {"--device", "h200"});
  const int count = input.ConsumeIntegralInRange(0, 8);
  for (int i = 0; i < count; ++i) {
    switch (input.ConsumeIntegralInRange(0, 7)) {
      case 0:
        words.push_back(config);
        break;
      case 1:
      case 2:
        words.emplace_back(fuzz::choose(input, values));
        break;
      case 3: {
        // No paths: what a command writes stays in the folder.
        std::string garbage = input.ConsumeRandomLengthString(12);
        for (char& byte : garbage) {
          if (byte == '/' || byte == '\0') byte = '_';
        }
        words.push_back(garbage);
        break;
      }
      default:
        if (!one.options.empty()) words.push_back(fuzz::choose(input, one.options));
    }
  }
  fuzz::run(words);
  return 0;
}
