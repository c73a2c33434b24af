#pragma once

#include <iosfwd>

namespace tcast {

/// Runs one command line. Results go to `out`, everything else to `err`. Returns the exit status: 0
/// fine, 1 input or run failed, 2 bad command line, 3 an assertion failed, 70 internal, 128 + n
/// ended by signal n. Whatever a person reads of it has nothing that a terminal would obey.
int run_cli(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace tcast
