#include "tcast/exec/kernels/vector_functions.h"

namespace tcast {
namespace {

constexpr int vector_width = 4;
#include "tcast/exec/kernels/vector_functions.inl"

constexpr VectorFunctions functions = generic_functions(Isa::baseline);

}  // namespace

const VectorFunctions& baseline_functions() { return functions; }

}  // namespace tcast
