#include "app/progress.h"

#include <algorithm>
#include <iostream>
#include <string>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tcast/base/text.h"

namespace tcast {
namespace {

std::size_t columns_of_terminal() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

}  // namespace

Progress::Progress(std::ostream& err) {
  if (&err == &std::cerr && isatty(STDERR_FILENO) == 1) err_ = &err;
}

Progress::~Progress() {
  if (shown_) *err_ << "\r\033[K" << std::flush;
}

void Progress::show(std::size_t done, std::size_t total, std::string_view what, double left_s) {
  if (err_ == nullptr) return;
  constexpr std::size_t width = 20;
  const std::size_t full = width * done / std::max<std::size_t>(1, total);
  show(fmt::format("[{}{}] {}/{}, {:.0f} s left, timing {}", std::string(full, '#'),
                   std::string(width - full, '.'), done, total, left_s, what));
}

void Progress::show(std::string_view text) {
  if (err_ == nullptr) return;
  shown_ = true;
  std::string shown = printable(text, std::string::npos);
  std::size_t size = std::min(shown.size(), columns_of_terminal() - 1);
  while (size < shown.size() && size > 0 && utf8_length(shown.substr(size)) == 0) --size;
  shown.resize(size);
  // The one place that means to move the cursor; the text itself must not.
  *err_ << "\r\033[K" << shown << std::flush;
}

std::function<std::unique_ptr<TimingProgress>()> progress_on(std::ostream& err) {
  return [&err] { return std::make_unique<Progress>(err); };
}

}  // namespace tcast
