#include "tcast/model/module.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/arguments.h"
#include "tcast/model/sharding.h"

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

std::string IdentityGap::text() const {
  if (type == nullptr) return {};
  return fmt::format(
      "class '{}' {}", type_name(*type),
      leaves_out ? "has data members that its config() leaves out" : "has no config() to compare");
}

Module::Module(std::string class_name)
    : class_name_(std::move(class_name)), hf_class_name_(class_name_) {}

Module::~Module() {
  std::vector<std::unique_ptr<Module>> below = std::move(children_);
  while (!below.empty()) {
    const std::unique_ptr<Module> module = std::move(below.back());
    below.pop_back();
    if (module == nullptr) continue;
    for (std::unique_ptr<Module>& child : module->children_) below.push_back(std::move(child));
    module->children_.clear();
  }
}

Module::Module(const Module& other)
    : name_(other.name_),
      class_name_(other.class_name_),
      hf_class_name_(other.hf_class_name_),
      members_(other.members_),
      parameters_(other.parameters_),
      stated_attributes_(other.stated_attributes_),
      maker_(other.maker_) {
  children_.reserve(other.children_.size());
  for (const auto& child : other.children_) {
    children_.push_back(child == nullptr ? nullptr : child->clone());
  }
}

Value Module::forward(Trace&, Value) const {
  throw Error(fmt::format("a {} has no forward of its own", printable(class_name_)));
}

Value Module::operator()(Trace& trace, Value input) const {
  const ScopeGuard scope(trace, name_, class_name_, members_.in_list());
  const auto what = [&] { return fmt::format("forward of {} ({})", class_name_, trace.path()); };
  try {
    return guard(what, [&] {
      const Value result = forward(trace, input);
      trace.require(result);
      return result;
    });
  } catch (...) {
    trace.note_failure();
    throw;
  }
}

void Module::shard(const Layout& layout, ShardReport& report) {
  for (const auto& child : children_) shard_module(*child, layout, report);
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
  stated_attributes_ = std::move(original.stated_attributes_);
}

// --- identity ------------------------------------------------------------------------------------

const std::type_info* const& Module::compared_class() const {
  static const std::type_info* const none = &typeid(Module);
  return none;
}

IdentityGap Module::identity_gap() const {
  // A class that derives from another module class in the plain way inherits what that one says.
  if (*compared_class() != typeid(*this)) return {&typeid(*this), false};
  return config_gap();
}

bool Module::same_config(const Module& other) const {
  if (&compared_class() != &other.compared_class() || typeid(*this) != typeid(other)) return false;
  return !identity_gap() && equal_config(other);
}

void internal::fail_copy(const std::type_info& type, const std::type_info& base) {
  throw Error(fmt::format("class '{}' cannot be copied: it would become a '{}'", type_name(type),
                          type_name(base)),
              "derive it from tcast::ModuleOf<Class, Base>");
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
    throw Error(fmt::format("{} '{}' has no child '{}'", printable(class_name_), printable(name_),
                            printable(name)),
                did_you_mean(name, child_names()));
  }
  return *found;
}

void Module::fail_child_class(std::string_view name, const std::type_info& expected) const {
  const Module& found = child(name);
  throw Error(fmt::format("child '{}' of {} '{}' is a {}, expected a {}", printable(name),
                          printable(class_name_), printable(name_), type_name(typeid(found)),
                          type_name(expected)));
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
      if (node.members_.local_count != node.members_.count) {
        throw Error(fmt::format("entries {} of list '{}' are spread over ranks already, and cannot "
                                "be told apart",
                                node.name_, name_),
                    "whatever treats some of them otherwise (a pattern of quantize_model) comes "
                    "before shard_model");
      }
      std::unique_ptr<Module> tail = node.clone();
      node.set_members(begin, cut - begin);
      tail->set_members(cut, end - cut);
      children_.insert(children_.begin() + static_cast<std::ptrdiff_t>(i) + 1, std::move(tail));
      break;
    }
  }
}

