#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tcast/config/hf_config.h"
#include "tcast/study/boundaries.h"
#include "tcast/study/inputs.h"

namespace tcast {

/// What a model is going to be executed on, again and again.
struct ShrinkRequest {
  std::int64_t requests = 2;
  LengthRequest lengths;
  bool keeps_vocabulary = false;  ///< token ids are given
  std::int64_t most_bytes = 0;    ///< of weights, and of activations
};

/// A config made small enough.
struct Shrunk {
  ModelInputs inputs;                ///< with sizes and layers that make the model small
  std::vector<std::string> changes;  ///< "3 of 61 layers", "hidden_size 7168 -> 896"
  std::vector<Boundary> boundaries;  ///< of the model as it was, and where the smaller one has them
  std::vector<std::string> warnings;  ///< of the model as it was, transformed
};

/// The largest of a few smaller models of the same kind that can be executed a dozen times within
/// seconds: the config as it is, else fewer layers (the first ones that show every kind of layer),
/// then fewer experts and a smaller vocabulary, then smaller widths, in such proportions that what
/// divides what stays. Boundaries that are too far away come nearer where that leaves a model that
/// can be built and transformed. A hook runs for the config as it is, for the smaller model, and
/// for each boundary that is moved. Throws Error when even the smallest does not fit, and what
/// building or transforming the config as it is throws.
Shrunk shrink(const HfConfig& config, const ModelInputs& inputs, const ShrinkRequest& request);

}  // namespace tcast
