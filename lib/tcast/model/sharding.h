#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/model/layout.h"
#include "tcast/model/module.h"

namespace tcast {

/// What the modules of a tree did when they sharded themselves (Module::shard()), and where in the
/// tree the one stands that does it at the moment.
class TCAST_API ShardReport {
 public:
  /// A module that cut something.
  struct Cut {
    std::string path;
    std::string from;  ///< its class before
    std::string what;  ///< "heads over tp 4"
    std::int64_t modules = 0;
  };
  /// A module that stays as it is.
  struct Kept {
    std::string path;
    std::string reason;
  };

  /// `lists_whole`: what no module cuts is whole on every rank, which is worth saying; not so where
  /// nothing but experts is spread. `again`: parts of the tree may be sharded already.
  explicit ShardReport(bool lists_whole, bool again = false)
      : lists_whole_(lists_whole), again_(again) {}

  /// Path of the module that shards itself: "model.layers.[3-60].mlp".
  std::string path() const { return path_.text(); }
  /// The module that shards itself has cut what is its own, or what its children hold.
  void cut(std::string what);

  const std::vector<Cut>& cuts() const { return cuts_; }
  const std::vector<Kept>& kept() const { return kept_; }

 private:
  friend TCAST_API void shard_module(Module& module, const Layout& layout, ShardReport& report);

  void list_whole(const Module& module, bool spread);

  bool lists_whole_;
  bool again_;
  ModulePath path_;
  std::vector<std::string> done_;  ///< what each module on the way said so far
  std::set<const Module*> asked_;  ///< to shard themselves
  std::vector<Cut> cuts_;
  std::vector<Kept> kept_;
};

/// Asks a module to shard itself, guarded, and notes what became of it and of the parameters below
/// it. For a module that is sharded already the report says so.
TCAST_API void shard_module(Module& module, const Layout& layout, ShardReport& report);

/// For Module::shard(): throws Error about a layout that does not suit the sizes of a model. It is
/// about the options, whoever made the module.
[[noreturn]] TCAST_API void refuse_layout(std::string message, std::string hint);

}  // namespace tcast
