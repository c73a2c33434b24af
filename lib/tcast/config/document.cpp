#include "tcast/config/document.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {

DocumentBuilder::DocumentBuilder(std::string_view file) : document_(std::make_shared<Document>()) {
  document_->file = printable(file, 4096);
}

void DocumentBuilder::key(std::string_view text) {
  key_ = store(text);
  key_size_ = static_cast<std::uint32_t>(text.size());
  has_key_ = true;
}

void DocumentBuilder::scalar(Mark mark, ElementKind kind, std::string_view text) {
  Element element;
  element.kind = kind;
  element.mark = mark;
  element.first = store(text);
  element.size = static_cast<std::uint32_t>(text.size());
  add(element);
}

void DocumentBuilder::open(Mark mark, ElementKind kind) {
  if (open_.size() == max_document_depth) {
    fail(mark, fmt::format("lists and maps are nested more than {} deep", max_document_depth));
  }
  Element element;
  element.kind = kind;
  element.mark = mark;
  open_.push_back({add(element), Element::none});
}

void DocumentBuilder::close() {
  const Element& closed = innermost();
  if (closed.kind == ElementKind::map) reject_duplicate_keys(closed);
  open_.pop_back();
}

void DocumentBuilder::fail(Mark mark, std::string_view message, std::string hint) const {
  throw Error(fmt::format("{}:{}:{}: {}", document_->file, mark.line, mark.column, message),
              std::move(hint));
}

std::uint32_t DocumentBuilder::store(std::string_view text) {
  const std::size_t begin = document_->text.size();
  document_->text += text;
  return static_cast<std::uint32_t>(begin);
}

std::uint32_t DocumentBuilder::add(Element element) {
  std::vector<Element>& elements = document_->elements;
  if (elements.size() == max_document_values) {
    fail(element.mark,
         fmt::format("expected at most {} values, got more", format_grouped(max_document_values)));
  }
  const auto index = static_cast<std::uint32_t>(elements.size());
  if (is_open()) {
    Open& parent = open_.back();
    element.parent = parent.index;
    Element& container = elements[parent.index];
    element.key = has_key_ ? key_ : container.size;
    element.key_size = has_key_ ? key_size_ : 0;
    (parent.last_child == Element::none ? container.first : elements[parent.last_child].next) =
        index;
    ++container.size;
    parent.last_child = index;
  }
  has_key_ = false;
  elements.push_back(element);
  return index;
}

void DocumentBuilder::reject_duplicate_keys(const Element& map) const {
  const Document& document = *document_;
  std::vector<std::uint32_t> members;
  for (std::uint32_t i = map.first; i != Element::none; i = document.elements[i].next) {
    members.push_back(i);
  }
  std::sort(members.begin(), members.end(), [&](std::uint32_t a, std::uint32_t b) {
    const int order =
        document.key_of(document.elements[a]).compare(document.key_of(document.elements[b]));
    return order != 0 ? order < 0 : a < b;
  });
  for (std::size_t i = 1; i < members.size(); ++i) {
    const Element& first = document.elements[members[i - 1]];
    const Element& second = document.elements[members[i]];
    if (document.key_of(first) != document.key_of(second)) continue;
    fail(second.mark,
         fmt::format("duplicate key '{}', which has a value on line {} already",
                     printable(document.key_of(second)), first.mark.line),
         "remove one of the two");
  }
}

}  // namespace tcast
