#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/base/export.h"

namespace tcast {

struct Document;
struct Element;

/// Most bytes of a JSON and of a YAML document (decision D10). The largest published config has 3.1
/// MB (MiniMax-M3: a list of the modules that are not quantized). Profiles and devices have a few
/// kilobytes of YAML, of which yaml-cpp 0.7 takes up to 240 bytes of memory for each byte.
inline constexpr std::size_t max_json_bytes = std::size_t{16} << 20;
inline constexpr std::size_t max_yaml_bytes = std::size_t{1} << 20;

/// A place in a parsed JSON or YAML document, with typed access. Every error names
/// file:line:column and the key path ("config.json:12:9: rope_scaling.factor: expected a number,
/// got a list of 3"). Cheap to copy; keeps its document alive.
class TCAST_API Node {
 public:
  /// Parses strict JSON (decision D10: one document, JSON grammar plus NaN and Infinity, no
  /// duplicate keys, nesting <= 64, at most 16 MiB and 2^20 values). `file` is used in messages
  /// only, and `first_line` is the number that the text's first line has in it. Throws Error.
  static Node parse_json(std::string_view text, const std::string& file, int first_line = 1);

  /// Parses YAML of at most 1 MiB, else under the same limits, without aliases. Throws Error.
  static Node parse_yaml(std::string_view text, const std::string& file);

  /// Reads and parses a file. Throws Error with the system's reason when it cannot be read.
  static Node load_json(const std::string& path);
  static Node load_yaml(const std::string& path);

  bool is_null() const;
  bool is_map() const;
  bool is_list() const;
  bool is_scalar() const;
  bool is_string() const;

  /// "file:line:column: key.path" of this node, the prefix of every error about it.
  std::string place() const;

  /// The file as it was named when it was parsed, and the line, from 1.
  const std::string& file() const;
  int line() const;

  /// The path of keys from the document's root ("text_config.layer_types[3]"), "" for the root.
  std::string path() const;

  /// "a map", "a list of 3", "the string \"32\"", "the number 4.5", "null": for messages.
  std::string description() const;

  /// Member of a map; nothing when absent. Throws Error when this node is not a map.
  std::optional<Node> find(std::string_view key) const;

  /// Member of a map that must be there. Throws Error naming the key and the closest one present.
  Node at(std::string_view key) const;

  /// Keys of a map in document order. Throws Error when this node is not a map.
  std::vector<std::string> keys() const;

  /// Keys and values of a map in document order. Throws Error when this node is not a map.
  std::vector<std::pair<std::string, Node>> members() const;

  /// Elements of a list. Throws Error when this node is not a list.
  std::vector<Node> items() const;

  /// Typed value of a scalar. A quoted "32" is not a number, 4.0 is a whole number, 4.5 is not,
  /// true is not 1. Throws Error saying what was expected and what was found.
  bool as_bool() const;
  std::int64_t as_int() const;
  /// From `least` to `most`.
  std::int64_t as_int(std::int64_t least, std::int64_t most) const;
  double as_number() const;
  /// Neither NaN nor infinite, from `least` to `most`.
  double as_number(double least, double most) const;
  std::string as_string() const;

  /// The value as JSON on one line; numbers as they were written.
  std::string json_text() const;
  /// A text as a JSON string.
  static std::string json_string(std::string_view text);

  /// Throws Error "<place>: expected <expected>, got <description>".
  [[noreturn]] void fail_expected(std::string_view expected, std::string hint = {}) const;

  /// Throws Error "<place>: <message>".
  [[noreturn]] void fail(std::string_view message, std::string hint = {}) const;

 private:
  friend class HfConfig;  // marks what was read by index_

  Node(std::shared_ptr<const Document> document, std::uint32_t index)
      : document_(std::move(document)), index_(index) {}

  /// Fails for something that is no number; says so when it would be one without its quotes.
  [[noreturn]] void fail_number(std::string_view expected) const;

  const Element& element() const;
  std::string_view text() const;

  std::shared_ptr<const Document> document_;  // shared by all nodes of one document
  std::uint32_t index_ = 0;
};

}  // namespace tcast
