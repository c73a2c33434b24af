#include "tcast/study/host_timing.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/interrupt.h"
#include "tcast/base/text.h"
#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/run/executor_overhead.h"
#include "tcast/exec/timing/host_key.h"
#include "tcast/exec/timing/measurement_store.h"

namespace tcast {
namespace {

/// Under what the executor's overhead is kept, beside the ops.
constexpr const char* overhead_key = "executor overhead per op";

/// Whether a kept measurement is as good as one that would be taken now.
bool is_good_enough(const Measurement& kept, double budget_s) {
  constexpr int enough_samples = 3;
  if (!kept.supported()) return true;
  if (!kept.scaled && kept.samples >= enough_samples) return true;
  return kept.budget_s >= budget_s;
}

/// One session: what is known, and what is still to be timed.
class Session {
 public:
  Session(const std::vector<OpRecord>& records, const HostTimingOptions& options)
      : records_(records), options_(options) {
    result_.host = host_features();
    result_.threads = options.timer.threads > 0 ? options.timer.threads : result_.host.threads;
    key_ = host_key(result_.threads) + options.thread_settings;
    result_.measurements.resize(records.size());
    for (std::size_t i = 0; i < records.size(); ++i) {
      std::vector<std::size_t>& equal = places_[signature_of(records[i])];
      if (equal.empty()) missing_.push_back(i);
      equal.push_back(i);
    }
    open_store();
  }

  HostTimings run() {
    look_up();
    if (!doubtful_.empty() && options_.quiet(result_.best_pace, result_.threads)) {
      retimes_ = true;
      look_up();
    }
    if (!is_complete()) time();
    for (const auto& [name, places] : places_) {
      if (result_.measurements[places.front()].supported()) ++result_.timed;
      for (const std::size_t place : places) {
        result_.measurements[place] = result_.measurements[places.front()];
      }
    }
    with_store([](MeasurementStore& store) { store.flush(); });
    if (store_ && !store_->warning().empty()) result_.warnings.push_back(store_->warning());
    return std::move(result_);
  }

 private:
  bool is_named() const { return !options_.store.file.empty(); }

  void open_store() {
    if (!options_.store.enabled) return;
    const std::string file = is_named() ? options_.store.file : options_.store.default_file;
    if (file.empty()) {
      result_.warnings.emplace_back(
          "measurements are not kept: neither XDG_CACHE_HOME nor HOME names a directory");
      return;
    }
    or_without_store([&] {
      store_ = std::make_unique<MeasurementStore>(file);
      result_.store_file = file;
    });
  }

  /// Does what needs the store. One that fails is an Error when the user named it; the default one
  /// is a convenience: work goes on without it, after one warning.
  template <class Work>
  void or_without_store(const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      if (is_named()) throw;
      result_.warnings.push_back(fmt::format("measurements are not kept: {}", error.what()));
      store_.reset();
    }
  }

  template <class Work>
  void with_store(const Work& work) {
    if (store_) or_without_store([&] { work(*store_); });
  }

  /// Sorts the ops into those whose times are kept, those whose kept times are disturbed, and those
  /// that are missing.
  void look_up() {
    with_store([this](MeasurementStore& store) {
      if (const auto session = store.session(key_)) {
        result_.speed = session->speed;
        result_.best_pace = session->best_pace;
      }
      if (const auto overhead = store.find(key_, overhead_key)) {
        result_.op_overhead_s = overhead->seconds;
      }
      missing_.clear();
      doubtful_.clear();
      result_.kept = 0;
      for (const auto& [name, equal] : places_) {
        const std::size_t i = equal.front();
        const std::optional<Measurement> kept = store.find(key_, name);
        if (!kept || !is_good_enough(*kept, options_.timer.time_budget_s)) {
          missing_.push_back(i);
          continue;
        }
        result_.measurements[i] = *kept;
        const bool is_doubtful = !disturbance(*kept, result_.best_pace).empty();
        if (is_doubtful && retimes_) {
          missing_.push_back(i);
          continue;
        }
        ++result_.kept;
        if (is_doubtful) doubtful_.push_back(i);
      }
      std::sort(missing_.begin(), missing_.end());
    });
  }

  /// Whether a new time is worth more than a kept one that was disturbed.
  bool is_better(const Measurement& fresh, const Measurement& kept) const {
    if (!fresh.supported() || !kept.supported() || kept.seconds == 0) return true;
    if (disturbance(fresh, result_.best_pace).empty()) return true;
    const auto width = [this](const Measurement& m) {
      const TimeRange range = range_of(m, result_.best_pace);
      return range.high_s / std::max(1e-12, range.low_s);
    };
    return width(fresh) < width(kept);
  }

  bool is_complete() const {
    return missing_.empty() && result_.op_overhead_s > 0 && result_.speed.read_bytes_per_s > 0;
  }

