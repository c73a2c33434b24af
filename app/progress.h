#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <ostream>
#include <string_view>

#include "tcast/study/host_timing.h"

namespace tcast {

/// One line at the bottom of a terminal that says how far a session of timings is. Does nothing
/// when `err` is not the standard error itself, or that is no terminal. Gone with its object.
class Progress final : public TimingProgress {
 public:
  explicit Progress(std::ostream& err);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress() override;

  void show(std::size_t done, std::size_t total, std::string_view what, double left_s) override;
  void show(std::string_view text) override;

 private:
  std::ostream* err_ = nullptr;  ///< null: nobody sees it
  bool shown_ = false;
};

/// Such a line for each session of timings. `err` must outlive what it is given to.
std::function<std::unique_ptr<TimingProgress>()> progress_on(std::ostream& err);

}  // namespace tcast
