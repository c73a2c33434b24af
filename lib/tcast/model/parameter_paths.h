#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "tcast/base/export.h"
#include "tcast/model/module.h"

namespace tcast {

/// The checkpoint's names of a tree's parameters: what decision D6 generates values from. Valid as
/// long as the tree is not changed.
class TCAST_API ParameterPaths {
 public:
  explicit ParameterPaths(const Module& root);

  /// Path of a parameter in layer `layer` (-1: it is in none) and, inside that, list entry `member`
  /// (an expert; -1: none).
  std::string operator()(const Parameter& parameter, std::int64_t layer, std::int64_t member) const;

 private:
  std::unordered_map<const Parameter*, ModulePath> paths_;
};

}  // namespace tcast
