// What a thousand plugins cost at start-up. With arguments this is tcast with 1,000 more plugins,
// each of which registers an architecture and a hook; without, it runs the tcast beside its folder
// and itself in turn and prints both times.
//
//     cmake --build --preset release --target bench && build/release/bench/plugins_bench
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <iostream>
#include <string>
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
  return tcast::architectures().find("llama")->value(context);
};
const tcast::CustomModelHook hook{
    [](tcast::TransformerModel& model) { tcast::run_standard_steps(model); }, {}};

/// What the constructors of 1,000 files do before main.
struct Thousand {
  struct One {
    std::string file;
    std::string type;
    std::string pattern;
    tcast::RegisteredName names[2];
    tcast::RegistrationNode tree;
    tcast::RegistrationNode transformation;

    explicit One(int i)
        : file(fmt::format("custom_model/plugin_{:04}.cpp", i)),
          type(fmt::format("bench_{:04}", i)),
          pattern(type + "_*"),
          names{type.c_str(), pattern.c_str()},
          tree("architecture", names, 2, &architecture, &typeid(architecture),
               &tcast::is_usable_value<tcast::ArchitectureFunction>, tcast::Origin::custom,
               file.c_str(), 3),
          transformation("custom_model", names, 2, &hook, &typeid(hook),
                         &tcast::is_usable_value<tcast::CustomModelHook>, tcast::Origin::custom,
                         file.c_str(), 9) {}
  };
  std::deque<One> all;

  Thousand() {
    for (int i = 0; i < plugin_count; ++i) all.emplace_back(i);
  }
};
const Thousand thousand;

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
