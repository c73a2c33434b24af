#include "tcast/base/units.h"

#include <array>
#include <cmath>

#include <fmt/format.h>

#include "tcast/base/error.h"

namespace tcast {
namespace {

struct DTypeName {
  std::string_view full;
  std::string_view brief;
};

constexpr std::array<DTypeName, dtype_count> names = {{
    {"float32", "f32"},
    {"float16", "f16"},
    {"bfloat16", "bf16"},
    {"float8_e4m3fn", "f8_e4m3"},
    {"float8_e5m2", "f8_e5m2"},
    {"int8", "i8"},
    {"uint8", "u8"},
    {"int4", "i4"},
    {"int32", "i32"},
    {"int64", "i64"},
    {"bool", "bool"},
}};

}  // namespace

std::string_view name_of(DType dtype) { return names[static_cast<std::size_t>(dtype)].full; }

std::string_view short_name_of(DType dtype) { return names[static_cast<std::size_t>(dtype)].brief; }

std::optional<DType> parse_dtype(std::string_view text) {
  constexpr std::string_view prefix = "torch.";
  if (text.substr(0, prefix.size()) == prefix) text.remove_prefix(prefix.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (text == names[i].full || text == names[i].brief) return static_cast<DType>(i);
  }
  struct Alias {
    std::string_view name;
    DType dtype;
  };
  constexpr Alias aliases[] = {{"float", DType::f32},    {"fp32", DType::f32},
                               {"half", DType::f16},     {"fp16", DType::f16},
                               {"fp8", DType::f8_e4m3},  {"float8_e4m3", DType::f8_e4m3},
                               {"e4m3", DType::f8_e4m3}, {"e5m2", DType::f8_e5m2}};
  for (const Alias& alias : aliases) {
    if (text == alias.name) return alias.dtype;
  }
  return std::nullopt;
}

double rounded_to(DType dtype, double value) {
  const int bits = [dtype] {
    switch (dtype) {
      case DType::f32:
        return 24;
      case DType::f16:
        return 11;
      case DType::bf16:
        return 8;
      case DType::f8_e4m3:
        return 4;
      case DType::f8_e5m2:
        return 3;
      default:
        throw InternalError("not a floating-point type");
    }
  }();
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, bits)), exponent - bits);
}

std::int64_t checked_mul(std::int64_t a, std::int64_t b, std::string_view what) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    throw Error(fmt::format("{}: {} x {} is larger than a 64-bit size can hold", what, a, b));
  }
  return product;
}

std::int64_t checked_add(std::int64_t a, std::int64_t b, std::string_view what) {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) {
    throw Error(fmt::format("{}: {} + {} is larger than a 64-bit size can hold", what, a, b));
  }
  return sum;
}

std::int64_t bytes_of(std::int64_t count, DType dtype) {
  return ceil_div(checked_mul(count, bits_of(dtype), "bytes of a tensor"), 8);
}

}  // namespace tcast
