#pragma once

#include <string>
#include <vector>

#include "tcast/model/module.h"

namespace tcast {

/// A tree of modules, one line each, children indented under their parents: name, class, parameters
/// with shapes, attributes. Equal entries of a list are one line ("[3-60]"). Parameters of another
/// dtype than `usual`, sharded and tied ones say so.
std::vector<std::string> tree_lines(const Module& root, DType usual);

/// The dtype that most of a tree's parameters have.
DType usual_dtype(const Module& root);

/// Two texts, line by line: "- " in front of lines that only `before` has, "+ " of those that only
/// `after` has, "  " of common ones. Shortest such list, unless the texts differ in more than 1500
/// lines.
std::vector<std::string> diff_lines(const std::vector<std::string>& before,
                                    const std::vector<std::string>& after);

}  // namespace tcast
