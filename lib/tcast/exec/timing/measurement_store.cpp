#include "tcast/exec/timing/measurement_store.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/base/file.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

namespace fs = std::filesystem;

/// "tcas": how a file tells that it is a store.
constexpr std::int32_t application_id = 0x74636173;
/// Of the tables below.
constexpr std::int32_t layout_version = 2;
/// Other processes hold the file for milliseconds only.
constexpr int busy_ms = 10'000;
/// What a kill may cost at most, in time of measuring.
constexpr double flush_every_s = 0.5;

constexpr const char* tables[] = {
    "CREATE TABLE host(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, "
    "read_bytes_per_s REAL, f32_flops_per_s REAL, bf16_flops_per_s REAL, canary_drift REAL, "
    "others_cpu_share REAL, best_read_bytes_per_s REAL, best_f32_flops_per_s REAL, "
    "best_bf16_flops_per_s REAL)",
    "CREATE TABLE measurement(host INTEGER NOT NULL REFERENCES host(id), op TEXT NOT NULL, "
    "taken_at INTEGER NOT NULL, seconds REAL NOT NULL, spread REAL NOT NULL, "
    "samples INTEGER NOT NULL, threads INTEGER NOT NULL, implementation TEXT NOT NULL, "
    "onednn TEXT NOT NULL, share REAL NOT NULL, error REAL NOT NULL, budget_s REAL NOT NULL, "
    "substituted TEXT NOT NULL, unsupported TEXT NOT NULL, stalled_share REAL NOT NULL, "
    "read_bytes_per_s REAL NOT NULL, f32_flops_per_s REAL NOT NULL, "
    "bf16_flops_per_s REAL NOT NULL, expected_s REAL NOT NULL, PRIMARY KEY(host, op)) "
    "WITHOUT ROWID",
};

constexpr const char* store_hint = "choose another file with --store, or --no-store";
/// How often a store is opened anew while other processes rename it.
constexpr int most_attempts = 10;

[[noreturn]] void fail_store(const std::string& path, std::string_view reason) {
  throw Error(fmt::format("{}: {}", printable(path, 4096), reason), store_hint);
}

[[noreturn]] void fail_system(const std::string& path, int reason) {
  fail_store(path, std::generic_category().message(reason));
}

/// A store of this program that cannot serve: damaged, or older.
struct Unusable {
  std::string reason;
};

/// The name of the open file now belongs to another one, or to none.
struct Moved {};

