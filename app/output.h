#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include "app/streams.h"

namespace tcast {

/// A file that a command writes once, when its work is done. It is opened before the work, because
/// what cannot be written is better known then. The file is either complete or as it was: the text
/// goes to a file without a name (where the file system has none, to one of another name beside
/// it), which takes the place of the old one in the end. What cannot be replaced (a pipe,
/// /dev/null, a file in a folder that must not be changed) is written in place.
class OutputFile {
 public:
  OutputFile() = default;
  explicit OutputFile(std::string path) : path_(std::move(path)) {}
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  /// As the user named it; empty: no file was asked for.
  const std::string& path() const { return path_; }
  void set_path(std::string path) { path_ = std::move(path); }
  bool is_given() const { return !path_.empty(); }
  /// Whether the path is a name of the standard output ("/dev/stdout"): then the result goes there
  /// as without a file, behind what is there already.
  bool is_standard_output() const;

  /// Throws Error with the system's reason when write() could not do its work. Does nothing for
  /// what is not given or is open.
  void open();

  /// Writes the whole file; opens it first if nobody has. Throws Error with the system's reason;
  /// nothing is left behind then.
  void write(std::string_view text);

 private:
  /// Where the path leads to, and what is there.
  struct Target {
    std::string path;  ///< behind all symbolic links, so that these stay
    std::string folder;
    std::optional<mode_t> mode;  ///< of what exists
    bool in_place = false;
  };

  Target find_target() const;
  void write_in_place(std::string_view text) const;
  /// Writes a new file in the target's folder; 0, or the reason why not. `name` is what it is
  /// called then: the target itself, if that did not exist.
  int write_beside(std::string_view text, std::string& name);
  [[noreturn]] void fail(int reason) const;

  std::string path_;
  std::optional<Target> target_;  ///< found by open()
  int unnamed_ = -1;              ///< open file without a name, in the target's folder
};

/// Writes a result that a person reads to the file, or to the standard output when none was asked
/// for. Throws Error.
void write_text(OutputFile& file, std::string_view text, Streams streams);

/// The same for a result that a program reads, which is written as it is.
void write_data(OutputFile& file, std::string_view data, Streams streams);

}  // namespace tcast
