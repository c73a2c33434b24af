#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include "app/cli.h"

/// What one call of the program said.
struct Run {
  int status = 0;
  std::string out;
  std::string err;
};

inline Run run(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"tcast"};
  for (const std::string& one : arguments) argv.push_back(one.c_str());
  std::ostringstream out;
  std::ostringstream err;
  Run result;
  result.status = tcast::run_cli(static_cast<int>(argv.size()), argv.data(), out, err);
  result.out = out.str();
  result.err = err.str();
  return result;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A folder that goes away.
class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& in = std::filesystem::temp_directory_path()) {
    std::string name = (in / "tcast-plugins-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    folder_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
    return path(name);
  }
  /// A tiny Llama of the given type, with further members.
  std::string config(const std::string& model_type, const std::string& more = "") const {
    return write(model_type + ".json",
                 fmt::format(R"({{"model_type": "{}", "hidden_size": 32, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
 "rms_norm_eps": 1e-6, "max_position_embeddings": 128, "torch_dtype": "float32",
 "tie_word_embeddings": false, "hidden_act": "silu"{}}})",
                             model_type, more));
  }

 private:
  std::filesystem::path folder_;
};
