#include "tcast/report/assertion.h"

#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/report/json_writer.h"

namespace tcast {
namespace {

using Kind = ReportField::Kind;

struct RelationName {
  std::string_view name;
  Relation relation;
};
/// Longer names first: "<=" is not "<" and "=".
constexpr RelationName relations[] = {
    {"<=", Relation::less_equal}, {">=", Relation::greater_equal}, {"==", Relation::equal},
    {"!=", Relation::not_equal},  {"<", Relation::less},           {">", Relation::greater},
};

std::string_view name_of(Relation relation) {
  for (const RelationName& entry : relations) {
    if (entry.relation == relation) return entry.name;
  }
  TCAST_CHECK(false, "a relation without a name");
}

bool holds(double left, Relation relation, double right) {
  switch (relation) {
    case Relation::less:
      return left < right;
    case Relation::less_equal:
      return left <= right;
    case Relation::greater:
      return left > right;
    case Relation::greater_equal:
      return left >= right;
    case Relation::equal:
      return left == right;
    case Relation::not_equal:
      return left != right;
  }
  TCAST_CHECK(false, "an unknown relation");
}

/// Reads an assertion from left to right and knows the column for messages.
class AssertionReader {
 public:
  explicit AssertionReader(std::string_view text) : text_(text) {}

  Assertion read() {
    Assertion result;
    result.text = std::string(text_);
    result.field = std::string(take_while([](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '_' || c == '.' || c == '-';
    }));
    if (result.field.empty()) fail("the name of a field");
    result.relation = take_relation();
    result.value = take_number();
    skip_blanks();
    if (at_ != text_.size()) fail("the end");
    return result;
  }

 private:
  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t')) ++at_;
  }

  template <class Predicate>
  std::string_view take_while(Predicate predicate) {
    skip_blanks();
    const std::size_t begin = at_;
    while (at_ < text_.size() && predicate(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }

  Relation take_relation() {
    skip_blanks();
    for (const RelationName& entry : relations) {
      if (text_.substr(at_, entry.name.size()) == entry.name) {
        at_ += entry.name.size();
        return entry.relation;
      }
    }
    fail("one of < <= > >= == !=");
  }

  double take_number() {
    skip_blanks();
    const std::size_t begin = at_;
    const std::string_view word = take_while([](char c) { return c != ' ' && c != '\t'; });
    if (word == "true") return 1;
    if (word == "false") return 0;
    double value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    const bool whole = error == std::errc() && end == word.data() + word.size();
    // from_chars also reads "inf" and "nan".
    if (!whole || !std::isfinite(value)) {
      at_ = begin;
      fail("a plain number, true or false");
    }
    return value;
  }

  [[noreturn]] void fail(std::string_view expected) const {
    const std::string found =
        at_ == text_.size() ? "the end" : fmt::format("'{}'", printable(text_.substr(at_), 40));
    throw Error(fmt::format("assertion '{}', column {}: expected {}, found {}", printable(text_),
                            at_ + 1, expected, found),
                "write it like 'tpot_s<0.02' or 'memory.fits==true'");
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

std::string_view last_name(std::string_view path) { return path.substr(path.rfind('.') + 1); }

bool is_ideal(std::string_view path) { return path.substr(0, 6) == "ideal."; }

/// The one field that the name means.
const ReportField& find_field(const Assertion& assertion, const std::vector<ReportField>& fields) {
  std::vector<std::string> known;
  std::vector<const ReportField*> same_name;
  for (const ReportField& field : fields) {
    if (field.path == assertion.field) return field;
    if (field.kind == Kind::text || field.kind == Kind::other) continue;
    known.push_back(field.path);
    if (is_ideal(field.path)) continue;
    known.emplace_back(last_name(field.path));
    if (last_name(field.path) != assertion.field) continue;
    same_name.push_back(&field);
  }
  if (same_name.size() == 1) return *same_name[0];
  const std::string where = fmt::format("assertion '{}'", printable(assertion.text));
  if (!same_name.empty()) {
    std::vector<std::string> paths;
    paths.reserve(same_name.size());
    for (const ReportField* field : same_name) paths.push_back(field->path);
    throw Error(
        fmt::format("{}: '{}' is the name of {} fields", where, assertion.field, paths.size()),
        fmt::format("write one of {}", join(paths, ", ")));
  }
  const std::string hint =
      is_ideal(assertion.field)
          ? "--ideal adds these fields to a report"
          : did_you_mean(assertion.field, known, "--format json shows the names of all fields");
  throw Error(fmt::format("{}: the report has no number '{}'", where, printable(assertion.field)),
              hint);
}

[[noreturn]] void fail_not_a_number(const Assertion& assertion, const ReportField& field) {
  throw Error(
      fmt::format("assertion '{}': {} is not a number", printable(assertion.text), field.path));
}

/// Where a report's numbers hold: " on H200, batch_size 8, ..., tp 2, ep 1, dp 1".
std::string place_of(const Report& report) {
  constexpr std::string_view shown[] = {"phase",
                                        "batch_size",
                                        "input_length",
                                        "output_length",
                                        "num_queries",
                                        "query_length",
                                        "context_length",
                                        "num_devices",
                                        "tp",
                                        "pp",
                                        "ep",
                                        "dp",
                                        "cp"};
  std::string place = report.device.empty() ? "" : " on " + printable(report.device);
  for (const std::string_view name : shown) {
    for (const ReportInput& input : report.inputs) {
      if (input.name != name) continue;
      place += fmt::format("{} {} {}", place.empty() ? " with" : ",", name, printable(input.value));
    }
  }
  return place;
}

}  // namespace

Assertion parse_assertion(std::string_view text) { return AssertionReader(text).read(); }

void require_field(const Assertion& assertion, const Report& sample) {
  const std::vector<ReportField> fields = report_fields(sample);
  const ReportField& field = find_field(assertion, fields);
  if (field.kind == Kind::text || field.kind == Kind::other) fail_not_a_number(assertion, field);
}

AssertionResult evaluate(const Assertion& assertion, const Report& report) {
  const std::vector<ReportField> fields = report_fields(report);
  const ReportField& field = find_field(assertion, fields);
  if (field.kind == Kind::absent) {
    throw Error(fmt::format("assertion '{}': {} is unknown in this run", printable(assertion.text),
                            field.path),
                report.absent_hint);
  }
  if (field.kind != Kind::number && field.kind != Kind::flag) fail_not_a_number(assertion, field);
  const auto show = [&](double value) {
    if (field.kind == Kind::flag && (value == 0 || value == 1)) {
      return std::string(value == 1 ? "true" : "false");
    }
    return fmt::format("{}", value);
  };
  AssertionResult result;
  result.passed = holds(field.value, assertion.relation, assertion.value);
  result.actual = field.value;
  result.text = fmt::format("{}: {} {} {} (it is {}){}", result.passed ? "passed" : "failed",
                            field.path, name_of(assertion.relation), show(assertion.value),
                            show(field.value), result.passed ? "" : place_of(report));
  return result;
}

}  // namespace tcast
