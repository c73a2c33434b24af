// Decision D20: what a plugin's code throws is an Error that names the plugin, and no caller can
// reach a registered value without that guard.
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/base/registry.h"

#include "error_of.h"

using namespace tcast;

namespace {

Registered callee(Origin origin = Origin::custom) {
  Registered by;
  by.pattern = "my_npu";
  by.origin = origin;
  by.file = "custom_model/mine.cpp";
  by.line = 12;
  by.plugin = "mine";
  by.noun = "device";
  return by;
}

class Silent : public std::exception {
 public:
  const char* what() const noexcept override { return nullptr; }
};

class Stop final : public Interruption {};

[[noreturn]] void throw_nested() {
  try {
    throw std::runtime_error("disk full");
  } catch (...) {
    std::throw_with_nested(Error("cannot cache", "make room"));
  }
}

/// A class with functions of its own, which a wrapper calls.
class Shape3D {
 public:
  virtual ~Shape3D() = default;
  virtual int corners() const = 0;
};

using Function = std::function<int(int)>;

template <class Entry>
concept HasData = requires(const Entry& entry) {
  entry.data();
};
template <class Entry>
concept IsCalled = requires(const Entry& entry) {
  entry.call(1);
};

// A callback is called through its entry, guarded, and not in any other way; what is no callback is
// read.
static_assert(IsCalled<RegistryEntry<Function>> && !HasData<RegistryEntry<Function>>);
static_assert(IsCalled<RegistryEntry<int (*)(int)>> && !HasData<RegistryEntry<int (*)(int)>>);
static_assert(HasData<RegistryEntry<int>> && !IsCalled<RegistryEntry<int>>);
static_assert(!std::is_invocable_v<Sealed<Function>, int>);
static_assert(!std::is_convertible_v<Sealed<Function>, Function>);

}  // namespace

TEST_CASE("guard: whatever a plugin throws is an Error that names it") {
  struct {
    const char* name;
    void (*act)();
    const char* text;
  } const cases[] = {
      {"Error", [] { throw Error("not today", "try tomorrow"); }, ": not today | try tomorrow"},
      {"runtime_error", [] { throw std::runtime_error("out of ideas"); },
       " failed: out of ideas | this is a mistake in the plugin, not in the model"},
      {"nested", [] { throw_nested(); }, ": cannot cache; caused by: disk full | make room"},
      {"int", [] { throw 42; },  // NOLINT
       " failed: it threw something that is no std::exception | this is a mistake in the plugin, "
       "not "
       "in the model"},
      {"text", [] { throw "a text"; },  // NOLINT
       " failed: a text | this is a mistake in the plugin, not in the model"},
      {"bad_alloc", [] { throw std::bad_alloc(); },
       " failed: not enough memory | this is a mistake in the plugin, not in the model"},
      {"no reason", [] { throw Silent(); },
       " failed: it gave no reason | this is a mistake in the plugin, not in the model"},
      {"a broken promise", [] { TCAST_CHECK(false, "never"); },
       "never (false) | this is a mistake in the plugin, not in the model"},
      {"control characters", [] { throw std::runtime_error("\x1b[31mred"); },
       R"( failed: \x1b[31mred | this is a mistake in the plugin, not in the model)"},
  };
  const Registered by = callee();
  const std::string who = "the device 'my_npu' of plugin 'mine' (custom_model/mine.cpp:12)";
  for (const auto& one : cases) {
    CAPTURE(one.name);
    const std::string text = error_of([&] { guarded(by, "", one.act); });
    CHECK(text.substr(0, who.size()) == who);
    CHECK(text.substr(text.size() - std::string(one.text).size()) == one.text);
  }
  CHECK(error_of([&] { guarded(by, "estimate", [] { throw Error("no"); }); }) ==
        "estimate of " + who + ": no");
  CHECK(error_of([&] {
          guarded(
              by, [] { return std::string("forward"); }, [] { throw Error("no"); });
        }) == "forward of " + who + ": no");
}

