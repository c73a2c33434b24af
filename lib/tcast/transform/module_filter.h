#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tcast/model/module.h"

namespace tcast {

/// A list of patterns of module paths, as quantization configs write what must not be converted:
/// a literal names a module, everything below it, or, as a suffix, modules anywhere ("lm_head",
/// "mlp.gate"); '*', '?' and '[...]' make it a glob over the whole path; "re:" begins a regular
/// expression that must match from the start of the path.
class ModuleFilter {
 public:
  /// Throws Error naming `where` for a regular expression that does not compile.
  ModuleFilter(std::vector<std::string> patterns, const std::string& where);

  /// The pattern that a member path matches, or "".
  std::string_view match(std::string_view path) const;

  /// Cuts list nodes below `root` apart until every Linear's node is matched by all of its members
  /// or by none, so that a pattern may name one layer out of many.
  void split_lists(Module& root) const;

 private:
  std::vector<std::string> patterns_;
};

}  // namespace tcast
