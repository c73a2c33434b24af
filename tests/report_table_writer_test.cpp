#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/report/table_writer.h"

#include "report_samples.h"

namespace tcast {
namespace {

/// Lines from the first one that begins with `start` up to the next empty one.
std::vector<std::string> block(const std::string& text, std::string_view start) {
  std::vector<std::string> lines;
  for (const std::string& line : split(text, '\n')) {
    if (lines.empty() ? line.rfind(start, 0) == 0 : !line.empty()) {
      lines.push_back(line);
    } else if (!lines.empty()) {
      break;
    }
  }
  REQUIRE_MESSAGE(!lines.empty(), "no block ", std::string(start), " in\n", text);
  return lines;
}

std::vector<std::string> words(const std::string& line) {
  std::vector<std::string> result;
  for (std::string& word : split(line, ' ')) {
    if (!word.empty()) result.push_back(std::move(word));
  }
  return result;
}

/// The last digit shown of a number, as a whole number: 12.345 is 12345.
std::int64_t digits(std::string text) {
  std::erase(text, '.');
  return std::stoll(text);
}

/// Pairs of (time, share) in a row: the numbers in front of each "%".
std::vector<std::pair<std::int64_t, std::int64_t>> amounts(const std::string& line) {
  std::vector<std::pair<std::int64_t, std::int64_t>> result;
  const std::vector<std::string> parts = words(line);
  for (std::size_t i = 2; i < parts.size(); ++i) {
    if (parts[i] == "%") result.emplace_back(digits(parts[i - 2]), digits(parts[i - 1]));
  }
  return result;
}

std::size_t indent_of(const std::string& line) { return line.find_first_not_of(' '); }

/// Rows of an op table add up to its total, and calls do.
void check_op_table(const std::vector<std::string>& lines) {
  std::int64_t time = 0;
  std::int64_t share = 0;
  for (std::size_t i = 2; i < lines.size(); ++i) {
    const auto row = amounts(lines[i]);
    if (row.empty()) continue;  // the footnote
    CAPTURE(lines[i]);
    REQUIRE(row.size() == 1);
    if (words(lines[i])[0] == "total") {
      CHECK(row[0].first == time);
      CHECK(row[0].second == share);
      CHECK(share == 1000);
      return;
    }
    time += row[0].first;
    share += row[0].second;
  }
  FAIL("no total");
}

/// Children of a module table add up to their parents, and the first level to the total.
void check_module_table(const std::vector<std::string>& lines) {
  const std::size_t columns = amounts(lines.back()).size();
  REQUIRE(words(lines.back())[0] == "total");
  const auto sum_below = [&](std::size_t begin, std::size_t indent, std::size_t column) {
    std::pair<std::int64_t, std::int64_t> sum{0, 0};
    for (std::size_t i = begin; i + 1 < lines.size() && indent_of(lines[i]) >= indent; ++i) {
      if (indent_of(lines[i]) != indent) continue;
      sum.first += amounts(lines[i])[column].first;
      sum.second += amounts(lines[i])[column].second;
    }
    return sum;
  };
  for (std::size_t column = 0; column < columns; ++column) {
    CHECK(sum_below(1, 2, column) == amounts(lines.back())[column]);
    for (std::size_t i = 1; i + 2 < lines.size(); ++i) {
      const std::size_t below = indent_of(lines[i]) + 2;
      if (indent_of(lines[i + 1]) != below) continue;
      CAPTURE(lines[i]);
      CHECK(sum_below(i + 1, below, column) == amounts(lines[i])[column]);
    }
  }
}

void check_totals(const Report& report, const TableOptions& options) {
  const std::string text = write_table(report, options);
  CHECK(longest_line(text) <= 100);
  for (const char* const phase : {"prefill: ", "decode: "}) {
    if (text.find(std::string("\n") + phase) != std::string::npos) {
      check_op_table(block(text, phase));
    }
  }
  check_module_table(block(text, "module"));
}

TEST_CASE("table: the whole text") {
  CHECK(write_table(sample_report(), {.max_op_rows = 4}) ==
        R"(model         tiny (configs/models/tiny.json)
parameters    8.03 B total, 7.00 B active per token
device        h200
parallelism   num devices 2, tp 2
quantization  linear fp8, kv cache none
workload      batch size 4, input length 512, output length 128
options       reuse layers yes
pipeline      the nine standard steps

memory of one device      GiB    share
  weights               7.500    5.4 %
  KV cache              0.125    0.1 %
  activations, peak     0.031    0.0 %  prefill matmul lm_head
  workspace             0.001    0.0 %
  reserved              1.000    0.7 %
  total                 8.657    6.2 %
  capacity            140.000  100.0 %
  verdict            fits, 131 GiB to spare
  largest batch      4,203 with these lengths
  longest context    672,640 tokens with this batch

latency                         estimate
  prefill                        12.5 ms
  time to first token (TTFT)     12.6 ms
  decode step                    3.00 ms
  time per output token (TPOT)   3.10 ms
  end to end                      406 ms
  output tokens/s                  1,260
  output tokens/s/device             630

prefill: 12.5 ms; limited by compute 64.0 %, memory 27.2 %, network 8.0 %, launch 0.8 %
  op          module                           calls  total ms    share  bound    source
  matmul      model.layers.*.self_attn.q_proj     32     5.000   40.0 %  compute  calibrated
  matmul      model.layers.*.mlp.gate_proj        32     3.000   24.0 %  compute  calibrated
  attention   model.layers.*.self_attn            32     1.500   12.0 %  memory   measured*
  all_reduce  model.layers.*.mlp                  32     1.000    8.0 %  network  datasheet
  [3 others]                                      34     2.000   16.0 %
  total                                          162    12.500  100.0 %
  * timed on a smaller size and scaled

decode: 3.00 ms; limited by memory 100.0 %
  op      module                           calls  total ms    share  bound   source
  matmul  model.layers.*.self_attn.q_proj     32     2.000   66.7 %  memory  calibrated
  matmul  lm_head                              1     1.000   33.3 %  memory  calibrated
  total                                       33     3.000  100.0 %

module                prefill ms    share  decode ms    share
  model.embed_tokens       0.100    0.8 %      0.000    0.0 %
  model.layers.*          11.400   91.2 %      2.000   66.7 %
    input_layernorm        0.900    7.2 %      0.000    0.0 %
    self_attn              6.500   52.0 %      2.000   66.7 %
      q_proj               5.000   40.0 %      2.000   66.7 %
      (itself)             1.500   12.0 %      0.000    0.0 %
    mlp                    4.000   32.0 %      0.000    0.0 %
      gate_proj            3.000   24.0 %      0.000    0.0 %
      (itself)             1.000    8.0 %      0.000    0.0 %
  lm_head                  1.000    8.0 %      1.000   33.3 %
  total                   12.500  100.0 %      3.000  100.0 %

assumptions
  - key 'foo' of the config is not read

warnings
  - the profile is generic
)");
}

// S23
TEST_CASE("table: what weights, activations and KV cache are stored and computed in") {
  struct Row {
    const char* what;
    std::function<void(ReportDTypes&)> change;
    const char* text;
  };
  const auto in_bf16 = [](ReportDTypes& dtypes) {
    dtypes.linears = {{.scheme = "none", .weight_dtype = "bfloat16", .bytes = 7'000'000'000}};
    dtypes.compute_dtypes = {"bfloat16"};
  };
  const Row rows[] = {
      {"blocks, and linears that stay", [](ReportDTypes&) {},
       "weights fp8 e4m3 128x128 blocks (checkpoint), other linears bf16, embedding/head bf16; "
       "activations bf16, computed in fp8 e4m3; KV cache bf16"},
      {"most linears stay",
       [](ReportDTypes& dtypes) {
         dtypes.linears[1].bytes = 9'000'000'000;
         std::swap(dtypes.linears[0], dtypes.linears[1]);
         dtypes.compute_dtypes = {"bfloat16", "float8_e4m3fn"};
       },
       "weights fp8 e4m3 128x128 blocks (checkpoint), other linears bf16, embedding/head bf16; "
       "activations bf16, computed in bf16 and fp8 e4m3; KV cache bf16"},
      {"a router alone is not worth a word",
       [](ReportDTypes& dtypes) { dtypes.linears[1].bytes = 1'000'000; },
       "weights fp8 e4m3 128x128 blocks (checkpoint), embedding/head bf16; activations bf16, "
       "computed in fp8 e4m3; KV cache bf16"},
      {"everything in one dtype", in_bf16, "weights bf16; activations bf16; KV cache bf16"},
      {"another head",
       [&](ReportDTypes& dtypes) {
         in_bf16(dtypes);
         dtypes.embedding_dtypes = {"bfloat16", "float32"};
         dtypes.kv_cache_dtypes = {"int8"};
       },
       "weights bf16, embedding/head bf16 and f32; activations bf16; KV cache int8"},
      {"int8 by option, per channel, in groups and per tensor",
       [](ReportDTypes& dtypes) {
         dtypes.linears[0].weight_dtype = "int8";
         dtypes.linears[0].source = "option";
         dtypes.linears[0].block = {{1, 0}};
         dtypes.linears[1] = dtypes.linears[0];
         dtypes.linears[1].block = {{1, 64}};
         dtypes.linears.push_back(dtypes.linears[0]);
         dtypes.linears[2].block = {{0, 0}};
         dtypes.compute_dtypes = {"int8"};
         dtypes.kv_cache_dtypes.clear();
       },
       "weights int8 per channel (option), int8 groups of 64 (option), int8 per tensor (option), "
       "embedding/head bf16; activations bf16, computed in int8"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    ReportDTypes dtypes = sample_dtypes();
    row.change(dtypes);
    CHECK(describe(dtypes) == row.text);
  }
  // The header has it in place of the options' defaults.
  Report report = sample_report();
  report.dtypes = sample_dtypes();
  report.inputs[5].value = "\"checkpoint\"";
  report.inputs[6].value = "\"checkpoint\"";
  const std::string header = write_header(report);
  CHECK(header.find("\ndtypes        weights fp8 e4m3 128x128 blocks") != std::string::npos);
  CHECK(header.find("\nquantization") == std::string::npos);
  report.inputs[6].value = "\"int8\"";
  CHECK(write_header(report).find("\nquantization  kv cache int8\n") != std::string::npos);
}

// S23
TEST_CASE("table: a step of multi-token prediction is no token") {
  Report report = sample_report();
  report.mtp_tokens = 3;
  std::string header = write_header(report);
  std::replace(header.begin(), header.end(), '\n', ' ');
  header.erase(std::unique(header.begin(), header.end(),
                           [](char a, char b) { return a == ' ' && b == ' '; }),
               header.end());
  CHECK(header.find("num mtp tokens 3 (latency per step of 1+3 tokens)") != std::string::npos);
}

TEST_CASE("table: does not fit, ideal times, one phase") {
  Report report = single_pass_report("decode");
  report.memory.capacity_bytes = 8'589'934'592;
  report.memory.fits = false;
  report.memory.min_devices = 4;
  report.memory.min_devices_tp = 2;
  report.memory.min_devices_ep = 1;
  report.memory.max_batch_size = 0;
  report.memory.max_context_length = 0;
  report.with_ideal = true;
  metric_of(report, "decode_step_s").ideal = 0.0028;
  report.ops[0].ideal_s = 0.0019;
  report.ops[1].ideal_s = 0.0009;
  report.assumptions.clear();
  report.warnings.clear();
  const std::string text = write_table(report);
  // S23: the verdict comes first.
  CHECK(text.find("verdict       does not fit, 673 MiB too much; 4 devices would do "
                  "(--num-devices 4 --tp 2 --ep 1)\nmodel  ") == 0);
  CHECK(text.substr(text.find("memory")) == R"(memory of one device    GiB    share
  weights             7.500   93.7 %
  KV cache            0.125    1.6 %
  activations, peak   0.031    0.4 %  prefill matmul lm_head
  workspace           0.001    0.0 %
  reserved            1.000   12.5 %
  total               8.657  108.2 %
  capacity            8.000  100.0 %
  verdict            does not fit, 673 MiB too much; 4 devices would do (--num-devices 4 --tp 2 --ep
                     1)

latency (does not fit)  estimate    ideal
  decode step            3.00 ms  2.80 ms

decode: 3.00 ms; limited by memory 100.0 %
  op      module                           calls  total ms  ideal ms    share  bound   source
  matmul  model.layers.*.self_attn.q_proj     32     2.000     1.900   66.7 %  memory  calibrated
  matmul  lm_head                              1     1.000     0.900   33.3 %  memory  calibrated
  total                                       33     3.000     2.800  100.0 %

module            decode ms    share
  model.layers.*      2.000   66.7 %
    self_attn         2.000   66.7 %
      q_proj          2.000   66.7 %
  lm_head             1.000   33.3 %
  total               3.000  100.0 %
)");
}

TEST_CASE("table: limits of memory") {
  struct Row {
    std::optional<std::int64_t> batch;
    std::optional<std::int64_t> context;
    std::optional<std::int64_t> limit;  // that the config is made for
    std::string lines;
  };
  const std::vector<Row> rows = {
      {0, 0, 4096,
       "\n  largest batch      none: a single request does not fit\n"
       "  longest context    none: a single token does not fit\n\n"},
      {std::nullopt, std::nullopt, std::nullopt,
       "\n  largest batch      not limited by memory\n"
       "  longest context    not limited by memory\n\n"},
      {1, 1234, 1234,
       "\n  largest batch      1 with these lengths\n"
       "  longest context    1,234 tokens with this batch\n\n"},
      {1, 1234, 1000,
       "\n  largest batch      1 with these lengths\n"
       "  longest context    1,234 tokens with this batch; the config is made for 1,000\n"
       "                     (max_position_embeddings)\n\n"},
      {std::nullopt, std::nullopt, 4096,
       "\n  largest batch      not limited by memory\n"
       "  longest context    not limited by memory; the config is made for 4,096 "
       "(max_position_embeddings)\n\n"},
      {1, 8001, 8000,
       "\n  largest batch      1 with these lengths\n"
       "  longest context    8,001 tokens with this batch; the config is made for 8,000 (with its "
       "scaling of\n                     positions)\n\n"},
  };
  for (const Row& row : rows) {
    Report report = sample_report();
    report.memory.max_batch_size = row.batch;
    report.memory.max_context_length = row.context;
    report.memory.context_limit = row.limit;
    if (row.limit != 8000) report.memory.max_position_embeddings = row.limit;
    const std::string text = write_table(report);
    CAPTURE(text);
    CHECK(text.find(row.lines) != std::string::npos);
  }
}

// S20
TEST_CASE("table: the range of what was timed on this host, and which ops were disturbed") {
  Report report = sample_report();
  const std::string plain = write_table(report);
  CHECK(plain.find("range") == std::string::npos);
  CHECK(plain.find("disturbed") == std::string::npos);
  add_bounds(report, true, true);
  metric_of(report, "prefill_s").low = 0.011;
  metric_of(report, "end_to_end_s").high = 1.5;
  for (ReportOp& op : report.ops) op.disturbed = op.name == "attention";
  const std::string text = write_table(report);
  CHECK(text.find("latency                         estimate               range    ideal\n"
                  "  prefill                        12.5 ms  11.0 ms .. 12.5 ms  12.5 ms\n") !=
        std::string::npos);
  CHECK(text.find("  406 ms    406 ms .. 1.50 s   406 ms\n") != std::string::npos);
  CHECK(text.find("measured*!") != std::string::npos);
  CHECK(text.find("  ! timed while the machine was disturbed\n") != std::string::npos);
}

TEST_CASE("table: a metric without a value has no row") {
  Report report = sample_report();
  metric_of(report, "tpot_s").value.reset();
  CHECK(write_table(report).find("TPOT") == std::string::npos);
}

TEST_CASE("table: expected distinct experts of a model that has some") {  // S6, D17
  Report report = sample_report();
  CHECK(write_table(report).find("experts read") == std::string::npos);
  report.experts = ReportExperts{128, 8, 16};
  report.passes[0].distinct_experts = 16;
  report.passes[1].distinct_experts = 10.302813912771;
  CHECK(join(block(write_table(report), "experts read"), "\n") ==
        "experts read, of each layer  expected  held\n"
        "  prefill                          16    16  a token chooses 8 of 128\n"
        "  decode step                    10.3    16  a token chooses 8 of 128");
  report.experts = ReportExperts{256, 8, 4};
  report.passes[0].distinct_experts.reset();
  report.passes[1].distinct_experts = 0.125;
  CHECK(join(block(write_table(report), "experts read"), "\n") ==
        "experts read, of each layer  expected  held\n"
        "  decode step                   0.125     4  a token chooses 8 of 256");
}

TEST_CASE("table: a part of the run that is neither prefill nor decode") {
  Report report = sample_report();
  report.ops.push_back({.phase = "sampling",
                        .name = "top_k",
                        .module = "sampling",
                        .calls = 1,
                        .total_s = 1e-5,
                        .bound = "memory",
                        .source = "measured"});
  const std::string text = write_table(report);
  CHECK(join(block(text, "sampling: "), "\n") ==
        "sampling: 10.0 us; limited by memory 100.0 %\n"
        "  op     module    calls  total us    share  bound   source\n"
        "  top_k  sampling      1    10.000  100.0 %  memory  measured\n"
        "  total                1    10.000  100.0 %");
  CHECK(text.find("sampling us") == std::string::npos);  // not in the module table
}

TEST_CASE("table: shown parts add up to shown totals") {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> exponent(-9, -2);
  const std::vector<std::string> modules = {"model.embed_tokens",
                                            "model.layers.*",
                                            "model.layers.*.self_attn",
                                            "model.layers.*.self_attn.q_proj",
                                            "model.layers.*.self_attn.k_proj",
                                            "model.layers.*.mlp.gate",
                                            "model.layers.*.mlp.experts",
                                            "model.layers.*.mlp.experts.*.up_proj",
                                            "model.layers.*.mlp.experts.*.down_proj",
                                            "model.layers.*.mlp.shared_experts.up_proj",
                                            "model.layers.*.mlp.a",
                                            "model.layers.*.mlp.b",
                                            "model.layers.*.mlp.c",
                                            "model.layers.*.mlp.d",
                                            "model.layers.*.mlp.e",
                                            "model.layers.*.mlp.f",
                                            "visual.blocks.*.attn.qkv",
                                            "visual.merger.mlp.fc1",
                                            "model.norm",
                                            "lm_head",
                                            ""};
  for (int round = 0; round < 50; ++round) {
    CAPTURE(round);
    Report report = sample_report();
    report.ops.clear();
    for (const char* const phase : {"prefill", "decode"}) {
      for (const std::string& module : modules) {
        report.ops.push_back({.phase = phase,
                              .name = "op",
                              .module = module.empty() && round % 2 == 0 ? "x" : module,
                              .calls = static_cast<double>(round),
                              .total_s = std::pow(10, exponent(random)),
                              .bound = "memory",
                              .source = "datasheet"});
      }
    }
    // An empty module leaves one word less in a row, which is all the same to amounts().
    for (const std::size_t rows :
         {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{19}, std::size_t{1000}}) {
      check_totals(report, {.max_op_rows = rows});
    }
  }
  check_totals(sample_report(), {});
}

TEST_CASE("table: memory parts add up") {
  std::mt19937_64 random(2);
  for (int round = 0; round < 100; ++round) {
    Report report;
    ReportMemory& memory = report.memory;
    const auto bytes = [&] { return static_cast<std::int64_t>(random() >> (20 + random() % 40)); };
    memory.weights_bytes = bytes();
    memory.kv_cache_bytes = bytes();
    memory.activation_peak_bytes = bytes();
    memory.workspace_bytes = bytes();
    memory.reserved_bytes = bytes();
    memory.capacity_bytes = 150'323'855'360;
    const std::vector<std::string> lines = block(write_table(report), "memory");
    CAPTURE(join(lines, "\n"));
    std::pair<std::int64_t, std::int64_t> sum{0, 0};
    for (std::size_t i = 1; i <= 5; ++i) {
      sum.first += amounts(lines[i])[0].first;
      sum.second += amounts(lines[i])[0].second;
    }
    CHECK(amounts(lines[6])[0] == sum);
  }
}

TEST_CASE("table: rows that are left out") {
  Report report;
  for (int i = 0; i < 10; ++i) {
    report.ops.push_back({.phase = "prefill",
                          .name = "op" + std::to_string(i),
                          .module = "lm_head",
                          .calls = 1,
                          .total_s = 0.001 * i,
                          .bound = "memory",
                          .source = "assumed"});
  }
  const auto rows = [&](std::size_t max_rows) {
    const std::vector<std::string> lines =
        block(write_table(report, {.max_op_rows = max_rows}), "prefill: ");
    std::vector<std::string> names;
    for (std::size_t i = 2; i < lines.size(); ++i) names.push_back(words(lines[i])[0]);
    return names;
  };
  using Names = std::vector<std::string>;
  CHECK(rows(3) == Names{"op9", "op8", "op7", "[7", "total"});
  CHECK(rows(0) == Names{"[10", "total"});
  CHECK(rows(8).size() == 10);
  CHECK(rows(9).size() == 11);  // one row left out would be no shorter
  CHECK(rows(10).size() == 11);
}

TEST_CASE("table: small modules among many are one row") {
  Report report;
  const auto add = [&](const std::string& part, double seconds) {
    report.ops.push_back({.phase = "prefill",
                          .name = "op",
                          .module = "layers.*.mlp." + part,
                          .calls = 1,
                          .total_s = seconds,
                          .bound = "memory",
                          .source = "assumed"});
  };
  add("large", 1);
  for (int i = 0; i < 8; ++i) add("small" + std::to_string(i), 0.001);
  const std::vector<std::string> lines = block(write_table(report), "module");
  REQUIRE(lines.size() == 6);
  CHECK(lines[3] == "      large           1.000   99.2 %");
  CHECK(lines[4] == "      [8 others]      0.008    0.8 %");
  check_module_table(lines);
}

TEST_CASE("table: shares of parents do not drift with the number of their children") {
  Report report;
  const auto add = [&](const std::string& module, double seconds) {
    report.ops.push_back({.phase = "prefill",
                          .name = "op",
                          .module = module,
                          .calls = 1,
                          .total_s = seconds,
                          .bound = module == "lm_head" ? "memory" : "compute",
                          .source = "assumed"});
  };
  for (int i = 0; i < 7; ++i) add("layers.*.part" + std::to_string(i), 0.0049);
  add("lm_head", 0.9657);
  const std::string text = write_table(report);
  CHECK(amounts(block(text, "module")[1])[0].second == 34);
  CHECK(text.find("limited by memory 96.6 %, compute 3.4 %\n") != std::string::npos);
  check_module_table(block(text, "module"));
}

TEST_CASE("table: nasty reports") {
  const std::string nasty_texts[] = {
      "",
      std::string(100'000, 'x'),
      "\x1b[2J\x07",
      "\xff\xfe\xfd",
      "a\nb\rc\td",
      "\"'`,;$(x)",
      "......",
      "*.*.*.*",
      "\xe2\x80\xae reversed",
      std::string("nul\0nul", 7),
  };
  for (const std::string& text : nasty_texts) {
    Report report = sample_report();
    report.config_file = text;
    report.model_type = text;
    report.device = text;
    report.pipeline = text;
    report.memory.activation_peak_at = text;
    for (ReportOp& op : report.ops) op.name = op.module = op.bound = op.source = text;
    report.inputs = {{text, text}, {"tp", text}, {"quantize_linear", text}, {"", "\""}};
    report.assumptions = {text, text};
    report.warnings = {text};
    const std::string written = write_table(report);
    CAPTURE(written.substr(0, 3000));
    CHECK(longest_line(written) <= 100);
    for (const char c : written) {
      const bool control = c != '\n' && static_cast<unsigned char>(c) < ' ';
      if (control) FAIL_CHECK("a control character");
    }
  }
}

TEST_CASE("table: nasty numbers") {
  Report report = sample_report();
  for (ReportOp& op : report.ops) op.total_s = 0;
  std::string text = write_table(report);
  CHECK(text.find("nan") == std::string::npos);
  CHECK(text.find("  total") != std::string::npos);

  for (const double huge : {1e9, 1e30, 1e300}) {
    report = sample_report();
    for (ReportOp& op : report.ops) op.total_s = huge;
    metric_of(report, "ttft_s").value = huge;
    metric_of(report, "output_tokens_per_s").value = huge;
    CHECK(longest_line(write_table(report)) <= 100);
  }
  report = sample_report();
  for (ReportOp& op : report.ops) op.total_s = 1e-18;
  CHECK(longest_line(write_table(report)) <= 100);

  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  report = sample_report();
  report.total_parameters = most;
  report.memory = {.weights_bytes = most,
                   .kv_cache_bytes = most,
                   .total_bytes = most,
                   .capacity_bytes = most,
                   .with_limits = true,
                   .max_batch_size = most,
                   .max_context_length = most,
                   .min_devices = most};
  for (ReportOp& op : report.ops) op.calls = static_cast<double>(most);
  text = write_table(report);
  CHECK(longest_line(text) <= 100);

  CHECK(longest_line(write_table(Report{})) <= 100);

  report = sample_report();
  report.ops[0].total_s = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(write_table(report), InternalError);
  report = sample_report();
  metric_of(report, "ttft_s").value = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(write_table(report), InternalError);
}

}  // namespace
}  // namespace tcast
