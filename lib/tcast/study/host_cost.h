#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "tcast/cost/roofline.h"
#include "tcast/device/device_profile.h"
#include "tcast/exec/timing/timer.h"

namespace tcast {

/// Remembers every distinct op that it is asked about and answers with the fallback's estimate:
/// what a forecast needs, before anything is timed.
class RecordingCostModel final : public CostModel {
 public:
  explicit RecordingCostModel(const CostModel& fallback) : fallback_(fallback) {}

  OpEstimate estimate(const OpRecord& record) const override;
  std::string explain(const OpRecord& record) const override { return fallback_.explain(record); }

  const std::vector<OpRecord>& records() const { return records_; }

 private:
  const CostModel& fallback_;
  mutable std::unordered_map<std::string, std::size_t> seen_;
  mutable std::vector<OpRecord> records_;
};

/// Times measured on this host where there are any, else the fallback's estimate.
class MeasuredCostModel final : public CostModel {
 public:
  /// `measurements` in the order of `records`; `op_overhead_s` is what executing an op takes beside
  /// its kernel.
  MeasuredCostModel(const CostModel& fallback, const std::vector<OpRecord>& records,
                    const std::vector<Measurement>& measurements, double op_overhead_s);

  OpEstimate estimate(const OpRecord& record) const override;
  std::string explain(const OpRecord& record) const override;

  /// Adds times of further ops.
  void add(const std::vector<OpRecord>& records, const std::vector<Measurement>& measurements);

  /// The measurement behind an op's estimate, or null.
  const Measurement* find(const OpRecord& record) const;

 private:
  const CostModel& fallback_;
  std::unordered_map<std::string, Measurement> measurements_;
  double op_overhead_s_;
};

/// The measured times at one end of their ranges.
class RangeCostModel final : public CostModel {
 public:
  /// `end`: TimeRange::low_s or high_s; `best`: the best pace that is known of the host.
  RangeCostModel(const MeasuredCostModel& measured, double TimeRange::*end, const Pace& best)
      : measured_(measured), end_(end), best_(best) {}

  OpEstimate estimate(const OpRecord& record) const override;
  std::string explain(const OpRecord& record) const override { return measured_.explain(record); }

 private:
  const MeasuredCostModel& measured_;
  double TimeRange::*end_;
  Pace best_;
};

/// This host as a device: what its canary measured, without an interconnect.
DeviceProfile host_device(const HostFeatures& features, const HostSpeed& speed);

}  // namespace tcast
