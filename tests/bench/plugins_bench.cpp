// What a thousand plugins cost at start-up. With arguments this is tcast with 1,000 more plugins,
// each of which registers an architecture and a hook; without, it runs the tcast beside its folder
// and itself in turn and prints both times.
//
//     cmake --build --preset release --target bench && build/release/bench/plugins_bench
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/custom_model.h"

#include "app/cli.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr int plugin_count = 1000;

const tcast::ArchitectureFunction architecture = [](const tcast::ArchitectureContext& context) {
  return tcast::architectures().find("llama")->call(context);
};
const tcast::CustomModelHook hook{
    [](tcast::TransformerModel& model) { tcast::run_standard_steps(model); }, {}};

/// A literal whose '#' are the digits of a number.
template <std::size_t Size>
struct Numbered {
  char text[Size]{};

  constexpr Numbered(const char (&form)[Size], int number) {
    for (std::size_t i = Size; i-- > 0;) {
      text[i] = form[i];
      if (form[i] != '#') continue;
      text[i] = static_cast<char>('0' + number % 10);
      number /= 10;
    }
  }
};

/// What the macros leave of a file with two registrations.
template <int Number>
struct File {
  static constexpr Numbered file{"custom_model/plugin_####.cpp", Number};
  static constexpr Numbered type{"bench_####", Number};
  static constexpr Numbered pattern{"bench_####_*", Number};
  static constexpr tcast::RegisteredName names[] = {type.text, pattern.text};

  tcast::RegistrationNode tree = node("architecture", architecture, 3);
  tcast::RegistrationNode transformation = node("custom_model", hook, 9);

  template <class Value>
  static tcast::RegistrationNode node(const char* group, const Value& value, int line) {
    return {group,
            names,
            2,
            &value,
            &typeid(value),
            &tcast::is_usable_value<Value>,
            tcast::Origin::custom,
            file.text,
            line};
  }
};

template <int... Number>
struct Files : File<Number>... {};

template <int... Number>
Files<Number...> files_of(std::integer_sequence<int, Number...>);

/// What the constructors of 1,000 files do before main.
const decltype(files_of(std::make_integer_sequence<int, plugin_count>())) files;

double run_s(const std::string& program, const std::vector<std::string>& words) {
  const auto start = Clock::now();
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    std::vector<char*> arguments = {const_cast<char*>(program.c_str())};
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    std::fprintf(stderr, "%s failed\n", program.c_str());
    _exit(1);
  }
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) return tcast::run_cli(argc, argv, std::cout, std::cerr);
  const std::string self = std::filesystem::canonical("/proc/self/exe").string();
  const std::string plain =
      (std::filesystem::path(self).parent_path().parent_path() / "tcast").string();
  const std::vector<std::string> words = {
      "simulate", TCAST_SOURCE_DIR "/configs/models/qwen3-8b.json", "--device", "h200"};
  constexpr int rounds = 101;
  std::vector<double> without;
  std::vector<double> with;
  std::vector<double> added;
  for (int i = 0; i < rounds; ++i) {
    without.push_back(run_s(plain, words));
    with.push_back(run_s(self, words));
    added.push_back(with.back() - without.back());
  }
  const auto median_ms = [](std::vector<double> times) {
    std::sort(times.begin(), times.end());
    return 1e3 * times[times.size() / 2];
  };
  fmt::print(
      "whole process, simulate qwen3-8b: {:.2f} ms; with {} plugins more: {:.2f} ms; median of "
      "the differences within {} rounds: {:.2f} ms\n",
      median_ms(without), plugin_count, median_ms(with), rounds, median_ms(added));
  return 0;
}
