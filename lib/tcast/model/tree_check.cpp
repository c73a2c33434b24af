#include "tcast/model/tree_check.h"

#include <algorithm>
#include <exception>
#include <new>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/guard.h"
#include "tcast/base/text.h"
#include "tcast/graph/graph_check.h"

namespace tcast {
namespace {

/// Modules inside one another; no model comes near it, and walking deeper ones takes a deep stack.
constexpr std::size_t most_levels = 200;

const Parameter* find_parameter_at(const Module& root, std::string_view path) {
  const std::size_t dot = path.rfind('.');
  const Module* at = &root;
  if (dot != std::string_view::npos) {
    for (const std::string& piece : split(path.substr(0, dot), '.')) {
      if (at != nullptr) at = at->find_entry(piece);
    }
    path.remove_prefix(dot + 1);
  }
  return at == nullptr ? nullptr : at->find_parameter(path);
}

std::string fault_of_children(const Module& module) {
  const auto& children = module.children();
  std::int64_t next = 0;
  std::size_t listed = 0;
  for (std::size_t i = 0; i < children.size(); ++i) {
    if (children[i] == nullptr) return "a child is missing";
    const ListMembers& members = children[i]->members();
    if (members.in_list()) {
      ++listed;
      if (members.count < 1 || members.local_count < 0 || members.local_count > members.count) {
        return fmt::format("its entry '{}' stands for {} entries, {} of them on a rank",
                           children[i]->name(), members.count, members.local_count);
      }
      if (members.first != next) {
        return fmt::format("there is a gap before entry {}", members.first);
      }
      next += members.count;
      continue;
    }
    for (std::size_t k = 0; k < i; ++k) {
      if (children[k]->name() != children[i]->name()) continue;
      return fmt::format("it has two children '{}'", children[i]->name());
    }
  }
  if (listed != 0 && listed != children.size()) return "it is a list only in part";
  return {};
}

std::string fault_of_parameter(const Module& root, const Parameter& parameter) {
  const std::string& name = parameter.name;
  const auto is_empty = [&] {
    for (int i = 0; i < parameter.shape.rank(); ++i) {
      if (parameter.shape[i] <= 0) return true;
    }
    return false;
  };
  if (is_empty()) {
    return fmt::format("its parameter '{}' is empty: {}", name, to_string(parameter.shape));
  }
  static_cast<void>(parameter.shape.elements());
  for (const Shard& cut : {parameter.shard, parameter.stack}) {
    if (cut.dim < 0) continue;
    if (cut.dim >= parameter.shape.rank() || cut.ranks < 1) {
      return fmt::format("its {} {} is cut along dimension {} over {} ranks", name,
                         to_string(parameter.shape), cut.dim, cut.ranks);
    }
    std::int64_t size = 0;
    for (const ShardSegment& segment : cut.segments) {
      if (segment.parts < 1) return fmt::format("its {} is cut into no parts", name);
      size = checked_add(size, segment.size);
    }
    if (!cut.segments.empty() && size != parameter.shape[cut.dim]) {
      return fmt::format("its {} {} is cut in pieces of {} together", name,
                         to_string(parameter.shape), size);
    }
  }
  if (parameter.tied_to.empty()) return {};
  const Parameter* const other = find_parameter_at(root, parameter.tied_to);
  if (other == nullptr || other->shape == parameter.shape) return {};
  return fmt::format("its {} {} is tied to {} {}", name, to_string(parameter.shape),
                     parameter.tied_to, to_string(other->shape));
}

std::string fault_of(const Module& root, const Module& module) {
  // A fault() of somebody's own may throw, and a shape may have more elements than a number holds.
  try {
    std::string fault = fault_of_children(module);
    for (std::size_t i = 0; fault.empty() && i < module.parameters().size(); ++i) {
      fault = fault_of_parameter(root, module.parameters()[i]);
    }
    return fault.empty() ? module.fault() : fault;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  }
}

std::optional<TreeFault> find_below(const Module& root, const Module& module, ModulePath& path) {
  path.push(module);
  if (path.chain().size() > most_levels) {
    return TreeFault{path.text().substr(0, 200) + "...",
                     fmt::format("more than {} modules lie inside one another", most_levels)};
  }
  if (std::string fault = fault_of(root, module); !fault.empty()) {
    return TreeFault{path.text(), std::move(fault)};
  }
  for (const auto& child : module.children()) {
    if (auto fault = find_below(root, *child, path)) return fault;
  }
  path.pop();
  return std::nullopt;
}

}  // namespace

std::optional<TreeFault> find_fault(const Module& root) {
  ModulePath path;
  return find_below(root, root, path);
}

namespace {

/// Inside of a handler: what the exception says of the tree at `path`; nothing when it is about
/// something else.
std::optional<TreeFault> current_fault(const std::string& path) {
  const bool names_plugin = internal::is_settled();
  try {
    throw;
  } catch (const TooLarge&) {
    return std::nullopt;
  } catch (const Error& error) {
    return TreeFault{path, error.what(), error.hint(), names_plugin};
  } catch (const Interruption&) {
    return std::nullopt;
  } catch (const std::bad_alloc&) {
    return std::nullopt;
  } catch (const std::exception& error) {
    return TreeFault{path, error.what()};
  } catch (...) {
    return TreeFault{path, "its forward threw something that is no std::exception"};
  }
}

}  // namespace

std::optional<TreeFault> find_traced_fault(const TransformerModel& model) {
  // Sizes that no width of a model has, so that one is not taken for the other.
  const std::int64_t longest = model.longest_sequence();
  const Workload passes[] = {
      {Phase::prefill, 2, std::min<std::int64_t>(3, longest), 0},
      {Phase::decode, 2, 1, std::min<std::int64_t>(3, longest - 1)},
  };
  Graph graph;
  for (const Workload& pass : passes) {
    Trace trace(graph, pass);
    try {
      model.trace(trace);
    } catch (...) {
      if (std::optional<TreeFault> fault = current_fault(trace.failed_at())) return fault;
      throw;
    }
    if (const auto fault = find_fault(graph)) return TreeFault{fault->path, fault->text};
  }
  return std::nullopt;
}

void fail_as_built(const TransformerModel& model, const TreeFault& fault) {
  const std::string where = fault.path.empty() ? "the model" : printable(fault.path);
  throw Error(fault.names_plugin ? fmt::format("{} (as {} built it)", printable(fault.text, 1000),
                                               model.built_by())
                                 : fmt::format("{} built {} wrongly: {}", model.built_by(), where,
                                               printable(fault.text, 1000)),
              fault.hint.empty() ? "this is a mistake in the architecture's function" : fault.hint);
}

void require_traceable_as_built(const TransformerModel& model) {
  if (const std::optional<TreeFault> fault = find_traced_fault(model)) fail_as_built(model, *fault);
}

}  // namespace tcast
