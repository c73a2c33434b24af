// Fuzz target for everything that reads a config.json or a profile: no input may crash, hang or
// break an invariant. Built with -DTCAST_FUZZ=ON and clang; run as
//   json_fuzz -max_len=4096 -close_fd_mask=1 CORPUS...
// The first byte chooses the reader.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/hf_config.h"
#include "tcast/config/model_profile.h"
#include "tcast/config/node.h"

namespace {

using tcast::Node;

/// Calls a function that may throw Error, whose text must be one line that is safe to print.
template <class Call>
void expect_error_or_success(Call call) {
  try {
    call();
  } catch (const tcast::Error& error) {
    const std::string_view message = error.what();
    TCAST_CHECK(tcast::printable(message, message.size()) == message, "message is not printable");
  }
}

/// Reads everything below a node as everything.
void visit(const Node& node) {
  TCAST_CHECK(node.place().find(node.path()) != std::string::npos, "place without path");
  expect_error_or_success([&] { node.as_bool(); });
  expect_error_or_success([&] { node.as_int(); });
  expect_error_or_success([&] { node.as_number(); });
  expect_error_or_success([&] { node.as_string(); });
  if (node.is_map()) {
    for (const auto& [key, value] : node.members()) {
      TCAST_CHECK(node.at(key).place() == value.place(), "another value under the same key");
      visit(value);
    }
  } else if (node.is_list()) {
    for (const Node& item : node.items()) visit(item);
  }
}

void read_config(std::string_view text) {
  const tcast::HfConfig config = tcast::HfConfig::parse(text, "config.json");
  expect_error_or_success([&] { config.model_type(); });
  expect_error_or_success([&] { config.checkpoint_dtype(); });
  expect_error_or_success([&] { config.get_size("num_hidden_layers"); });
  expect_error_or_success([&] {
    if (const auto nested = config.nested("text_config")) nested->get<double>("rms_norm_eps");
  });
  for (const tcast::UnreadKey& key : config.unread()) {
    TCAST_CHECK(!key.path.empty() || text.find("\"\"") != std::string_view::npos,
                "key without a name");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string text(data + 1, data + size);
  switch (data[0] % 4) {
    case 0:
      expect_error_or_success([&] { visit(Node::parse_json(text, "f")); });
      break;
    case 1:
      expect_error_or_success([&] { visit(Node::parse_yaml(text, "f")); });
      break;
    case 2:
      expect_error_or_success([&] { read_config(text); });
      break;
    default:
      expect_error_or_success([&] {
        tcast::ModelProfile profile;
        profile.merge(Node::parse_yaml(text, "f"));
      });
  }
  return 0;
}
