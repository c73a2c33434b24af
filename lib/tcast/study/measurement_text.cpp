#include "tcast/study/measurement_text.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/node.h"

namespace tcast {
namespace {

constexpr const char* nothing_hint = "nothing was imported";

/// The measurement of one line of JSON.
StoredMeasurement measurement_of(const Node& line) {
  constexpr std::int64_t most_int = std::numeric_limits<int>::max();
  constexpr std::int64_t most_time = std::numeric_limits<std::int64_t>::max();
  StoredMeasurement stored;
  stored.host = line.at("host").as_string();
  stored.op = line.at("op").as_string();
  stored.taken_at = line.at("taken_at").as_int(0, most_time);
  Measurement& m = stored.measurement;
  m.seconds = line.at("seconds").as_number();
  m.spread = line.at("spread").as_number();
  m.samples = static_cast<int>(line.at("samples").as_int(0, most_int));
  m.threads = static_cast<int>(line.at("threads").as_int(0, most_int));
  m.implementation = line.at("implementation").as_string();
  m.onednn_version = line.at("onednn").as_string();
  m.share = line.at("share").as_number();
  m.scaled = m.share < 1;
  m.error = line.at("error").as_number();
  m.budget_s = line.at("budget_s").as_number();
  m.substituted = line.at("substituted").as_string();
  m.unsupported = line.at("unsupported").as_string();
  m.stalled_share = line.at("stalled_share").as_number();
  m.pace.read_bytes_per_s = line.at("read_bytes_per_s").as_number();
  m.pace.f32_flops_per_s = line.at("f32_flops_per_s").as_number();
  m.pace.bf16_flops_per_s = line.at("bf16_flops_per_s").as_number();
  m.expected_s = line.at("expected_s").as_number();
  if (const std::string reason = unsound(stored); !reason.empty()) line.fail(reason);
  return stored;
}

}  // namespace

std::string measurements_text(const MeasurementStore& store) {
  std::string text;
  store.for_each([&text](const StoredMeasurement& stored) {
    if (!unsound(stored).empty()) return;
    const Measurement& m = stored.measurement;
    nlohmann::ordered_json line;
    line["host"] = stored.host;
    line["op"] = stored.op;
    line["taken_at"] = stored.taken_at;
    line["seconds"] = m.seconds;
    line["spread"] = m.spread;
    line["samples"] = m.samples;
    line["threads"] = m.threads;
    line["implementation"] = m.implementation;
    line["onednn"] = m.onednn_version;
    line["share"] = m.share;
    line["error"] = m.error;
    line["budget_s"] = m.budget_s;
    line["substituted"] = m.substituted;
    line["unsupported"] = m.unsupported;
    line["stalled_share"] = m.stalled_share;
    line["read_bytes_per_s"] = m.pace.read_bytes_per_s;
    line["f32_flops_per_s"] = m.pace.f32_flops_per_s;
    line["bf16_flops_per_s"] = m.pace.bf16_flops_per_s;
    line["expected_s"] = m.expected_s;
    text += line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
  });
  return text;
}

std::vector<StoredMeasurement> read_measurements(std::string_view text, const std::string& source) {
  std::vector<StoredMeasurement> list;
  int number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    try {
      if (line.size() > max_measurement_bytes) {
        throw Error(fmt::format("{}:{}: a line of {} bytes", printable(source, 4096), number,
                                format_grouped(static_cast<std::int64_t>(line.size()))));
      }
      list.push_back(measurement_of(Node::parse_json(line, source, number)));
    } catch (const Error& error) {
      throw Error(
          fmt::format("{}; expected a measurement as 'tcast store export' writes it", error.what()),
          error.hint().empty() ? nothing_hint : fmt::format("{}; {}", nothing_hint, error.hint()));
    }
  }
  return list;
}

}  // namespace tcast
