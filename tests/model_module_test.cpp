// C10: a tree that would fill the memory is stopped while it is made.
#include <memory>
#include <string>

#include <doctest/doctest.h>

#include "tcast/model/module.h"

#include "error_of.h"

using namespace tcast;

TEST_CASE("module: there are never more than the limit, and those that are gone do not count") {
  const auto make = [](std::int64_t count) {
    return error_of([count] {
      ModuleList list;
      for (std::int64_t i = 0; i < count; ++i) {
        list.add_child("a", std::make_unique<ModuleList>());
      }
    });
  };
  const std::string too_many =
      "the model has more than 500,000 modules | let neighbouring layers and experts be equal, or "
      "build fewer layers with --num-hidden-layers";
  CHECK(make(max_live_modules - 1000) == "");
  CHECK(make(max_live_modules) == too_many);
  CHECK(make(max_live_modules - 1000) == "");
  // Copies count as well.
  ModuleList half;
  for (std::int64_t i = 0; i < max_live_modules * 2 / 3; ++i) {
    half.add_child("a", std::make_unique<ModuleList>());
  }
  CHECK(error_of([&half] { half.clone(); }) == too_many);
}
