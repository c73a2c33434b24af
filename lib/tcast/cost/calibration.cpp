#include "tcast/cost/calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/cost/op_cost.h"
#include "tcast/cost/roofline.h"

namespace tcast {
namespace {

// --- what to time --------------------------------------------------------------------------------

struct ProductSize {
  std::int64_t m, n, k;
};

// Rows and sides change together, so that few products cover the range of both. The sides are those
// of models from half a billion parameters on, the longest one that of an output layer.
constexpr ProductSize few_sizes[] = {
    {1, 1024, 1024}, {2, 3072, 1024},  {4, 1024, 2048}, {1, 4096, 1024},
    {4, 4096, 2048}, {1, 896, 4864},   {2, 2048, 2048}, {1, 2048, 8192},
    {4, 1024, 4096}, {1, 32768, 1024}, {2, 8192, 1024}, {4, 14336, 1024},
};
constexpr ProductSize many_sizes[] = {
    {8, 1024, 1024},   {16, 3072, 1024},  {32, 1024, 2048},  {64, 2048, 1024},
    {128, 1024, 1024}, {256, 1024, 3072}, {512, 1024, 1024}, {8, 4096, 2048},
    {16, 1024, 4096},  {32, 4096, 1024},  {64, 1024, 3072},  {128, 3072, 1024},
    {256, 2048, 1024}, {512, 512, 2048},  {16, 8192, 2048},  {128, 2048, 4096},
};
constexpr ProductSize thorough_sizes[] = {
    {1, 512, 2048},    {2, 1024, 1024},   {4, 3072, 1024},    {1, 3072, 3072},   {4, 8192, 2048},
    {8, 3072, 1024},   {12, 1024, 1024},  {24, 2048, 2048},   {32, 14336, 1024}, {48, 1024, 4096},
    {64, 4096, 4096},  {96, 3072, 1024},  {128, 256, 2048},   {192, 2048, 2048}, {256, 4096, 1024},
    {384, 1024, 1024}, {512, 3072, 1024}, {1024, 1024, 1024}, {512, 1024, 4096}, {64, 32768, 1024},
};

MatMul product(const ProductSize& size, DType dtype, DType output) {
  MatMul op{.m = size.m,
            .n = size.n,
            .k = size.k,
            .input = dtype,
            .weight = dtype,
            .output = output,
            .compute = dtype};
  if (dtype == DType::i8) {
    op.weight_scales = scale_per_row;
    op.activation_scales = scale_per_row;
  }
  return op;
}

GroupedMatMul experts(std::int64_t active, std::int64_t rows, std::int64_t n, std::int64_t k,
                      DType dtype, DType output) {
  GroupedMatMul op{.experts = active,
                   .distinct_experts = static_cast<double>(active),
                   .rows = static_cast<double>(rows),
                   .n = n,
                   .k = k,
                   .input = dtype,
                   .weight = dtype,
                   .output = output,
                   .compute = dtype};
  if (dtype == DType::i8) {
    op.weight_scales = scale_per_row;
    op.activation_scales = scale_per_row;
  }
  return op;
}

struct HeadSize {
  std::int64_t heads, kv_heads, dim;
};

void add_products(std::vector<OpRecord>& ops, DType dtype, DType output, bool thorough) {
  for (const ProductSize& size : few_sizes) ops.emplace_back(product(size, dtype, output));
  for (const ProductSize& size : many_sizes) ops.emplace_back(product(size, dtype, output));
  if (thorough) {
    for (const ProductSize& size : thorough_sizes) ops.emplace_back(product(size, dtype, output));
  }
  constexpr std::int64_t sides[][2] = {{768, 2048}, {2048, 768}, {1024, 1024}, {2048, 1408}};
  std::size_t i = 0;
  const auto next = [&]() -> const std::int64_t(&)[2] { return sides[i++ % 4]; };
  for (const auto& [active, rows] : {std::pair{4, 4},
                                     {2, 8},
                                     {8, 16},
                                     {8, 8},
                                     {4, 16},
                                     {4, 8},
                                     {16, 16},
                                     {8, 64},
                                     {4, 64},
                                     {16, 512},
                                     {4, 512},
                                     {8, 256},
                                     {2, 32}}) {
    const auto& [n, k] = next();
    ops.emplace_back(experts(active, rows, n, k, dtype, output));
  }
}

void add_attention(std::vector<OpRecord>& ops, DType dtype, bool thorough) {
  constexpr HeadSize sizes[] = {
      {16, 8, 128}, {14, 2, 64}, {32, 8, 128}, {32, 8, 64}, {16, 16, 128}};
  std::size_t i = 0;
  const auto add = [&](std::int64_t batch, std::int64_t query, std::int64_t context) {
    const auto& [heads, kv_heads, dim] = sizes[i++ % std::size(sizes)];
    ops.emplace_back(Attention{.batch = batch,
                               .query_length = query,
                               .context_length = context,
                               .heads = heads,
                               .kv_heads = kv_heads,
                               .qk_head_dim = dim,
                               .v_head_dim = dim,
                               .query = dtype,
                               .cache = dtype});
  };
  const int times = thorough ? 3 : 1;
  for (int time = 0; time < times; ++time) {
    for (const std::int64_t batch : {1, 4}) {
      for (const std::int64_t context : {64, 128, 512, 1024, 2048}) add(batch, 1, context);
    }
    for (const std::int64_t query : {32, 64, 128, 256, 512}) add(1, query, 0);
    for (const std::int64_t query : {32, 128, 256}) add(4, query, 0);
    ++i;  // other heads next time
  }
  // Latent attention: one key for all heads, which holds the value as well.
  for (const std::int64_t context : {128, 512, 2048}) {
    ops.emplace_back(Attention{.batch = context == 512 ? 4 : 1,
                               .query_length = 1,
                               .context_length = context,
                               .heads = 16,
                               .kv_heads = 1,
                               .qk_head_dim = 576,
                               .v_head_dim = 512,
                               .query = dtype,
                               .cache = dtype,
                               .value_in_key = true});
  }
  for (const std::int64_t query : {32, 128}) {
    ops.emplace_back(Attention{.query_length = query,
                               .context_length = 0,
                               .heads = 16,
                               .kv_heads = 16,
                               .qk_head_dim = 192,
                               .v_head_dim = 128,
                               .query = dtype,
                               .cache = dtype,
                               .paged = false});
  }
}

/// Everything that is no product: one pass over activations, of `tokens` tokens.
void add_small_ops(std::vector<OpRecord>& ops, DType dtype, std::int64_t tokens,
                   std::int64_t width) {
  ops.emplace_back(Norm{.rows = tokens, .width = width, .dtype = dtype});
  ops.emplace_back(Norm{.rows = 16 * tokens, .width = 128, .dtype = dtype});
  const std::int64_t elements = tokens * width;
  ops.emplace_back(Elementwise{.kind = ElementwiseKind::add,
                               .elements = elements,
                               .second_elements = elements,
                               .dtype = dtype});
  ops.emplace_back(Elementwise{.kind = ElementwiseKind::silu_mul,
                               .elements = 3 * elements,
                               .second_elements = 3 * elements,
                               .dtype = dtype});
  ops.emplace_back(Elementwise{.kind = ElementwiseKind::gelu_tanh_mul,
                               .elements = 2 * elements,
                               .second_elements = 2 * elements,
                               .dtype = dtype});
  ops.emplace_back(
      Elementwise{.kind = ElementwiseKind::scale, .elements = elements, .dtype = dtype});
  for (const std::int64_t heads : {8, 16}) {
    ops.emplace_back(Rotary{.tokens = tokens,
                            .heads = heads,
                            .head_dim = width >= 2048 ? 128 : 64,
                            .rotary_dim = width >= 2048 ? 128 : 64,
                            .dtype = dtype});
  }
  ops.emplace_back(RotaryTable{
      .tokens = tokens, .dim = 128, .dtype = dtype, .cached = true, .table_positions = 2048});
  ops.emplace_back(Gather{.rows = tokens, .width = width, .table_rows = 32768, .dtype = dtype});
  ops.emplace_back(CacheAppend{.tokens = tokens, .width = width, .input = dtype, .cache = dtype});
  ops.emplace_back(Copy{.kind = CopyKind::concat,
                        .read_elements = elements,
                        .written_elements = elements,
                        .from = dtype,
                        .to = dtype});
  ops.emplace_back(Quantize{.rows = tokens, .columns = width, .from = dtype});
  ops.emplace_back(Permute{.tokens = tokens, .rows = 4 * tokens, .width = width, .dtype = dtype});
  ops.emplace_back(Combine{.tokens = tokens, .rows = 4 * tokens, .width = width, .dtype = dtype});
  ops.emplace_back(
      Route{.tokens = tokens, .experts = 128, .top_k = 8, .normalize = true, .dtype = DType::f32});
  ops.emplace_back(Softmax{.rows = 16 * tokens, .columns = 256, .dtype = dtype});
}

// --- the fit -------------------------------------------------------------------------------------

/// A point as the formula sees it. Bytes are those that would take as long from memory.
struct Sample {
  double matrix_flops = 0;
  double vector_flops = 0;
  double bytes = 0;
  std::size_t dtype = 0;  // of a product
  double seconds = 0;
};

/// t = (matrix^q + vector^q + bytes^q)^(1/q) + overhead, each part work / rate.
struct ClassFit {
  std::array<double, dtype_count> matrix_rate{};  // 0: no such product
  std::array<double, dtype_count> byte_rate{};    // of products
  double vector_rate = 0;
  double other_byte_rate = 0;  // of what is no product
  double overhead_s = 0;
  double exponent = 1;

