// Names, patterns, scopes, overrides and references of a registry, and what the order of
// registering does to them: nothing.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/registry.h"

#include "error_of.h"

using namespace tcast;

namespace {

using Entry = RegistryEntry<int>;

Entry entry(const char* pattern, int value, Origin origin = Origin::custom,
            const char* plugin = "mine") {
  static std::map<int, std::string> files;  // live as long as the program
  std::string& file = files[value];
  file = "file_" + std::to_string(value) + ".cpp";
  return {{pattern, origin, false, value, file, plugin}, value};
}

/// Text of what find() says, "null" for nothing.
std::string found(const Registry<int>& registry, const char* name) {
  std::string text;
  const std::string error = error_of([&] {
    const Entry* const one = registry.find(name);
    text = one == nullptr ? "null" : std::to_string(one->data());
  });
  return error.empty() ? text : error;
}

std::string resolved(const Registry<int>& registry, const char* reference) {
  std::string text;
  const std::string error =
      error_of([&] { text = std::to_string(registry.resolve(reference).data()); });
  return error.empty() ? text : error;
}

Registry<int> sample() {
  return {
      "thing",
      {entry("llama", 1, Origin::builtin, "llama"), entry("qwen*", 2, Origin::builtin, "qwen"),
       entry("qwen2", 3, Origin::builtin, "qwen"), entry("Llama_Two", 4),
       entry("qwen*", 5, Origin::custom, "other"), entry("lab::llama", 6, Origin::custom, "lab"),
       entry("yard::llama", 7, Origin::custom, "yard")}};
}

}  // namespace

TEST_CASE("registry: custom before builtin, exact before pattern, more letters before fewer") {
  const Registry<int> registry = sample();
  CHECK(found(registry, "llama") == "1");
  CHECK(found(registry, "qwen2") == "5");  // a custom pattern before a builtin name
  CHECK(found(registry, "qwen3") == "5");
  CHECK(found(registry, "none") == "null");
  Registry<int> letters("thing");
  letters.add(entry("ab*", 1));
  letters.add(entry("abc*", 2));
  letters.add(entry("abcd", 3));
  CHECK(found(letters, "abcd") == "3");
  CHECK(found(letters, "abcx") == "2");
  CHECK(found(letters, "abx") == "1");
}

TEST_CASE("registry: scopes") {
  const Registry<int> registry = sample();
  // A scope that is named is looked into alone.
  CHECK(found(registry, "builtin::qwen2") == "3");
  CHECK(found(registry, "custom::llama") == "null");
  CHECK(found(registry, "lab::llama") == "6");
  CHECK(found(registry, "yard::llama") == "7");
  CHECK(found(registry, "nowhere::llama") == "null");
  // A plain name is looked for in custom and then in its parent, never in a scope of its own.
  CHECK(found(registry, "llama") == "1");
  CHECK(found(registry, "qwen2") == "5");
}

TEST_CASE("registry: duplicates and ties name both places, and leave the rest working") {
  const Registry<int> registry(
      "thing", {entry("a", 1), entry("a", 2), entry("b*d", 3), entry("*cd", 4), entry("e", 5)});
  const char* const hint =
      " | remove one of the two registrations, rename it, or register it as overriding(\"name\")";
  CHECK(found(registry, "a") ==
        std::string("thing 'a' is registered twice: file_1.cpp:1 and file_2.cpp:2") + hint);
  CHECK(found(registry, "bcd") ==
        "thing 'bcd' is matched equally well by '*cd' (file_4.cpp:4) and 'b*d' (file_3.cpp:3) | "
        "register the exact name 'bcd' in one of them");
  CHECK(found(registry, "e") == "5");
  CHECK(registry.duplicates() ==
        std::vector<std::string>{"thing 'a' is registered twice: file_1.cpp:1 and file_2.cpp:2"});
  Registry<int> by_hand("thing");
  by_hand.add(entry("a", 1));
  CHECK(error_of([&] { by_hand.add(entry("a", 2)); }) ==
        std::string("thing 'a' is registered twice: file_1.cpp:1 and file_2.cpp:2") + hint);
  // One in each folder is no duplicate, nor one in each scope.
  by_hand = Registry<int>("thing");
  by_hand.add(entry("a", 1));
  by_hand.add(entry("a", 2, Origin::builtin));
  by_hand.add(entry("lab::a", 3));
  CHECK(found(by_hand, "a") == "1");
  CHECK(error_of([&] { by_hand.add(entry("", 4)); }) ==
        "file_4.cpp:4: thing registered under an empty name | give the registration a name or a "
        "pattern");
  CHECK(error_of([&] { by_hand.add(entry("builtin::x", 5)); }) ==
        "file_5.cpp:5: thing 'builtin::x' is registered from the custom folder | leave out the "
        "scope, or choose a name of your own for it");
}

