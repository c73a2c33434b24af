// Everything that reads a text that somebody wrote: no input may crash, hang or break an invariant.
// The first byte chooses the reader.

#include <string>
#include <string_view>

#include "tcast/config/arguments.h"
#include "tcast/config/hf_config.h"
#include "tcast/config/model_profile.h"
#include "tcast/config/node.h"
#include "tcast/device/device_profile.h"
#include "tcast/report/assertion.h"
#include "tcast/study/measurement_text.h"

#include "app/token_ids.h"
#include "fuzz.h"

namespace {

using fuzz::expect_error_or_success;
using tcast::Node;

/// Reads everything below a node as everything.
void visit(const Node& node) {
  if (node.place().find(node.path()) == std::string::npos) fuzz::fail("place without path");
  expect_error_or_success([&] { node.as_bool(); });
  expect_error_or_success([&] { node.as_int(); });
  expect_error_or_success([&] { node.as_number(); });
  expect_error_or_success([&] { node.as_string(); });
  if (node.is_map()) {
    for (const auto& [key, value] : node.members()) {
      if (node.at(key).place() != value.place()) fuzz::fail("another value under the same key");
      visit(value);
    }
  } else if (node.is_list()) {
    for (const Node& item : node.items()) visit(item);
  }
}

void read_config(const std::string& text) {
  const tcast::HfConfig config = tcast::HfConfig::parse(text, "config.json");
  expect_error_or_success([&] { config.model_type(); });
  expect_error_or_success([&] { config.checkpoint_dtype(); });
  expect_error_or_success([&] { config.get_size("num_hidden_layers"); });
  expect_error_or_success([&] {
    if (const auto nested = config.nested("text_config")) nested->get<double>("rms_norm_eps");
  });
  expect_error_or_success([&] { config.text_part(); });
  for (const tcast::UnreadKey& key : config.unread()) {
    if (tcast::printable(key.key, key.key.size()) != key.key) fuzz::fail("an unprintable key");
  }
}

void read_profile(const std::string& text) {
  tcast::ModelProfile profile;
  profile.merge(Node::parse_yaml(text, "f"));
}

void read_arguments(const std::string& text) {
  tcast::Arguments arguments("custom_model_config: ");
  arguments.merge_text(text, "--custom-model-config");
  for (const std::string& key : arguments.keys()) {
    expect_error_or_success([&] { arguments.find<std::int64_t>(key); });
    expect_error_or_success([&] { arguments.find<std::vector<std::string>>(key); });
  }
}

/// A number that was read is one that a comparison means something with.
void read_assertion(const std::string& text) {
  const tcast::Assertion assertion = tcast::parse_assertion(text);
  if (assertion.field.empty() || assertion.value != assertion.value) fuzz::fail("no assertion");
}

void read_ids(const std::string& text) {
  static const fuzz::WorkingFolder folder;
  fuzz::write_file("ids", text);
  const tcast::TokenIds ids = tcast::read_token_ids("ids", 1000);
  for (const auto& prompt : ids) {
    if (prompt.size() != ids[0].size()) fuzz::fail("prompts of different lengths");
    for (const std::int64_t id : prompt) {
      if (id < 0 || id >= 1000) fuzz::fail("a token outside of the vocabulary");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(data + 1, data + size);
  expect_error_or_success([&] {
    switch (data[0] % 9) {
      case 0:
        return visit(Node::parse_json(text, "f"));
      case 1:
        return visit(Node::parse_yaml(text, "f"));
      case 2:
        return read_config(text);
      case 3:
        return read_profile(text);
      case 4:
        return static_cast<void>(tcast::read_device(Node::parse_yaml(text, "f")));
      case 5:
        return read_assertion(text);
      case 6:
        return read_ids(text);
      case 7:
        return static_cast<void>(tcast::read_measurements(text, "f"));
      default:
        return read_arguments(text);
    }
  });
  return 0;
}
