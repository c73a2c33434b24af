#include "tcast/exec/measurement_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

namespace fs = std::filesystem;

/// "tcas": how a file tells that it is a store.
constexpr int application_id = 0x74636173;
/// Of the tables below; a file with another one is set aside.
constexpr int layout_version = 1;
/// Other processes hold the file for milliseconds only.
constexpr int busy_ms = 10'000;
/// What a kill may cost at most, in time of measuring.
constexpr double flush_every_s = 0.5;

constexpr const char* tables[] = {
    "CREATE TABLE host(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, "
    "read_bytes_per_s REAL, f32_flops_per_s REAL, bf16_flops_per_s REAL, canary_drift REAL, "
    "others_cpu_share REAL)",
    "CREATE TABLE measurement(host INTEGER NOT NULL REFERENCES host(id), op TEXT NOT NULL, "
    "taken_at INTEGER NOT NULL, seconds REAL NOT NULL, spread REAL NOT NULL, "
    "samples INTEGER NOT NULL, threads INTEGER NOT NULL, implementation TEXT NOT NULL, "
    "onednn TEXT NOT NULL, share REAL NOT NULL, error REAL NOT NULL, budget_s REAL NOT NULL, "
    "substituted TEXT NOT NULL, unsupported TEXT NOT NULL, PRIMARY KEY(host, op)) WITHOUT ROWID",
};

constexpr const char* store_hint = "choose another file with --store, or --no-store";

/// Why a file cannot serve as a store although it could be opened.
struct Unusable {
  std::string reason;
};

/// A prepared statement, bound and stepped through in order.
class Statement {
 public:
  Statement(sqlite3* db, const std::string& sql) : db_(db) {
    check(sqlite3_prepare_v2(db, sql.c_str(), -1, &statement_, nullptr));
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  template <class... Values>
  Statement& bind(const Values&... values) {
    sqlite3_reset(statement_);
    int place = 0;
    (check(bind_one(++place, values)), ...);
    return *this;
  }
  /// True while there is a row.
  bool step() {
    const int result = sqlite3_step(statement_);
    if (result == SQLITE_ROW) return true;
    const bool done = result == SQLITE_DONE;
    if (!done) check(result);
    sqlite3_reset(statement_);
    return false;
  }
  std::string text(int column) const {
    const unsigned char* found = sqlite3_column_text(statement_, column);
    const auto length = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
    return found == nullptr ? std::string()
                            : std::string(reinterpret_cast<const char*>(found), length);
  }
  double real(int column) const { return sqlite3_column_double(statement_, column); }
  std::int64_t whole(int column) const { return sqlite3_column_int64(statement_, column); }
  bool is_null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

 private:
  int bind_one(int place, std::string_view text) {
    return sqlite3_bind_text(statement_, place, text.data(), static_cast<int>(text.size()),
                             SQLITE_TRANSIENT);
  }
  int bind_one(int place, double value) { return sqlite3_bind_double(statement_, place, value); }
  int bind_one(int place, std::int64_t value) {
    return sqlite3_bind_int64(statement_, place, value);
  }
  void check(int result) const {
    if (result == SQLITE_OK || result == SQLITE_DONE || result == SQLITE_ROW) return;
    if (result == SQLITE_NOTADB || result == SQLITE_CORRUPT) throw Unusable{sqlite3_errmsg(db_)};
    throw Error(fmt::format("{}: {}", sqlite3_db_filename(db_, "main"), sqlite3_errmsg(db_)),
                store_hint);
  }

  sqlite3* db_;
  sqlite3_stmt* statement_ = nullptr;
};

Measurement measurement_of(const Statement& row, int column) {
  Measurement m;
  m.seconds = row.real(column);
  m.spread = row.real(column + 1);
  m.samples = static_cast<int>(row.whole(column + 2));
  m.threads = static_cast<int>(row.whole(column + 3));
  m.implementation = row.text(column + 4);
  m.onednn_version = row.text(column + 5);
  m.share = row.real(column + 6);
  m.scaled = m.share < 1;
  m.error = row.real(column + 7);
  m.budget_s = row.real(column + 8);
  m.substituted = row.text(column + 9);
  m.unsupported = row.text(column + 10);
  return m;
}

/// What session_of() reads, in its order.
const std::string session_columns =
    "read_bytes_per_s, f32_flops_per_s, bf16_flops_per_s, canary_drift, others_cpu_share";

std::optional<StoredSession> session_of(const Statement& row, int column) {
  if (row.is_null(column)) return std::nullopt;
  StoredSession session;
  session.speed.read_bytes_per_s = row.real(column);
  session.speed.f32_flops_per_s = row.real(column + 1);
  session.speed.bf16_flops_per_s = row.real(column + 2);
  session.canary_drift = row.real(column + 3);
  session.others_cpu_share = row.real(column + 4);
  return session;
}

/// What measurement_of() reads, in its order.
const std::string columns =
    "seconds, spread, samples, threads, implementation, onednn, share, error, budget_s, "
    "substituted, unsupported";

}  // namespace

