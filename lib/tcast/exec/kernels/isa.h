#pragma once

#include <cstdint>
#include <string_view>

#include "tcast/base/export.h"

namespace tcast {

/// Instruction sets that our own kernels are written for, each including those before it.
enum class Isa : std::uint8_t {
  baseline,     ///< whatever the compiler assumes
  avx2,         ///< with fma and f16c
  avx512,       ///< f, bw, vl, dq
  avx512_bf16,  ///< dot products of bf16
  amx_bf16,     ///< tiles of bf16
};
inline constexpr int isa_count = 5;

/// "baseline", "avx2", ..., as they appear in names of implementations.
TCAST_API std::string_view name_of(Isa isa);

/// The best one that this processor and its operating system support. The first call asks the
/// system for permission to use tiles.
TCAST_API Isa host_isa();

}  // namespace tcast
