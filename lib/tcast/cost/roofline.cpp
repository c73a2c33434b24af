#include "tcast/cost/roofline.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

#include <fmt/format.h>

#include "tcast/base/text.h"
#include "tcast/cost/collectives.h"
#include "tcast/cost/op_cost.h"

namespace tcast {
namespace {

/// (sum of x^q)^(1/q), which goes from the sum (q = 1) to the maximum (q = infinity). Relative to
/// the largest part, so that powers neither overflow nor vanish; never below it.
double smooth_max(const double (&parts)[4], double q) {
  const double largest = std::max({parts[0], parts[1], parts[2], parts[3]});
  if (largest <= 0 || std::isinf(q)) return largest;
  double sum = 0;
  if (q == 1) {
    for (const double part : parts) sum += part;
    return sum;
  }
  if (q == 2) {
    for (const double part : parts) sum += (part / largest) * (part / largest);
    return largest * std::sqrt(sum);
  }
  if (q == 1.5) {
    for (const double part : parts) sum += part / largest * std::sqrt(part / largest);
    const double root = std::cbrt(sum);
    return largest * std::max(1.0, root * root);
  }
  for (const double part : parts) sum += part > 0 ? std::pow(part / largest, q) : 0;
  return largest * std::max(1.0, std::pow(sum, 1 / q));
}

}  // namespace

std::string_view name_of(Bound bound) {
  switch (bound) {
    case Bound::compute:
      return "compute";
    case Bound::memory:
      return "memory";
    case Bound::network:
      return "network";
    case Bound::launch:
      return "launch";
  }
  return "launch";
}

RooflineModel::RooflineModel(const DeviceProfile& device, RooflineOptions options)
    : device_(device), options_(options) {
  for (std::size_t i = 0; i < rates_.size(); ++i) {
    const ClassEfficiency& efficiency = device_.efficiency[i];
    Rates& rates = rates_[i];
    const double compute = options_.ideal ? 1 : efficiency.compute;
    for (int d = 0; d < dtype_count; ++d) {
      const auto dtype = static_cast<DType>(d);
      const auto at = static_cast<std::size_t>(d);
      const EffectivePeak peak = device_.matrix_peak(dtype);
      // What holds for products in a dtype also holds for those that have to run in it.
      const DTypeEfficiency product =
          options_.ideal ? DTypeEfficiency{} : efficiency.of_products(peak.dtype);
      rates.seconds_per_matrix_flop[at] = 1 / (product.compute * peak.flops_per_s);
      rates.seconds_per_product_byte[at] =
          1 / (product.memory * device_.memory_bandwidth_bytes_per_s);
      rates.seconds_per_vector_flop[at] = 1 / (compute * device_.vector_peak(dtype).flops_per_s);
    }
    const double memory = options_.ideal ? 1 : efficiency.memory;
    rates.seconds_per_byte = 1 / (memory * device_.memory_bandwidth_bytes_per_s);
    rates.overhead_s = options_.ideal ? 0 : efficiency.overhead_s;
    rates.exponent =
        options_.ideal ? std::numeric_limits<double>::infinity() : efficiency.smooth_max;
    rates.source = options_.ideal ? Source::datasheet : efficiency.basis;
  }
}

/// Bytes from memory that would take as long as those of the operator, of which what is in the
/// cache goes at that one's bandwidth.
double RooflineModel::priced_bytes(const OpWork& work) const {
  const double warm = work.warm_bytes();
  if (device_.cache_bytes == 0 || warm <= 0) return work.bytes();
  const double cached = std::min(warm, static_cast<double>(device_.cache_bytes));
  return work.bytes() - cached +
         cached * device_.memory_bandwidth_bytes_per_s / device_.cache_bandwidth_bytes_per_s;
}

OpEstimate RooflineModel::estimate(const OpRecord& record) const {
  OpEstimate result;
  result.work = work_of(record);
  const OpWork& work = result.work;
  const Rates& rates = rates_[static_cast<std::size_t>(class_of(record))];
  result.source = rates.source;
  if (const auto* collective = std::get_if<Collective>(&record)) {
    result.network_s = collective_seconds(device_.interconnect, *collective, options_.ideal);
  }
  if (work.flops() <= 0 && work.bytes() <= 0 && result.network_s <= 0) return result;

  const double matrix_s =
      work.matrix_flops *
      rates.seconds_per_matrix_flop[static_cast<std::size_t>(work.matrix_dtype)];
  const double vector_s =
      work.vector_flops *
      rates.seconds_per_vector_flop[static_cast<std::size_t>(work.vector_dtype)];
  result.compute_s = std::max(matrix_s, vector_s);
  result.memory_s =
      priced_bytes(work) *
      (work.matrix_flops > 0
           ? rates.seconds_per_product_byte[static_cast<std::size_t>(work.matrix_dtype)]
           : rates.seconds_per_byte);
  result.overhead_s = rates.overhead_s;
  const double parts[4] = {matrix_s, vector_s, result.memory_s, result.network_s};
  result.total_s = smooth_max(parts, rates.exponent) + result.overhead_s;

  double most = result.overhead_s;
  const auto claim = [&result, &most](double seconds, Bound bound) {
    if (seconds <= most) return;
    most = seconds;
    result.bound = bound;
  };
  claim(result.memory_s, Bound::memory);
  claim(result.compute_s, Bound::compute);
  claim(result.network_s, Bound::network);
  return result;
}

std::string RooflineModel::explain(const OpRecord& record) const {
  std::string text = explain_work(record);
  const OpEstimate estimated = estimate(record);
  const OpWork& work = estimated.work;
  const OpClass op_class = class_of(record);
  const ClassEfficiency& profile = device_.efficiency_of(op_class);
  const ClassEfficiency ideal{.compute = 1,
                              .memory = 1,
                              .overhead_s = 0,
                              .smooth_max = std::numeric_limits<double>::infinity(),
                              .basis = Source::datasheet,
                              .source = "peaks of the datasheet, nothing in the way"};
  const ClassEfficiency& used = options_.ideal ? ideal : profile;
  const DTypeEfficiency product = used.of_products(device_.matrix_peak(work.matrix_dtype).dtype);

  const auto compute_line = [&](std::string_view unit, double flops, DType dtype,
                                EffectivePeak peak, double efficiency) {
    if (flops <= 0) return;
    const std::string as = peak.dtype == dtype
                               ? ""
                               : fmt::format(" (no {} mode: runs as {})", short_name_of(dtype),
                                             short_name_of(peak.dtype));
    text += fmt::format("  {}: {:.6g} / ({:g} * {:.6g} {}{}) = {}\n", unit, flops, efficiency,
                        peak.flops_per_s, short_name_of(peak.dtype), as,
                        format_seconds(flops / (efficiency * peak.flops_per_s)));
  };
  compute_line("matrix units", work.matrix_flops, work.matrix_dtype,
               device_.matrix_peak(work.matrix_dtype), product.compute);
  compute_line("vector units", work.vector_flops, work.vector_dtype,
               device_.vector_peak(work.vector_dtype), used.compute);
  if (work.bytes() > 0) {
    const double memory = work.matrix_flops > 0 ? product.memory : used.memory;
    const double bytes = priced_bytes(work);
    if (bytes < work.bytes()) {
      text += fmt::format(
          "  cache: of {:.6g} B of activations, up to {} at {:.6g} B/s take as long as {:.6g} B "
          "from memory\n",
          work.warm_bytes(), format_bytes(static_cast<double>(device_.cache_bytes)),
          device_.cache_bandwidth_bytes_per_s, bytes - work.cold_bytes);
    }
    text += fmt::format("  memory: {:.6g} B / ({:g} * {:.6g} B/s) = {}\n", bytes, memory,
                        device_.memory_bandwidth_bytes_per_s, format_seconds(estimated.memory_s));
  }
  if (const auto* collective = std::get_if<Collective>(&record)) {
    text += explain_collective(device_.interconnect, *collective, options_.ideal);
  }
  const std::string combined =
      std::isinf(used.smooth_max)
          ? "the largest of these"
          : fmt::format("(sum of these ^ {0:g}) ^ (1 / {0:g})", used.smooth_max);
  text += fmt::format("  time: {} + {} overhead = {}, bound by {}\n", combined,
                      format_seconds(estimated.overhead_s), format_seconds(estimated.total_s),
                      name_of(estimated.bound));
  text += fmt::format("  figures of class {} on {}: {} ({})\n", name_of(op_class), device_.name,
                      name_of(estimated.source), used.source);
  return text;
}

}  // namespace tcast
