#include "tcast/report/csv_writer.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/report/json_text.h"

namespace tcast {
namespace {

/// Whether a spreadsheet would take the field for a formula: the letters of OWASP's "CSV
/// injection", also in their full width (U+FF0B, FF0D, FF1D, FF20).
bool is_formula(std::string_view field) {
  constexpr std::string_view letters = "=+-@\t\r\n";
  constexpr std::string_view wide[] = {"\xEF\xBC\x8B", "\xEF\xBC\x8D", "\xEF\xBC\x9D",
                                       "\xEF\xBC\xA0"};
  if (field.empty()) return false;
  return letters.find(field.front()) != std::string_view::npos ||
         std::any_of(std::begin(wide), std::end(wide),
                     [field](std::string_view letter) { return field.starts_with(letter); });
}

void append_field(std::string& out, std::string_view text) {
  const std::string valid = valid_text(text);
  const std::string field = is_formula(valid) ? "'" + valid : valid;
  if (field == valid && field.find_first_of(",\"\r\n") == std::string::npos) {
    out += field;
    return;
  }
  out += '"';
  for (const char c : field) {
    if (c == '"') out += '"';
    out += c;
  }
  out += '"';
}

}  // namespace

std::string write_csv(const Report& report, bool header) {
  std::string out;
  if (header) {
    out +=
        "config,phase,name,module,calls,total_s,flops,bytes,bound,source,ideal_s,scaled,spread\r\n";
  }
  const bool with_ideal = has_ideal(report);
  for (const ReportOp& op : report.ops) {
    for (const double value : {op.total_s, op.flops, op.bytes, op.ideal_s, op.spread.value_or(0)}) {
      TCAST_CHECK(std::isfinite(value), "a number of an operator is not finite");
    }
    for (const std::string* text : {&report.config_file, &op.phase, &op.name, &op.module}) {
      append_field(out, *text);
      out += ',';
    }
    fmt::format_to(std::back_inserter(out), "{},{},{},{},", op.calls, op.total_s, op.flops,
                   op.bytes);
    append_field(out, op.bound);
    out += ',';
    append_field(out, op.source);
    // Empty where nobody asked for it: a 0 would be a time.
    out += ',';
    if (with_ideal) {
      fmt::format_to(std::back_inserter(out), "{}", op.ideal_s);
    }
    out += op.scaled ? ",true," : ",false,";
    if (op.spread) fmt::format_to(std::back_inserter(out), "{}", *op.spread);
    out += "\r\n";
  }
  return out;
}

}  // namespace tcast
