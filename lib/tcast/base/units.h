#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tcast/base/export.h"

namespace tcast {

/// Element types of weights, activations and caches. `f8_e4m3` stands for every 8-bit float with
/// the same cost; `boolean` takes a byte.
enum class DType : std::uint8_t {
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i8,
  u8,
  i4,
  i32,
  i64,
  boolean,
};

/// Number of DType values; a table indexed by DType has this many entries.
inline constexpr int dtype_count = 11;

/// Whether it is one of them: a number that somebody converted may not be.
constexpr bool is_dtype(DType dtype) { return static_cast<int>(dtype) < dtype_count; }

/// Size of one element in bits.
constexpr int bits_of(DType dtype) {
  constexpr int bits[dtype_count] = {32, 16, 16, 8, 8, 8, 8, 4, 32, 64, 8};
  return bits[static_cast<int>(dtype)];
}

/// Name as PyTorch spells it without the prefix: "bfloat16", "float8_e4m3fn", "int8".
TCAST_API std::string_view name_of(DType dtype);

/// Short name for tables: "bf16", "f8_e4m3", "i8".
TCAST_API std::string_view short_name_of(DType dtype);

/// Reads "bfloat16", "torch.bfloat16", "bf16", "float8_e4m3fn", ...; nothing if unknown.
TCAST_API std::optional<DType> parse_dtype(std::string_view text);

/// True for floating-point types.
constexpr bool is_float(DType dtype) { return dtype <= DType::f8_e5m2; }

/// `value` rounded to nearest even in a floating-point type, not counting its range.
TCAST_API double rounded_to(DType dtype, double value);

/// a * b of sizes; throws Error naming `what` when the product leaves the range of int64.
TCAST_API std::int64_t checked_mul(std::int64_t a, std::int64_t b, std::string_view what = "size");

/// a + b of sizes; throws Error naming `what` on overflow.
TCAST_API std::int64_t checked_add(std::int64_t a, std::int64_t b, std::string_view what = "size");

/// Bytes that `count` elements take, rounded up to whole bytes (4-bit types). Throws on overflow.
TCAST_API std::int64_t bytes_of(std::int64_t count, DType dtype);

/// ceil(a / b) for a >= 0, b > 0.
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// a rounded up to a multiple of b.
constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

}  // namespace tcast
