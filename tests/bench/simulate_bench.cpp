// The speed of the main job: a whole process, the way from a config to a traced graph, and
// estimating again for other requests. Prints a table for the README; nothing is asserted.
//
//     cmake --build --preset release --target bench && build/release/bench/simulate_bench
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/cost/pass.h"
#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/model_source.h"
#include "tcast/study/text_generation.h"
#include "tcast/transform/pipeline.h"

namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& body) {
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median_s(int runs, const std::function<void()>& body) {
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(runs));
  for (int i = 0; i < runs; ++i) times.push_back(seconds_of(body));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Most resident memory of a command that runs with an empty home and its output thrown away.
long run_command(const std::vector<std::string>& words) {
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    setenv("HOME", "/nonexistent", 1);
    std::vector<char*> arguments;
    arguments.reserve(words.size() + 1);
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  int status = 0;
  rusage usage{};
  wait4(child, &status, 0, &usage);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fmt::print(stderr, "{} failed\n", words[0]);
    std::exit(1);
  }
  return usage.ru_maxrss;
}

struct Target {
  const char* model;
  std::int64_t tp, ep, devices, batch;
};

tcast::TransformerModel transformed(const Target& target) {
  tcast::ModelOptions options;
  options.parallel.tp = target.tp;
  options.parallel.ep = target.ep;
  options.parallel.num_devices = target.devices;
  tcast::HfConfig config = tcast::HfConfig::load(
      fmt::format("{}/configs/models/{}.json", TCAST_SOURCE_DIR, target.model));
  tcast::ModelProfile profile = tcast::load_profile(config.model_type(), {});
  tcast::TransformerModel model =
      tcast::build_model(std::move(config), std::move(profile), options);
  tcast::transform(model);
  return model;
}

}  // namespace

int main(int argc, char** argv) {
  const Target targets[] = {{"qwen3-8b", 1, 1, 1, 8}, {"deepseek-v3", 4, 64, 64, 128}};
  std::string program = argv[0];
  program = program.substr(0, program.rfind('/')) + "/../tcast";
  if (argc > 1) program = argv[1];

  fmt::print(
      "| model | whole process | most memory | build + transform + trace | one estimate |\n");
  fmt::print("|---|---|---|---|---|\n");
  for (const Target& target : targets) {
    const std::vector<std::string> command = {
        program,
        "simulate",
        fmt::format("{}/configs/models/{}.json", TCAST_SOURCE_DIR, target.model),
        "--device",
        "h200",
        "--num-devices",
        std::to_string(target.devices),
        "--tp",
        std::to_string(target.tp),
        "--ep",
        std::to_string(target.ep),
        "--batch-size",
        std::to_string(target.batch),
        "--format",
        "json"};
    long memory_kib = 0;
    const double process_s =
        median_s(41, [&] { memory_kib = std::max(memory_kib, run_command(command)); });

    tcast::Graph graph;
    const double build_s = median_s(101, [&] {
      const tcast::TransformerModel model = transformed(target);
      model.trace({tcast::Phase::prefill, target.batch, 512, 0}, graph);
      model.trace({tcast::Phase::decode, target.batch, 1, 576}, graph);
    });

    // 1,000 random requests in one process; each traces and prices prefill, decode and the steps
    // between, and finds the memory: nothing is remembered from one to the next.
    const tcast::TransformerModel model = transformed(target);
    const tcast::DeviceProfile device = tcast::load_device("h200");
    const tcast::RooflineModel cost(device);
    const tcast::ModelSource source(model);
    tcast::PassPricer pricer(source, cost);
    const tcast::Deployment deployment = tcast::deployment_of(model);
    const tcast::MemoryBudget budget{device.memory_bytes, 0};
    std::array<tcast::PricedPass, 2> priced;
    std::mt19937 random(1);
    double sum = 0;
    int too_large = 0;
    const double all_s = seconds_of([&] {
      for (int i = 0; i < 1000; ++i) {
        const auto batch = static_cast<std::int64_t>(1 + random() % 64);
        const auto input = static_cast<std::int64_t>(16 + random() % 8000);
        const auto output = static_cast<std::int64_t>(2 + random() % 2000);
        const tcast::TextGeneration generation({batch * deployment.replicas, input, output},
                                               deployment);
        tcast::price_passes(generation, pricer, priced);
        if (!tcast::forecast_memory(generation, pricer, priced, budget).fits()) ++too_large;
        sum += generation.times(pricer, priced).end_to_end_s;
      }
    });
    fmt::print("| {} | {:.1f} ms | {:.1f} MiB | {:.2f} ms | {:.1f} us |\n", target.model,
               1e3 * process_s, static_cast<double>(memory_kib) / 1024, 1e3 * build_s,
               1e6 * all_s / 1000);
    if (sum <= 0 || too_large == 1000) return 1;
  }
  return 0;
}
