#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/model/transformer_model.h"
#include "tcast/study/generation.h"
#include "tcast/transform/pipeline.h"

using namespace tcast;

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

struct Case {
  const char* what;
  ModelOptions options;
  bool transforms;
  Arithmetic arithmetic;
};

std::vector<Case> cases() {
  ModelOptions plain;
  plain.dtype = DType::f32;
  ModelOptions two = plain;
  two.parallel.tp = 2;
  ModelOptions quantized;
  quantized.quantize_linear = LinearScheme::w8a8_dynamic;
  quantized.quantize_kv_cache = KvScheme::int8;
  ModelOptions weights = quantized;
  weights.quantize_linear = LinearScheme::w8a16;
  return {{"untransformed", plain, false, Arithmetic::unrounded},
          {"transformed", plain, true, Arithmetic::kernels},
          {"two ranks", two, true, Arithmetic::kernels},
          {"bf16, untransformed", {}, false, Arithmetic::kernels},
          {"bf16", {}, true, Arithmetic::kernels},
          {"w8a8", quantized, true, Arithmetic::kernels},
          {"w8a16", weights, true, Arithmetic::kernels},
          {"w8a8, checked", quantized, true, Arithmetic::checked},
          {"w8a8, unrounded", quantized, true, Arithmetic::unrounded}};
}

}  // namespace

TEST_CASE("the memory that executing takes is known before") {
  int compared = 0;
  for (const auto& entry :
       fs::directory_iterator(fs::path(TCAST_SOURCE_DIR) / "tests/data/logits")) {
    const std::string name = entry.path().stem().string();
    CAPTURE(name);
    std::ifstream stream(entry.path());
    const json golden = json::parse(stream);
    for (const Case& one : cases()) {
      CAPTURE(one.what);
      if (one.options.parallel.tp > 1 && name.find("-odd") != std::string::npos) continue;
      HfConfig config = HfConfig::parse(golden.at("config").dump(), "config.json");
      ModelProfile profile = load_profile(config.model_type(), {});
      TransformerModel model = build_model(std::move(config), std::move(profile), one.options);
      if (one.transforms) transform(model);
      const auto prompt = golden.at("prompt").get<TokenIds>();
      const auto decode = golden.at("decode").get<TokenIds>();
      const auto length = static_cast<std::int64_t>(prompt[0].size());
      Generation generation(model, 2, length + 2, {.arithmetic = one.arithmetic});
      const ExecutorMemory need = generation.memory_needed(length, std::int64_t{1} << 40);
      CHECK(generation.executor().memory().weight_bytes == 0);
      // What takes too much by its activations alone is not looked at further.
      const ExecutorMemory least = generation.memory_needed(length, 1);
      CHECK(least.activation_bytes > 1);
      CHECK(least.activation_bytes <= need.activation_bytes);
      CHECK(least.weight_bytes + least.cache_bytes == 0);
      generation.step(prompt);
      for (std::size_t i = 0; i < 2; ++i) generation.step({{decode[0][i]}, {decode[1][i]}});
      const ExecutorMemory held = generation.executor().memory();
      CHECK(held.weight_bytes <= need.weight_bytes);
      CHECK(held.cache_bytes == need.cache_bytes);
      CHECK(held.activation_bytes <= need.activation_bytes);
      CHECK(static_cast<double>(need.total_bytes()) <=
            1.3 * static_cast<double>(held.total_bytes()));
      ++compared;
    }
  }
  CHECK(compared > 400);
}
