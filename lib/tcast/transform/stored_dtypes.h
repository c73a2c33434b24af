#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// What a model's weights, activations and caches are stored and computed in, found by looking at
/// its tree and at one traced pass; bytes are those of one rank.
struct StoredDTypes {
  /// Linears, head and routers apart, whose weights are stored in one way.
  struct Linears {
    std::optional<LinearQuantization> quantization;  ///< nothing: in the checkpoint's dtype
    DType weight = DType::bf16;
    std::string source;      ///< "checkpoint", "option", "pipeline"; empty: not quantized
    std::int64_t bytes = 0;  ///< with scales
  };
  std::vector<Linears> linears;  ///< most bytes first
  /// Bytes of all parameters by their dtype.
  std::array<std::int64_t, dtype_count> bytes_by_dtype{};
  std::vector<DType> embeddings;  ///< of embeddings and head, each once
  DType activations = DType::bf16;
  /// What linears are computed in, most operations first; those of less than 1 % are left out.
  std::vector<DType> compute;
  std::vector<DType> caches;  ///< each once; none: the model keeps no cache
};

TCAST_API StoredDTypes stored_dtypes(const TransformerModel& model);

}  // namespace tcast
