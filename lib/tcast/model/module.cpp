#include "tcast/model/module.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace internal {
namespace {

std::atomic<std::int64_t> live_modules = 0;

}  // namespace

LiveModule::LiveModule() {
  if (++live_modules <= max_live_modules) return;
  --live_modules;
  throw Error(fmt::format("the model has more than {} modules", format_grouped(max_live_modules)),
              "let neighbouring layers and experts be equal, or build fewer layers with "
              "--num-hidden-layers");
}

LiveModule::~LiveModule() { --live_modules; }

}  // namespace internal

std::string to_string(const AttributeValue& value) {
  struct Visitor {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(std::int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return fmt::format("{:g}", v); }
    std::string operator()(const std::string& v) const { return v; }
  };
  return std::visit(Visitor{}, value);
}

Module::Module(std::string class_name)
    : class_name_(std::move(class_name)), hf_class_name_(class_name_) {}

Module::Module(const Module& other)
    : name_(other.name_),
      class_name_(other.class_name_),
      hf_class_name_(other.hf_class_name_),
      members_(other.members_),
      parameters_(other.parameters_),
      attributes_(other.attributes_),
      maker_(other.maker_) {
  children_.reserve(other.children_.size());
  for (const auto& child : other.children_) children_.push_back(child->clone());
}

Value Module::forward(Trace&, Value) const {
  throw InternalError(fmt::format("a {} has no forward of its own", class_name_));
}

Value Module::operator()(Trace& trace, Value input) const {
  const ScopeGuard scope(trace, name_, class_name_, members_.in_list());
  const auto what = [&] { return fmt::format("forward of {} ({})", class_name_, trace.path()); };
  return guard(what, [&] {
    const Value result = forward(trace, input);
    trace.require(result);
    return result;
  });
}

void Module::set_members(std::int64_t first, std::int64_t count) {
  members_.first = first;
  members_.count = count;
  members_.local_count = count;
  name_ = count == 1 ? std::to_string(first) : fmt::format("[{}-{}]", first, first + count - 1);
}

void Module::take_over(Module& original) {
  name_ = std::move(original.name_);
  hf_class_name_ = std::move(original.hf_class_name_);
  members_ = original.members_;
  parameters_ = std::move(original.parameters_);
  children_ = std::move(original.children_);
  attributes_ = std::move(original.attributes_);
}

Parameter& Module::add_parameter(Parameter parameter) {
  parameters_.push_back(std::move(parameter));
  return parameters_.back();
}

const Parameter* Module::find_parameter(std::string_view name) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.name == name) return &parameter;
  }
  return nullptr;
}

Parameter* Module::find_parameter(std::string_view name) {
  return const_cast<Parameter*>(std::as_const(*this).find_parameter(name));
}

Module& Module::add_child(std::string name, std::unique_ptr<Module> child) {
  child->set_name(std::move(name));
  children_.push_back(std::move(child));
  return *children_.back();
}

const Module* Module::find_child(std::string_view name) const {
  for (const auto& child : children_) {
    if (child->name_ == name) return child.get();
  }
  return nullptr;
}

Module* Module::find_child(std::string_view name) {
  return const_cast<Module*>(std::as_const(*this).find_child(name));
}

const Module& Module::child(std::string_view name) const {
  const Module* found = find_child(name);
  if (found == nullptr) {
    throw InternalError(fmt::format("{} '{}' has no child '{}'", class_name_, name_, name));
  }
  return *found;
}

Module& Module::child(std::string_view name) {
  return const_cast<Module&>(std::as_const(*this).child(name));
}

std::unique_ptr<Module> Module::replace_child(std::size_t index,
                                              std::unique_ptr<Module> replacement) {
  std::swap(children_.at(index), replacement);
  return replacement;
}

std::vector<std::string> Module::child_names() const {
  std::vector<std::string> names;
  for (const auto& child : children_) names.push_back(child->name_);
  return names;
}

const Module* Module::find_entry(std::string_view piece) const {
  std::int64_t index = -1;
  const char* const end = piece.data() + piece.size();
  const auto [stop, failure] = std::from_chars(piece.data(), end, index);
  // As a path is written: "03" and "+3" name no entry.
  const bool is_index = failure == std::errc() && stop == end && std::to_string(index) == piece;
  for (const auto& child : children_) {
    const ListMembers& members = child->members_;
    if (child->name_ == piece) return child.get();
    if (is_index && members.in_list() && index >= members.first &&
        index < members.first + members.count) {
      return child.get();
    }
    if (!child->name_.empty()) continue;
    if (const Module* below = child->find_entry(piece)) return below;
  }
  return nullptr;
}

Module* Module::find_entry(std::string_view piece) {
  return const_cast<Module*>(std::as_const(*this).find_entry(piece));
}

Module& Module::append(std::unique_ptr<Module> member, std::int64_t count) {
  // Not the sum over all nodes: a list may have ten thousands of them.
  const ListMembers last = children_.empty() ? ListMembers{0, 0, 0} : children_.back()->members_;
  member->set_members(last.first + last.count, count);
  children_.push_back(std::move(member));
  return *children_.back();
}

std::int64_t Module::list_size() const {
  std::int64_t size = 0;
  for (const auto& child : children_) size += child->members_.count;
  return size;
}

