// How honest are ranges on a busy machine? `simulate` without kept times, first while the machine
// is left alone, then while another process loads all cores in bursts:
//
//   disturbance_bench TCAST CONFIG [--repeats N] [--time-budget S] [-- further arguments]
//
// prints each answer with its range, and how often the range held the quiet value (the median of
// the answers of the first part). The quiet part says itself whether the machine was quiet. Ends
// with status 1 when fewer than nine of ten ranges hold it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using Json = nlohmann::json;

struct Answer {
  double low_s = 0;
  double middle_s = 0;
  double high_s = 0;
  int disturbed_ops = 0;
};

Json simulate(const std::string& command) {
  FILE* const pipe = popen(command.c_str(), "r");
  std::string text;
  char part[4096];
  for (std::size_t n = 0; pipe != nullptr && (n = fread(part, 1, sizeof part, pipe)) > 0;) {
    text.append(part, n);
  }
  if (pipe == nullptr || pclose(pipe) != 0) {
    fmt::print(stderr, "failed: {}\n", command);
    std::exit(2);
  }
  return Json::parse(text);
}

Answer answer_of(const Json& json, const std::string& name) {
  return {json["range"][name + "_low_s"], json["latency"][name + "_s"],
          json["range"][name + "_high_s"], json["timing"]["disturbed_ops"]};
}

/// Processes that work and rest in turns, one for each core.
class Bursts {
 public:
  Bursts() {
    const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
    for (unsigned core = 0; core < cores; ++core) {
      const pid_t child = fork();
      if (child == 0) work(core);
      if (child > 0) children_.push_back(child);
    }
  }
  Bursts(const Bursts&) = delete;
  Bursts& operator=(const Bursts&) = delete;
  ~Bursts() {
    for (const pid_t child : children_) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
  }

 private:
  [[noreturn]] static void work(unsigned seed) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::vector<double> values(std::size_t{1} << 22, 1.0);
    std::srand(seed + 1);
    for (;;) {
      // Bursts and rests of 0.05 to 1 s.
      const auto length = [] { return 0.05 + 0.95 * (std::rand() % 1000) / 1000.0; };
      const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(length());
      while (std::chrono::steady_clock::now() < end) {
        for (double& value : values) value = value * 1.0000001 + 1e-9;
      }
      std::this_thread::sleep_for(std::chrono::duration<double>(length()));
    }
  }

  std::vector<pid_t> children_;
};

void print(const char* when, int number, const std::string& name, const Answer& answer) {
  fmt::print("{:<9} {:>2}  {:<12} {:>9.4f} .. {:>9.4f} s  ({:>9.4f})  disturbed ops {}\n", when,
             number, name, answer.low_s, answer.high_s, answer.middle_s, answer.disturbed_ops);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  int repeats = 10;
  std::string budget = "10";
  std::string more;
  std::vector<std::string> places;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--repeats" && i + 1 < argc) {
      repeats = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--time-budget" && i + 1 < argc) {
      budget = argv[++i];
    } else if (word == "--") {
      for (++i; i < argc; ++i) more += fmt::format(" '{}'", argv[i]);
    } else {
      places.push_back(word);
    }
  }
  if (places.size() != 2) {
    fmt::print(stderr,
               "usage: disturbance_bench TCAST CONFIG [--repeats N] [--time-budget S] [-- ...]\n");
    return 2;
  }
  const std::string command =
      fmt::format("'{}' simulate '{}' --no-store --format json --time-budget {}{} 2>/dev/null",
                  places[0], places[1], budget, more);

  const std::vector<std::string> names = {"prefill", "decode_step"};
  std::vector<std::vector<double>> quiet(names.size());
  for (int i = 0; i < std::max(3, repeats / 2); ++i) {
    const Json json = simulate(command);
    for (std::size_t n = 0; n < names.size(); ++n) {
      const Answer answer = answer_of(json, names[n]);
      quiet[n].push_back(answer.middle_s);
      print("quiet", i + 1, names[n], answer);
    }
  }
  const Bursts bursts;
  std::vector<int> held(names.size());
  for (auto& values : quiet) std::sort(values.begin(), values.end());
  for (int i = 0; i < repeats; ++i) {
    const Json json = simulate(command);
    for (std::size_t n = 0; n < names.size(); ++n) {
      const double value_s = quiet[n][quiet[n].size() / 2];
      const Answer answer = answer_of(json, names[n]);
      held[n] += answer.low_s <= value_s && value_s <= answer.high_s ? 1 : 0;
      print("disturbed", i + 1, names[n], answer);
    }
  }
  bool enough = true;
  for (std::size_t n = 0; n < names.size(); ++n) {
    fmt::print("{}: quiet {:.4f} s ({:.4f} .. {:.4f}), in {} of {} ranges\n", names[n],
               quiet[n][quiet[n].size() / 2], quiet[n].front(), quiet[n].back(), held[n], repeats);
    enough = enough && held[n] >= static_cast<int>(std::floor(0.9 * repeats));
  }
  return enough ? 0 : 1;
}
