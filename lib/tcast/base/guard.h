#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "tcast/base/export.h"
#include "tcast/base/registration.h"

// Decision D20: whatever a plugin's code throws is an Error that names the plugin, what was called
// and its place. A registered value is reached through its RegistryEntry alone (base/registry.h),
// which calls it through guarded(); objects that a plugin makes are called through wrappers that do
// the same, or know who made them (Module).

namespace tcast {

/// "custom" or "builtin"; the name of that origin's scope too.
TCAST_API std::string_view name_of(Origin origin);

/// A view of a text that lives as long as the program: a literal, or what plugins are known by.
class LastingText : public std::string_view {
 public:
  using std::string_view::string_view;
  // Implicit, as literals are meant.
  constexpr LastingText(std::string_view text) : std::string_view(text) {}  // NOLINT
  LastingText(const std::string& text) : std::string_view(text) {}          // NOLINT
  LastingText(std::string&& text) = delete;                                 // NOLINT
};

/// One name or pattern under which something is registered, with the place and the plugin that
/// registered it. There may be thousands at every start: they own no text.
struct TCAST_API Registered {
  LastingText pattern{};
  Origin origin = Origin::builtin;
  bool overrides = false;
  int line = 0;
  LastingText file{};
  LastingText plugin{};
  LastingText scope{};    ///< empty: that of the origin
  LastingText failure{};  ///< why it cannot be used: the plugin failed; empty: it can
  LastingText noun{};     ///< "device": what is registered; set by the registry

  /// "custom_model/mine.cpp:12".
  std::string place() const;
  std::string_view scope_name() const {
    return scope.empty() ? name_of(origin) : std::string_view(scope);
  }
  /// "device 'my_npu' of plugin 'mine' (custom_model/mine.cpp:12)".
  std::string text() const;
  /// Throws Error: "the device 'my_npu' of plugin 'mine' (custom_model/mine.cpp:12): <what>".
  [[noreturn]] void refuse(std::string_view what, std::string hint = {}) const;
};

namespace internal {

/// A call of a plugin's code that has not returned, on this thread's stack.
class TCAST_API ActiveCall {
 public:
  explicit ActiveCall(const Registered& callee) noexcept : callee_(callee), outer_(innermost) {
    innermost = this;
    running.store(&callee, std::memory_order_relaxed);
  }
  ~ActiveCall() {
    innermost = outer_;
    running.store(outer_ == nullptr ? nullptr : &outer_->callee_, std::memory_order_relaxed);
  }
  ActiveCall(const ActiveCall&) = delete;
  ActiveCall& operator=(const ActiveCall&) = delete;

  const Registered& callee() const { return callee_; }
  /// The callee as it stays for the rest of the program.
  const Registered* lasting() const;

  static inline constinit thread_local const ActiveCall* innermost = nullptr;
  /// The callee of whatever thread called a plugin last: for failures in a plugin's own threads.
  static inline constinit std::atomic<const Registered*> running{nullptr};

 private:
  const Registered& callee_;
  const ActiveCall* outer_;
  mutable const Registered* lasting_ = nullptr;
};

/// Inside of a handler: throws what is being handled as an Error about `callee`; what has been
/// attributed already (see settle()) goes on as it is. `what` says which part of it was called.
[[noreturn]] TCAST_API void blame(const Registered& callee, std::string_view what);

/// Inside of a handler: what is being handled is attributed, guards let it pass.
TCAST_API void settle();

/// Inside of a handler: whether settle() was called for it.
TCAST_API bool is_settled();

/// What is being handled in words: its message with those of nested exceptions.
TCAST_API std::string current_exception_text();

}  // namespace internal

/// Calls a plugin's code. Whatever it throws comes out as an Error that names the plugin: "the
/// device 'my_npu' of plugin 'mine' (custom_model/mine.cpp:12) failed: <what it says>"; of an Error
/// the message and the hint are kept. `what` names the part that is called ("forward of MyMlp"), as
/// a text or as a function that makes one; empty: the callee as such. What is builtin is part of
/// tcast: its errors are not about a plugin and pass unchanged.
template <class What, class Call>
decltype(auto) guarded(const Registered& callee, const What& what, Call&& call) {
  if (callee.origin == Origin::builtin) return std::forward<Call>(call)();
  const internal::ActiveCall active(callee);
  try {
    return std::forward<Call>(call)();
  } catch (...) {
    if constexpr (std::is_invocable_v<const What&>) {
      internal::blame(callee, internal::is_settled() ? std::string() : what());
    } else {
      internal::blame(callee, what);
    }
  }
}

/// Calls something of tcast's own from inside of a plugin's call, such as an observer of the
/// command: what goes wrong there is not the plugin's fault.
template <class Call>
decltype(auto) outside_of_plugins(Call&& call) {
  struct Leave {
    const internal::ActiveCall* inside = std::exchange(internal::ActiveCall::innermost, nullptr);
    ~Leave() { internal::ActiveCall::innermost = inside; }
  } const leave;
  try {
    return std::forward<Call>(call)();
  } catch (...) {
    internal::settle();
    throw;
  }
}

/// Of a program that is about to be terminated, because an exception left a function that is
/// declared noexcept, or a thread: "<plugin's callee> ended the program: <what it threw>" if a
/// plugin's code is running, on this thread or another; else empty.
TCAST_API std::string termination_text();

/// Who is being called: the innermost plugin's callback on this thread's stack, as it stays for the
/// rest of the program; null outside of all.
TCAST_API const Registered* called_plugin();

/// What a registered callback's result must be to be used: specialised for results that can be
/// nonsense (a negative time) or that are objects with functions of their own, which it wraps so
/// that they are guarded too. Throws Error, which the guard around it attributes.
template <class Result>
struct Checked {
  static Result of(const Registered&, Result result) { return result; }
};

/// An object with virtual functions needs a specialisation: it would be called unguarded.
template <class Object>
struct Checked<std::unique_ptr<Object>> {
  static_assert(!std::is_polymorphic_v<Object>,
                "specialise Checked for this class, so that its functions are called guarded");
  static std::unique_ptr<Object> of(const Registered&, std::unique_ptr<Object> result) {
    return result;
  }
};
template <class Object>
struct Checked<std::shared_ptr<Object>> {
  static_assert(!std::is_polymorphic_v<Object>,
                "specialise Checked for this class, so that its functions are called guarded");
  static std::shared_ptr<Object> of(const Registered&, std::shared_ptr<Object> result) {
    return result;
  }
};

}  // namespace tcast
