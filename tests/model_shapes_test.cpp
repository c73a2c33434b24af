// Names, shapes, buffers and classes of every model type against goldens made with the real
// transformers (scripts/goldens), and the totals of the shipped configs.
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/base/text.h"
#include "tcast/model/transformer_model.h"

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const fs::path source_dir = TCAST_SOURCE_DIR;

std::string read_file(const fs::path& path) {
  const std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

tcast::TransformerModel build(const std::string& config_text, const std::string& file) {
  tcast::HfConfig config = tcast::HfConfig::parse(config_text, file);
  tcast::ModelProfile profile = tcast::load_profile(config.model_type(), {});
  return tcast::build_model(std::move(config), std::move(profile), {});
}

std::string line(const std::string& name, const std::vector<std::int64_t>& shape) {
  std::string text = name + " [";
  for (const std::int64_t dim : shape) text += std::to_string(dim) + ",";
  return text + "]";
}

std::set<std::string> expected_lines(const json& list) {
  std::set<std::string> lines;
  for (const json& entry : list) {
    lines.insert(line(entry.at(0), entry.at(1).get<std::vector<std::int64_t>>()));
  }
  return lines;
}

/// What stands in one set and not in the other, for a readable failure.
std::string difference(const std::set<std::string>& a, const std::set<std::string>& b) {
  std::string text;
  for (const std::string& entry : a) {
    if (b.count(entry) == 0) text += entry + "; ";
  }
  return text;
}

/// Classes of all modules with list entries written out.
void collect_classes(const tcast::Module& module, const std::string& prefix,
                     std::map<std::string, std::string>& classes) {
  for (const auto& child : module.children()) {
    const tcast::ListMembers& members = child->members();
    for (std::int64_t i = 0; i < members.count; ++i) {
      const std::string piece =
          members.in_list() ? std::to_string(members.first + i) : child->name();
      const std::string path = prefix.empty() ? piece : prefix + "." + piece;
      classes[path] = child->hf_class_name();
      collect_classes(*child, path, classes);
    }
  }
}

}  // namespace

TEST_CASE("trees equal HuggingFace's in names, shapes, buffers and classes") {
  int goldens = 0;
  for (const auto& entry : fs::directory_iterator(source_dir / "tests/data/shapes")) {
    const std::string file = entry.path().filename().string();
    CAPTURE(file);
    ++goldens;
    const json golden = json::parse(read_file(entry.path()));
    const tcast::TransformerModel model = build(golden.at("config").dump(), file);

    std::set<std::string> parameters;
    std::set<std::string> buffers;
    for (const tcast::NamedParameter& named : model.parameters()) {
      if (!named.parameter->tied_to.empty()) continue;
      const tcast::Shape stored = named.parameter->checkpoint_shape();
      std::vector<std::int64_t> shape;
      for (int i = 0; i < stored.rank(); ++i) shape.push_back(stored[i]);
      (named.parameter->buffer ? buffers : parameters).insert(line(named.name, shape));
    }
    const std::set<std::string> golden_parameters = expected_lines(golden.at("parameters"));
    CHECK(difference(golden_parameters, parameters) == "");
    CHECK(difference(parameters, golden_parameters) == "");
    const std::set<std::string> golden_buffers = expected_lines(golden.at("buffers"));
    CHECK(difference(golden_buffers, buffers) == "");
    CHECK(difference(buffers, golden_buffers) == "");
    CHECK(model.count_parameters().total == golden.at("total").get<std::int64_t>());

    std::map<std::string, std::string> classes;
    collect_classes(model.root(), "", classes);
    for (const auto& entry_of_path : golden.at("module_classes").items()) {
      const std::string path = entry_of_path.key();
      const auto class_name = entry_of_path.value().get<std::string>();
      // Activation functions and dropouts are no modules of the tree: they have nothing but a name.
      const std::string name = path.substr(path.rfind('.') + 1);
      if (name == "act" || name == "act_fn" || name == "activation_fn") continue;
      if (class_name == "Dropout") continue;
      // Each attention of qwen2_moe makes a second rotary module that nothing calls.
      if (class_name == "Qwen2MoeRotaryEmbedding" && path != "model.rotary_emb") continue;
      CAPTURE(path);
      CHECK(classes[path] == class_name);
    }
    for (const auto& known : classes) {
      const std::string& path = known.first;
      CAPTURE(path);
      CHECK(golden.at("module_classes").contains(path));
    }
  }
  CHECK(goldens >= 71);
}

TEST_CASE("totals of the shipped configs") {
  std::istringstream rows(read_file(source_dir / "tests/data/params.csv"));
  std::string row;
  std::getline(rows, row);
  int models = 0;
  while (std::getline(rows, row)) {
    const std::vector<std::string> cells = tcast::split(row, ',');
    CAPTURE(cells[0]);
    const fs::path path = source_dir / "configs/models" / (cells[0] + ".json");
    const tcast::TransformerModel model = build(read_file(path), cells[0]);
    const tcast::ParameterCounts counts = model.count_parameters();
    CHECK(counts.total == std::stoll(cells[1]));
    CHECK(counts.active == std::stoll(cells[2]));
    ++models;
  }
  CHECK(models == 31);
}
