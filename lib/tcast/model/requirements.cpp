#include "tcast/model/requirements.h"

#include "tcast/base/text.h"
#include "tcast/model/layers.h"

namespace tcast {

Requirements& Requirements::parameter(std::string_view name, const Shape& shape) {
  const Parameter* const found = module_.find_parameter(name);
  that(found != nullptr, [&] { return fmt::format("it has no parameter '{}'", name); });
  return parameter_if_any(name, shape);
}

Requirements& Requirements::parameter_if_any(std::string_view name, const Shape& shape) {
  const Parameter* const found = module_.find_parameter(name);
  if (found == nullptr) return *this;
  return that(found->shape == shape, [&] {
    return fmt::format("its {} is {}, expected {}", name, to_string(found->shape),
                       to_string(shape));
  });
}

Requirements& Requirements::child(std::string_view name) {
  if (name.empty()) return *this;
  return that(module_.find_child(name) != nullptr, [&] {
    return fmt::format("it has no child '{}' (it has {})", name, join(module_.child_names(), ", "));
  });
}

Requirements& Requirements::inputs_if_linear(std::string_view name, std::int64_t in_features) {
  const auto* const linear = dynamic_cast<const Linear*>(module_.find_child(name));
  return that(linear == nullptr || linear->in_features() == in_features, [&] {
    return fmt::format("its child '{}' takes {} inputs, expected {}", name, linear->in_features(),
                       in_features);
  });
}

Requirements& Requirements::outputs_if_linear(std::string_view name, std::int64_t out_features) {
  const auto* const linear = dynamic_cast<const Linear*>(module_.find_child(name));
  return that(linear == nullptr || linear->out_features() == out_features, [&] {
    return fmt::format("its child '{}' has {} outputs, expected {}", name, linear->out_features(),
                       out_features);
  });
}

Requirements& Requirements::norm_if_any(std::string_view name, std::int64_t width) {
  const auto* const found = dynamic_cast<const Normalization*>(module_.find_child(name));
  if (found == nullptr) return *this;
  return that(found->width() == width, [&] {
    return fmt::format("its child '{}' is {} wide, expected {}", name, found->width(), width);
  });
}

}  // namespace tcast
