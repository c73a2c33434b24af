#include "tcast/config/node.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/base/text.h"
#include "tcast/config/document.h"
#include "tcast/config/json_scan.h"
#include "tcast/config/yaml_read.h"

namespace tcast {
namespace {

/// Values in messages are cut after this many bytes.
constexpr std::size_t shown_bytes = 60;

constexpr std::string_view too_large_hint =
    "a configuration is a small text file; weights are never read";

/// A number as JSON and YAML write it; nothing when a double cannot hold it.
std::optional<double> parse_number(std::string_view text) {
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Node Node::parse_json(std::string_view text, const std::string& file, int first_line) {
  require_size(text.size(), max_json_bytes, file, too_large_hint);
  DocumentBuilder builder(file);
  scan_json(text, builder, first_line);
  return {builder.finish(), 0};
}

Node Node::parse_yaml(std::string_view text, const std::string& file) {
  require_size(text.size(), max_yaml_bytes, file, too_large_hint);
  DocumentBuilder builder(file);
  read_yaml(text, builder);
  Node root(builder.finish(), 0);
  if (root.is_null()) root.fail("the file is empty, expected a YAML document");
  return root;
}

Node Node::load_json(const std::string& path) {
  return parse_json(read_file(path, max_json_bytes, too_large_hint), path);
}

Node Node::load_yaml(const std::string& path) {
  return parse_yaml(read_file(path, max_yaml_bytes, too_large_hint), path);
}

const Element& Node::element() const { return document_->elements[index_]; }

std::string_view Node::text() const { return document_->text_of(element()); }

bool Node::is_null() const { return element().kind == ElementKind::null; }
bool Node::is_map() const { return element().kind == ElementKind::map; }
bool Node::is_list() const { return element().kind == ElementKind::list; }
bool Node::is_string() const { return element().kind == ElementKind::string; }

bool Node::is_scalar() const { return !is_null() && !is_map() && !is_list(); }

std::string Node::place() const {
  const Mark mark = element().mark;
  const std::string keys = path();
  return fmt::format("{}:{}:{}{}{}", document_->file, mark.line, mark.column,
                     keys.empty() ? "" : ": ", keys);
}

int Node::line() const { return static_cast<int>(element().mark.line); }

std::string Node::json_string(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      quoted += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string Node::json_text() const {
  std::string inside;
  if (is_map()) {
    for (const auto& [key, value] : members()) {
      inside +=
          fmt::format("{}{}: {}", inside.empty() ? "" : ", ", json_string(key), value.json_text());
    }
    return "{" + inside + "}";
  }
  if (is_list()) {
    for (const Node& item : items()) inside += (inside.empty() ? "" : ", ") + item.json_text();
    return "[" + inside + "]";
  }
  if (is_null()) return "null";
  return is_string() ? json_string(text()) : std::string(text());
}

const std::string& Node::file() const { return document_->file; }

std::string Node::path() const {
  std::string path;
  const Element* current = &element();
  while (current->parent != Element::none) {
    const Element& parent = document_->elements[current->parent];
    if (parent.kind == ElementKind::list) {
      path.insert(0, fmt::format("[{}]", current->key));
    } else {
      path.insert(0, printable(document_->key_of(*current), shown_bytes));
    }
    if (parent.kind == ElementKind::map && parent.parent != Element::none) path.insert(0, ".");
    current = &parent;
  }
  return path;
}

std::string Node::description() const {
  switch (element().kind) {
    case ElementKind::null:
      return "null";
    case ElementKind::boolean:
      return std::string(text());
    case ElementKind::number:
      return fmt::format("the number {}", printable(text(), shown_bytes));
    case ElementKind::string:
      return fmt::format("the string \"{}\"", printable(text(), shown_bytes));
    case ElementKind::list:
      return element().size == 0 ? "an empty list" : fmt::format("a list of {}", element().size);
    case ElementKind::map:
      return element().size == 0 ? "an empty map" : "a map";
  }
  TCAST_CHECK(false, "unknown kind of element");
}

std::optional<Node> Node::find(std::string_view key) const {
  if (!is_map()) fail_expected("a map");
  const std::vector<Element>& elements = document_->elements;
  for (std::uint32_t i = element().first; i != Element::none; i = elements[i].next) {
    if (document_->key_of(elements[i]) == key) return Node(document_, i);
  }
  return std::nullopt;
}

Node Node::at(std::string_view key) const {
  if (std::optional<Node> found = find(key)) return *std::move(found);
  fail(fmt::format("expected the key '{}'", key), did_you_mean(key, keys()));
}

std::vector<std::string> Node::keys() const {
  std::vector<std::string> keys;
  for (auto& [key, value] : members()) keys.push_back(std::move(key));
  return keys;
}

std::vector<std::pair<std::string, Node>> Node::members() const {
  if (!is_map()) fail_expected("a map");
  const std::vector<Element>& elements = document_->elements;
  std::vector<std::pair<std::string, Node>> members;
  members.reserve(element().size);
  for (std::uint32_t i = element().first; i != Element::none; i = elements[i].next) {
    members.emplace_back(document_->key_of(elements[i]), Node(document_, i));
  }
  return members;
}

std::vector<Node> Node::items() const {
  if (!is_list()) fail_expected("a list");
  const std::vector<Element>& elements = document_->elements;
  std::vector<Node> items;
  items.reserve(element().size);
  for (std::uint32_t i = element().first; i != Element::none; i = elements[i].next) {
    items.push_back(Node(document_, i));
  }
  return items;
}

bool Node::as_bool() const {
  if (element().kind == ElementKind::boolean) return text() == "true";
  fail_expected("true or false");
}

std::int64_t Node::as_int() const {
  constexpr std::string_view expected = "a whole number";
  if (element().kind != ElementKind::number) fail_number(expected);
  std::string_view digits = text();
  if (digits.front() == '+') digits.remove_prefix(1);
  std::int64_t value = 0;
  const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (end == digits.data() + digits.size() && status == std::errc()) return value;
  if (end == digits.data() + digits.size()) fail_expected("a whole number of at most 64 bits");
  // Written with a point or an exponent: exact as far as every whole number is a double.
  constexpr double exact_limit = 9007199254740992;  // 2^53
  const std::optional<double> number = parse_number(digits);
  const bool is_whole = number && std::isfinite(*number) && *number == std::floor(*number);
  if (is_whole && std::abs(*number) <= exact_limit) return static_cast<std::int64_t>(*number);
  fail_expected(expected, is_whole ? "above 2^53 write it without point and exponent" : "");
}

double Node::as_number() const {
  if (element().kind != ElementKind::number) fail_number("a number");
  if (const std::optional<double> value = parse_number(text())) return *value;
  fail_expected("a number in the range of 64-bit floating point");
}

std::int64_t Node::as_int(std::int64_t least, std::int64_t most) const {
  const std::int64_t value = as_int();
  if (value >= least && value <= most) return value;
  fail_expected(fmt::format("a whole number from {} to {}", least, most));
}

double Node::as_number(double least, double most) const {
  const double value = as_number();
  if (value >= least && value <= most && std::isfinite(value)) return value;
  fail_expected(fmt::format("a number from {} to {}", least, most));
}

std::string Node::as_string() const {
  if (element().kind == ElementKind::string) return std::string(text());
  fail_expected("a string", is_scalar() ? "put it in quotes" : "");
}

void Node::fail_expected(std::string_view expected, std::string hint) const {
  fail(fmt::format("expected {}, got {}", expected, description()), std::move(hint));
}

void Node::fail(std::string_view message, std::string hint) const {
  throw Error(fmt::format("{}: {}", place(), message), std::move(hint));
}

void Node::fail_number(std::string_view expected) const {
  const bool quoted = element().kind == ElementKind::string && parse_number(text());
  fail_expected(expected, quoted ? "remove the quotes" : "");
}

}  // namespace tcast
