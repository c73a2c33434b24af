#include "tcast/base/guard.h"

#include <deque>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <tuple>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

/// The exception that is attributed already. It is remembered by itself and not by its type, so
/// that anything can be: an Error, an interruption, something that is no std::exception. Holding it
/// keeps its address from being used again.
std::exception_ptr& settled() {
  thread_local std::exception_ptr exception;
  return exception;
}

constexpr std::size_t max_text_bytes = 2000;

std::string text_of(const char* what) {
  return what == nullptr || *what == '\0' ? "it gave no reason" : printable(what, max_text_bytes);
}

/// What caused the exception that is being handled, behind its own message.
std::string causes_of(const std::exception& error, int depth = 0) {
  constexpr int most_causes = 8;
  try {
    if (depth < most_causes) std::rethrow_if_nested(error);
  } catch (const std::exception& cause) {
    return fmt::format("; caused by: {}{}", text_of(cause.what()), causes_of(cause, depth + 1));
  } catch (...) {
    return "; caused by something that is no std::exception";
  }
  return {};
}

[[noreturn]] void throw_settled(const std::string& message, std::string hint) {
  settled() = std::make_exception_ptr(Error(message, std::move(hint)));
  std::rethrow_exception(settled());
}

}  // namespace

std::string_view name_of(Origin origin) { return origin == Origin::custom ? "custom" : "builtin"; }

std::string Registered::place() const {
  return line > 0 ? fmt::format("{}:{}", file, line) : std::string(file);
}

std::string Registered::text() const {
  std::string text = fmt::format("{} '{}'", noun, printable(pattern));
  if (origin == Origin::custom) text += fmt::format(" of plugin '{}'", printable(plugin));
  return text + fmt::format(" ({})", place());
}

void Registered::refuse(std::string_view what, std::string hint) const {
  throw_settled(fmt::format("the {}: {}", text(), what), std::move(hint));
}

const Registered* called_plugin() {
  const internal::ActiveCall* const call = internal::ActiveCall::innermost;
  return call == nullptr ? nullptr : call->lasting();
}

std::string termination_text() {
  const internal::ActiveCall* const call = internal::ActiveCall::innermost;
  const Registered* const callee =
      call != nullptr ? &call->callee() : internal::ActiveCall::running.load();
  if (callee == nullptr) return {};
  const bool threw = std::current_exception() != nullptr;
  return fmt::format("the {} ended the program: {}", callee->text(),
                     threw ? internal::current_exception_text() : "std::terminate was called");
}

namespace internal {

const Registered* ActiveCall::lasting() const {
  static std::mutex mutex;
  // Never destroyed: what lives longer than main may still point here.
  static auto* const known = new std::deque<Registered>;  // NOLINT
  if (lasting_ != nullptr) return lasting_;
  const auto key = [](const Registered& one) {
    return std::tie(one.pattern, one.scope, one.noun, one.file, one.line, one.plugin);
  };
  const std::lock_guard lock(mutex);
  for (const Registered& one : *known) {
    if (key(one) == key(callee_)) return lasting_ = &one;
  }
  return lasting_ = &known->emplace_back(callee_);
}

void settle() { settled() = std::current_exception(); }

bool is_settled() {
  const std::exception_ptr current = std::current_exception();
  return current != nullptr && current == settled();
}

std::string current_exception_text() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return "not enough memory";
  } catch (const std::exception& error) {
    return text_of(error.what()) + causes_of(error);
  } catch (const std::string& text) {
    return text_of(text.c_str());
  } catch (const char* text) {
    return text_of(text);
  } catch (...) {
    return "it threw something that is no std::exception";
  }
}

void blame(const Registered& callee, std::string_view what) {
  if (is_settled()) throw;
  const std::string who = what.empty() ? fmt::format("the {}", callee.text())
                                       : fmt::format("{} of the {}", what, callee.text());
  try {
    throw;
  } catch (const Interruption&) {
    throw;
  } catch (const Error& error) {
    throw_settled(fmt::format("{}: {}{}", who, error.what(), causes_of(error)), error.hint());
  } catch (...) {
    throw_settled(fmt::format("{} failed: {}", who, current_exception_text()),
                  "this is a mistake in the plugin, not in the model");
  }
}

}  // namespace internal
}  // namespace tcast
