#include "app/json_text.h"

#include <nlohmann/json.hpp>

#include "tcast/report/json_text.h"

namespace tcast {

std::string json_text(std::string_view text) {
  std::string json;
  append_json_string(json, text);
  return json;
}

std::string json_document(const nlohmann::ordered_json& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/true,
                   nlohmann::ordered_json::error_handler_t::replace) +
         "\n";
}

}  // namespace tcast
