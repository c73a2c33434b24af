#include "tcast/base/file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

constexpr std::size_t shown_path_bytes = 4096;

[[noreturn]] void fail_file(const std::string& path, std::string_view message,
                            std::string hint = {}) {
  throw Error(fmt::format("{}: {}", printable(path, shown_path_bytes), message), std::move(hint));
}

[[noreturn]] void fail_system(const std::string& path, int reason) {
  if (reason == ENOENT || reason == ENOTDIR) fail_file(path, "no such file");
  fail_file(path, fmt::format("cannot be read: {}", std::generic_category().message(reason)));
}

void require_regular(const std::string& path, const struct stat& status) {
  if (S_ISDIR(status.st_mode)) fail_file(path, "expected a file, got a directory");
  if (S_ISREG(status.st_mode)) return;
  fail_file(path, "expected a regular file, got a device, pipe or socket",
            "save its contents to a file first");
}

/// A file that is open for reading.
class OpenFile {
 public:
  explicit OpenFile(const std::string& path) : path_(path) {
    // Asked before it is opened, because opening alone makes some devices act; and after that,
    // because another file may have taken the name.
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) fail_system(path, errno);
    require_regular(path, status);
    descriptor_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor_ < 0) fail_system(path, errno);
    if (fstat(descriptor_, &status_) != 0) fail_system(path, errno);
    require_regular(path, status_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { close(descriptor_); }

  std::size_t size() const { return static_cast<std::size_t>(std::max<off_t>(status_.st_size, 0)); }

  /// Appends what comes next; false at the end.
  bool read_more(std::string& text) const {
    std::array<char, 65536> buffer;  // NOLINT(*-member-init): filled by read()
    ssize_t count = 0;
    do {
      count = read(descriptor_, buffer.data(), buffer.size());
    } while (count < 0 && errno == EINTR);
    if (count < 0) fail_system(path_, errno);
    text.append(buffer.data(), static_cast<std::size_t>(count));
    return count > 0;
  }

 private:
  const std::string& path_;
  int descriptor_ = -1;
  struct stat status_ {};
};

}  // namespace

void require_size(std::size_t bytes, std::size_t max_bytes, const std::string& file,
                  std::string_view too_large_hint) {
  if (bytes <= max_bytes) return;
  fail_file(file,
            fmt::format("expected at most {} bytes, got {}",
                        format_grouped(static_cast<std::int64_t>(max_bytes)),
                        format_grouped(static_cast<std::int64_t>(bytes))),
            std::string(too_large_hint));
}

std::string read_file(const std::string& path, std::size_t max_bytes,
                      std::string_view too_large_hint) {
  const OpenFile file(path);
  require_size(file.size(), max_bytes, path, too_large_hint);
  std::string text;
  while (file.read_more(text)) {
    // A file that grows, or one of a system that does not know its size.
    require_size(text.size(), max_bytes, path, too_large_hint);
  }
  return text;
}

std::vector<std::string> list_files(const std::string& folder, std::string_view extension) {
  namespace fs = std::filesystem;
  std::vector<std::string> paths;
  std::error_code failure;
  fs::directory_iterator entry(folder, failure);
  for (; !failure && entry != fs::directory_iterator(); entry.increment(failure)) {
    std::string path = entry->path().string();
    const std::string name = entry->path().filename().string();
    if (name.size() > extension.size() && name.ends_with(extension)) {
      paths.push_back(std::move(path));
    }
  }
  if (failure) fail_file(folder, fmt::format("cannot be read: {}", failure.message()));
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string follow_links(const std::string& path) {
  std::string target = path;
  struct stat status {};
  std::array<char, 4096> buffer;  // NOLINT(*-member-init): filled by readlink()
  for (int i = 0; i < 40 && lstat(target.c_str(), &status) == 0 && S_ISLNK(status.st_mode); ++i) {
    const ssize_t length = readlink(target.c_str(), buffer.data(), buffer.size());
    if (length <= 0 || static_cast<std::size_t>(length) == buffer.size()) break;
    const std::string link(buffer.data(), static_cast<std::size_t>(length));
    const std::size_t slash = target.rfind('/');
    const bool absolute = link[0] == '/' || slash == std::string::npos;
    target = absolute ? link : target.substr(0, slash + 1).append(link);
  }
  return target;
}

FileIdentity identify(const std::string& path) {
  namespace fs = std::filesystem;
  FileIdentity identity;
  fs::path at = follow_links(path);
  struct stat status {};
  while (stat(at.empty() ? "." : at.c_str(), &status) != 0) {
    const fs::path name = at.filename();
    if (!at.has_relative_path()) break;  // not even the root can be looked at
    if (!name.empty() && name != ".") {
      identity.missing =
          identity.missing.empty() ? name.string() : name.string() + "/" + identity.missing;
    }
    at = at.parent_path();
  }
  identity.device = static_cast<std::uint64_t>(status.st_dev);
  identity.inode = static_cast<std::uint64_t>(status.st_ino);
  return identity;
}

}  // namespace tcast
