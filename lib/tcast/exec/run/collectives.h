#pragma once

#include <vector>

#include "tcast/exec/run/program.h"

// Private to this folder: collectives between ranks that run in lock step in one process.

namespace tcast {

/// Executes a collective of a region: `use` names the operands, `ranks` has the buffers of the call
/// on every rank. Groups are those of ranks whose device numbers are Collective::stride apart.
void run_collective(const Collective& op, const Op& use, std::vector<CallBuffers>& ranks);

}  // namespace tcast
