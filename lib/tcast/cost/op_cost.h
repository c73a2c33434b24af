#pragma once

#include <string>

#include "tcast/base/export.h"
#include "tcast/graph/op.h"

namespace tcast {

/// The work that an operator really has to do on this rank: floating-point (or integer) operations
/// and the bytes that pass between the chip and its memory. Nothing is billed that a good kernel
/// does not do: causal attention is a triangle, a window limits keys, an embedding reads its rows,
/// only experts that tokens are expected to go to are read. An op without rows has no work. No
/// allocation.
TCAST_API OpWork work_of(const OpRecord& record);

/// The same formulas with names and with numbers put in, one contribution per line, for people:
/// "  matrix flops (bf16)  2 * batch * m * n * k = 2 * 1 * 512 * 4096 * 1024 = 4,294,967,296".
TCAST_API std::string explain_work(const OpRecord& record);

}  // namespace tcast
