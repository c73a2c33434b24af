#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/plugin.h"

// How plugins bring in configs by name, and tensors in and out of `tcast run`.

namespace tcast {

/// Turns a name ("llama-3.1-8b" of "llama-3.1-8b@mycluster") into the path of a config.json or of a
/// directory that holds one. Registered under what stands behind the '@'.
using NameResolver = std::function<std::string(const std::string& name)>;
TCAST_API const Registry<NameResolver>& name_resolvers();

/// Reads prompts from a file: token ids, one list per request. Registered under a pattern of file
/// names ("*.npy").
using TokenLoader = std::function<std::vector<std::vector<std::int64_t>>(const std::string& path)>;
TCAST_API const Registry<TokenLoader>& token_loaders();

/// What a file of logits shall contain. Registered under a pattern of file names.
using LogitsDumper = std::function<std::string(const std::vector<std::int64_t>& shape,
                                               const std::vector<float>& values)>;
TCAST_API const Registry<LogitsDumper>& logits_dumpers();

/// `text` itself if it names an existing file or has no '@', else what the resolver behind the '@'
/// makes of it. Throws Error for an unknown resolver, with the closest.
TCAST_API std::string resolve_name(const std::string& text);

/// The name of a file in its folder, which loaders and dumpers are found by.
TCAST_API std::string file_name_of(std::string_view path);

}  // namespace tcast
