#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "tcast/base/export.h"

namespace tcast {

/// The text itself where it is valid UTF-8, else with control characters and the offending bytes
/// written as \x1b: what machine-readable formats may contain. Nothing is cut.
TCAST_API std::string valid_text(std::string_view text);

/// Appends valid_text() as a JSON string, quoted, in pure ASCII.
TCAST_API void append_json_string(std::string& out, std::string_view text);

/// A text as a JSON string, as append_json_string() writes it.
TCAST_API std::string json_text(std::string_view text);

/// A whole JSON document as a result of a command: each level indented by `indent` blanks, a line
/// feed at the end, in pure ASCII, so that a terminal that is shown it has nothing to obey. Bytes
/// that are no UTF-8 become U+FFFD.
TCAST_API std::string json_document(const nlohmann::ordered_json& json, int indent);

/// Appends the shortest number that reads back as the same double. Throws InternalError for NaN and
/// infinity, which JSON does not have; `what` is named in it.
TCAST_API void append_json_number(std::string& out, double value, std::string_view what);

/// One JSON object on one line, written member by member in front of what is appended later. Writes
/// long lists ten times faster than a tree of values would.
class TCAST_API JsonObjectWriter {
 public:
  /// Opens the object at the end of `out`, which must outlive this.
  explicit JsonObjectWriter(std::string& out) : out_(out) { out_ += '{'; }

  void text(std::string_view name, std::string_view value);
  void number(std::string_view name, double value);
  void integer(std::string_view name, std::int64_t value);
  /// A member whose value, any JSON, the caller appends next.
  void name(std::string_view name);
  void close() { out_ += '}'; }

 private:
  std::string& out_;
  bool empty_ = true;
};

}  // namespace tcast
