#include "tcast/exec/vector_functions.h"

namespace tcast {
namespace {

constexpr int vector_width = 8;
#include "tcast/exec/vector_functions.inl"

constexpr VectorFunctions functions = generic_functions(Isa::avx2);

}  // namespace

const VectorFunctions& avx2_functions() { return functions; }

}  // namespace tcast
