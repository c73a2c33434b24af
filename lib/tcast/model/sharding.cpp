#include "tcast/model/sharding.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/guard.h"

namespace tcast {
namespace {

/// Whether a module has parameters, all of which every rank holds whole.
bool is_whole(const Module& module) {
  const std::vector<Parameter>& parameters = module.parameters();
  return !parameters.empty() &&
         std::all_of(parameters.begin(), parameters.end(),
                     [](const Parameter& parameter) { return parameter.shard.dim < 0; });
}

}  // namespace

void ShardReport::cut(std::string what) {
  if (what.empty()) throw Error("shard() reports a cut without saying what was cut");
  TCAST_CHECK(!done_.empty(), "a module shards itself");
  std::string& done = done_.back();
  done = done.empty() ? std::move(what) : done + ", " + what;
}

/// Parameters below a module that neither it nor they cut: norms, compressed projections, routers.
/// `spread`: they belong to experts on other ranks, which are no copies.
void ShardReport::list_whole(const Module& module, bool spread) {
  for (const auto& child : module.children()) {
    if (child == nullptr || asked_.count(child.get()) > 0) continue;
    path_.push(*child);
    const bool elsewhere = spread || child->find_attribute("expert_parallel").has_value();
    if (!elsewhere && is_whole(*child)) kept_.push_back({path_.text(), "whole on every rank"});
    list_whole(*child, elsewhere);
    path_.pop();
  }
}

void shard_module(Module& module, const Layout& layout, ShardReport& report) {
  report.path_.push(module);
  report.asked_.insert(&module);
  report.done_.emplace_back();
  const std::size_t cuts = report.cuts_.size();
  const std::size_t kept = report.kept_.size();
  const std::string path = report.path();
  const std::string from = module.class_name();
  // What was cut before comes out as it went in.
  const std::unique_ptr<Module> before = report.again_ ? module.clone() : nullptr;
  module.guard([&] { return fmt::format("shard of {} ({})", from, path); },
               [&] { module.shard(layout, report); });
  std::string done = std::move(report.done_.back());
  report.done_.pop_back();
  // A module stands before those below it, which it may have asked.
  const auto first_kept = report.kept_.begin() + static_cast<std::ptrdiff_t>(kept);
  if (!done.empty()) {
    if (before != nullptr && same_structure(*before, module)) {
      report.kept_.insert(first_kept, {path, "it is sharded already"});
    } else {
      report.cuts_.insert(report.cuts_.begin() + static_cast<std::ptrdiff_t>(cuts),
                          {path, from, std::move(done), report.path_.count()});
    }
  } else if (report.lists_whole_ && is_whole(module)) {
    report.kept_.insert(first_kept, {path, "no rule cuts it: whole on every rank"});
  }
  if (report.lists_whole_) report.list_whole(module, false);
  report.path_.pop();
}

void refuse_layout(std::string message, std::string hint) {
  outside_of_plugins([&] { throw Error(std::move(message), std::move(hint)); });
  throw InternalError("an Error that was thrown did not leave");
}

}  // namespace tcast