class MeasurementStore::Impl {
 public:
  explicit Impl(std::string path) : path_(std::move(path)) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    try {
      if (db_ != nullptr) flush();
    } catch (...) {
      // Measurements can be taken again.
    }
    close();
  }

  const std::string& path() const { return path_; }

  /// Runs a body; when SQLite finds the file broken on the way, once more with a new file.
  template <class Body>
  auto use(const Body& body) {
    try {
      try {
        return body();
      } catch (const Unusable& found) {
        renew(found.reason);
        return body();
      }
    } catch (const Unusable& found) {
      throw Error(fmt::format("{}: {}", printable(path_), found.reason), store_hint);
    }
  }

  void open() {
    std::error_code error;
    const fs::path folder = fs::path(path_).parent_path();
    if (!folder.empty()) fs::create_directories(folder, error);
    if (error) {
      throw Error(fmt::format("{}: {}", printable(folder.string()), error.message()), store_hint);
    }
    use([this] { open_file(); });
  }

  const std::string& warning() const { return warning_; }

  void close() {
    if (db_ == nullptr) return;
    find_.reset();
    put_.reset();
    sqlite3_close(db_);
    db_ = nullptr;
  }

  std::optional<Measurement> find(std::string_view host, std::string_view op) {
    const auto pending = std::find_if(pending_.rbegin(), pending_.rend(), [&](const auto& stored) {
      return stored.host == host && stored.op == op;
    });
    if (pending != pending_.rend()) return pending->measurement;
    if (!find_) {
      find_ = std::make_unique<Statement>(
          db_, "SELECT " + columns +
                   " FROM measurement WHERE host = (SELECT id FROM host WHERE key = ?) AND op = ?");
    }
    find_->bind(host, op);
    if (!find_->step()) return std::nullopt;
    Measurement found = measurement_of(*find_, 0);
    find_->step();  // to its end, so that it holds no lock
    return found;
  }

  /// Keeps it in memory until the next flush: the file is never locked while something is timed.
  void put(StoredMeasurement stored) {
    pending_.push_back(std::move(stored));
    if (now_s() - flushed_s_ > flush_every_s) flush();
  }

  void flush() {
    flushed_s_ = now_s();
    if (pending_.empty()) return;
    change([&] {
      for (const StoredMeasurement& stored : pending_) write(stored);
    });
    pending_.clear();
  }

  /// Runs a body in a transaction.
  template <class Body>
  void change(const Body& body) {
    run("BEGIN IMMEDIATE");
    try {
      body();
      run("COMMIT");
    } catch (...) {
      // SQLite may have done so itself.
      sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
      throw;
    }
  }

  void write(const StoredMeasurement& stored) {
    const std::int64_t id = host_id(stored.host);
    if (!put_) {
      put_ = std::make_unique<Statement>(
          db_, "INSERT OR REPLACE INTO measurement(host, op, taken_at, " + columns +
                   ") VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
    }
    const Measurement& m = stored.measurement;
    put_->bind(id, std::string_view(stored.op), stored.taken_at, m.seconds, m.spread,
               std::int64_t{m.samples}, std::int64_t{m.threads}, std::string_view(m.implementation),
               std::string_view(m.onednn_version), m.share, m.error, m.budget_s,
               std::string_view(m.substituted), std::string_view(m.unsupported));
    put_->step();
  }

  std::int64_t host_id(std::string_view host) {
    Statement insert(db_, "INSERT OR IGNORE INTO host(key) VALUES(?)");
    insert.bind(host);
    insert.step();
    Statement select(db_, "SELECT id FROM host WHERE key = ?");
    select.bind(host);
    TCAST_CHECK(select.step(), "a host that was just stored");
    return select.whole(0);
  }

  void run(const std::string& sql) {
    Statement statement(db_, sql);
    while (statement.step()) {
    }
  }

  std::int64_t number(const std::string& sql) {
    Statement statement(db_, sql);
    return statement.step() ? statement.whole(0) : 0;
  }

  sqlite3* db() const { return db_; }

 private:
  void open_file() {
    if (db_ != nullptr) return;  // renew() has done it
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    const int result = sqlite3_open_v2(path_.c_str(), &db_, flags, nullptr);
    if (result != SQLITE_OK) {
      const std::string reason = db_ != nullptr ? sqlite3_errmsg(db_) : "no memory";
      sqlite3_close(db_);
      db_ = nullptr;
      throw Error(fmt::format("{}: {}", printable(path_), reason), store_hint);
    }
    sqlite3_busy_timeout(db_, busy_ms);
    if (is_store()) return;
    change([this] {
      if (is_store()) return;  // another process was faster
      if (number("PRAGMA application_id") == application_id) {
        throw Unusable{"it was made by another version"};
      }
      if (number("SELECT count(*) FROM sqlite_schema") > 0 ||
          number("PRAGMA application_id") != 0) {
        throw Unusable{"it is another program's database"};
      }
      for (const char* table : tables) run(table);
      run(fmt::format("PRAGMA application_id = {}", application_id));
      run(fmt::format("PRAGMA user_version = {}", layout_version));
    });
  }

  bool is_store() {
    return number("PRAGMA application_id") == application_id &&
           number("PRAGMA user_version") == layout_version;
  }

  /// Begins a new file in the place of one that is not usable.
  void renew(const std::string& reason) {
    close();
    const std::string aside = set_aside();
    warning_ =
        fmt::format("{} is no sound measurement store of this version ({}); it was renamed to {}",
                    printable(path_), reason, printable(aside));
    open_file();
  }

  /// Renames the file, and what SQLite keeps beside it; returns the new name.
  std::string set_aside() const {
    std::string name;
    for (int i = 1;; ++i) {
      name = fmt::format("{}.set-aside-{}", path_, i);
      if (!fs::exists(name)) break;
    }
    std::error_code error;
    fs::rename(path_, name, error);
    if (error) {
      throw Error(fmt::format("{} is no measurement store, and cannot be renamed: {}",
                              printable(path_), error.message()),
                  store_hint);
    }
    for (const char* suffix : {"-journal", "-wal", "-shm"}) {
      fs::rename(path_ + suffix, name + suffix, error);
    }
    return name;
  }

  std::string path_;
  std::string warning_;
  sqlite3* db_ = nullptr;
  std::unique_ptr<Statement> find_;
  std::unique_ptr<Statement> put_;
  std::vector<StoredMeasurement> pending_;
  double flushed_s_ = now_s();
};

