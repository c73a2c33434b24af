#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tcast/exec/timing/host.h"
#include "tcast/exec/timing/timer.h"

namespace tcast {

/// A kept measurement: where it holds, of what, and when it was taken.
struct StoredMeasurement {
  std::string host;  ///< host_key()
  std::string op;    ///< name and description
  Measurement measurement;
  std::int64_t taken_at = 0;  ///< seconds since 1970, UTC
};

/// The last session of timings under one host key: how fast the machine was, and how disturbed. How
/// each measurement came about is kept with the measurement.
struct StoredSession {
  HostSpeed speed;
  double canary_drift = 0;
  double others_cpu_share = 0;
  Pace best_pace{};  ///< of all sessions: what kept measurements are judged by
};

/// What a store holds for one host key.
struct StoredHost {
  std::string host;
  std::int64_t measurements = 0;
  std::int64_t newest = 0;  ///< seconds since 1970, UTC
  std::optional<StoredSession> session;
};

/// Whether a measurement may stand for a time: finite numbers in their ranges, and a name of what
/// was timed where. Empty, or what is wrong with it.
std::string unsound(const StoredMeasurement& stored);

/// What a file is for somebody who wants to use it as a store.
enum class StoreState {
  absent,   ///< nothing there, or an empty file
  usable,   ///< a store of this version; that it is sound shows when it is read
  damaged,  ///< a store that has lost its version
  older,    ///< of a version that is not read any more
  newer,    ///< of a version that this program does not know yet
  foreign,  ///< something else: a database of another program, another file, a folder, a pipe
};

/// Looks at the file's first bytes, and changes nothing. Throws Error when it cannot be read.
StoreState state_of_store(const std::string& path);

/// Measurements that outlive the process: one SQLite file, used by any number of processes at a
/// time. Every change is a transaction, so that a process killed at any moment leaves a sound file.
/// All members throw Error, with the file's name, when the file cannot be read or written. A file
/// that is renamed or removed by another process meanwhile is opened, or made, anew.
class MeasurementStore {
 public:
  enum class Use {
    look,  ///< only reads; the file must be there, and a damaged one is an Error
    keep,  ///< also writes
  };

  /// With Use::keep the file is made, with the folders above it, when it is absent, and a store
  /// that is damaged (also when that shows only later) or older is renamed ("FILE.set-aside-1") and
  /// a new one made: by one process, whatever many find the damage. Everything else stays
  /// untouched: it is an Error, and so is a newer store.
  explicit MeasurementStore(const std::string& path, Use use = Use::keep);
  MeasurementStore(const MeasurementStore&) = delete;
  MeasurementStore& operator=(const MeasurementStore&) = delete;
  ~MeasurementStore();

  const std::string& path() const;
  /// What was set aside and why, or nothing.
  const std::string& warning() const;

  /// Writes a page for nothing: throws Error when measurements could not be kept. Called before
  /// they are taken.
  void require_writable();

  /// Nothing for a measurement that is unsound().
  std::optional<Measurement> find(std::string_view host, std::string_view op) const;
  /// Keeps a measurement in the place of an older one. Written for good by flush(), which is also
  /// called now and then, and by the destructor.
  void put(std::string_view host, std::string_view op, const Measurement& measurement);
  void flush();

  std::optional<StoredSession> session(std::string_view host) const;
  void put_session(std::string_view host, const StoredSession& session);

  std::vector<StoredHost> hosts() const;
  /// In the order of host and op.
  void for_each(const std::function<void(const StoredMeasurement&)>& visit) const;
  /// Keeps all of them, or none.
  void put_all(const std::vector<StoredMeasurement>& list);
  /// Forgets everything; returns how many measurements that were. A damaged store is set aside.
  std::int64_t clear();
  /// Reads the whole file; what SQLite finds wrong with it, or nothing.
  std::string check() const;
  /// Throws Error when check() finds something.
  void require_sound() const;

  /// Held while ops are timed, by one process at a time, so that processes do not measure each
  /// other. The system releases it when its process ends, however it ends.
  class Turn {
   public:
    Turn(Turn&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
    Turn& operator=(Turn&&) = delete;
    ~Turn();

   private:
    friend class MeasurementStore;
    explicit Turn(int file) : file_(file) {}
    int file_;
  };
  /// Waits for the turn. `waits`, if set, is called every 0.1 s while another process has it.
  Turn take_turn(const std::function<void()>& waits) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tcast
