#include <ctime>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/measurement_store.h"

#include "app/command.h"
#include "app/host_timing.h"
#include "app/options.h"
#include "app/output.h"
#include "app/table_text.h"

namespace tcast {
namespace {

/// "2026-11-22 06:10", UTC.
std::string minute_of(std::int64_t time) {
  if (time == 0) return "-";
  const auto seconds = static_cast<std::time_t>(time);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  return std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts) > 0 ? text : "-";
}

/// The whole of a file that may be of any size.
std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf()) || file.bad()) {
    // An empty file sets failbit: nothing was written.
    if (file.is_open() && std::filesystem::is_regular_file(path) &&
        std::filesystem::file_size(path) == 0) {
      return {};
    }
    throw Error(fmt::format("{} cannot be read", printable(path)),
                "name a file that 'tcast store export -o FILE' wrote");
  }
  return text.str();
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
    line.add_positional("FILE", to_text(source_), "what import reads: lines that export wrote",
                        false);
    line.add_option("--store", "FILE", to_text(store_.file),
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
    const bool exists = std::filesystem::exists(file);
    if (!exists && action_ != Action::import_all) {
      // Looking must not make one.
      const bool json = action_ == Action::list && output_.format == OutputFormat::json;
      write_result(output_.file,
                   action_ == Action::export_all ? std::string()
                   : json                        ? list_json({}, file, nullptr)
                          : fmt::format("{}: no measurements yet\n", printable(file)),
                   streams.out);
      return 0;
    }
    // Reading comes first: nothing is made for a source that is not there.
    const std::string text = action_ == Action::import_all ? read_text(source_) : std::string();
    MeasurementStore store(file);
    // Nobody wants half of what is there for the whole.
    if (action_ != Action::clear) {
      if (const std::string broken = store.check(); !broken.empty()) {
        throw Error(fmt::format("{} is damaged: {}", printable(file), printable(broken)),
                    "'tcast store clear' begins anew; what was measured is lost");
      }
    }
    std::string result;
    switch (action_) {
      case Action::list:
        result = output_.format == OutputFormat::json ? list_json(store.hosts(), file, &store)
                                                      : list_table(store, file);
        break;
      case Action::export_all:
        result = store.export_text();
        break;
      case Action::import_all:
        result = fmt::format("{} measurements imported into {}\n", store.import_text(text, source_),
                             printable(file));
        break;
      case Action::clear:
        result = fmt::format("{} measurements removed from {}\n", store.clear(), printable(file));
        break;
    }
    // What is no store may show when it is opened or only when it is read.
    if (!store.warning().empty()) streams.err << "tcast: warning: " << store.warning() << '\n';
    write_result(output_.file, result, streams.out);
    return 0;
  }

 private:
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
    return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
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