void Module::split_list(std::int64_t first, std::int64_t count) {
  for (const std::int64_t cut : {first, first + count}) {
    for (std::size_t i = 0; i < children_.size(); ++i) {
      Module& node = *children_[i];
      const std::int64_t begin = node.members_.first;
      const std::int64_t end = begin + node.members_.count;
      if (cut <= begin || cut >= end) continue;
      TCAST_CHECK(node.members_.local_count == node.members_.count,
                  "a list is split before it is spread over ranks");
      std::unique_ptr<Module> tail = node.clone();
      node.set_members(begin, cut - begin);
      tail->set_members(cut, end - cut);
      children_.insert(children_.begin() + static_cast<std::ptrdiff_t>(i) + 1, std::move(tail));
      break;
    }
  }
}

void Module::set_attribute(std::string name, AttributeValue value) {
  for (Attribute& attribute : attributes_) {
    if (attribute.name == name) {
      attribute.value = std::move(value);
      return;
    }
  }
  attributes_.push_back({std::move(name), std::move(value)});
}

const AttributeValue* Module::find_attribute(std::string_view name) const {
  for (const Attribute& attribute : attributes_) {
    if (attribute.name == name) return &attribute.value;
  }
  return nullptr;
}

std::optional<std::int64_t> Module::int_attribute(std::string_view name) const {
  const AttributeValue* value = find_attribute(name);
  if (value == nullptr || !std::holds_alternative<std::int64_t>(*value)) return std::nullopt;
  return std::get<std::int64_t>(*value);
}

std::optional<double> Module::number_attribute(std::string_view name) const {
  const AttributeValue* value = find_attribute(name);
  if (value == nullptr) return std::nullopt;
  if (const auto* number = std::get_if<double>(value)) return *number;
  if (const auto* whole = std::get_if<std::int64_t>(value)) return static_cast<double>(*whole);
  return std::nullopt;
}

std::optional<bool> Module::bool_attribute(std::string_view name) const {
  const AttributeValue* value = find_attribute(name);
  if (value == nullptr || !std::holds_alternative<bool>(*value)) return std::nullopt;
  return std::get<bool>(*value);
}

std::optional<std::string> Module::string_attribute(std::string_view name) const {
  const AttributeValue* value = find_attribute(name);
  if (value == nullptr || !std::holds_alternative<std::string>(*value)) return std::nullopt;
  return std::get<std::string>(*value);
}

namespace {

bool same_shard(const Shard& a, const Shard& b) {
  if (a.dim != b.dim || a.ranks != b.ranks || a.segments.size() != b.segments.size()) return false;
  for (std::size_t i = 0; i < a.segments.size(); ++i) {
    if (a.segments[i].size != b.segments[i].size || a.segments[i].parts != b.segments[i].parts) {
      return false;
    }
  }
  return true;
}

bool same_parameter(const Parameter& a, const Parameter& b) {
  return a.name == b.name && a.shape == b.shape && a.dtype == b.dtype && a.role == b.role &&
         a.buffer == b.buffer && a.scale == b.scale && a.tied_to == b.tied_to &&
         a.transposed == b.transposed && same_shard(a.shard, b.shard) &&
         same_shard(a.stack, b.stack);
}

bool same_subtree(const Module& a, const Module& b, bool compare_name) {
  if (a.class_name() != b.class_name() || a.hf_class_name() != b.hf_class_name()) return false;
  if (compare_name &&
      (a.name() != b.name() || a.members().local_count != b.members().local_count)) {
    return false;
  }
  if (a.attributes() != b.attributes()) return false;
  if (a.parameters().size() != b.parameters().size()) return false;
  if (a.children().size() != b.children().size()) return false;
  for (std::size_t i = 0; i < a.parameters().size(); ++i) {
    if (!same_parameter(a.parameters()[i], b.parameters()[i])) return false;
  }
  for (std::size_t i = 0; i < a.children().size(); ++i) {
    if (!same_subtree(*a.children()[i], *b.children()[i], true)) return false;
  }
  return true;
}

}  // namespace

bool same_structure(const Module& a, const Module& b) { return same_subtree(a, b, false); }

std::string ModulePath::text() const {
  std::string text;
  for (const Module* module : chain_) {
    if (module->name().empty()) continue;
    if (!text.empty()) text += '.';
    text += module->name();
  }
  return text;
}

std::string ModulePath::member(const std::vector<std::int64_t>& indices) const {
  std::string text;
  std::size_t next = 0;
  for (const Module* module : chain_) {
    const bool in_list = module->members().in_list();
    if (!in_list && module->name().empty()) continue;
    if (!text.empty()) text += '.';
    if (in_list) {
      text += std::to_string(indices.at(next++));
    } else {
      text += module->name();
    }
  }
  return text;
}

std::int64_t ModulePath::count() const {
  std::int64_t product = 1;
  for (const Module* module : chain_) product = checked_mul(product, module->members().count);
  return product;
}

std::int64_t ModulePath::local_count() const {
  std::int64_t product = 1;
  for (const Module* module : chain_) product = checked_mul(product, module->members().local_count);
  return product;
}

}  // namespace tcast
