#include "tcast/exec/kernels/vector_functions.h"

#include "tcast/base/error.h"

namespace tcast {

const VectorFunctions& vector_functions(Isa isa) {
  TCAST_CHECK(isa <= host_isa(), "instruction set that this host lacks");
#if defined(__x86_64__)
  switch (isa) {
    case Isa::baseline:
      break;
    case Isa::avx2:
      return avx2_functions();
    case Isa::avx512:
      return avx512_functions();
    case Isa::avx512_bf16:
      return avx512_bf16_functions();
    case Isa::amx_bf16:
      return amx_bf16_functions();
  }
#endif
  return baseline_functions();
}

}  // namespace tcast
