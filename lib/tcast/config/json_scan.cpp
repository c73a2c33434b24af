#include "tcast/config/json_scan.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include <fmt/format.h>

#include "tcast/base/text.h"

namespace tcast {
namespace {

constexpr std::uint32_t no_hex = 0xFFFFFFFF;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Letters of which bare words are made, with what people write for numbers and comments.
bool is_word(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
         c == '+' || c == '.';
}

void append_utf8(std::string& out, std::uint32_t point) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0 | point >> 6);
    put(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    put(0xE0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  } else {
    put(0xF0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3F));
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  }
}

class JsonScanner {
 public:
  JsonScanner(std::string_view text, DocumentBuilder& builder, int first_line)
      : text_(text), builder_(builder), line_(static_cast<std::uint32_t>(first_line)) {}

  void scan() {
    constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
    if (text_.substr(0, byte_order_mark.size()) == byte_order_mark) {
      at_ = line_begin_ = byte_order_mark.size();
    }
    skip_space();
    if (at_end()) builder_.fail(mark(), "the file is empty, expected a JSON value");
    scan_value();
    while (builder_.is_open()) scan_next_of_container();
    skip_space();
    if (!at_end()) fail_expected("the end of the file");
  }

 private:
  bool at_end() const { return at_ == text_.size(); }

  /// The character at the current place; '\0', which is valid nowhere, at the end.
  char current() const { return at_end() ? '\0' : text_[at_]; }

  Mark mark_of(std::size_t at) const {
    return {line_, static_cast<std::uint32_t>(at - line_begin_ + 1)};
  }
  Mark mark() const { return mark_of(at_); }

  void skip_space() {
    for (; !at_end(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
        line_begin_ = at_ + 1;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        return;
      }
    }
  }

  /// What stands at the current place, for messages.
  std::string found() const {
    if (at_end()) return "the end of the file";
    std::size_t end = at_;
    while (end < text_.size() && is_word(text_[end])) ++end;
    if (end == at_) end += std::max<std::size_t>(utf8_length(text_.substr(at_)), 1);
    return fmt::format("'{}'", printable(text_.substr(at_, end - at_), 40));
  }

  /// What people who write Python or JavaScript by hand get wrong.
  std::string hint() const {
    const std::string_view rest = text_.substr(at_);
    const auto begins = [&](std::string_view prefix) {
      return rest.substr(0, prefix.size()) == prefix;
    };
    if (begins("'")) return "JSON has strings in double quotes only";
    if (begins("//") || begins("/*") || begins("#")) return "JSON has no comments, remove them";
    if (begins("True")) return "write true";
    if (begins("False")) return "write false";
    if (begins("None")) return "write null";
    return {};
  }

  [[noreturn]] void fail_expected(std::string_view expected) const {
    builder_.fail(mark(), fmt::format("expected {}, got {}", expected, found()), hint());
  }

  /// The next key and value, or value, of the innermost map or list, or its end.
  void scan_next_of_container() {
    const Element container = builder_.innermost();
    const bool is_map = container.kind == ElementKind::map;
    const char end = is_map ? '}' : ']';
    skip_space();
    if (current() == end && !at_end()) {
      ++at_;
      builder_.close();
      return;
    }
    if (at_end()) {
      builder_.fail(mark(),
                    fmt::format("expected '{}' for the {} that begins on line {}, got the end of "
                                "the file",
                                end, is_map ? "map" : "list", container.mark.line),
                    "the file seems to be cut off");
    }
    if (container.size > 0) {
      if (current() != ',') fail_expected(is_map ? "',' or '}'" : "',' or ']'");
      const Mark comma = mark();
      ++at_;
      skip_space();
      if (current() == end) {
        builder_.fail(comma, fmt::format("expected no ',' before '{}'", end), "remove the ','");
      }
    }
    if (is_map) scan_key();
    scan_value();
  }

  void scan_key() {
    if (current() != '"') fail_expected("a key in double quotes");
    builder_.key(scan_string());
    skip_space();
    if (current() != ':') fail_expected("':' after the key");
    ++at_;
    skip_space();
  }

  void scan_value() {
    switch (current()) {
      case '{':
        builder_.open(mark(), ElementKind::map);
        ++at_;
        return;
      case '[':
        builder_.open(mark(), ElementKind::list);
        ++at_;
        return;
      case '"': {
        const Mark begin = mark();
        builder_.scalar(begin, ElementKind::string, scan_string());
        return;
      }
      default:
        scan_bare();
    }
  }

  /// A number or one of the words.
  void scan_bare() {
    std::size_t end = at_;
    while (end < text_.size() && is_word(text_[end])) ++end;
    const std::string_view word = text_.substr(at_, end - at_);
    ElementKind kind = ElementKind::number;
    if (word == "null") {
      kind = ElementKind::null;
    } else if (word == "true" || word == "false") {
      kind = ElementKind::boolean;
    } else if (!is_number(word) && word != "NaN" && word != "Infinity" && word != "-Infinity") {
      if (word.empty() ||
          !(is_digit(word[0]) || word[0] == '-' || word[0] == '+' || word[0] == '.')) {
        fail_expected("a value");
      }
      builder_.fail(mark(), fmt::format("{} is no JSON number", found()));
    }
    builder_.scalar(mark(), kind, word);
    at_ = end;
  }

