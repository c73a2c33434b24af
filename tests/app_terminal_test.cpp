// R10: whatever configs, profiles, devices, file names and plugins contain, a terminal that is
// shown the output of any command has nothing to obey. JSON and CSV stay as they are.
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tcast/base/text.h"

#include "command_runs.h"
#include "scratch.h"

namespace {

/// What terminals obey, or hide, or show in another order.
const std::vector<std::string>& attacks() {
  static const std::vector<std::string> list = {
      "\x1b[31m",          // colour
      "\x1b]0;title\x07",  // title of the window
      "\x1b[2J\x1b[H",     // clears the screen
      "\xC2\x9B"
      "31m",  // C1: the same in one character
      "\xE2\x80\xAE"
      "evil",              // right-to-left override
      "\xE2\x81\xA6",      // isolate
      "\xE2\x80\x8B",      // zero width
      "\r",                // overwrites the line
      "\b\b\b",            //
      "\x7f",              //
      "\xF3\xA0\x81\x81",  // tag letter
  };
  return list;
}

std::string json_escaped(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', true);  // with quotes
}

/// Line by line what printable() would leave as it is.
bool is_clean(std::string_view text) { return tcast::printable_lines(text) == text; }

}  // namespace

namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// Runs all commands on what contains the attacks; those that execute a model only if asked to.
void check_commands(const std::vector<std::string>& list, bool executed) {
  const Scratch folder;
  const std::string plain = folder.write("plain.json", tiny_config());
  int number = 0;
  for (const std::string& attack : list) {
    const std::string id = std::to_string(number++);
    const std::string type = folder.write(
        "type" + id + ".json", replaced(tiny_config(), "\"qwen3\"", json_escaped("x" + attack)));
    const std::string act =
        folder.write("act" + id + ".json", tiny_config(",\"hidden_act\":" + json_escaped(attack)));
    const std::string rope =
        folder.write("rope" + id + ".json",
                     tiny_config(",\"rope_scaling\":{\"rope_type\":" + json_escaped(attack) + "}"));
    const std::string key =
        folder.write("key" + id + ".json", tiny_config("," + json_escaped(attack) + ":1"));
    const std::string dtype = folder.write(
        "dtype" + id + ".json", replaced(tiny_config(), "\"bfloat16\"", json_escaped(attack)));
    const std::string quantized = folder.write(
        "quantized" + id + ".json",
        tiny_config(",\"quantization_config\":{\"quant_method\":" + json_escaped(attack) + "}"));
    const std::string named = folder.write("n" + attack + ".json", tiny_config());
    const std::string yaml = json_escaped("x" + attack);
    const std::string names =
        folder.write("names" + id + ".yaml",
                     "model_type: qwen3\narchitecture: {names: {q_proj: " + yaml + "}}\n");
    const std::string wrong =
        folder.write("wrong" + id + ".yaml", "model_type: qwen3\n" + yaml + ": 1\n");
    const std::string device =
        folder.write("device" + id + ".yaml", "name: " + yaml + "\ndescription: " + yaml + "\n");
    const std::string ids = folder.write("ids" + attack + ".txt", "1 2 " + attack + "\n");
    const std::vector<std::vector<std::string>> lines = {
        {"simulate", type, "--device", "h200"},
        {"simulate", type, "--device", "h200", "--assume-base", "qwen3"},
        {"inspect", type, "--assume-base", "qwen3"},
        {"inspect", type, "--assume-base", "qwen3", "--steps"},
        {"inspect", type, "--assume-base", "qwen3", "--diff"},
        {"run", type, "--assume-base", "qwen3", "--input-length", "2", "--output-length", "2"},
        {"verify", type, "--assume-base", "qwen3"},
        {"simulate", act, "--device", "h200"},
        {"simulate", rope, "--device", "h200"},
        {"simulate", key, "--device", "h200"},
        {"inspect", key},
        {"simulate", dtype, "--device", "h200"},
        {"simulate", quantized, "--device", "h200"},
        {"simulate", named, "--device", "h200"},
        {"simulate", named, "--device", "h200", "--assert", "tpot_s<0"},
        {"inspect", named},
        {"run", named, "--input-length", "2", "--output-length", "2"},
        {"verify", named},
        {"simulate", plain, "--device", "h200", "--profile", names},
        {"simulate", plain, "--device", "h200", "--profile", names, "--explain", "matmul"},
        {"inspect", plain, "--profile", names, "--steps"},
        {"run", plain, "--profile", names, "--input-length", "2", "--output-length", "2"},
        {"simulate", plain, "--device", "h200", "--profile", wrong},
        {"simulate", plain, "--device", device},
        {"run", plain, "--token-ids", ids},
        {"verify", plain, "--token-ids", ids},
        {"store", "list", "--store", folder.file("s" + attack)},
        {"store", "import", ids, "--store", folder.file("new.sqlite")},
        {"simulate", folder.file("none" + attack + ".json")},
        {"simulate", plain, "--device", "h200" + attack},
        {"simulate", plain, "--device", "h200", "--explain", attack},
        {"simulate", plain, "--device", "h200", "--assert", attack + "<1"},
        {"simulate", plain, "--device", "h200", "--quantize-ignore", attack},
        {"simulate", plain, "--device", "h200", "--custom-model", attack + "=x"},
        {"simulate", plain, "--device", "h200", "--" + attack},
        {"simulate", plain, "--device", "h200", "--tp", attack},
        {"simulate", plain, "--device", "h200", "-o", folder.file("no" + attack + "/out")},
        {"run", named, "--input-length", "2", "--output-length", "2", "--format", "json"},
        {"verify", named, "--format", "json"},
        {"inspect", named, "--format", "json"},
        {"inspect", named, "--steps", "--format", "json"},
        {"simulate", named, "--device", device, "--format", "json"},
        {"store", "list", "--format", "json", "--store", folder.file("s" + attack)},
        {"models", "explain", attack, "--format", "json"},
        {"models", "explain", attack},
        {"steps", "--plugins", attack},
        {attack},
    };
    for (const std::vector<std::string>& line : lines) {
      if (!executed && (line[0] == "run" || line[0] == "verify")) continue;
      CAPTURE(tcast::printable(attack));
      CAPTURE(tcast::printable(tcast::join(line, " "), 400));
      const Run outcome = run(line);
      CHECK(outcome.status != 70);
      CHECK(is_clean(outcome.out));
      CHECK(is_clean(outcome.err));
    }
    // Programs get the text itself.
    const Run json = run({"simulate", named, "--device", "h200", "--format", "json"});
    REQUIRE_MESSAGE(json.status == 0, json.err);
    CHECK(nlohmann::json::parse(json.out).at("inputs").at("config") == named);
    const Run csv = run({"simulate", named, "--device", "h200", "--format", "csv"});
    CHECK(csv.out.find(attack) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("terminal: no command lets an escape sequence through") {
  check_commands({attacks()[0]}, true);
  check_commands(attacks(), false);
}

TEST_CASE("terminal: no command lets anything through (heavy)" * doctest::skip()) {
  check_commands(attacks(), true);
}

TEST_CASE("terminal: a line feed in a value makes no line of its own") {
  const Scratch folder;
  const std::string lie = "x\ntcast: error: nothing to see";
  std::string text = tiny_config();
  text.replace(text.find("\"qwen3\""), 7, json_escaped(lie));
  const std::string type = folder.write("type.json", text);
  const std::string key = folder.write("key.json", tiny_config("," + json_escaped(lie) + ":1"));
  for (const std::vector<std::string>& line :
       {std::vector<std::string>{"simulate", type, "--device", "h200"},
        {"simulate", type, "--device", "h200", "--assume-base", "qwen3"},
        {"inspect", type, "--assume-base", "qwen3"},
        {"run", type, "--assume-base", "qwen3", "--input-length", "2", "--output-length", "2"},
        {"verify", type, "--assume-base", "qwen3"},
        {"simulate", key, "--device", "h200"},
        {"inspect", key}}) {
    CAPTURE(tcast::join(line, " "));
    const Run outcome = run(line);
    CHECK(outcome.out.find("\ntcast: error: nothing") == std::string::npos);
    CHECK(outcome.err.find("\ntcast: error: nothing") == std::string::npos);
  }
}