bool has_moved(sqlite3* db) {
  int moved = 0;
  return sqlite3_file_control(db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK &&
         moved != 0;
}

/// An open file, closed at the end.
class Descriptor {
 public:
  explicit Descriptor(int descriptor = -1) : descriptor_(descriptor) {}
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int number() const { return descriptor_; }

 private:
  int descriptor_;
};

/// What processes agree on by locks on single bytes of the file that stands beside a store, because
/// those on the store itself are SQLite's.
enum class Agreement : std::uint8_t {
  turn,  ///< exclusive: times ops
  name,  ///< shared: uses the store under its name; exclusive: gives the name to another file
};

/// The system releases a lock when its holder ends, or closes the file. False: somebody else has
/// it, or, with errno other than EAGAIN and EACCES, the file system has no locks.
bool lock_byte(int file, Agreement what, short type, bool waits) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(what);
  lock.l_len = 1;
  int result = 0;
  do {
    // Of the open file, not of the process: another store of this process has its own.
    result = fcntl(file, waits ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

/// Holds a lock on the name of a store. Without a lock file there is none: the folder cannot be
/// written, and nobody renames anything there.
class NameLock {
 public:
  NameLock(const Descriptor& file, short type) : file_(file.number()) {
    is_refused_ = file_ >= 0 && !lock_byte(file_, Agreement::name, type, true) && errno == EBADF;
  }
  NameLock(const NameLock&) = delete;
  NameLock& operator=(const NameLock&) = delete;
  ~NameLock() {
    if (file_ >= 0) lock_byte(file_, Agreement::name, F_UNLCK, false);
  }

  /// An exclusive lock on a file that this user must not write.
  bool is_refused() const { return is_refused_; }

 private:
  int file_;
  bool is_refused_;
};

std::string lock_file_of(const std::string& path) { return path + ".lock"; }

std::int32_t big_endian(const unsigned char* bytes) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | bytes[i];
  return static_cast<std::int32_t>(value);
}

/// A prepared statement, bound and stepped through in order.
class Statement {
 public:
  Statement(sqlite3* db, const std::string& sql) : db_(db) {
    const int result = sqlite3_prepare_v2(db, sql.c_str(), -1, &statement_, nullptr);
    // Our own SQL is right: it is the tables that are not those of a store.
    if (result == SQLITE_ERROR) throw Unusable{sqlite3_errmsg(db)};
    check(result);
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
    const std::string reason = sqlite3_errmsg(db_);
    if (has_moved(db_)) throw Moved{};
    fail_store(sqlite3_db_filename(db_, "main"), reason);
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
  m.stalled_share = row.real(column + 11);
  m.pace = {row.real(column + 12), row.real(column + 13), row.real(column + 14)};
  m.expected_s = row.real(column + 15);
  return m;
}

/// What session_of() reads, in its order.
const std::string session_columns =
    "host.read_bytes_per_s, host.f32_flops_per_s, host.bf16_flops_per_s, canary_drift, "
    "others_cpu_share, best_read_bytes_per_s, best_f32_flops_per_s, best_bf16_flops_per_s";

std::optional<StoredSession> session_of(const Statement& row, int column) {
  if (row.is_null(column)) return std::nullopt;
  StoredSession session;
  session.speed.read_bytes_per_s = row.real(column);
  session.speed.f32_flops_per_s = row.real(column + 1);
  session.speed.bf16_flops_per_s = row.real(column + 2);
  session.canary_drift = row.real(column + 3);
  session.others_cpu_share = row.real(column + 4);
  session.best_pace = {row.real(column + 5), row.real(column + 6), row.real(column + 7)};
  const auto is_rate = [](double value) { return value >= 0 && std::isfinite(value); };
  const HostSpeed& speed = session.speed;
  const bool sound = speed.read_bytes_per_s > 0 && is_rate(speed.read_bytes_per_s) &&
                     is_rate(speed.f32_flops_per_s) && is_rate(speed.bf16_flops_per_s) &&
                     is_rate(session.canary_drift) && is_rate(session.others_cpu_share) &&
                     is_rate(session.best_pace.read_bytes_per_s) &&
                     is_rate(session.best_pace.f32_flops_per_s) &&
                     is_rate(session.best_pace.bf16_flops_per_s);
  return sound ? std::optional(session) : std::nullopt;
}

/// What measurement_of() reads, in its order.
const std::string columns =
    "seconds, spread, samples, threads, implementation, onednn, share, error, budget_s, "
    "substituted, unsupported, stalled_share, measurement.read_bytes_per_s, "
    "measurement.f32_flops_per_s, measurement.bf16_flops_per_s, expected_s";

}  // namespace

std::string unsound(const StoredMeasurement& stored) {
  const Measurement& m = stored.measurement;
  constexpr double longest_s = 1e9;
  constexpr std::int64_t latest = 253402300799;  // the end of the year 9999
  const auto within = [](double value, double least, double most) {
    return value >= least && value <= most;  // and so no NaN
  };
  if (stored.host.empty() || stored.op.empty()) return "it has no host or no op";
  const bool timed = m.unsupported.empty();
  if (!within(m.seconds, 0, longest_s) || (timed && m.seconds == 0)) {
    return fmt::format("{} seconds are no time", m.seconds);
  }
  if (!within(m.share, 0, 1) || m.share == 0) {
    return fmt::format("share is above 0 and at most 1, got {}", m.share);
  }
  if (!within(m.spread, 0, longest_s) || !within(m.error, 0, longest_s) ||
      !within(m.budget_s, 0, longest_s)) {
    return fmt::format("spread {}, error {} and budget_s {} are 0 to 1e9", m.spread, m.error,
                       m.budget_s);
  }
  constexpr double fastest = 1e18;
  if (!within(m.stalled_share, 0, 1) || !within(m.expected_s, 0, longest_s) ||
      !within(m.pace.read_bytes_per_s, 0, fastest) || !within(m.pace.f32_flops_per_s, 0, fastest) ||
      !within(m.pace.bf16_flops_per_s, 0, fastest)) {
    return fmt::format("stalled_share {} is at most 1, expected_s {} at most 1e9, speeds 1e18",
                       m.stalled_share, m.expected_s);
  }
  if (m.samples < 0 || m.threads < 0) return "it has less than no samples or threads";
  if (stored.taken_at < 0 || stored.taken_at > latest) {
    return fmt::format("{} is no second of the years 1970 to 9999", stored.taken_at);
  }
  return {};
}

StoreState state_of_store(const std::string& path) {
  // Of a database's first page: https://www.sqlite.org/fileformat2.html#the_database_header
  constexpr std::size_t header_bytes = 100;
  constexpr std::string_view magic("SQLite format 3\0", 16);
  constexpr std::size_t version_at = 60;
  constexpr std::size_t application_at = 68;

  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return StoreState::absent;
    fail_system(path, errno);
  }
  if (!S_ISREG(status.st_mode)) return StoreState::foreign;
  // Closing it gives up this process's locks on the file: nobody holds one across a call.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (file.number() < 0) {
    if (errno == ENOENT) return StoreState::absent;
    fail_system(path, errno);
  }
  unsigned char header[header_bytes];
  const ssize_t size = pread(file.number(), header, header_bytes, 0);
  if (size < 0) fail_system(path, errno);
  if (size == 0) return StoreState::absent;
  if (static_cast<std::size_t>(size) < header_bytes ||
      std::memcmp(header, magic.data(), magic.size()) != 0 ||
      big_endian(header + application_at) != application_id) {
    return StoreState::foreign;
  }
  const std::int32_t version = big_endian(header + version_at);
  if (version == layout_version) return StoreState::usable;
  if (version <= 0) return StoreState::damaged;
  return version > layout_version ? StoreState::newer : StoreState::older;
}

