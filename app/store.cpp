#include <ctime>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/base/text.h"
#include "tcast/exec/timing/measurement_store.h"
#include "tcast/report/json_text.h"
#include "tcast/report/text_table.h"
#include "tcast/study/host_timing.h"
#include "tcast/study/measurement_text.h"

#include "app/command.h"
#include "app/environment.h"
#include "app/options.h"
#include "app/output.h"

namespace tcast {
namespace {

/// "2026-11-22 06:10", UTC.
std::string minute_of(std::int64_t time) {
  if (time == 0) return "-";
  const auto seconds = static_cast<std::time_t>(time);
  std::tm parts{};
  char text[32];
  if (gmtime_r(&seconds, &parts) == nullptr) return "-";
  return std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts) > 0 ? text : "-";
}

enum class Action { list, export_all, import_all, clear };
const std::vector<std::string> action_names = {"list", "export", "import", "clear"};

class StoreCommand final : public Command {
 public:
  void declare(CommandLine& line) override {
    line.add_positional(
        "ACTION",
        [this](const std::string& text) {
          action_ = static_cast<Action>(find_choice(text, action_names));
        },
        "list, export, import or clear");
    line.add_positional({"FILE", FileUse::reads}, to_text(source_),
                        "what import reads: lines that export wrote", false);
    line.add_option("--store", {"FILE", FileUse::updates, default_store_file()},
                    to_text(store_.file),
                    "the store; default measurements.sqlite in the user's cache directory");
    line.add_flag("--ops", ops_, "list every measurement, not only how many there are");
    add_output_options(line, output_, {OutputFormat::table, OutputFormat::json});
    line.add_check([this, &line] {
      if (action_ == Action::import_all && source_.empty()) {
        throw Error("import takes the FILE to read", "tcast store import FILE");
      }
      if (action_ != Action::import_all && !source_.empty()) {
        throw Error(fmt::format("only import takes a FILE, found '{}'", printable(source_)),
                    "--store FILE names another store, -o FILE where the result goes");
      }
      for (const char* name : {"--ops", "--format"}) {
        if (!line.given(name) || action_ == Action::list) continue;
        throw Error(fmt::format("{} is for list", name), "leave it out");
      }
    });
    line.set_example(
        "  $ tcast store list\n"
        "  $ tcast store export -o timings.jsonl\n"
        "  $ tcast store import timings.jsonl --store other.sqlite\n");
  }

  int run(Streams streams) override {
    const std::string file = store_.file.empty() ? default_store_file() : store_.file;
    if (file.empty()) {
      throw Error("no store: neither XDG_CACHE_HOME nor HOME names a directory",
                  "name one with --store FILE");
    }
    switch (action_) {
      case Action::list:
        write_result(output_, list(file), streams);
        break;
      case Action::export_all: {
        const auto store = look_at(file);
        write_data(output_.file, store ? measurements_text(*store) : std::string(), streams);
        break;
      }
      case Action::import_all: {
        // Reading comes first: nothing is made for a source that is not there.
        const std::vector<StoredMeasurement> measurements = read_measurements(
            read_file(source_, max_measurements_bytes, "import it in several parts"), source_);
        look_at(file);
        MeasurementStore store(file);
        store.put_all(measurements);
        finish(store,
               fmt::format("{} measurements imported into {}\n", measurements.size(),
                           printable(file, 4096)),
               streams);
        break;
      }
      case Action::clear: {
        if (state_of_store(file) == StoreState::absent) {
          write_text(output_.file, no_measurements(file), streams);
          break;
        }
        MeasurementStore store(file);
        finish(
            store,
            fmt::format("{} measurements removed from {}\n", store.clear(), printable(file, 4096)),
            streams);
        break;
      }
    }
    return 0;
  }

 private:
  static std::string no_measurements(const std::string& file) {
    return fmt::format("{}: no measurements yet\n", printable(file, 4096));
  }

