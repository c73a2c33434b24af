#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>

#include "tcast/base/export.h"
#include "tcast/model/module.h"

namespace tcast {

/// What a module's own config demands of its parameters and children. The first thing that is not
/// so is kept; made for Module::fault().
class TCAST_API Requirements {
 public:
  /// `fault`: what the base class found already.
  explicit Requirements(const Module& module, std::string fault = {})
      : module_(module), fault_(std::move(fault)) {}

  /// A parameter of that name and shape must be there.
  Requirements& parameter(std::string_view name, const Shape& shape);
  /// If there is a parameter of that name, it has that shape.
  Requirements& parameter_if_any(std::string_view name, const Shape& shape);
  /// A child of that name must be there. An empty name demands nothing.
  Requirements& child(std::string_view name);
  /// A child of that name must be there, of a class that derives from Class.
  template <class Class>
  Requirements& child_of_class(std::string_view name) {
    if (!child(name).fault_.empty() || name.empty()) return *this;
    return that(dynamic_cast<const Class*>(module_.find_child(name)) != nullptr, [&] {
      return fmt::format("its child '{}' is a {}", name, module_.child(name).class_name());
    });
  }
  /// If there is a child of that name and it is a Linear, it has that many inputs, or outputs.
  Requirements& inputs_if_linear(std::string_view name, std::int64_t in_features);
  Requirements& outputs_if_linear(std::string_view name, std::int64_t out_features);
  /// If there is a child of that name and it is a Normalization, it has that width.
  Requirements& norm_if_any(std::string_view name, std::int64_t width);
  /// Anything else; `say` makes the text when it does not hold.
  template <class Say>
  Requirements& that(bool holds, Say&& say) {
    if (fault_.empty() && !holds) fault_ = say();
    return *this;
  }

  const std::string& fault() const { return fault_; }

 private:
  const Module& module_;
  std::string fault_;
};

}  // namespace tcast
