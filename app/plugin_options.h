#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "app/command_line.h"

namespace tcast {

/// Which plugins take part in one command, from --plugins, --strict and the environment
/// (TCAST_PLUGINS, TCAST_PLUGIN_TRACE). In force while it lives. Options are read before the
/// others: their values may name what a plugin registered.
class PluginScope {
 public:
  /// Throws Error for unknown plugins, and for plugins that failed with --strict.
  explicit PluginScope(const std::vector<std::string>& arguments);
  ~PluginScope();
  PluginScope(const PluginScope&) = delete;
  PluginScope& operator=(const PluginScope&) = delete;

  /// Whether --strict was given.
  bool strict() const { return strict_; }

  /// Declares the options, for the help and the check of the whole line.
  static void declare(CommandLine& line);

  /// Says what is wrong with plugins, one line each; with TCAST_PLUGIN_TRACE=1 where and why.
  static void print_problems(std::ostream& err);

 private:
  bool strict_ = false;
};

}  // namespace tcast
