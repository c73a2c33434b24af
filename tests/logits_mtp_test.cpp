// Executes multi-token prediction and compares its logits with those of the decoder layers of the
// real transformers (scripts/goldens/mtp.py); and decodes with drafts.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/model/transformer_model.h"
#include "tcast/study/generation.h"
#include "tcast/study/speculation.h"
#include "tcast/transform/pipeline.h"
#include "tcast/transform/steps.h"

using namespace tcast;

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

json read_golden(const std::string& name) {
  std::ifstream stream(fs::path(TCAST_SOURCE_DIR) / "tests/data/mtp" / (name + ".json"));
  return json::parse(stream);
}

TransformerModel build(const json& config, std::int64_t tokens, ModelOptions options) {
  options.num_mtp_tokens = tokens;
  options.dtype = DType::f32;
  HfConfig parsed = HfConfig::parse(config.dump(), "config.json");
  ModelProfile profile = load_profile(parsed.model_type(), {});
  return build_model(std::move(parsed), std::move(profile), std::move(options));
}

const char* const names[] = {"deepseek_v3-plain", "deepseek_v3-odd", "glm4_moe-plain"};

/// Largest difference of all logits, of the model and of every depth, from a golden's: after the
/// prompt, then after every token of decode steps that take 1 + depths tokens each.
double error_of(const TransformerModel& model, const json& golden) {
  const auto tokens = golden.at("tokens").get<TokenIds>();
  const auto depths = golden.at("mtp_tokens").get<std::int64_t>();
  const auto prompt = golden.at("prompt_length").get<std::int64_t>();
  const auto length = static_cast<std::int64_t>(tokens[0].size()) - depths;
  const auto part = [&](std::int64_t first, std::int64_t count) {
    TokenIds ids;
    for (const auto& list : tokens) {
      ids.emplace_back(list.begin() + first, list.begin() + first + count);
    }
    return ids;
  };
  Generation generation(model, static_cast<std::int64_t>(tokens.size()), length);
  double most = 0;
  double largest = 0;
  for (std::int64_t first = 0; first < length;) {
    const std::int64_t count = first == 0 ? prompt : 1 + depths;
    generation.step(part(first, count),
                    [&](std::int64_t depth) { return part(first + depth, count); });
    CHECK(generation.mtp_tokens() == depths);
    for (std::int64_t depth = 0; depth <= depths; ++depth) {
      const std::vector<LogitRows> all = generation.logits(depth);
      for (std::size_t request = 0; request < tokens.size(); ++request) {
        // Of a prompt only the last row is looked at, which is all that some models give.
        const std::size_t rows = first == 0 ? 1 : static_cast<std::size_t>(count);
        REQUIRE(all.at(request).size() >= rows);
        for (std::size_t row = 0; row < rows; ++row) {
          const auto expected =
              golden
                  .at("logits")[static_cast<std::size_t>(depth)][request]
                               [first == 0 ? 0 : static_cast<std::size_t>(first - prompt) + 1 + row]
                  .get<std::vector<double>>();
          const std::vector<float>& found = all[request][all[request].size() - rows + row];
          REQUIRE(found.size() == expected.size());
          for (std::size_t i = 0; i < found.size(); ++i) {
            REQUIRE(std::isfinite(found[i]));
            most = std::max(most, std::abs(static_cast<double>(found[i]) - expected[i]));
            largest = std::max(largest, std::abs(expected[i]));
          }
        }
      }
    }
    first += count;
  }
  return most / largest;
}

}  // namespace

TEST_CASE("multi-token prediction has the logits of HuggingFace's layers") {
  for (const char* name : names) {
    CAPTURE(name);
    const json golden = read_golden(name);
    const auto depths = golden.at("mtp_tokens").get<std::int64_t>();
    // Eager, as the layers are added.
    TransformerModel eager = build(golden.at("config"), depths, {});
    maybe_enable_mtp(wrap_model(eager));
    CHECK(error_of(eager, golden) < 1e-4);
    TransformerModel patched = build(golden.at("config"), depths, {});
    transform(patched);
    CHECK(error_of(patched, golden) < 1e-4);
    ModelOptions one_by_one;
    one_by_one.reuse_layers = false;
    TransformerModel unrolled = build(golden.at("config"), depths, one_by_one);
    transform(unrolled);
    CHECK(error_of(unrolled, golden) < 1e-4);
  }
}

TEST_CASE("multi-token prediction on several ranks") {
  struct Row {
    const char* name;
    std::int64_t devices, tp, ep;
  };
  for (const Row& row : {Row{"deepseek_v3-plain", 2, 2, 1}, Row{"deepseek_v3-plain", 2, 1, 2},
                         Row{"deepseek_v3-plain", 4, 2, 4}, Row{"glm4_moe-plain", 2, 2, 2}}) {
    CAPTURE(row.name);
    CAPTURE(row.ep);
    const json golden = read_golden(row.name);
    ModelOptions options;
    options.parallel.num_devices = row.devices;
    options.parallel.tp = row.tp;
    options.parallel.ep = row.ep;
    TransformerModel model = build(golden.at("config"), golden.at("mtp_tokens"), options);
    transform(model);
    CHECK(error_of(model, golden) < 1e-4);
  }
}

TEST_CASE("greedy decoding with drafts generates the tokens that it does without") {
  struct Row {
    std::int64_t mtp_tokens;
    std::int64_t vocabulary;
    std::size_t requests;
  };
  // With three tokens to choose from, layers that were never trained are sometimes right.
  std::int64_t accepted = 0;
  std::int64_t drafts = 0;
  for (const Row& row : {Row{1, 3, 1}, Row{3, 3, 1}, Row{2, 3, 2}, Row{2, 96, 2}}) {
    CAPTURE(row.mtp_tokens);
    CAPTURE(row.vocabulary);
    json config = read_golden("deepseek_v3-plain").at("config");
    config["vocab_size"] = row.vocabulary;
    TokenIds prompts = {{0, 2, 1, 1, 0, 2}, {2, 2, 0, 1, 0, 1}};
    prompts.resize(row.requests);
    constexpr std::size_t wanted = 24;
    std::vector<TokenIds> generated;
    for (const std::int64_t tokens : {std::int64_t{0}, row.mtp_tokens}) {
      TransformerModel model = build(config, tokens, {});
      transform(model);
      Generation generation(model, static_cast<std::int64_t>(row.requests), 40);
      GreedyDecoding decoding(generation);
      TokenIds all(row.requests);
      std::int64_t passes = 0;
      for (auto pass = decoding.prompt(prompts); all[0].size() < wanted; pass = decoding.decode()) {
        for (std::size_t i = 0; i < all.size(); ++i) {
          REQUIRE(pass.tokens[i].size() == pass.logits.size());
          all[i].insert(all[i].end(), pass.tokens[i].begin(), pass.tokens[i].end());
          for (std::size_t k = 0; k < pass.logits.size(); ++k) {
            const std::vector<float>& logits = pass.logits[k][i];
            CHECK(std::max_element(logits.begin(), logits.end()) - logits.begin() ==
                  pass.tokens[i][k]);
          }
        }
        ++passes;
      }
      // The loop has decoded once more than it looked at.
      CHECK(decoding.drafts() == passes * tokens * static_cast<std::int64_t>(row.requests));
      accepted += decoding.accepted();
      drafts += decoding.drafts();
      for (auto& list : all) list.resize(wanted);
      generated.push_back(std::move(all));
    }
    CHECK(generated[0] == generated[1]);
  }
  CHECK(accepted > 0);
  CHECK(accepted < drafts);
}
