#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tcast/base/plugin.h"

/// Registrations as sources would link them, in force while this lives: instead of the program's
/// own ones, or beside them.
class LinkedPlugins {
 public:
  explicit LinkedPlugins(bool beside_own = false)
      : own_(tcast::first_registration()), beside_own_(beside_own) {}

  ~LinkedPlugins() {
    tcast::replace_registrations(own_);
    tcast::select_plugins({});
  }
  LinkedPlugins(const LinkedPlugins&) = delete;
  LinkedPlugins& operator=(const LinkedPlugins&) = delete;

  /// A registration at file:line. Values are kept for the rest of the program: registries may have
  /// been handed out.
  template <class T>
  void add(const std::string& group, std::vector<tcast::RegisteredName> names, T value,
           const std::string& file, int line = 1, tcast::Origin origin = tcast::Origin::custom) {
    struct Kept {
      std::string group;
      std::vector<tcast::RegisteredName> names;
      T value;
      std::string file;
    };
    static std::deque<std::unique_ptr<Kept>> kept;
    const Kept& one = *kept.emplace_back(
        std::make_unique<Kept>(Kept{group, std::move(names), std::move(value), file}));
    const tcast::RegistrationNode* const head = tcast::first_registration();
    nodes_.push_back({one.group.c_str(), one.names.data(), static_cast<int>(one.names.size()),
                      &one.value, &typeid(T), &tcast::is_usable_value<T>, origin, one.file.c_str(),
                      line});
    tcast::replace_registrations(head);
  }

  /// TCAST_PLUGIN(name, version) of a file.
  void name(const std::string& file, const char* name, int version = tcast::plugin_interface,
            int line = 1) {
    add("plugin", {name}, tcast::PluginDeclaration{version}, file, line);
  }

  /// Links all that was added, in an order of its own for each seed.
  void link(unsigned seed = 0) {
    std::vector<std::size_t> order(nodes_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    const tcast::RegistrationNode* next = beside_own_ ? own_ : nullptr;
    for (const std::size_t i : order) {
      nodes_[i].next = next;
      next = &nodes_[i];
    }
    tcast::replace_registrations(next);
  }

 private:
  const tcast::RegistrationNode* own_;
  bool beside_own_;
  std::deque<tcast::RegistrationNode> nodes_;
};
