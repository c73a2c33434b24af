#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include "tcast/base/error.h"
#include "tcast/base/export.h"
#include "tcast/base/guard.h"
#include "tcast/graph/tensor.h"
#include "tcast/graph/trace.h"

namespace tcast {

class Layout;
class ShardReport;

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

  bool operator==(const ListMembers&) const = default;
};

/// What keeps a module from being compared with others: a class, of those that it is made of, whose
/// state is not known. Such a module is equal to no other (decision D12).
struct IdentityGap {
  const std::type_info* type = nullptr;  ///< null: nothing
  bool leaves_out = false;  ///< there is a config(), but the class has data members besides

  explicit operator bool() const { return type != nullptr; }
  /// "class 'DeepMlp' has no config() to compare".
  TCAST_API std::string text() const;
};

/// What config() returns for a class without state of its own.
struct NoState {
  bool operator==(const NoState&) const = default;
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
///
/// A class keeps its own state in one plain struct with operator== and returns it from `config()`;
/// it derives from ModuleOf, which compares that (see same_structure()) and copies the module.
class TCAST_API Module {
 public:
  explicit Module(std::string class_name);
  /// Takes a tree apart level by level: a deep one needs no deep stack.
  virtual ~Module();
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

  /// Moves name, HF class, members, parameters, children and stated attributes of `original` into
  /// this module, which is going to take its place.
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

  /// What keeps this module (children apart) from being compared; nothing when all classes that it
  /// is made of state their config().
  IdentityGap identity_gap() const;
  /// True when both modules are of one C++ class and what its config(), and those of its base
  /// classes, return is equal. False for a module with an identity_gap().
  bool same_config(const Module& other) const;

  /// What is wrong with its parameters and children, seen from its own config ("its weight is [4],
  /// expected [8, 4]"); "" when nothing is. Checked after every step. A class that derives from
  /// another one calls that one's first.
  virtual std::string fault() const { return {}; }

  /// Spreads the module over the ranks of a layout: cuts its parameters (Parameter::shard, stack),
  /// lets its children cut theirs, changes its forward accordingly, and says so with
  /// ShardReport::cut(). Called by the step shard_model once for the root; a module asks those of
  /// its children that it does not cut itself with shard_module(). A tensor-parallel group shares
  /// what is not a routed expert's; data-parallel replicas hold the same. For a module that is
  /// sharded like that already, nothing changes. The default asks all children and cuts nothing.
  /// Throws Error, with refuse_layout(), for sizes that do not divide.
  virtual void shard(const Layout& layout, ShardReport& report);

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
  /// The child of that name. Throws Error when it is missing.
  const Module& child(std::string_view name) const;
  Module& child(std::string_view name);
  /// The same, of a class. Throws Error also when it is of another class.
  template <class Class>
  const Class& child_as(std::string_view name) const {
    const auto* const found = dynamic_cast<const Class*>(&child(name));
    if (found == nullptr) fail_child_class(name, typeid(Class));
    return *found;
  }
  template <class Class>
  Class& child_as(std::string_view name) {
    return const_cast<Class&>(std::as_const(*this).template child_as<Class>(name));
  }
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

  /// The attributes that follow from the class's config, then those that somebody stated.
  std::vector<Attribute> attributes() const;
  /// States an attribute that the class does not list itself: a mark of somebody's own on a module.
  /// It is part of what modules are compared by. Throws Error for one that the class lists: that
  /// one follows from the config.
  void set_attribute(const std::string& name, AttributeValue value);
  std::optional<AttributeValue> find_attribute(std::string_view name) const;
  /// The attribute of that name, nothing when there is none. Throws Error for one of another type.
  std::optional<std::int64_t> int_attribute(std::string_view name) const;
  std::optional<double> number_attribute(std::string_view name) const;
  std::optional<bool> bool_attribute(std::string_view name) const;
  std::optional<std::string> string_attribute(std::string_view name) const;

 protected:
  Module(const Module& other);

  /// Appends the class's attributes (num_heads, eps, ...), which follow from its config. A class
  /// that derives from another one calls that one's first.
  virtual void list_attributes(std::vector<Attribute>& list) const;

  /// Overridden by ModulePart, for nobody else.
  using ComparedClass = Module;
  virtual const std::type_info* const& compared_class() const;
  virtual IdentityGap config_gap() const { return {}; }
  virtual bool equal_config(const Module&) const { return true; }

  /// Calls the child of that name on `input`.
  Value call(Trace& trace, std::string_view child_name, Value input) const {
    return child(child_name)(trace, input);
  }