class MeasurementStore::Impl {
 public:
  /// What stands beside the file is beside what a link leads to, as SQLite has it.
  Impl(const std::string& path, Use use) : path_(follow_links(path)), use_(use) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  const std::string& path() const { return path_; }

  /// Runs a body; when the file turns out to be broken on the way, once more with a new file, and
  /// when another process has put one in its place, once more with that.
  template <class Body>
  auto use(const Body& body) {
    for (int attempt = 0; attempt < most_attempts; ++attempt) {
      try {
        prepare();
        const NameLock lock(lock_file_, F_RDLCK);
        open_file();
        if (has_moved(db_)) throw Moved{};
        return body();
      } catch (const Moved&) {
        close();
      } catch (const Unusable& found) {
        begin_anew(found.reason);
      }
    }
    fail_store(path_, "other processes rename or remove it again and again");
  }

  ~Impl() {
    try {
      if (!pending_.empty()) use([this] { flush(); });
    } catch (...) {
      // Measurements can be taken again.
    }
    close();
  }

  void open() {
    use([] {});
  }

  const std::string& warning() const { return warning_; }

  void close() {
    find_.reset();
    put_.reset();
    sqlite3_close(db_);
    db_ = nullptr;
    // The folder may have been removed, and be made again with another one.
    lock_file_ = Descriptor();
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
    const StoredMeasurement found{std::string(host), std::string(op), measurement_of(*find_, 0), 0};
    find_->step();  // to its end, so that it holds no lock
    if (!unsound(found).empty()) return std::nullopt;
    return found.measurement;
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
          db_,
          "INSERT OR REPLACE INTO measurement(host, op, taken_at, seconds, spread, samples, "
          "threads, implementation, onednn, share, error, budget_s, substituted, unsupported, "
          "stalled_share, read_bytes_per_s, f32_flops_per_s, bf16_flops_per_s, expected_s) "
          "VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
    }
    const Measurement& m = stored.measurement;
    put_->bind(id, std::string_view(stored.op), stored.taken_at, m.seconds, m.spread,
               std::int64_t{m.samples}, std::int64_t{m.threads}, std::string_view(m.implementation),
               std::string_view(m.onednn_version), m.share, m.error, m.budget_s,
               std::string_view(m.substituted), std::string_view(m.unsupported), m.stalled_share,
               m.pace.read_bytes_per_s, m.pace.f32_flops_per_s, m.pace.bf16_flops_per_s,
               m.expected_s);
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

