#include "tcast/model/parameter_paths.h"

#include <algorithm>
#include <vector>

#include "tcast/base/error.h"

namespace tcast {

ParameterPaths::ParameterPaths(const Module& root) {
  walk(root, [this](const Module& module, const ModulePath& path) {
    for (const Parameter& parameter : module.parameters()) paths_.emplace(&parameter, path);
  });
}

std::string ParameterPaths::operator()(const Parameter& parameter, std::int64_t layer,
                                       std::int64_t member) const {
  const auto found = paths_.find(&parameter);
  TCAST_CHECK(found != paths_.end(), "a parameter of this tree");
  const ModulePath& path = found->second;
  // Lists on the way, outermost first: the layers, then what is inside one.
  std::vector<std::int64_t> indices;
  if (layer >= 0) indices.push_back(layer);
  if (member >= 0) indices.push_back(member);
  const auto lists = static_cast<std::size_t>(
      std::count_if(path.chain().begin(), path.chain().end(),
                    [](const Module* module) { return module->members().in_list(); }));
  TCAST_CHECK(indices.size() >= lists, "every list on the way to a parameter has an index");
  const std::string prefix = path.member(indices);
  return prefix.empty() ? parameter.name : prefix + "." + parameter.name;
}

}  // namespace tcast
