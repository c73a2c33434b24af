#include "tcast/config/options.h"

#include <algorithm>
#include <iterator>
#include <span>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

// In the order of the enumerators.
constexpr std::string_view linear_names[] = {"checkpoint",  "none",         "w8a16",
                                             "w8a8_static", "w8a8_dynamic", "fp8"};
constexpr std::string_view kv_names[] = {"checkpoint", "none", "int8", "fp8"};

/// Schemes that people use elsewhere and that tcast does not know to cost or execute.
constexpr std::string_view unsupported_names[] = {"w4a8",  "w4a8_static", "w4a8_dynamic", "w4a16",
                                                  "mxfp4", "mxfp8",       "nvfp4",        "int4",
                                                  "fp4",   "awq",         "gptq"};

template <class Scheme>
std::optional<Scheme> parse(std::string_view name, std::span<const std::string_view> names) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) return std::nullopt;
  return static_cast<Scheme>(found - names.begin());
}

template <class Scheme>
Scheme require(std::string_view name, std::span<const std::string_view> names,
               std::string_view noun) {
  if (const std::optional<Scheme> scheme = parse<Scheme>(name, names)) return *scheme;
  const std::vector<std::string> known(names.begin(), names.end());
  const std::string choices = fmt::format("choose one of {}", join(known, ", "));
  if (std::find(std::begin(unsupported_names), std::end(unsupported_names), name) !=
      std::end(unsupported_names)) {
    throw Error(fmt::format("{} '{}' is not supported yet", noun, name), choices);
  }
  throw Error(fmt::format("unknown {} '{}'", noun, printable(name)),
              did_you_mean(name, known, choices));
}

}  // namespace

std::string_view name_of(LinearScheme scheme) {
  return linear_names[static_cast<std::size_t>(scheme)];
}

std::string_view name_of(KvScheme scheme) { return kv_names[static_cast<std::size_t>(scheme)]; }

std::optional<LinearScheme> parse_linear_scheme(std::string_view name) {
  return parse<LinearScheme>(name, linear_names);
}

std::optional<KvScheme> parse_kv_scheme(std::string_view name) {
  return parse<KvScheme>(name, kv_names);
}

LinearScheme require_linear_scheme(std::string_view name) {
  return require<LinearScheme>(name, linear_names, "quantization of linear layers");
}

KvScheme require_kv_scheme(std::string_view name) {
  return require<KvScheme>(name, kv_names, "quantization of the KV cache");
}

std::vector<std::string> linear_scheme_names() {
  return {std::begin(linear_names), std::end(linear_names)};
}

std::vector<std::string> kv_scheme_names() { return {std::begin(kv_names), std::end(kv_names)}; }

}  // namespace tcast
