#include "tcast/report/report.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/base/units.h"

namespace tcast {
namespace {

/// A dtype as people say it: "bf16", "fp8 e4m3", "int8".
std::string spoken(const std::string& dtype) {
  const std::optional<DType> known = parse_dtype(dtype);
  if (!known) return dtype;
  switch (*known) {
    case DType::f8_e4m3:
      return "fp8 e4m3";
    case DType::f8_e5m2:
      return "fp8 e5m2";
    case DType::i8:
      return "int8";
    case DType::i4:
      return "int4";
    default:
      return std::string(short_name_of(*known));
  }
}

std::string spoken(const std::vector<std::string>& dtypes) {
  std::vector<std::string> names;
  names.reserve(dtypes.size());
  for (const std::string& dtype : dtypes) names.push_back(spoken(dtype));
  return join(names, " and ");
}

std::string scales_of(const ReportDTypes::Linears& linears) {
  if (!linears.block) return "";
  const auto [rows, columns] = *linears.block;
  if (rows == 0 && columns == 0) return " per tensor";
  if (rows == 1 && columns == 0) return " per channel";
  if (rows == 1) return fmt::format(" groups of {}", columns);
  return fmt::format(" {}x{} blocks", rows, columns);
}

/// Weights of which there are fewer need not be told in a line.
constexpr double least_share = 0.001;

std::string describe_weights(const ReportDTypes& dtypes) {
  double all = 0;
  for (const auto& [dtype, bytes] : dtypes.weight_bytes) all += static_cast<double>(bytes);
  std::vector<std::string> parts;
  std::vector<std::string> others;
  for (const ReportDTypes::Linears& linears : dtypes.linears) {
    if (static_cast<double>(linears.bytes) < least_share * all) continue;
    std::string part = spoken(linears.weight_dtype) + scales_of(linears);
    if (!linears.source.empty()) part += fmt::format(" ({})", linears.source);
    (linears.scheme == "none" ? others : parts).push_back(std::move(part));
  }
  // Everything in one dtype is said once.
  std::string tables = spoken(dtypes.embedding_dtypes);
  if (parts.empty() && (others.empty() || others == std::vector<std::string>{tables}))
    return tables;
  if (!others.empty())
    parts.push_back((parts.empty() ? "" : "other linears ") + join(others, ", "));
  if (dtypes.embedding_dtypes.empty()) return join(parts, ", ");
  parts.push_back("embedding/head " + tables);
  return join(parts, ", ");
}

}  // namespace

std::string describe(const ReportDTypes& dtypes) {
  std::string text = "weights " + describe_weights(dtypes);
  text += "; activations " + spoken(dtypes.activation_dtype);
  const std::vector<std::string> as_they_are = {dtypes.activation_dtype};
  if (!dtypes.compute_dtypes.empty() && dtypes.compute_dtypes != as_they_are) {
    text += ", computed in " + spoken(dtypes.compute_dtypes);
  }
  if (!dtypes.kv_cache_dtypes.empty()) text += "; KV cache " + spoken(dtypes.kv_cache_dtypes);
  return text;
}

const ReportMetric* find_metric(const Report& report, std::string_view name) {
  for (const ReportMetric& metric : report.metrics) {
    if (metric.name == name) return &metric;
  }
  return nullptr;
}

bool has_ideal(const Report& report) {
  return report.with_ideal || std::any_of(report.ops.begin(), report.ops.end(),
                                          [](const ReportOp& op) { return op.ideal_s != 0; });
}

}  // namespace tcast
