#include "app/output.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <iterator>
#include <random>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

/// Writes all of a text; 0 or the reason why not.
int write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      return errno;
    }
  }
  // On some file systems a full disk shows only when a descriptor is closed.
  return close(dup(descriptor)) == 0 ? 0 : errno;
}

/// Calls `make(name)` with names of the folder that nobody has until one is free; returns that
/// name, or nothing, with errno as make() left it.
template <class Make>
std::optional<std::string> with_new_name(const std::string& folder, const Make& make) {
  std::random_device random;
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string name = fmt::format("{}/.tcast-{:08x}{:08x}.tmp", folder, random(), random());
    if (make(name)) return name;
    if (errno != EEXIST) return std::nullopt;
  }
  return std::nullopt;
}

/// Gives an open file without a name one; false, with errno, when that is taken or not possible.
bool link_as(int descriptor, const std::string& name) {
  const std::string open_file = fmt::format("/proc/self/fd/{}", descriptor);
  return linkat(AT_FDCWD, open_file.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

/// An open file of a new name in the folder, or -1 with errno.
int create_named(const std::string& folder, mode_t mode, std::string& name) {
  int descriptor = -1;
  const std::optional<std::string> made = with_new_name(folder, [&](const std::string& candidate) {
    descriptor = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    return descriptor >= 0;
  });
  name = made.value_or("");
  return descriptor;
}

}  // namespace

OutputFile::~OutputFile() {
  if (unnamed_ >= 0) close(unnamed_);
}

void OutputFile::fail(int reason) const {
  throw Error(fmt::format("cannot write '{}': {}", printable(path_, 4096),
                          std::generic_category().message(reason)),
              reason == ENOENT ? "the directory must exist" : "");
}

bool OutputFile::is_standard_output() const {
  constexpr std::array names = {"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"};
  return std::find(names.begin(), names.end(), path_) != names.end();
}

OutputFile::Target OutputFile::find_target() const {
  Target target;
  target.path = follow_links(path_);
  const std::size_t slash = target.path.rfind('/');
  target.folder =
      slash == std::string::npos ? "." : target.path.substr(0, std::max<std::size_t>(1, slash));
  struct stat status {};
  if (stat(target.path.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) fail(EISDIR);
    if (access(target.path.c_str(), W_OK) != 0) fail(errno);
    target.mode = status.st_mode & 07777;
    target.in_place = !S_ISREG(status.st_mode) || access(target.folder.c_str(), W_OK | X_OK) != 0;
  } else {
    if (errno != ENOENT || target.path.empty() || target.path.back() == '/') fail(errno);
    if (access(target.folder.c_str(), W_OK | X_OK) != 0) fail(errno);
  }
  return target;
}

void OutputFile::open() {
  if (!is_given() || is_standard_output() || target_) return;
  Target target = find_target();
  if (!target.in_place) {
    unnamed_ = ::open(target.folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
    if (unnamed_ < 0) {
      // A file system that has no files without names: see whether it takes one with a name.
      std::string name;
      const int descriptor = create_named(target.folder, 0666, name);
      if (descriptor < 0) fail(errno);
      close(descriptor);
      unlink(name.c_str());
    }
  }
  target_ = std::move(target);
}

void OutputFile::write_in_place(std::string_view text) const {
  const int descriptor = ::open(target_->path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (descriptor < 0) fail(errno);
  const int reason = write_all(descriptor, text);
  close(descriptor);
  if (reason != 0) fail(reason);
}

int OutputFile::write_beside(std::string_view text, std::string& name) {
  const auto fill = [&](int descriptor) {
    int reason = write_all(descriptor, text);
    // Asked for modes are cut by the umask, those of an existing file must not be.
    if (reason == 0 && target_->mode && fchmod(descriptor, *target_->mode) != 0) reason = errno;
    return reason;
  };
  if (const int unnamed = std::exchange(unnamed_, -1); unnamed >= 0) {
    const int reason = fill(unnamed);
    if (reason == 0) {
      if (!target_->mode && link_as(unnamed, target_->path)) {
        name = target_->path;
      } else {
        name = with_new_name(target_->folder, [unnamed](const std::string& candidate) {
                 return link_as(unnamed, candidate);
               }).value_or("");
      }
    }
    close(unnamed);
    if (reason != 0 || !name.empty()) return reason;
    // Without /proc a file without a name keeps none.
  }
  const int named = create_named(target_->folder, 0666, name);
  if (named < 0) return errno;
  const int reason = fill(named);
  close(named);
  return reason;
}

void OutputFile::write(std::string_view text) {
  if (!is_given()) fail(ENOENT);
  open();
  if (target_->in_place) {
    write_in_place(text);
    return;
  }
  std::string name;
  int reason = write_beside(text, name);
  if (reason == 0 && name != target_->path &&
      std::rename(name.c_str(), target_->path.c_str()) != 0) {
    reason = errno;
  }
  if (reason == 0) return;
  if (!name.empty()) unlink(name.c_str());
  // A file that is a mount of its own (in a container), or somebody else's in a folder like /tmp.
  const bool irreplaceable = reason == EBUSY || reason == EPERM || reason == EACCES;
  if (!irreplaceable || !target_->mode) fail(reason);
  write_in_place(text);
}

void write_text(OutputFile& file, std::string_view text, Streams streams) {
  if (!file.is_given() || file.is_standard_output()) {
    streams.out << text;
  } else {
    file.write(printable_lines(text));
  }
}

void write_data(OutputFile& file, std::string_view data, Streams streams) {
  if (!file.is_given() || file.is_standard_output()) {
    streams.data << data;
  } else {
    file.write(data);
  }
}

}  // namespace tcast
