#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tcast/study/generation.h"

#include "app/command_line.h"

namespace tcast {

/// Prompts from a file: a line of whole numbers, separated by blanks or commas, for each request;
/// empty lines do not count. Throws Error with file and line for what is no number, outside the
/// vocabulary, or of another length than the first request.
TokenIds read_token_ids(const std::string& path, std::int64_t vocabulary);

/// Refuses options that describe random prompts beside --token-ids. `line` must outlive the check.
void refuse_with_token_ids(CommandLine& line, std::vector<std::string> names);

/// The same by the loader that a plugin registered for files of this name, if there is one. What it
/// returns is held to the same rules. Throws Error.
TokenIds load_token_ids(const std::string& path, std::int64_t vocabulary);

/// Prompts of random tokens, always the same for a seed.
TokenIds random_token_ids(std::int64_t requests, std::int64_t length, std::int64_t vocabulary,
                          std::int64_t seed);

}  // namespace tcast
