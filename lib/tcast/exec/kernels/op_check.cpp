#include "tcast/exec/kernels/op_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <variant>

#include "tcast/exec/kernels/reference.h"

namespace tcast {
namespace {

Buffer buffer_of(const std::vector<std::byte>& bytes, const Buffer& like) {
  Buffer buffer = like;
  buffer.data = const_cast<std::byte*>(bytes.data());  // NOLINT: a Buffer is read and written
  return buffer;
}

/// Largest difference that rounding alone explains.
double slack(double expected, DType dtype) {
  if (dtype == DType::i8) return 1;
  return dtype == DType::bf16 ? std::abs(expected) * 0x1p-7 : 0;
}

}  // namespace

Buffer OpCheck::expect(const Buffer& of_kernel) {
  Result& result = results_.emplace_back();
  result.kernels = of_kernel;
  result.before.assign(of_kernel.data, of_kernel.data + of_kernel.bytes);
  result.expected = result.before;
  return buffer_of(result.expected, of_kernel);
}

OpCheck::OpCheck(const OpRecord& record, const KernelArgs& args) {
  const auto* const attention = std::get_if<Attention>(&record);
  if (attention != nullptr && attention->query == DType::bf16) weight_rounding_ = 0x1p-9;
  const bool appends = std::holds_alternative<CacheAppend>(record);
  if (args.outputs.empty() && !appends) return;  // adds to what is there
  results_.reserve(args.outputs.size() + 1);
  std::vector<Buffer> inputs(args.inputs.begin(), args.inputs.end());
  std::vector<Buffer> outputs;
  for (const Buffer& output : args.outputs) outputs.push_back(expect(output));
  KernelArgs own{inputs, outputs, {}, args.cache};
  CacheView cache;
  if (appends) {
    cache = *args.cache;
    inputs.back() = expect(inputs.back());
    cache.data = inputs.back().data;
    own.cache = &cache;
  }
  run_reference(record, own);
}

double OpCheck::error() const {
  double worst = 0;
  for (const Result& result : results_) {
    const Buffer expected = buffer_of(result.expected, result.kernels);
    const std::byte* const before = result.before.data();
    const std::int64_t count = expected.bytes / bytes_of(1, expected.dtype);
    double most = 0;
    double largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const double a = number_at(result.kernels, i);
      const double b = number_at(expected, i);
      if (std::isinf(b) && a == b) continue;  // masked
      // What the reference leaves alone may be anything (rows that no token has).
      const std::int64_t width = bytes_of(1, expected.dtype);
      const bool left_alone = std::memcmp(expected.data + i * width, before + i * width,
                                          static_cast<std::size_t>(width)) == 0;
      if (left_alone && (a == b || !std::isfinite(b))) continue;
      if (!std::isfinite(a) || !std::isfinite(b)) return std::numeric_limits<double>::infinity();
      most = std::max(most, std::abs(a - b) - slack(b, expected.dtype));
      largest = std::max(largest, std::abs(b));
    }
    most -= weight_rounding_ * largest;
    if (most > 0) worst = std::max(worst, largest > 0 ? most / largest : most);
  }
  return worst;
}

}  // namespace tcast
