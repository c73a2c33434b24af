#pragma once

#include <cstddef>
#include <ostream>
#include <string_view>

namespace tcast {

/// One line at the bottom of a terminal that says how far a session of timings is. Does nothing
/// when `err` is not the standard error itself, or that is no terminal. Gone with its object.
class Progress {
 public:
  explicit Progress(std::ostream& err);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  /// `done` of `total` are behind us, `what` comes now, and about `left_s` are to go.
  void show(std::size_t done, std::size_t total, std::string_view what, double left_s);
  /// A text instead, such as what is waited for.
  void show(std::string_view text);

 private:
  std::ostream* err_ = nullptr;  ///< null: nobody sees it
  bool shown_ = false;
};

}  // namespace tcast