 private:
  friend TCAST_API bool same_structure(const Module& a, const Module& b);

  [[noreturn]] void fail_child_class(std::string_view name, const std::type_info& expected) const;

  internal::LiveModule live_;  // first: what is refused allocates nothing
  std::string name_;
  std::string class_name_;
  std::string hf_class_name_;
  ListMembers members_;
  std::vector<Parameter> parameters_;
  std::vector<std::unique_ptr<Module>> children_;
  std::vector<Attribute> stated_attributes_;
  const Registered* maker_ = called_plugin();
};

/// A module knows who made it: its functions are called guarded without a wrapper.
template <>
struct Checked<std::unique_ptr<Module>> {
  static std::unique_ptr<Module> of(const Registered&, std::unique_ptr<Module> module) {
    return module;
  }
};

namespace internal {

template <class Result, class Class>
std::type_identity<Class> owner_of(Result (Class::*)() const);

/// The class declares a public `config() const` itself, whose result has operator==. An inherited
/// one says nothing of the class: a pointer to it belongs to the base.
template <class Class>
concept StatesConfig = requires(const Class& module) {
  requires std::same_as<typename decltype(owner_of(&Class::config))::type, Class>;
  requires std::equality_comparable<std::remove_cvref_t<decltype(module.config())>>;
};

template <class Class>
using ConfigOf = std::remove_cvref_t<decltype(std::declval<const Class&>().config())>;

/// A class with data members of its own whose config() is empty, or only its base's.
template <class Class, class Base>
constexpr bool config_leaves_out() {
  if constexpr (sizeof(Class) == sizeof(Base)) {
    return false;
  } else if constexpr (StatesConfig<Base>) {
    return std::is_empty_v<ConfigOf<Class>> || std::is_same_v<ConfigOf<Class>, ConfigOf<Base>>;
  } else {
    return std::is_empty_v<ConfigOf<Class>>;
  }
}

[[noreturn]] TCAST_API void fail_copy(const std::type_info& type, const std::type_info& base);

}  // namespace internal

/// Makes a class, abstract or not, known by its config(): what ModuleOf does, without clone(). A
/// class between Module and those that can be made derives from ModulePart<Class, Its base>.
template <class Derived, class Base = Module>
class ModulePart : public Base {
 public:
  using Base::Base;

 protected:
  using ComparedClass = Derived;

  const std::type_info* const& compared_class() const override { return own_class; }

  IdentityGap config_gap() const override {
    if (const IdentityGap above = Base::config_gap()) return above;
    if constexpr (!std::is_same_v<typename Base::ComparedClass, Base>) {
      return {&typeid(Base), false};
    } else if constexpr (!internal::StatesConfig<Derived>) {
      return {&typeid(Derived), false};
    } else if constexpr (internal::config_leaves_out<Derived, Base>()) {
      return {&typeid(Derived), true};
    } else {
      return {};
    }
  }

  bool equal_config(const Module& other) const override {
    if constexpr (internal::StatesConfig<Derived>) {
      return Base::equal_config(other) && static_cast<const Derived&>(*this).Derived::config() ==
                                              static_cast<const Derived&>(other).Derived::config();
    } else {
      return false;
    }
  }

 private:
  // Its address tells classes apart, also two of one name in the unnamed namespaces of two files.
  static inline const std::type_info* const own_class = &typeid(Derived);
};

/// What a module class derives from: gives it its clone(), and its identity from its config().
template <class Derived, class Base = Module>
class ModuleOf : public ModulePart<Derived, Base> {
 public:
  using ModulePart<Derived, Base>::ModulePart;
  std::unique_ptr<Module> clone() const override {
    return this->guard([this] { return "copying a " + this->class_name(); },
                       [this]() -> std::unique_ptr<Module> {
                         if (typeid(*this) != typeid(Derived)) {
                           internal::fail_copy(typeid(*this), typeid(Derived));
                         }
                         return std::make_unique<Derived>(static_cast<const Derived&>(*this));
                       });
  }
};

/// A list of modules; its entries are named by their index.
class ModuleList : public ModuleOf<ModuleList> {
 public:
  ModuleList() : ModuleOf("ModuleList") {}
  NoState config() const { return {}; }
};

/// True when two trees are the same but for where they stand: C++ and HuggingFace's classes,
/// config(), stated attributes, all fields of the parameters, and the children with their names and
/// list members (decision D12). A module with an identity_gap() is equal to none.
TCAST_API bool same_structure(const Module& a, const Module& b);

/// The first identity_gap() in a tree.
TCAST_API IdentityGap first_identity_gap(const Module& tree);

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
