#include "app/streams.h"

#include <algorithm>

#include "tcast/base/text.h"

namespace tcast {
namespace {

/// Bytes at the end of a text that may be the beginning of a character: of at most four, the last
/// one that can begin a sequence, when the sequence that it announces is longer than what is there.
std::size_t unfinished_bytes(std::string_view text) {
  for (std::size_t count = 1; count <= std::min<std::size_t>(3, text.size()); ++count) {
    const auto lead = static_cast<unsigned char>(text[text.size() - count]);
    if (lead < 0x80) return 0;
    if (lead < 0xC0) continue;
    const std::size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    return length > count ? count : 0;
  }
  return 0;
}

}  // namespace

void PrintableBuffer::pass_on(bool all) {
  const std::size_t kept = all ? 0 : unfinished_bytes(pending_);
  const std::size_t size = pending_.size() - kept;
  target_ << printable_lines(std::string_view(pending_).substr(0, size));
  pending_.erase(0, size);
}

PrintableBuffer::int_type PrintableBuffer::overflow(int_type letter) {
  if (traits_type::eq_int_type(letter, traits_type::eof())) return traits_type::not_eof(letter);
  pending_ += traits_type::to_char_type(letter);
  pass_on(false);
  return target_ ? letter : traits_type::eof();
}

std::streamsize PrintableBuffer::xsputn(const char* text, std::streamsize size) {
  pending_.append(text, static_cast<std::size_t>(size));
  pass_on(false);
  return target_ ? size : 0;
}

int PrintableBuffer::sync() {
  pass_on(true);
  target_.flush();
  return target_ ? 0 : -1;
}

void say(std::ostream& err, std::string_view kind, std::string_view text) {
  err << "tcast: " << kind << ": " << printable(text, max_message_bytes) << '\n';
}

}  // namespace tcast
