#include "app/termination.h"

#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include <unistd.h>

#include "tcast/base/guard.h"

namespace tcast {
namespace {

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

[[noreturn]] void say_and_exit() {
  // What goes wrong from here on must not come back.
  std::set_terminate([] { std::_Exit(70); });
  const std::string plugin = termination_text();
  if (!plugin.empty()) {
    write_all("tcast: error: " + plugin +
              "\n  hint: an exception must not leave a function declared noexcept, nor a thread of "
              "the plugin's own\n");
    std::_Exit(1);
  }
  const std::string text =
      std::current_exception() == nullptr ? "" : ": " + internal::current_exception_text();
  write_all("tcast: error: internal error: terminated" + text +
            "\n  hint: this is a mistake in tcast; please report it with the command line and the "
            "config\n");
  std::_Exit(70);
}

}  // namespace

TerminationGuard::TerminationGuard() : before_(std::set_terminate(say_and_exit)) {}
TerminationGuard::~TerminationGuard() { std::set_terminate(before_); }

}  // namespace tcast