// --- attributes ----------------------------------------------------------------------------------

namespace {

const Attribute* find_in(const std::vector<Attribute>& list, std::string_view name) {
  for (const Attribute& attribute : list) {
    if (attribute.name == name) return &attribute;
  }
  return nullptr;
}

/// The attribute as a Type, or nothing when there is none.
template <class Type>
std::optional<Type> typed(const Module& module, std::string_view name, const char* expected) {
  const std::optional<AttributeValue> value = module.find_attribute(name);
  if (!value) return std::nullopt;
  if (const auto* const found = std::get_if<Type>(&*value)) return *found;
  throw Error(fmt::format("attribute '{}' of {} '{}' is {}, expected {}", printable(name),
                          printable(module.class_name()), printable(module.name()),
                          printable(to_string(*value)), expected));
}

}  // namespace

void Module::list_attributes(std::vector<Attribute>&) const {}

std::vector<Attribute> Module::attributes() const {
  std::vector<Attribute> list;
  list_attributes(list);
  const std::size_t own = list.size();
  for (const Attribute& stated : stated_attributes_) {
    // What a module took over from another one does not stand against what follows from its config.
    if (own == 0 || find_in(list, stated.name) == nullptr) list.push_back(stated);
  }
  return list;
}

void Module::set_attribute(const std::string& name, AttributeValue value) {
  std::vector<Attribute> own;
  list_attributes(own);
  if (find_in(own, name) != nullptr) {
    throw Error(fmt::format("attribute '{}' of {} follows from its config and cannot be stated",
                            printable(name), printable(class_name_)),
                "make the module with another config, or replace it");
  }
  for (Attribute& attribute : stated_attributes_) {
    if (attribute.name == name) {
      attribute.value = std::move(value);
      return;
    }
  }
  stated_attributes_.push_back({name, std::move(value)});
}

std::optional<AttributeValue> Module::find_attribute(std::string_view name) const {
  const std::vector<Attribute> list = attributes();
  const Attribute* const found = find_in(list, name);
  return found == nullptr ? std::nullopt : std::optional(found->value);
}

std::optional<std::int64_t> Module::int_attribute(std::string_view name) const {
  return typed<std::int64_t>(*this, name, "a whole number");
}

std::optional<double> Module::number_attribute(std::string_view name) const {
  const std::optional<AttributeValue> value = find_attribute(name);
  if (value && std::holds_alternative<std::int64_t>(*value)) {
    return static_cast<double>(std::get<std::int64_t>(*value));
  }
  return typed<double>(*this, name, "a number");
}

std::optional<bool> Module::bool_attribute(std::string_view name) const {
  return typed<bool>(*this, name, "true or false");
}

std::optional<std::string> Module::string_attribute(std::string_view name) const {
  return typed<std::string>(*this, name, "a text");
}

// --- comparison ----------------------------------------------------------------------------------

namespace {

bool same_place(const Module& a, const Module& b) {
  return a.name() == b.name() && a.members() == b.members();
}

}  // namespace

bool same_structure(const Module& a, const Module& b) {
  if (a.class_name_ != b.class_name_ || a.hf_class_name_ != b.hf_class_name_) return false;
  if (!a.same_config(b) || a.stated_attributes_ != b.stated_attributes_) return false;
  if (a.parameters_ != b.parameters_ || a.children_.size() != b.children_.size()) return false;
  for (std::size_t i = 0; i < a.children_.size(); ++i) {
    const Module& one = *a.children_[i];
    const Module& other = *b.children_[i];
    if (!same_place(one, other) || !same_structure(one, other)) return false;
  }
  return true;
}

IdentityGap first_identity_gap(const Module& tree) {
  IdentityGap gap = tree.identity_gap();
  for (std::size_t i = 0; !gap && i < tree.children().size(); ++i) {
    gap = first_identity_gap(*tree.children()[i]);
  }
  return gap;
}

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
