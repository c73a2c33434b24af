#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

/// The config of a tiny Llama under another model type, with further members, each behind a comma.
inline std::string tiny_llama(const std::string& model_type, const std::string& more = "") {
  return fmt::format(R"({{"model_type": "{}", "hidden_size": 32, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 64,
 "rms_norm_eps": 1e-6, "max_position_embeddings": 128, "torch_dtype": "float32",
 "tie_word_embeddings": false, "hidden_act": "silu"{}}})",
                     model_type, more);
}

/// A folder of its own, removed with its object.
class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& in = std::filesystem::temp_directory_path()) {
    std::string name = (in / "tcast-test-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string path() const { return path_.string(); }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  /// Writes a file, in a new folder if need be; returns its path.
  std::string write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return file(name);
  }
  std::string read(const std::string& name) const {
    std::ifstream stream(path_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  std::ptrdiff_t entries() const {
    return std::distance(std::filesystem::directory_iterator(path_),
                         std::filesystem::directory_iterator());
  }
  /// Writes tiny_llama() into a file that is named like the model type.
  std::string config(const std::string& model_type, const std::string& more = "") const {
    return write(model_type + ".json", tiny_llama(model_type, more));
  }

 private:
  std::filesystem::path path_;
};

/// A variable of the environment, put back at the end.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    const char* const old = std::getenv(name);
    if (old != nullptr) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { old_.empty() ? unsetenv(name_) : setenv(name_, old_.c_str(), 1); }

 private:
  const char* name_;
  std::string old_;
};

/// A tiny qwen3; `more` are further keys, each behind a comma.
inline std::string tiny_config(const std::string& more = {}) {
  return R"({"model_type":"qwen3","vocab_size":512,"hidden_size":64,"intermediate_size":128,)"
         R"("num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,)"
         R"("rms_norm_eps":1e-6,"max_position_embeddings":4096,"torch_dtype":"bfloat16",)"
         R"("tie_word_embeddings":true)" +
         more + "}\n";
}
