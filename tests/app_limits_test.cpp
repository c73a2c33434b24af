// C10, C4, R11: whatever a config, a profile or a command line asks for, the answer or the refusal
// comes within 1 GiB of memory, never as an internal error, and does come: a command that works for
// minutes is stopped and has failed.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tcast/base/text.h"

#include "command_runs.h"
#include "scratch.h"

namespace {

namespace fs = std::filesystem;

/// How a command ended in a process of its own, and what it took.
struct Cost {
  int status = -1;
  std::string err;
  long mebibytes = 0;
};

#if defined(TCAST_SANITIZED)
// The sanitizers' own memory and work come on top of the program's.
constexpr long mebibytes_limit = 4096;
constexpr rlim_t processor_s_limit = 600;
#else
constexpr long mebibytes_limit = 1024;
constexpr rlim_t processor_s_limit = 120;
#endif

Cost cost_of(const std::vector<std::string>& line, const Scratch& folder,
             const std::function<void()>& before = {}) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit work{processor_s_limit, processor_s_limit};
    setrlimit(RLIMIT_CPU, &work);
    if (before) before();
    const Run outcome = run(line);
    folder.write("stderr", outcome.err);
    _exit(outcome.status);
  }
  int status = 0;
  struct rusage usage {};
  REQUIRE(wait4(child, &status, 0, &usage) == child);
  Cost cost;
  cost.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  cost.err = folder.read("stderr");
  cost.mebibytes = usage.ru_maxrss / 1024;
  return cost;
}

std::string with(const std::string& key, const std::string& value, const std::string& more = {}) {
  std::string text = tiny_config(more);
  const std::size_t at = text.find("\"" + key + "\":");
  REQUIRE(at != std::string::npos);
  const std::size_t begin = at + key.size() + 3;
  return text.replace(begin, text.find_first_of(",}", begin) - begin, value);
}

std::string mixtral(const std::string& experts, const std::string& more = {}) {
  return with("model_type", "\"mixtral\"",
              ",\"num_local_experts\":" + experts + ",\"num_experts_per_tok\":2" + more);
}

constexpr const char* too_many_ops =
    "tcast: error: one forward pass of this model has more than 200,000 operators\n";

}  // namespace

namespace {

void check_small_configs(bool heavy) {
  const Scratch folder;
  const std::string layers = folder.write("layers.json", with("num_hidden_layers", "100000"));
  const std::string experts = folder.write("experts.json", mixtral("68719476736"));
  const std::string many = folder.write("many.json", mixtral("60000"));
  const std::string looped = folder.write("looped.json", mixtral("16000"));
  const std::string wide =
      folder.write("wide.json", mixtral("8", ",\"num_nextn_predict_layers\":1"));
  const std::string trace = folder.file("trace");
  struct Row {
    std::vector<std::string> line;
    std::string message;  // empty: an answer
    bool heavy = false;   // left to the heavy tests
  };
  const Row rows[] = {
      {{"inspect", layers}, ""},
      {{"simulate", layers, "--device", "h200"}, "", true},
      {{"inspect", layers, "--transformed"}, ""},
      {{"simulate", layers, "--device", "h200", "--no-reuse-layers"}, too_many_ops},
      {{"inspect", layers, "--steps"}, too_many_ops},
      {{"inspect", layers, "--format", "json"}, "", true},
      {{"simulate", layers, "--device", "h200", "--trace", trace},
       "tcast: error: --trace: the time line would have 3,600,009 events, more than 400,000\n"},
      {{"inspect", experts, "--steps"},
       "tcast: error: " + experts +
           ":1:290: num_local_experts: expected at most 65536 experts, got "
           "68719476736\n"},
      {{"simulate", experts, "--device", "h200", "--skip-step", "patch_moe"},
       "tcast: error: " + experts +
           ":1:290: num_local_experts: expected at most 65536 experts, got "
           "68719476736\n"},
      {{"simulate", many, "--device", "h200"}, ""},
      {{"simulate", many, "--device", "h200", "--skip-step", "patch_moe", "--input-length",
        "100000"},
       too_many_ops},
      {{"simulate", looped, "--device", "h200", "--skip-step", "patch_moe", "--quantize-linear",
        "w8a8_dynamic", "--phase", "prefill", "--query-length", "8000"},
       ""},
      {{"inspect", many, "--format", "json"}, "", true},
      {{"simulate", wide, "--device", "h200", "--batch-size", "1000000", "--skip-step",
        "patch_moe"},
       ""},
      {{"simulate", layers, "--device", "h200", "--output-length", "1000000000"}, "", true},
      {{"simulate", layers, "--device", "h200", "--num-devices", "1099511627776", "--tp",
        "1099511627776"},
       "tcast: error: "},
      {{"simulate", many, "--device", "h200", "--num-devices", "60000", "--ep", "60000"},
       "tcast: error: all_to_all over 60000 ranks"},
  };
  for (const Row& row : rows) {
    if (row.heavy != heavy) continue;
    CAPTURE(tcast::join(row.line, " "));
    const Cost cost = cost_of(row.line, folder);
    CHECK(cost.status == (row.message.empty() ? 0 : 1));
    CHECK(cost.err.substr(0, row.message.size()) == row.message);
    CHECK(cost.mebibytes < mebibytes_limit);
    CHECK_FALSE(fs::exists(trace));
  }
}

}  // namespace

