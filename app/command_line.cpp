#include "app/command_line.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <ostream>
#include <utility>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <fmt/format.h>

#include "tcast/base/text.h"

#include "app/output.h"

// CLI11 takes the line apart; reading the values, the messages and the help are ours, because those
// of CLI11 2.1 name neither what was expected nor what is near.

namespace tcast {
namespace {

/// The only candidate that begins with what was typed, or the closest one.
std::string suggest(const std::string& name, std::span<const std::string> candidates,
                    std::string_view otherwise) {
  std::vector<std::string> longer;
  for (const std::string& candidate : candidates) {
    if (name.size() > 2 && candidate.substr(0, name.size()) == name) longer.push_back(candidate);
  }
  if (longer.size() == 1) return fmt::format("did you mean '{}'?", longer[0]);
  return did_you_mean(name, candidates, otherwise);
}

/// "2^40" or "4096".
std::string limit_text(std::int64_t limit) {
  return limit == max_option_size ? "2^40" : std::to_string(limit);
}

std::int64_t read_size(const std::string& text, std::int64_t minimum, std::int64_t maximum) {
  std::int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, value);
  if (stop != end || failure == std::errc::invalid_argument || text.empty()) {
    throw Error(fmt::format("expected a whole number, got '{}'", printable(text)));
  }
  const bool too_far = failure == std::errc::result_out_of_range;
  const bool negative = text[0] == '-';
  if ((too_far && negative) || (!too_far && value < minimum)) {
    throw Error(fmt::format("expected a whole number >= {}, got {}", minimum, printable(text)));
  }
  if (too_far || value > maximum) {
    throw Error(
        fmt::format("expected a whole number <= {}, got {}", limit_text(maximum), printable(text)));
  }
  return value;
}

/// The number that a text begins with; what follows it is left in `text`.
std::optional<double> take_number(std::string_view& text) {
  double value = 0;
  const auto [stop, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || !std::isfinite(value)) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
  return value;
}

/// The bytes of a unit, or 0.
double unit_bytes(std::string_view unit) {
  struct Unit {
    std::string_view name;
    double bytes;
  };
  constexpr Unit units[] = {{"", 1},
                            {"B", 1},
                            {"KiB", 1024.0},
                            {"MiB", 1024.0 * 1024},
                            {"GiB", 1024.0 * 1024 * 1024},
                            {"TiB", 1024.0 * 1024 * 1024 * 1024},
                            {"kB", 1e3},
                            {"KB", 1e3},
                            {"MB", 1e6},
                            {"GB", 1e9},
                            {"TB", 1e12}};
  for (const Unit& known : units) {
    if (known.name == unit) return known.bytes;
  }
  return 0;
}

/// `text` cut into lines of at most `width` letters between words; a longer word stays whole.
std::vector<std::string> wrap(const std::string& text, std::size_t width) {
  std::vector<std::string> lines(1);
  for (const std::string& word : split(text, ' ')) {
    std::string& line = lines.back();
    if (line.empty()) {
      line = word;
    } else if (line.size() + 1 + word.size() <= width) {
      line += " " + word;
    } else {
      lines.push_back(word);
    }
  }
  return lines;
}

/// A file that nobody checks before the work cannot be declared.
void require_use(const OptionValue& value) {
  const bool file = value.name.find("FILE") != std::string::npos || value.name == "CONFIG";
  TCAST_CHECK(file == (value.use != FileUse::none), "an option says what it does with its file");
}

constexpr std::size_t help_column = 30;
constexpr std::size_t help_width = 100;

/// One entry of the help: what is typed, and its description in a column of its own.
void print_entry(std::ostream& out, const std::string& what, const std::string& description) {
  std::string line = "  " + what;
  if (line.size() + 2 > help_column) {
    out << line << '\n';
    line.clear();
  }
  for (const std::string& part : wrap(description, help_width - help_column)) {
    out << fmt::format("{:<{}}{}\n", line, help_column, part);
    line.clear();
  }
}

}  // namespace

// --- readers -------------------------------------------------------------------------------------

