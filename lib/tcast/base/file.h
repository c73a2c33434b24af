#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"

// The one way in which tcast reads a file that somebody names: bounded, and never waiting. And
// which file it is that somebody names.

namespace tcast {

/// The bytes of a regular file. Devices, pipes, sockets and directories are refused, because they
/// may never end or never begin. No more than `max_bytes` are read, whatever the system says of the
/// file's size. Throws Error with the path and the system's reason; `too_large_hint` is the hint
/// for a file that has more bytes.
TCAST_API std::string read_file(const std::string& path, std::size_t max_bytes,
                                std::string_view too_large_hint = {});

/// Throws Error when a text read from `file` has more than `max_bytes`, as read_file() does.
TCAST_API void require_size(std::size_t bytes, std::size_t max_bytes, const std::string& file,
                            std::string_view too_large_hint = {});

/// Paths of what stands in a folder under names that end in `extension` (".json"), in the order of
/// the names. Throws Error with the system's reason when the folder cannot be read.
TCAST_API std::vector<std::string> list_files(const std::string& folder,
                                              std::string_view extension);

/// The path that the symbolic link `path` leads to, or `path` itself when it is none. The end of a
/// chain of links need not exist.
TCAST_API std::string follow_links(const std::string& path);

/// Which file a path names, whatever it calls it. Equal for "a", "./a", links to it, and another
/// way into its folder.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;   ///< of the file, or of the nearest folder on the way that exists
  std::string missing = {};  ///< what is missing behind that folder; empty: the file exists

  bool operator==(const FileIdentity&) const = default;
};
TCAST_API FileIdentity identify(const std::string& path);

}  // namespace tcast
