#include "app/token_ids.h"

#include <algorithm>
#include <charconv>
#include <random>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/base/text.h"
#include "tcast/config/exchange.h"

namespace tcast {
namespace {

/// The numbers of one line. `where`: "file:3".
std::vector<std::int64_t> read_line(std::string_view line, const std::string& where,
                                    std::int64_t vocabulary) {
  std::vector<std::int64_t> ids;
  std::size_t at = 0;
  while (true) {
    at = line.find_first_not_of(" \t,\r", at);
    if (at == std::string_view::npos) return ids;
    const std::size_t end = std::min(line.find_first_of(" \t,\r", at), line.size());
    const std::string_view word = line.substr(at, end - at);
    std::int64_t id = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || stop != word.data() + word.size()) {
      throw Error(
          fmt::format("{}:{}: expected a token id, got '{}'", where, at + 1, printable(word)),
          "write one line of whole numbers for each request");
    }
    if (id < 0 || id >= vocabulary) {
      throw Error(fmt::format("{}:{}: token id {} is outside the vocabulary of {}", where, at + 1,
                              id, vocabulary),
                  fmt::format("token ids go from 0 to {}", vocabulary - 1));
    }
    ids.push_back(id);
    at = end;
  }
}

}  // namespace

TokenIds read_token_ids(const std::string& path, std::int64_t vocabulary) {
  // More than any prompt that fits into memory as activations.
  constexpr std::size_t most_bytes = std::size_t{64} << 20;
  const std::string text =
      read_file(path, most_bytes, "a line of whole numbers for each request is all that is read");
  TokenIds requests;
  std::size_t first_line = 0;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    const std::string where = fmt::format("{}:{}", printable(path), number);
    std::vector<std::int64_t> ids = read_line(line, where, vocabulary);
    if (ids.empty()) continue;
    if (requests.empty()) {
      first_line = number;
    } else if (ids.size() != requests[0].size()) {
      throw Error(fmt::format("{}: {} token ids, line {} has {}", where, ids.size(), first_line,
                              requests[0].size()),
                  "all requests of a run are equally long");
    }
    requests.push_back(std::move(ids));
  }
  if (requests.empty()) {
    throw Error(fmt::format("{}: no token ids", printable(path)),
                "write one line of whole numbers for each request");
  }
  return requests;
}

void refuse_with_token_ids(CommandLine& line, std::vector<std::string> names) {
  line.add_check([&line, names = std::move(names)] {
    if (!line.given("--token-ids")) return;
    for (const std::string& name : names) {
      if (!line.given(name)) continue;
      throw Error(fmt::format("{} describes random prompts, but --token-ids gives them", name),
                  "leave out one of them");
    }
  });
}

TokenIds load_token_ids(const std::string& path, std::int64_t vocabulary) {
  const auto* const loader = token_loaders().find(file_name_of(path));
  if (loader == nullptr) return read_token_ids(path, vocabulary);
  TokenIds requests = loader->call(path);
  const auto refuse = [&](const std::string& what) {
    loader->refuse(fmt::format("it made of {} {}", printable(path), what));
  };
  if (requests.empty() || requests[0].empty()) refuse("no token ids");
  for (const auto& request : requests) {
    if (request.size() != requests[0].size()) refuse("requests that are not equally long");
    for (const std::int64_t id : request) {
      if (id < 0 || id >= vocabulary) {
        refuse(
            fmt::format("the token id {}, which is outside the vocabulary of {}", id, vocabulary));
      }
    }
  }
  return requests;
}

TokenIds random_token_ids(std::int64_t requests, std::int64_t length, std::int64_t vocabulary,
                          std::int64_t seed) {
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  TokenIds ids(static_cast<std::size_t>(requests));
  for (auto& request : ids) {
    for (std::int64_t i = 0; i < length; ++i) {
      request.push_back(
          static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(vocabulary)));
    }
  }
  return ids;
}

}  // namespace tcast