TEST_CASE("guard: results pass, and so does what is no failure of a plugin") {
  const Registered by = callee();
  int value = 3;
  CHECK(&guarded(by, "", [&]() -> int& { return value; }) == &value);
  CHECK(*guarded(by, "", [] { return std::make_unique<int>(4); }) == 4);
  // What is builtin is part of tcast: its mistakes are tcast's.
  const Registered builtin = callee(Origin::builtin);
  CHECK(error_of([&] { guarded(builtin, "", [] { throw Error("as it is"); }); }) == "as it is");
  CHECK_THROWS_AS(guarded(builtin, "", [] { throw std::runtime_error("x"); }), std::runtime_error);
  // An interruption goes through.
  CHECK_THROWS_AS(guarded(by, "", [] { throw Stop(); }), Stop);
  // So does what tcast itself does wrong when a plugin's code has called it back.
  CHECK_THROWS_AS(
      guarded(by, "", [] { outside_of_plugins([] { throw std::domain_error("tcast's"); }); }),
      std::domain_error);
  CHECK(error_of([&] {
          guarded(by, "", [] { outside_of_plugins([] { throw Error("tcast's"); }); });
        }) == "tcast's");
}

TEST_CASE("guard: of plugins that call each other the innermost is named, once") {
  const Registered outer = callee();
  Registered inner = callee();
  inner.pattern = "inner";
  inner.plugin = "other";
  const auto nested = [&] {
    guarded(outer, "", [&] { guarded(inner, "", [] { throw std::runtime_error("oops"); }); });
  };
  CHECK(error_of(nested) ==
        "the device 'inner' of plugin 'other' (custom_model/mine.cpp:12) failed: oops | this is a "
        "mistake in the plugin, not in the model");
  // A caught one is forgotten: what is thrown afterwards is the outer one's own.
  CHECK(error_of([&] {
          guarded(outer, "", [&] {
            try {
              nested();
            } catch (const Error&) {
              throw Error("gave up");
            }
          });
        }) == "the device 'my_npu' of plugin 'mine' (custom_model/mine.cpp:12): gave up");
}

TEST_CASE("guard: who is being called") {
  CHECK(called_plugin() == nullptr);
  const Registered* lasting = nullptr;
  {
    const Registered by = callee();
    guarded(by, "", [&] {
      lasting = called_plugin();
      outside_of_plugins([] { CHECK(called_plugin() == nullptr); });
      CHECK(called_plugin() == lasting);
    });
  }
  CHECK(called_plugin() == nullptr);
  // Stays when what was registered is gone, and is the same for every call.
  REQUIRE(lasting != nullptr);
  CHECK(lasting->text() == "device 'my_npu' of plugin 'mine' (custom_model/mine.cpp:12)");
  guarded(callee(), "", [&] { CHECK(called_plugin() == lasting); });
  guarded(callee(Origin::builtin), "", [&] { CHECK(called_plugin() == nullptr); });
}

TEST_CASE("registry: an entry calls its value guarded, and says so by the registry's noun") {
  const Registry<Function> registry(
      "doubler", {{{"twice", Origin::custom, false, 3, "mine.cpp", "mine"}, Function([](int x) {
                     return x < 0 ? throw std::range_error("below 0") : 2 * x;
                   })}});
  CHECK(registry.find("twice")->call(4) == 8);
  CHECK(error_of([&] { registry.find("twice")->call(-1); }) ==
        "the doubler 'twice' of plugin 'mine' (mine.cpp:3) failed: below 0 | this is a mistake in "
        "the plugin, not in the model");
  CHECK(error_of([&] { registry.find("twice")->refuse("it is odd", "make it even"); }) ==
        "the doubler 'twice' of plugin 'mine' (mine.cpp:3): it is odd | make it even");
}

TEST_CASE("registry: where an entry comes from, and what it takes the place of") {
  const Registry<int> registry("thing",
                               {{{"a", Origin::builtin, false, 0, "core.cpp"}, 1},
                                {{"A", Origin::custom, false, 7, "mine.cpp", "mine"}, 2},
                                {{"lab::a", Origin::custom, false, 8, "mine.cpp", "mine"}, 3}});
  CHECK(to_string(registry.provenance(*registry.find("a"))) == "builtin");
  const Provenance mine = registry.provenance(*registry.find("A"));
  CHECK(mine.kind == "thing");
  CHECK(to_string(mine) == "of plugin 'mine' (mine.cpp:7), in place of the builtin one");
  CHECK(to_string(registry.provenance(*registry.find("lab::a"))) ==
        "of plugin 'mine' (mine.cpp:8)");
}
