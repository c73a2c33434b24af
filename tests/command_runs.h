#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "app/cli.h"

/// What one call of the program said.
struct Run {
  int status = 0;
  std::string out;
  std::string err;
};

/// Runs a command line in this process.
inline Run run(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"tcast"};
  for (const std::string& one : arguments) argv.push_back(one.c_str());
  std::ostringstream out;
  std::ostringstream err;
  Run result;
  result.status = tcast::run_cli(static_cast<int>(argv.size()), argv.data(), out, err);
  result.out = out.str();
  result.err = err.str();
  return result;
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
