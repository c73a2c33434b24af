#include "tcast/transform/tree_facts.h"

#include <cstdint>
#include <optional>
#include <vector>

#include "tcast/model/fused_experts.h"

namespace tcast {

bool is_weight_matrix(const Parameter& parameter) {
  const bool matrix = parameter.role == InitRole::matrix || parameter.role == InitRole::query_key;
  return matrix && parameter.shape.rank() >= 2 && !parameter.is_quantization_part() &&
         !parameter.buffer && parameter.tied_to.empty();
}

const LinearQuantization* quantization_of(const Module& module) {
  const std::optional<LinearQuantization>* stored = nullptr;
  if (const auto* linear = dynamic_cast<const Linear*>(&module)) stored = &linear->quantization();
  if (const auto* experts = dynamic_cast<const GroupedFusedExperts*>(&module)) {
    stored = &experts->quantization();
  }
  return stored != nullptr && stored->has_value() ? &**stored : nullptr;
}

std::string first_member(const ModulePath& path) {
  std::vector<std::int64_t> indices;
  for (const Module* module : path.chain()) {
    if (module->members().in_list()) indices.push_back(module->members().first);
  }
  return path.member(indices);
}

bool chooses_experts(const Module& module, const MoeFieldNames& names) {
  return module.int_attribute(names.top_k).has_value() &&
         module.find_child(names.experts) != nullptr;
}

bool is_routed_expert(const ModulePath& path, const MoeFieldNames& names) {
  const std::vector<const Module*>& chain = path.chain();
  for (std::size_t i = 0; i + 1 < chain.size(); ++i) {
    if (chooses_experts(*chain[i], names) && chain[i]->find_child(names.experts) == chain[i + 1]) {
      return true;
    }
  }
  return false;
}

std::set<const Module*> routers_of(const Module& root, const MoeFieldNames& names) {
  std::set<const Module*> gates;
  walk(root, [&](const Module& module, const ModulePath&) {
    if (!chooses_experts(module, names)) return;
    for (const std::string& name : {names.gate, names.shared_experts_gate}) {
      if (const Module* gate = module.find_child(name)) gates.insert(gate);
    }
  });
  return gates;
}

}  // namespace tcast