MeasurementStore::MeasurementStore(const std::string& path) : impl_(std::make_unique<Impl>(path)) {
  impl_->open();
}
MeasurementStore::~MeasurementStore() = default;

const std::string& MeasurementStore::warning() const { return impl_->warning(); }
const std::string& MeasurementStore::path() const { return impl_->path(); }

std::optional<Measurement> MeasurementStore::find(std::string_view host,
                                                  std::string_view op) const {
  return impl_->use([&] { return impl_->find(host, op); });
}

void MeasurementStore::put(std::string_view host, std::string_view op,
                           const Measurement& measurement) {
  impl_->use([&] {
    impl_->put({std::string(host), std::string(op), measurement, std::time(nullptr)});
  });
}

void MeasurementStore::flush() {
  impl_->use([&] { impl_->flush(); });
}

std::optional<StoredSession> MeasurementStore::session(std::string_view host) const {
  return impl_->use([&] {
    Statement row(impl_->db(), "SELECT " + session_columns + " FROM host WHERE key = ?");
    row.bind(host);
    return row.step() ? session_of(row, 0) : std::nullopt;
  });
}

void MeasurementStore::put_session(std::string_view host, const StoredSession& session) {
  impl_->use([&] {
    impl_->change([&] {
      const std::int64_t id = impl_->host_id(host);
      Statement update(impl_->db(),
                       "UPDATE host SET (" + session_columns + ") = (?, ?, ?, ?, ?) WHERE id = ?");
      update.bind(session.speed.read_bytes_per_s, session.speed.f32_flops_per_s,
                  session.speed.bf16_flops_per_s, session.canary_drift, session.others_cpu_share,
                  id);
      update.step();
    });
  });
}

