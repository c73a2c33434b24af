#include "tcast/report/valid_text.h"

#include "tcast/base/text.h"

namespace tcast {

std::string valid_text(std::string_view text) {
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t length = utf8_length(rest);
    if (length == 0) return printable(text, std::string::npos);
    rest.remove_prefix(length);
  }
  return std::string(text);
}

}  // namespace tcast
