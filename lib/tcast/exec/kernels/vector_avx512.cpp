#include <immintrin.h>

#include "tcast/exec/kernels/vector_functions.h"

namespace tcast {
namespace {

constexpr int vector_width = 16;
#include "tcast/exec/kernels/vector_avx512.inl"
#include "tcast/exec/kernels/vector_functions.inl"

constexpr VectorFunctions functions = generic_functions(Isa::avx512);

}  // namespace

const VectorFunctions& avx512_functions() { return functions; }

}  // namespace tcast