  void time() {
    const InterruptGuard interrupts;
    std::unique_ptr<TimingProgress> progress;
    if (options_.progress) progress = options_.progress();
    std::optional<MeasurementStore::Turn> turn;
    with_store([&](MeasurementStore& store) {
      store.require_writable();
      bool waited = false;
      turn.emplace(store.take_turn([&] {
        throw_if_interrupted();
        waited = true;
        if (progress) progress->show("waiting for another tcast that is timing");
      }));
      // What the other one has timed need not be timed again.
      if (waited) look_up();
    });
    if (is_complete()) return;
    TimerOptions settings = options_.timer;
    settings.best_pace = result_.best_pace;
    settings.poll = throw_if_interrupted;
    OpTimer timer(settings);
    result_.speed = timer.speed();
    result_.op_overhead_s = measure_executor_overhead_s();
    keep_overhead(timer);
    std::vector<OpRecord> records;
    for (const std::size_t i : missing_) records.push_back(records_[i]);
    TimerObserver observer;
    observer.progress = [&](std::size_t done, std::size_t total, std::string_view what,
                            double left_s) {
      throw_if_interrupted();
      if (progress) progress->show(done, total, what, left_s);
    };
    observer.measured = [&](std::size_t index, const Measurement& measurement) {
      if (!is_better(measurement, result_.measurements[missing_[index]])) return;
      with_store([&](MeasurementStore& store) {
        store.put(key_, signature_of(records[index]), measurement);
      });
    };
    const std::vector<Measurement> timed = timer.measure_all(records, observer);
    for (std::size_t i = 0; i < timed.size(); ++i) {
      Measurement& known = result_.measurements[missing_[i]];
      if (is_better(timed[i], known)) known = timed[i];
    }
    result_.memory_used_bytes = timer.memory_used_bytes();
    result_.conditions = timer.conditions();
    result_.best_pace = faster(result_.best_pace, result_.conditions->best_pace);
    with_store([&](MeasurementStore& store) {
      store.put_session(key_, {timer.speed(), result_.conditions->canary_drift,
                               result_.conditions->others_cpu_share, result_.best_pace});
    });
  }

  void keep_overhead(const OpTimer& timer) {
    Measurement overhead;
    overhead.seconds = result_.op_overhead_s;
    overhead.samples = 1;
    overhead.threads = timer.threads();
    overhead.implementation = "tcast";
    overhead.onednn_version = onednn_version();
    with_store([&](MeasurementStore& store) { store.put(key_, overhead_key, overhead); });
  }

  const std::vector<OpRecord>& records_;
  const HostTimingOptions& options_;
  std::string key_;
  HostTimings result_;
  std::map<std::string, std::vector<std::size_t>> places_;  ///< of equal records
  std::vector<std::size_t> missing_;
  std::vector<std::size_t> doubtful_;  ///< kept, but disturbed
  bool retimes_ = false;               ///< those as well
  std::unique_ptr<MeasurementStore> store_;
};

/// The time of an op from those of the ops that were timed in its place.
Measurement combined(const std::vector<WeightedOp>& parts, const Measurement* timed) {
  Measurement all = timed[parts.size() - 1];
  if (parts.size() == 1 && parts[0].weight == 1) return all;
  all.seconds = 0;
  double expected_s = 0;
  bool is_odd = false;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (!timed[i].supported()) return timed[i];
    all.seconds += parts[i].weight * timed[i].seconds;
    all.spread = std::max(all.spread, timed[i].spread);
    all.samples = std::min(all.samples, timed[i].samples);
    all.scaled = all.scaled || timed[i].scaled;
    all.share = std::min(all.share, timed[i].share);
    all.error = std::max(all.error, timed[i].error);
    all.stalled_share = std::max(all.stalled_share, timed[i].stalled_share);
    expected_s +=
        parts[i].weight * (timed[i].expected_s > 0 ? timed[i].expected_s : timed[i].seconds);
    is_odd = is_odd || timed[i].expected_s > 0;
  }
  all.expected_s = is_odd ? expected_s : 0;
  const double most = std::get<GroupedMatMul>(parts.back().record).distinct_experts;
  all.between = fmt::format("{:.0f} and {:.0f} distinct experts", most - 1, most);
  return all;
}

}  // namespace

HostTimings time_on_host(const std::vector<OpRecord>& records, const HostTimingOptions& options) {
  std::vector<std::vector<WeightedOp>> parts;
  std::vector<OpRecord> timed;
  for (const OpRecord& record : records) {
    for (const WeightedOp& part : parts.emplace_back(timed_in_place_of(record))) {
      timed.push_back(part.record);
    }
  }
  HostTimings result = Session(timed, options).run();
  std::vector<Measurement> measurements;
  const Measurement* next = result.measurements.data();
  for (const std::vector<WeightedOp>& of_record : parts) {
    measurements.push_back(combined(of_record, next));
    next += of_record.size();
  }
  result.measurements = std::move(measurements);
  return result;
}

}  // namespace tcast
