#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/transform/pipeline.h"

#include "app/options.h"
#include "error_of.h"

namespace {

using tcast::CommandLine;
using tcast::DType;
using tcast::ModelInputs;
using tcast::Phase;
using tcast::TransformerModel;
using tcast::WorkloadInputs;

/// A config file that is removed at the end.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    std::string name = (std::filesystem::temp_directory_path() / "tcast-options-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    folder_ = name;
    std::ofstream(path()) << text;
  }
  ~ConfigFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  ConfigFile(const ConfigFile&) = delete;
  ConfigFile& operator=(const ConfigFile&) = delete;

  std::string folder() const { return folder_; }
  std::string path() const { return folder_ + "/config.json"; }

 private:
  std::string folder_;
};

bool has(const std::vector<std::string>& list, const std::string& text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

const char* const llama = R"({"model_type": "llama", "vocab_size": 100, "hidden_size": 32,
  "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
  "rms_norm_eps": 1e-5, "tie_word_embeddings": false)";

// --- workload ------------------------------------------------------------------------------------

WorkloadInputs read_workload(const std::vector<std::string>& arguments) {
  WorkloadInputs inputs;
  CommandLine line("tcast sample", "a sample");
  add_request_options(line, inputs);
  add_phase_options(line, inputs);
  line.parse(arguments);
  return inputs;
}

TEST_CASE("options: a workload is whole requests by default") {
  const WorkloadInputs plain = read_workload({});
  CHECK(plain.batch_size == 1);
  CHECK(plain.input_length == 512);
  CHECK(plain.output_length == 128);
  CHECK_FALSE(plain.single_phase);
  CHECK(read_workload({"--batch-size", "8"}).batch_size == 8);
}

TEST_CASE("options: one forward pass") {
  struct Row {
    std::vector<std::string> arguments;
    tcast::Workload expected;
  };
  const Row rows[] = {
      {{"--phase", "prefill"}, {Phase::prefill, 1, 512, 0}},
      {{"--phase", "decode"}, {Phase::decode, 1, 1, 512}},
      {{"--phase", "decode", "--num-queries", "7", "--query-length", "3", "--context-length", "0"},
       {Phase::decode, 7, 3, 0}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.arguments[1]);
    const WorkloadInputs inputs = read_workload(row.arguments);
    REQUIRE(inputs.single_phase);
    CHECK(inputs.single_phase->phase == row.expected.phase);
    CHECK(inputs.single_phase->batch == row.expected.batch);
    CHECK(inputs.single_phase->query_length == row.expected.query_length);
    CHECK(inputs.single_phase->context_length == row.expected.context_length);
  }
}

TEST_CASE("options: the two kinds of workload do not mix") {
  CHECK(
      error_of([] {
        read_workload({"--query-length", "4"});
      }) ==
      "--query-length describes one forward pass, but --phase is missing | add --phase prefill or "
      "--phase decode");
  CHECK(error_of([] {
          read_workload({"--phase", "decode", "--input-length", "9"});
        }) ==
        "--input-length describes whole requests, --phase one forward pass | with --phase use "
        "--num-queries, --query-length and --context-length");
  CHECK(error_of([] {
          read_workload({"--phase", "prefil"});
        }) == "--phase: expected one of prefill, decode, got 'prefil' | did you mean 'prefill'?");
}

TEST_CASE("options: how this host is timed means nothing for another device") {
  auto read = [](const std::vector<std::string>& arguments) {
    tcast::TargetInputs inputs;
    CommandLine line("tcast sample", "a sample");
    add_target_options(line, inputs);
    line.parse(arguments);
    return inputs;
  };
  CHECK(read({"--threads", "2", "--time-budget", "0.5"}).threads == 2);
  CHECK(read({"--device", "h200", "--reserved-memory", "2GiB"}).reserved_memory_bytes ==
        std::int64_t{2} << 30);
  CHECK(error_of([&] {
          read({"--device", "h200", "--time-budget", "1"});
        }) ==
        "--time-budget is for timing this host, but --device was given | leave out one of them");
}

// --- model ---------------------------------------------------------------------------------------