Reader to_text(std::string& target) {
  return [&target](const std::string& text) {
    if (text.empty()) throw Error("expected a value, got an empty one");
    target = text;
  };
}

Reader append_to(std::vector<std::string>& target) {
  return [&target](const std::string& text) {
    if (text.empty()) throw Error("expected a value, got an empty one");
    target.push_back(text);
  };
}

Reader to_size(std::int64_t& target, std::int64_t minimum, std::int64_t maximum) {
  return [&target, minimum, maximum](const std::string& text) {
    target = read_size(text, minimum, maximum);
  };
}

Reader to_size(std::optional<std::int64_t>& target, std::int64_t minimum, std::int64_t maximum) {
  return [&target, minimum, maximum](const std::string& text) {
    target = read_size(text, minimum, maximum);
  };
}

Reader to_number(double& target, double minimum, double maximum) {
  return [&target, minimum, maximum](const std::string& text) {
    std::string_view rest = text;
    const std::optional<double> value = take_number(rest);
    if (!value || !rest.empty()) {
      throw Error(fmt::format("expected a number, got '{}'", printable(text)));
    }
    if (*value < minimum || *value > maximum) {
      throw Error(fmt::format("expected a number from {} to {}, got {}", minimum, maximum,
                              printable(text)));
    }
    target = *value;
  };
}

Reader to_bytes(std::int64_t& target) {
  return [&target](const std::string& text) {
    std::string_view rest = text;
    const std::optional<double> value = take_number(rest);
    while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
    const double unit = unit_bytes(rest);
    if (!value || unit == 0) {
      throw Error(fmt::format("expected a number of bytes, got '{}'", printable(text)),
                  "as in 4096, 512MiB, 2GiB or 1.5GB");
    }
    const double bytes = *value * unit;
    constexpr double limit = 1ULL << 50;
    if (bytes < 0 || bytes > limit) {
      throw Error(
          fmt::format("expected a number of bytes from 0 to 1024 TiB, got {}", printable(text)));
    }
    target = std::llround(bytes);
  };
}

std::size_t find_choice(const std::string& text, std::span<const std::string> names) {
  const auto found = std::find(names.begin(), names.end(), text);
  if (found != names.end()) return static_cast<std::size_t>(found - names.begin());
  throw Error(fmt::format("expected {}{}, got '{}'", names.size() > 1 ? "one of " : "",
                          join(names, ", "), printable(text)),
              suggest(text, names, ""));
}

// --- declaring -----------------------------------------------------------------------------------

struct CommandLine::Option {
  std::vector<std::string> names;
  OptionValue value = "";  // without a name: a flag
  Reader reader;
  std::string help;
  std::string group;
  bool repeated = false;
  bool hidden = false;
  bool may_be_empty = false;
  std::vector<std::string> texts;  // as they were on the line
};

struct CommandLine::Positional {
  OptionValue value;
  Reader reader;
  std::string help;
  bool required = true;
  bool repeated = false;
  std::vector<std::string> texts;  // as they were on the line
};

CommandLine::CommandLine(std::string name, std::string summary)
    : name_(std::move(name)), summary_(std::move(summary)) {}

CommandLine::~CommandLine() = default;

void CommandLine::add_positional(OptionValue value, Reader reader, std::string help, bool required,
                                 bool repeated) {
  require_use(value);
  positionals_.push_back(
      {std::move(value), std::move(reader), std::move(help), required, repeated, {}});
}

CommandLine::Option& CommandLine::add(const std::string& names, OptionValue value, Reader reader,
                                      std::string help) {
  require_use(value);
  auto option = std::make_unique<Option>();
  option->names = split(names, ',');
  option->value = std::move(value);
  option->reader = std::move(reader);
  option->help = std::move(help);
  option->group = group_;
  options_.push_back(std::move(option));
  return *options_.back();
}

void CommandLine::add_option(const std::string& names, OptionValue value, Reader reader,
                             std::string help) {
  add(names, std::move(value), std::move(reader), std::move(help));
}

