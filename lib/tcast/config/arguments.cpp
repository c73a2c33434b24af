#include "tcast/config/arguments.h"

#include <algorithm>
#include <cstdlib>

#include <cxxabi.h>
#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {

const Registry<ValueConverter>& value_converters() {
  return registry_of<ValueConverter>("value_converter");
}

const Registry<TypeValidator>& type_validators() {
  return registry_of<TypeValidator>("type_validator");
}

std::string type_name(const std::type_info& type) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(type.name(), nullptr, nullptr, &status), &std::free);
  return status == 0 ? name.get() : type.name();
}

Arguments::Arguments(std::string place) : place_(std::move(place)) {}

Arguments::Arguments(const Node& map) : place_(map.place()) { merge(map); }

void Arguments::merge(const Node& map) {
  for (auto& [key, node] : map.members()) {
    if (key == "type") continue;
    auto value = std::make_shared<Value>(Value{key, node});
    const auto known = std::find_if(values_.begin(), values_.end(),
                                    [&key = key](const auto& one) { return one->key == key; });
    if (known != values_.end()) {
      *known = std::move(value);
    } else {
      values_.push_back(std::move(value));
    }
  }
}

void Arguments::merge_text(const std::string& text, const std::string& option) {
  const std::size_t equals = text.find('=');
  const std::string key = text.substr(0, equals);
  const bool plain = !key.empty() && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  });
  if (equals == std::string::npos || !plain || key == "type" ||
      text.find('\n') != std::string::npos) {
    throw Error(fmt::format("{}: expected key=value, got '{}'", option, printable(text)),
                "as in depth=3 or 'sizes=[1, 2]'");
  }
  const std::string value = text.substr(equals + 1);
  merge(Node::parse_yaml(fmt::format("{}: {}", key, value), option));
}

std::vector<std::string> Arguments::keys() const {
  std::vector<std::string> keys;
  for (const auto& value : values_) keys.push_back(value->key);
  return keys;
}

std::optional<Node> Arguments::node(std::string_view key) const {
  asked_->emplace_back(key);
  for (const auto& value : values_) {
    if (value->key != key) continue;
    value->read = true;
    return value->node;
  }
  return std::nullopt;
}

std::vector<std::string> Arguments::unread() const {
  std::vector<std::string> list;
  for (const auto& value : values_) {
    if (!value->read) list.push_back(value->node.place());
  }
  return list;
}

void Arguments::reject_unread(std::string_view what) const {
  for (const auto& value : values_) {
    if (value->read) continue;
    value->node.fail(fmt::format("{} takes no argument '{}'", what, printable(value->key)),
                     did_you_mean(value->key, *asked_));
  }
}

std::any Arguments::convert(const Node& node, const std::type_info& type) {
  const std::string name = type_name(type);
  const auto* const entry = value_converters().find(name);
  if (entry == nullptr) {
    node.fail(fmt::format("no value converter is registered for the type '{}'", name),
              missing_plugin_hint("value_converter", name));
  }
  return entry->call(node);
}

void Arguments::fail_conversion(const Node& node, const std::type_info& type) {
  const auto* const entry = value_converters().find(type_name(type));
  node.fail(fmt::format("the value converter of '{}' ({}) made something else", type_name(type),
                        entry->place()));
}

void Arguments::fail_missing(std::string_view key) const {
  throw Error(fmt::format("{}expected the argument '{}'", place_.empty() ? "" : place_ + ": ", key),
              did_you_mean(key, keys()));
}

}  // namespace tcast