TEST_CASE("options: every option of the model and its deployment") {
  ModelInputs inputs;
  CommandLine line("tcast sample", "a sample");
  add_model_options(line, inputs);
  add_deployment_options(line, inputs.options);
  CHECK(line.parse({"--profile",
                    "a.yaml",
                    "--profile",
                    "b.yaml",
                    "--assume-base",
                    "llama",
                    "--text-only",
                    "--dtype",
                    "fp16",
                    "--num-hidden-layers",
                    "3",
                    "--num-mtp-tokens",
                    "1",
                    "--skip-step",
                    "patch_moe",
                    "--skip-step",
                    "shard_model",
                    "--no-reuse-layers",
                    "--quantize-linear",
                    "fp8",
                    "--quantize-kv-cache",
                    "int8",
                    "--quantize-ignore",
                    "lm_head",
                    "--kv-block-size",
                    "16",
                    "--num-devices",
                    "8",
                    "--tp",
                    "4",
                    "--ep",
                    "2",
                    "--expert-skew",
                    "0.5",
                    "--pp",
                    "1"}));
  CHECK(inputs.profiles == std::vector<std::string>{"a.yaml", "b.yaml"});
  CHECK(inputs.assume_base == "llama");
  CHECK(inputs.text_only);
  const tcast::ModelOptions& options = inputs.options;
  CHECK(options.dtype == DType::f16);
  CHECK(options.num_hidden_layers == 3);
  CHECK(options.num_mtp_tokens == 1);
  CHECK(options.skip_steps == std::vector<std::string>{"patch_moe", "shard_model"});
  CHECK_FALSE(options.reuse_layers);
  CHECK(options.quantize_linear == tcast::LinearScheme::fp8);
  CHECK(options.quantize_kv_cache == tcast::KvScheme::int8);
  CHECK(options.quantize_ignore == std::vector<std::string>{"lm_head"});
  CHECK(options.kv_block_size == 16);
  CHECK(options.parallel.num_devices == 8);
  CHECK(options.parallel.tp == 4);
  CHECK(options.parallel.ep == 2);
  CHECK(options.expert_skew == 0.5);
}

TEST_CASE("options: a file and its folder give the same model") {
  const ConfigFile config(std::string(llama) + "}");
  const TransformerModel from_file = tcast::load_model(config.path(), {});
  const TransformerModel from_folder = tcast::load_model(config.folder(), {});
  CHECK(from_file.count_parameters().total > 0);
  CHECK(from_file.count_parameters().total == from_folder.count_parameters().total);
}

TEST_CASE("options: the text model of a model with more towers") {
  const ConfigFile config(R"({"model_type": "llava", "torch_dtype": "float16",
    "tie_word_embeddings": true, "quantization_config": {"quant_method": "fp8",
    "modules_to_not_convert": ["vision_tower", "language_model.model.layers.0.self_attn",
      "language_model.lm_head"]},
    "vision_config": {"hidden_size": 8}, "text_config": )" +
                          std::string(R"({"model_type": "llama", "vocab_size": 100,
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "rms_norm_eps": 1e-5}})"));
  ModelInputs inputs;
  inputs.text_only = true;
  const TransformerModel model = tcast::load_model(config.path(), inputs);
  CHECK(model.config().model_type() == "llama");
  CHECK(model.root().class_name() == "LlamaForCausalLM");
  CHECK(has(model.assumptions(), "only the text model of 'llava' is built (--text-only)"));
  // What the outer config says of the whole model holds for its part.
  CHECK(model.parameters()[0].parameter->dtype == DType::f16);
  TransformerModel deployed = tcast::load_model(config.path(), inputs);
  tcast::transform(deployed);
  std::int64_t tied = 0;
  std::int64_t narrow = 0;
  for (const tcast::NamedParameter& named : deployed.parameters()) {
    tied += named.parameter->tied_to.empty() ? 0 : 1;
    if (named.parameter->dtype == DType::f8_e4m3) ++narrow;
  }
  CHECK(tied == 1);
  CHECK(narrow == 2 * 7 - 4);  // what the ignore-list names apart

  inputs.options.dtype = DType::f32;
  CHECK(tcast::load_model(config.path(), inputs).parameters()[0].parameter->dtype == DType::f32);
}

TEST_CASE("options: --text-only without a text model") {
  const ConfigFile config(std::string(llama) + "}");
  ModelInputs inputs;
  inputs.text_only = true;
  CHECK(error_of([&] { tcast::load_model(config.path(), inputs); }) ==
        config.path() +
            ": --text-only was given, but there is no text_config | leave out --text-only");
}

TEST_CASE("options: --assume-base is for unknown types only, and says what it did") {
  ModelInputs inputs;
  inputs.assume_base = "qwen2";
  const ConfigFile known(std::string(llama) + "}");
  const TransformerModel as_known = tcast::load_model(known.path(), inputs);
  CHECK(as_known.root().class_name() == "LlamaForCausalLM");
  CHECK(has(as_known.assumptions(),
            "--assume-base qwen2 is not used: 'llama' is a known model type"));

  std::string text = llama;
  text.replace(text.find("llama"), 5, "lloma");
  const ConfigFile unknown(text + "}");
  inputs.assume_base = "llama";
  const TransformerModel as_unknown = tcast::load_model(unknown.path(), inputs);
  CHECK(as_unknown.root().class_name() == "LlamaForCausalLM");
  CHECK(has(as_unknown.assumptions(), "model type 'lloma' is built as 'llama' (--assume-base)"));
}

}  // namespace
