#include "app/cli.h"

#include <exception>
#include <memory>
#include <new>
#include <ostream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/interrupt.h"
#include "tcast/base/text.h"

#include "app/command.h"
#include "app/plugin_options.h"
#include "app/termination.h"

namespace tcast {
namespace {

constexpr const CommandInfo* commands[] = {
    &simulate_command,    &run_command_info,  &verify_command,   &inspect_command,
    &profile_ops_command, &calibrate_command, &models_command,   &plugins_command,
    &steps_command,       &devices_command,   &profiles_command, &store_command};

void print_overview(std::ostream& out) {
  out << "tcast: memory and latency of large models from a HuggingFace config.json alone\n\n"
         "Usage: tcast COMMAND [options] ...\n\nCommands:\n";
  for (const CommandInfo* command : commands) {
    out << fmt::format("  {:<12}{}\n", command->name, command->summary);
  }
  out << "\n  -h, --help  this help; 'tcast COMMAND --help' for that of a command\n"
         "  --version   the version\n\n"
         "Example:\n"
         "  $ tcast simulate configs/models/qwen3-8b.json --device h200\n";
}

const CommandInfo& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const CommandInfo* command : commands) {
    if (command->name == name) return *command;
    names.emplace_back(command->name);
  }
  if (!name.empty() && name[0] == '-') {
    throw UsageError(fmt::format("unknown option '{}' in front of a command", printable(name)),
                     "options stand behind the command: tcast COMMAND [options]");
  }
  throw UsageError(fmt::format("unknown command '{}'", printable(name)),
                   did_you_mean(name, names, "see 'tcast --help'"));
}

int run_command(const CommandInfo& info, const std::vector<std::string>& arguments,
                Streams streams) {
  const PluginScope plugins(arguments);
  // Whether it ends well or not: what is wrong with plugins may be why.
  struct Problems {
    std::ostream& err;
    ~Problems() { PluginScope::print_problems(err); }
  } const problems{streams.err};
  const std::unique_ptr<Command> command = info.make();
  CommandLine line(fmt::format("tcast {}", info.name), std::string(info.summary));
  command->declare(line);
  PluginScope::declare(line);
  if (!line.parse(arguments)) {
    line.print_help(streams.out);
    return 0;
  }
  line.open_outputs();
  const int status = command->run(streams);
  if (status != 0 || !plugins.strict() || command->warnings() == 0) return status;
  streams.out.flush();
  throw Error(fmt::format("--strict: {} warning{}", command->warnings(),
                          command->warnings() == 1 ? "" : "s"),
              "they stand in the result; leave out --strict to take it as it is");
}

int run_line(std::vector<std::string> arguments, Streams streams) {
  if (arguments.empty()) {
    print_overview(streams.err);
    return 2;
  }
  const std::string first = arguments.front();
  arguments.erase(arguments.begin());
  if (first == "--version") {
    streams.out << "tcast " << TCAST_VERSION << '\n';
    return 0;
  }
  if (first == "help" && !arguments.empty()) {
    return run_command(find_command(arguments.front()), {"--help"}, streams);
  }
  if (first == "--help" || first == "-h" || first == "help") {
    print_overview(streams.out);
    return 0;
  }
  return run_command(find_command(first), arguments, streams);
}

void print_error(std::ostream& err, const std::string& message, const std::string& hint = {}) {
  say(err, "error", message);
  if (!hint.empty()) err << "  hint: " << printable(hint, max_message_bytes) << '\n';
}

/// Says what the exception that is being handled means; returns the exit status for it.
int report_failure(std::ostream& err) {
  try {
    throw;
  } catch (const UsageError& error) {
    print_error(err, error.what(), error.hint());
    return 2;
  } catch (const Error& error) {
    print_error(err, error.what(), error.hint());
    return 1;
  } catch (const Interrupted& interrupted) {
    err << "tcast: interrupted\n";
    return interrupted.exit_status();
  } catch (const std::bad_alloc&) {
    print_error(err, "not enough memory");
    return 1;
  } catch (const std::length_error&) {
    print_error(err, "not enough memory: something is larger than any memory");
    return 1;
  } catch (const std::system_error& error) {
    // The file system, or a thread that the system does not give.
    print_error(err, error.what());
    return 1;
  } catch (const std::exception& error) {
    print_error(
        err, fmt::format("internal error: {}", error.what()),
        "this is a mistake in tcast; please report it with the command line and the config");
    return 70;
  } catch (...) {
    print_error(err, "internal error: something was thrown that is no exception");
    return 70;
  }
}

}  // namespace

int run_cli(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  const TerminationGuard termination;
  PrintableStream text(out);
  PrintableStream messages(err);
  try {
    const int status = run_line({argv + (argc > 0 ? 1 : 0), argv + argc},
                                {.out = text, .err = messages, .data = out, .progress = err});
    // A closed pipe or a full disk shows when the last of it is written.
    text.flush();
    if (!out) throw Error("cannot write to the standard output");
    return status;
  } catch (...) {
    return report_failure(messages);
  }
}

}  // namespace tcast
