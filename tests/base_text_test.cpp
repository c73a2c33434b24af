#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/text.h"

TEST_CASE("closest finds what was meant, and nothing when nothing is near") {
  const std::vector<std::string> names = {"num_hidden_layers", "num_attention_heads", "tp", "qwen3",
                                          "qwen2"};
  struct Row {
    const char* name;
    const char* expected;
  };
  const Row rows[] = {
      {"num_hiden_layers", "num_hidden_layers"},
      {"num_hidden_layer", "num_hidden_layers"},
      {"NUM_hidden_layers", "num_hidden_layers"},
      {"num-attention-heads", "num_attention_heads"},
      {"qwen4", "qwen3"},  // equally near: the first one
      {"pt", ""},
      {"qewn3", "qwen3"},  // swapped neighbours are one edit
      {"ep", ""},          // half of the letters differ
      {"tp", "tp"},
      {"", ""},
      {"vocab_size", ""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    CHECK(tcast::closest(row.name, names) == row.expected);
  }
  CHECK(tcast::closest("x", {}).empty());
  CHECK(
      tcast::closest(std::string(1 << 20, 'x'), std::vector<std::string>{std::string(1 << 20, 'x')})
          .empty());
}

TEST_CASE("did_you_mean") {
  const std::vector<std::string> names = {"prefill", "decode"};
  CHECK(tcast::did_you_mean("decod", names) == "did you mean 'decode'?");
  CHECK(tcast::did_you_mean("train", names).empty());
  CHECK(tcast::did_you_mean("train", names, "one of prefill, decode") == "one of prefill, decode");
}

TEST_CASE("matches_pattern is Python's fnmatchcase") {
  struct Row {
    const char* name;
    const char* pattern;
    bool expected;
  };
  // Each expected value is what Python 3.11 answers.
  const Row rows[] = {
      {"", "", true},
      {"", "*", true},
      {"", "?", false},
      {"a", "", false},
      {"qwen3_moe", "qwen3_moe", true},
      {"qwen3_moe", "Qwen3_moe", false},
      {"qwen3_moe", "qwen3", false},
      {"qwen3_moe", "qwen3_moe_", false},
      {"qwen3_moe", "qwen3*", true},
      {"qwen3_moe", "*moe", true},
      {"qwen3_moe", "*_*", true},
      {"qwen3_moe", "q*3*m*e", true},
      {"qwen3_moe", "q*3*x*e", false},
      {"qwen3_moe", "qwen?_moe", true},
      {"qwen3_moe", "qwen??_moe", false},
      {"qwen3_moe", "qwen[0-9]_moe", true},
      {"qwen3_moe", "qwen[!0-9]_moe", false},
      {"qwenx_moe", "qwen[!0-9]_moe", true},
      {"model.layers.0.mlp", "model.layers.*", true},
      {"a\nb", "a?b", true},
      {"abab", "*ab", true},
      {"aXbab", "a*ab", true},
      // Sets: ']' first and '-' at either end are members, an unclosed '[' is a letter.
      {"]", "[]]", true},
      {"a", "[]a]", true},
      {"]", "[!]]", false},
      {"a", "[!]]", true},
      {"-", "[a-]", true},
      {"-", "[-a]", true},
      {"b", "[a-]", false},
      {"b", "[a-c-e]", true},
      {"-", "[a-c-e]", true},
      {"d", "[a-c-e]", false},
      {"b", "[c-a]", false},
      {"x", "[!c-a]", true},
      {"[a", "[a", true},
      {"a", "[a", false},
      {"[]", "[]", true},
      {"[!]", "[!]", true},
      {"[", "[[]", true},
      {"!", "[a!]", true},
      {"^", "[^a]", true},
      {"b", "[^a]", false},
      {"\\", "[\\]", true},
      {"\\*", "\\*", true},
      {"*", "\\*", false},
      {"*", "[*]", true},
      {"x", "[*]", false},
      // One letter is one code point.
      {"\xC3\xA9", "?", true},
      {"\xC3\xA9", "[\xC3\xA8-\xC3\xAA]", true},
      {"\xC3\xA9", "??", false},
      {"\xff", "?", true},
      {"\xff", "\xff", true},
      {"\xff", "\xfe", false},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    CAPTURE(row.pattern);
    CHECK(tcast::matches_pattern(row.name, row.pattern) == row.expected);
  }
}

TEST_CASE("matches_pattern does not blow up") {
  // Exponential for a backtracking matcher: 2^100 ways to part the name.
  const std::string name(2000, 'a');
  std::string pattern;
  for (int i = 0; i < 100; ++i) pattern += "*a";
  CHECK(tcast::matches_pattern(name, pattern));
  CHECK_FALSE(tcast::matches_pattern(name, pattern + "*b"));
}

TEST_CASE("literal patterns and how specific a pattern is") {
  struct Row {
    const char* pattern;
    bool literal;
    int length;
  };
  const Row rows[] = {
      {"", true, 0},           {"llama", true, 5},     {"llama*", false, 5},  {"*", false, 0},
      {"qwen?", false, 4},     {"qwen[23]", false, 4}, {"qwen[", true, 5},    {"qwen[]", true, 6},
      {"qwen[]x]_", false, 5}, {"[!a]b[c", false, 3},  {"\xC3\xA9", true, 1},
  };
  for (const Row& row : rows) {
    CAPTURE(row.pattern);
    CHECK(tcast::is_literal_pattern(row.pattern) == row.literal);
    CHECK(tcast::literal_length(row.pattern) == row.length);
  }
}

TEST_CASE("quantities have three significant digits and never a rounded-up unit") {
  struct Row {
    std::string actual;
    const char* expected;
  };
  const Row rows[] = {
      {tcast::format_bytes(0), "0 B"},
      {tcast::format_bytes(17), "17 B"},
      {tcast::format_bytes(1023), "1023 B"},
      {tcast::format_bytes(1023.7), "1.00 KiB"},
      {tcast::format_bytes(1024), "1.00 KiB"},
      {tcast::format_bytes(312 * 1024.0), "312 KiB"},
      {tcast::format_bytes(1023.6 * 1024), "1.00 MiB"},
      {tcast::format_bytes(9.996 * 1024), "10.0 KiB"},
      {tcast::format_bytes(99.96 * 1024), "100 KiB"},
      {tcast::format_bytes(1.5 * (1 << 30)), "1.50 GiB"},
      {tcast::format_bytes(-1.5 * (1 << 30)), "-1.50 GiB"},
      {tcast::format_bytes(5e18), "4441 PiB"},
      {tcast::format_seconds(0), "0 s"},
      {tcast::format_seconds(1.2), "1.20 s"},
      {tcast::format_seconds(0.0123), "12.3 ms"},
      {tcast::format_seconds(4.56e-6), "4.56 us"},
      {tcast::format_seconds(0.99949), "999 ms"},
      {tcast::format_seconds(0.9996), "1.00 s"},
      {tcast::format_seconds(123e-9), "123 ns"},
      {tcast::format_seconds(1e-12), "0.00 ns"},
      {tcast::format_seconds(86400), "86400 s"},
      {tcast::format_seconds(-0.0123), "-12.3 ms"},
      {tcast::format_seconds(std::numeric_limits<double>::infinity()), "inf s"},
      {tcast::format_count(0), "0"},
      {tcast::format_count(999), "999"},
      {tcast::format_count(999.6), "1.00 K"},
      {tcast::format_count(1000), "1.00 K"},
      {tcast::format_count(596049920), "596.05 M"},
      {tcast::format_count(671026404352.0), "671.03 B"},
      {tcast::format_count(999996000.0), "1.00 B"},
      {tcast::format_count(1.04e12), "1.04 T"},
      {tcast::format_count(5e18), "5000000.00 T"},
      {tcast::format_grouped(0), "0"},
      {tcast::format_grouped(999), "999"},
      {tcast::format_grouped(1000), "1,000"},
      {tcast::format_grouped(671026404352), "671,026,404,352"},
      {tcast::format_grouped(-1000), "-1,000"},
      {tcast::format_grouped(-999), "-999"},
      {tcast::format_grouped(std::numeric_limits<std::int64_t>::min()),
       "-9,223,372,036,854,775,808"},
  };
  for (const Row& row : rows) CHECK(row.actual == row.expected);
}

TEST_CASE("join and split") {
  using Parts = std::vector<std::string>;
  CHECK(tcast::join(Parts{}, ", ").empty());
  CHECK(tcast::join(Parts{"a"}, ", ") == "a");
  CHECK(tcast::join(Parts{"a", "", "b"}, ", ") == "a, , b");
  CHECK(tcast::split("", '.') == Parts{""});
  CHECK(tcast::split("model.layers.0", '.') == Parts{"model", "layers", "0"});
  CHECK(tcast::split(".a.", '.') == Parts{"", "a", ""});
}

TEST_CASE("printable shows what a terminal would obey") {
  struct Row {
    std::string text;
    const char* expected;
  };
  const Row rows[] = {
      {"", ""},
      {"plain text", "plain text"},
      {"caf\xC3\xA9 \xF0\x9F\x98\x80", "caf\xC3\xA9 \xF0\x9F\x98\x80"},
      {"\x1b[31mred", "\\x1b[31mred"},
      {"a\nb\tc", "a\\x0ab\\x09c"},
      {std::string("a\0b", 3), "a\\x00b"},
      {"\x7f", "\\x7f"},
      {"\xff\xfe", "\\xff\\xfe"},
      {"\xC3", "\\xc3"},
      {"\xC2\x9B", "\\xc2\\x9b"},           // C1: control sequence introducer
      {"\xE2\x80\xAE", "\\xe2\\x80\\xae"},  // right-to-left override
      {"\xED\xA0\x80", "\\xed\\xa0\\x80"},  // a surrogate
      {"\xC0\x80", "\\xc0\\x80"},           // overlong
      // R10: what hides or reorders text without being a control character.
      {"\xC2\xAD", "\\xc2\\xad"},                                // soft hyphen
      {"\xD8\x9C", "\\xd8\\x9c"},                                // Arabic letter mark
      {"\xE2\x80\x8B", "\\xe2\\x80\\x8b"},                       // zero width space
      {"\xE2\x80\x8F", "\\xe2\\x80\\x8f"},                       // right-to-left mark
      {"\xE2\x80\xA8", "\\xe2\\x80\\xa8"},                       // line separator
      {"\xE2\x81\xA6", "\\xe2\\x81\\xa6"},                       // left-to-right isolate
      {"\xEF\xBB\xBF", "\\xef\\xbb\\xbf"},                       // byte order mark
      {"\xF3\xA0\x81\x81", "\\xf3\\xa0\\x81\\x81"},              // a tag letter
      {"\xE2\x80\xA6\xE4\xB8\xAD", "\xE2\x80\xA6\xE4\xB8\xAD"},  // an ellipsis, a Chinese letter
  };
  for (const Row& row : rows) CHECK(tcast::printable(row.text) == row.expected);

  CHECK(tcast::printable("abcdef", 6) == "abcdef");
  CHECK(tcast::printable("abcdefg", 6) == "abcdef...");
  CHECK(tcast::printable("abcde\xC3\xA9", 6) == "abcde...");  // never half a character
  CHECK(tcast::printable("abc\x1b", 6) == "abc...");          // nor half an escape
  CHECK(tcast::printable(std::string(1000, 'x')).size() == 83);
}

TEST_CASE("printable_lines keeps line feeds and nothing else that a terminal would obey") {
  CHECK(tcast::printable_lines("") == "");
  CHECK(tcast::printable_lines("a\n\nb\n") == "a\n\nb\n");
  CHECK(tcast::printable_lines("a\r\n\x1b[2Jb\t\xff\n") == "a\\x0d\n\\x1b[2Jb\\x09\\xff\n");
  const std::string long_text(100'000, 'x');
  CHECK(tcast::printable_lines(long_text) == long_text);
}

TEST_CASE("utf8_length accepts what Unicode calls well-formed, and nothing else") {
  struct Row {
    std::string text;
    std::size_t expected;
  };
  const Row rows[] = {
      {"", 0},
      {"a", 1},
      {"\x7f", 1},
      {std::string(1, '\0'), 1},
      {"\x80", 0},
      {"\xC1\xBF", 0},  // overlong
      {"\xC2\x80", 2},
      {"\xC2", 0},
      {"\xC2\x41", 0},
      {"\xDF\xBF", 2},
      {"\xE0\x9F\xBF", 0},  // overlong
      {"\xE0\xA0\x80", 3},
      {"\xE2\x82", 0},
      {"\xED\x9F\xBF", 3},
      {"\xED\xA0\x80", 0},  // surrogates
      {"\xED\xBF\xBF", 0},
      {"\xEE\x80\x80", 3},
      {"\xEF\xBF\xBFx", 3},
      {"\xF0\x8F\xBF\xBF", 0},  // overlong
      {"\xF0\x90\x80\x80", 4},
      {"\xF0\x90\x80\x28", 0},
      {"\xF4\x8F\xBF\xBF", 4},
      {"\xF4\x90\x80\x80", 0},  // beyond U+10FFFF
      {"\xF5\x80\x80\x80", 0},
  };
  for (const Row& row : rows) {
    CAPTURE(tcast::printable(row.text));
    CHECK(tcast::utf8_length(row.text) == row.expected);
  }
}