  static bool is_number(std::string_view word) {
    const auto skip_digits = [&word] {
      const std::size_t count = std::min(word.find_first_not_of("0123456789"), word.size());
      word.remove_prefix(count);
      return count > 0;
    };
    const auto skip = [&word](std::string_view letters) {
      const bool found = !word.empty() && letters.find(word[0]) != std::string_view::npos;
      if (found) word.remove_prefix(1);
      return found;
    };
    skip("-");
    if (!skip("0") && !skip_digits()) return false;
    if (skip(".") && !skip_digits()) return false;
    if (skip("eE")) {
      skip("+-");
      if (!skip_digits()) return false;
    }
    return word.empty();
  }

  /// The value of the string that begins here; valid until the next call.
  std::string_view scan_string() {
    const std::size_t quote = at_++;
    const std::size_t begin = at_;
    bool escaped = false;  // then the value is in buffer_, else it is the text itself
    while (true) {
      if (at_end()) {
        builder_.fail(mark_of(quote),
                      "expected '\"' at the end of the string, got the end of the "
                      "file");
      }
      const auto c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') break;
      if (c == '\n' || c == '\r') {
        builder_.fail(mark_of(quote),
                      "expected '\"' at the end of the string, got the end of the "
                      "line");
      }
      if (c < 0x20) {
        builder_.fail(mark(), fmt::format("control character {} in a string", found()),
                      fmt::format("write \\u{:04x}", c));
      }
      if (c == '\\') {
        if (!escaped) buffer_ = text_.substr(begin, at_ - begin);
        escaped = true;
        scan_escape();
        continue;
      }
      const std::size_t length = utf8_length(text_.substr(at_));
      if (length == 0) {
        builder_.fail(mark(), fmt::format("{} is no valid UTF-8", found()));
      }
      if (escaped) buffer_ += text_.substr(at_, length);
      at_ += length;
    }
    const std::string_view value =
        escaped ? std::string_view(buffer_) : text_.substr(begin, at_ - begin);
    ++at_;
    return value;
  }

  /// Appends to buffer_ what the escape that begins here stands for.
  void scan_escape() {
    constexpr std::string_view letters = "\"\\/bfnrt";
    constexpr std::string_view values = "\"\\/\b\f\n\r\t";
    const std::size_t begin = at_++;
    const std::size_t simple = letters.find(current());
    if (!at_end() && simple != std::string_view::npos) {
      buffer_ += values[simple];
      ++at_;
      return;
    }
    std::uint32_t point = current() == 'u' ? scan_hex() : no_hex;
    if (point == no_hex) {
      builder_.fail(
          mark_of(begin),
          fmt::format("invalid escape '{}' in a string", printable(text_.substr(begin, 2), 8)),
          "after \\ comes one of \" \\ / b f n r t or u with four hexadecimal digits");
    }
    // UTF-16 code units: a character above U+FFFF is written as two.
    const bool is_high = point >= 0xD800 && point < 0xDC00;
    bool lone = point >= 0xDC00 && point < 0xE000;
    if (is_high) {
      const bool pair = text_.substr(at_, 2) == "\\u";
      if (pair) ++at_;
      const std::uint32_t low = pair ? scan_hex() : no_hex;
      lone = low < 0xDC00 || low >= 0xE000;
      point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    if (lone) {
      builder_.fail(mark_of(begin),
                    fmt::format("'{}' is half of a surrogate pair", text_.substr(begin, 6)));
    }
    append_utf8(buffer_, point);
  }

  /// The four hexadecimal digits after the 'u' that stands here, or no_hex.
  std::uint32_t scan_hex() {
    ++at_;
    if (text_.size() - at_ < 4) return no_hex;
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = text_[at_++];
      std::uint32_t digit = 0;
      if (is_digit(c)) {
        digit = static_cast<std::uint32_t>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        digit = static_cast<std::uint32_t>(c - 'a' + 10);
      } else if (c >= 'A' && c <= 'F') {
        digit = static_cast<std::uint32_t>(c - 'A' + 10);
      } else {
        return no_hex;
      }
      value = value << 4 | digit;
    }
    return value;
  }

  std::string_view text_;
  DocumentBuilder& builder_;
  std::string buffer_;
  std::size_t at_ = 0;
  std::size_t line_begin_ = 0;
  std::uint32_t line_;
};

}  // namespace

void scan_json(std::string_view text, DocumentBuilder& builder, int first_line) {
  JsonScanner(text, builder, first_line).scan();
}

}  // namespace tcast