TEST_CASE("registry: an explicit override takes a name's place") {
  Entry replaces = entry("a", 2);
  replaces.overrides = true;
  Registry<int> registry("thing", {entry("a", 1), replaces, entry("b", 3)});
  CHECK(found(registry, "a") == "2");
  CHECK(registry.duplicates().empty());
  REQUIRE(registry.overridden().size() == 1);
  CHECK(registry.overridden()[0].data() == 1);
  Entry again = entry("a", 4);
  again.overrides = true;
  CHECK(error_of([&] { registry.add(again); }).find("registered twice") != std::string::npos);
}

TEST_CASE("registry: references by name in any case, by plugin:name and plugin.name") {
  const Registry<int> registry = sample();
  struct {
    const char* reference;
    const char* expected;
  } const cases[] = {
      {"llama", "1"},
      {"LLAMA_two", "4"},
      {"mine:llama_two", "4"},
      {"mine.Llama_Two", "4"},
      {"LLAMA:llama", "1"},
      {"other:qwen*", "5"},
      {"qwen.qwen2", "3"},
      {"builtin::QWEN2", "3"},
      {"lama", "no thing 'lama' is registered | did you mean 'llama'?"},
      {"mine:lama_two", "no thing 'mine:lama_two' is registered | did you mean 'mine:Llama_Two'?"},
      {":",
       "no thing ':' is registered | known are Llama_Two, lab::llama, llama, qwen2, "
       "yard::llama"},
      {"",
       "no thing '' is registered | known are Llama_Two, lab::llama, llama, qwen2, "
       "yard::llama"},
  };
  for (const auto& one : cases) {
    CAPTURE(one.reference);
    CHECK(resolved(registry, one.reference) == one.expected);
  }
}

TEST_CASE("registry: the entry of a failed plugin says so when it would win") {
  Entry failed = entry("a", 1);
  failed.failure = "it threw";
  const Registry<int> registry("thing", {failed, entry("a", 2, Origin::builtin), entry("b", 3)});
  CHECK(found(registry, "a") ==
        "thing 'a' belongs to the plugin 'mine' (file_1.cpp:1), which failed: it threw | 'tcast "
        "plugins' shows what is wrong; TCAST_PLUGIN_TRACE=1 prints nested causes");
  CHECK(found(registry, "builtin::a") == "2");
  CHECK(found(registry, "b") == "3");
}

TEST_CASE("registry: whether a name is taken") {
  const Registry<int> registry = sample();
  CHECK(registry.is_taken("llama"));
  CHECK(registry.is_taken("qwen*"));
  CHECK_FALSE(registry.is_taken("qwen7"));
  CHECK(registry.is_taken("lab::llama"));
  CHECK_FALSE(registry.is_taken("lab::qwen2"));
  CHECK_FALSE(registry.is_taken("custom::llama"));
}

TEST_CASE("registry: look-up by what the value accepts") {
  const Registry<int> registry("thing", {entry("two", 2), entry("three", 3), entry("six", 6),
                                         entry("all", 30, Origin::builtin)});
  const auto divides = [&](int number) {
    std::string text;
    const std::string error = error_of([&] {
      const auto* const one = registry.match(
          [number](const Entry& entry) { return number % entry.data() == 0; }, "the number");
      text = one == nullptr ? "null" : one->pattern;
    });
    return error.empty() ? text : error;
  };
  CHECK(divides(4) == "two");
  CHECK(divides(7) == "null");
  // Custom wins over builtin, two custom ones are a tie.
  CHECK(
      divides(30) ==
      "the number is recognised by thing 'three' (file_3.cpp:3) and by 'six' (file_6.cpp:6) | make "
      "one of the two predicates narrower");
}

TEST_CASE("registry: the order of registering changes nothing") {
  std::vector<Entry> entries;
  const Registry<int> first = sample();
  for (const Entry* one : first.entries()) {
    Entry& again = entries.emplace_back(*one);
    if (again.scope.empty()) continue;
    again.pattern = again.scope == "lab" ? "lab::llama" : "yard::llama";
    again.scope = {};
  }
  entries.push_back(entry("tie*", 8));
  entries.push_back(entry("*tie", 9));
  entries.push_back(entry("twice", 10));
  entries.push_back(entry("twice", 11));
  Entry replaces = entry("Llama_Two", 12);
  replaces.overrides = true;
  entries.push_back(replaces);
  const auto answers = [](const Registry<int>& registry) {
    std::string text;
    for (const char* name :
         {"llama", "qwen2", "qwen7", "tietie", "twice", "lab::llama", "Llama_Two"}) {
      text += found(registry, name) + "\n";
    }
    for (const Entry* one : registry.entries())
      text += std::string(one->pattern) + one->place() + " ";
    return text + resolved(registry, "LLAMA_two");
  };
  const std::string expected = answers({"thing", entries});
  for (unsigned seed = 0; seed < 50; ++seed) {
    std::shuffle(entries.begin(), entries.end(), std::mt19937(seed));
    CHECK(answers({"thing", entries}) == expected);
  }
}