void CommandLine::add_repeated(const std::string& names, OptionValue value, Reader reader,
                               std::string help) {
  add(names, std::move(value), std::move(reader), std::move(help)).repeated = true;
}

void CommandLine::add_flag(const std::string& names, bool& target, std::string help, bool value) {
  add(
      names, "", [&target, value](const std::string&) { target = value; }, std::move(help));
}

void CommandLine::add_possibly_empty(const std::string& names, OptionValue value, Reader reader,
                                     std::string help) {
  add(names, std::move(value), std::move(reader), std::move(help)).may_be_empty = true;
}

void CommandLine::add_output(const std::string& names, OutputFile& target, std::string help) {
  add(
      names, {"FILE", FileUse::writes},
      [&target](const std::string& text) {
        std::string path;
        to_text(path)(text);
        target.set_path(std::move(path));
      },
      std::move(help));
  outputs_.push_back(&target);
}

void CommandLine::add_hidden(const std::string& names, Reader reader) {
  add(names, "VALUE", std::move(reader), "").hidden = true;
}

// --- parsing -------------------------------------------------------------------------------------

void CommandLine::fail(const std::string& message, std::string hint) const {
  if (hint.empty()) hint = fmt::format("see '{} --help'", name_);
  throw UsageError(message, std::move(hint));
}

void CommandLine::fail_unknown_option(const std::string& name) const {
  fail(fmt::format("unknown option '{}'", printable(name)), suggest(name, option_names(), ""));
}

std::vector<std::string> CommandLine::option_names() const {
  std::vector<std::string> names = {"--help"};
  for (const auto& option : options_) {
    if (!option->hidden) names.insert(names.end(), option->names.begin(), option->names.end());
  }
  return names;
}

CommandLine::Option* CommandLine::find(std::string_view name) const {
  for (const auto& option : options_) {
    for (const std::string& known : option->names) {
      if (known == name) return option.get();
    }
  }
  return nullptr;
}

bool CommandLine::given(std::string_view name) const {
  const Option* const option = find(name);
  TCAST_CHECK(option != nullptr, "asks for an option that the command has");
  return !option->texts.empty();
}

/// CLI11 takes "--format= x" for "--format x" and "--ideal=no" for a count.
void CommandLine::reject_odd_values(const std::vector<std::string>& arguments) const {
  for (const std::string& argument : arguments) {
    if (argument == "--") return;
    const std::size_t equals = argument.find('=');
    if (argument.substr(0, 2) != "--" || equals == std::string::npos) continue;
    const std::string name = argument.substr(0, equals);
    const Option* const option = find(name);
    if (option == nullptr) {
      if (name == "--help") fail("--help takes no value");
      continue;
    }
    if (option->value.name.empty()) fail(fmt::format("{} takes no value", name));
    if (equals + 1 == argument.size() && !option->may_be_empty)
      fail(fmt::format("{}= has no value behind it", name));
  }
}

void CommandLine::read_options() const {
  for (const auto& option : options_) {
    const std::string& name = option->names.back();
    if (option->texts.size() > 1 && !option->repeated && !option->value.name.empty()) {
      fail(fmt::format("{} is given {} times", name, option->texts.size()));
    }
    for (const std::string& text : option->texts) {
      if (!option->value.name.empty() && find(text) != nullptr) {
        fail(fmt::format("{} needs a value, got the option '{}'", name, text));
      }
      try {
        option->reader(text);
      } catch (const Error& error) {
        fail(fmt::format("{}: {}", name, error.what()), error.hint());
      }
    }
  }
}

void CommandLine::read_positionals(const std::vector<std::string>& values) {
  std::size_t next = 0;
  for (Positional& positional : positionals_) {
    if (next == values.size() && positional.required) {
      fail(fmt::format("{} is missing", positional.value.name),
           fmt::format("{}; see '{} --help'", positional.help, name_));
    }
    while (next < values.size()) {
      positional.texts.push_back(values[next]);
      try {
        positional.reader(values[next++]);
      } catch (const Error& error) {
        fail(fmt::format("{}: {}", positional.value.name, error.what()), error.hint());
      }
      if (!positional.repeated) break;
    }
  }
  if (next < values.size()) {
    fail(fmt::format("unexpected argument '{}'", printable(values[next])));
  }
}

