#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

// What is behind Node: one plain immutable tree per file, whichever language it was written in. The
// JSON scanner and the YAML reader both hand their events to a DocumentBuilder, so that limits,
// duplicate keys and places are treated the same.

namespace tcast {

/// Most values of a document and deepest nesting: enough for any real file, and what keeps hostile
/// ones cheap (decision D10). A value takes 44 bytes of memory beside its text.
inline constexpr std::size_t max_document_values = std::size_t{1} << 20;
inline constexpr std::size_t max_document_depth = 64;

/// A place in a text; line and column count from 1, columns in bytes.
struct Mark {
  std::uint32_t line = 1;
  std::uint32_t column = 1;
};

enum class ElementKind : std::uint8_t { null, boolean, number, string, list, map };

/// One value of a document. Values refer to each other, and to the text, by index.
struct Element {
  static constexpr std::uint32_t none = 0xFFFFFFFF;

  ElementKind kind = ElementKind::null;
  Mark mark;
  std::uint32_t parent = none;
  std::uint32_t next = none;   ///< the following child of the same parent
  std::uint32_t first = none;  ///< list, map: first child; else: where its text begins
  std::uint32_t size = 0;      ///< list, map: number of children; else: bytes of its text
  std::uint32_t key = 0;       ///< member of a map: where its key begins; of a list: its position
  std::uint32_t key_size = 0;
};

/// A parsed file. elements[0] is the outermost value; children stand behind their parents.
struct Document {
  std::string file;  ///< for messages, safe to print
  std::string text;  ///< all keys and scalars, unescaped
  std::vector<Element> elements;

  /// Key of a member of a map.
  std::string_view key_of(const Element& element) const {
    return std::string_view(text).substr(element.key, element.key_size);
  }

  /// Text of a scalar.
  std::string_view text_of(const Element& element) const {
    return std::string_view(text).substr(element.first, element.size);
  }
};

/// Makes a Document from a parser's events. Throws Error for nesting that is too deep, for too many
/// values and for duplicate keys; relies on the parser for everything else about their order.
class DocumentBuilder {
 public:
  explicit DocumentBuilder(std::string_view file);

  /// Announces the key of the next value of the innermost map.
  void key(std::string_view text);

  void scalar(Mark mark, ElementKind kind, std::string_view text);

  /// Begins a list or a map, which takes all values up to its close().
  void open(Mark mark, ElementKind kind);
  void close();

  bool is_open() const { return !open_.empty(); }

  /// The innermost list or map that is open; is_open() must hold.
  const Element& innermost() const { return document_->elements[open_.back().index]; }

  /// True in a map whose next event must be a key.
  bool wants_key() const { return is_open() && innermost().kind == ElementKind::map && !has_key_; }

  /// True when there is at least one value.
  bool has_value() const { return !document_->elements.empty(); }

  std::shared_ptr<const Document> finish() { return std::move(document_); }

  /// Throws Error "<file>:<line>:<column>: <message>".
  [[noreturn]] void fail(Mark mark, std::string_view message, std::string hint = {}) const;

 private:
  struct Open {
    std::uint32_t index;
    std::uint32_t last_child;
  };

  std::uint32_t store(std::string_view text);
  std::uint32_t add(Element element);
  void reject_duplicate_keys(const Element& map) const;

  std::shared_ptr<Document> document_;
  std::vector<Open> open_;
  std::uint32_t key_ = 0;
  std::uint32_t key_size_ = 0;
  bool has_key_ = false;
};

}  // namespace tcast