  /// The store in the file, or nothing where there is none yet: looking makes none. Throws Error
  /// for a damaged one, because nobody wants half of what is there for the whole.
  static std::unique_ptr<const MeasurementStore> look_at(const std::string& file) {
    if (state_of_store(file) == StoreState::absent) return nullptr;
    auto store = std::make_unique<const MeasurementStore>(file, MeasurementStore::Use::look);
    store->require_sound();
    return store;
  }

  void finish(const MeasurementStore& store, const std::string& result, Streams streams) {
    if (!store.warning().empty()) say(streams.err, "warning", store.warning());
    write_text(output_.file, result, streams);
  }

  std::string list(const std::string& file) const {
    const auto store = look_at(file);
    if (output_.format == OutputFormat::json) {
      return list_json(store ? store->hosts() : std::vector<StoredHost>(), file, store.get());
    }
    return store ? list_table(*store, file) : no_measurements(file);
  }

  std::string list_table(const MeasurementStore& store, const std::string& file) const {
    std::string text = fmt::format("{}\n\n", printable(file));
    std::vector<std::vector<std::string>> rows = {{"ops", "newest (UTC)", "memory reads", "host"}};
    for (const StoredHost& host : store.hosts()) {
      rows.push_back({std::to_string(host.measurements), minute_of(host.newest),
                      host.session
                          ? fmt::format("{:.1f} GB/s", host.session->speed.read_bytes_per_s / 1e9)
                          : "-",
                      printable(host.host, 400)});
    }
    text += table_text(rows);
    if (!ops_) return text;
    std::string host;
    std::vector<std::vector<std::string>> ops;
    const auto finish = [&] {
      if (!ops.empty()) text += fmt::format("\n{}\n\n{}", printable(host, 400), table_text(ops));
    };
    store.for_each([&](const StoredMeasurement& stored) {
      if (ops.empty() || stored.host != host) {
        finish();
        host = stored.host;
        ops = {{"time", "spread", "samples", "of its work", "taken (UTC)", "kernel", "op"}};
      }
      const Measurement& m = stored.measurement;
      ops.push_back({m.supported() ? format_seconds(m.seconds) : "-",
                     fmt::format("{:.1f} %", 100 * m.spread), std::to_string(m.samples),
                     fmt::format("{:.1f} %", 100 * m.share), minute_of(stored.taken_at),
                     printable(m.supported() ? m.implementation : m.unsupported),
                     printable(stored.op, 400)});
    });
    finish();
    return text;
  }

  std::string list_json(const std::vector<StoredHost>& hosts, const std::string& file,
                        const MeasurementStore* store) const {
    using Json = nlohmann::ordered_json;
    Json list = Json::array();
    for (const StoredHost& host : hosts) {
      Json one = {{"host", host.host}, {"ops", host.measurements}, {"newest", host.newest}};
      one["read_bytes_per_s"] = host.session ? Json(host.session->speed.read_bytes_per_s) : Json();
      list.push_back(std::move(one));
    }
    Json json = {{"schema", 1}, {"store", file}, {"hosts", std::move(list)}};
    if (ops_) {
      json["ops"] = Json::array();
      if (store != nullptr) {
        store->for_each([&json](const StoredMeasurement& stored) {
          json["ops"].push_back({{"host", stored.host},
                                 {"op", stored.op},
                                 {"seconds", stored.measurement.seconds},
                                 {"spread", stored.measurement.spread},
                                 {"samples", stored.measurement.samples},
                                 {"implementation", stored.measurement.implementation},
                                 {"unsupported", stored.measurement.unsupported},
                                 {"taken_at", stored.taken_at}});
        });
      }
    }
    return json_document(json, 1);
  }

  Action action_ = Action::list;
  std::string source_;
  StoreInputs store_;
  bool ops_ = false;
  OutputInputs output_;
};

}  // namespace

constinit const CommandInfo store_command = {"store", "the measurements of this host that are kept",
                                             make_command<StoreCommand>};

}  // namespace tcast
