#include "tcast/base/registration.h"

namespace tcast {
namespace {

constinit const RegistrationNode* head = nullptr;
constinit unsigned lists = 0;

}  // namespace

RegistrationNode::RegistrationNode(const char* group_name, const RegisteredName* name_list,
                                   int name_total, const void* registered,
                                   const std::type_info* value_type,
                                   bool (*usable_value)(const void*), Origin where_from,
                                   const char* file_name, int line_number) noexcept
    : group(group_name),
      names(name_list),
      name_count(name_total),
      value(registered),
      type(value_type),
      is_usable(usable_value),
      origin(where_from),
      file(file_name),
      line(line_number),
      next(head) {
  head = this;
}

const RegistrationNode* first_registration() noexcept { return head; }

const RegistrationNode* replace_registrations(const RegistrationNode* first) noexcept {
  const RegistrationNode* const old = head;
  head = first;
  ++lists;
  return old;
}

unsigned registration_lists() noexcept { return lists; }

}  // namespace tcast
