#include "app/json_text.h"

#include "tcast/report/json_text.h"

namespace tcast {

std::string json_text(std::string_view text) {
  std::string json;
  append_json_string(json, text);
  return json;
}

}  // namespace tcast
