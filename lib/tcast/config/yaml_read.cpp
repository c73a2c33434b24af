#include "tcast/config/yaml_read.h"

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <sstream>
#include <string>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

/// YAML 1.2.2, section 10.3.2, without octal and hexadecimal numbers.
bool is_number(std::string_view text) {
  const auto skip_digits = [&text] {
    const std::size_t count = std::min(text.find_first_not_of("0123456789"), text.size());
    text.remove_prefix(count);
    return count > 0;
  };
  const auto skip = [&text](std::string_view letters) {
    const bool found = !text.empty() && letters.find(text[0]) != std::string_view::npos;
    if (found) text.remove_prefix(1);
    return found;
  };
  skip("+-");
  const bool whole = skip_digits();
  if (!(skip(".") && skip_digits()) && !whole) return false;
  if (skip("eE")) {
    skip("+-");
    if (!skip_digits()) return false;
  }
  return text.empty();
}

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

Mark mark_of(const YAML::Mark& mark) {
  if (mark.is_null()) return {};
  return {static_cast<std::uint32_t>(mark.line + 1), static_cast<std::uint32_t>(mark.column + 1)};
}

class Handler : public YAML::EventHandler {
 public:
  explicit Handler(DocumentBuilder& builder) : builder_(builder) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (builder_.has_value()) {
      builder_.fail(mark_of(mark), "expected the end of the file, got a second document",
                    "split it into several files");
    }
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    reject_anchor(mark, anchor);
    if (builder_.wants_key()) fail_key(mark, "nothing");
    builder_.scalar(mark_of(mark), ElementKind::null, "null");
  }

  void OnAlias(const YAML::Mark& /*mark*/, YAML::anchor_t /*anchor*/) override {
    TCAST_CHECK(false, "an alias to an anchor that was refused");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    reject_anchor(mark, anchor);
    // yaml-cpp marks quoted scalars with "!" and plain ones with "?".
    if (tag != "!") reject_tag(mark, tag);
    if (builder_.wants_key()) {
      builder_.key(value);
      return;
    }
    if (tag == "!") {
      builder_.scalar(mark_of(mark), ElementKind::string, value);
    } else if (is_one_of(value, {"true", "True", "TRUE"})) {
      builder_.scalar(mark_of(mark), ElementKind::boolean, "true");
    } else if (is_one_of(value, {"false", "False", "FALSE"})) {
      builder_.scalar(mark_of(mark), ElementKind::boolean, "false");
    } else if (is_one_of(value, {".nan", ".NaN", ".NAN"})) {
      builder_.scalar(mark_of(mark), ElementKind::number, "NaN");
    } else if (is_one_of(value, {".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"})) {
      builder_.scalar(mark_of(mark), ElementKind::number, "Infinity");
    } else if (is_one_of(value, {"-.inf", "-.Inf", "-.INF"})) {
      builder_.scalar(mark_of(mark), ElementKind::number, "-Infinity");
    } else {
      builder_.scalar(mark_of(mark), is_number(value) ? ElementKind::number : ElementKind::string,
                      value);
    }
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    open(mark, tag, anchor, ElementKind::list, "a list");
  }
  void OnSequenceEnd() override { builder_.close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    open(mark, tag, anchor, ElementKind::map, "a map");
  }
  void OnMapEnd() override { builder_.close(); }

 private:
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, ElementKind kind,
            std::string_view noun) {
    reject_anchor(mark, anchor);
    reject_tag(mark, tag);
    if (builder_.wants_key()) fail_key(mark, noun);
    builder_.open(mark_of(mark), kind);
  }

  void reject_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor == YAML::NullAnchor) return;
    builder_.fail(mark_of(mark), "anchors (&name) are not supported", "remove it");
  }

  void reject_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?") return;
    builder_.fail(mark_of(mark), fmt::format("tags are not supported, got '{}'", printable(tag)),
                  "remove it; a number in quotes is a string");
  }

  [[noreturn]] void fail_key(const YAML::Mark& mark, std::string_view found) const {
    builder_.fail(mark_of(mark), fmt::format("expected a key, got {}", found));
  }

  DocumentBuilder& builder_;
};

/// yaml-cpp takes UTF-16, replaces what is no UTF-8 and lets control characters through.
void check_characters(std::string_view text, const DocumentBuilder& builder) {
  Mark mark;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text.substr(at));
    const auto c = static_cast<unsigned char>(text[at]);
    if (length == 0) {
      builder.fail(mark, fmt::format("'{}' is no valid UTF-8", printable(text.substr(at, 1))));
    }
    if (c == 0x7F || (c < 0x20 && c != '\t' && c != '\n' && c != '\r')) {
      builder.fail(mark, fmt::format("control character '{}'", printable(text.substr(at, 1))));
    }
    at += length;
    mark.column += static_cast<std::uint32_t>(length);
    if (c == '\n') mark = {mark.line + 1, 1};
  }
}

}  // namespace

void read_yaml(std::string_view text, DocumentBuilder& builder) {
  check_characters(text, builder);
  // yaml-cpp accepts a quoted string that the end of the file cuts off, but not one that runs into
  // an end marker.
  std::string terminated(text);
  if (!terminated.empty() && terminated.back() != '\n') terminated += '\n';
  terminated += "...\n";
  try {
    std::istringstream stream(terminated);
    YAML::Parser parser(stream);
    Handler handler(builder);
    while (parser.HandleNextDocument(handler)) {
    }
  } catch (const YAML::Exception& error) {
    const bool in_string = error.msg == YAML::ErrorMsg::DOC_IN_SCALAR;
    builder.fail(mark_of(error.mark),
                 in_string ? "expected the closing quote of a string" : printable(error.msg, 200));
  }
}

}  // namespace tcast