  /// Begins a new file in the place of one that is not usable.
  void begin_anew(const std::string& reason) {
    if (use_ == Use::look) fail_damaged(reason);
    // A new file that is broken at once says something of the disk.
    if (!warning_.empty()) fail_store(path_, printable(reason));
    const std::string aside = set_aside();
    close();
    if (aside.empty()) return;  // another process was faster
    warning_ =
        fmt::format("{} is no sound measurement store of this version ({}); it was renamed to {}",
                    printable(path_, 4096), printable(reason), printable(aside, 4096));
  }

  [[noreturn]] void fail_damaged(const std::string& reason) const {
    throw Error(fmt::format("{} is damaged: {}", printable(path_, 4096), printable(reason)),
                "'tcast store clear' begins anew; what was measured is lost");
  }

 private:
  /// Before anything is made: whether the file is, or may become, a store.
  void prepare() {
    if (db_ != nullptr) return;
    switch (state_of_store(path_)) {
      case StoreState::foreign:
        refuse_foreign();
      case StoreState::newer:
        fail_store(path_, fmt::format("it was written by a newer tcast, whose stores this one "
                                      "(layout {}) cannot read",
                                      layout_version));
      case StoreState::absent:
        if (use_ == Use::look) fail_store(path_, "no such store");
        make_folders();
        break;
      case StoreState::usable:
      case StoreState::damaged:
      case StoreState::older:
        break;
    }
    const std::string lock_file = lock_file_of(path_);
    constexpr int flags = O_CLOEXEC | O_NONBLOCK;
    int file = use_ == Use::keep ? ::open(lock_file.c_str(), O_RDWR | O_CREAT | flags, 0666) : -1;
    if (file < 0) file = ::open(lock_file.c_str(), O_RDONLY | flags);
    lock_file_ = Descriptor(file);
  }

  void open_file() {
    if (db_ != nullptr) return;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
    if (use_ == Use::keep) flags |= SQLITE_OPEN_CREATE;
    const int result = sqlite3_open_v2(path_.c_str(), &db_, flags, nullptr);
    if (result != SQLITE_OK) {
      const std::string reason = db_ != nullptr ? sqlite3_errmsg(db_) : "no memory";
      sqlite3_close(db_);
      db_ = nullptr;
      fail_store(path_, reason);
    }
    sqlite3_busy_timeout(db_, busy_ms);
    if (is_store()) return;
    if (use_ == Use::look) require_known();
    change([this] {
      if (is_store()) return;  // another process was faster
      require_known();
      for (const char* table : tables) run(table);
      run(fmt::format("PRAGMA application_id = {}", application_id));
      run(fmt::format("PRAGMA user_version = {}", layout_version));
    });
  }

  void make_folders() const {
    std::error_code error;
    const fs::path folder = fs::path(path_).parent_path();
    if (!folder.empty()) fs::create_directories(folder, error);
    if (error) fail_store(folder.string(), error.message());
  }

  bool is_store() {
    return number("PRAGMA application_id") == application_id &&
           number("PRAGMA user_version") == layout_version;
  }

  /// Throws for what is not empty and no store of this version.
  void require_known() {
    if (number("PRAGMA application_id") == application_id) {
      throw Unusable{number("PRAGMA user_version") > 0 ? "it was made by an older version"
                                                       : "it has lost its version"};
    }
    if (number("PRAGMA application_id") != 0 || number("SELECT count(*) FROM sqlite_schema") > 0) {
      refuse_foreign();
    }
  }

