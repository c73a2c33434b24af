#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/guard.h"
#include "tcast/graph/tensor.h"
#include "tcast/graph/trace.h"

namespace tcast {

using AttributeValue = std::variant<bool, std::int64_t, double, std::string>;

/// A property of a module that others may ask for by name: num_heads, sliding_window, top_k.
struct Attribute {
  std::string name;
  AttributeValue value;

  bool operator==(const Attribute&) const = default;
};

/// "128", "0.0883883", "true", "softmax".
TCAST_API std::string to_string(const AttributeValue& value);

/// Which entries of a ModuleList a node stands for: equal neighbours are one node (decision D2).
struct ListMembers {
  std::int64_t first = -1;  ///< index of the first entry; -1: not in a list
  std::int64_t count = 1;
  /// How many of them one rank holds: fewer than `count` when experts are spread over ranks.
  std::int64_t local_count = 1;

  bool in_list() const { return first >= 0; }
};

/// Most modules that are alive at a time, in all trees of the process together; equal neighbours in
/// a list are one (decision D2). A module takes about 600 bytes. The largest published models, of
/// which every layer and every expert differs from all others, have some 90,000.
inline constexpr std::int64_t max_live_modules = 500'000;

namespace internal {

/// Counts the modules that are alive. Making one throws Error above max_live_modules.
class TCAST_API LiveModule {
 public:
  LiveModule();
  LiveModule(const LiveModule&) : LiveModule() {}
  LiveModule& operator=(const LiveModule&) = delete;
  ~LiveModule();
};

}  // namespace internal

/// A node of the model's tree: HuggingFace's names and classes, its own parameters, its children,
/// and a forward that traces what it computes. A step changes a model by replacing modules with
/// others that have the same parameters and another forward.
class TCAST_API Module {
 public:
  explicit Module(std::string class_name);
  virtual ~Module() = default;
  Module& operator=(const Module&) = delete;

  /// A deep copy.
  virtual std::unique_ptr<Module> clone() const = 0;

  /// Traces the module on `input` and returns its result. A container that is never called itself
  /// (ModuleList) keeps the default, which throws InternalError.
  virtual Value forward(Trace& trace, Value input) const;

  /// forward() with the ops attributed to this module. What a module of a plugin throws, and a
  /// result that the pass does not have, are an Error that names the plugin.
  Value operator()(Trace& trace, Value input) const;

  // --- identity ----------------------------------------------------------------------------------

  /// Name in the parent; for list members the first index, or a range like "[3-60]".
  const std::string& name() const { return name_; }
  /// Class of this module; a step that replaces a module changes it.
  const std::string& class_name() const { return class_name_; }
  /// Class that HuggingFace's implementation has here: what profiles and users name.
  const std::string& hf_class_name() const { return hf_class_name_; }
  const ListMembers& members() const { return members_; }

  void set_name(std::string name) { name_ = std::move(name); }
  void set_class_name(std::string class_name) { class_name_ = std::move(class_name); }
  /// Names a module built from a shared class as HuggingFace names it there.
  void set_hf_class_name(const std::string& class_name) {
    class_name_ = class_name;
    hf_class_name_ = class_name;
  }
  /// Makes this node stand for entries [first, first + count) of a list.
  void set_members(std::int64_t first, std::int64_t count);
  void set_local_count(std::int64_t local_count) { members_.local_count = local_count; }

  /// Moves name, HF class, members, parameters, children and attributes of `original` into this
  /// module, which is going to take its place.
  void take_over(Module& original);

  /// The plugin's callback that made this module or the one that it is a copy of; null: tcast did.
  const Registered* maker() const { return maker_; }

  /// Calls one of this module's own functions, guarded where a plugin made the module; `what` as in
  /// guarded().
  template <class What, class Call>
  decltype(auto) guard(const What& what, Call&& call) const {
    if (maker_ == nullptr) return std::forward<Call>(call)();
    return guarded(*maker_, what, std::forward<Call>(call));
  }

  // --- parameters --------------------------------------------------------------------------------

  const std::vector<Parameter>& parameters() const { return parameters_; }
  std::vector<Parameter>& parameters() { return parameters_; }
  Parameter& add_parameter(Parameter parameter);
  const Parameter* find_parameter(std::string_view name) const;
  Parameter* find_parameter(std::string_view name);

  // --- children ----------------------------------------------------------------------------------

  const std::vector<std::unique_ptr<Module>>& children() const { return children_; }
  Module& add_child(std::string name, std::unique_ptr<Module> child);
  const Module* find_child(std::string_view name) const;
  Module* find_child(std::string_view name);
  /// The child of that name. Throws InternalError when it is missing.
  const Module& child(std::string_view name) const;
  Module& child(std::string_view name);
  /// Puts `replacement` in the place of a child; returns what stood there.
  std::unique_ptr<Module> replace_child(std::size_t index, std::unique_ptr<Module> replacement);
  std::vector<std::string> child_names() const;
  /// The node below that a piece of a dotted path names, or null: a child by its name, or the one
  /// that stands for the list entry of that number. A child without a name (of a wrapper) is no
  /// piece of a path: it is looked through.
  const Module* find_entry(std::string_view piece) const;
  Module* find_entry(std::string_view piece);

