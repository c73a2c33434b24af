#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "app/command_line.h"
#include "app/streams.h"

namespace tcast {

/// One command of the program. Its options are members, filled while the line is parsed.
class Command {
 public:
  virtual ~Command() = default;

  /// Declares options, example and checks.
  virtual void declare(CommandLine& line) = 0;

  /// Runs the command after its line was parsed. Returns the exit status. Throws Error.
  virtual int run(Streams streams) = 0;

  /// Warnings that the results carry: with --strict, they make the run a failed one.
  std::size_t warnings() const { return warnings_; }

 protected:
  void note_warnings(std::size_t count) { warnings_ += count; }

 private:
  std::size_t warnings_ = 0;
};

/// A command as the program lists it.
struct CommandInfo {
  std::string_view name;
  std::string_view summary;
  std::unique_ptr<Command> (*make)();
};

// One per file of this folder; cli.cpp lists them in the order of the help.
extern const CommandInfo calibrate_command;
extern const CommandInfo devices_command;
extern const CommandInfo inspect_command;
extern const CommandInfo models_command;
extern const CommandInfo plugins_command;
extern const CommandInfo profile_ops_command;
extern const CommandInfo profiles_command;
extern const CommandInfo run_command_info;
extern const CommandInfo simulate_command;
extern const CommandInfo steps_command;
extern const CommandInfo store_command;
extern const CommandInfo verify_command;

/// A command by its class.
template <class C>
std::unique_ptr<Command> make_command() {
  return std::make_unique<C>();
}

}  // namespace tcast
