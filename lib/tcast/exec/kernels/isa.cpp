#include "tcast/exec/kernels/isa.h"

#include "tcast/base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tcast {
namespace {

#if defined(__x86_64__)

std::uint64_t enabled_state() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

bool bit(unsigned word, int position) { return ((word >> position) & 1u) != 0; }

/// Linux hands out the big tile registers on request (arch_prctl, ARCH_REQ_XCOMP_PERM).
bool tiles_permitted() {
  constexpr long request_permission = 0x1023;
  constexpr long tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

Isa detect() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return Isa::baseline;
  const bool fma = bit(c, 12);
  const bool f16c = bit(c, 29);
  if (!bit(c, 27)) return Isa::baseline;  // OSXSAVE
  const std::uint64_t state = enabled_state();
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return Isa::baseline;
  const bool avx2 = bit(b, 5) && fma && f16c && (state & 0x6) == 0x6;
  if (!avx2) return Isa::baseline;
  const bool avx512 =
      bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31) && (state & 0xe6) == 0xe6;
  if (!avx512) return Isa::avx2;
  const bool amx = bit(d, 22) && bit(d, 24) && (state & 0x60000) == 0x60000;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || !bit(a, 5)) return Isa::avx512;
  return amx && tiles_permitted() ? Isa::amx_bf16 : Isa::avx512_bf16;
}

#else

Isa detect() { return Isa::baseline; }

#endif

}  // namespace

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::baseline:
      return "baseline";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::amx_bf16:
      return "amx_bf16";
  }
  check_failed(__FILE__, __LINE__, "isa", "unknown instruction set");
}

Isa host_isa() {
  static const Isa isa = detect();
  return isa;
}

}  // namespace tcast
