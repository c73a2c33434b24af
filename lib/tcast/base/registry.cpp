#include "tcast/base/registry.h"

namespace tcast {
namespace {

constinit const RegistrationNode* head = nullptr;

}  // namespace

std::string_view name_of(Origin origin) { return origin == Origin::custom ? "custom" : "builtin"; }

RegistrationNode::RegistrationNode(const char* group_name, const char* const* pattern_list,
                                   int pattern_total, const void* registered, Origin where_from,
                                   const char* file_name, int line_number) noexcept
    : group(group_name),
      patterns(pattern_list),
      pattern_count(pattern_total),
      value(registered),
      origin(where_from),
      file(file_name),
      line(line_number),
      next(head) {
  head = this;
}

const RegistrationNode* first_registration() noexcept { return head; }

}  // namespace tcast
