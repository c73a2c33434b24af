// How long the way from a config to a traced graph takes: build + transform + trace, and tracing again
// for another workload. Prints a table; nothing is asserted.
#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "tcast/model/transformer_model.h"
#include "tcast/transform/pipeline.h"

namespace {

double median_us(int runs, const std::function<void()>& body) {
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main() {
  struct Row {
    const char* model;
    std::int64_t tp, ep, devices;
  };
  fmt::print("{:<18} {:>14} {:>22} {:>14} {:>14}\n", "model", "read config us",
             "build+transform+trace us", "prefill us", "decode us");
  for (const Row& row : {Row{"qwen3-8b", 1, 1, 1}, Row{"qwen3-235b-a22b", 8, 8, 8},
                         Row{"deepseek-v3", 4, 64, 64}}) {
    const std::string path =
        fmt::format("{}/configs/models/{}.json", TCAST_SOURCE_DIR, row.model);
    tcast::ModelOptions options;
    options.parallel.tp = row.tp;
    options.parallel.ep = row.ep;
    options.parallel.num_devices = row.devices;
    const double read_us = median_us(50, [&] { tcast::HfConfig::load(path); });
    const tcast::Workload prefill{tcast::Phase::prefill, 8, 512, 0};
    const tcast::Workload decode{tcast::Phase::decode, 8, 1, 576};
    tcast::Graph graph;
    const double all_us = median_us(50, [&] {
      tcast::HfConfig config = tcast::HfConfig::load(path);
      tcast::ModelProfile profile = tcast::load_profile(config.model_type(), {});
      tcast::TransformerModel model =
          tcast::build_model(std::move(config), std::move(profile), options);
      tcast::transform(model);
      model.trace(prefill, graph);
      model.trace(decode, graph);
    });
    tcast::HfConfig config = tcast::HfConfig::load(path);
    tcast::ModelProfile profile = tcast::load_profile(config.model_type(), {});
    tcast::TransformerModel model =
        tcast::build_model(std::move(config), std::move(profile), options);
    tcast::transform(model);
    const double prefill_us = median_us(2000, [&] { model.trace(prefill, graph); });
    const double decode_us = median_us(2000, [&] { model.trace(decode, graph); });
    fmt::print("{:<18} {:>14.1f} {:>22.1f} {:>14.2f} {:>14.2f}\n", row.model, read_us, all_us,
               prefill_us, decode_us);
  }
  return 0;
}