  [[noreturn]] void refuse_foreign() {
    close();
    throw Error(fmt::format("{} is no measurement store of tcast, and is left as it is",
                            printable(path_, 4096)),
                store_hint);
  }

  /// Renames the open file, and what SQLite keeps beside it; returns the new name. Nothing, when
  /// another process has done so: the name then belongs to another file, which must stay.
  std::string set_aside() {
    // Nobody is within a call meanwhile. SQLite finds a journal by the name of its database: who
    // went on with the old file would take the new one's journal for its own.
    const NameLock lock(lock_file_, F_WRLCK);
    if (db_ == nullptr || has_moved(db_)) return {};
    if (lock.is_refused()) fail_store(path_, "it is damaged, and belongs to another user");
    std::string name = free_name();
    std::error_code error;
    for (const char* suffix : {"-journal", "-wal", "-shm"}) {
      fs::rename(path_ + suffix, name + suffix, error);
    }
    fs::rename(path_, name, error);
    if (error) {
      fail_store(path_, fmt::format("it is damaged, and cannot be renamed: {}", error.message()));
    }
    return name;
  }

  std::string free_name() const {
    for (int i = 1;; ++i) {
      std::string name = fmt::format("{}.set-aside-{}", path_, i);
      struct stat status {};
      if (lstat(name.c_str(), &status) != 0) return name;
    }
  }

  std::string path_;
  Use use_;
  std::string warning_;
  Descriptor lock_file_;
  sqlite3* db_ = nullptr;
  std::unique_ptr<Statement> find_;
  std::unique_ptr<Statement> put_;
  std::vector<StoredMeasurement> pending_;
  double flushed_s_ = now_s();
};

MeasurementStore::MeasurementStore(const std::string& path, Use use)
    : impl_(std::make_unique<Impl>(path, use)) {
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
                       "UPDATE host SET read_bytes_per_s = ?, f32_flops_per_s = ?, "
                       "bf16_flops_per_s = ?, canary_drift = ?, others_cpu_share = ?, "
                       "best_read_bytes_per_s = max(coalesce(best_read_bytes_per_s, 0), ?), "
                       "best_f32_flops_per_s = max(coalesce(best_f32_flops_per_s, 0), ?), "
                       "best_bf16_flops_per_s = max(coalesce(best_bf16_flops_per_s, 0), ?) "
                       "WHERE id = ?");
      update.bind(session.speed.read_bytes_per_s, session.speed.f32_flops_per_s,
                  session.speed.bf16_flops_per_s, session.canary_drift, session.others_cpu_share,
                  session.best_pace.read_bytes_per_s, session.best_pace.f32_flops_per_s,
                  session.best_pace.bf16_flops_per_s, id);
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

void MeasurementStore::put_all(const std::vector<StoredMeasurement>& list) {
  impl_->use([&] {
    impl_->change([&] {
      for (const StoredMeasurement& stored : list) impl_->write(stored);
    });
  });
}

void MeasurementStore::require_writable() {
  impl_->use([&] {
    impl_->change([&] { impl_->run(fmt::format("PRAGMA user_version = {}", layout_version)); });
  });
}

std::int64_t MeasurementStore::clear() {
  if (const std::string broken = check(); !broken.empty()) impl_->begin_anew(broken);
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

void MeasurementStore::require_sound() const {
  if (const std::string broken = check(); !broken.empty()) impl_->fail_damaged(broken);
}

MeasurementStore::Turn::~Turn() {
  if (file_ >= 0) ::close(file_);
}

MeasurementStore::Turn MeasurementStore::take_turn(const std::function<void()>& waits) const {
  const std::string name = lock_file_of(path());
  const int file = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
  if (file < 0) fail_system(name, errno);
  Turn turn(file);
  while (!lock_byte(file, Agreement::turn, F_WRLCK, false)) {
    if (errno != EAGAIN && errno != EACCES) break;  // no locks here: then there are no turns
    if (waits) waits();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return turn;
}

}  // namespace tcast