  double seconds(const Sample& sample) const {
    double parts[3] = {0, 0, 0};
    if (sample.matrix_flops > 0) parts[0] = sample.matrix_flops / matrix_rate[sample.dtype];
    if (sample.vector_flops > 0) parts[1] = sample.vector_flops / vector_rate;
    parts[2] = sample.bytes / (sample.matrix_flops > 0 ? byte_rate[sample.dtype] : other_byte_rate);
    const double largest = std::max({parts[0], parts[1], parts[2]});
    if (largest <= 0) return overhead_s;
    double sum = 0;
    for (const double part : parts) sum += part > 0 ? std::pow(part / largest, exponent) : 0;
    return largest * std::pow(sum, 1 / exponent) + overhead_s;
  }
};

/// A number to find between bounds; all are searched on a logarithmic scale.
struct Unknown {
  double* value;
  double low;
  double high;
};

/// Mean over samples of log(1 + (e / scale)^2), e the logarithm of the ratio: like least squares
/// for small errors, while a sample that somebody disturbed counts little. What takes only a few
/// microseconds counts less: in a model the others decide.
double badness(const ClassFit& fit, std::span<const Sample> samples) {
  constexpr double scale = 0.1;
  constexpr double short_s = 3e-6;
  double sum = 0;
  for (const Sample& sample : samples) {
    const double error = std::log(fit.seconds(sample) / sample.seconds) / scale;
    sum += sample.seconds / (sample.seconds + short_s) * std::log1p(error * error);
  }
  return sum / static_cast<double>(samples.size());
}

/// Pattern search: steps along each unknown, and along the sum of the last sweep, with steps that
/// become smaller when none helps. Needs no derivatives, and always ends at the same place.
double improve(ClassFit& fit, std::vector<Unknown>& unknowns, std::span<const Sample> samples) {
  double best = badness(fit, samples);
  std::vector<double> places;
  places.reserve(unknowns.size());
  for (const Unknown& unknown : unknowns) {
    places.push_back(std::log(*unknown.value / unknown.low) / std::log(unknown.high / unknown.low));
  }
  const auto put = [&](std::size_t i, double place) {
    const Unknown& unknown = unknowns[i];
    places[i] = std::clamp(place, 0.0, 1.0);
    *unknown.value = unknown.low * std::pow(unknown.high / unknown.low, places[i]);
  };
  constexpr double first_step = 0.2;
  constexpr double last_step = 3e-4;
  constexpr int most_sweeps = 500;
  double step = first_step;
  for (int sweep = 0; sweep < most_sweeps && step > last_step; ++sweep) {
    const std::vector<double> before = places;
    bool better = false;
    for (std::size_t i = 0; i < unknowns.size(); ++i) {
      const double here = places[i];
      for (const double there : {here + step, here - step}) {
        put(i, there);
        const double found = badness(fit, samples);
        if (found < best) {
          best = found;
          better = true;
          break;
        }
        put(i, here);
      }
    }
    if (!better) {
      step /= 2;
      continue;
    }
    const std::vector<double> after = places;
    for (std::size_t i = 0; i < unknowns.size(); ++i) put(i, 2 * after[i] - before[i]);
    const double found = badness(fit, samples);
    if (found < best) {
      best = found;
    } else {
      for (std::size_t i = 0; i < unknowns.size(); ++i) put(i, after[i]);
    }
  }
  return best;
}

/// What bounds the rates of every class.
struct Limits {
  double bandwidth = 0;
  double vector_peak = 0;
};

/// Fits one class. A rate cannot be below what was reached, nor is it known when it is so high that
/// it never matters: then it ends at a bound.
ClassFit fit_class(std::span<const Sample> samples, const Limits& limits) {
  std::array<double, dtype_count> best_matrix{};
  std::array<double, dtype_count> best_bytes{};
  double best_vector = 0;
  double best_other = 0;
  double shortest = samples.front().seconds;
  for (const Sample& sample : samples) {
    const auto raise = [&](double& best, double work) {
      best = std::max(best, work / sample.seconds);
    };
    shortest = std::min(shortest, sample.seconds);
    raise(best_vector, sample.vector_flops);
    if (sample.matrix_flops > 0) {
      raise(best_matrix[sample.dtype], sample.matrix_flops);
      raise(best_bytes[sample.dtype], sample.bytes);
    } else {
      raise(best_other, sample.bytes);
    }
  }
  std::vector<Unknown> unknowns;
  const auto rate = [&](double& value, double reached, double most) {
    // Less than what was reached only if a sample is wrong.
    const double low = std::min(0.3 * reached, 0.5 * most);
    value = std::min(1.5 * reached, 0.9 * most);
    unknowns.push_back({&value, low, most});
  };
  ClassFit fit;
  for (std::size_t d = 0; d < best_matrix.size(); ++d) {
    if (best_matrix[d] <= 0) continue;
    rate(fit.matrix_rate[d], best_matrix[d], 4 * best_matrix[d]);
    rate(fit.byte_rate[d], best_bytes[d], limits.bandwidth);
  }
  fit.vector_rate = limits.vector_peak;
  if (best_vector > 0) rate(fit.vector_rate, best_vector, limits.vector_peak);
  fit.other_byte_rate = limits.bandwidth;
  if (best_other > 0) rate(fit.other_byte_rate, best_other, limits.bandwidth);
  constexpr double least_overhead_s = 1e-9;
  constexpr double most_overhead_s = 0.1;
  const double longest_overhead_s = std::clamp(shortest, 4 * least_overhead_s, most_overhead_s);
  fit.overhead_s = std::max(2 * least_overhead_s, 0.3 * longest_overhead_s);
  unknowns.push_back({&fit.overhead_s, least_overhead_s, longest_overhead_s});
  constexpr double sharpest = 16;  // hardly different from the maximum
  unknowns.push_back({&fit.exponent, 1, sharpest});

  std::optional<double> best;
  ClassFit result;
  const ClassFit first = fit;
  for (const double exponent : {1.1, 1.5, 2.5, 6.0}) {
    fit = first;
    fit.exponent = exponent;
    const double found = improve(fit, unknowns, samples);
    if (best && found >= *best) continue;
    best = found;
    result = fit;
  }
  return result;
}

/// Value at `share` of the way through the sorted values.
double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - std::floor(place));
}

