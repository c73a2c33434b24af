#include "tcast/config/quantization_files.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <iterator>
#include <optional>
#include <system_error>

#include "tcast/base/text.h"

namespace tcast {
namespace {

namespace fs = std::filesystem;

struct KnownFile {
  std::string_view pattern;
  QuantizationTool tool;
  std::string_view name;  // of the tool
};

// In the order of the enumerators.
constexpr KnownFile known_files[] = {
    {"hf_quant_config.json", QuantizationTool::modelopt, "ModelOpt"},
    {"quantize_config.json", QuantizationTool::gptq, "GPTQ"},
    {"quant_config.json", QuantizationTool::awq, "AWQ"},
    {"quant_model_description*.json", QuantizationTool::modelslim, "msModelSlim"},
};

/// Words by which published checkpoints name the format that their weights are stored in.
constexpr std::string_view format_words[] = {
    "fp8",  "fp4",  "nvfp4", "mxfp4", "mxfp8", "int8", "int4", "w8a8", "w8a16",
    "w4a8", "w4a4", "w4a16", "awq",   "gptq",  "bnb",  "4bit", "8bit", "quantized",
};

/// The first word of a name that is the name of a format; words are parted by what is neither a
/// letter nor a digit.
std::string format_word_of(std::string_view name) {
  std::string word;
  const auto is_known = [&word] {
    std::string lower = word;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return std::find(std::begin(format_words), std::end(format_words), lower) !=
           std::end(format_words);
  };
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      word += c;
      continue;
    }
    if (is_known()) return word;
    word.clear();
  }
  return is_known() ? word : "";
}

}  // namespace

std::string_view name_of(QuantizationTool tool) {
  return known_files[static_cast<std::size_t>(tool)].name;
}

std::vector<QuantizationFile> quantization_files(const HfConfig& config) {
  std::vector<QuantizationFile> files;
  if (config.folder().empty()) return files;
  std::error_code failure;
  fs::directory_iterator entry(config.folder(), failure);
  while (!failure && entry != fs::directory_iterator()) {
    const std::string name = entry->path().filename().string();
    for (const KnownFile& known : known_files) {
      if (matches_pattern(name, known.pattern)) {
        files.push_back({entry->path().string(), known.tool});
      }
    }
    entry.increment(failure);
  }
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  return files;
}

std::string hinted_quantization(const HfConfig& whole) {
  const HfConfig config = whole.as_written();
  const fs::path file = config.file();
  // A config.json is named by its folder; "." and "" name nothing.
  const bool plain = file.filename() == "config.json";
  const std::string name = plain ? file.parent_path().filename().string() : file.stem().string();
  std::string word = format_word_of(name);
  if (!word.empty()) return word;
  if (const auto published = config.node("_name_or_path"); published && published->is_string()) {
    std::string path = published->as_string();
    while (!path.empty() && path.back() == '/') path.pop_back();
    word = format_word_of(path.substr(path.rfind('/') + 1));
    if (!word.empty()) return word;
  }
  // What ModelOpt says in its own file, found in a config that does not say more.
  for (const char* key : {"producer", "quant_algo"}) {
    if (config.node(key)) return key;
  }
  return "";
}

}  // namespace tcast
