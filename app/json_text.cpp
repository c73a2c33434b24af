#include "app/json_text.h"

#include <nlohmann/json.hpp>

namespace tcast {

std::string json_text(std::string_view text) {
  using nlohmann::json;
  return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace tcast