std::vector<StoredHost> MeasurementStore::hosts() const {
  return impl_->use([&] {
    impl_->flush();
    std::vector<StoredHost> list;
    Statement row(impl_->db(), "SELECT key, count(op), coalesce(max(taken_at), 0), " +
                                   session_columns +
                                   " FROM host LEFT JOIN measurement ON measurement.host = host.id "
                                   "GROUP BY host.id ORDER BY key");
    while (row.step()) {
      list.push_back({row.text(0), row.whole(1), row.whole(2), session_of(row, 3)});
    }
    return list;
  });
}

void MeasurementStore::for_each(const std::function<void(const StoredMeasurement&)>& visit) const {
  impl_->use([&] {
    impl_->flush();
    Statement row(impl_->db(), "SELECT key, op, taken_at, " + columns +
                                   " FROM measurement JOIN host ON host.id = measurement.host "
                                   "ORDER BY key, op");
    while (row.step()) visit({row.text(0), row.text(1), measurement_of(row, 3), row.whole(2)});
  });
}

std::string MeasurementStore::export_text() const {
  std::string text;
  for_each([&text](const StoredMeasurement& stored) {
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
    text += line.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
  });
  return text;
}

std::int64_t MeasurementStore::import_text(std::string_view text, std::string_view source) {
  std::vector<StoredMeasurement> list;
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    try {
      const auto json = nlohmann::json::parse(line, nullptr, false);
      if (json.is_discarded()) throw Error("it is not JSON");
      StoredMeasurement& stored = list.emplace_back();
      stored.host = json.at("host").get<std::string>();
      stored.op = json.at("op").get<std::string>();
      stored.taken_at = json.at("taken_at").get<std::int64_t>();
      Measurement& m = stored.measurement;
      m.seconds = json.at("seconds").get<double>();
      m.spread = json.at("spread").get<double>();
      m.samples = json.at("samples").get<int>();
      m.threads = json.at("threads").get<int>();
      m.implementation = json.at("implementation").get<std::string>();
      m.onednn_version = json.at("onednn").get<std::string>();
      m.share = json.at("share").get<double>();
      m.error = json.at("error").get<double>();
      m.budget_s = json.at("budget_s").get<double>();
      m.substituted = json.at("substituted").get<std::string>();
      m.unsupported = json.at("unsupported").get<std::string>();
      const bool timed = m.unsupported.empty();
      if (stored.host.empty() || stored.op.empty()) throw Error("it has no host or no op");
      if (!std::isfinite(m.seconds) || !(timed ? m.seconds > 0 : m.seconds >= 0)) {
        throw Error(fmt::format("{} seconds are no time", m.seconds));
      }
      if (!(m.share > 0 && m.share <= 1)) {
        throw Error(fmt::format("share is above 0 and at most 1, got {}", m.share));
      }
    } catch (const std::exception& error) {
      throw Error(fmt::format("{}:{}: expected a measurement as 'tcast store export' writes it: {}",
                              printable(source), number, printable(error.what())),
                  "nothing was imported");
    }
  }
  impl_->use([&] {
    impl_->change([&] {
      for (const StoredMeasurement& stored : list) impl_->write(stored);
    });
  });
  return static_cast<std::int64_t>(list.size());
}

std::int64_t MeasurementStore::clear() {
  return impl_->use([&] {
    impl_->flush();
    std::int64_t measurements = 0;
    impl_->change([&] {
      measurements = impl_->number("SELECT count(*) FROM measurement");
      impl_->run("DELETE FROM measurement");
      impl_->run("DELETE FROM host");
    });
    return measurements;
  });
}

std::string MeasurementStore::check() const {
  return impl_->use([&] {
    Statement row(impl_->db(), "PRAGMA integrity_check(1)");
    std::string found = row.step() ? row.text(0) : std::string();
    std::replace(found.begin(), found.end(), '\n', ' ');
    return found == "ok" ? std::string() : found;
  });
}

MeasurementStore::Turn::~Turn() {
  if (file_ >= 0) ::close(file_);
}

MeasurementStore::Turn MeasurementStore::take_turn(const std::function<void()>& waits) const {
  const std::string name = path() + ".turn";
  const int file = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) {
    throw Error(fmt::format("{}: {}", printable(name), std::strerror(errno)), store_hint);
  }
  Turn turn(file);
  while (::flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) break;  // no locks here: then there are no turns
    if (waits) waits();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return turn;
}

}  // namespace tcast
