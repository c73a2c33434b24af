#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/base/error.h"

#include "app/command_files.h"

namespace tcast {

class OutputFile;

/// A command line that makes no sense: exit status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Takes one value as the user wrote it; throws Error when it is none ("expected a whole number,
/// got 'abc'": the option's name is put in front).
using Reader = std::function<void(const std::string& text)>;

/// Largest size that an option takes, so that products of sizes can be checked.
inline constexpr std::int64_t max_option_size = std::int64_t{1} << 40;

/// Readers into a variable that outlives the parsing.
Reader to_text(std::string& target);
Reader append_to(std::vector<std::string>& target);
/// A whole number from `minimum` to `maximum`.
Reader to_size(std::int64_t& target, std::int64_t minimum = 1,
               std::int64_t maximum = max_option_size);
Reader to_size(std::optional<std::int64_t>& target, std::int64_t minimum = 1,
               std::int64_t maximum = max_option_size);
/// A finite number from `minimum` to `maximum`.
Reader to_number(double& target, double minimum, double maximum);
/// A number of bytes with an optional unit: "4096", "512MiB", "1.5 GB".
Reader to_bytes(std::int64_t& target);

/// Index of `text` in `names`. Throws Error with the closest of them.
std::size_t find_choice(const std::string& text, std::span<const std::string> names);

/// What stands for an option's value in the help ("N", "FILE"), and what the command does with the
/// file that it names.
struct OptionValue {
  OptionValue(const char* shown, FileUse used = FileUse::none, std::string otherwise = {})
      : name(shown), use(used), default_path(std::move(otherwise)) {}

  std::string name;
  FileUse use;
  std::string default_path;  ///< of the file that is used when the option is not given; empty: none
};

/// The options of one command: how they are read, and the help that lists them. Everything about
/// them that the user gets wrong is a UsageError.
class CommandLine {
 public:
  /// `name` as it is typed ("tcast inspect"), `summary` in a few words.
  CommandLine(std::string name, std::string summary);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  /// Text below the options: an example with what it prints.
  void set_example(std::string example) { example_ = std::move(example); }

  /// Options added from now on stand under this heading of the help.
  void begin_group(std::string title) { group_ = std::move(title); }

  /// A value without a name. Values fill the positionals in their order; a repeated one takes all
  /// that are left.
  void add_positional(OptionValue value, Reader reader, std::string help, bool required = true,
                      bool repeated = false);

  /// `names`: "--tp" or "-o,--output".
  void add_option(const std::string& names, OptionValue value, Reader reader, std::string help);
  /// One whose value may be the empty text, also as "--plugins=".
  void add_possibly_empty(const std::string& names, OptionValue value, Reader reader,
                          std::string help);
  /// One that may be given several times; the reader is called for each.
  void add_repeated(const std::string& names, OptionValue value, Reader reader, std::string help);
  /// One that names a file to write, which open_outputs() opens. `target` outlives this.
  void add_output(const std::string& names, OutputFile& target, std::string help);
  /// Sets `target` to `value` when given.
  void add_flag(const std::string& names, bool& target, std::string help, bool value = true);
  /// One that the help does not list, for what other tools call by that name.
  void add_hidden(const std::string& names, Reader reader);

  /// A condition between options, checked after all of them were read; throws Error.
  void add_check(std::function<void()> check) { checks_.push_back(std::move(check)); }

  /// True when the option was on the parsed line.
  bool given(std::string_view name) const;

  /// Reads what follows the command's name. False: the user asked for help. Throws UsageError.
  bool parse(const std::vector<std::string>& arguments);

  /// After parse(): throws UsageError when one of the named files would destroy another (see
  /// check_files()), and Error when an output cannot be written.
  void open_outputs();

  void print_help(std::ostream& out) const;

 private:
  struct Option;
  struct Positional;

  Option& add(const std::string& names, OptionValue value, Reader reader, std::string help);
  Option* find(std::string_view name) const;
  std::vector<std::string> option_names() const;
  void reject_odd_values(const std::vector<std::string>& arguments) const;
  void read_options() const;
  void read_positionals(const std::vector<std::string>& values);
  [[noreturn]] void fail(const std::string& message, std::string hint = {}) const;
  [[noreturn]] void fail_unknown_option(const std::string& name) const;

  std::string name_;
  std::string summary_;
  std::string example_;
  std::string group_ = "Options";
  std::vector<std::unique_ptr<Option>> options_;  // readers and CLI11 point at them
  std::vector<Positional> positionals_;
  std::vector<OutputFile*> outputs_;
  std::vector<std::function<void()>> checks_;
};

}  // namespace tcast
