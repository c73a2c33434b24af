#pragma once

#include "tcast/transform/quantization_format.h"

// Private to transform/: tcast's own formats, registered by core_quantization_formats().

namespace tcast {

QuantizationScheme read_awq(const QuantizationSource& source);
QuantizationScheme read_compressed_tensors(const QuantizationSource& source);
QuantizationScheme read_fp8(const QuantizationSource& source);
QuantizationScheme read_modelopt(const QuantizationSource& source);

}  // namespace tcast