/// Every fourth point of each class and dtype of product, of those that are neither the first nor
/// the last.
std::vector<bool> choose_held_out(std::span<const OpWork> works,
                                  std::span<const CalibrationPoint> points) {
  std::vector<bool> held_out(points.size());
  std::array<std::array<int, dtype_count + 1>, op_class_count> seen{};
  for (std::size_t i = 0; i < points.size(); ++i) {
    const OpWork& work = works[i];
    const std::size_t dtype = work.matrix_flops > 0 ? static_cast<std::size_t>(work.matrix_dtype)
                                                    : static_cast<std::size_t>(dtype_count);
    int& count = seen[static_cast<std::size_t>(class_of(points[i].record))][dtype];
    held_out[i] = count++ % 4 == 2;
  }
  return held_out;
}

/// Efficiency of a rate, within what a profile may hold.
double share_of(double rate, double peak) {
  constexpr double least = 1e-6;
  return std::clamp(rate / peak, least, 1.0);
}

/// Rates as four digits: a fit has no more.
double rounded(double value) { return std::strtod(fmt::format("{:.4g}", value).c_str(), nullptr); }

}  // namespace

std::vector<OpRecord> calibration_ops(const CalibrationRange& range) {
  std::vector<OpRecord> ops;
  std::vector<DType> dtypes = {DType::f32};
  if (range.bf16) dtypes.push_back(DType::bf16);
  for (const DType dtype : dtypes) {
    add_products(ops, dtype, dtype, range.thorough);
    add_attention(ops, dtype, range.thorough);
    constexpr std::int64_t widths[] = {2048, 1024, 4096, 896, 2048};
    std::size_t next = 0;
    for (const std::int64_t tokens : {1, 4, 32, 128, 512}) {
      add_small_ops(ops, dtype, tokens, widths[next++]);
      if (!range.thorough) continue;
      for (const std::int64_t width : {1536, 3072}) add_small_ops(ops, dtype, tokens, width);
    }
    for (const std::int64_t columns : {32000, 65536, 151936}) {
      ops.emplace_back(TopK{.rows = 1, .columns = columns, .k = 1, .dtype = dtype});
    }
  }
  add_products(ops, DType::i8, dtypes.back(), range.thorough);
  // Sizes meet here and there, and what does not depend on the dtype is there once per dtype.
  std::set<std::string> seen;
  std::erase_if(ops, [&seen](const OpRecord& record) {
    return !seen.insert(fmt::format("{} {}", name_of(record), describe(record))).second;
  });
  return ops;
}

