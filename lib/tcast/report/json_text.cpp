#include "tcast/report/json_text.h"

#include <cmath>
#include <iterator>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

/// Whether the byte stands for itself inside a JSON string.
bool is_plain(char c) { return c >= ' ' && c < '\x7f' && c != '"' && c != '\\'; }

/// Code point of one well-formed UTF-8 sequence.
std::uint32_t code_point(std::string_view sequence) {
  const auto byte = [&](std::size_t at) {
    return std::uint32_t{static_cast<unsigned char>(sequence[at])};
  };
  if (sequence.size() == 1) return byte(0);
  std::uint32_t point = byte(0) & (0x7Fu >> sequence.size());
  for (std::size_t i = 1; i < sequence.size(); ++i) point = point << 6 | (byte(i) & 0x3Fu);
  return point;
}

/// The character as an escape; above U+FFFF as two, a surrogate pair.
void append_escaped(std::string& out, std::string_view sequence) {
  const std::uint32_t point = code_point(sequence);
  const auto unit = [&](std::uint32_t value) {
    fmt::format_to(std::back_inserter(out), "\\u{:04x}", value);
  };
  if (point == '"' || point == '\\') {
    out += '\\';
    out += sequence;
  } else if (point == '\n') {
    out += "\\n";
  } else if (point < 0x10000) {
    unit(point);
  } else {
    unit(0xD800 + ((point - 0x10000) >> 10));
    unit(0xDC00 + ((point - 0x10000) & 0x3FF));
  }
}

}  // namespace

std::string valid_text(std::string_view text) {
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t length = utf8_length(rest);
    if (length == 0) return printable(text, std::string::npos);
    rest.remove_prefix(length);
  }
  return std::string(text);
}

void append_json_string(std::string& out, std::string_view text) {
  const std::size_t begin = out.size();
  out += '"';
  for (std::string_view rest = text; !rest.empty();) {
    std::size_t plain = 0;
    while (plain < rest.size() && is_plain(rest[plain])) ++plain;
    out += rest.substr(0, plain);
    rest.remove_prefix(plain);
    if (rest.empty()) break;
    const std::size_t length = utf8_length(rest);
    if (length == 0) {
      out.resize(begin);
      append_json_string(out, valid_text(text));
      return;
    }
    append_escaped(out, rest.substr(0, length));
    rest.remove_prefix(length);
  }
  out += '"';
}

std::string json_text(std::string_view text) {
  std::string json;
  append_json_string(json, text);
  return json;
}

std::string json_document(const nlohmann::ordered_json& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/true,
                   nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

void append_json_number(std::string& out, double value, std::string_view what) {
  TCAST_CHECK(std::isfinite(value), fmt::format("{} is not a finite number", what));
  fmt::format_to(std::back_inserter(out), "{}", value);
}

void JsonObjectWriter::name(std::string_view name) {
  if (!empty_) out_ += ',';
  empty_ = false;
  append_json_string(out_, name);
  out_ += ':';
}

void JsonObjectWriter::text(std::string_view name, std::string_view value) {
  this->name(name);
  append_json_string(out_, value);
}

void JsonObjectWriter::number(std::string_view name, double value) {
  this->name(name);
  append_json_number(out_, value, name);
}

void JsonObjectWriter::integer(std::string_view name, std::int64_t value) {
  this->name(name);
  fmt::format_to(std::back_inserter(out_), "{}", value);
}

}  // namespace tcast