  // --- lists -------------------------------------------------------------------------------------

  /// Appends a node for `count` equal entries to this list.
  Module& append(std::unique_ptr<Module> member, std::int64_t count);
  /// Entries of this list: the sum over its nodes.
  std::int64_t list_size() const;
  /// Makes sure that nodes of this list begin at entries `first` and `first + count`, copying the
  /// nodes that have to be cut.
  void split_list(std::int64_t first, std::int64_t count);

  // --- attributes --------------------------------------------------------------------------------

  const std::vector<Attribute>& attributes() const { return attributes_; }
  void set_attribute(std::string name, AttributeValue value);
  const AttributeValue* find_attribute(std::string_view name) const;
  std::optional<std::int64_t> int_attribute(std::string_view name) const;
  std::optional<double> number_attribute(std::string_view name) const;
  std::optional<bool> bool_attribute(std::string_view name) const;
  std::optional<std::string> string_attribute(std::string_view name) const;

 protected:
  Module(const Module& other);

  /// Calls the child of that name on `input`.
  Value call(Trace& trace, std::string_view child_name, Value input) const {
    return child(child_name)(trace, input);
  }

 private:
  internal::LiveModule live_;  // first: what is refused allocates nothing
  std::string name_;
  std::string class_name_;
  std::string hf_class_name_;
  ListMembers members_;
  std::vector<Parameter> parameters_;
  std::vector<std::unique_ptr<Module>> children_;
  std::vector<Attribute> attributes_;
  const Registered* maker_ = called_plugin();
};

/// A module knows who made it: its functions are called guarded without a wrapper.
template <>
struct Checked<std::unique_ptr<Module>> {
  static std::unique_ptr<Module> of(const Registered&, std::unique_ptr<Module> module) {
    return module;
  }
};

/// Gives a module class its clone().
template <class Derived, class Base = Module>
class ModuleOf : public Base {
 public:
  using Base::Base;
  std::unique_ptr<Module> clone() const override {
    return this->guard([this] { return "copying a " + this->class_name(); },
                       [this]() -> std::unique_ptr<Module> {
                         return std::make_unique<Derived>(static_cast<const Derived&>(*this));
                       });
  }
};

/// A list of modules; its entries are named by their index.
class ModuleList : public ModuleOf<ModuleList> {
 public:
  ModuleList() : ModuleOf("ModuleList") {}
};

/// True when two trees have the same classes, parameters (shape, dtype, shard) and attributes: they
/// differ at most in where they stand.
TCAST_API bool same_structure(const Module& a, const Module& b);

/// The way from the root to a module.
class TCAST_API ModulePath {
 public:
  void push(const Module& module) { chain_.push_back(&module); }
  void pop() { chain_.pop_back(); }
  const std::vector<const Module*>& chain() const { return chain_; }

  /// "model.layers.[3-60].self_attn"; the root's own name is empty.
  std::string text() const;
  /// Path with the list indices given, one per list member on the way: what a user's pattern names.
  std::string member(const std::vector<std::int64_t>& indices) const;
  /// Entries that the module stands for: product over the list members on the way.
  std::int64_t count() const;
  /// The same for what one rank holds.
  std::int64_t local_count() const;

 private:
  std::vector<const Module*> chain_;
};

namespace internal {

template <class Node, class Visit>
void walk_from(Node& module, ModulePath& path, Visit& visit) {
  path.push(module);
  visit(module, static_cast<const ModulePath&>(path));
  // By index: a visitor may replace what lies below the module it was given.
  for (std::size_t i = 0; i < module.children().size(); ++i) {
    Node& child = *module.children()[i];
    walk_from(child, path, visit);
  }
  path.pop();
}

}  // namespace internal

/// Visits every node, parents first: visit(module, path).
template <class Visit>
void walk(Module& root, Visit visit) {
  ModulePath path;
  internal::walk_from(root, path, visit);
}
template <class Visit>
void walk(const Module& root, Visit visit) {
  ModulePath path;
  internal::walk_from(root, path, visit);
}

/// Replaces modules: for every node, children first, `make(module, path)` returns what shall take
/// its place, or null to leave it. The root itself is not replaced.
template <class Make>
void rewrite(Module& module, ModulePath& path, Make& make) {
  path.push(module);
  for (std::size_t i = 0; i < module.children().size(); ++i) {
    rewrite(*module.children()[i], path, make);
    Module& child = *module.children()[i];
    path.push(child);
    std::unique_ptr<Module> replacement = make(child, static_cast<const ModulePath&>(path));
    path.pop();
    if (replacement) module.replace_child(i, std::move(replacement));
  }
  path.pop();
}
template <class Make>
void rewrite(Module& root, Make make) {
  ModulePath path;
  rewrite(root, path, make);
}

}  // namespace tcast
