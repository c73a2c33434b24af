#pragma once

#include <span>
#include <string>

namespace tcast {

/// What a command does with the file that an option names.
enum class FileUse {
  none,     ///< the option names no file
  reads,    ///< reads it whole
  config,   ///< reads a config, with what belongs to it beside it, or all configs of a folder
  device,   ///< reads it, if it is no name of a device
  writes,   ///< replaces it in the end
  updates,  ///< reads and writes it, with files of similar names beside it
};

/// A file on a command line.
struct FileArgument {
  std::string option;  ///< "--profile", "CONFIG"
  std::string path;    ///< as it was given
  FileUse use = FileUse::none;
};

/// Refuses a command of which one file would destroy another: an output that is also read, or that
/// is the same as another output. Files are the same whatever they are called: by "./", by links,
/// or, where nothing is yet, by the same name in the same folder, in whatever case. The standard
/// output, when it is a file, is one of the outputs. Throws UsageError that names both.
void check_files(std::span<const FileArgument> arguments);

}  // namespace tcast
