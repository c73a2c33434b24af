#include "tcast/transform/coverage.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/model/decoder.h"
#include "tcast/model/moe.h"
#include "tcast/transform/quantization_rules.h"
#include "tcast/transform/tree_facts.h"

namespace tcast {
namespace {

void add(Coverage::Part& sum, const Coverage::Part& part) {
  sum.modules = checked_add(sum.modules, part.modules, "modules");
  sum.bytes = checked_add(sum.bytes, part.bytes, "bytes of weights");
}

/// A parameter of all entries of a node, on all ranks together.
Coverage::Part part_of(const ModulePath& path, const Parameter& parameter) {
  const std::int64_t bytes = bytes_of(parameter.shape.elements(), parameter.dtype);
  return {path.text(), path.count(), checked_mul(bytes, path.count(), "bytes of weights")};
}

/// Whether a rank holds a part only of a stack, or of a list that the module is in: of some nodes
/// of such a list it may hold all entries.
bool is_spread(const ModulePath& path, const Parameter& parameter) {
  if (parameter.stack.ranks > 1) return true;
  const std::vector<const Module*>& chain = path.chain();
  for (std::size_t i = 1; i < chain.size(); ++i) {
    if (!chain[i]->members().in_list()) continue;
    std::int64_t held = 0;
    for (const auto& entry : chain[i - 1]->children()) held += entry->members().local_count;
    if (held < chain[i - 1]->list_size()) return true;
  }
  return false;
}

/// A copy of the tree in which lists can be cut, also those that are spread over ranks.
std::unique_ptr<Module> whole_copy(const Module& root) {
  std::unique_ptr<Module> copy = root.clone();
  walk(*copy,
       [](Module& module, const ModulePath&) { module.set_local_count(module.members().count); });
  return copy;
}

// --- quantization --------------------------------------------------------------------------------

/// Weights by what the plan wants of them and how they are stored.
Coverage cover_linears(const QuantizationRules& rules, const Module& root) {
  const QuantizationPlan& plan = rules.plan();
  Coverage coverage{
      plan.linear_source, "quantize_model", plan.linear_by_option,
      "quantize them in a step of your own, leave them out with --quantize-ignore, or "
      "let their class say why they stay (unquantized_because)"};
  walk(root, [&](const Module& module, const ModulePath& path) {
    for (const Parameter& parameter : module.parameters()) {
      if (!is_weight_matrix(parameter)) continue;
      Coverage::Part part = part_of(path, parameter);
      QuantizationRules::Verdict verdict = rules.decide(module, path, parameter);
      if (verdict.linear == nullptr) {
        part.reason = std::move(verdict.reason);
        coverage.exempt.push_back(std::move(part));
      } else if (parameter.dtype == verdict.linear->weight) {
        add(coverage.done, part);
      } else {
        coverage.left.push_back(std::move(part));
      }
    }
  });
  return coverage;
}

/// The caches that one pass of the model reads and writes.
Coverage cover_caches(const TransformerModel& model, const QuantizationPlan& plan) {
  Coverage coverage{(plan.kv_by_option ? "" : "the KV cache of ") + plan.kv_source,
                    "quantize_model", plan.kv_by_option};
  coverage.bytes_per = " per token";
  Graph graph;
  model.trace({Phase::prefill, 1, 1, 0}, graph);
  const std::vector<std::int64_t> calls = graph.calls_per_region();
  for (std::uint32_t r = 0; r < graph.region_count; ++r) {
    const Region& region = graph.regions[r];
    std::vector<bool> seen(region.caches.size());
    for (const Op& op : region.ops) {
      for (const TensorId id : op.inputs) {
        const Tensor& tensor = region.tensors[id];
        if (tensor.kind != TensorKind::cache) continue;
        const auto index = static_cast<std::size_t>(tensor.index);
        if (seen.at(index)) continue;
        seen[index] = true;
        const CacheSpec& cache = region.caches[index];
        const std::int64_t bytes = bytes_of(cache.elements_per_token, cache.dtype);
        Coverage::Part part{path_of(region, op.scope), calls[r],
                            checked_mul(bytes, calls[r], "bytes of caches")};
        if (cache.dtype == plan.kv_cache) {
          add(coverage.done, part);
        } else {
          coverage.left.push_back(std::move(part));
        }
      }
    }
  }
  return coverage;
}

/// --quantize-ignore: it must have something to keep from being quantized.
Coverage cover_ignore(const TransformerModel& model, const QuantizationRules& rules,
                      const Module& root) {
  Coverage coverage{
      fmt::format("--quantize-ignore '{}'", printable(join(model.options().quantize_ignore, ", "))),
      "quantize_model"};
  if (!rules.plan().quantizes_linears()) return coverage;
  const std::string idle = rules.idle_option(root);
  if (!idle.empty()) {
    throw Error(
        fmt::format("--quantize-ignore '{}' matches no linear of the model", printable(idle)),
        "'tcast inspect' shows the names of the modules");
  }
  coverage.done.modules = 1;
  return coverage;
}

// --- parallelism ---------------------------------------------------------------------------------

/// Matrices and embeddings must be cut, or say why they are whole.
Coverage cover_tensor_parallel(const TransformerModel& model) {
  const std::int64_t tp = model.layout().size(ParallelAxis::tp);
  Coverage coverage{fmt::format("--tp {}", tp), "shard_model", true,
                    "their classes must cut them, or say why they stay whole (whole_because)"};
  const std::set<const Module*> routers = routers_of(model.root(), model.profile().moe_field_names);
  walk(model.root(), [&](const Module& module, const ModulePath& path) {
    for (const Parameter& parameter : module.parameters()) {
      const bool table = parameter.role == InitRole::embedding && parameter.tied_to.empty();
      if (!is_weight_matrix(parameter) && !table) continue;
      Coverage::Part part = part_of(path, parameter);
      if (parameter.shard.ranks > 1 || is_spread(path, parameter)) {
        add(coverage.done, part);
      } else if (routers.count(&module) > 0) {
        part.reason = "every rank routes its tokens among all experts";
        coverage.exempt.push_back(std::move(part));
      } else if (!parameter.whole_because.empty()) {
        part.reason = parameter.whole_because;
        coverage.exempt.push_back(std::move(part));
      } else {
        coverage.left.push_back(std::move(part));
      }
    }
  });
  return coverage;
}

/// Routed experts must be spread.
Coverage cover_expert_parallel(const TransformerModel& model) {
  Coverage coverage{fmt::format("--ep {}", model.layout().size(ParallelAxis::ep)), "shard_model"};
  const MoeFieldNames& names = model.profile().moe_field_names;
  walk(model.root(), [&](const Module& module, const ModulePath& path) {
    for (const Parameter& parameter : module.parameters()) {
      if (!is_weight_matrix(parameter) || !is_routed_expert(path, names)) continue;
      Coverage::Part part = part_of(path, parameter);
      if (is_spread(path, parameter)) {
        add(coverage.done, part);
      } else {
        coverage.left.push_back(std::move(part));
      }
    }
  });
  return coverage;
}

Coverage cover_replicas(const TransformerModel& model) {
  const Layout& layout = model.layout();
  Coverage coverage{fmt::format("--num-devices {}", layout.devices()), "shard_model"};
  if (model.replicas() == layout.size(ParallelAxis::dp)) coverage.done.modules = 1;
  return coverage;
}

// --- what steps add ------------------------------------------------------------------------------

Coverage cover_skew(const TransformerModel& model) {
  const double skew = model.options().expert_skew;
  Coverage coverage{fmt::format("--expert-skew {}", skew), "patch_moe"};
  walk(model.root(), [&](const Module& module, const ModulePath& path) {
    if (!chooses_experts(module, model.profile().moe_field_names)) return;
    const auto* fused = dynamic_cast<const FusedMoe*>(&module);
    Coverage::Part part{path.text(), path.count(), 0};
    if (fused != nullptr && fused->config().skew == skew) {
      add(coverage.done, part);
    } else {
      coverage.left.push_back(std::move(part));
    }
  });
  return coverage;
}

Coverage cover_mtp(const TransformerModel& model) {
  const std::int64_t tokens = model.options().num_mtp_tokens;
  Coverage coverage{fmt::format("--num-mtp-tokens {}", tokens), "maybe_enable_mtp"};
  const auto* wrapper = dynamic_cast<const LanguageModelWrapper*>(&model.root());
  if (wrapper == nullptr || wrapper->mtp_tokens() != tokens) return coverage;
  walk(model.root(), [&](const Module& module, const ModulePath& path) {
    if (dynamic_cast<const MtpLayer*>(&module) != nullptr) coverage.done.modules += path.count();
  });
  return coverage;
}

// --- words ---------------------------------------------------------------------------------------

/// What is left, by path: a module may have several parameters.
struct Leftover {
  std::int64_t modules = 0;
  std::int64_t bytes = 0;
  std::vector<std::string> paths;
};

Leftover leftover_of(const Coverage& coverage) {
  Leftover all;
  std::map<std::string, std::int64_t> modules;
  for (const Coverage::Part& part : coverage.left) {
    if (modules.emplace(part.path, part.modules).second) {
      all.paths.push_back(part.path);
      all.modules += part.modules;
    }
    all.bytes = checked_add(all.bytes, part.bytes, "bytes of weights");
  }
  return all;
}

/// "24 modules (38.4 GiB)"
std::string amount_of(const Leftover& left, std::string_view per) {
  std::string text =
      fmt::format("{} module{}", format_grouped(left.modules), left.modules == 1 ? "" : "s");
  if (left.bytes > 0) {
    text += fmt::format(" ({}{})", format_bytes(static_cast<double>(left.bytes)), per);
  }
  return text;
}

std::string some_of(const std::vector<std::string>& paths) {
  constexpr std::ptrdiff_t most = 3;
  const std::ptrdiff_t shown = std::min(most, std::ssize(paths));
  std::string text = join({paths.data(), static_cast<std::size_t>(shown)}, ", ");
  if (shown < std::ssize(paths)) text += fmt::format(" and {} more", std::ssize(paths) - shown);
  return text;
}

/// Why a step did less than it was asked for, by its own report: what it says of a module that is
/// left, else of no module in particular; empty: nothing.
std::string reason_of(const Coverage& coverage, const TransformerModel& model,
                      const Leftover& left) {
  std::string of_step;
  bool ran = false;
  for (const StepReport& report : model.reports()) {
    const bool same = report.step == coverage.step ||
                      (report.step == "quantize_linear" && coverage.step == "quantize_model");
    if (!same) continue;
    ran = true;
    for (const StepReport::Skip& skip : report.skipped) {
      if (!skip.missed) continue;
      std::string text = fmt::format("step '{}': {}", report.step, skip.reason);
      if (skip.path.empty() && of_step.empty()) of_step = text;
      const bool about_left =
          std::find(left.paths.begin(), left.paths.end(), skip.path) != left.paths.end();
      if (about_left) return text;
    }
  }
  if (!of_step.empty()) return of_step;
  return ran ? "" : fmt::format("step '{}' did not run", coverage.step);
}

}  // namespace

CoverageReport coverage_of(const TransformerModel& model) {
  const ModelOptions& options = model.options();
  const ParallelOptions& parallel = options.parallel;
  CoverageReport report;
  std::vector<Coverage>& all = report.requests;
  if (options.num_mtp_tokens > 0) all.push_back(cover_mtp(model));
  if (parallel.tp > 1) all.push_back(cover_tensor_parallel(model));
  if (parallel.ep > 1) all.push_back(cover_expert_parallel(model));
  if (parallel.dp() > 1) all.push_back(cover_replicas(model));
  if (options.expert_skew > 0) all.push_back(cover_skew(model));
  const QuantizationPlan plan = plan_quantization(model.config(), options);
  report.assumptions = plan.assumptions;
  report.warnings = plan.warnings;
  if (plan.quantizes_linears() || !options.quantize_ignore.empty()) {
    const std::unique_ptr<Module> copy = whole_copy(model.root());
    const QuantizationRules rules(model, *copy, plan);
    if (plan.quantizes_linears()) {
      all.push_back(cover_linears(rules, *copy));
      std::vector<std::string> complaints = rules.complaints(*copy);
      std::move(complaints.begin(), complaints.end(), std::back_inserter(report.warnings));
    }
    if (!options.quantize_ignore.empty()) all.push_back(cover_ignore(model, rules, *copy));
  }
  if (plan.kv_cache) all.push_back(cover_caches(model, plan));
  return report;
}

Shortfall shortfall_of(const Coverage& coverage, const TransformerModel& model,
                       const std::string& who) {
  const Leftover left = leftover_of(coverage);
  Shortfall shortfall;
  shortfall.message =
      coverage.by_option
          ? fmt::format("{} was asked for, but {} did not carry it out", coverage.request, who)
          : fmt::format("{} did not carry {} out", who, coverage.request);
  if (!left.paths.empty()) {
    shortfall.message +=
        fmt::format("{}: {} stay as they were ({})", coverage.done.modules > 0 ? " everywhere" : "",
                    amount_of(left, coverage.bytes_per), some_of(left.paths));
  }
  shortfall.hint = reason_of(coverage, model, left);
  if (left.paths.empty() && !coverage.exempt.empty()) {
    const Coverage::Part& first = coverage.exempt.front();
    shortfall.hint = fmt::format("everything is exempt: {}: {}", first.path, first.reason);
  }
  if (shortfall.hint.empty()) shortfall.hint = coverage.remedy;
  return shortfall;
}

void check_coverage(TransformerModel& model, const std::string& who) {
  CoverageReport report = coverage_of(model);
  std::vector<std::string> undone;
  std::string hint;
  for (const Coverage& coverage : report.requests) {
    if (coverage.is_complete()) continue;
    Shortfall shortfall = shortfall_of(coverage, model, who);
    if (coverage.by_option) {
      undone.push_back(std::move(shortfall.message));
      if (hint.empty()) hint = std::move(shortfall.hint);
      continue;
    }
    report.warnings.push_back(shortfall.message + "; " + shortfall.hint);
  }
  if (!undone.empty()) throw Error(join(undone, "; "), hint);
  for (std::string& assumption : report.assumptions) model.add_assumption(std::move(assumption));
  for (std::string& warning : report.warnings) model.add_warning(std::move(warning));
}

}  // namespace tcast
