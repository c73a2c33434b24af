#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/model/attention.h"
#include "tcast/model/layers.h"
#include "tcast/model/moe.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/scale_blocks.h"
#include "tcast/transform/steps.h"

// Devices are numbered with the tensor-parallel rank fastest. Expert parallelism takes
// g = gcd(ep, tp) parts of each tensor-parallel group and all ranks of a part cut each expert
// together (the order of Megatron-LM: expert-tensor parallel fastest, then expert parallel). So the
// ranks of an expert-parallel group are tp / g devices apart, across tensor-parallel groups too:
// with tp 4 and ep 6 they are devices 0, 2 of the first group, 4, 6 of the second, 8, 10 of the
// third. What is left of the data-parallel replicas holds copies of the experts.

namespace tcast {
namespace {

struct Layout {
  RankGroup tensor;
  ExpertParallel experts;
};

void check(const ParallelOptions& parallel) {
  for (const auto& [name, value] :
       {std::pair{"--tp", parallel.tp}, std::pair{"--ep", parallel.ep}}) {
    if (value < 1)
      throw Error(fmt::format("{}: expected a whole number >= 1, got {}", name, value));
  }
  if (parallel.devices() % parallel.tp != 0) {
    throw Error(fmt::format("--num-devices {} cannot be divided into groups of --tp {}",
                            parallel.devices(), parallel.tp),
                fmt::format("choose a number of devices that is a multiple of {}", parallel.tp));
  }
  if (parallel.devices() % parallel.ep != 0) {
    throw Error(fmt::format("--ep {} does not divide tp x dp = {} x {} = {}", parallel.ep,
                            parallel.tp, parallel.dp(), parallel.devices()),
                parallel.ep > parallel.devices()
                    ? fmt::format("--num-devices {} gives the experts enough devices", parallel.ep)
                    : fmt::format("choose --ep so that it divides {}", parallel.devices()));
  }
}

Layout layout_of(const ParallelOptions& parallel) {
  // ep divides tp * dp, and ep / g has no factor in common with tp / g: so ep / g divides dp.
  const std::int64_t parts = std::gcd(parallel.ep, parallel.tp);
  const std::int64_t part_size = parallel.tp / parts;
  Layout layout;
  layout.tensor = {parallel.tp, 1};
  layout.experts.tensor_group = {part_size, 1};
  layout.experts.token_slices = {parts, part_size};
  layout.experts.expert_group = {parallel.ep, part_size};
  layout.experts.replicas = parallel.dp();
  return layout;
}

class Sharder {
 public:
  Sharder(TransformerModel& model, StepReport& report, const Layout& layout)
      : model_(model), report_(report), layout_(layout), again_(model.is_sharded()) {}

  /// Returns whether there were experts to spread.
  bool run() {
    ModulePath path;
    visit(model_.root(), path);
    return spread_experts_;
  }

 private:
  bool tensor_parallel() const { return layout_.tensor.size > 1; }

  void visit(Module& module, ModulePath& path) {
    path.push(module);
    const std::string from = module.class_name();
    bool covered = true;
    std::string done;  // what a rule did
    // What was cut before comes out of the rules as it went in.
    const std::unique_ptr<Module> before = again_ ? module.clone() : nullptr;
    if (auto* attention = dynamic_cast<AttentionModule*>(&module)) {
      if (tensor_parallel()) {
        attention->shard_heads(layout_.tensor, path.text());
        done = fmt::format("heads over tp {}", layout_.tensor.size);
      }
    } else if (auto* moe = dynamic_cast<FusedMoe*>(&module)) {
      moe->shard(layout_.experts, layout_.tensor, path.text());
      spread_experts_ = true;
      const std::string parallel = module.string_attribute("parallel").value_or("");
      if (!parallel.empty()) done = "experts over " + parallel;
    } else if (auto* mlp = dynamic_cast<Mlp*>(&module)) {
      if (tensor_parallel()) {
        mlp->shard(layout_.tensor, true, path.text());
        done = fmt::format("width over tp {}", layout_.tensor.size);
      }
    } else if (auto* embedding = dynamic_cast<Embedding*>(&module)) {
      if (tensor_parallel()) {
        embedding->shard_rows(layout_.tensor);
        done = module.class_name();
      }
    } else if (auto* linear = dynamic_cast<Linear*>(&module);
               linear != nullptr && module.name() == "lm_head") {
      if (tensor_parallel()) {
        linear->shard_columns(layout_.tensor, {}, true);
        done = module.class_name();
      }
    } else {
      covered = false;
      if (tensor_parallel() && !module.parameters().empty()) {
        report_.skipped.push_back({path.text(), "no rule cuts it: whole on every rank"});
      }
    }
    if (before != nullptr && !done.empty() && same_structure(*before, module)) {
      report_.skipped.push_back({path.text(), "it is sharded already"});
    } else if (!done.empty()) {
      report_.changed.push_back({path.text(), from, std::move(done)});
      report_.changed_modules += path.count();
    }
    if (covered) {
      list_whole_parts(module, path);
    } else {
      for (const auto& child : module.children()) visit(*child, path);
    }
    path.pop();
  }

  /// Parameters below a sharded block that its rules keep whole (norms, compressed projections,
  /// routers).
  void list_whole_parts(const Module& block, const ModulePath& path) {
    if (!tensor_parallel()) return;
    const std::string prefix = path.text();
    walk(block, [&](const Module& module, const ModulePath& below) {
      if (module.parameters().empty() || below.chain().size() < 2) return;
      for (const Parameter& parameter : module.parameters()) {
        if (parameter.shard.dim >= 0) return;
      }
      // Experts on other ranks are not copies.
      for (const Module* on_way : below.chain()) {
        if (on_way->find_attribute("expert_parallel")) return;
      }
      std::string inner = below.text();
      const std::size_t dot = inner.find('.');
      inner = dot == std::string::npos ? inner : inner.substr(dot + 1);
      report_.skipped.push_back({prefix + "." + inner, "whole on every rank"});
    });
  }

  TransformerModel& model_;
  StepReport& report_;
  const Layout& layout_;
  bool again_;  // somebody has sharded the model before
  bool spread_experts_ = false;
};

}  // namespace

TransformerModel& shard_model(TransformerModel& model) {
  return run_step(model, "shard_model", [](TransformerModel& m, StepReport& report) {
    const ParallelOptions& parallel = m.options().parallel;
    check(parallel);
    m.set_replicas(parallel.dp());
    if (parallel.tp == 1 && parallel.ep == 1) {
      report.skipped.push_back({"", "one rank holds the whole model (--tp 1 --ep 1)"});
      return;
    }
    const Layout layout = layout_of(parallel);
    const bool spread_experts = Sharder(m, report, layout).run();
    refuse_cut_blocks(m);
    if (parallel.ep == 1 || spread_experts) return;
    report.skipped.push_back({"", "the model has no routed experts that could be spread", true});
  });
}

}  // namespace tcast
