#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/base/error.h"
#include "tcast/report/steps_writer.h"

#include "report_samples.h"

namespace tcast {
namespace {

/// The figures of a model before any step.
ReportStep untransformed() {
  return {.figures = StepFigures{.regions = 3,
                                 .traced_ops = 90,
                                 .called_ops = 2000,
                                 .weights_bytes = 16'000'000'000,
                                 .kv_cache_bytes = 100'000'000,
                                 .prefill_flops = 8e12,
                                 .prefill_bytes = 2e10,
                                 .decode_flops = 1.6e10,
                                 .decode_bytes = 1.7e10,
                                 .activation_peak_bytes = 200'000'000,
                                 .prefill_s = 0.02,
                                 .decode_step_s = 0.005}};
}

/// The same figures after a step.
ReportStep step(std::string name) {
  ReportStep result = untransformed();
  result.step = std::move(name);
  return result;
}

Report steps_report() {
  Report report = sample_report();
  report.inputs.clear();
  report.steps = {untransformed(), step("wrap_model"), step("patch_attention"),
                  step("quantize_model")};
  report.steps[1].milliseconds = 0.0125;
  report.steps[1].expected = 1;
  report.steps[1].changed_modules = 1;
  report.steps[1].changed = {{"", "TinyForCausalLM", "LanguageModelWrapper"}};
  report.steps[2].milliseconds = 1.25;
  report.steps[2].expected = 36;
  report.steps[2].changed_modules = 35;
  report.steps[2].changed = {{"model.layers.[0-30].self_attn", "TinyAttention", "PagedAttention"},
                             {"model.layers.[32-35].self_attn", "TinyAttention", "PagedAttention"}};
  report.steps[2].skipped = {{"model.layers.31.self_attn", "it has no k_proj"}};
  report.steps[2].warnings = {"35 of 36 attention modules were patched"};
  report.steps[2].figures->called_ops = 1500;
  report.steps[2].figures->prefill_bytes = 1e10;
  report.steps[2].figures->activation_peak_bytes = 50'000'000;
  report.steps[2].figures->prefill_s = 0.015;
  report.steps[3] = report.steps[2];
  report.steps[3].step = "quantize_model";
  report.steps[3].expected.reset();
  report.steps[3].changed_modules = 252;
  report.steps[3].changed.clear();
  report.steps[3].warnings.clear();
  for (const char* const part : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"}) {
    report.steps[3].changed.push_back(
        {std::string("model.layers.[0-35].x.") + part, "Linear", "Linear fp8"});
  }
  report.steps[3].skipped = {{"lm_head", "excluded by 'lm_head'"},
                             {"", "the KV cache stays as it is (--quantize-kv-cache none)"}};
  report.steps[3].figures->weights_bytes = 9'000'000'000;
  report.steps[3].figures->decode_step_s = 0.003;
  report.steps[3].figures->decode_bytes = 1e10;
  return report;
}

/// The lines of one step.
std::string part_of(const Report& report, const std::string& title) {
  const std::string text = write_steps_table(report);
  const std::size_t begin = text.find("\n" + title);
  REQUIRE(begin != std::string::npos);
  return text.substr(begin + 1, text.find("\n\n", begin) - begin);
}

TEST_CASE("steps: the whole text") {
  CHECK(write_steps_table(steps_report()) == R"(model         tiny (configs/models/tiny.json)
parameters    8.03 B total, 7.00 B active per token
device        h200
pipeline      the nine standard steps

after step       changed    ops   weights  KV cache  activations  prefill  decode step
(untransformed)           2,000  14.9 GiB  95.4 MiB      191 MiB  20.0 ms      5.00 ms
wrap_model           1/1  2,000  14.9 GiB  95.4 MiB      191 MiB  20.0 ms      5.00 ms
patch_attention    35/36  1,500  14.9 GiB  95.4 MiB     47.7 MiB  15.0 ms      5.00 ms
quantize_model       252  1,500  8.38 GiB  95.4 MiB     47.7 MiB  15.0 ms      3.00 ms

wrap_model: 1 module changed, 1 expected (12.5 us)
  changed     TinyForCausalLM -> LanguageModelWrapper: the model itself
  no figure changes

patch_attention: 35 modules changed, 36 expected (1.25 ms)
  changed     TinyAttention -> PagedAttention: model.layers.[0-30,32-35].self_attn
  left alone  it has no k_proj: model.layers.31.self_attn
  warning     35 of 36 attention modules were patched
                            before     after     change
  activations, peak        191 MiB  47.7 MiB   -143 MiB  -75.0 %
  prefill memory traffic  18.6 GiB  9.31 GiB  -9.31 GiB  -50.0 %
  prefill time             20.0 ms   15.0 ms   -5.00 ms  -25.0 %
  executed operators        2.00 K    1.50 K       -500  -25.0 %

quantize_model: 252 modules changed (1.25 ms)
  changed     Linear -> Linear fp8: model.layers.[0-35].x.q_proj, model.layers.[0-35].x.k_proj,
              model.layers.[0-35].x.v_proj and 2 more
  left alone  excluded by 'lm_head': lm_head
              the KV cache stays as it is (--quantize-kv-cache none)
                                before     after     change
  weights                     14.9 GiB  8.38 GiB  -6.52 GiB  -43.8 %
  decode step memory traffic  15.8 GiB  9.31 GiB  -6.52 GiB  -41.2 %
  decode step time             5.00 ms   3.00 ms   -2.00 ms  -40.0 %

all steps together
                                before     after     change
  weights                     14.9 GiB  8.38 GiB  -6.52 GiB  -43.8 %
  activations, peak            191 MiB  47.7 MiB   -143 MiB  -75.0 %
  prefill memory traffic      18.6 GiB  9.31 GiB  -9.31 GiB  -50.0 %
  prefill time                 20.0 ms   15.0 ms   -5.00 ms  -25.0 %
  decode step memory traffic  15.8 GiB  9.31 GiB  -6.52 GiB  -41.2 %
  decode step time             5.00 ms   3.00 ms   -2.00 ms  -40.0 %
  executed operators            2.00 K    1.50 K       -500  -25.0 %

assumptions
  - key 'foo' of the config is not read

warnings
  - the profile is generic
)");
}

TEST_CASE("steps: paths of the same change") {
  struct Row {
    std::vector<std::string> paths;
    std::string text;
  };
  const std::vector<Row> rows = {
      {{""}, "the model itself"},
      {{"lm_head"}, "lm_head"},
      {{"lm_head", "lm_head"}, "lm_head"},
      {{"layers.3.mlp"}, "layers.3.mlp"},
      {{"layers.[3-60].mlp"}, "layers.[3-60].mlp"},
      {{"layers.0.mlp", "layers.1.mlp", "layers.2.mlp"}, "layers.[0-2].mlp"},
      {{"layers.5.mlp", "layers.0.mlp", "layers.[1-3].mlp"}, "layers.[0-3,5].mlp"},
      {{"layers.2.mlp", "layers.[0-4].mlp"}, "layers.[0-4].mlp"},
      {{"layers.0.a", "layers.1.b"}, "layers.0.a, layers.1.b"},
      {{"layers.0.experts.1", "layers.0.experts.2"}, "layers.0.experts.1, layers.0.experts.2"},
      {{"layers.0.experts.[0-7]", "layers.1.experts.[0-7]"}, "layers.[0-1].experts.[0-7]"},
      {{"a", "b", "c", "d", "e"}, "a, b, c and 2 more"},
      {{"7"}, "7"},
      {{"layers.0", "layers.1"}, "layers.[0-1]"},
      {{"layers.-1.a", "layers.[5-3].a", "layers.[-].a"},
       "layers.-1.a, layers.[5-3].a, layers.[-].a"},
      {{"layers.99999999999999999999.a"}, "layers.99999999999999999999.a"},
      {{"layers.9223372036854775807", "layers.0"}, "layers.[0,9223372036854775807]"},
      {{"..", "."}, ".., ."},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    Report report;
    report.steps = {ReportStep{.step = "s", .figures = StepFigures{}}};
    for (const std::string& path : row.paths) report.steps[0].changed.push_back({path, "A", "B"});
    CHECK(part_of(report, "s: ") ==
          "s: 0 modules changed (0 s)\n  changed     A -> B: " + row.text + "\n");
  }
}

TEST_CASE("steps: thousands of modules are a few lines") {
  Report report = steps_report();
  for (int layer = 0; layer < 60; layer += 2) {
    for (int expert = 0; expert < 100; ++expert) {
      const std::string path = "model.layers." + std::to_string(layer) + ".mlp.experts." +
                               std::to_string(expert) + ".up_proj";
      report.steps[3].changed.push_back({path, "Linear", "Linear int8"});
      report.steps[3].skipped.push_back({path, "not \"even\""});
      report.steps[3].skipped.push_back({path, "reason " + std::to_string(expert)});
    }
  }
  const std::string text = write_steps_table(report);
  CHECK(longest_line(text) <= 100);
  CHECK(std::count(text.begin(), text.end(), '\n') < 200);
  CHECK(text.find("[83 others]\n") != std::string::npos);
}

TEST_CASE("steps: figures") {
  Report report;
  report.steps = {untransformed(), step("same"), step("noise"), step("zero")};
  report.steps[2].figures->prefill_s *= 1 + 1e-12;
  report.steps[3].figures->weights_bytes = 0;
  report.steps.push_back(report.steps[3]);
  report.steps[4].step = "back";
  report.steps[4].figures->weights_bytes = 1024;
  CHECK(part_of(report, "same: ") == "same: 0 modules changed (0 s)\n  no figure changes\n");
  CHECK(part_of(report, "noise: ") == "noise: 0 modules changed (0 s)\n  no figure changes\n");
  CHECK(part_of(report, "zero: ") ==
        "zero: 0 modules changed (0 s)\n"
        "             before  after     change\n"
        "  weights  14.9 GiB    0 B  -14.9 GiB  -100.0 %\n");
  CHECK(part_of(report, "back: ") ==
        "back: 0 modules changed (0 s)\n"
        "           before     after     change\n"
        "  weights     0 B  1.00 KiB  +1.00 KiB  new\n");
}

TEST_CASE("steps: nasty reports") {
  CHECK(write_steps_table(Report{}) ==
        "parameters    0 total, 0 active per token\n\nno step ran\n");
  Report report;
  report.steps = {ReportStep{}};
  CHECK_THROWS_AS(write_steps_table(report), InternalError);
  report.steps = {ReportStep{.figures = StepFigures{}}};
  CHECK(longest_line(write_steps_table(report)) <= 100);
  const std::string nasty_texts[] = {"",        std::string(10'000, 'x'),
                                     "\x1b[2J", "\xff",
                                     "a\nb",    std::string(1, '\0'),
                                     ".",       "[",
                                     "[]",      "[-]",
                                     "[1-]"};
  for (const std::string& text : nasty_texts) {
    report = steps_report();
    for (ReportStep& entry : report.steps) {
      entry.step = text;
      entry.changed = {{text, text, text}, {text + "." + text, text, text}};
      entry.skipped = {{text, text}};
      entry.warnings = {text};
    }
    const std::string written = write_steps_table(report);
    CAPTURE(written);
    CHECK(written.find('\x1b') == std::string::npos);
    CHECK(written.find('\0') == std::string::npos);
    if (text.size() < 50) CHECK(longest_line(written) <= 100);
  }
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  report = steps_report();
  ReportStep& last = report.steps.back();
  StepFigures& figures = *last.figures;
  figures.weights_bytes = figures.kv_cache_bytes = figures.activation_peak_bytes = most;
  figures.regions = figures.traced_ops = figures.called_ops = last.changed_modules = most;
  figures.prefill_s = figures.decode_step_s = figures.prefill_flops = 1e300;
  last.expected = most;
  last.milliseconds = 1e300;
  write_steps_table(report);  // huge numbers make wide tables, not crashes
}

}  // namespace
}  // namespace tcast