TEST_CASE("limits: small configs that ask for much work are refused with the number") {
  check_small_configs(false);
}

TEST_CASE("limits: small configs that ask for much work are answered (heavy)" * doctest::skip()) {
  check_small_configs(true);
}

namespace {

/// A config, and whether working on it takes so long that it is left to the heavy tests.
struct LargeConfig {
  const char* what;
  std::function<std::string()> config;
  bool heavy = false;
};

std::string list(int count, const std::function<std::string(int)>& item) {
  std::string text = "[";
  for (int i = 0; i < count; ++i) text += (i > 0 ? "," : "") + item(i);
  return text + "]";
}

std::string zeros(int count) {
  return tiny_config(",\"a\":" + list(count, [](int) { return "0"; }));
}

std::string long_text() { return "\"" + std::string(15 << 20, 'x') + "\""; }
std::string long_number() { return "1" + std::string(15 << 20, '0'); }

std::string many_keys(int count) {
  std::string keys;
  for (int i = 0; i < count; ++i) keys += ",\"k" + std::to_string(i) + "\":1";
  return tiny_config(keys);
}

std::string alternating_layers(int layers) {
  return with("num_hidden_layers", std::to_string(layers),
              ",\"use_sliding_window\":true,\"sliding_window\":128,\"layer_types\":" +
                  list(layers, [](int i) {
                    return i % 2 == 0 ? "\"full_attention\"" : "\"sliding_attention\"";
                  }));
}

std::string many_exceptions(int count) {
  return tiny_config(
      ",\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":\"dynamic\","
      "\"weight_block_size\":[64,64],\"modules_to_not_convert\":" +
      list(count, [](int i) { return "\"model.layers." + std::to_string(i) + ".mlp\""; }) + "}");
}

std::vector<LargeConfig> large_configs() {
  return {
      {"900,000 keys that nothing reads", [] { return many_keys(900'000); }, true},
      {"20,000 keys that nothing reads", [] { return many_keys(20'000); }},
      {"a model type of 15 MiB", [] { return with("model_type", long_text()); }},
      {"an activation of 15 MiB", [] { return tiny_config(",\"hidden_act\":" + long_text()); },
       true},
      {"a key of 15 MiB", [] { return tiny_config("," + long_text() + ":1"); }, true},
      {"a number of 15 MiB", [] { return tiny_config(",\"n\":" + long_number()); }, true},
      {"a size of 15 MiB", [] { return with("hidden_size", long_number()); }, true},
      {"a million values", [] { return zeros(1'000'000); }, true},
      {"two million values", [] { return zeros(2'000'000); }, true},
      {"100,000 layers of two kinds", [] { return alternating_layers(100'000); }, true},
      {"10,000 layers of two kinds", [] { return alternating_layers(10'000); }, true},
      {"200,000 modules that are not quantized", [] { return many_exceptions(200'000); }, true},
      {"100 nested lists",
       [] { return tiny_config(",\"a\":" + std::string(100, '[') + std::string(100, ']')); }},
  };
}

void check_large_configs(bool heavy) {
  const Scratch folder;
  for (const LargeConfig& large : large_configs()) {
    if (large.heavy != heavy) continue;
    CAPTURE(large.what);
    const std::string config = folder.write("c.json", large.config());
    for (const std::vector<std::string>& line :
         {std::vector<std::string>{"simulate", config, "--device", "h200"}, {"inspect", config}}) {
      CAPTURE(line[0]);
      const Cost cost = cost_of(line, folder);
      CHECK((cost.status == 0 || cost.status == 1));
      CHECK(cost.mebibytes < mebibytes_limit);
      CHECK(cost.err.size() < 20'000);
    }
  }
}

}  // namespace

TEST_CASE("limits: large configs take bounded time and memory") { check_large_configs(false); }

TEST_CASE("limits: large configs take bounded time and memory (heavy)" * doctest::skip()) {
  check_large_configs(true);
}

TEST_CASE("limits: what never ends is not read, by any option that names a file") {
  const Scratch folder;
  const std::string good = folder.write("good.json", tiny_config());
  const std::string pipe = folder.file("pipe");
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  const std::string sparse = folder.write("sparse.yaml", "");
  fs::resize_file(sparse, std::uintmax_t{700} << 20);
  const std::string store = folder.file("s.sqlite");
  const std::string empty = folder.file("empty");
  fs::create_directory(empty);
  for (const std::string& file : {std::string("/dev/zero"), pipe, sparse, empty}) {
    for (const std::vector<std::string>& line :
         {std::vector<std::string>{"simulate", file, "--device", "h200"},
          {"simulate", good, "--device", file},
          {"simulate", good, "--device", "h200", "--profile", file},
          {"inspect", file},
          {"inspect", good, "--steps", "--device", file},
          {"run", good, "--token-ids", file},
          {"verify", good, "--token-ids", file},
          {"store", "import", file, "--store", store},
          {"store", "list", "--store", file},
          {"store", "export", "--store", file},
          {"store", "clear", "--store", file}}) {
      CAPTURE(tcast::join(line, " "));
      const Cost cost = cost_of(line, folder);
      CHECK(cost.status == 1);
      CHECK(cost.err.find("tcast: error: " + file) == 0);
      CHECK(cost.mebibytes < mebibytes_limit);
    }
  }
  CHECK_FALSE(fs::exists(store));
}

// R16: a number that does not fit is an error with its place, in every file that is read.
TEST_CASE("limits: numbers out of their range are refused with their place") {
  const Scratch folder;
  const std::string good = folder.write("good.json", tiny_config());
  std::ifstream stream(fs::path(TCAST_SOURCE_DIR) / "configs/devices/h200.yaml");
  const std::string device((std::istreambuf_iterator<char>(stream)), {});
  struct Row {
    std::string file;
    std::string text;
    std::string message;  // behind the file's name
  };
  std::vector<Row> rows = {
      {"p.yaml", "architecture: {partial_rotary_factor: 1e300}\n",
       ":1:39: architecture.partial_rotary_factor: expected a number from 0 to 1, got the number "
       "1e300"},
      {"p.yaml", "architecture: {partial_rotary_factor: .nan}\n",
       ":1:39: architecture.partial_rotary_factor: expected a number from 0 to 1, got the number "
       "NaN"},
      {"p.yaml", "architecture: {attention_scale: .inf}\n",
       ":1:33: architecture.attention_scale: expected a number that is not infinite, got the "
       "number "
       "Infinity"},
      {"p.yaml", "architecture: {head_dim: 1e300}\n",
       ":1:26: architecture.head_dim: expected a whole number, got the number 1e300"},
      {"c.json", with("hidden_size", "1e300"), ": hidden_size: expected a whole number, got"},
      {"c.json", with("hidden_size", "9223372036854775808"),
       ": hidden_size: expected a whole number of at most 64 bits"},
      {"c.json", with("num_hidden_layers", "1e18"), ": num_hidden_layers: expected a whole number"},
      {"c.json", with("rms_norm_eps", "1e999"), ": rms_norm_eps: expected a number in the range"},
      {"ids.txt", "99999999999999999999\n",
       ":1:1: expected a token id, got '99999999999999999999'"},
      {"ids.txt", "1e300\n", ":1:1: expected a token id, got '1e300'"},
  };
  for (const std::string& bytes : {std::string("1e300"), std::string("-1"), std::string(".nan")}) {
    const std::size_t at = device.find("  size_bytes: ");
    REQUIRE(at != std::string::npos);
    std::string changed = device;
    changed.replace(at, device.find('\n', at) - at, "  size_bytes: " + bytes);
    rows.push_back({"d.yaml", changed, ": memory.size_bytes: expected"});
  }
  for (const Row& row : rows) {
    CAPTURE(row.text.substr(0, 200));
    const std::string file = folder.write(row.file, row.text);
    const bool config = row.file == "c.json";
    std::vector<std::string> line = {"simulate", config ? file : good, "--device",
                                     row.file == "d.yaml" ? file : "h200"};
    if (row.file == "p.yaml") line.insert(line.end(), {"--profile", file});
    if (row.file == "ids.txt") line = {"run", good, "--token-ids", file};
    const Run outcome = run(line);
    CHECK(outcome.status == 1);
    CHECK_MESSAGE(outcome.err.find("tcast: error: " + file + ":") == 0, outcome.err);
    CHECK_MESSAGE(outcome.err.find(row.message) != std::string::npos, outcome.err);
  }
}

// C4
TEST_CASE("limits: failures of the file system are errors with their reason") {
  const Scratch folder;
  fs::create_symlink("b", folder.file("a"));
  fs::create_symlink("a", folder.file("b"));
  const std::string good = folder.write("good.json", tiny_config());
  for (const std::string& file :
       {folder.file("a"), folder.file(std::string(300, 'n')), good + "/below",
        folder.file("none/below"), std::string("/proc/self/none"), std::string("a\x01")}) {
    for (const std::vector<std::string>& line :
         {std::vector<std::string>{"simulate", file, "--device", "h200"},
          {"simulate", good, "--device", file + "/d.yaml"},
          {"simulate", good, "--device", "h200", "--profile", file},
          {"simulate", good, "--device", "h200", "-o", file + "/o"},
          {"simulate", good, "--device", "h200", "--trace", file + "/o"},
          {"inspect", file},
          {"run", good, "--token-ids", file},
          {"run", good, "--dump-logits", file + "/o"},
          {"store", "import", file, "--store", folder.file("s")},
          {"store", "list", "--store", file},
          {"store", "export", "--store", file},
          {"store", "clear", "--store", file}}) {
      CAPTURE(tcast::printable(tcast::join(line, " "), 500));
      const Run outcome = run(line);
      CHECK((outcome.status == 1 || (line[0] == "store" && outcome.status == 0)));
      CHECK(outcome.err.find("internal") == std::string::npos);
    }
  }
}

TEST_CASE("limits: what does not fit into memory is an error, not a bug") {
#if !defined(TCAST_SANITIZED)
  const Scratch folder;
  const std::string config = folder.write("c.json", with("num_hidden_layers", "9000"));
  const Cost cost =
      cost_of({"simulate", config, "--device", "h200", "--no-reuse-layers"}, folder, [] {
        const rlimit little{std::size_t{400} << 20, std::size_t{400} << 20};
        setrlimit(RLIMIT_AS, &little);
      });
  CHECK(cost.status == 1);
  CHECK(cost.err == "tcast: error: not enough memory\n");
#endif
}
