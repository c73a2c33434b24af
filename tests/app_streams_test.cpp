// The streams that a person reads: nothing that a terminal would obey comes through.
#include <initializer_list>
#include <sstream>
#include <string>

#include <doctest/doctest.h>

#include "app/streams.h"

namespace {

/// What arrives of a text that is written in pieces of `size` bytes.
std::string passed(const std::string& text, std::size_t size) {
  std::ostringstream target;
  {
    tcast::PrintableStream stream(target);
    for (std::size_t at = 0; at < text.size(); at += size) {
      if (size == 1) {
        stream.put(text[at]);
      } else {
        stream << text.substr(at, size);
      }
    }
  }
  return target.str();
}

}  // namespace

// R10
TEST_CASE("printable stream: a character may come in pieces, and what is none is shown") {
  const std::string text =
      "plain\n\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80 \x1b[31m \xC2\x9B \xE2\x80\xAE \xff\xC3 \x80\n"
      "end \xF0\x9F";
  const std::string expected =
      "plain\n\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80 \\x1b[31m \\xc2\\x9b \\xe2\\x80\\xae "
      "\\xff\\xc3 "
      "\\x80\nend \\xf0\\x9f";
  for (const std::size_t size : std::initializer_list<std::size_t>{1, 2, 3, 5, 1000})
    CHECK(passed(text, size) == expected);
}

TEST_CASE("printable stream: a stream that takes no more is bad") {
  std::ostringstream target;
  tcast::PrintableStream stream(target);
  stream << "a";
  CHECK(target.str() == "a");
  target.setstate(std::ios::badbit);
  stream << "b" << std::flush;
  CHECK_FALSE(stream);
}

TEST_CASE("say: one line, whatever the text has") {
  std::ostringstream err;
  tcast::say(err, "warning", "a\ntcast: error: b\x1b");
  CHECK(err.str() == "tcast: warning: a\\x0atcast: error: b\\x1b\n");
}