Calibration calibrate(const CalibrationFrame& frame, std::span<const CalibrationPoint> points) {
  Calibration result;
  result.device = frame.device;
  DeviceProfile& device = result.device;
  std::vector<OpWork> works;
  double f32_rate = device.vector[DType::f32];
  bool has_f32_product = false;
  double memory_rate = device.memory_bandwidth_bytes_per_s;
  double cache_rate = 0;
  for (const CalibrationPoint& point : points) {
    if (!(point.seconds > 0) || !std::isfinite(point.seconds)) {
      throw Error(fmt::format("{} {}: a time of {} s is none", name_of(point.record),
                              describe(point.record), point.seconds));
    }
    works.push_back(work_of(point.record));
  }
  result.held_out = choose_held_out(works, points);
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (result.held_out[i]) continue;
    const CalibrationPoint& point = points[i];
    const OpWork& work = works[i];
    if (work.matrix_flops > 0 && work.matrix_dtype == DType::f32) {
      has_f32_product = true;
      f32_rate = std::max(f32_rate, work.matrix_flops / point.seconds);
    }
    // Operators of some size that do nearly nothing but read a weight, or move activations.
    constexpr double enough_bytes = 256 << 10;
    if (work.bytes() < enough_bytes) continue;
    if (work.cold_bytes > 0.9 * work.bytes()) {
      memory_rate = std::max(memory_rate, work.cold_bytes / point.seconds);
    } else if (work.cold_bytes == 0) {
      cache_rate = std::max(cache_rate, work.bytes() / point.seconds);
    }
  }
  if (!has_f32_product) {
    throw Error("there is no product in f32 among the timed operators",
                "a device is described by what its f32 products reach, at least");
  }
  device.memory_bandwidth_bytes_per_s = rounded(memory_rate);
  device.memory_basis = Source::calibrated;
  device.memory_source =
      "the most that reading it or a product of few rows reached; " + frame.source;
  if (device.cache_bytes > 0) {
    device.cache_bandwidth_bytes_per_s =
        rounded(std::max(cache_rate, device.memory_bandwidth_bytes_per_s));
    device.cache_basis = Source::calibrated;
    device.cache_source = "the most that an operator on activations reached; " + frame.source;
  }
  device.vector = {};
  device.vector[DType::f32] = rounded(f32_rate);

  const Limits limits{device.memory_bandwidth_bytes_per_s, device.vector[DType::f32]};
  std::array<std::vector<Sample>, op_class_count> samples;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (result.held_out[i]) continue;
    const OpWork& work = works[i];
    const double cached = std::min(work.warm_bytes(), static_cast<double>(device.cache_bytes));
    const double saved = device.cache_bytes > 0
                             ? cached * (1 - device.memory_bandwidth_bytes_per_s /
                                                 device.cache_bandwidth_bytes_per_s)
                             : 0;
    samples[static_cast<std::size_t>(class_of(points[i].record))].push_back(
        {work.matrix_flops, work.vector_flops, work.bytes() - saved,
         static_cast<std::size_t>(work.matrix_dtype), points[i].seconds});
  }
  std::array<std::optional<ClassFit>, op_class_count> fits;
  device.matrix = {};
  for (std::size_t c = 0; c < fits.size(); ++c) {
    if (samples[c].empty()) continue;
    fits[c] = fit_class(samples[c], limits);
  }
  // Products of many rows tell the peak; of others, which may never be bound by computing, only
  // where there are none of those.
  const auto& many = fits[static_cast<std::size_t>(OpClass::matmul)];
  for (std::size_t d = 0; d < device.matrix.flops_per_s.size(); ++d) {
    double peak = many ? many->matrix_rate[d] : 0;
    for (std::size_t c = 0; c < fits.size() && (!many || many->matrix_rate[d] == 0); ++c) {
      if (fits[c]) peak = std::max(peak, fits[c]->matrix_rate[d]);
    }
    device.matrix.flops_per_s[d] = rounded(peak);
  }
  for (PeakFlops* peaks : {&device.matrix, &device.vector}) peaks->basis = Source::calibrated;
  device.matrix.source = "what products of many rows tend to in the fit; " + frame.source;
  device.vector.source = "the fastest product in f32; " + frame.source;

  for (std::size_t c = 0; c < fits.size(); ++c) {
    ClassEfficiency& efficiency = device.efficiency[c];
    efficiency = {};
    if (!fits[c]) {
      constexpr double assumed = 0.5;
      efficiency.compute = assumed;
      efficiency.memory = assumed;
      efficiency.overhead_s = rounded(frame.overhead_s);
      efficiency.basis = Source::assumed;
      efficiency.source = "no such operator was timed";
      continue;
    }
    const ClassFit& fit = *fits[c];
    efficiency.compute = rounded(share_of(fit.vector_rate, device.vector[DType::f32]));
    efficiency.memory = rounded(share_of(fit.other_byte_rate, limits.bandwidth));
    efficiency.overhead_s = rounded(fit.overhead_s + frame.overhead_s);
    efficiency.smooth_max = rounded(fit.exponent);
    efficiency.basis = Source::calibrated;
    // A dtype that this class was not timed in is taken to be like the others.
    DTypeEfficiency mean{0, 0};
    int known = 0;
    for (std::size_t d = 0; d < fit.matrix_rate.size(); ++d) {
      if (fit.matrix_rate[d] <= 0) continue;
      efficiency.products[d] =
          DTypeEfficiency{rounded(share_of(fit.matrix_rate[d], device.matrix.flops_per_s[d])),
                          rounded(share_of(fit.byte_rate[d], limits.bandwidth))};
      mean.compute += std::log(efficiency.products[d]->compute);
      mean.memory += std::log(efficiency.products[d]->memory);
      ++known;
    }
    if (known == 0) continue;
    mean = {rounded(std::exp(mean.compute / known)), rounded(std::exp(mean.memory / known))};
    for (std::size_t d = 0; d < fit.matrix_rate.size(); ++d) {
      if (device.matrix.flops_per_s[d] > 0 && !efficiency.products[d])
        efficiency.products[d] = mean;
    }
    efficiency.memory = mean.memory;
  }

  const RooflineModel model(device);
  for (std::size_t c = 0; c < fits.size(); ++c) {
    if (!fits[c]) continue;
    CalibrationResidual& residual = result.residuals.emplace_back();
    residual.op_class = static_cast<OpClass>(c);
    std::vector<double> errors;
    for (std::size_t i = 0; i < points.size(); ++i) {
      if (class_of(points[i].record) != residual.op_class) continue;
      ++(result.held_out[i] ? residual.held_out : residual.fitted);
      if (!result.held_out[i]) continue;
      // The executor's share is not in what was timed.
      const double estimate = model.estimate(points[i].record).total_s - frame.overhead_s;
      errors.push_back(std::abs(estimate / points[i].seconds - 1));
    }
    if (!errors.empty()) {
      residual.median = quantile(errors, 0.5);
      residual.percentile_95 = quantile(errors, 0.95);
    }
    device.efficiency[c].source =
        fmt::format("fit to {} timed operators", residual.fitted) +
        (errors.empty()
             ? std::string()
             : fmt::format("; |error| of {} others: median {:.1f} %, 95th percentile "
                           "{:.1f} %",
                           residual.held_out, 100 * residual.median, 100 * residual.percentile_95));
  }
  return result;
}

}  // namespace tcast
