#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <fuzzer/FuzzedDataProvider.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

#include "app/cli.h"

// What the fuzz targets share. A broken invariant aborts, as a crash does.

namespace fuzz {

/// Ends the process with what was broken.
[[noreturn]] inline void fail(const std::string& what) {
  std::cerr << "BROKEN: " << what << '\n';
  std::abort();
}

/// Calls a function that may throw Error, whose text must be safe to print.
template <class Call>
void expect_error_or_success(Call call) {
  try {
    call();
  } catch (const tcast::Error& error) {
    const std::string_view message = error.what();
    if (tcast::printable(message, message.size()) != message) fail("message is not printable");
  }
}

/// A choice that the input makes among some things.
template <class List>
const auto& choose(FuzzedDataProvider& input, const List& list) {
  return list[input.ConsumeIntegralInRange<std::size_t>(0, std::size(list) - 1)];
}

/// A folder of the process's own, which it works in, so that nothing else is written to; gone with
/// the process's normal end.
class WorkingFolder {
 public:
  WorkingFolder() {
    const std::filesystem::path memory = "/dev/shm";
    const std::filesystem::path in =
        access(memory.c_str(), W_OK) == 0 ? memory : std::filesystem::temp_directory_path();
    std::string name = (in / "tcast-fuzz-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail("no folder to work in");
    path_ = name;
    std::filesystem::current_path(path_);
    setenv("XDG_CACHE_HOME", path_.c_str(), 1);
  }
  ~WorkingFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  WorkingFolder(const WorkingFolder&) = delete;
  WorkingFolder& operator=(const WorkingFolder&) = delete;

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::string& name, const std::string& text) {
  std::ofstream(name, std::ios::binary) << text;
}

inline std::string read_file(const std::string& name) {
  std::ifstream stream(name, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// What one command line said.
struct Outcome {
  int status = 0;
  std::string out;
  std::string err;
};

/// Runs a command line; anything but an answer, a refusal or a failed assertion is a defect, and so
/// is a refusal that says nothing, or says it in bytes that a terminal would obey.
inline Outcome run(const std::vector<std::string>& words) {
  std::vector<const char*> arguments = {"tcast"};
  for (const std::string& word : words) arguments.push_back(word.c_str());
  std::ostringstream out;
  std::ostringstream err;
  Outcome outcome;
  outcome.status = tcast::run_cli(static_cast<int>(arguments.size()), arguments.data(), out, err);
  outcome.out = out.str();
  outcome.err = err.str();
  const auto line = [&words] { return tcast::join(words, " "); };
  if (outcome.status < 0 || outcome.status > 3) {
    fail("exit status " + std::to_string(outcome.status) + " of: " + line() + "\n" + outcome.err);
  }
  if (outcome.status != 0 && outcome.err.empty()) fail("a refusal without a word of: " + line());
  for (const char byte : outcome.err) {
    if (byte != '\n' && static_cast<unsigned char>(byte) < 0x20) {
      fail("a control character in the messages of: " + line());
    }
  }
  return outcome;
}

/// The configs of a folder of goldens ({"config": {...}}), in the order of the names.
inline std::vector<nlohmann::json> golden_configs(const std::string& folder) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".json") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<nlohmann::json> configs;
  for (const std::string& path : paths) {
    configs.push_back(nlohmann::json::parse(read_file(path)).at("config"));
  }
  if (configs.empty()) fail("no goldens in " + folder);
  return configs;
}

}  // namespace fuzz
