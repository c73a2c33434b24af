#include "app/command_files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/base/text.h"
#include "tcast/config/exchange.h"
#include "tcast/device/device_profile.h"

#include "app/command_line.h"
#include "app/output.h"

namespace tcast {
namespace {

namespace fs = std::filesystem;

/// A file that an argument leads to.
struct UsedFile {
  std::string option;
  std::string path;
  FileUse use = FileUse::reads;
  FileIdentity identity;
};

/// What says beside a config.json how its weights are stored.
constexpr std::string_view side_files[] = {"hf_quant_config.json", "quantize_config.json",
                                           "quant_config.json", "quant_model_description*.json"};

/// Paths of everything that reading a config may read.
std::vector<std::string> files_of_config(const std::string& name) {
  std::string path = name;
  try {
    path = resolve_name(name);
  } catch (const Error&) {
    return {};  // told when it is read
  }
  std::error_code none;
  const bool is_folder = fs::is_directory(path, none);
  const fs::path folder = is_folder ? fs::path(path) : fs::path(path).parent_path();
  std::vector<std::string> inside;
  try {
    inside = list_files(folder.empty() ? "." : folder.string(), ".json");
  } catch (const Error&) {
    // As above.
  }
  const fs::path config = folder / "config.json";
  std::vector<std::string> files = {is_folder ? config.string() : path};
  const bool all = is_folder && !fs::exists(config, none);
  for (const std::string& file : inside) {
    const std::string base = file_name_of(file);
    const bool beside =
        std::any_of(std::begin(side_files), std::end(side_files),
                    [&base](std::string_view pattern) { return matches_pattern(base, pattern); });
    if (all || beside) files.push_back(file);
  }
  return files;
}

/// Whether there is something at the path that takes whatever is written to it, as a pipe does.
bool takes_everything(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode);
}

std::vector<std::string> paths_of(const FileArgument& argument) {
  switch (argument.use) {
    case FileUse::none:
      return {};
    case FileUse::reads:
      return {argument.path};
    case FileUse::config:
      return files_of_config(argument.path);
    case FileUse::device:
      if (!is_device_path(argument.path)) return {};
      return {argument.path};
    case FileUse::writes:
      if (OutputFile(argument.path).is_standard_output() || takes_everything(argument.path)) {
        return {};
      }
      return {argument.path};
    case FileUse::updates: {
      std::vector<std::string> paths = {argument.path};
      // What SQLite and the store keep beside it.
      for (const char* suffix : {"-journal", "-wal", "-shm", ".lock"}) {
        paths.push_back(follow_links(argument.path) + suffix);
      }
      return paths;
    }
  }
  throw InternalError("an unknown use of a file");
}

std::vector<UsedFile> used_files(std::span<const FileArgument> arguments) {
  std::vector<UsedFile> files;
  for (const FileArgument& argument : arguments) {
    for (std::string& path : paths_of(argument)) {
      FileIdentity identity = identify(path);
      files.push_back({argument.option, std::move(path), argument.use, std::move(identity)});
    }
  }
  struct stat status {};
  if (fstat(STDOUT_FILENO, &status) == 0 && S_ISREG(status.st_mode)) {
    files.push_back(
        {"the standard output",
         "",
         FileUse::writes,
         {static_cast<std::uint64_t>(status.st_dev), static_cast<std::uint64_t>(status.st_ino)}});
  }
  return files;
}

/// Whether two files that do not exist have names in one folder that differ in case alone: some
/// file systems take them for one.
bool differ_in_case(const FileIdentity& a, const FileIdentity& b) {
  const auto equal_letters = [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  };
  return a.device == b.device && a.inode == b.inode && !a.missing.empty() && a != b &&
         std::equal(a.missing.begin(), a.missing.end(), b.missing.begin(), b.missing.end(),
                    equal_letters);
}

[[noreturn]] void refuse(const UsedFile& file, const UsedFile& other) {
  const std::string path = printable(file.path.empty() ? other.path : file.path, 4096);
  if (other.use == FileUse::writes) {
    throw UsageError(
        fmt::format("{} and {} name the same file '{}'", file.option, other.option, path),
        "the one would overwrite the other");
  }
  const std::string role = other.use == FileUse::updates
                               ? fmt::format("{} keeps", other.option)
                               : fmt::format("is read as {}", other.option);
  throw UsageError(fmt::format("{} would {} '{}', which {}", file.option,
                               file.use == FileUse::writes ? "overwrite" : "change", path, role),
                   "name another file");
}

}  // namespace

void check_files(std::span<const FileArgument> arguments) {
  const std::vector<UsedFile> files = used_files(arguments);
  for (const UsedFile& file : files) {
    if (file.use != FileUse::writes && file.use != FileUse::updates) continue;
    for (const UsedFile& other : files) {
      // What is both kept and written over is told of the output; a store's own files are one.
      const bool harms = file.use == FileUse::writes ||
                         (other.use != FileUse::writes && other.use != FileUse::updates);
      if (&file == &other || !harms) continue;
      if (file.identity == other.identity) refuse(file, other);
      if (differ_in_case(file.identity, other.identity)) {
        throw UsageError(
            fmt::format("{} '{}' and {} '{}' differ in case alone", file.option,
                        printable(file.path, 4096), other.option, printable(other.path, 4096)),
            "some file systems take them for one file; name another one");
      }
    }
  }
}

}  // namespace tcast
