#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/graph/tensor.h"

namespace tcast {

/// How a quantized linear stores its weight and treats its input: what a format of quantization
/// comes to for one linear.
struct TCAST_API LinearQuantization {
  DType weight = DType::i8;
  ScaleGrid scales{};
  /// Input dtype of the product; nothing: weights alone are quantized, inputs stay as they are.
  std::optional<DType> activation{};
  /// Elements that share an activation scale: 0 a whole row, < 0 one fixed scale.
  std::int64_t activation_group = 0;

  /// What checkpoints call the parameters of a linear. Of experts that are stored together, the
  /// name of their weight takes the place of "weight".
  struct Names {
    std::string weight = "weight";
    std::string scales = "weight_scale";
    std::string zero_points = "weight_zero_point";
    std::string
        shape{};  ///< of an int64 tensor that holds the weight's shape; empty: there is none

    bool operator==(const Names&) const = default;
  };
  Names names{};
  /// Outputs and inputs of a weight are multiples of these: values that share a stored word, and
  /// groups that must be whole.
  std::int64_t output_multiple = 1;
  std::int64_t input_multiple = 1;

  /// "fp8", "w8a8_dynamic", "w4a16": bits of weights and of inputs.
  std::string scheme() const;
  /// "fp8 f8_e4m3 128x128".
  std::string describe() const;
  /// The scales of a quantized input; nothing: it is not quantized, or its scale is fixed.
  std::optional<ScaleGrid> activation_scales() const;
  /// Why a matrix or stack of them, [.., outputs, inputs], cannot be stored so; empty: it can.
  std::string obstacle(const Parameter& matrix) const;

  bool operator==(const LinearQuantization&) const = default;
};

/// Stores a weight, a matrix [outputs, inputs] or a stack of them, as `quantization` says. Returns
/// what comes beside it: scales, zero points if it has any, its shape if that is stored.
TCAST_API std::vector<Parameter> quantize_weight(Parameter& weight,
                                                 const LinearQuantization& quantization);

/// Cuts scales or zero points as their weight is cut; along a side that has one, they stay whole.
TCAST_API void cut_with_weight(Parameter& part, const Parameter& weight);

}  // namespace tcast
