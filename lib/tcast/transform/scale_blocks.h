#pragma once

#include "tcast/model/transformer_model.h"

namespace tcast {

/// Throws Error when tensor parallelism cuts a block of a quantized weight that shares one scale or
/// one stored word, which no engine can load: with the module, its size, the block, and what works
/// (vLLM and SGLang refuse such a deployment as well; their check is that every part of a weight
/// that a rank holds is a multiple of the block).
void refuse_cut_blocks(const TransformerModel& model);

}  // namespace tcast
