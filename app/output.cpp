#include "app/output.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ostream>
#include <system_error>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

[[noreturn]] void fail(const std::string& path, int reason) {
  throw Error(fmt::format("cannot write '{}': {}", printable(path, 4096),
                          std::generic_category().message(reason)),
              reason == ENOENT ? "the directory must exist" : "");
}

/// A file descriptor, closed at the end.
class File {
 public:
  File(const std::string& path, int flags, mode_t mode)
      : descriptor_(open(path.c_str(), flags | O_WRONLY | O_CLOEXEC, mode)) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool is_open() const { return descriptor_ >= 0; }

  /// Writes and closes; 0 or the reason why not. A full disk may show only at the end.
  int finish(std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = write(descriptor_, text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return errno;
      text.remove_prefix(static_cast<std::size_t>(written));
    }
    const int status = close(descriptor_);
    descriptor_ = -1;
    return status == 0 ? 0 : errno;
  }

 private:
  int descriptor_;
};

/// The file that a chain of symbolic links ends at, so that the link stays one.
std::string follow_links(const std::string& path) {
  std::string target = path;
  struct stat status {};
  char buffer[4096];
  for (int i = 0; i < 40 && lstat(target.c_str(), &status) == 0 && S_ISLNK(status.st_mode); ++i) {
    const ssize_t length = readlink(target.c_str(), buffer, sizeof buffer);
    if (length < 0 || static_cast<std::size_t>(length) == sizeof buffer) break;
    const std::string link(buffer, static_cast<std::size_t>(length));
    const std::size_t slash = target.rfind('/');
    const bool absolute = link[0] == '/' || slash == std::string::npos;
    target = absolute ? link : target.substr(0, slash + 1).append(link);
  }
  return target;
}

/// Where a path leads, and what is there now.
struct Target {
  std::string path;
  struct stat old {};
  bool exists = false;
};

/// Throws Error for what cannot be replaced nor made.
Target find_target(const std::string& path) {
  Target target;
  target.path = follow_links(path);
  target.exists = stat(target.path.c_str(), &target.old) == 0;
  if (!target.exists && errno != ENOENT) fail(path, errno);
  if (target.exists && S_ISDIR(target.old.st_mode)) fail(path, EISDIR);
  if (target.exists && access(target.path.c_str(), W_OK) != 0) fail(path, errno);
  if (target.exists && !S_ISREG(target.old.st_mode)) return target;
  const std::size_t slash = target.path.rfind('/');
  const std::string folder =
      slash == std::string::npos ? "." : target.path.substr(0, std::max<std::size_t>(1, slash));
  if (access(folder.c_str(), W_OK | X_OK) != 0) fail(path, errno);
  return target;
}

}  // namespace

void require_writable(const std::string& path) {
  if (!path.empty()) find_target(path);
}

void write_atomically(const std::string& path, std::string_view text) {
  const auto [target, old, exists] = find_target(path);
  mode_t mode = 0666;
  if (exists) {
    if (!S_ISREG(old.st_mode)) {
      File file(target, 0, 0);
      if (!file.is_open()) fail(path, errno);
      if (const int reason = file.finish(text); reason != 0) fail(path, reason);
      return;
    }
    mode = old.st_mode & 07777;
  }
  const std::string temporary = fmt::format("{}.{}.tmp", target, getpid());
  File file(temporary, O_CREAT | O_EXCL, mode);
  if (!file.is_open()) fail(path, errno);
  int reason = file.finish(text);
  // Asked for modes are cut by the umask, those of an existing file must not be.
  if (reason == 0 && exists && chmod(temporary.c_str(), mode) != 0) reason = errno;
  if (reason == 0 && std::rename(temporary.c_str(), target.c_str()) != 0) reason = errno;
  if (reason != 0) {
    unlink(temporary.c_str());
    fail(path, reason);
  }
}

void write_result(const std::string& path, std::string_view text, std::ostream& out) {
  if (path.empty()) {
    out << text;
  } else {
    write_atomically(path, text);
  }
}

}  // namespace tcast
