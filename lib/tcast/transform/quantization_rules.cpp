#include "tcast/transform/quantization_rules.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/decoder.h"
#include "tcast/transform/tree_facts.h"

namespace tcast {
namespace {

/// Words in names of the parts that a language model does not have.
constexpr std::string_view tower_words[] = {"vision", "visual", "image",     "audio", "video",
                                            "speech", "merger", "projector", "vit.",  "tower"};

/// Words in names of what only multi-token prediction has.
constexpr std::string_view mtp_words[] = {"mtp",   "nextn", "eh_proj",
                                          "enorm", "hnorm", "shared_head"};

/// How the names of a whole checkpoint with more towers begin where the language model's own begin
/// with `own`.
struct Tower {
  std::string_view whole;
  std::string_view own;
};
constexpr Tower inner_tower = {"model.language_model.", "model."};  // transformers from 4.52 on
constexpr Tower outer_tower = {"language_model.", ""};

/// The list that the user gave, not the checkpoint.
constexpr std::string_view user_source = "--quantize-ignore";

/// The list of what stays although nobody names it.
constexpr std::string_view default_source = "by default";

std::string without_escapes(const std::string& text) {
  std::string result;
  std::copy_if(text.begin(), text.end(), std::back_inserter(result),
               [](char c) { return c != '\\'; });
  return result;
}

/// The towers whose way of naming a checkpoint's patterns follow.
std::vector<Tower> towers_in(const QuantizationPlan& plan) {
  bool inner = false;
  bool outer = false;
  const auto look = [&](const ModulePatterns& patterns) {
    for (const std::string& pattern : patterns.texts) {
      const std::string text = without_escapes(pattern);
      const bool names_inner = text.find("model.language_model") != std::string::npos;
      inner = inner || names_inner;
      outer = outer || (!names_inner && text.find("language_model") != std::string::npos);
    }
  };
  for (const ModulePatterns& patterns : plan.ignore) {
    if (patterns.source != user_source) look(patterns);
  }
  for (const QuantizationGroup& group : plan.groups) {
    if (group.targets) look(*group.targets);
  }
  std::vector<Tower> towers;
  if (inner) towers.push_back(inner_tower);
  if (outer) towers.push_back(outer_tower);
  return towers;
}

/// The name of a path in the whole checkpoint.
std::string name_in(const Tower& tower, const std::string& path) {
  if (path.substr(0, tower.own.size()) != tower.own) return path;
  return std::string(tower.whole) + path.substr(tower.own.size());
}

/// What a checkpoint's patterns are held against: the path that a module has in the whole
/// checkpoint, where they name a tower, and the name that a hook gives it.
ModuleFilter::Names names_of(const TransformerModel& model, std::vector<Tower> towers) {
  std::shared_ptr<ModelNames> hook = model.names();
  if (hook == nullptr && towers.empty()) return {};
  return [hook = std::move(hook), towers = std::move(towers)](const std::string& path) {
    std::vector<std::string> names;
    for (const Tower& tower : towers) names.push_back(name_in(tower, path));
    if (towers.empty()) names.push_back(path);
    if (hook != nullptr) names.push_back(hook->parameter_name(path));
    return names;
  };
}

/// The number behind "layers." in a pattern; -1: none.
std::int64_t layer_in(const std::string& pattern) {
  constexpr std::string_view word = "layers.";
  const std::string text = without_escapes(pattern);
  const std::size_t at = text.find(word);
  if (at == std::string::npos) return -1;
  std::int64_t layer = -1;
  const char* const begin = text.data() + at + word.size();
  const auto [end, status] = std::from_chars(begin, text.data() + text.size(), layer);
  return status == std::errc() && end != begin ? layer : -1;
}

/// The names of the tree's heads: "lm_head", "score" of a classifier.
std::vector<std::string> heads_in(const Module& root) {
  std::vector<std::string> names;
  walk(root, [&names](const Module& module, const ModulePath&) {
    const auto* const lm = dynamic_cast<const CausalLm*>(&module);
    if (lm != nullptr && !lm->config().head.name.empty()) names.push_back(lm->config().head.name);
  });
  return names;
}

std::string list_of(const std::vector<std::string>& patterns) {
  constexpr std::size_t most = 5;
  std::vector<std::string> shown;
  for (std::size_t i = 0; i < std::min(most, patterns.size()); ++i) {
    shown.push_back("'" + printable(patterns[i]) + "'");
  }
  std::string text = join(shown, ", ");
  if (patterns.size() > most) text += fmt::format(" and {} more", patterns.size() - most);
  return text;
}

}  // namespace

QuantizationRules::QuantizationRules(const TransformerModel& model, Module& root,
                                     QuantizationPlan plan)
    : plan_(std::move(plan)) {
  for (ModulePatterns& list : plan_.ignore) {
    if (list.source != default_source) continue;
    for (std::string& name : heads_in(root)) {
      if (std::find(list.texts.begin(), list.texts.end(), name) == list.texts.end()) {
        list.texts.push_back(std::move(name));
      }
    }
  }
  // The user's own ones first, so that a mistake in them is reported as theirs.
  const ModuleFilter own(model.options().quantize_ignore, std::string(user_source));
  const ModuleFilter::Names by_checkpoint = names_of(model, towers_in(plan_));
  const ModuleFilter::Names by_user = names_of(model, {});
  for (const ModulePatterns& list : plan_.ignore) {
    const bool user = list.source == user_source;
    ignored_.push_back(
        {ModuleFilter(list.texts, list.where(), list.style, user ? by_user : by_checkpoint),
         list.source});
  }
  for (const QuantizationGroup& group : plan_.groups) {
    targets_.push_back(group.targets ? ModuleFilter(group.targets->texts, group.targets->where(),
                                                    group.targets->style, by_checkpoint)
                                     : ModuleFilter());
  }
  for (const Ignored& list : ignored_) list.filter.split_lists(root);
  for (const ModuleFilter& filter : targets_) filter.split_lists(root);
  routers_ = routers_of(root, model.profile().moe_field_names);
  walk(root, [this](const Module& module, const ModulePath&) {
    if (dynamic_cast<const LayerList*>(&module) != nullptr) layers_ = module.list_size();
  });
  const std::int64_t configured = model.config().get_or<std::int64_t>("num_hidden_layers", 0);
  const auto extra = model.config().get_or<std::int64_t>("num_nextn_predict_layers", 0);
  cut_off_ = layers_ < configured;
  unbuilt_ = std::max<std::int64_t>(0, configured + extra - layers_);
}

std::optional<ModuleFilter::Match> QuantizationRules::group_match(
    std::size_t group, const std::string& path, std::string_view class_name) const {
  if (!plan_.groups[group].targets) return ModuleFilter::Match{};
  return targets_[group].match(path, class_name);
}

QuantizationRules::Verdict QuantizationRules::decide(const Module& module, const ModulePath& path,
                                                     const Parameter& weight) const {
  if (!weight.unquantized_because.empty()) return {nullptr, weight.unquantized_because};
  if (routers_.count(&module) > 0) return {nullptr, "a router stays in high precision"};
  const std::string name = first_member(path);
  for (const Ignored& list : ignored_) {
    if (const auto match = list.filter.match(name, module.hf_class_name())) {
      return {nullptr,
              fmt::format("excluded by '{}' ({})", printable(match->pattern), list.source)};
    }
  }
  // compressed-tensors: the most specific target counts, of equal ones the first by name, and of
  // the same one in two groups the later.
  std::optional<std::size_t> best;
  ModuleFilter::Match of_best;
  for (std::size_t i = 0; i < plan_.groups.size(); ++i) {
    auto match = group_match(i, name, module.hf_class_name());
    // Experts that are stored together are linears to whoever wrote the targets.
    const bool stored_together = dynamic_cast<const Linear*>(&module) == nullptr;
    if (!match && stored_together) match = group_match(i, name, "Linear");
    if (!match) continue;
    const bool better =
        !best || std::tie(match->kind, match->pattern) <= std::tie(of_best.kind, of_best.pattern);
    if (!better) continue;
    best = i;
    of_best = *match;
  }
  if (!best) {
    return {nullptr, plan_.groups.empty() ? "nothing is quantized" : "no group's targets name it"};
  }
  const std::optional<LinearQuantization>& linear = plan_.groups[*best].linear;
  if (!linear) return {nullptr, plan_.groups[*best].name + " leaves it as it is"};
  return {&*linear, {}};
}

bool QuantizationRules::is_left_out(const std::string& pattern) const {
  const std::string text = without_escapes(pattern);
  for (const std::string_view word : tower_words) {
    if (text.find(word) != std::string::npos) return true;
  }
  // Layers that --num-hidden-layers cut off, and those that predict more tokens.
  if (unbuilt_ == 0) return false;
  for (const std::string_view word : mtp_words) {
    if (text.find(word) != std::string::npos) return true;
  }
  const std::int64_t layer = layer_in(pattern);
  if (layer >= 0) return layer >= layers_ && layer < layers_ + unbuilt_;
  return cut_off_ && text.find("layers") != std::string::npos;
}

std::vector<std::string> QuantizationRules::without_products(const ModulePatterns& patterns,
                                                             const ModuleFilter::Names& names,
                                                             const Module& root) {
  std::vector<std::string> idle;
  for (const std::string& pattern : patterns.texts) {
    const ModuleFilter one({pattern}, patterns.source, patterns.style, names);
    bool matched = false;
    walk(root, [&](const Module& module, const ModulePath& path) {
      if (matched || !holds_products(module)) return;
      const std::string name = first_member(path);
      matched = one.match(name, module.hf_class_name()) || one.match(name, "Linear");
    });
    if (!matched) idle.push_back(pattern);
  }
  return idle;
}

std::vector<std::string> QuantizationRules::complaints(const Module& root) const {
  std::vector<std::string> found;
  const auto complain = [&](std::vector<std::string> idle, const std::string& source,
                            const char* what, const char* missed) {
    std::erase_if(idle, [this](const std::string& pattern) { return is_left_out(pattern); });
    if (idle.empty()) return;
    found.push_back(fmt::format("{}: {} of its {} name{} {} in this model: {}", source, idle.size(),
                                what, idle.size() == 1 ? "s" : "", missed, list_of(idle)));
  };
  for (const Ignored& list : ignored_) {
    // What an option names is checked by itself; a default may well name nothing.
    if (list.source == user_source || list.source == default_source) continue;
    complain(list.filter.unmatched(root), list.source, "ignore patterns", "nothing");
  }
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    const std::optional<ModulePatterns>& targets = plan_.groups[i].targets;
    if (!targets) continue;
    complain(without_products(*targets, targets_[i].names(), root), targets->source, "targets",
             "no linear");
  }
  return found;
}

std::string QuantizationRules::idle_option(const Module& root) const {
  for (std::size_t i = 0; i < ignored_.size(); ++i) {
    if (ignored_[i].source != user_source) continue;
    const std::vector<std::string> idle =
        without_products(plan_.ignore[i], ignored_[i].filter.names(), root);
    if (!idle.empty()) return idle.front();
  }
  return "";
}

}  // namespace tcast
