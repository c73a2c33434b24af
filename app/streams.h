#pragma once

#include <cstddef>
#include <ostream>
#include <streambuf>
#include <string>
#include <string_view>

namespace tcast {

/// Passes text on to another stream as printable_lines() shows it: whatever config files, profiles,
/// devices, file names and plugins contain, a terminal that is given it has nothing to obey. A
/// character may come in pieces.
class PrintableBuffer final : public std::streambuf {
 public:
  explicit PrintableBuffer(std::ostream& target) : target_(target) {}

 protected:
  int_type overflow(int_type letter) override;
  std::streamsize xsputn(const char* text, std::streamsize size) override;
  int sync() override;

 private:
  void pass_on(bool all);

  std::ostream& target_;
  std::string pending_;  ///< the beginning of a character
};

class PrintableStream final : public std::ostream {
 public:
  explicit PrintableStream(std::ostream& target) : std::ostream(nullptr), buffer_(target) {
    rdbuf(&buffer_);
  }
  PrintableStream(const PrintableStream&) = delete;
  PrintableStream& operator=(const PrintableStream&) = delete;
  ~PrintableStream() override { flush(); }

 private:
  PrintableBuffer buffer_;
};

/// Where a command writes. What a person reads goes to `out` (results) and `err` (everything else),
/// which escape what a terminal would obey.
struct Streams {
  std::ostream& out;
  std::ostream& err;
  /// The standard output as it is, for results that programs read: JSON, CSV.
  std::ostream& data;
  /// The standard error as it is, for the line of Progress.
  std::ostream& progress;
};

/// Longest text of one message: what is quoted in it may be as long as a file.
inline constexpr std::size_t max_message_bytes = 8192;

/// Writes "tcast: <kind>: <text>" as one line.
void say(std::ostream& err, std::string_view kind, std::string_view text);

}  // namespace tcast
