// One round of the speed comparison of `tcast run`: the machine's own limits and the model, in one
// process, so that both see the same machine. scripts/bench-run alternates it with PyTorch.
//
//   run_bench CONFIG INPUT_LENGTH OUTPUT_LENGTH THREADS
//
// Prints one line of JSON: memory bandwidth, the bare chain of the model's matmuls (weights that no
// cache holds), prefill and decode of the executed model, in seconds and bytes per second.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/threads.h"
#include "tcast/exec/timing/host.h"
#include "tcast/study/generation.h"
#include "tcast/transform/pipeline.h"

#include "app/options.h"
#include "app/token_ids.h"

namespace {

using namespace tcast;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

/// The matmuls of a forward pass through make_kernel, one after the other, each with a packed
/// weight of its own, and nothing between them.
class Chain {
 public:
  explicit Chain(const Graph& graph) {
    for (const Call& call : graph.calls) {
      const Region& region = graph.regions[call.region];
      for (const Op& op : region.ops) {
        const auto* product = std::get_if<MatMul>(&op.record);
        if (product == nullptr || !product->weight_is_parameter) continue;
        add(*product);
      }
    }
    scratch_ = AlignedMemory(scratch_bytes_);
  }

  double run() {
    const double start = now_s();
    for (Link& link : links_) {
      const Buffer inputs[] = {{x_.data(), link.x_bytes, link.op.input, {}},
                               {link.weight.data(), link.weight.bytes(), link.op.weight, {}}};
      const Buffer output{y_.data(), link.y_bytes, link.op.output, {}};
      link.kernel->run({inputs, {&output, 1}, scratch_.span(), nullptr});
    }
    return now_s() - start;
  }

  std::int64_t weight_bytes() const { return weight_bytes_; }

 private:
  struct Link {
    MatMul op;
    std::unique_ptr<Kernel> kernel;
    AlignedMemory weight;
    std::int64_t x_bytes = 0;
    std::int64_t y_bytes = 0;
  };

  void add(const MatMul& op) {
    Link link;
    link.op = op;
    KernelResult result = make_kernel(op);
    TCAST_CHECK(result.kernel != nullptr, result.unsupported);
    link.kernel = std::move(result.kernel);
    link.weight = AlignedMemory(link.kernel->packed_bytes());
    // Every page is written once, so that each has memory of its own.
    for (std::int64_t i = 0; i < link.weight.bytes(); i += 4096) {
      link.weight.data()[i] = std::byte{1};
    }
    weight_bytes_ += link.weight.bytes();
    link.x_bytes = bytes_of(op.m * op.k, op.input);
    link.y_bytes = bytes_of(op.m * op.n, op.output);
    if (x_.bytes() < link.x_bytes) x_ = AlignedMemory(link.x_bytes);
    if (y_.bytes() < link.y_bytes) y_ = AlignedMemory(link.y_bytes);
    scratch_bytes_ = std::max(scratch_bytes_, link.kernel->scratch_bytes());
    links_.push_back(std::move(link));
  }

  std::vector<Link> links_;
  AlignedMemory x_;
  AlignedMemory y_;
  AlignedMemory scratch_;
  std::int64_t scratch_bytes_ = 0;
  std::int64_t weight_bytes_ = 0;
};

double chain_s(const TransformerModel& model, std::int64_t length, std::int64_t context,
               std::int64_t& weight_bytes) {
  Workload work;
  work.phase = context == 0 ? Phase::prefill : Phase::decode;
  work.query_length = length;
  work.context_length = context;
  work.executes = true;
  Graph graph;
  model.trace(work, graph);
  Chain chain(graph);
  weight_bytes = chain.weight_bytes();
  chain.run();
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) times.push_back(chain.run());
  return median(times);
}

int bench(const std::string& config, std::int64_t input_length, std::int64_t output_length,
          int threads) {
  set_threads(threads);
  ModelInputs inputs;
  TransformerModel model = load_model(config, inputs);
  transform(model);
  const HostSpeed before = measure_host_speed();
  std::int64_t weight_bytes = 0;
  const double prefill_chain_s = chain_s(model, input_length, 0, weight_bytes);
  const double decode_chain_s = chain_s(model, 1, input_length, weight_bytes);

  double weights_s = now_s();
  Generation generation(model, 1, input_length + output_length);
  generation.prepare(input_length);
  weights_s = now_s() - weights_s;
  const TokenIds prompt =
      random_token_ids(1, input_length, model.config().get_size("vocab_size"), 0);
  std::vector<double> prefill;
  for (int i = 0; i < 4; ++i) {
    generation.restart();
    generation.step(prompt);
    // The first one makes kernels, pages and clocks ready.
    if (i > 0) prefill.push_back(generation.last_step().seconds);
  }
  const double prefill_s = median(prefill);
  std::vector<double> decode;
  for (std::int64_t i = 0; i < output_length; ++i) {
    generation.step({{i}});
    decode.push_back(generation.last_step().seconds);
  }
  const HostSpeed after = measure_host_speed();
  fmt::print(
      "{{\"read_bytes_per_s\":{},\"read_bytes_per_s_after\":{},\"weight_bytes\":{},"
      "\"prefill_chain_s\":{},\"decode_chain_s\":{},\"prefill_s\":{},\"decode_step_s\":{},"
      "\"prepare_s\":{},\"cpu\":\"{}\",\"onednn\":\"{}\"}}\n",
      before.read_bytes_per_s, after.read_bytes_per_s, weight_bytes, prefill_chain_s,
      decode_chain_s, prefill_s, median(decode), weights_s, host_features().cpu, onednn_version());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: run_bench CONFIG INPUT_LENGTH OUTPUT_LENGTH THREADS\n");
    return 2;
  }
  try {
    return bench(argv[1], std::atoll(argv[2]), std::atoll(argv[3]), std::atoi(argv[4]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run_bench: %s\n", error.what());
    return 1;
  }
}