bool CommandLine::parse(const std::vector<std::string>& arguments) {
  reject_odd_values(arguments);
  CLI::App parser;
  parser.allow_extras();
  parser.set_help_flag("-h,--help");
  std::vector<std::string> values;
  // Its name is never typed: CLI11 takes a name without dashes for that of a positional.
  parser.add_option("values", values)->expected(0, CLI::detail::expected_max_vector_size);
  for (const auto& option : options_) {
    const std::string names = join(option->names, ",");
    Option* const one = option.get();
    if (one->value.name.empty()) {
      parser.add_flag_callback(names, [one] { one->texts.emplace_back(); });
    } else {
      parser
          .add_option(names,
                      [one](const CLI::results_t& texts) {
                        one->texts = texts;
                        return true;
                      })
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    }
  }
  try {
    // CLI11 takes them from the back, and "--plugins=" for a value that is missing.
    std::vector<std::string> words;
    for (const std::string& argument : arguments) {
      const bool cut = argument.size() > 1 && argument.back() == '=';
      const Option* const option = cut ? find(argument.substr(0, argument.size() - 1)) : nullptr;
      const bool empty = option != nullptr && option->may_be_empty;
      words.push_back(empty ? argument.substr(0, argument.size() - 1) : argument);
      if (empty) words.emplace_back();
    }
    parser.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::CallForHelp&) {
    return false;
  } catch (const CLI::ArgumentMismatch& error) {
    // "--tp: 1 required TEXT missing": the name is all that is needed.
    const std::string text = error.what();
    fail(fmt::format("{} needs a value", text.substr(0, text.find(':'))));
  } catch (const CLI::ParseError& error) {
    fail(printable(error.what(), 500));
  }
  for (const std::string& extra : parser.remaining()) {
    if (extra != "--") fail_unknown_option(extra.substr(0, extra.find('=')));
  }
  read_options();
  read_positionals(values);
  for (const std::function<void()>& check : checks_) {
    try {
      check();
    } catch (const Error& error) {
      fail(error.what(), error.hint());
    }
  }
  return true;
}

void CommandLine::open_outputs() {
  std::vector<FileArgument> files;
  const auto add = [&files](const std::string& name, const OptionValue& value,
                            const std::vector<std::string>& texts) {
    if (value.use == FileUse::none) return;
    for (const std::string& text : texts) files.push_back({name, text, value.use});
    if (texts.empty() && !value.default_path.empty()) {
      files.push_back({name, value.default_path, value.use});
    }
  };
  for (const Positional& positional : positionals_) {
    add(positional.value.name, positional.value, positional.texts);
  }
  for (const auto& option : options_) add(option->names.front(), option->value, option->texts);
  check_files(files);
  for (OutputFile* const output : outputs_) output->open();
}

// --- help ----------------------------------------------------------------------------------------

void CommandLine::print_help(std::ostream& out) const {
  out << name_ << ": " << summary_ << "\n\nUsage: " << name_ << " [options]";
  for (const Positional& positional : positionals_) {
    const std::string value = positional.value.name + (positional.repeated ? "..." : "");
    out << (positional.required ? " " + value : " [" + value + "]");
  }
  out << "\n";
  if (!positionals_.empty()) out << '\n';
  for (const Positional& positional : positionals_) {
    print_entry(out, positional.value.name, positional.help);
  }
  std::string group;
  for (const auto& option : options_) {
    if (option->hidden) continue;
    if (option->group != group) {
      group = option->group;
      out << '\n' << group << ":\n";
    }
    std::string head = join(option->names, ", ");
    if (!option->value.name.empty()) head += " " + option->value.name;
    print_entry(out, head, option->help);
  }
  out << '\n';
  print_entry(out, "-h, --help", "this help");
  if (!example_.empty()) out << "\nExample:\n" << example_;
}

}  // namespace tcast
